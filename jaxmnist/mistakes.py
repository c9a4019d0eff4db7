"""The examples that a model gets wrong with the most confidence, as one picture."""

import io

import numpy as np
from jaxtyping import Float, Integer
from PIL import Image, ImageDraw, ImageFont

from jaxmnist.datasets import Split

COUNT = 25
_COLUMNS = 5
_SCALE = 6  # Of the pictures' pixels.
_MARGIN, _LINE, _FONT = 16, 30, 24


def most_confident(
    labels: Integer[np.ndarray, " n"],
    classes: Integer[np.ndarray, " n"],
    confidence: Float[np.ndarray, " n"],
) -> Integer[np.ndarray, " k"]:
    """Where `classes` are wrong, the most confident first: at most COUNT indices."""
    wrong = np.flatnonzero(classes != labels)
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:COUNT]


def grid(
    split: Split,
    classes: Integer[np.ndarray, " n"],
    confidence: Float[np.ndarray, " n"],
    class_names: list[str],
    ink: str = "black",
    paper: str = "white",
) -> bytes:
    """A PNG of the most confident mistakes, each with its label and what was said of it.

    Args:
      split: the examples, upright.
      classes: what was said of each.
      confidence: the probability of that.
      class_names: what each class stands for.
      ink: the colour of the words.
      paper: that of the page.
    """
    chosen = most_confident(split.labels, classes, confidence)
    side = split.images.shape[1] * _SCALE
    width, height = side + 2 * _MARGIN, side + 3 * _LINE + 2 * _MARGIN
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
        )
        for line, text in enumerate(words):
            draw.text((x, y + side + 4 + line * _LINE), text, ink, font)
    if not len(chosen):
        draw.text((_MARGIN, _MARGIN), "no mistakes", ink, font)
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()
