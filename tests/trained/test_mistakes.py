"""The most confident mistakes, and the picture of them."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxmnist.data.datasets import Split
from jaxmnist.trained import mistakes

NAMES = [str(digit) for digit in range(10)]


def test_the_most_confident_mistakes_come_first():
    labels, classes = np.array([1, 2, 3, 4, 5]), np.array([1, 3, 4, 4, 6])
    confidence = np.array([0.99, 0.6, 0.9, 0.99, 0.7])
    assert mistakes.most_confident(labels, classes, confidence).tolist() == [2, 4, 1]


def test_each_cell_has_its_share_of_what_is_kept():
    rng = np.random.default_rng(0)
    labels, classes = rng.integers(47, size=(2, 9000))
    labels[:500], classes[:500] = 1, 2  # One cell with many, the most confident.
    confidence = np.linspace(1, 0, 9000)
    kept = mistakes.of_each_cell(labels, classes, confidence)
    assert len(kept) == mistakes.MOST
    assert kept.tolist() == sorted(kept)  # By confidence.
    np.testing.assert_array_equal(kept[: mistakes.COUNT], np.arange(mistakes.COUNT))
    cells = np.unique(np.stack([labels, classes])[:, kept], axis=1)
    assert cells.shape[1] > mistakes.MOST - 2 * mistakes.COUNT
    few = mistakes.of_each_cell(labels[:500], classes[:500], confidence[:500])
    assert mistakes.MOST_ALIKE <= len(few) <= mistakes.MOST_ALIKE + mistakes.COUNT
    assert mistakes.of_each_cell(labels, labels, confidence).tolist() == []


def test_the_picture_tells_where_each_of_the_most_confident_is(test_split):
    wrong, count = (test_split.labels + 1) % 10, len(test_split)
    asked = []
    told = (test_split, wrong, np.linspace(0, 1, count), NAMES)
    data = mistakes.grid(*told, locate=lambda i: asked.append(i) or f"test[{i}]")
    assert asked == list(range(count - 1, count - 1 - mistakes.COUNT, -1))
    assert _open(data).shape[0] > _open(mistakes.grid(*told)).shape[0]


def test_the_picture_shows_the_digits_that_were_taken_for_others(test_split):
    labels = test_split.labels
    classes = np.where(np.arange(len(labels)) < 7, (labels + 1) % 10, labels)
    confidence = np.linspace(1, 0.5, len(labels))
    picture = _open(mistakes.grid(test_split, classes, confidence, NAMES))
    # Seven in two rows: the first digit is where it belongs, each pixel a square.
    assert picture.shape[0] < picture.shape[1]
    tile = picture[16 : 16 + 28 * 6 : 6, 16 : 16 + 28 * 6 : 6]
    np.testing.assert_array_equal(tile, test_split.images[0, ..., 0])


def test_colours_and_no_mistakes(test_split):
    few = Split(test_split.images[:3], test_split.labels[:3])
    data = mistakes.grid(few, few.labels, np.ones(3), NAMES, ink="white", paper="#202224")
    picture = _open(data)
    assert picture[0, 0] == 34  # The grey of #202224.
    assert picture.max() > 200


@pytest.mark.parametrize(
    ("shape", "in_grid", "on_page"),
    [
        ((28, 28, 1), (168, 168), (56, 56)),
        ((8, 8, 1), (168, 168), (56, 56)),
        ((32, 32, 3), (160, 160), (64, 64)),
        ((96, 96, 3), (192, 192), (56, 56)),
        ((20, 40, 3), (160, 80), (40, 20)),
        ((300, 600, 3), (168, 84), (56, 28)),
        ((1, 900, 1), (168, 1), (56, 1)),
    ],
)
def test_images_of_every_size_are_shown_as_large_and_in_their_colours(shape, in_grid, on_page):
    assert mistakes.shown_size(shape, 168) == in_grid
    assert mistakes.shown_size(shape, mistakes.TILE) == on_page
    height, width, channels = shape
    images = np.zeros((30, *shape), np.uint8)
    images[:] = (200, 100, 50)[:channels]
    sheet = np.asarray(Image.open(io.BytesIO(mistakes.sprite(images))))
    kept = on_page if max(height, width) > mistakes.TILE else (width, height)
    assert sheet.shape[:2] == (2 * kept[1], mistakes.SPRITE_COLUMNS * kept[0])
    assert sheet.ndim == (2 if channels == 1 else 3)
    for tile in (sheet[0, 0], sheet[-1, 0], sheet[-1, 5 * kept[0] - 1]):  # Of 25 and 5 images.
        assert np.atleast_1d(tile).tolist() == list((200, 100, 50)[:channels])
    assert not sheet[kept[1], 5 * kept[0]].any()
    labels = np.zeros(30, int)
    data = mistakes.grid(Split(images, labels), labels + 1, np.ones(30), ["a", "b"])
    grid = np.asarray(Image.open(io.BytesIO(data)))
    wanted = (200, 100, 50) if channels == 3 else (200,) * 3
    inside = (grid == wanted).all(-1)
    assert inside.sum() == mistakes.COUNT * in_grid[0] * in_grid[1]


def test_images_of_other_channels_are_grey():
    images = np.zeros((2, 9, 9, 6), np.uint8)
    images[..., :3] = 100
    assert Image.open(io.BytesIO(mistakes.sprite(images))).getpixel((0, 0)) == 50
    split = Split(images, np.zeros(2, int))
    assert (_open(mistakes.grid(split, split.labels + 1, np.ones(2), ["a", "b"])) == 50).any()


def test_large_pictures_are_kept_in_smaller_numbers():
    assert mistakes.most_kept((28, 28, 1)) == mistakes.most_kept((32, 32, 3)) == mistakes.MOST
    assert mistakes.most_kept((96, 96, 3)) == 340
    labels = np.zeros(50, int)
    assert len(mistakes.of_each_cell(labels, labels + 1, np.ones(50), most=7)) == 7


def test_names_that_are_long_words_have_room(test_split):
    few = Split(test_split.images[:3], np.zeros(3, int))
    widths = []
    for name in ("b", "golden retriever", "the golden retriever", "W" * 24, "W" * 99, "Ä" * 30):
        data = mistakes.grid(few, few.labels + 1, np.ones(3), ["a", name])
        widths.append(_open(data).shape[1])
    assert widths[0] < widths[1] < widths[2] < widths[3]
    assert widths[4] < 1.1 * widths[3]


def _open(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))
