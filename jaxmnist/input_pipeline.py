"""Arrays on the device -> batches: the endless shuffled stream, and the ordered pass."""

import functools
import math
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
        self._permutations: dict[int, Int[Array, " n"]] = {}
        self._order: Int[Array, " m"] | None = None

    def __call__(self, step: int, count: int | None = None) -> Batch:
        """Batch `step`: "image" float32 (batch, h, w, c) in [0, 1], "label" int32 (batch,).

        With a `count`, the batches of as many steps, stacked along a first axis.
        """
        shape = (self._batch_size,) if count is None else (count, self._batch_size)
        epoch, offset = divmod(step * self._batch_size, len(self._examples))
        end = epoch + 1 + math.ceil(math.prod(shape) / len(self._examples))
        if list(self._permutations) != list(range(epoch, end)):
            self._permutations = {e: self._permutation(e) for e in range(epoch, end)}
            self._order = jnp.concatenate(list(self._permutations.values()))
        return _take(self._examples, self._order, jax.device_put(offset), shape)

    def _permutation(self, epoch: int) -> Int[Array, " n"]:
        if epoch in self._permutations:
            return self._permutations[epoch]
        return _permutation(self._key, jax.device_put(epoch), len(self._examples))


@functools.partial(jax.jit, static_argnames="n")
def _permutation(key: Key[Array, ""], epoch: Int[Array, ""], n: int) -> Int[Array, " n"]:
    return jax.random.permutation(jax.random.fold_in(key, epoch), n)


@functools.partial(jax.jit, static_argnames="shape")
def _take(
    examples: Examples, order: Int[Array, " m"], offset: Int[Array, ""], shape: tuple[int, ...]
) -> Batch:
    index = jax.lax.dynamic_slice(order, (offset,), (math.prod(shape),))
    batch = {"image": to_float(examples.images[index]), "label": examples.labels[index]}
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), batch)


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
    # Flat, because a CPU's vector instructions run along the last axis, here of one channel.
    return (images.reshape(-1).astype(jnp.float32) / 255).reshape(images.shape)


def put_on_device(
    images: UInt8[np.ndarray, "n height width channels"], labels: Integer[np.ndarray, " n"]
) -> Examples:
    """A split's arrays, moved to the device."""
    return Examples(jax.device_put(images), jax.device_put(labels.astype(np.int32)))
