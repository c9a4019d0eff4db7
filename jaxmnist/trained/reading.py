"""A trained model's answers to pictures that show one object or several."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from jaxmnist.data import pictures
from jaxmnist.trained import rejection

if TYPE_CHECKING:
    from jaxmnist.trained.inference import Model

# An answer of a lower probability is unsure. Of validation digits in pictures, photo.py's model and
# rejection.py then call 0.7 % unsure and are right about 98.0 % of the rest; with quick.py's these
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
            (whole, look), *rest = (read(each) for each in (region, *region.parts))
            parts = [part for part, _ in rest]
            apart = parts and _are_several(whole, parts, look, [each for _, each in rest])
            found[-1] += parts if apart else [whole]
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


def _are_several(
    whole: Detection, parts: list[Detection], look: float, looks: Sequence[float]
) -> bool:
    """Whether a whole and its parts, which are digits with these probabilities, are the parts."""
    height = whole.box[3] - whole.box[1]
    if min(part.box[3] - part.box[1] for part in parts) < 0.6 * height:
        return False
    if min(looks) < rejection.THRESHOLD:
        return False
    sure = min(part.probabilities.max() for part in parts)
    if min(part.box[3] - part.box[1] for part in parts) > 0.75 * height and _are_apart(parts):
        return bool(sure > 0.7)  # A model may be sure of a 6 with a 1 beside it, that it is a 6.
    is_none = look < rejection.THRESHOLD
    return bool(sure > 0.9 and (is_none or sure > whole.probabilities.max()))


def _are_apart(parts: list[Detection]) -> bool:
    """Whether no two neighbours share a column."""
    return all(a.box[2] < b.box[0] for a, b in itertools.pairwise(parts))
