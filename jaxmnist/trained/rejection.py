"""Whether an input is a digit at all: a small network's answer, beside that of a trained model.

A model is sure of letters, scribbles and faces too, for it knows digits only. This network was
trained on both by experiments/rejection.py.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float32, UInt8

from jaxmnist.data.info import Preparation
from jaxmnist.models import CNN

FILE = Path(__file__).with_name("rejection.npz")
# Ten digits, and none.
NETWORK = CNN(features=(8, 20, 32), kernel_size=3, hidden=32, num_classes=11)
# Below it an input is no digit. That refuses 0.5 % of validation digits cut out of pictures, 0.2 %
# of MNIST's own, and 71 % of what experiments/rejection.py draws that is none.
THRESHOLD = 0.05

_BATCH = 200


def applies_to(
    preparation: Preparation, class_names: Sequence[str], shape: tuple[int, ...]
) -> bool:
    """Whether a model reads inputs such as the network was trained on."""
    placed = tuple(preparation.get(key) for key in ("method", "box", "centre"))
    are_digits = set(class_names) <= set("0123456789")
    return are_digits and placed == ("strokes", 20, "mass") and shape == (28, 28, 1)


def digit_probability(inputs: UInt8[np.ndarray, "n 28 28 1"]) -> Float32[np.ndarray, " n"]:
    """The probability that each input, upright, is a digit."""
    # Two sizes are compiled, as for a model's answers.
    size = 1 if len(inputs) == 1 else _BATCH
    found = [np.empty(0, np.float32)]
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        padded = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
        found.append(np.asarray(_apply(_params(), padded))[: len(part)])
    return np.concatenate(found)


def save(file: Path, params: Any) -> None:
    """Writes parameters, in half precision."""
    flat = traverse_util.flatten_dict(params, sep="/")
    stored: dict[str, Any] = {name: np.float16(x) for name, x in flat.items()}
    np.savez_compressed(file, **stored)


@functools.cache
def _params() -> dict[str, Any]:
    with np.load(FILE) as stored:
        flat = {name: stored[name].astype(np.float32) for name in stored.files}
    return traverse_util.unflatten_dict(flat, sep="/")


@jax.jit
def _apply(params: dict[str, Any], inputs: UInt8[Array, "n 28 28 1"]) -> Float32[Array, " n"]:
    logits: Any = NETWORK.apply({"params": params}, inputs.astype(jnp.float32) / 255)
    return 1 - jax.nn.softmax(logits)[:, 10]
