"""The steps as executables: what is compiled is what is called."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from jaxmnist.augment import Augment, create_augment
from jaxmnist.data.info import DatasetInfo
from jaxmnist.devices import tuning
from jaxmnist.devices.cpu_layers import fastest_functions
from jaxmnist.devices.sharding import Layout
from jaxmnist.models import create_model
from jaxmnist.optimizers import Optimizer, create_optimizer
from jaxmnist.train_step import TrainState, eval_step, init_state, split_seed, train_step


def compiled_steps(config: ConfigDict, info: DatasetInfo, layout: Layout) -> "CompiledSteps":
    """The steps of a config; equal configs share them."""
    functions = fastest_functions(layout, config)
    model = create_model(config, len(info.class_names), functions)
    augment = create_augment(config.augment)
    what = model, create_optimizer(config), info.image_shape, augment, config.label_smoothing
    return _compiled_steps(*what, layout)


# Bounded: each holds its programs. Several seeds, or runs of a sweep, compile once.
@functools.lru_cache(maxsize=4)
def _compiled_steps(
    model: nn.Module,
    optimizer: Optimizer,
    image_shape: tuple[int, ...],
    augment: Augment,
    label_smoothing: float,
    layout: Layout,
) -> "CompiledSteps":
    def init(seed: Array) -> TrainState:
        return init_state(model, optimizer, seed, image_shape, augment, label_smoothing)

    return CompiledSteps(init, image_shape, layout)


class CompiledSteps:
    """What is compiled for an initial state and a layout, each when it is first asked for.

    Attributes:
      image_shape: height, width and channels of the images.
      layout: the layout.
      state: the shapes, types and shardings of a state.
    """

    def __init__(
        self, init: Callable[[Array], TrainState], image_shape: tuple[int, ...], layout: Layout
    ):
        self.image_shape, self.layout = image_shape, layout
        self._init = layout.jit(
            init,
            layout.state,
            # It runs once: optimized, it takes a second longer to compile, for the same bits.
            compiler_options=tuning.options_to_compile_fast(),
        )
        shapes = jax.eval_shape(self._init, _put(range(layout.num_runs), layout))
        self.state: TrainState = jax.tree.map(self._of_state, shapes)
        self._options = tuning.compiler_options(getattr(shapes.model, "dtype", None))
        self._programs: dict[tuple[int, ...], Callable] = {}

    def compile_at_once(self, train_step: tuple[int, int], *others: Callable[[], Any]) -> None:
        """Compiles the step of a batch size and a count, and meanwhile others on one more thread.

        XLA takes about one core for a program. Several processes compile the others when they call
        them, so that all compile in the same order.
        """
        if jax.process_count() > 1:
            self.train_step(*train_step)
            return
        with ThreadPoolExecutor(1) as one_more:
            compiling = [one_more.submit(other) for other in (self._init_program, *others)]
            self.train_step(*train_step)
            for each in compiling:
                each.result()

    def init(self, seeds: Sequence[int]) -> TrainState:
        """The state before the first step, with a seed for each of the layout's runs."""
        return self._init_program()(_put(seeds, self.layout))

    def _init_program(self) -> Callable:
        if () not in self._programs:
            seeds = _put(range(self.layout.num_runs), self.layout)
            self._programs[()] = _compile(self._init, seeds)
        return self._programs[()]

    def _of_state(self, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.layout.state)

    def train_step(self, batch_size: int, count: int = 1) -> Callable:
        """train_step for batches of a size; the state's memory goes to the next state.

        With a count above 1, as many steps: batches and metrics are stacked along a first axis.
        One call instead of many, since on an accelerator a call may cost more than a step.
        """
        if (batch_size, count) not in self._programs:
            layout, stacked = self.layout, count > 1
            runs = (layout.num_runs,) if layout.num_runs > 1 else ()
            shape = (*runs, *([count] if stacked else []), batch_size)
            shapes = {"image": (*shape, *self.image_shape), "label": shape}
            sharding = layout.batches(stacked=stacked)
            step = layout.jit(
                functools.partial(jax.lax.scan, train_step) if stacked else train_step,
                (layout.state, layout.everywhere),
                donate_argnums=0,
                compiler_options=self._options,
            )
            batch = _batch(shapes, sharding)
            self._programs[batch_size, count] = _compile(step, self.state, batch)
        return self._programs[batch_size, count]

    def eval_step(self, batch_size: int) -> Callable:
        """eval_step for batches of a size; all runs see the same batch."""
        if (batch_size,) not in self._programs:
            layout, shape = self.layout, (batch_size,)
            shapes = {"image": (*shape, *self.image_shape), "label": shape, "mask": shape}
            step = layout.jit(
                eval_step,
                (layout.everywhere, layout.batches()),
                in_axes=(0, None),
                compiler_options=self._options,
            )
            batch = _batch(shapes, layout.batch())
            self._programs[(batch_size,)] = _compile(step, self.state, batch)
        return self._programs[(batch_size,)]


def _compile(step: jax.stages.Wrapped, *shapes: Any) -> Callable:
    """The executable; with JAX_DISABLE_JIT, which forbids to call one, the function itself."""
    if jax.config.values["jax_disable_jit"]:
        return step
    compiled = step.lower(*shapes).compile()
    tuning.give_back_freed_memory()  # The compiler's.
    return compiled


def _batch(shapes: dict[str, tuple[int, ...]], sharding: NamedSharding) -> dict[str, Any]:
    types = {"image": jnp.float32, "label": jnp.int32, "mask": jnp.bool_}
    return {
        name: jax.ShapeDtypeStruct(shape, types[name], sharding=sharding)
        for name, shape in shapes.items()
    }


def data_keys(seeds: Sequence[int], layout: Layout) -> Key[Array, "..."]:
    """The keys that the order of each run's data is drawn from."""
    return layout.jit(lambda seed: split_seed(seed)["data"], layout.state)(_put(seeds, layout))


def _put(seeds: Sequence[int], layout: Layout) -> Array:
    return layout.put(layout.stack([np.uint32(seed) for seed in seeds]), layout.state)
