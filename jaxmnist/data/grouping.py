"""Pieces of strokes -> digits, in reading order."""

import itertools

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxmnist.data import pieces
from jaxmnist.data.pieces import Pieces

_Box = tuple[float, float, float, float]
_Group = list[int]  # Numbers of pieces, from 0.

_WIDE = 0.75  # What is narrower, in heights, is not cut through ink.
_MOST_CUTS = 6


def group(found: Pieces) -> list[tuple[int, _Group]]:
    """The row and the pieces of each object, in reading order.

    Dots, dashes, slashes, plus signs and lines below digits are left out. Pieces that are near may
    be several objects all the same, as may one that is wide (`cuts`).
    """
    boxes = found.boxes.astype(float)

    def box(members: _Group) -> _Box:
        left, top = boxes[members, :2].min(0)
        right, bottom = boxes[members, 2:].max(0)
        return float(left), float(top), float(right), float(bottom)

    def height(members: _Group) -> float:
        return box(members)[3] - box(members)[1]

    def highest(groups: list[_Group]) -> float:
        """The height of the highest that is no speck."""
        areas = [found.area[members].sum() for members in groups]
        return max(
            height(g) for g, area in zip(groups, areas, strict=True) if 4 * area >= max(areas)
        )

    left_out = _separators(found)
    groups = [[int(i)] for i in np.argsort(-found.area) if not left_out[i]]
    typical = highest(groups)
    count = 0
    while len(groups) != count:  # What was joined may join others.
        count = len(groups)
        # Of few pieces none may be as high as the digit.
        _join(groups, [box(members) for members in groups], (2.2 if count <= 3 else 1.7) * typical)
    typical = highest(groups)
    rows: list[list[_Group]] = []
    for members in sorted(groups, key=lambda members: box(members)[0]):
        left, top, right, bottom = box(members)
        is_low = bottom - top <= 0.5 * typical
        if is_low and not (right - left > 0.6 * typical and bottom - top > 0.35 * typical):
            continue  # A dot or a dash.
        for row in rows:  # A row goes on with what is as high as its last object.
            _, top_of_last, _, bottom_of_last = box(row[-1])
            shared = min(bottom, bottom_of_last) - max(top, top_of_last)
            if shared > 0.4 * min(bottom - top, bottom_of_last - top_of_last):
                row.append(members)
                break
        else:
            rows.append([members])
    rows.sort(key=lambda row: np.mean([box(members)[1] + box(members)[3] for members in row]))
    objects: list[tuple[int, _Group]] = []
    for number, row in enumerate(rows):
        objects.append((number, row[0]))
        for members in row[1:]:
            last, this = box(objects[-1][1]), box(members)
            wide, high = this[2] - last[0], max(this[3], last[3]) - min(this[1], last[1])
            if this[0] - last[2] < 0.3 * typical and wide < 1.2 * high:
                objects[-1][1].extend(members)
            else:
                objects.append((number, members))
    return objects


def _join(groups: list[_Group], boxes: list[_Box], most: float) -> None:
    """Joins groups, and their boxes, that are one object of at most this height, in one pass."""
    i = 0
    while i < len(groups):
        others = range(i + 1, len(groups))
        j = next((j for j in others if _is_one(boxes[i], boxes[j], most)), None)
        if j is None:
            i += 1
            continue
        groups[i] += groups.pop(j)
        (a, b, c, d), (e, f, g, h) = boxes[i], boxes.pop(j)
        boxes[i] = min(a, e), min(b, f), max(c, g), max(d, h)


def _separators(found: Pieces) -> Bool[np.ndarray, " n"]:
    """Which pieces are lines below others, slashes higher than these, or plus signs."""
    (width, height), straight = found.sides.T.astype(float), pieces.are_straight(found)
    left, top, right, bottom = found.boxes.T.astype(float)
    is_flat = width > 4 * height
    shared = np.minimum(right[:, None], right[None]) - np.maximum(left[:, None], left[None])
    is_below = top[:, None] > (bottom - 0.15 * height)[None]
    is_below &= shared > 0.5 * np.minimum(width[:, None], width[None])
    is_below &= (width[:, None] > 0.8 * width[None]) & ~is_flat[None]
    is_line = is_flat & is_below.any(1)
    is_slash = np.zeros(len(found), bool)
    digits = height[~straight & ~is_flat]
    if len(digits) >= 3:
        is_slash = straight & (height > 1.3 * np.median(digits)) & (width < 0.7 * height)
    is_plus = pieces.are_crosses(found) & (height < 0.75 * np.median(height))
    return is_line | is_slash | (is_plus if len(digits) >= 3 else False)


def _is_one(a: _Box, b: _Box, most: float) -> bool:
    """Whether two boxes are parts of one object, such as a 5 and its top.

    Args:
      a: of a group of pieces.
      b: of another.
      most: how high one object can be.
    """
    high, wide = max(a[3], b[3]) - min(a[1], b[1]), max(a[2], b[2]) - min(a[0], b[0])
    beside, above = max(a[0], b[0]) - min(a[2], b[2]), max(a[1], b[1]) - min(a[3], b[3])
    if high > most or above > 0.2 * high:
        return False
    if -beside > 0.5 * min(a[2] - a[0], b[2] - b[0]):
        return True
    is_small = min(a[3] - a[1], b[3] - b[1]) < 0.6 * high
    return is_small and max(beside, above) < 0.2 * high and wide < 1.3 * high


def cuts(ink: Float[np.ndarray, "h w"]) -> list[Int[np.ndarray, " h"]]:
    """Where one object may be several that touch: the column of each row, from left to right.

    They are the paths from top to bottom that cross the least ink, of those near each other the
    best. A path moves by at most a column a row.
    """
    h, w = ink.shape
    cost = np.array(ink, np.float32)
    before = np.zeros((h, w), int)
    for i in range(1, h):
        padded = np.pad(cost[i - 1], 1, constant_values=np.inf)
        ways = np.stack([padded[:-2] + 0.01, padded[1:-1], padded[2:] + 0.01])
        cost[i] += ways.min(0)
        before[i] = np.arange(w) + ways.argmin(0) - 1
    paths = np.empty((h, w), int)
    paths[-1] = np.arange(w)
    for i in range(h - 1, 0, -1):
        paths[i - 1] = before[i][paths[i]]
    middles = paths.mean(0)
    chosen: list[int] = []
    for x in np.argsort(cost[-1], kind="stable"):
        crosses = cost[-1, x] > 0.03 * h
        if len(chosen) == _MOST_CUTS or cost[-1, x] > 0.45 * h or (crosses and w < _WIDE * h):
            break
        others = np.array([0, w, *middles[chosen]])
        if np.abs(others - middles[x]).min() >= (0.2 if crosses else 0.1) * h:
            chosen.append(int(x))
    return [paths[:, x] for x in sorted(chosen, key=lambda x: middles[x])]


def between(
    ink: Float[np.ndarray, "h w"], walls: list[Int[np.ndarray, " h"]]
) -> dict[tuple[int, int], Float[np.ndarray, "h w"]]:
    """What is between any two walls, by their numbers, if it is as high as a digit could be.

    The first wall is the left edge, then come the cuts, and the last is the right edge.
    """
    h, w = ink.shape
    ends = [np.zeros(h, int), *walls, np.full(h, w)]
    columns = np.arange(w)[None]
    found = {}
    for a, b in itertools.combinations(range(len(ends)), 2):
        is_inside = (columns >= ends[a][:, None]) & (columns < ends[b][:, None])
        part = np.where(is_inside, ink, np.float32(0))
        rows = np.flatnonzero((part > 0.5).any(1))
        if len(rows) and np.ptp(rows) + 1 >= 0.6 * h and b - a < len(ends) - 1:
            found[a, b] = part
    return found if any(b == len(ends) - 1 for _, b in found) else {}
