"""The strokes on paper as people photograph and scan it."""

import cv2
import numpy as np
import pytest

from jaxmnist.data import strokes
from jaxmnist.data.pieces import Blank
from tests.data.test_paper import SEVEN, overlap, page
from tests.data.test_pieces import drawn
from tests.data.test_printed import ruled

INK = drawn(SEVEN, width=12)


def lined(levels):
    return np.where(ruled(angle=2)[..., None] > 0.5, np.minimum(levels, 150), levels)


def shadow(levels):
    y, x = np.mgrid[0:200, 0:300]
    return np.where((x + 0.4 * y > 190)[..., None], levels * 0.45, levels)


def scanned(levels):
    levels[:, :14] = levels[-6:] = 3
    return levels


def framed(levels):
    levels[:2] = levels[-2:] = levels[:, :2] = levels[:, -2:] = 40
    return levels


def on_table(levels):
    large = np.full((320, 460, 3), 50.0)
    large[60:260, 80:380] = levels
    return large


def speckled(levels):
    levels[20:23, 260:263] = 255
    levels[150:154, 30:34] = 0
    return levels


def noisy(levels):
    return levels + np.random.default_rng(0).normal(0, 12, levels.shape)


def thumb(levels):
    cv2.ellipse(levels, (270, 200), (22, 40), 0, 0, 360, (150, 100, 80), -1)
    return levels


def seen(levels):
    found = strokes.find(np.clip(levels, 0, 255).astype(np.uint8))
    return found, (found.ink > 0.5) & (found.pieces.labels > 0)


@pytest.mark.parametrize(
    "change", [lined, shadow, scanned, framed, on_table, speckled, noisy, thumb]
)
@pytest.mark.parametrize("grey", [255, 190])
def test_strokes_are_found_and_nothing_else(change, grey):
    found, is_ink = seen(change(page(INK, on=(grey,) * 3).astype(np.float32)))
    wanted = INK > 0.5
    if change is on_table:
        wanted = np.pad(wanted, ((60, 60), (80, 80)))
    assert overlap(is_ink, wanted) > 0.8
    assert len(found.pieces) == 1
    assert found.width == pytest.approx(12, rel=0.3)


@pytest.mark.parametrize("make", [lined, shadow, scanned, on_table, noisy, np.array])
def test_without_strokes_it_is_blank(make):
    levels = make(np.full((200, 300, 3), 235, np.float32))
    with pytest.raises(Blank, match="it is blank"):
        seen(levels)


def test_small_digits_on_a_large_page_are_found():
    levels = np.full((900, 1200, 1), 240, np.float32)
    cv2.polylines(levels, [np.array([(600, 400), (620, 400), (606, 430)])], False, 30, 3)
    found, is_ink = seen(levels)
    assert len(found.pieces) == 1
    assert found.pieces.longer[0] == pytest.approx(33, abs=4)
    assert is_ink.sum() > 100


def test_ink_at_the_edge_counts_only_where_there_is_no_other():
    levels = np.full((200, 300, 1), 240, np.float32)
    cv2.line(levels, (299, 60), (230, 150), 20, 10)
    assert len(seen(levels)[0].pieces) == 1
    cv2.line(levels, (60, 60), (100, 150), 20, 10)
    found, _ = seen(levels)
    assert [int(x) for x in found.pieces.boxes[:, 0]] == [pytest.approx(55, abs=3)]


def test_a_half_in_the_sun_is_no_sheet():
    """Strokes that go on into the shadow are whole."""
    levels = page(INK).astype(np.float32)
    levels[120:] *= 0.4
    _, is_ink = seen(levels)
    assert overlap(is_ink, INK > 0.5) > 0.8


def test_pieces_are_cut_out_without_others():
    ink = drawn([(50, 50), (60, 140)], [(80, 50), (90, 140)], width=8)
    found, _ = seen(page(ink))
    assert len(found.pieces) == 2
    for i, x in enumerate((55, 85)):
        part, left, top = strokes.cut_out(found, [i])
        columns = np.flatnonzero((part > 0.5).any(0)) + left
        assert columns.mean() == pytest.approx(x, abs=2)
        assert top == pytest.approx(46 - 3, abs=4)
    both, _, _ = strokes.cut_out(found, [0, 1])
    assert both.sum() == pytest.approx(2 * part.sum(), rel=0.1)


def test_a_dot_below_is_told_of_and_specks_elsewhere_are_not():
    hook = drawn([(120, 60), (150, 45), (175, 65), (150, 100), (148, 125)], width=12)
    assert not seen(page(hook))[0].is_dot.any()
    with_speck, with_dot = hook.copy(), hook.copy()
    cv2.circle(with_speck, (250, 150), 7, 1.0, -1)
    cv2.circle(with_dot, (148, 152), 8, 1.0, -1)
    assert not seen(page(with_speck))[0].is_dot.any()
    found = seen(page(with_dot))[0]
    assert found.is_dot.tolist() == [False, True]
