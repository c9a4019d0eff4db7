"""Connected pieces of a mask, and how much each looks like a stroke of a pen."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, UInt8

Mask = Bool[np.ndarray, "h w"]


class Blank(Exception):
    """Nothing is on a picture that is to be read; its text says so."""


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Connected pieces; "n" is their number.

    Attributes:
      labels: the number of the piece that a pixel belongs to, from 1; 0 of none.
      boxes: left, top, right and bottom of each; the last two lie outside.
      area: its pixels.
      contact: how many pixels of it are at the picture's edge, or at the sheet's, on a line.
    """

    labels: Int32[np.ndarray, "h w"]
    boxes: Int32[np.ndarray, "n 4"]
    area: Int32[np.ndarray, " n"]
    contact: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.area)

    @property
    def sides(self) -> Int32[np.ndarray, "n 2"]:
        """Width and height of each."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def longer(self) -> Int32[np.ndarray, " n"]:
        """The longer side of each."""
        return self.sides.max(1)

    def sums(self, values: np.ndarray) -> Float[np.ndarray, " n"]:
        """The sum of the values at each piece's pixels."""
        places, numbers = self._pixels
        weights = values.ravel()[places]
        return np.bincount(numbers, weights, minlength=len(self) + 1)[1:].astype(np.float64)

    @functools.cached_property
    def _pixels(self) -> tuple[Int[np.ndarray, " pixels"], Int[np.ndarray, " pixels"]]:
        """The places of all pieces' pixels, of which most pictures have few, and their labels."""
        places = np.flatnonzero(self.labels)
        return places, self.labels.ravel()[places]

    def means(self, values: np.ndarray) -> Float[np.ndarray, " n"]:
        """Their mean."""
        return self.sums(values) / self.area

    @functools.cached_property
    def widths(self) -> Float[np.ndarray, " n"]:
        """The width of each piece's strokes: 4 times the mean distance of pixels to their edge."""
        import cv2

        is_ink = (self.labels > 0).astype(np.uint8)
        # A pixel at the edge is half a pixel away from it and counts as 1.
        return np.maximum(4 * self.means(cv2.distanceTransform(is_ink, cv2.DIST_L2, 3)) - 2, 1)

    def only(self, keep: Bool[np.ndarray, " n"]) -> "Pieces":
        """Some of the pieces."""
        numbers = np.append(0, np.cumsum(keep) * keep).astype(np.int32)
        return Pieces(numbers[self.labels], self.boxes[keep], self.area[keep], self.contact[keep])


def label(mask: Mask, sheet: Mask | None = None) -> Pieces:
    """The pieces of a mask, in the order of their topmost pixels.

    Args:
      mask: what belongs to any piece.
      sheet: where the paper is; by default everywhere.
    """
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    m = max(1, max(mask.shape) // 300)
    edge = [labels[:m], labels[-m:], labels[:, :m], labels[:, -m:]]
    if sheet is not None:
        square = np.ones((2 * m + 1, 2 * m + 1), np.uint8)
        edge.append(labels[cv2.dilate((~sheet).astype(np.uint8), square) > 0])
    contact = np.bincount(np.concatenate([x.ravel() for x in edge]), minlength=len(stats)) / m
    boxes = np.concatenate([stats[1:, :2], stats[1:, :2] + stats[1:, 2:4]], axis=1)
    return Pieces(labels, boxes, stats[1:, 4], contact[1:])


def are_lines(found: Pieces) -> Bool[np.ndarray, " n"]:
    """Which pieces are one thin, straight line through a large part of the picture."""
    widths, longer = found.widths, found.longer
    is_long = (widths < 0.06 * longer) & (longer > 0.35 * min(found.labels.shape))
    return is_long & are_straight(found)


def are_straight(found: Pieces) -> Bool[np.ndarray, " n"]:
    """Which pieces are not much more than one straight line."""
    diagonal = np.hypot(*found.sides.T)
    return found.area < 1.3 * found.widths * diagonal


def are_crosses(found: Pieces) -> Bool[np.ndarray, " n"]:
    """Which pieces are like a plus sign: ink in the middle of their box and none in its corners."""
    is_cross = np.zeros(len(found), bool)
    for i, (left, top, right, bottom) in enumerate(found.boxes):
        is_ink = found.labels[top:bottom, left:right] == i + 1
        down, across = (side // 3 for side in is_ink.shape)
        if min(down, across) and max(down, across) < 2 * min(down, across):
            corners = [is_ink[y, x] for y in _ends(down) for x in _ends(across)]
            middle = is_ink[down:-down, across:-across]
            is_cross[i] = middle.mean() > 0.3 and max(each.mean() for each in corners) < 0.1
    return is_cross


def _ends(n: int) -> tuple[slice, slice]:
    return slice(n), slice(-n, None)


def stroke_scores(ink: Float[np.ndarray, "h w"], found: Pieces) -> Float[np.ndarray, " n"]:
    """How much each piece looks like a stroke of a pen: strong, long, narrow and sharp.

    Args:
      ink: from 0 to 1.
      found: pieces of it.
    """
    import cv2

    if not len(found):
        return np.zeros(0)
    level, widths = ink_levels(ink, found), found.widths
    square = np.ones((3, 3), np.uint8)
    is_ink = (found.labels > 0).astype(np.uint8)
    outline = np.asarray(is_ink - cv2.erode(is_ink, square))
    steps = np.asarray(cv2.morphologyEx(ink, cv2.MORPH_GRADIENT, square)) * outline
    sharpness = found.sums(steps) / np.maximum(found.sums(outline), 1)
    score = level * np.sqrt(found.longer)
    # Of what is large, defocus makes wider edges.
    is_sharp = sharpness * np.maximum(1, found.longer / 150) > 0.06 * level
    score *= (widths < 0.5 * found.longer) & is_sharp
    score *= np.where(are_lines(found), 0.1, 1)
    # A stroke may end at the edge, and lines that cross it do; what lies along the edge is neither.
    is_along = found.contact > 0.2 * sum(ink.shape)
    is_end = found.contact < 3 * widths
    return score * np.select([found.contact == 0, is_end, ~is_along], [1, 0.7, 0.4], 0.1)


def edge_shares(levels: UInt8[np.ndarray, "h w"], found: Pieces) -> Float[np.ndarray, " n"]:
    """The share of each piece's outline at which the picture has an edge.

    Args:
      levels: the picture's.
      found: pieces of its ink.
    """
    import cv2

    square = np.ones((3, 3), np.uint8)
    is_ink = (found.labels > 0).astype(np.uint8)
    outline = np.asarray(is_ink - cv2.erode(is_ink, square)) > 0
    steps = np.asarray(cv2.dilate(cv2.morphologyEx(levels, cv2.MORPH_GRADIENT, square), square))
    height = found.sums(steps * outline) / np.maximum(found.sums(outline), 1)
    is_edge = steps > 0.4 * np.append(0, height)[found.labels]
    return found.sums(is_edge & outline) / np.maximum(found.sums(outline), 1)


def ink_levels(ink: Float[np.ndarray, "h w"], found: Pieces) -> Float[np.ndarray, " n"]:
    """The mean of each piece's ink, weighted by itself: of strokes, not of their soft edges."""
    return found.sums(ink * ink) / np.maximum(found.sums(ink), 1e-9)


def outline(mask: UInt8[np.ndarray, "h w"]) -> Int32[np.ndarray, "points 1 2"]:
    """The outer pixels, column and row, of the largest piece of a mask."""
    import cv2

    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(outlines, key=cv2.contourArea)


def odd(x: float) -> int:
    """The odd number of at least 3 that is about x, as sizes of filters are."""
    return max(3, int(x) // 2 * 2 + 1)
