"""The training pipeline of a paper's MNIST network, in JAX."""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    from pathlib import Path

    from jaxmnist.inference import Model

__version__ = "0.1.0"


def load(workdir: str | Path) -> Model:
    """The model that was trained in a workdir: `jaxmnist.load("DIR").predict(images)`.

    Raises:
      jaxmnist.errors.UserError: the workdir holds no run, several, or no whole checkpoint.
    """
    from jaxmnist import inference  # Here, so that a command tells of a mistyped flag at once.

    return inference.load(workdir)
