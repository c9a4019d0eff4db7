"""Ink -> ink without what is printed on paper: lines, squares and boxes.

Only lines that go on to the edge of the paper are taken for printed ones, and boxes only if
something is within. Where a stroke crosses a line, it stays.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxmnist.data import pieces
from jaxmnist.data.pieces import Mask, odd

Ink = Float[np.ndarray, "h w"]

_MOST_LINES = 200  # Texture has any number, and each takes a millisecond.


def without_lines(ink: Ink, threshold: float, sheet: Mask | None = None) -> Ink:
    """Ink without straight lines through at least half of the picture, or of the sheet.

    Args:
      ink: from 0 to 1.
      threshold: what counts as ink.
      sheet: where the paper is; by default everywhere.
    """
    import cv2

    mask = (ink > threshold).astype(np.uint8)
    thick = odd(max(mask.shape) / 40)
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((thick, thick), np.uint8))
    thin = cv2.subtract(mask, cv2.dilate(opened, np.ones((3, 3), np.uint8)))
    factor = max(1, round(max(mask.shape) / 400))
    small = np.asarray(thin) * np.uint8(255)
    if factor > 1:
        area = cv2.INTER_AREA
        small = np.asarray(
            cv2.resize(small, None, fx=1 / factor, fy=1 / factor, interpolation=area)
        )
        small = (small >= 127 // factor).astype(np.uint8) * np.uint8(255)
    side = min(small.shape)
    # Gaps as wide as a large digit, which may stand on the line.
    segments = cv2.HoughLinesP(
        small, 1, np.pi / 720, int(0.3 * side), minLineLength=0.4 * side, maxLineGap=0.6 * side
    )
    if segments is None:
        return ink
    cleaned = ink.copy()
    for x1, y1, x2, y2 in segments.reshape(-1, 4)[:_MOST_LINES] * float(factor):
        _erase_line(cleaned, (x1, y1), (x2, y2), threshold, sheet)
    return cleaned


def _erase_line(
    ink: Ink,
    start: tuple[float, float],
    end: tuple[float, float],
    threshold: float,
    sheet: Mask | None,
) -> None:
    """Erases the line through two points where it is no thicker than it is elsewhere."""
    import cv2

    h, w = ink.shape
    length = float(np.hypot(end[0] - start[0], end[1] - start[1]))
    dx, dy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    # On to the edges of the picture, or of the sheet.
    steps = np.arange(-(h + w), h + w, dtype=np.float32)
    xs, ys = start[0] + steps * dx, start[1] + steps * dy
    inside = (xs >= 0) & (xs <= w - 1) & (ys >= 0) & (ys <= h - 1)
    xs, ys = xs[inside], ys[inside]
    if sheet is not None:
        inside = sheet[ys.astype(int), xs.astype(int)]
        xs, ys = xs[inside], ys[inside]
    if len(xs) < 20:
        return
    # A strip in which the line runs from left to right, through the middle.
    half = max(6, round(max(h, w) / 50))
    across = np.arange(-half, half + 1, dtype=np.float32)[:, None]
    columns = (xs[None] - across * dy).astype(np.float32)
    rows = (ys[None] + across * dx).astype(np.float32)
    strip = cv2.remap(ink, columns, rows, cv2.INTER_LINEAR, borderValue=0)
    is_ink = strip > threshold
    middle = _middle(strip, is_ink, half)
    at = np.arange(len(xs))
    is_line, level = is_ink[middle, at], strip[middle, at]
    # Printed lines reach the edge of the paper, and strokes do not.
    end_part = len(xs) // 20
    at_end = max(is_line[:end_part].mean(), is_line[-end_part:].mean())
    if is_line.mean() < 0.5 or at_end < 0.5:
        return
    above, below = _run(is_ink[::-1], 2 * half - middle), _run(is_ink, middle)
    thickness = above + below - 1
    # A quarter of it at least has nothing else on it.
    is_alone = thickness <= 1.25 * np.quantile(thickness[is_line], 0.25) + 1.5
    is_alone &= is_line & (level < 1.5 * np.median(level[is_line]) + 0.05)
    places = np.arange(2 * half + 1)[:, None]
    erased = is_alone[None] & (places >= (middle - above)[None])
    erased &= places <= (middle + below)[None]
    for to_whole in (np.floor, np.ceil):
        x = np.clip(to_whole(columns[erased]), 0, w - 1).astype(int)
        y = np.clip(to_whole(rows[erased]), 0, h - 1).astype(int)
        ink[y, x] = 0


def _middle(
    strip: Float[np.ndarray, "rows n"], is_ink: Bool[np.ndarray, "rows n"], half: int
) -> Int[np.ndarray, " n"]:
    """The row of a strip in which a line runs, which may bend a little."""
    import cv2

    near = half // 2
    smooth = cv2.blur(strip, (2 * half + 1, 3))[half - near : half + near + 1]
    middle = (smooth.argmax(0) + half - near).astype(np.float32)
    middle = np.round(cv2.blur(middle[None], (4 * half + 1, 1))[0]).astype(int)
    # It is also a line a pixel beside it.
    at = np.arange(strip.shape[1])
    below = is_ink[np.minimum(middle + 1, 2 * half), at]
    offset = np.where(is_ink[middle, at], 0, np.where(below, 1, -1))
    return np.clip(middle + offset, 0, 2 * half)


def _run(is_ink: Bool[np.ndarray, "rows n"], start: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How many pixels of each column are ink, from a row on, downwards."""
    rows = np.arange(len(is_ink))[:, None]
    return np.where(~is_ink & (rows >= start[None]), rows, len(is_ink)).min(0) - start


def without_boxes(ink: Ink, threshold: float) -> Ink:
    """Ink without boxes that are drawn around something, and without the walls between them."""
    import cv2

    found = pieces.label(ink > threshold)
    widths = found.widths
    cleaned = ink.copy()
    for i in range(len(found)):
        left, top, right, bottom = found.boxes[i]
        width, height = right - left, bottom - top
        if min(width, height) < 12:
            continue
        window = slice(top, bottom), slice(left, right)
        piece = (found.labels[window] == i + 1).astype(np.uint8)
        outline = pieces.outline(piece)
        (_, (a, b), _) = cv2.minAreaRect(outline)
        around = cv2.contourArea(outline)
        if around < 0.85 * a * b or found.area[i] > 0.5 * around:
            continue  # No rectangle, or filled.
        line = widths[i]
        frame, inside = np.zeros_like(piece), np.zeros_like(piece)
        cv2.drawContours(frame, [outline], -1, 1, round(2.5 * line) + 2)
        cv2.drawContours(inside, [outline], -1, 1, cv2.FILLED)
        rest = (found.labels[window] > 0) & (inside > 0) & (frame == 0)
        if rest.sum() < 0.02 * around:
            continue  # It is empty: an 0, perhaps.
        part = cleaned[window]
        part[frame > 0] = 0
        within = pieces.label(rest)
        # Walls are as long as the box is wide or high.
        is_long = within.sides > 0.85 * (np.array([width, height]) - 3 * line)[None]
        is_wall = is_long.any(1) & (within.area < 2.2 * line * within.longer)
        part[np.isin(within.labels, 1 + np.flatnonzero(is_wall))] = 0
    return cleaned
