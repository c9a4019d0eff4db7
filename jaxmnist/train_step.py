"""The training state: what a step changes, and what it is before the first step."""

import dataclasses
import functools
import json
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int, Integer, Key
from ml_collections import ConfigDict

from jaxmnist.devices import cpu_layers
from jaxmnist.devices.sharding import Layout
from jaxmnist.models import CNN, describe_arrays
from jaxmnist.optimizers import Optimizer, create_optimizer


# JAX builds trees of this shape from other things than arrays.
@typing.no_type_check
class TrainState(struct.PyTreeNode):
    """All that a step reads and changes, a pytree; of several runs, with one more axis, the first.

    Attributes:
      step: how many steps were taken, int32.
      params: the network's parameters.
      opt_state: the optimizer's state.
      dropout_key: the masks of step s are drawn from fold_in(dropout_key, s).
      hyperparams: the optimizer's learning rate, float32.
      apply_fn: the network's apply.
      optimizer: hyperparams -> optax's transformation; its schedule is for the metrics.
    """

    step: Int[Array, "*runs"]
    params: dict[str, Any]
    opt_state: optax.OptState
    dropout_key: Key[Array, "*runs"]
    hyperparams: dict[str, Float[Array, "*runs"]]
    apply_fn: Callable = struct.field(pytree_node=False)
    optimizer: Optimizer = struct.field(pytree_node=False)

    @property
    def eval_params(self):
        """The parameters to evaluate and to predict with: Optimizer.eval_params."""
        return self.optimizer.eval_params(self.opt_state, self.params)


IMAGE_SHAPE = (28, 28, 1)


def create_train_state(
    config: ConfigDict,
    num_classes: int = 10,
    layout: Layout | None = None,
    seeds: Sequence[int] | None = None,
) -> TrainState:
    """The state before the first step: a function of the config alone.

    Args:
      config: the run's.
      num_classes: of the dataset.
      layout: where the state is to live; by default on every device.
      seeds: of each of the layout's runs; by default the config's.
    """
    layout = layout or Layout.create()
    optimizer, hyperparams = create_optimizer(config)
    platform = jax.default_backend()
    model = _create_model(config.dropout_rate, num_classes, config.dtype, platform, layout)
    init = _init_fn(model, optimizer, layout)
    return init(
        _put_seeds([config.seed] if seeds is None else seeds, layout),
        layout.put({name: np.float32(value) for name, value in hyperparams.items()}),
    )


# Cached, so that states of the same kind share their functions, and the steps compiled for them.
@functools.cache
def _create_model(
    dropout_rate: float, num_classes: int, dtype: str, platform: str, layout: Layout
) -> CNN:
    return CNN(
        dropout_rate=dropout_rate,
        num_classes=num_classes,
        dtype=None if dtype == "float32" else dtype,
        # Accelerators have units for convolutions; a CPU is faster with the same in another form.
        conv_pool=layout.per_example(cpu_layers.conv_pool) if platform == "cpu" else None,
    )


@functools.cache
def _init_fn(model: CNN, optimizer: Optimizer, layout: Layout) -> Callable:
    def init(seed, hyperparams) -> TrainState:
        keys = split_seed(seed)
        params = model.init(keys["init"], jnp.zeros((1, *IMAGE_SHAPE)))["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer(hyperparams).init(params),
            dropout_key=keys["dropout"],
            hyperparams=hyperparams,
            apply_fn=model.apply,
            optimizer=optimizer,
        )

    return jax.jit(
        layout.over_runs(init, in_axes=(0, None)),
        out_shardings=layout.state,
        # It runs once: optimized, it takes a second longer to compile, for the same bits.
        compiler_options={"xla_backend_optimization_level": 0},
    )


def plain_network(config: ConfigDict, num_classes: int) -> CNN:
    """The network that a config trains, of its layers as they are written in models.py."""
    return CNN(dropout_rate=config.dropout_rate, num_classes=num_classes)


def describe_network(config: ConfigDict, num_classes: int) -> dict[str, Any]:
    """The network that a config trains today, for its record, as JSON has it.

    Returns "fields", the module's own that the config does not set, but for how it computes, and
    "params", the type and shape of each.
    """
    model = plain_network(config, num_classes)
    init = functools.partial(model.init, jax.random.key(0))
    params = jax.eval_shape(init, jnp.zeros((1, *IMAGE_SHAPE)))["params"]
    left_out = ("parent", "name", "conv_pool", *config)  # The config has a record of its own.
    names = (f.name for f in dataclasses.fields(model) if f.name not in left_out)
    fields = {name: getattr(model, name) for name in names}
    network = {"fields": fields, "params": describe_arrays(params)}
    # As it is read back: a tuple is a list, and a function its name, not where it lies in memory.
    return json.loads(json.dumps(network, default=_name))


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)


def data_keys(seeds: Sequence[int], layout: Layout) -> Key[Array, "*runs"]:
    """The keys that the order of each run's data is drawn from."""
    draw = layout.over_runs(lambda seed: split_seed(seed)["data"])
    return jax.jit(draw, out_shardings=layout.state)(_put_seeds(seeds, layout))


def split_seed(seed: int | Integer[Array, ""]) -> dict[str, Key[Array, ""]]:
    """Independent keys for "init", "data" and "dropout"."""
    root = jax.random.key(seed)
    purposes = ("init", "data", "dropout")
    return {purpose: jax.random.fold_in(root, i) for i, purpose in enumerate(purposes)}


def _put_seeds(seeds: Sequence[int], layout: Layout) -> Array:
    values = np.array(seeds, np.uint32)
    return layout.put(values if layout.num_runs > 1 else values[0], layout.state)
