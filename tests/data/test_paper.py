"""Paper and its ink, in any light and colour."""

import cv2
import numpy as np
import pytest

from jaxmnist.data import paper
from tests.data.test_pieces import drawn

SEVEN = [(90, 50), (190, 50), (120, 170)]


def page(ink, colour=(20, 20, 30), on=(240, 240, 235)):
    """Ink of a colour on paper of another, RGB."""
    mix = np.array(on)[None, None] + (np.array(colour) - np.array(on))[None, None] * ink[..., None]
    return np.round(mix).astype(np.uint8)


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("is_dark", [True, False])
@pytest.mark.parametrize("width", [3, 8, 26])
def test_ink_is_dark_or_light(is_dark, width):
    ink = drawn(SEVEN, width=width)
    levels = page(ink) if is_dark else page(ink, (235, 235, 235), (30, 40, 30))
    plane = paper.choose_plane(levels)
    assert plane.is_dark == is_dark
    missing, noise = paper.missing_light(plane, min(ink.shape) / 3)
    assert noise < 0.01
    assert overlap(missing > missing.max() / 2, ink > 0.5) > 0.85


@pytest.mark.parametrize(
    ("ink", "on"),
    [
        ((200, 40, 40), (30, 117, 50)),
        ((250, 240, 60), (255, 255, 255)),
        ((60, 60, 250), (230, 220, 40)),
    ],
)
def test_colours_tell_ink_from_paper_of_the_same_grey(ink, on):
    strokes = drawn(SEVEN)
    plane = paper.choose_plane(page(strokes, ink, on))
    missing, _ = paper.missing_light(plane, min(strokes.shape) / 3)
    assert missing.max() > 0.3
    assert overlap(missing > missing.max() / 2, strokes > 0.5) > 0.85


def test_shadows_are_no_ink():
    ink = drawn(SEVEN)
    levels = page(ink).astype(float)
    levels[:, 140:] *= 0.45  # A hard shadow's edge crosses the strokes.
    levels *= np.linspace(1, 0.7, 200)[:, None, None]
    plane = paper.choose_plane(np.round(levels).astype(np.uint8))
    missing, _ = paper.missing_light(plane, min(ink.shape) / 3)
    assert overlap(missing > 0.4, ink > 0.5) > 0.8


def table(angle, size=(220, 150), level=60):
    """A white sheet on a dark table, and where it lies."""
    mask = np.zeros((300, 400), np.uint8)
    corners = cv2.boxPoints(((200, 150), size, angle)).astype(np.int32)
    cv2.fillPoly(mask, [corners], 1)
    levels = np.where(mask, 235, level).astype(np.uint8)
    cv2.line(levels, (180, 120), (190, 180), 20, 6)
    return levels[..., None], mask > 0


@pytest.mark.parametrize("angle", [0, 7, -12])
def test_a_sheet_on_a_table_is_found(angle):
    levels, mask = table(angle)
    sheet, is_whole = paper.find_sheet(levels)
    assert overlap(sheet, mask) > 0.9
    assert is_whole


def test_what_is_no_sheet():
    ink = drawn(SEVEN, width=26)
    y, x = np.mgrid[0:200, 0:300]
    vignette = np.hypot(x - 150, y - 100)[..., None]
    for levels in (
        page(ink),
        page(ink, (240, 240, 240), (10, 10, 10)),
        np.clip(page(ink) * (1 - vignette / 300), 0, 255).astype(np.uint8),
        np.full((200, 300, 3), 255, np.uint8),
        np.full((20, 30, 1), 255, np.uint8),
    ):
        assert paper.find_sheet(levels)[0] is None


def test_reducing_gives_means():
    levels = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert paper.reduce(levels, 8) is levels
    assert paper.reduce(levels, 4)[0, 0, 0] in (4, 5)  # The mean of 0, 1, 8 and 9.
    assert paper.reduce(levels[..., 0], 4).shape == (4, 4)


def test_salt_and_pepper_are_no_ink():
    rng = np.random.default_rng(0)
    ink = drawn(SEVEN)
    levels = page(ink)[..., :1]
    hit = rng.random(ink.shape) < 0.04
    levels[hit] = rng.choice([0, 255], (hit.sum(), 1))
    missing, _ = paper.missing_light(paper.choose_plane(levels), min(ink.shape) / 3)
    assert overlap(missing > 0.5, ink > 0.5) > 0.75
