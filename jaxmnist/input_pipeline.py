"""Arrays on the device -> batches: the endless shuffled stream, and the ordered pass."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Integer, Key, Shaped, UInt8

Batch = dict[str, Shaped[Array, "batch ..."]]


@struct.dataclass
class Examples:
    """A split in device memory."""

    images: UInt8[Array, "n height width channels"]
    labels: Int[Array, " n"]

    def __len__(self) -> int:
        return len(self.labels)


class ShuffledBatches:
    """The endless stream of shuffled batches, as a pure function of the step.

    Epoch e is a permutation drawn from fold_in(key, e); step s takes examples
    [s * batch_size, (s + 1) * batch_size) of the epochs laid end to end. So there is no
    iterator to save: whoever knows the seed and the step knows the batch.
    """

    def __init__(self, examples: Examples, key: Key[Array, ""], batch_size: int):
        """Raises ValueError for a batch that is larger than the split."""
        if not 1 <= batch_size <= len(examples):
            raise ValueError(f"batch_size={batch_size} of {len(examples)} examples")
        self._examples, self._key, self._batch_size = examples, key, batch_size
        self._epoch, self._order = -1, None

    def __call__(self, step: int) -> Batch:
        """Batch `step`: "image" float32 (batch, h, w, c) in [0, 1], "label" int32 (batch,)."""
        epoch, offset = divmod(step * self._batch_size, len(self._examples))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = _two_epochs(self._key, jax.device_put(epoch), len(self._examples))
        return _take(self._examples, self._order, jax.device_put(offset), self._batch_size)


@functools.partial(jax.jit, static_argnames="n")
def _two_epochs(key: Key[Array, ""], epoch: Int[Array, ""], n: int) -> Int[Array, " two_n"]:
    """The orders of `epoch` and the next, end to end, since a batch may straddle them."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, epoch + jnp.arange(2))
    return jax.vmap(lambda k: jax.random.permutation(k, n))(keys).reshape(-1)


@functools.partial(jax.jit, static_argnames="size")
def _take(
    examples: Examples, order: Int[Array, " two_n"], offset: Int[Array, ""], size: int
) -> Batch:
    index = jax.lax.dynamic_slice(order, (offset,), (size,))
    return {"image": to_float(examples.images[index]), "label": examples.labels[index]}


def ordered_batches(examples: Examples, batch_size: int) -> Iterator[Batch]:
    """Every example once, in order; the last batch is filled up with "mask" False.

    Yields "image" and "label" as ShuffledBatches does, and "mask" bool (batch,).
    """
    size = min(batch_size, len(examples))
    for start in range(0, len(examples), size):
        yield _take_in_order(examples, jax.device_put(start), size)


@functools.partial(jax.jit, static_argnames="size")
def _take_in_order(examples: Examples, start: Int[Array, ""], size: int) -> Batch:
    index = start + jnp.arange(size)
    mask = index < len(examples)
    index = jnp.minimum(index, len(examples) - 1)
    return {
        "image": to_float(examples.images[index]),
        "label": examples.labels[index],
        "mask": mask,
    }


def to_float(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Pixels as float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def put_on_device(
    images: UInt8[np.ndarray, "n height width channels"], labels: Integer[np.ndarray, " n"]
) -> Examples:
    """A split's arrays, moved to the device."""
    return Examples(jax.device_put(images), jax.device_put(labels.astype(np.int32)))
