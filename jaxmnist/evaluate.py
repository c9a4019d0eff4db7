"""A pass over a split: mean loss and accuracy, and the answer to each example."""

from typing import NamedTuple

import jax
import numpy as np

from jaxmnist.compile import CompiledSteps
from jaxmnist.data.input_pipeline import OrderedBatches
from jaxmnist.devices.sharding import fetch
from jaxmnist.train_step import TrainState


class Evaluation(NamedTuple):
    """What a model says of a split.

    Attributes:
      metrics: mean loss and accuracy, float64.
      answers: for each example "classes", the most probable one, and "confidence", its
        probability.
    """

    metrics: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]


def evaluate(compiled: CompiledSteps, state: TrainState, batches: OrderedBatches) -> Evaluation:
    """Evaluates every example, each counted once."""
    eval_step = compiled.eval_step(batches.batch_size)
    found = [compiled.layout.wait_on_cpus(eval_step(state, batch)) for batch in batches]
    sums, answers = zip(*fetch(found), strict=True)
    count = batches.num_examples
    return Evaluation(
        jax.tree.map(lambda *x: np.asarray(np.sum(x, axis=0, dtype=np.float64) / count), *sums),
        jax.tree.map(lambda *x: np.concatenate(x, axis=-1)[..., :count], *answers),
    )
