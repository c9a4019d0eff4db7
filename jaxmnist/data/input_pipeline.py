"""Arrays on the device -> batches: the endless shuffled stream, and the ordered pass."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Integer, Key, Shaped, UInt8
from ml_collections import ConfigDict

from jaxmnist.data import datasets
from jaxmnist.devices import distributed
from jaxmnist.devices.sharding import Layout

Batch = dict[str, Shaped[Array, "batch ..."]]


@struct.dataclass
class Examples:
    """A split in device memory."""

    images: UInt8[Array, "n height width channels"]
    labels: Int[Array, " n"]

    def __len__(self) -> int:
        return len(self.labels)


class Data:
    """The data of runs, which stay on the devices for the next run that wants the same.

    Attributes:
      allow_sample: whether the sample may stand in, where a config allows it too.
    """

    def __init__(self):
        self.allow_sample = True
        self._key: Any = None
        self._loaded: tuple[datasets.Dataset, tuple[Examples, Examples]]

    def is_empty(self) -> bool:
        """Whether no run has loaded any yet."""
        return self._key is None

    def load(
        self, config: ConfigDict, layout: Layout
    ) -> tuple[datasets.Dataset, tuple[Examples, Examples]]:
        """The dataset, and its training and evaluation splits on the devices.

        Process 0 alone reads, and gives them to the others. Raises UserError as datasets.load.
        """
        splits = [config.train_split, config.eval_split]
        allow_sample = config.allow_sample and self.allow_sample
        args = (config.dataset, splits, config.data_dir, allow_sample)
        if self._key != (args, layout.mesh):
            dataset = distributed.from_first(lambda: datasets.load(*args))
            train, test = (put_on_device(s.images, s.labels, layout) for s in dataset.splits)
            self._key, self._loaded = (args, layout.mesh), (dataset, (train, test))
        return self._loaded


class ShuffledBatches:
    """The endless stream of shuffled batches, as a pure function of the step.

    Epoch e is a permutation drawn from fold_in(key, e); step s takes examples
    [s * batch_size, (s + 1) * batch_size) of the epochs laid end to end. So there is no
    iterator to save: whoever knows the seed and the step knows the batch.
    """

    def __init__(
        self,
        examples: Examples,
        key: Key[Array, "*runs"],
        batch_size: int,
        layout: Layout | None = None,
    ):
        """Of a run, or with a key for each of the layout's.

        Raises ValueError for a batch that is larger than the split.
        """
        if not 1 <= batch_size <= len(examples):
            raise ValueError(f"batch_size={batch_size} of {len(examples)} examples")
        self._examples, self._key, self._batch_size = examples, key, batch_size
        self._layout = layout or Layout.create()
        self._permutations: dict[int, Int[Array, "*runs n"]] = {}
        self._order: Int[Array, "*runs m"] | None = None

    def __call__(self, step: int, count: int | None = None) -> Batch:
        """Batch `step`: "image" float32 (batch, h, w, c) in [0, 1], "label" int32 (batch,).

        With a `count`, the batches of as many steps, stacked along a first axis. Several runs'
        batches have an axis more before that of the examples.
        """
        shape = (self._batch_size,) if count is None else (count, self._batch_size)
        epoch, offset = divmod(step * self._batch_size, len(self._examples))
        end = epoch + 1 + math.ceil(math.prod(shape) / len(self._examples))
        if list(self._permutations) != list(range(epoch, end)):
            self._permutations = {e: self._permutation(e) for e in range(epoch, end)}
            self._order = _concatenate(list(self._permutations.values()), self._layout)
        offset = self._layout.put(np.int32(offset))
        return _take(self._examples, self._order, offset, shape, self._layout)

    def _permutation(self, epoch: int) -> Int[Array, "*runs n"]:
        if epoch in self._permutations:
            return self._permutations[epoch]
        epoch = self._layout.put(np.int32(epoch))
        return _permutation(self._key, epoch, len(self._examples), self._layout)


@functools.partial(jax.jit, static_argnames=("n", "layout"))
def _permutation(
    key: Key[Array, "*runs"], epoch: Int[Array, ""], n: int, layout: Layout
) -> Int[Array, "*runs n"]:
    def draw(key):
        return jax.random.permutation(jax.random.fold_in(key, epoch), n)

    return jax.lax.with_sharding_constraint(layout.over_runs(draw)(key), layout.state)


@functools.partial(jax.jit, static_argnames="layout")
def _concatenate(parts: list[Int[Array, "*runs n"]], layout: Layout) -> Int[Array, "*runs m"]:
    return jax.lax.with_sharding_constraint(jnp.concatenate(parts, axis=-1), layout.state)


@functools.partial(jax.jit, static_argnames=("shape", "layout"))
def _take(
    examples: Examples,
    order: Int[Array, "*runs m"],
    offset: Int[Array, ""],
    shape: tuple[int, ...],
    layout: Layout,
) -> Batch:
    index = jax.lax.dynamic_slice_in_dim(order, offset, math.prod(shape), axis=-1)
    index = index.reshape(*index.shape[:-1], *shape)
    stacked = len(shape) > 1
    if stacked:
        index = jnp.moveaxis(index, -2, 0)  # The steps before the runs.
    # Each device gathers its own part.
    index = jax.lax.with_sharding_constraint(index, layout.batch(stacked=stacked))
    return {"image": to_float(examples.images[index]), "label": examples.labels[index]}


def ordered_batches(
    examples: Examples, batch_size: int, layout: Layout | None = None
) -> Iterator[Batch]:
    """Every example once, in order; the last batch is filled up with "mask" False.

    Yields "image" and "label" as ShuffledBatches does for one run, and "mask" bool (batch,).
    The batch size is raised to what the layout's devices divide.
    """
    layout = layout or Layout.create()
    size = layout.round_up(min(batch_size, len(examples)))
    for start in range(0, len(examples), size):
        yield _take_in_order(examples, layout.put(np.int32(start)), size, layout)


@functools.partial(jax.jit, static_argnames=("size", "layout"))
def _take_in_order(examples: Examples, start: Int[Array, ""], size: int, layout: Layout) -> Batch:
    index = jax.lax.with_sharding_constraint(start + jnp.arange(size), layout.examples)
    mask = index < len(examples)
    index = jnp.minimum(index, len(examples) - 1)
    return {
        "image": to_float(examples.images[index]),
        "label": examples.labels[index],
        "mask": mask,
    }


def to_float(images: UInt8[Array, "*n h w c"]) -> Float[Array, "*n h w c"]:
    """Pixels as float32 in [0, 1]."""
    # In rows, because a CPU's vector instructions run along the last axis, here of one channel.
    rows = images.reshape(*images.shape[:-3], -1)
    return (rows.astype(jnp.float32) / 255).reshape(images.shape)


def put_on_device(
    images: UInt8[np.ndarray, "n height width channels"],
    labels: Integer[np.ndarray, " n"],
    layout: Layout | None = None,
) -> Examples:
    """A split's arrays, moved to every device of the layout; by default to all there are."""
    layout = layout or Layout.create()
    return Examples(layout.put(images), layout.put(labels.astype(np.int32)))
