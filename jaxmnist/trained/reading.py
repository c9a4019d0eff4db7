"""A trained model's answers to pictures that show one object or several."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from jaxmnist.data import pictures
from jaxmnist.trained import rejection

if TYPE_CHECKING:
    from jaxmnist.trained.inference import Model

# An answer of a lower probability is unsure. Of validation digits in pictures, photo.py's model and
# rejection.py then call 0.7 % unsure and are right about 98.0 % of the rest; with epoch.py's these
# are 1.8 % and 96.8 %.
_SURE = 0.5
# Of a page of text a third of the letters does not look like digits, and of a number hardly any.
_MANY, _DOUBTED = 6, 0.25


class Detection(NamedTuple):
    """An object that a picture shows, and the model's answer.

    Attributes:
      box: left, top, right and bottom, in pixels of the upright picture; the last two lie outside.
      image: the input that the network sees, upright.
      classes: the most probable class.
      probabilities: of all classes.
      doubt: why the answer is unsure, as the rest of a sentence; "" if it is sure.
      row: which row of the page it is in, from 0.
    """

    box: tuple[int, int, int, int]
    image: UInt8[np.ndarray, "h w c"]
    classes: int
    probabilities: Float[np.ndarray, " classes"]
    doubt: str = ""
    row: int = 0

    def __repr__(self) -> str:
        doubt = f", doubt={self.doubt!r}" if self.doubt else ""
        likely = f"classes={self.classes}, probability {self.probabilities.max():.4f}"
        return f"Detection({likely}, box={self.box}{doubt})"


def detect(model: "Model", pages: Sequence[pictures.Page]) -> list[list[Detection]]:
    """The model's answers to all that each page shows, in reading order."""
    everything = [
        part for page in pages for region in page.regions for part in (region, *region.parts)
    ]
    if not everything:
        return [[] for _ in pages]
    images = np.stack([region.image for region in everything])
    probabilities = model.probabilities(pictures.swap(images, model.preparation))
    looks = np.ones(len(images), np.float32)
    are_digits = rejection.applies_to(model.preparation, model.class_names, images.shape[1:])
    if are_digits:
        looks = rejection.digit_probability(images)
    answers = zip(probabilities, looks, strict=True)

    def read(region: pictures.Region) -> tuple[Detection, float]:
        p, look = next(answers)
        doubt = (region.doubt if are_digits else "") or _doubt(p, float(look))
        found = Detection(region.box, region.image, int(p.argmax()), p, doubt, region.row)
        return found, float(look)

    found: list[list[Detection]] = []
    for page in pages:
        found.append([])
        for region in page.regions:
            whole = read(region)
            parts = {part.cuts: read(part) for part in region.parts}
            found[-1] += _likeliest(whole, parts)
    return [_as_text(one) for one in found]


def _as_text(found: list[Detection]) -> list[Detection]:
    """Detections, all of which are doubted if many of them are."""
    doubted = sum(bool(each.doubt) for each in found)
    if len(found) < _MANY or doubted <= _DOUBTED * len(found):
        return found
    reason = "much of what is beside it does not look like digits"
    return [each._replace(doubt=each.doubt or reason) for each in found]


def _doubt(probabilities: Float[np.ndarray, " classes"], look: float) -> str:
    """Why an answer to what is a digit with the probability `look` is unsure; "" if it is sure."""
    if look < rejection.THRESHOLD:
        return "it does not look like a digit"
    if probabilities.max() < _SURE:
        return "no class is clearly the most probable"
    return ""


def _likeliest(
    whole: tuple[Detection, float], parts: Mapping[tuple[int, int], tuple[Detection, float]]
) -> list[Detection]:
    """The whole, or its parts from left to right, whichever are likelier to be digits.

    Args:
      whole: what the model answers, and how probably it is a digit at all.
      parts: the same of what is between two cuts.
    """

    def likely(each: tuple[Detection, float]) -> float:
        found, look = each
        return float(found.probabilities.max()) * max(look, 1e-6)

    best, chosen = np.log(likely(whole)), [whole[0]]
    height = whole[0].box[3] - whole[0].box[1]
    last = max((right for _, right in parts), default=0)
    for count in range(1, last):
        for inner in itertools.combinations(range(1, last), count):
            ends = list(itertools.pairwise((0, *inner, last)))
            if not parts.keys() >= set(ends):
                continue
            each = [likely(parts[both]) for both in ends]
            found = [parts[both][0] for both in ends]
            # A model may be sure of a 6 with a 1 beside it, that it is a 6.
            total = np.log(each).mean() + (1 if _are_apart(found, height) else -0.1)
            if min(each) > _SURE and total > best and not _overlap(found):
                best, chosen = total, found
    return chosen


def _overlap(parts: list[Detection]) -> bool:
    """Whether two neighbours share much of the narrower one's columns, as parts of a ring do."""
    return any(
        a.box[2] - b.box[0] > 0.4 * min(each.box[2] - each.box[0] for each in (a, b))
        for a, b in itertools.pairwise(parts)
    )


def _are_apart(parts: list[Detection], height: int) -> bool:
    """Whether two neighbours, both nearly of a height, share no column."""
    return any(
        a.box[2] < b.box[0] and min(each.box[3] - each.box[1] for each in (a, b)) > 0.75 * height
        for a, b in itertools.pairwise(parts)
    )
