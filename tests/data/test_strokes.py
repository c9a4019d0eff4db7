"""The strokes on paper as people photograph and scan it."""

import contextlib

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


@pytest.mark.parametrize("slope", [0.4, 0.7, 1.2])
@pytest.mark.parametrize("dark", [0.45, 0.7])
def test_a_shadows_corner_is_no_stroke(slope, dark):
    y, x = np.mgrid[0:400, 0:500]
    light = (0.6 + 0.4 * x / 500) * np.where(x + slope * y > 0.75 * (500 + 400 * slope), dark, 1)
    with pytest.raises(Blank, match="it is blank"):
        seen(235 * light[..., None].repeat(3, axis=-1))


@pytest.mark.parametrize("blur", [8, 16, 24])
def test_a_large_digit_far_out_of_focus_is_found(blur):
    large = cv2.resize(INK, (600, 400))
    blurred = cv2.GaussianBlur(large, (0, 0), blur)
    _, is_ink = seen(page(blurred).astype(np.float32))
    small = cv2.resize(blurred, is_ink.shape[::-1])
    level = (small**2).sum() / small.sum()
    assert overlap(is_ink, small > 0.5 * level) > 0.7


def test_of_a_small_picture_strokes_at_the_edge_are_kept():
    levels = np.full((28, 28, 1), 255, np.float32)
    cv2.line(levels, (8, 3), (25, 2), 0, 2)
    cv2.polylines(levels, [np.array([(7, 6), (3, 12), (14, 18), (10, 26), (0, 22)])], False, 0, 3)
    wanted = levels[..., 0] < 128
    _, is_ink = seen(levels)
    assert overlap(is_ink, wanted) > 0.9


def test_digits_that_fill_a_small_picture_are_found_whole(test_split):
    """A 1 would become a block."""
    shown = test_split.images[test_split.labels != 1, ..., 0][:200]
    shares = []
    for image in shown:
        rows, columns = (np.flatnonzero((image > 16).any(axis)) for axis in (1, 0))
        cut = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        wanted = cv2.resize(cut, (28, 28))
        shares.append(0)
        with contextlib.suppress(Blank):
            _, is_ink = seen(wanted[..., None])
            shares[-1] = (is_ink & (wanted > 128)).sum() / (wanted > 128).sum()
    assert np.mean(np.array(shares) > 0.9) > 0.97


def test_a_chequered_picture_is_blank_without_a_warning():
    y, x = np.indices((1000, 1000)) // 4
    squares = (x + y) % 2 * 255.0
    with pytest.raises(Blank, match="it is blank"):
        seen(squares[..., None])


def test_small_digits_on_a_large_page_are_found():
    levels = np.full((900, 1200, 1), 240, np.float32)
    cv2.polylines(levels, [np.array([(600, 400), (620, 400), (606, 430)])], False, 30, 3)
    found, is_ink = seen(levels)
    assert len(found.pieces) == 1
    assert found.pieces.longer[0] == pytest.approx(33, abs=4)
    assert is_ink.sum() > 100


def test_ink_at_the_edge_counts_only_where_there_is_no_other():
    levels = np.full((200, 300, 1), 240, np.float32)
    cv2.line(levels, (299, 20), (230, 180), 20, 10)
    assert len(seen(levels)[0].pieces) == 1
    cv2.line(levels, (60, 60), (100, 150), 20, 10)
    found, _ = seen(levels)
    assert [int(x) for x in found.pieces.boxes[:, 0]] == [pytest.approx(55, abs=3)]


@pytest.mark.parametrize("margin", [0, 1, 2, 5])
def test_a_number_may_be_cut_out_up_to_its_digits(margin):
    ring = np.zeros((90, 70), np.float32)
    cv2.ellipse(ring, (35, 45), (25, 40), 0, 0, 360, 1.0, 9)
    low = cv2.resize(ring[:, 1:-1], (60, 86))
    low = np.pad(low, ((3, 1), (0, 0)))
    one = np.zeros((90, 40), np.float32)
    one[2:88, 14:23] = 1
    number = np.pad(np.hstack([ring[:, 5:], low, one, ring[:, :-5]]), margin)
    found, is_ink = seen(page(number).astype(np.float32))
    assert overlap(is_ink, number > 0.5) > 0.8
    assert len(found.pieces) == 4


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
