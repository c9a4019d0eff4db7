"""A pass over a split counts every example once."""

import jax
import numpy as np
import optax
import pytest

from jaxmnist.compile import compiled_steps
from jaxmnist.config import get_config
from jaxmnist.data.datasets import describe
from jaxmnist.data.input_pipeline import Examples, OrderedBatches
from jaxmnist.evaluate import evaluate
from tests.test_models import reference

INFO = describe(get_config())


@pytest.mark.parametrize("batch_size", [1, 7, 30, 64])
def test_evaluation_counts_every_image_once(config, sample, layout, batch_size):
    steps = compiled_steps(config, INFO, layout)
    state = steps.init([0])
    examples = Examples(sample[1].images[:30], sample[1].labels[:30])
    logits = reference(state.params, examples.images / 255)
    correct = int((logits.argmax(-1) == examples.labels).sum()) / 30
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels).mean()
    metrics, answers = evaluate(steps, state, OrderedBatches(examples, batch_size, layout))
    assert metrics["accuracy"] == pytest.approx(correct, abs=1e-9)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_array_equal(answers["classes"], logits.argmax(-1))
    probabilities = jax.nn.softmax(logits).max(-1)
    np.testing.assert_allclose(answers["confidence"], probabilities, rtol=1e-5)
