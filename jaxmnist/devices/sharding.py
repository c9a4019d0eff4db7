"""Where arrays live: batches are split over every device of every process, states are copied."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxmnist.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How arrays are laid out on a mesh of devices, with the axes "seed" and "data".

    Runs that differ in their seeds alone can train at once. The core is written for one run: with
    several, `jit` makes its functions those of all by jax.vmap, and their arrays have one more
    axis, the first, which `split` takes apart.

    Attributes:
      mesh: the devices; runs are spread over "seed", the examples of their batches over "data".
      num_runs: how many runs train at once.
    """

    mesh: Mesh | AbstractMesh
    num_runs: int = 1

    @classmethod
    def create(cls, num_runs: int = 1) -> "Layout":
        """On all devices, in gcd(num_runs, devices) groups, each of which takes whole runs."""
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
    def everywhere(self) -> NamedSharding:
        """The sharding of what every device has the whole of."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def state(self) -> NamedSharding:
        """The sharding of states: every device has the whole of one, or those of its runs."""
        return NamedSharding(self.mesh, PartitionSpec(*self._runs))

    def batches(self, *, stacked: bool = False) -> NamedSharding:
        """The sharding of the batches of all runs, with `stacked` those of several steps."""
        return NamedSharding(self.mesh, PartitionSpec(*self._runs, *[None] * stacked, "data"))

    def batch(self, *, stacked: bool = False) -> NamedSharding:
        """The sharding of the batch of one run, or of one that all runs see."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * stacked, "data"))

    @property
    def _runs(self) -> tuple[str, ...]:
        return ("seed",) if self.num_runs > 1 else ()

    def jit(
        self, function: Callable, out_shardings: Any, in_axes: Any = 0, **options: Any
    ) -> jax.stages.Wrapped:
        """jax.jit of a function of one run's arrays, made one of all runs' by jax.vmap.

        Args:
          function: the function.
          out_shardings: as of jax.jit.
          in_axes: as of jax.vmap: None for an argument that is the same for all runs.
          options: other arguments of jax.jit.
        """
        if self.num_runs > 1:
            function = jax.vmap(function, in_axes, spmd_axis_name="seed")
        return jax.jit(function, out_shardings=out_shardings, **options)

    def split(self, tree: Any) -> list[Any]:
        """The trees of NumPy arrays of the runs, one for each, from that of all."""
        if self.num_runs == 1:
            return [tree]
        return [jax.tree.map(lambda x, i=i: np.asarray(x[i]), tree) for i in range(self.num_runs)]

    def stack(self, trees: Sequence[Any]) -> Any:
        """The opposite of `split`."""
        return trees[0] if self.num_runs == 1 else jax.tree.map(lambda *x: np.stack(x), *trees)

    def put(
        self, tree: Any, sharding: NamedSharding | None = None, *, may_share: bool = False
    ) -> Any:
        """Arrays of the host, the same in each process, moved to the devices.

        Args:
          tree: the arrays.
          sharding: of all of them; by default `everywhere`.
          may_share: whether a device may use the host's memory, which then nobody changes.
        """
        to, copied = sharding or self.everywhere, np.asarray if may_share else np.array

        def put(x):
            x = np.asarray(x)
            # Copied, since a CPU's JAX may use the host's memory, and a state's is given away.
            return jax.make_array_from_callback(x.shape, to, lambda index: copied(x[index]))

        # For a transfer guard only jax.device_put is explicit; this is asked for too.
        with jax.transfer_guard("allow"):
            return jax.tree.map(put, tree)

    def wait_on_cpus(self, tree: T) -> T:
        """Waits for `tree` where the steps of several devices must not overlap: on CPUs.

        There XLA's collectives wait for each other on few threads, and may do so for ever.
        """
        if self.mesh.size > 1 and jax.default_backend() == "cpu":
            jax.block_until_ready(tree)
        return tree


@dataclasses.dataclass(frozen=True)
class PerExample:
    """A function for `models.ConvPool`, told that examples, x's first axis, are independent.

    For one that XLA cannot split by itself, as it reshapes examples into rows. Equal by value, so
    that networks with it are.

    Attributes:
      function: the function.
      whole: one with the same values that XLA can split: for batch normalization, by which the
        examples of all devices depend on each other.
      mesh: the devices.
    """

    function: Callable[..., Array]
    whole: Callable[..., Array]
    mesh: Mesh | AbstractMesh

    def __call__(
        self,
        x: Array,
        kernel: Array,
        bias: Array,
        dtype: DTypeLike | None,
        normalize: Callable[[Array], Array] | None = None,
    ) -> Array:
        if normalize:
            return self.whole(x, kernel, bias, dtype, normalize)
        if len(x) % self.mesh.shape["data"]:  # The one example of an initialization.
            return self.function(x, kernel, bias, dtype)

        def of_part(x: Array, kernel: Array, bias: Array) -> Array:
            # So devices exchange the gradients of these, and not of what is made from them.
            kernel, bias = jax.lax.pcast((kernel, bias), "data", to="varying")
            return self.function(x, kernel, bias, dtype)

        specs = (PartitionSpec("data"), PartitionSpec(), PartitionSpec())
        split = jax.shard_map(of_part, mesh=self.mesh, in_specs=specs, out_specs=specs[0])
        return split(x, kernel, bias)


def fetch(tree: Any) -> Any:
    """Arrays of the devices as NumPy arrays, whole in each process; all processes must call it."""
    if all(x.is_fully_addressable or x.is_fully_replicated for x in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
