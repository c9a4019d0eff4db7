"""Several trained models as one: the mean of their probabilities."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from jaxmnist.errors import UserError
from jaxmnist.files import local_path
from jaxmnist.record.workdir import Run, Workdir
from jaxmnist.seeds import each_seed
from jaxmnist.trained import inference
from jaxmnist.trained.inference import Model


def load(workdir: str | Path, dtype: str | None = None) -> list[Model]:
    """The model of each seed of a run. Raises UserError if one cannot be read.

    Args:
      workdir: of the run of several seeds.
      dtype: of the products, in place of the run's.
    """
    record = Workdir(local_path(workdir, "workdir"))
    config = record.load_config()
    if config is None:
        raise UserError(f"{workdir} holds no run of several seeds: train there first.")
    seeds = [run.workdir for run in each_seed(Run(config, record))]
    for seed in seeds:
        if seed.results.exists() and not seed.checkpoint_steps():
            raise UserError(
                f"{seed.path} has results.json, but no checkpoint: delete {seed.path}, and train "
                "it again."
            )
    return [inference.load(seed.path, dtype) for seed in seeds]


def probabilities(
    models: Sequence[Model], inputs: Shaped[np.ndarray, "n h w c"]
) -> Float[np.ndarray, "n classes"]:
    """The mean of the models' probabilities for inputs as the data set has them."""
    return np.mean([model.probabilities(inputs) for model in models], axis=0)
