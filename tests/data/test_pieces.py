"""Connected pieces, measured, and which of them look like strokes."""

import cv2
import numpy as np
import pytest

from jaxmnist.data import pieces


def drawn(*lines, shape=(200, 300), width=8):
    """Ink along lines, each a list of points."""
    ink = np.zeros(shape, np.uint8)
    for line in lines:
        cv2.polylines(ink, [np.array(line, np.int32)], False, 255, width, cv2.LINE_AA)
    return (ink / np.float32(255)).astype(np.float32)


def test_pieces_have_boxes_areas_and_contact():
    mask = np.zeros((60, 80), bool)
    mask[10:20, 30:50] = True
    mask[40:60, 5:8] = True
    found = pieces.label(mask)
    assert len(found) == 2
    assert found.boxes.tolist() == [[30, 10, 50, 20], [5, 40, 8, 60]]
    assert found.area.tolist() == [200, 60]
    assert found.sides.tolist() == [[20, 10], [3, 20]]
    assert found.contact.tolist() == [0, 3]
    only = found.only(np.array([False, True]))
    assert only.boxes.tolist() == [[5, 40, 8, 60]]
    assert set(np.unique(only.labels)) == {0, 1}


def test_a_sheets_edge_counts_as_contact():
    mask = np.zeros((60, 80), bool)
    mask[10:20, 30:50] = True
    sheet = np.ones(mask.shape, bool)
    assert pieces.label(mask, sheet).contact[0] == 0
    sheet[:, 50:] = False
    assert pieces.label(mask, sheet).contact[0] == 10


@pytest.mark.parametrize("width", [2, 5, 9, 20])
def test_the_width_of_strokes(width):
    found = pieces.label(drawn([(60, 100), (240, 100)], width=width) > 0.5)
    assert found.widths[0] == pytest.approx(width, abs=max(2, 0.2 * width))


def test_means_are_those_of_each_piece():
    mask = np.zeros((50, 50), bool)
    mask[5:10, 5:10] = mask[30:40, 30:40] = True
    values = np.where(np.arange(50)[:, None] < 20, 1.0, 3.0) * np.ones((50, 50))
    assert pieces.label(mask).means(values).tolist() == [1.0, 3.0]


def test_what_is_no_stroke_has_the_lower_score():
    stroke = drawn([(80, 60), (140, 60), (100, 150)])

    def score(ink):
        return pieces.stroke_scores(ink, pieces.label(ink > 0.1)).max(initial=0)

    blob = np.zeros_like(stroke)
    cv2.circle(blob, (150, 100), 50, 1.0, -1)
    soft = cv2.GaussianBlur(stroke, (0, 0), 25)
    strip = np.zeros_like(stroke)
    strip[:, :12] = 1
    for other in (blob, soft / soft.max(), strip, 0.3 * stroke):
        assert score(other) < 0.5 * score(stroke)
    assert pieces.stroke_scores(stroke, pieces.label(stroke > 2)).shape == (0,)


def test_a_line_through_the_picture_is_one_and_a_digit_is_not():
    ink = drawn([(0, 30), (299, 40)], [(80, 90), (140, 90), (100, 170)], width=4)
    found = pieces.label(ink > 0.5)
    assert pieces.are_lines(found).tolist() == [True, False]
    assert pieces.are_straight(found).tolist() == [True, False]


@pytest.mark.parametrize(("x", "wanted"), [(0.0, 3), (3.0, 3), (4.5, 5), (6.0, 7), (7.9, 7)])
def test_sizes_of_filters_are_odd(x, wanted):
    assert pieces.odd(x) == wanted


def test_plus_signs_are_crosses_and_digits_are_not(test_split):
    mask = np.zeros((60, 60), bool)
    mask[27:33, 8:52] = mask[8:52, 27:33] = True
    assert pieces.are_crosses(pieces.label(mask)).all()
    images = test_split.images[:1000, ..., 0] > 100
    crosses = [pieces.are_crosses(pieces.label(image)).any() for image in images]
    assert np.mean(crosses) < 0.01
