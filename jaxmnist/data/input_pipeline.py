"""Arrays on the device -> batches: the endless shuffled stream, and the ordered pass."""

import functools
import math
import typing
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float32, Int, Integer, Key, Shaped, UInt8
from ml_collections import ConfigDict

from jaxmnist.data import datasets
from jaxmnist.devices import distributed
from jaxmnist.devices.sharding import Layout

Images = UInt8[Array, "n height width channels"] | Float32[Array, "n height width channels"]
Batch = dict[str, Shaped[Array, "..."]]


# Not checked: JAX puts shapes in these fields too.
@typing.no_type_check
@struct.dataclass
class Examples:
    """A split in device memory."""

    images: Images
    labels: Int[Array, " n"]

    def __len__(self) -> int:
        return len(self.labels)


def put_on_device(
    images: UInt8[np.ndarray, "n height width channels"]
    | Float32[np.ndarray, "n height width channels"],
    labels: Integer[np.ndarray, " n"],
    layout: Layout,
) -> Examples:
    """A split's arrays, which nobody changes any more, moved to every device of the layout."""
    put = functools.partial(layout.put, may_share=True)
    return Examples(put(images), put(labels.astype(np.int32)))


class Data:
    """The data of runs, which stay on the devices for the next run that wants the same.

    Attributes:
      allow_sample: whether the sample may stand in, where a config allows it too.
    """

    def __init__(self):
        self.allow_sample = True
        self._key: Any = None
        self._loaded: tuple[datasets.Dataset, tuple[Examples, Examples]]

    def load(
        self, config: ConfigDict, layout: Layout
    ) -> tuple[datasets.Dataset, tuple[Examples, Examples]]:
        """The dataset, and its training and evaluation splits on the devices.

        Process 0 alone reads, and gives them to the others. Raises UserError as datasets.load.
        """
        splits = [config.train_split, config.eval_split]
        allow_sample = config.allow_sample and self.allow_sample
        prepared = config.prepare, tuple(config.image_shape)
        key = (config.dataset, splits, config.data_dir, allow_sample, prepared, layout.mesh)
        if self._key != key:
            dataset = distributed.from_first(lambda: _read(config, splits, allow_sample))
            train, test = (put_on_device(s.images, s.labels, layout) for s in dataset.splits)
            self._key, self._loaded = key, (dataset, (train, test))
        return self._loaded


def _read(config: ConfigDict, splits: list[str], allow_sample: bool) -> datasets.Dataset:
    config = config.copy_and_resolve_references()
    config.allow_sample = allow_sample
    return datasets.with_digest(datasets.read(config, splits))


class ShuffledBatches:
    """The endless stream of shuffled batches, as a pure function of the step.

    Epoch e is a permutation drawn from fold_in(key, e); step s takes examples
    [s * batch_size, (s + 1) * batch_size) of the epochs laid end to end. So there is no
    iterator to save: whoever knows the seed and the step knows the batch.

    Attributes:
      examples: the split.
      key: of each run, that its permutations are drawn from.
      batch_size: examples in a batch.
      layout: the layout.
    """

    def __init__(
        self,
        examples: Examples,
        key: Key[Array, "..."],
        batch_size: int,
        layout: Layout,
        among: Int[Array, "... n"] | None = None,
    ):
        """Takes all examples, or those whose places are given, of each run its own.

        Raises ValueError for a batch that is larger than that.
        """
        self._count = len(examples) if among is None else among.shape[-1]
        if not 1 <= batch_size <= self._count:
            raise ValueError(f"batch_size={batch_size} of {self._count} examples")
        self.examples, self.key, self.batch_size = examples, key, batch_size
        self.layout = layout
        self._permutations: dict[int, Int[Array, "... n"]] = {}
        self._epochs: list[int] = []
        self._order: Int[Array, "... m"] | None = None
        draw = functools.partial(_permutation, n=self._count)
        self._permutation = layout.jit(draw, layout.state, in_axes=(0, None, 0))
        self._among = among
        self._concatenate = layout.jit(lambda *parts: jnp.concatenate(parts), layout.state)
        self._take = functools.cache(self._jit_take)

    def __call__(self, step: int, count: int = 1) -> Batch:
        """Batch `step`: "image" float32 (batch, h, w, c) in [0, 1], "label" int32 (batch,).

        With a `count` above 1, the batches of as many steps, stacked along a first axis.
        """
        first = step * self.batch_size
        epoch, offset = divmod(first, self._count)
        size = count * self.batch_size
        # Only epochs that the batch needs are drawn, so a run's first step does not wait for the
        # second: another one takes its place in the order.
        last = (first + size - 1) // self._count
        places = 1 + math.ceil(size / self._count)
        epochs = [min(e, last) for e in range(epoch, epoch + places)]
        if self._epochs != epochs:
            self._permutations = {e: self._permutation_of(e) for e in set(epochs)}
            self._order = self._concatenate(*(self._permutations[e] for e in epochs))
            self._epochs = epochs
        return self._take(count)(self.examples, self._order, self.layout.put(np.int32(offset)))

    def _permutation_of(self, epoch: int) -> Int[Array, "... n"]:
        if epoch in self._permutations:
            return self._permutations[epoch]
        return self._permutation(self.key, self.layout.put(np.int32(epoch)), self._among)

    def _jit_take(self, count: int) -> jax.stages.Wrapped:
        stacked = count > 1
        shape = (count, self.batch_size) if stacked else (self.batch_size,)
        sharding = self.layout.batch(stacked=stacked)

        def take(examples: Examples, order: Int[Array, " m"], offset: Int[Array, ""]) -> Batch:
            index = jax.lax.dynamic_slice_in_dim(order, offset, math.prod(shape)).reshape(shape)
            # Each device gathers its own part.
            index = jax.lax.with_sharding_constraint(index, sharding)
            return {"image": to_float(examples.images[index]), "label": examples.labels[index]}

        return self.layout.jit(take, self.layout.batches(stacked=stacked), (None, 0, None))


def _permutation(
    key: Key[Array, ""], epoch: Int[Array, ""], among: Int[Array, " n"] | None, n: int
) -> Int[Array, " n"]:
    permutation = jax.random.permutation(jax.random.fold_in(key, epoch), n)
    return permutation if among is None else among[permutation]


class OrderedBatches:
    """Every example once, in order; the last batch is filled up with "mask" False.

    Iterating gives "image" and "label" as ShuffledBatches does for one run, and "mask", bool
    (batch,). All runs of a layout see the same.

    Attributes:
      num_examples: how many there are.
      batch_size: the size of every batch, rounded up to a multiple of the devices.
    """

    def __init__(self, examples: Examples, batch_size: int, layout: Layout):
        self.num_examples = len(examples)
        self.batch_size = layout.round_up(min(batch_size, self.num_examples))
        self._examples, self._layout = examples, layout

        def take(examples: Examples, start: Int[Array, ""]) -> Batch:
            index = start + jnp.arange(self.batch_size, dtype=jnp.int32)
            index = jax.lax.with_sharding_constraint(index, layout.batch())
            mask = index < self.num_examples
            index = jnp.minimum(index, self.num_examples - 1)
            image = to_float(examples.images[index])
            return {"image": image, "label": examples.labels[index], "mask": mask}

        self._take = jax.jit(take, out_shardings=layout.batch())

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.num_examples, self.batch_size):
            yield self._take(self._examples, self._layout.put(np.int32(start)))


def to_float(
    images: UInt8[Array, "*n h w c"] | Float32[Array, "*n h w c"],
) -> Float32[Array, "*n h w c"]:
    """Pixels as float32 in [0, 1]; those that are stay as they are."""
    if images.dtype != jnp.uint8:
        return images
    # In rows, because a CPU's vector instructions run along the last axis, here of one channel.
    rows = images.reshape(*images.shape[:-3], -1)
    return (rows.astype(jnp.float32) / 255).reshape(images.shape)
