"""Pixels of a picture -> how much ink is on its paper, in any light and colour.

Paper is what a morphological closing by a square leaves of a picture (Serra, 1982): strokes are
narrower than the square, while shadows, tables and black edges are wider and stay.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxmnist.data import pieces, printed
from jaxmnist.data.pieces import Mask, odd

CUT_OUT = 48  # Pictures whose shorter side is below this may show a digit and nothing around it.
_SMALL = 256  # The longer side, in pixels, of what colours and sheets are looked for in.
_COLOURED = 24  # From this difference of its colours on, of 255, a picture is not grey.


class Plane(NamedTuple):
    """The grey levels of a picture, or one of its colours.

    Attributes:
      levels: dark ink on light paper; those of light ink are inverted.
      is_dark: whether the ink was darker than the paper.
    """

    levels: UInt8[np.ndarray, "h w"]
    is_dark: bool


def reduce(levels: UInt8[np.ndarray, "h w *c"], longest: int) -> UInt8[np.ndarray, "h2 w2 *c"]:
    """A picture whose longer side has at most so many pixels, each a mean."""
    import cv2

    factor = longest / max(levels.shape[:2])
    if factor >= 1:
        return levels
    height, width = (max(1, round(side * factor)) for side in levels.shape[:2])
    small = cv2.resize(levels, (width, height), interpolation=cv2.INTER_AREA)
    return small.reshape(height, width, *levels.shape[2:])


def resize_mask(mask: Mask, shape: tuple[int, ...]) -> Bool[np.ndarray, "h2 w2"]:
    """A mask at another size."""
    import cv2

    height, width = shape
    nearest = cv2.INTER_NEAREST
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=nearest) > 0


def choose_plane(levels: UInt8[np.ndarray, "h w c"]) -> Plane:
    """The grey levels, or those of the colour in which strokes stand out much more."""
    import cv2

    small = reduce(levels, _SMALL)
    grey, small_grey = levels[..., 0], small[..., 0]
    if levels.shape[2] == 3:
        grey, small_grey = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (levels, small))
    strength, is_dark = _strength(small_grey)
    if levels.shape[2] == 3 and np.percentile(np.ptp(small, axis=-1), 99.5) >= _COLOURED:
        of_colours = [_strength(colour) for colour in cv2.split(small)]
        best = max(range(3), key=lambda i: of_colours[i][0])
        if of_colours[best][0] >= 1.5 * strength:
            grey, is_dark = levels[..., best], of_colours[best][1]
    return Plane(np.ascontiguousarray(grey if is_dark else 255 - grey), is_dark)


def _strength(plane: UInt8[np.ndarray, "h w"]) -> tuple[float, bool]:
    """How much the best stroke stands out of what surrounds it, and whether it is darker.

    What surrounds it is the median of a large square. Of two squares the smaller is right where the
    light changes fast, and the larger where strokes are bold.
    """
    import cv2

    if min(plane.shape) < CUT_OUT:  # Its edge is paper.
        edge = np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])
        darker, lighter = (
            np.ptp([np.median(edge), plane.min()]),
            np.ptp([np.median(edge), plane.max()]),
        )
        return float(max(darker, lighter)) / 255, bool(darker > lighter)
    smooth = cv2.medianBlur(plane, 3) if min(plane.shape) > 60 else plane
    best = 0.0, True
    for share in (0.25, 0.6):
        size = min(odd(share * min(plane.shape)), 255)
        half = size // 2
        # Reflected: black at an edge would be the median of all that is near it otherwise.
        around = cv2.copyMakeBorder(smooth, half, half, half, half, cv2.BORDER_REFLECT)
        median = cv2.medianBlur(around, size)[half:-half, half:-half]
        for is_dark in (True, False):
            out = cv2.subtract(median, smooth) if is_dark else cv2.subtract(smooth, median)
            ink = out.astype(np.float32) / np.float32(255)
            threshold = max(0.05, 0.3 * float(ink.max()))
            found = pieces.label(ink > threshold)
            if found.contact.any():  # Ruled paper, perhaps, whose lines join the strokes.
                ink = printed.without_lines(ink, threshold)
                found = pieces.label(ink > threshold)
            score = pieces.stroke_scores(ink, found).max(initial=0)
            # Light between dark strokes looks like a light stroke.
            best = max(best, (float(score) * (1.2 if is_dark else 1), is_dark))
    return best


def find_sheet(levels: UInt8[np.ndarray, "h w c"]) -> tuple[Mask | None, bool]:
    """Where a sheet of paper lies on something darker; and whether all of its edges are seen."""
    import cv2

    small = reduce(levels, _SMALL).mean(-1).astype(np.uint8)
    h, w = small.shape
    if min(h, w) < 60:
        return None, False
    k = odd(min(h, w) / 10)
    square = np.ones((k, k), np.uint8)
    # With margins, so that what is dark at the edge counts as wide.
    around = cv2.copyMakeBorder(cv2.medianBlur(small, 5), k, k, k, k, cv2.BORDER_REPLICATE)
    paper = cv2.morphologyEx(around, cv2.MORPH_CLOSE, square)[k:-k, k:-k]
    threshold, light = cv2.threshold(paper, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    found = pieces.label(cv2.morphologyEx(light, cv2.MORPH_OPEN, square) > 0)
    if not len(found):
        return None, False
    mask = (found.labels == 1 + int(found.area.argmax())).astype(np.uint8)
    outline = pieces.outline(mask)
    (_, (a, b), _) = cv2.minAreaRect(outline)
    area = cv2.contourArea(outline)
    if not 0.05 * h * w < area < 0.97 * h * w or area < 0.75 * a * b:
        return None, False
    if np.mean(small[mask > 0] > threshold) < 0.8:
        return None, False  # Light strokes, and what is between them.
    contrast = float(np.median(small[mask > 0])) - float(np.median(small[mask == 0]))
    # A sheet's edge is sharp, unlike that of light.
    steps = cv2.morphologyEx(paper, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    steps = cv2.dilate(steps, np.ones((7, 7), np.uint8))
    columns, rows = outline[:, 0].T
    is_inner = (rows > 0) & (rows < h - 1) & (columns > 0) & (columns < w - 1)
    of_outline = steps[rows[is_inner], columns[is_inner]]
    if contrast < 30 or not len(of_outline) or np.median(of_outline) < 0.3 * contrast:
        return None, False
    corners = cv2.approxPolyDP(outline, 0.03 * cv2.arcLength(outline, True), True)
    cv2.drawContours(mask, [outline], -1, 1, cv2.FILLED)
    mask = cv2.erode(mask, np.ones((5, 5), np.uint8), borderValue=1)
    touches = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
    return resize_mask(mask > 0, levels.shape[:2]), len(corners) == 4 and not touches


def missing_light(plane: Plane, size: float) -> tuple[Float[np.ndarray, "h w"], float]:
    """How much of the light that the paper sends back is missing at each pixel; and its noise.

    Args:
      plane: the picture.
      size: the side of a square that is wider than the strokes, in pixels.

    Returns:
      From 0 to 1, float32; and its standard deviation on the paper.
    """
    import cv2

    smooth = plane.levels
    if max(smooth.shape) > 150:
        smooth = cv2.medianBlur(plane.levels, 3)
        if np.mean(cv2.absdiff(plane.levels, smooth) > 48) > 0.01:  # Salt and pepper.
            smooth = cv2.medianBlur(plane.levels, 5)
    k = odd(size)
    closed = cv2.morphologyEx(smooth, cv2.MORPH_CLOSE, np.ones((k, k), np.uint8))
    closed = closed.astype(np.float32)
    # Ink takes a share of the light that falls on it; light ink on a dark ground adds to it. In the
    # dark a share would be mostly noise.
    ink = (closed - smooth) / (closed + np.float32(24) if plane.is_dark else np.float32(255))
    some = ink[:: 1 + ink.shape[0] // 128, :: 1 + ink.shape[1] // 128]
    some = some[some <= (some.min() + some.max()) / 2]  # Of a small picture most may be ink.
    base = np.median(some)
    noise = 1.4826 * float(np.median(np.abs(some - base)))
    return np.clip(ink - base, 0, 1), noise
