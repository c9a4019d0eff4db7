"""The examples that a model gets wrong, as pictures."""

import collections
import io
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxmnist.data.datasets import Split

COUNT = 25  # How many the grid shows.
MOST = 1000  # How many are kept of all.
MOST_ALIKE = 20  # How many are kept of one label that are taken for one class.
SPRITE_COLUMNS = 25
_COLUMNS = 5
_SCALE = 6  # The width of a pixel in the grid.
_MARGIN, _LINE, _FONT = 16, 30, 24


def most_confident(
    labels: Integer[np.ndarray, " n"],
    classes: Integer[np.ndarray, " n"],
    confidence: Float[np.ndarray, " n"],
) -> Integer[np.ndarray, " k"]:
    """The indices of the mistakes, the most confident first."""
    wrong = np.flatnonzero(classes != labels)
    return wrong[np.argsort(-confidence[wrong], kind="stable")]


def of_each_cell(
    labels: Integer[np.ndarray, " n"],
    classes: Integer[np.ndarray, " n"],
    confidence: Float[np.ndarray, " n"],
) -> Integer[np.ndarray, " k"]:
    """The indices of mistakes for each cell of the confusion matrix, the most confident first.

    They are the COUNT most confident of all, and at most MOST_ALIKE others of each cell. At most
    MOST are kept in all, of which each cell has its share.
    """
    wrong = most_confident(labels, classes, confidence)
    seen: collections.Counter[tuple[int, int]] = collections.Counter()
    ranks = np.empty(len(wrong), int)
    for place, i in enumerate(wrong):
        cell = int(labels[i]), int(classes[i])
        ranks[place] = seen[cell] * (place >= COUNT)
        seen[cell] += 1
    kept = np.argsort(ranks, kind="stable")[:MOST]
    return wrong[np.sort(kept[ranks[kept] < MOST_ALIKE])]


def sprite(images: UInt8[np.ndarray, "n h w 1"]) -> bytes:
    """A PNG file of images, SPRITE_COLUMNS in a row."""
    rows = max(1, -(-len(images) // SPRITE_COLUMNS))
    height, width = images.shape[1:3]
    sheet = np.zeros((rows * SPRITE_COLUMNS, height, width), np.uint8)
    sheet[: len(images)] = images[..., 0]
    lines = sheet.reshape(rows, SPRITE_COLUMNS, height, width).swapaxes(1, 2)
    return _png(Image.fromarray(lines.reshape(rows * height, -1)), optimize=True)


def grid(
    split: Split,
    classes: Integer[np.ndarray, " n"],
    confidence: Float[np.ndarray, " n"],
    class_names: list[str],
    ink: str = "black",
    paper: str = "white",
    locate: Callable[[int], str] | None = None,
) -> bytes:
    """A PNG file of the most confident mistakes, each with its label and the model's answer.

    Args:
      split: the examples, upright.
      classes: the predicted class of each.
      confidence: the probability of that class.
      class_names: the names of the classes.
      ink: the colour of the words.
      paper: the colour of the background.
      locate: what to write below the i-th example about where it is found.
    """
    chosen = most_confident(split.labels, classes, confidence)[:COUNT]
    side = split.images.shape[1] * _SCALE
    width, height = side + 2 * _MARGIN, side + (3 + bool(locate)) * _LINE + 2 * _MARGIN
    rows = max(1, -(-len(chosen) // _COLUMNS))
    picture = Image.new("RGB", (_COLUMNS * width, rows * height), paper)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT)
    for place, i in enumerate(chosen):
        x, y = place % _COLUMNS * width + _MARGIN, place // _COLUMNS * height + _MARGIN
        tile = Image.fromarray(split.images[i, ..., 0])
        picture.paste(tile.resize((side, side), Image.Resampling.NEAREST), (x, y))
        words = (
            f"is {class_names[split.labels[i]]}",
            f"said {class_names[classes[i]]}",
            f"with {100 * confidence[i]:.1f} %",
            *([locate(int(i))] if locate else []),
        )
        for line, text in enumerate(words):
            draw.text((x, y + side + 4 + line * _LINE), text, ink, font)
    if not len(chosen):
        draw.text((_MARGIN, _MARGIN), "no mistakes", ink, font)
    return _png(picture)


def _png(picture: Image.Image, *, optimize: bool = False) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=optimize)
    return data.getvalue()
