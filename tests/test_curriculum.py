"""The hardest examples are found and trained on, and the sentences for what is no curriculum."""

import jax
import numpy as np
import pytest

from jaxmnist import checks, curriculum
from jaxmnist.config import get_config
from jaxmnist.curriculum import Curriculum, CurriculumBatches, create_curriculum, training_batches
from jaxmnist.data.input_pipeline import ShuffledBatches, put_on_device
from jaxmnist.devices.sharding import Layout
from jaxmnist.errors import UserError


@pytest.fixture
def examples(layout):
    """100 images, each of a brightness of its own."""
    images = np.broadcast_to(np.arange(100)[:, None, None, None], (100, 6, 5, 1)).astype(np.uint8)
    return put_on_device(images, np.arange(100) % 2, layout)


def index_of(images):
    """Which example each image of a batch is."""
    return np.round(np.asarray(images)[..., 0, 0, 0] * 255).astype(int)


def test_the_hardest_examples_are_those_that_a_small_network_gets_wrong(key, layout):
    """Of bright and dark images one in five has the label of the others."""
    is_bright = np.arange(100) % 2
    images = np.broadcast_to(200 * is_bright[:, None, None, None], (100, 6, 5, 1)).astype(np.uint8)
    examples = put_on_device(
        images, np.where(np.arange(100) < 80, is_bright, 1 - is_bright), layout
    )
    found = curriculum.hardest(key, examples, 2, 20)
    assert sorted(np.asarray(found)) == list(range(80, 100))


def test_from_a_step_on_only_the_hardest_are_trained_on(examples, key, layout):
    plain = ShuffledBatches(examples, key, 10, layout)
    batches = CurriculumBatches(Curriculum(0.2, 7), plain, 2)
    for step in range(7):
        np.testing.assert_array_equal(batches(step)["image"], plain(step)["image"])
    # Two batches are an epoch of the 20 hardest, each time in another order.
    epochs = [np.concatenate([index_of(batches(s + i)["image"]) for i in (0, 1)]) for s in (7, 9)]
    assert len(set(epochs[0])) == 20
    assert set(epochs[0]) == set(epochs[1])
    assert list(epochs[0]) != list(epochs[1])


@pytest.mark.parametrize(("first", "count"), [(0, 7), (5, 4), (6, 2), (7, 3), (0, 12)])
def test_stacked_batches_are_those_of_the_steps(examples, key, layout, first, count):
    plain = ShuffledBatches(examples, key, 10, layout)
    compiled, batches = (CurriculumBatches(Curriculum(0.2, 7), plain, 2) for _ in range(2))
    compiled.compile()
    stacked = compiled(first, count)
    for i in range(count):
        for name in ("image", "label"):
            np.testing.assert_array_equal(stacked[name][i], batches(first + i)[name])


def test_each_of_several_seeds_has_its_own_hardest(sample):
    """As it would have alone."""
    keys, examples = jax.random.split(jax.random.key(0), 3), sample[0]

    def create(key, layout):
        return CurriculumBatches(Curriculum(0.1, 2), ShuffledBatches(examples, key, 20, layout), 10)

    together = create(keys, Layout.create(3))
    alone = [create(each, Layout.create()) for each in keys]
    for step in (0, 1, 2, 30):
        found = together(step)
        for i, batches in enumerate(alone):
            np.testing.assert_array_equal(found["image"][i], batches(step)["image"])
    several = [set(map(bytes, np.asarray(together(2)["image"][i]))) for i in range(3)]
    assert several[0] != several[1]


def test_by_default_there_is_none(examples, key, layout):
    config = get_config()
    config.batch_size = 10
    assert create_curriculum("") is None
    assert isinstance(training_batches(config, examples, 2, key, layout), ShuffledBatches)
    config.curriculum = "hardest(share=0.5, after=0)"
    assert isinstance(training_batches(config, examples, 2, key, layout), CurriculumBatches)
    assert create_curriculum("hardest(share=1, after=3)") == Curriculum(1.0, 3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("easiest(share=0.3, after=60)", r"must be such as 'hardest\(share=0.3, after=60\)'"),
        ("hardest(share=0.3)", "must be such as"),
        ("hardest(share=0.3, after=60, often=1)", "must be such as"),
        ("hardest(0.3, 60)", "must be such as"),
        ("hardest(share=", "must be such as"),
        ("hardest(share=0, after=60)", "share must be a number above 0 and at most 1"),
        ("hardest(share=1.5, after=60)", "share must be a number above 0 and at most 1"),
        ("hardest(share='a', after=60)", "share must be a number above 0 and at most 1"),
        ("hardest(share=0.3, after=-1)", "after must be a whole number of at least 0"),
        ("hardest(share=0.3, after=20001)", "after must be at most num_steps=20000"),
        ("hardest(share=0.3, after=0.5)", "after must be a whole number of at least 0"),
    ],
)
def test_what_is_no_curriculum(text, sentence):
    config = get_config()
    config.curriculum = text
    with pytest.raises(UserError, match=sentence) as caught:
        checks.check(config)
    assert "curriculum=" in str(caught.value)


def test_a_batch_larger_than_the_hardest_is_refused(examples, key, layout):
    config = get_config()
    config.dataset = "mnist_sample"
    config.curriculum = "hardest(share=0.01, after=60)"
    with pytest.raises(
        UserError, match="its share of 4,000 examples is 40, fewer than batch_size=100"
    ):
        checks.check(config)
    with pytest.raises(ValueError, match="batch_size=21 of 20 examples"):
        CurriculumBatches(Curriculum(0.2, 7), ShuffledBatches(examples, key, 21, layout), 2)
