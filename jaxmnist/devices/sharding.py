"""Where arrays live: batches are split over every device of every process, states are copied."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxmnist.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How runs that train at once share a mesh of devices, with the axes "seed" and "data".

    Attributes:
      mesh: runs are spread over "seed", the examples of their batches over "data".
      num_runs: how many train at once. The arrays of several have one more axis, the first, or,
        where steps are stacked, the second.
    """

    mesh: Mesh | AbstractMesh
    num_runs: int = 1

    @classmethod
    def create(cls, num_runs: int = 1) -> "Layout":
        """On all devices that JAX has: as many as can each take whole runs, do."""
        devices = np.array(jax.devices())
        mesh = Mesh(devices.reshape(math.gcd(num_runs, devices.size), -1), ("seed", "data"))
        return cls(mesh, num_runs)

    def check(self, batch_size: int) -> None:
        """Raises UserError if the devices cannot share a batch equally."""
        count = self.mesh.shape["data"]
        over = batch_size % count
        if over:
            below, above = batch_size - over, batch_size - over + count
            nearest = [n for n in (below, above) if n and abs(n - batch_size) * 2 <= count]
            raise UserError(
                f"batch_size={batch_size} is not allowed on {count} devices, which share it: the "
                f"nearest that they divide is {' or '.join(map(str, nearest or [above]))}."
            )

    def round_up(self, batch_size: int) -> int:
        """The next larger batch that the devices share equally."""
        count = self.mesh.shape["data"]
        return math.ceil(batch_size / count) * count

    @property
    def state(self) -> NamedSharding:
        """Of a state: every device has the whole of it, or of its runs'."""
        return self._named(*self._runs)

    @property
    def everywhere(self) -> NamedSharding:
        """Of what every device has the whole of."""
        return self._named()

    def batch(self, *, stacked: bool = False) -> NamedSharding:
        """Of a batch, or of the stacked batches of several steps."""
        return self._named(*((None,) if stacked else ()), *self._runs, "data")

    @property
    def examples(self) -> NamedSharding:
        """Of a batch that all runs see."""
        return self._named("data")

    @property
    def _runs(self) -> tuple[str, ...]:
        return ("seed",) if self.num_runs > 1 else ()

    def _named(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def put(self, tree: Any, sharding: NamedSharding | None = None) -> Any:
        """Arrays of the host, the same in each process, moved to the devices (`everywhere`)."""
        to = sharding or self.everywhere

        def put(x):
            x = np.asarray(x)
            # Copied, since a CPU's JAX may use the host's memory, and a state's is given away.
            shards = [
                jax.device_put(np.array(x[index]), device)
                for device, index in to.addressable_devices_indices_map(x.shape).items()
            ]
            return jax.make_array_from_single_device_arrays(x.shape, to, shards)

        return jax.tree.map(put, tree)

    def over_runs(self, function: Callable, in_axes: Any = 0) -> Callable:
        """`function` of one run's arrays, made one of all runs' where there are several."""
        if self.num_runs == 1:
            return function
        return jax.vmap(function, in_axes, spmd_axis_name="seed")

    def per_example(self, function: Callable) -> Callable:
        """`function(x, *weights)`, told that its examples, x's first axis, are independent.

        For a function that XLA cannot split by itself, as one that reshapes examples into rows.
        """
        if self.mesh.size == 1:
            return function
        batch, copied = PartitionSpec("data"), PartitionSpec()

        @functools.wraps(function)
        def split(x, *weights):
            specs = (batch, *(copied for _ in weights))
            return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=batch)(
                x, *weights
            )

        return split

    def settle(self, tree: T) -> T:
        """Waits for `tree` where the steps of several devices must not overlap: on CPUs.

        There XLA's collectives wait for each other on few threads, and may do so for ever.
        """
        if self.mesh.size > 1 and jax.default_backend() == "cpu":
            jax.block_until_ready(tree)
        return tree

    def each_run(self, tree: Any) -> Iterator[Any]:
        """Arrays of the host, run by run."""
        if self.num_runs == 1:
            yield tree
            return
        for i in range(self.num_runs):
            yield jax.tree.map(lambda x, i=i: np.asarray(x[i]), tree)


def fetch(tree: Any) -> Any:
    """Arrays of the devices as NumPy arrays, whole in each process; all processes must call it."""
    if all(x.is_fully_addressable or x.is_fully_replicated for x in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
