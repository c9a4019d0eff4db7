"""Pixels of a picture -> the strokes on it, without paper, shadows, lines and dirt."""

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxmnist.data import paper, pieces, printed
from jaxmnist.data.paper import Plane
from jaxmnist.data.pieces import Blank, Mask, Pieces

_MIDDLE = 512  # The longer side, in pixels, that is enough for digits that are not small.
_SMALL_DIGIT = 64  # In pixels at that size.
_SMALLEST = 10  # In pixels: what is smaller could not be read.
_MOST_PIECES = 400  # More are leaves, grain or a page of text.


class Strokes(NamedTuple):
    """The strokes of a picture.

    Attributes:
      ink: from 0, paper, to 1, in the size at which the strokes were looked for.
      pieces: those of the ink that belong to strokes.
      width: of the largest piece's strokes, in pixels.
      is_dot: which pieces are a dot below the largest, as a question mark has one.
    """

    ink: Float[np.ndarray, "h w"]
    pieces: Pieces
    width: float
    is_dot: Bool[np.ndarray, " n"]


def find(levels: UInt8[np.ndarray, "h w c"]) -> Strokes:
    """The strokes of a picture.

    Args:
      levels: grey, or red, green and blue.

    Raises:
      Blank: there are none.
    """
    sheet, is_whole = paper.find_sheet(levels)
    if sheet is None:
        return _find(levels)
    blank = np.median(levels[sheet], axis=0).astype(np.uint8)
    try:
        found = _find(np.where(sheet[..., None], levels, blank[None, None]), sheet)
    except Blank:
        if is_whole:
            raise
        return _find(levels)
    if not is_whole:  # It may be a part of the paper that the sun shines on.
        with contextlib.suppress(Blank):
            everywhere = _find(levels)
            if _goes_on(found, everywhere, sheet):
                return everywhere
    return found


def _goes_on(found: Strokes, everywhere: Strokes, sheet: Mask) -> bool:
    """Whether strokes outside of a sheet seem to belong to those within."""
    if found.ink.shape != everywhere.ink.shape:
        return False
    outside = everywhere.pieces.means(paper.resize_mask(~sheet, found.ink.shape)) > 0.3
    is_inner = everywhere.pieces.contact == 0
    first, last = found.pieces.boxes[:, :2].min(0), found.pieces.boxes[:, 2:].max(0)
    starts, ends = everywhere.pieces.boxes[:, :2], everywhere.pieces.boxes[:, 2:]
    gap = np.maximum(starts - last[None], first[None] - ends).max(1)
    is_alike = np.abs(np.log(everywhere.pieces.widths / found.width)) < 0.7
    return bool((outside & is_inner & is_alike & (gap < 0.5 * (last - first).max())).any())


def _find(levels: UInt8[np.ndarray, "h w c"], sheet: Mask | None = None) -> Strokes:
    plane = paper.choose_plane(levels)
    reduced = Plane(paper.reduce(plane.levels, _MIDDLE), plane.is_dark)
    if reduced.levels.shape != plane.levels.shape:
        with contextlib.suppress(Blank):
            found = _strokes(reduced, sheet)
            if np.median(found.pieces.longer) >= _SMALL_DIGIT:
                return found
    return _strokes(plane, sheet)


def _strokes(plane: Plane, sheet: Mask | None) -> Strokes:
    """The dark strokes of a picture."""
    shape = plane.levels.shape
    if sheet is not None:
        sheet = paper.resize_mask(sheet, shape)
    size = min(shape) * (0.6 if min(shape) < paper.CUT_OUT else 1 / 3)
    ink, noise = paper.missing_light(plane, size)
    least, top = max(0.05, 4 * noise), float(ink.max())
    if top < max(0.06, 6 * noise):
        raise Blank("it is blank")
    if min(shape) >= paper.CUT_OUT:
        ink = printed.without_lines(ink, max(least, 0.1 * top), sheet)
        ink = printed.without_boxes(ink, max(least, 0.2 * float(ink.max())))
    # What is wider than the strokes is none, such as a narrow shadow.
    best, width = 0.0, size
    for share in (0.3, 0.6):
        found = pieces.label(ink > max(least, share * float(ink.max())), sheet)
        scores = pieces.stroke_scores(ink, found)
        if scores.max(initial=0) > best:
            best, width = scores.max(), float(found.widths[scores.argmax()])
    if 5 * (width + 3) < size / 1.5:
        closer, _ = paper.missing_light(plane, 5 * (width + 3))
        ink = np.where(ink > 0, closer, np.float32(0))
    return _pieces(ink, least, sheet, plane.levels)


def _pieces(
    ink: Float[np.ndarray, "h w"],
    least: float,
    sheet: Mask | None,
    levels: UInt8[np.ndarray, "h w"],
) -> Strokes:
    """The pieces of ink that are strokes; those at the edge only if there are no others."""
    found = pieces.label(ink > least, sheet)
    scores = pieces.stroke_scores(ink, found)
    if not scores.max(initial=0) > 0:
        raise Blank("it is blank")
    level = float(pieces.ink_levels(ink, found)[scores.argmax()])
    is_ink, is_strong = ink > max(least, 0.25 * level), ink > max(least, 0.55 * level)
    found = pieces.label(is_ink, sheet)
    is_cut_out = min(ink.shape) < paper.CUT_OUT  # It may be one digit, up to the edge.
    # What joins strokes, and is mostly fainter, is dirt; and so may be what joins them to the edge.
    is_faint = (found.means(is_strong) < 0.4) | ((found.contact > 0) & (not is_cut_out))
    stays = ink > 0.6 * level
    if sheet is not None:  # What is mostly fainter at its edge is of the table.
        is_table = (found.means(is_strong) < 0.4) & (found.contact > 0)
        stays &= ~np.isin(found.labels, 1 + np.flatnonzero(is_table))
    is_ink &= ~np.isin(found.labels, 1 + np.flatnonzero(is_faint)) | stays
    found = pieces.label(is_ink, sheet)
    size = np.sqrt(found.sides.prod(1))
    keep = (found.means(is_strong) > 0.15) & (found.widths < 0.5 * found.longer)
    # At the edge only strokes that end there: not what lies along it, nor a shadow in a corner.
    corners = found.labels[[0, 0, -1, -1], [0, -1, 0, -1]]
    is_edge = pieces.edge_shares(levels, found) > 0.7
    is_edge[corners[corners > 0] - 1] = False
    is_end = is_edge & (found.contact < np.minimum(3 * found.widths + 2, 0.7 * found.longer))
    inside = keep & (found.contact == 0)
    # A picture may be cut out so closely that strokes lie along its edge.
    is_alike = np.zeros(len(found), bool)
    if sheet is None and inside.any():
        is_alike = _are_alike(found, int((size * inside).argmax()))
        is_end |= is_alike
    elif sheet is None and not (keep & is_end).any():
        is_end = (
            is_edge & (found.contact < 0.9 * found.longer) & (found.widths < 0.3 * found.longer)
        )
    keep &= inside | is_end | is_cut_out
    largest, largest_inside = (size * keep).max(initial=0), (size * inside).max(initial=0)
    if sheet is not None and (size * (keep & ~inside)).max(initial=0) > 0.3 * largest_inside:
        raise Blank("it is blank")  # The sheet's edge cuts strokes: it is none.
    if sheet is not None or (largest_inside >= 0.15 * largest and not is_cut_out):
        keep = inside | (is_alike & keep)
    # A line is printed if it is longer than any stroke; a 1 is one too.
    is_line = pieces.are_lines(found)
    longest = found.longer[keep & ~is_line].max(initial=0)
    if longest:
        keep &= ~is_line | (found.longer < 1.4 * longest)
    if found.longer[keep].max(initial=0) < (1 if is_cut_out else _SMALLEST):
        raise Blank("it is blank")
    largest_piece = int((size * keep).argmax())
    width = float(found.widths[largest_piece])
    # Others are specks, except a dot below.
    left, _, right, bottom = found.boxes[largest_piece]
    is_dot = (found.sides.min(1) > 0.7 * width) & (found.sides.max(1) < 3 * width)
    is_dot &= (found.boxes[:, 0] >= left) & (found.boxes[:, 2] <= right)
    is_dot &= np.abs(found.boxes[:, 1] - bottom - width) < 2 * width
    keep = (keep & (found.area >= found.area[largest_piece] / 20)) | is_dot
    ink = np.clip(ink / np.float32(level), 0, 1)
    if keep.sum() > _MOST_PIECES:
        raise Blank(f"it shows more than {_MOST_PIECES} marks")
    return Strokes(ink, found.only(keep), width, is_dot[keep])


def _are_alike(found: Pieces, one: int) -> Bool[np.ndarray, " n"]:
    """Which pieces are beside one, about as high, and about as wide in their strokes."""
    top, bottom, height = found.boxes[:, 1], found.boxes[:, 3], found.sides[:, 1]
    shared = np.minimum(bottom, bottom[one]) - np.maximum(top, top[one])
    is_alike = shared > 0.6 * height
    for sizes, most in ((height, 1.6), (found.widths, 2.5)):
        is_alike &= (sizes < most * sizes[one]) & (sizes[one] < most * sizes)
    return is_alike & (found.contact < found.longer)


def cut_out(
    found: Strokes, group: Iterable[int]
) -> tuple[Float[np.ndarray, "height width"], int, int]:
    """The ink of some pieces without that of others, and the left and top where it begins.

    Args:
      found: the strokes.
      group: the pieces' numbers, from 0.
    """
    import cv2

    chosen = np.array(list(group))
    boxes = found.pieces.boxes[chosen]
    margin = 1 + round(found.width / 3)  # The soft edge of strokes.
    left, top = np.maximum(boxes[:, :2].min(0) - margin, 0)
    right, bottom = boxes[:, 2:].max(0) + margin
    labels = found.pieces.labels[top:bottom, left:right]
    is_ours = np.isin(labels, chosen + 1)
    square = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    is_near = cv2.dilate(is_ours.astype(np.uint8), square) > 0
    ink = found.ink[top:bottom, left:right] * (is_ours | (is_near & (labels == 0)))
    return ink, int(left), int(top)
