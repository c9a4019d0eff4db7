"""Digits are told from what is none; shares count, for no single case is sure."""

import cv2
import numpy as np
import pytest

from jaxmnist.data import datasets, pictures
from jaxmnist.trained import rejection

MNIST = datasets.preparation("mnist")
DIGITS = [str(digit) for digit in range(10)]


def refused(inputs):
    return (rejection.digit_probability(inputs) < rejection.THRESHOLD).mean()


def drawing(rng, strokes):
    """Through the given points of the unit square, shaken a little, as a picture's input."""
    paper = np.full((300, 300), 235, np.uint8)
    for stroke in strokes:
        shaken = np.array(stroke) + rng.normal(0, 0.03, (len(stroke), 2))
        cv2.polylines(paper, [np.int32(50 + 200 * shaken)], False, 30, 14, cv2.LINE_AA)
    paper = cv2.GaussianBlur(paper, (0, 0), 2)
    return pictures.read(pictures.Image.fromarray(paper), "a drawing", MNIST)


def test_the_data_sets_digits_are_accepted():
    sample = datasets.load("mnist_sample", ["test"]).splits[0]
    assert refused(sample.images) <= 0.004


NO_DIGITS = [
    [[(0, 1), (0.5, 0), (1, 1)], [(0.2, 0.6), (0.8, 0.6)]],  # A
    [[(0, 0), (1, 1)], [(1, 0), (0, 1)], [(0, 0.5), (1, 0.5)]],
    [[(0, 1), (0, 0), (0.5, 0.6), (1, 0), (1, 1)]],  # M
    [[(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)], [(0, 0), (1, 1)], [(1, 0), (0, 1)]],
    None,  # Another scribble each time.
]


def test_most_of_what_is_no_digit_is_refused():
    rng = np.random.default_rng(0)
    drawn = [strokes or [rng.uniform(0, 1, (14, 2))] for _ in range(25) for strokes in NO_DIGITS]
    assert refused(np.stack([drawing(rng, strokes) for strokes in drawn])) >= 0.8


def test_batches_of_any_size_have_the_answers_of_single_inputs():
    images = datasets.load("mnist_sample", ["test"]).splits[0].images[:203]
    found = rejection.digit_probability(images)
    assert found.shape == (203,)
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()
    for i in (0, 199, 200, 202):
        assert rejection.digit_probability(images[i : i + 1])[0] == pytest.approx(
            found[i], abs=1e-5
        )
    assert rejection.digit_probability(images[:0]).shape == (0,)


def test_only_models_of_mnists_digits_are_concerned():
    shape = (28, 28, 1)
    assert rejection.applies_to(MNIST, DIGITS, shape)
    assert rejection.applies_to(MNIST, ["0", "1"], shape)
    assert not rejection.applies_to(MNIST, [*DIGITS, "a"], shape)
    assert not rejection.applies_to(MNIST, DIGITS, (32, 32, 1))
    assert not rejection.applies_to(datasets.preparation("fashion_mnist"), DIGITS, shape)
    assert not rejection.applies_to(datasets.preparation("emnist/digits"), DIGITS, shape)
    assert not rejection.applies_to(
        {"shows": "picture", "method": "resize", "swap_axes": False}, DIGITS, shape
    )


def test_parameters_are_kept_in_half_precision(tmp_path, monkeypatch):
    params = rejection._params()
    file = tmp_path / "rejection.npz"
    rejection.save(file, params)
    assert file.stat().st_size <= 100_000
    monkeypatch.setattr(rejection, "FILE", file)
    rejection._params.cache_clear()
    again = rejection._params()
    rejection._params.cache_clear()
    for name, layer in params.items():
        np.testing.assert_array_equal(again[name]["kernel"], layer["kernel"])
