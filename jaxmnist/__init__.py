"""The training pipeline of a paper's MNIST network, in JAX.

In Python:

  config = jaxmnist.get_config()                        # the paper's training
  results = jaxmnist.train_and_evaluate(config, "DIR")  # train, or go on where DIR stands
  model = jaxmnist.load("DIR")                          # the trained model
  model.predict("photo.jpg")                            # the classes and their probabilities
"""

from __future__ import annotations

import sys
import typing

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from typing import Any

    from ml_collections import ConfigDict

    from jaxmnist.data.input_pipeline import Data
    from jaxmnist.trained.inference import Model

__all__ = ["get_config", "load", "train_and_evaluate"]
__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:  # `python -m jaxmnist.MODULE`, while Python looks for the module.
    from jaxmnist import cli

    cli.refuse_modules_without_a_command(sys.orig_argv)


class _OldNames:
    """Finds modules by the names that they had before they moved into folders."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith("jaxmnist."):
            return None
        from jaxmnist import moved

        return moved.find_spec(name)


sys.meta_path.append(_OldNames)

# JAX is imported where it is needed, so that a command tells of a mistyped flag at once.


def get_config() -> ConfigDict:
    """The paper's training, 20,000 steps of 100, as fields to change: `config.num_steps = 600`.

    jaxmnist/config.py says what each field means. A value that a run cannot use is refused when it
    starts.
    """
    from jaxmnist import config

    return config.get_config()


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | Path,
    data: Data | Sequence[Any] | None = None,
    *,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Trains in a workdir from where it stands, and evaluates: `python -m jaxmnist.main`.

    Args:
      config: of the run; it stays as it is.
      workdir: the folder that becomes, or is, the record of the run.
      data: the arrays to train and to evaluate on, ((x, y), (x_test, y_test)), in place of the
        config's dataset. Images have the shape (n, height, width, channels) or (n, height, width),
        and are integers in 0 to 255, floating-point in [0, 1] or bool; labels are whole numbers
        from 0, or names. The workdir keeps them. Or a `jaxmnist.data.input_pipeline.Data()` that
        several calls share, so that the same data are read once.
      on_metrics: called with each record that is written to metrics.jsonl, and its "seed". Of
        training, every `config.log_every` steps: {"step": 100, "split": "train", "seconds": 3.1,
        "loss": 0.3, "accuracy": 0.9, "learning_rate": 0.05, "steps_per_second": 32.0, "seed": 0}.
        Of an evaluation, where "split" is "test" or "validation", without the last two metrics.

    Returns:
      What it writes to results.json: results["test"]["accuracy"], results["seconds"]["total"].

    Raises:
      jaxmnist.errors.UserError: what a user can mend, in one sentence.
      jaxmnist.errors.Interrupted: SIGTERM or Ctrl-C; a checkpoint is written, and the same call
        goes on from there.
    """
    from jaxmnist import train

    return train.train_and_evaluate(config, workdir, data, on_metrics=on_metrics)


def load(workdir: str | Path, *, trust_code: bool = False) -> Model:
    """The model that was trained in a workdir: `jaxmnist.load("DIR").predict("photo.jpg")`.

    Args:
      workdir: of the run.
      trust_code: whether the code of a network that the workdir holds may be run, though it was
        not trained with here.

    Raises:
      jaxmnist.errors.UserError: there is no such folder, or it holds no run, several, or no whole
        checkpoint.
    """
    from jaxmnist.trained import inference

    return inference.load(workdir, trust_code=trust_code)
