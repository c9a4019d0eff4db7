"""What is printed on paper goes, and strokes stay."""

import cv2
import numpy as np
import pytest

from jaxmnist.data import printed
from tests.data.test_pieces import drawn

DIGIT = [(110, 60), (190, 62), (130, 150)]


def ruled(shape=(200, 300), pitch=36, level=1.0, angle=0.0, width=2):
    ink = np.zeros(shape, np.float32)
    for y in range(20, shape[0], pitch):
        rise = int(np.tan(np.radians(angle)) * shape[1])
        cv2.line(ink, (0, y), (shape[1] - 1, y + rise), level, width)
    return ink


def kept(cleaned, strokes):
    """The share of the strokes that stays, and that of the rest that does."""
    is_stroke = cv2.dilate((strokes > 0.2).astype(np.uint8), np.ones((5, 5))) > 0
    lost = cleaned[strokes > 0.5] > 0.3
    return lost.mean(), (cleaned[~is_stroke] > 0.1).mean()


@pytest.mark.parametrize("level", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("angle", [0, 3, -6])
def test_lines_go_and_a_stroke_across_them_stays(level, angle):
    strokes = drawn(DIGIT, width=9)
    cleaned = printed.without_lines(np.maximum(strokes, ruled(level=level, angle=angle)), 0.1)
    stays, remains = kept(cleaned, strokes)
    assert stays > 0.93
    assert remains < 0.004


def test_squares_go():
    strokes = drawn(DIGIT, width=9)
    squares = np.maximum(ruled(), ruled((300, 200)).T)
    stays, remains = kept(printed.without_lines(np.maximum(strokes, squares), 0.1), strokes)
    assert stays > 0.9
    assert remains < 0.01


def test_a_faint_stroke_on_dark_lines_stays():
    strokes = 0.4 * drawn(DIGIT, width=9)
    cleaned = printed.without_lines(np.maximum(strokes, ruled()), 0.1)
    assert (cleaned[strokes > 0.3] > 0.3).mean() > 0.9
    assert kept(cleaned, strokes / 0.4)[1] < 0.004


@pytest.mark.parametrize("width", [3, 9])
def test_a_one_is_no_printed_line(width):
    one = drawn([(150, 20), (140, 180)], width=width)
    np.testing.assert_array_equal(printed.without_lines(one, 0.1), one)


def test_lines_of_a_sheet_end_at_its_edge():
    strokes = drawn(DIGIT, width=9)
    sheet = np.zeros(strokes.shape, bool)
    sheet[15:185, 60:240] = True
    ink = np.where(sheet, np.maximum(strokes, ruled()), np.float32(0))
    stays, remains = kept(printed.without_lines(ink, 0.1, sheet), strokes)
    assert stays > 0.93
    assert remains < 0.004


def box(left, top, right, bottom, ink):
    cv2.rectangle(ink, (left, top), (right, bottom), 1.0, 2)


def test_a_box_around_something_goes_and_its_walls_too():
    strokes = drawn(DIGIT, width=9)
    ink = strokes.copy()
    box(80, 40, 220, 170, ink)
    stays, remains = kept(printed.without_boxes(ink, 0.1), strokes)
    assert (stays, remains) == (1, 0)
    row = np.zeros((120, 400), np.float32)
    box(20, 20, 380, 100, row)
    for x in (110, 200, 290):
        cv2.line(row, (x, 20), (x, 100), 1.0, 2)
    digits = drawn([(50, 40), (70, 42), (55, 80)], [(240, 40), (241, 80)], shape=row.shape, width=5)
    stays, remains = kept(printed.without_boxes(np.maximum(row, digits), 0.1), digits)
    assert stays == 1
    assert remains < 0.01


def test_a_zero_is_no_box():
    zero = np.zeros((200, 300), np.float32)
    cv2.ellipse(zero, (150, 100), (50, 70), 0, 0, 360, 1.0, 8)
    np.testing.assert_array_equal(printed.without_boxes(zero, 0.1), zero)
    box(60, 20, 240, 180, empty := np.zeros((200, 300), np.float32))
    np.testing.assert_array_equal(printed.without_boxes(empty, 0.1), empty)
