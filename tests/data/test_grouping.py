"""Pieces become digits, in reading order."""

import itertools

import cv2
import numpy as np
import pytest

from jaxmnist.data import grouping, pieces


def groups(*shapes, size=(400, 700)):
    """Ellipses (left, top, width, height) or lines of points -> the lefts of each object."""
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
    return [[int(left[i]) for i in members] for _, members in grouping.group(found)]


def firsts(found):
    return [round(min(lefts), -1) for lefts in found]


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


def test_a_plus_sign_is_left_out_where_digits_are_higher():
    def with_plus(*digits):
        mask = np.zeros((200, 500), np.uint8)
        for x in digits:
            cv2.ellipse(mask, (x, 100), (25, 40), 0, 0, 360, 1, 7)
        cv2.line(mask, (60, 100), (104, 102), 1, 7)
        cv2.line(mask, (82, 80), (81, 122), 1, 7)
        found = grouping.group(pieces.label(mask > 0))
        return len(found)

    assert with_plus(160, 240, 320) == 3
    assert with_plus() == 1


def test_a_one_among_digits_is_no_slash():
    found = groups((100, 50, 60, 90), ((200, 53), (195, 137)), (240, 50, 60, 90), (330, 50, 60, 90))
    assert len(found) == 4


def test_parts_of_a_broken_digit_are_one():
    top_of_five = (105, 50), (160, 50)
    assert len(groups(top_of_five, (100, 62, 60, 90))) == 1
    arc, base = (150, 50, 70, 75), ((100, 150), (200, 190), (215, 180))
    assert len(groups(arc, base)) == 1
    assert len(groups(arc, base, (300, 50, 60, 140), (450, 50, 60, 140))) == 3


def test_near_digits_are_one_object_until_they_are_read():
    assert [len(lefts) for lefts in groups((100, 50, 40, 90), (148, 50, 40, 90))] == [2]
    assert [len(lefts) for lefts in groups((100, 50, 60, 90), (168, 50, 60, 90))] == [1, 1]


def rings(*centres, width, radius=38):
    ink = np.zeros((100, width), np.float32)
    for x in centres:
        cv2.circle(ink, (x, 50), radius, 1.0, 8)
    return ink


def test_cuts_go_where_digits_touch():
    ink = rings(45, 125, 205, width=250, radius=30)
    ink[45:55, 45:205] = 1
    found = [path.mean() for path in grouping.cuts(ink)]
    assert found == sorted(found)
    assert min(abs(x - 85) for x in found) < 6
    assert min(abs(x - 165) for x in found) < 6
    assert all(b - a >= 10 for a, b in itertools.pairwise([0, *found, 250]))


def test_what_is_narrow_is_cut_only_through_paper():
    ink = np.zeros((100, 50), np.float32)
    ink[5:95, 10:16] = ink[5:95, 36:42] = 1
    paths = grouping.cuts(ink)
    assert paths
    assert all(16 <= path.min() <= path.max() < 36 for path in paths)
    ink[50:56, 10:42] = 1
    assert grouping.cuts(ink) == []


def test_a_leaning_gap_is_followed():
    ink = np.zeros((100, 120), np.float32)
    for left in (20, 60):
        cv2.line(ink, (left + 36, 8), (left, 92), 1.0, 6)
    assert min(ink[np.arange(100), path].sum() for path in grouping.cuts(ink)) == 0


def test_between_cuts_are_parts_as_high_as_digits():
    ink = rings(45, 125, 205, width=250)
    walls = [np.full(100, 85), np.full(100, 165)]
    parts = grouping.between(ink, walls)
    assert parts.keys() == {(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)}
    np.testing.assert_array_equal(parts[0, 1] + parts[1, 2] + parts[2, 3], ink)
    np.testing.assert_array_equal(parts[0, 2], parts[0, 1] + parts[1, 2])
    ink[:60, 85:165] = 0
    assert grouping.between(ink, walls).keys() == {(0, 1), (2, 3), (0, 2), (1, 3)}


def test_parts_that_do_not_reach_the_right_edge_are_none():
    ink = rings(45, width=170)
    ink[48:52, 85:160] = 1
    assert grouping.between(ink, [np.full(100, 88)]) == {}


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
