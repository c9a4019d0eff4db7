"""The script that trains the network which tells digits from what is none."""

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="its fonts are drawn")

from experiments import rejection
from jaxmnist.trained import rejection as packaged


@pytest.fixture(scope="module")
def digits(test_split):
    return test_split.images[..., 0], test_split.labels


@pytest.mark.parametrize("family", rejection.FAMILIES, ids=lambda family: family.__name__)
def test_every_family_draws_something_else_each_time(family, digits):
    rng = np.random.default_rng(0)
    drawn = [family(rng, digits) for _ in range(6)]
    assert all(ink.shape == (rejection.SIDE, rejection.SIDE) for ink in drawn)
    # A font may lack a character: then nothing is drawn, and `examples` draws again.
    assert sum(0.001 < ink.mean() < 0.95 for ink in drawn) >= 2
    assert not np.array_equal(drawn[0], drawn[1])


def test_a_short_training_tells_more_than_chance_and_is_repeatable(digits, tmp_path):
    images, labels = rejection.examples(3, 600, digits)
    assert images.shape == (600, 28, 28, 1)
    np.testing.assert_array_equal(rejection.examples(3, 600, digits)[0], images)
    assert 0.4 < (labels == 10).mean() < 0.6
    params = rejection.train(0, images, labels.astype(np.int32), steps=130)
    packaged.save(tmp_path / "params.npz", params)
    assert (tmp_path / "params.npz").stat().st_size < 100_000
    inputs = images[:400].astype(np.float32) / 255
    logits = np.asarray(packaged.NETWORK.apply({"params": params}, jnp.asarray(inputs)))
    assert np.mean((logits.argmax(-1) == 10) == (labels[:400] == 10)) > 0.6


def test_the_packaged_network_knows_what_the_script_draws(digits):
    images, labels = rejection.examples(5, 600, digits)
    refused = packaged.digit_probability(images) < packaged.THRESHOLD
    assert refused[labels == 10].mean() > 0.5
    assert refused[labels < 10].mean() < 0.05
