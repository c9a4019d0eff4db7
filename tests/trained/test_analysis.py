"""Accuracy, confusion and calibration of predictions that were made up for it."""

import numpy as np
import pytest

from jaxmnist.config import get_config
from jaxmnist.data.datasets import Split
from jaxmnist.trained.analysis import Analysis, interval


@pytest.fixture
def analysis():
    """Of six examples of three classes."""
    labels = np.array([0, 0, 0, 1, 1, 2])
    probabilities = np.array(
        [
            [0.9, 0.1, 0.0],
            [0.9, 0.1, 0.0],
            [0.1, 0.9, 0.0],  # Wrong.
            [0.1, 0.9, 0.0],
            [0.25, 0.5, 0.25],
            [0.5, 0.25, 0.25],  # Wrong.
        ]
    )
    return Analysis(
        name="made up",
        config=get_config(),
        dataset="mnist_sample",
        step=1,
        starts=[],
        records=[],
        results=None,
        class_names=["a", "b", "c"],
        split=Split(np.zeros((6, 28, 28, 1), np.uint8), labels),
        probabilities=probabilities,
        kernel=np.zeros((5, 5, 1, 32), np.float32),
        layers=[],
    )


def test_what_is_right_and_wrong(analysis):
    assert analysis.num_mistakes == 2
    assert analysis.accuracy == pytest.approx(4 / 6)
    assert analysis.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    of_labels = [0.9, 0.9, 0.1, 0.9, 0.5, 0.25]
    assert analysis.loss == pytest.approx(-np.mean(np.log(of_labels)))


@pytest.mark.parametrize(
    ("split", "places"),
    [
        ("test", {0: "test[0]", 5: "test[5]"}),
        ("train[55000:]", {0: "train[55000]", 5: "train[55005]"}),
        ("test[10:12]+train[-2:]", {1: "test[11]", 2: "train[59998]", 3: "train[59999]"}),
    ],
)
def test_an_example_is_found_in_the_whole_split(analysis, split, places):
    analysis.config.eval_split = split
    assert {i: analysis.place(i) for i in places} == places


def test_calibration(analysis):
    bins = analysis.bins
    assert bins.count.sum() == 6
    used = np.flatnonzero(bins.count)
    assert used.tolist() == [7, 13]  # 0.5 is in [7/15, 8/15), 0.9 in [13/15, 14/15).
    assert bins.count[used].tolist() == [2, 4]
    np.testing.assert_allclose(bins.confidence[used], [0.5, 0.9])
    np.testing.assert_allclose(bins.accuracy[used], [0.5, 0.75])
    assert bins.expected_calibration_error == pytest.approx(4 / 6 * 0.15)


def test_intervals_reach_beyond_what_was_counted_but_not_beyond_0_and_1():
    below, above = interval(np.array([0, 5, 10]), np.array([10, 10, 10]))
    # Wilson's of 5 of 10 is 0.5 ± 0.2634.
    np.testing.assert_allclose(below, [0, 0.2634, 0.2775], atol=1e-4)
    np.testing.assert_allclose(above, [0.2775, 0.2634, 0], atol=1e-4)
