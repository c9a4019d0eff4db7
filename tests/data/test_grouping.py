"""Pieces become digits, in reading order."""

import cv2
import numpy as np
import pytest

from jaxmnist.data import grouping, pieces


def groups(*shapes, size=(400, 700)):
    """Rectangles (left, top, width, height) or lines of points -> the shapes of each object."""
    mask = np.zeros(size, np.uint8)
    for shape in shapes:
        if isinstance(shape[0], tuple):
            cv2.polylines(mask, [np.array(shape)], False, 1, 6)
        else:
            left, top, width, height = shape
            cv2.ellipse(
                mask,
                (left + width // 2, top + height // 2),
                (max(width // 2 - 3, 1), max(height // 2 - 3, 1)),
                *(0, 0, 360, 1, 6),
            )
    found = pieces.label(mask > 0)
    left = found.boxes[:, 0]
    return [[[int(left[i]) for i in g] for g in parts] for _, parts in grouping.group(found)]


def firsts(found):
    return [round(min(x for part in parts for x in part), -1) for parts in found]


def test_a_number_is_read_from_left_to_right():
    assert firsts(groups((500, 50, 60, 90), (100, 45, 60, 90), (300, 60, 60, 90))) == [
        100,
        300,
        500,
    ]


def test_rows_are_read_from_top_to_bottom():
    found = groups(
        *((300, 200, 50, 80), (100, 60, 50, 80), (200, 210, 50, 80)),
        *((320, 65, 50, 80), (100, 205, 50, 80)),
    )
    assert firsts(found) == [100, 320, 100, 200, 300]


def test_a_slanted_row_is_one():
    assert firsts(groups(*((100 * i, 50 + 25 * i, 50, 80) for i in range(1, 6)))) == [
        *(100, 200, 300, 400, 500)
    ]


@pytest.mark.parametrize(
    "extra",
    [
        (190, 128, 14, 14),  # A dot.
        ((180, 95), (215, 95)),  # A dash.
        ((80, 160), (420, 160)),  # A line below.
        ((215, 30), (190, 170)),  # A slash, higher than the digits.
    ],
)
def test_separators_are_left_out(extra):
    digits = (100, 50, 60, 90), (240, 50, 60, 90), (330, 50, 60, 90)
    assert firsts(groups(*digits, extra)) == [100, 240, 330]


def test_a_one_among_digits_is_no_slash():
    found = groups((100, 50, 60, 90), ((200, 53), (195, 137)), (240, 50, 60, 90), (330, 50, 60, 90))
    assert len(found) == 4


def test_parts_of_a_broken_digit_are_one():
    top_of_five = (105, 50), (160, 50)
    assert len(groups(top_of_five, (100, 62, 60, 90))) == 1
    arc, base = (150, 50, 70, 75), ((100, 150), (200, 190), (215, 180))
    assert len(groups(arc, base)) == 1
    assert len(groups(arc, base, (300, 50, 60, 140), (450, 50, 60, 140))) == 3


def test_near_digits_may_be_one_or_two():
    (parts,) = groups((100, 50, 40, 90), (148, 50, 40, 90))
    assert [len(part) for part in parts] == [1, 1]
    assert parts[0][0] < parts[1][0]


def test_what_is_wide_can_be_cut_in_halves():
    ink = np.zeros((100, 160), np.float32)
    cv2.ellipse(ink, (40, 50), (30, 40), 0, 0, 360, 1.0, 8)
    cv2.ellipse(ink, (112, 50), (38, 40), 0, 0, 360, 1.0, 8)
    left, right = grouping.halves(ink)
    np.testing.assert_array_equal(left + right, ink)
    assert np.flatnonzero(left.any(0))[-1] <= 90
    assert np.flatnonzero(right.any(0))[0] >= 60
    assert left.sum() == pytest.approx(right.sum(), rel=0.5)
    assert grouping.halves(ink[:, :90]) == []


def test_a_page_of_marks_is_read_in_rows():
    mask = np.zeros((900, 1200), np.uint8)
    for y in range(20, 880, 80):
        for x in range(20, 1180, 120):
            cv2.line(mask, (x, y), (x + 8, y + 25), 1, 4)
            cv2.line(mask, (x + 16, y), (x + 16, y + 4), 1, 4)
    found = pieces.label(mask > 0)
    assert len(found) == 220
    rows = [row for row, _ in grouping.group(found)]
    assert rows == sorted(rows)
    assert max(rows) == 10
