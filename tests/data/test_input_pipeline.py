"""Batches are a function of the seed and the step, and epochs are permutations."""

import jax
import numpy as np
import pytest

from jaxmnist.data.input_pipeline import OrderedBatches, ShuffledBatches, put_on_device


@pytest.fixture
def examples(layout):
    """103 examples whose label and whose every pixel is their number."""
    numbers = np.arange(103, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (103, 2, 2, 1))
    return put_on_device(images, numbers, layout)


def stream(batches, steps):
    return np.concatenate([batches(step)["label"] for step in range(steps)])


@pytest.mark.parametrize("batch_size", [10, 103])
def test_each_epoch_is_a_permutation_without_a_gap(examples, layout, key, batch_size):
    labels = stream(ShuffledBatches(examples, key, batch_size, layout), 3 * 103 // batch_size)
    epochs = [labels[i : i + 103] for i in range(0, len(labels) - 102, 103)]
    assert len(epochs) >= 2
    for epoch in epochs:
        assert sorted(epoch) == list(range(103))
    assert list(epochs[0]) != list(epochs[1])


def test_any_step_can_be_asked_for(examples, layout, key):
    batches = ShuffledBatches(examples, key, 10, layout)
    in_turn = stream(batches, 40).reshape(40, 10)
    for step in (39, 0, 10, 21):
        np.testing.assert_array_equal(batches(step)["label"], in_turn[step])
        np.testing.assert_array_equal(
            ShuffledBatches(examples, key, 10, layout)(step)["label"], in_turn[step]
        )
    other = ShuffledBatches(examples, jax.random.key(8), 10, layout)
    assert list(other(0)["label"]) != list(in_turn[0])


def test_an_epoch_is_drawn_when_a_batch_reaches_into_it(examples, layout, key, monkeypatch):
    """So the first step waits for one sort of all examples, not for two."""
    batches = ShuffledBatches(examples, key, 10, layout)
    draw, drawn = batches._permutation_of, []
    monkeypatch.setattr(batches, "_permutation_of", lambda e: drawn.append(e) or draw(e))
    for step, epochs in ((0, {0}), (9, {0}), (10, {0, 1}), (11, {0, 1}), (20, {0, 1, 2})):
        batches(step)
        assert set(drawn) == epochs


@pytest.mark.parametrize(("first", "count"), [(0, 2), (7, 5), (4, 40)])
def test_stacked_batches_are_those_of_the_steps(examples, layout, key, first, count):
    """Also over several epochs at once, and when stacked and single ones alternate."""
    batches = ShuffledBatches(examples, key, 10, layout)
    stacked = batches(first, count)
    assert stacked["image"].shape == (count, 10, 2, 2, 1)
    for i in range(count):
        jax.tree.map(np.testing.assert_array_equal, batches(first + i), _at(stacked, i))
    jax.tree.map(np.testing.assert_array_equal, batches(first, count), stacked)


def _at(batches, i):
    return jax.tree.map(lambda x: x[i], batches)


def test_images_are_floats_that_belong_to_their_labels(examples, layout, key):
    batch = ShuffledBatches(examples, key, 10, layout)(3)
    assert batch["image"].shape == (10, 2, 2, 1)
    assert batch["image"].dtype == np.float32
    assert batch["label"].dtype == np.int32
    expected = np.asarray(batch["label"], np.float32) / np.float32(255)
    for pixel in (batch["image"][:, 0, 0, 0], batch["image"][:, 1, 1, 0]):
        np.testing.assert_allclose(pixel, expected, rtol=1e-6)


def test_pixels_span_0_to_1(sample, layout):
    batch = next(iter(OrderedBatches(sample[1], 1000, layout)))
    assert float(batch["image"].min()) == 0
    assert float(batch["image"].max()) == 1


def test_a_batch_beyond_the_split_is_refused(examples, layout, key):
    for size in (0, 104):
        with pytest.raises(ValueError, match=f"batch_size={size} of 103"):
            ShuffledBatches(examples, key, size, layout)


@pytest.mark.parametrize("batch_size", [1, 10, 103, 500])
def test_the_ordered_pass_has_every_example_once_in_order(examples, layout, batch_size):
    batches = OrderedBatches(examples, batch_size, layout)
    seen = [np.asarray(b["label"])[np.asarray(b["mask"])] for b in batches]
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(103))


def test_large_steps_do_not_overflow(examples, layout, key):
    batches = ShuffledBatches(examples, key, 100, layout)
    assert sorted(stream(lambda s: batches(s + 103 * 10**7), 103)) == sorted(list(range(103)) * 100)
