"""The most confident mistakes, and the picture of them."""

import io

import numpy as np
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


def _open(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))
