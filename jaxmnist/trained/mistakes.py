"""The examples that a model gets wrong, as pictures."""

import collections
import contextlib
import io
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxmnist.data import pictures
from jaxmnist.data.datasets import Split

COUNT = 25  # How many the grid shows.
MOST = 1000  # How many are kept of all, of small pictures.
MOST_ALIKE = 20  # How many are kept of one label that are taken for one class.
SPRITE_COLUMNS = 25
TILE = 56  # About the longer side of a picture on the page, in its pixels.
_MOST_BYTES = 3_200_000  # Of the pictures that are kept, before they are compressed.
_COLUMNS = 5
_SIDE = 168  # About the longer side of a picture in the grid, in pixels.
_LONGEST = 24  # Characters of a class's name.
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
    most: int = MOST,
) -> Integer[np.ndarray, " k"]:
    """The indices of mistakes for each cell of the confusion matrix, the most confident first.

    They are the COUNT most confident of all, and at most MOST_ALIKE others of each cell. At most
    `most` are kept in all, of which each cell has its share.
    """
    wrong = most_confident(labels, classes, confidence)
    seen: collections.Counter[tuple[int, int]] = collections.Counter()
    ranks = np.empty(len(wrong), int)
    for place, i in enumerate(wrong):
        cell = int(labels[i]), int(classes[i])
        ranks[place] = seen[cell] * (place >= COUNT)
        seen[cell] += 1
    kept = np.argsort(ranks, kind="stable")[:most]
    return wrong[np.sort(kept[ranks[kept] < MOST_ALIKE])]


def shown_size(image_shape: Sequence[int], side: int) -> tuple[int, int]:
    """Width and height to show images at, in pixels, so that the longer one is about `side`.

    Smaller images have whole multiples of their size.
    """
    height, width = image_shape[:2]
    scale = side / max(height, width)
    scale = round(scale) if scale >= 1 else scale
    return max(1, round(width * scale)), max(1, round(height * scale))


def most_kept(image_shape: Sequence[int]) -> int:
    """How many pictures `of_each_cell` is to keep, so that a page of them is not too large."""
    size = _kept_size(image_shape)
    return min(MOST, _MOST_BYTES // (size[0] * size[1] * image_shape[2]))


def _kept_size(image_shape: Sequence[int]) -> tuple[int, int]:
    """Width and height of a picture that is kept: its own, or that of a tile if it is larger."""
    height, width = image_shape[:2]
    return shown_size(image_shape, TILE) if max(height, width) > TILE else (width, height)


def sprite(images: UInt8[np.ndarray, "n h w c"]) -> bytes:
    """A PNG file of images, SPRITE_COLUMNS in a row, none larger than TILE."""
    rows = max(1, -(-len(images) // SPRITE_COLUMNS))
    width, height = _kept_size(images.shape[1:])
    channels = 3 if images.shape[-1] == 3 else 1
    sheet = np.zeros((rows * SPRITE_COLUMNS, height, width, channels), np.uint8)
    for tile, image in zip(sheet, images, strict=False):
        tile[:] = np.asarray(_tile(image, (width, height))).reshape(tile.shape)
    lines = sheet.reshape(rows, SPRITE_COLUMNS, height, width, channels).swapaxes(1, 2)
    whole = lines.reshape(rows * height, SPRITE_COLUMNS * width, channels)
    return _png(pictures.to_pillow(whole), optimize=True)


def _tile(image: UInt8[np.ndarray, "h w c"], size: tuple[int, int]) -> Image.Image:
    """An image at a size, each of its pixels a rectangle where that is not smaller."""
    is_smaller = size[0] < image.shape[1]
    resampling = Image.Resampling.LANCZOS if is_smaller else Image.Resampling.NEAREST
    return pictures.to_pillow(image).resize(size, resampling)


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
    size = shown_size(split.images.shape[1:], _SIDE)
    names = [short(name) for name in class_names]
    texts = [
        (
            f"is {names[split.labels[i]]}",
            f"said {names[classes[i]]}",
            f"with {100 * confidence[i]:.1f} %",
            *([locate(int(i))] if locate else []),
        )
        for i in chosen
    ]
    font = _font(class_names)
    # As wide as the pictures, or as the widest words.
    widest = max((round(font.getlength(line)) for text in texts for line in text), default=0)
    width = max(size[0], _SIDE, widest) + 2 * _MARGIN
    height = size[1] + (3 + bool(locate)) * _LINE + 2 * _MARGIN
    rows = max(1, -(-len(chosen) // _COLUMNS))
    picture = Image.new("RGB", (_COLUMNS * width, rows * height), paper)
    draw = ImageDraw.Draw(picture)
    for place, (i, text) in enumerate(zip(chosen, texts, strict=True)):
        x, y = place % _COLUMNS * width + _MARGIN, place // _COLUMNS * height + _MARGIN
        picture.paste(_tile(split.images[i], size), (x, y))
        for line, words in enumerate(text):
            draw.text((x, y + size[1] + 4 + line * _LINE), words, ink, font)
    if not len(chosen):
        draw.text((_MARGIN, _MARGIN), "no mistakes", ink, font)
    return _png(picture)


def short(name: str) -> str:
    """A class's name, cut where it is too long for a picture or an axis."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _font(texts: Sequence[str]) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; of words that it lacks letters for, one of the system's that has more."""
    if not all(text.isascii() for text in texts):
        with contextlib.suppress(OSError):
            return ImageFont.truetype("DejaVuSans.ttf", _FONT)
    return ImageFont.load_default(_FONT)


def _png(picture: Image.Image, *, optimize: bool = False) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=optimize)
    return data.getvalue()
