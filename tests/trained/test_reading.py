"""What a picture shows: wholes or their parts, and which answers are unsure."""

import numpy as np
import pytest
from PIL import Image

from jaxmnist.data import datasets, pictures
from jaxmnist.trained import reading, rejection

NAMES = [str(digit) for digit in range(10)]


class FakeModel:
    """Answers an input by the grey level of its first pixel: class level // 10."""

    preparation = datasets.preparation("mnist")
    class_names = NAMES

    def __init__(self, sure=1.0):
        self.sure = sure

    def probabilities(self, inputs):
        p = np.full((len(inputs), 10), (1 - self.sure) / 9, np.float32)
        p[np.arange(len(inputs)), inputs[:, 0, 0, 0] // 10] = self.sure
        return p


def region(level, box=(0, 0, 10, 10), parts=()):
    return pictures.Region(box, np.full((28, 28, 1), level, np.uint8), parts)


def page(*regions):
    return pictures.Page(Image.new("RGB", (30, 30)), (30, 30), list(regions))


@pytest.fixture
def looks(monkeypatch):
    """Lets a test say how much like a digit each level looks."""
    by_level = {}

    def digit_probability(inputs):
        return np.array([by_level.get(int(x[0, 0, 0]), 1) for x in inputs], np.float32)

    monkeypatch.setattr(rejection, "digit_probability", digit_probability)
    return by_level


def test_answers_come_in_order_page_by_page(looks):
    found = reading.detect(FakeModel(), [page(region(70), region(10)), page(), page(region(40))])
    assert [[each.classes for each in one] for one in found] == [[7, 1], [], [4]]
    assert {each.doubt for one in found for each in one} == {""}
    assert reading.detect(FakeModel(), []) == []


def test_what_does_not_look_like_a_digit_is_unsure(looks):
    looks[70] = rejection.THRESHOLD / 2
    found = reading.detect(FakeModel(), [page(region(70), region(10))])[0]
    assert [each.doubt for each in found] == ["it does not look like a digit", ""]


def test_an_answer_of_low_probability_is_unsure(looks):
    found = reading.detect(FakeModel(sure=0.45), [page(region(70))])[0][0]
    assert found.doubt == "no class is clearly the most probable"


def test_models_of_other_things_are_not_asked_for_digits(looks):
    looks[70] = 0
    model = FakeModel()
    model.class_names = ["cat", *NAMES[1:]]
    assert reading.detect(model, [page(region(70))])[0][0].doubt == ""


def test_a_regions_own_doubt_counts_where_digits_are_read(looks):
    dotted = region(70)._replace(doubt="there is a dot below it")
    assert reading.detect(FakeModel(), [page(dotted)])[0][0].doubt == "there is a dot below it"
    letters = FakeModel()
    letters.class_names = ["a", *NAMES[1:]]
    assert reading.detect(letters, [page(dotted)])[0][0].doubt == ""


def test_where_many_do_not_look_like_digits_all_are_unsure(looks):
    looks[70] = 0
    letters = page(*[region(70)] * 3, *[region(10)] * 5)
    assert all(each.doubt for each in reading.detect(FakeModel(), [letters])[0])
    number = page(region(70), *[region(10)] * 5)
    assert [bool(each.doubt) for each in reading.detect(FakeModel(), [number])[0]] == (
        [True] + [False] * 5
    )


TOUCHING = (0, 0, 11, 10), (10, 0, 20, 10)
APART = (0, 0, 9, 10), (10, 0, 20, 10)


def in_parts(left, right, levels=(10, 10)):
    """A wide 8, cut into two."""
    parts = region(levels[0], left), region(levels[1], right)
    cut = tuple(part._replace(cuts=(i, i + 1)) for i, part in enumerate(parts))
    return region(80, (0, 0, 20, 10), cut)


def read(model, whole):
    return [each.classes for each in reading.detect(model, [page(whole)])[0]]


def test_a_whole_is_its_parts_if_only_these_look_like_digits(looks):
    looks[80] = 0
    assert read(FakeModel(), in_parts(*TOUCHING, levels=(30, 40))) == [3, 4]


@pytest.mark.parametrize(
    ("of_parts", "sure", "boxes"),
    [
        (0, 1.0, APART),  # They do not look like digits.
        (0.6, 0.8, APART),  # They may be none, and if they are one, it may be another.
        (1, 0.45, TOUCHING),
        (1, 1.0, ((0, 0, 15, 10), (10, 0, 20, 10))),  # They are halves of a ring.
    ],
)
def test_otherwise_it_stays_whole(looks, of_parts, sure, boxes):
    looks[80], looks[10] = 0, of_parts
    assert read(FakeModel(sure), in_parts(*boxes)) == [8]


@pytest.mark.parametrize(
    ("boxes", "wanted"),
    [(APART, [1, 1]), (TOUCHING, [8]), (((0, 0, 9, 10), (10, 3, 20, 10)), [8])],
)
def test_digits_of_one_height_with_paper_between_are_several(looks, boxes, wanted):
    assert read(FakeModel(), in_parts(*boxes)) == wanted


def test_of_several_cuts_those_are_taken_that_leave_the_likeliest_digits(looks):
    looks.update({80: 0, 50: 0.7, 60: 0.7})
    levels = {(0, 1): 10, (1, 2): 50, (2, 3): 60, (1, 3): 20, (0, 2): 50}
    parts = tuple(
        region(level, (10 * a, 0, 10 * b + 1, 10))._replace(cuts=(a, b))
        for (a, b), level in levels.items()
    )
    whole = region(80, (0, 0, 30, 10), parts)
    assert read(FakeModel(), whole) == [1, 2]
    without = whole._replace(parts=tuple(part for part in parts if part.cuts != (1, 3)))
    assert read(FakeModel(), without) == [1, 5, 6]
