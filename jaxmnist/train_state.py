"""The training state: what a step changes, and what it is before the first step."""

import functools
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int, Key
from ml_collections import ConfigDict

from jaxmnist import cpu_layers, optimizers
from jaxmnist.models import CNN


# JAX builds trees of this shape from other things than arrays.
@typing.no_type_check
class TrainState(struct.PyTreeNode):
    """All that a step reads and changes, a pytree.

    Attributes:
      step: how many steps were taken, int32.
      params: the network's parameters.
      opt_state: the optimizer's state.
      dropout_key: the masks of step s are drawn from fold_in(dropout_key, s).
      apply_fn: the network's apply.
      tx: the optimizer.
      schedule: the learning rate by step, for the metrics.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    opt_state: optax.OptState
    dropout_key: Key[Array, ""]
    apply_fn: Callable = struct.field(pytree_node=False)
    tx: optax.GradientTransformationExtraArgs = struct.field(pytree_node=False)
    schedule: Callable = struct.field(pytree_node=False)


IMAGE_SHAPE = (28, 28, 1)


def create_train_state(config: ConfigDict, num_classes: int = 10) -> TrainState:
    """The state before the first step: a function of the config alone."""
    model = CNN(
        dropout_rate=config.dropout_rate,
        num_classes=num_classes,
        dtype=None if config.dtype == "float32" else config.dtype,
        # Accelerators have units for convolutions; a CPU is faster with the same in another form.
        conv_pool=cpu_layers.conv_pool if jax.default_backend() == "cpu" else None,
    )
    schedule = optimizers.create_schedule(config)
    tx = optimizers.create_optimizer(config.optimizer, schedule)
    keys = split_seed(config.seed)

    # It runs once: optimized, it takes a second longer to compile, for the same bits.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def init() -> TrainState:
        params = model.init(keys["init"], jnp.zeros((1, *IMAGE_SHAPE)))["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(params),
            dropout_key=keys["dropout"],
            apply_fn=model.apply,
            tx=tx,
            schedule=schedule,
        )

    return init()


def split_seed(seed: int) -> dict[str, Key[Array, ""]]:
    """Independent keys for "init", "data" and "dropout"."""
    root = jax.random.key(seed)
    purposes = ("init", "data", "dropout")
    return {purpose: jax.random.fold_in(root, i) for i, purpose in enumerate(purposes)}
