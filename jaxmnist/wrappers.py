"""Optimizers of optax that wrap others, which a config names by texts.

Each keeps in its state what optax wants beside the parameters, so that it is used as any other. Its
arguments are from a config, so of any type, and are checked here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmnist.errors import UserError

# From an argument's name and value, which must be a text; the learning rate is the schedule's.
Create = Callable[[str, Any], optax.GradientTransformation]


class LookaheadState(NamedTuple):
    """The state of `lookahead`.

    Attributes:
      of_optimizer: optax's.
      slow: the slow parameters, which a network is evaluated with.
    """

    of_optimizer: optax.OptState
    slow: optax.Params


def lookahead(
    create: Create,
    fast_optimizer: Any = "sgd(momentum=0.9)",
    sync_period: Any = 6,
    slow_step_size: Any = 0.5,
) -> optax.GradientTransformationExtraArgs:
    """optax.lookahead (Zhang et al. 2019) of parameters that are the fast ones.

    Raises UserError for an argument that is not allowed.
    """
    if type(sync_period) is not int or sync_period < 1:
        raise UserError(f"sync_period={sync_period!r} must be a whole number of at least 1")
    if type(slow_step_size) not in (int, float) or not 0 < slow_step_size <= 1:
        raise UserError(f"slow_step_size={slow_step_size!r} must be above 0 and at most 1")
    fast = create("fast_optimizer", fast_optimizer)
    tx = optax.lookahead(fast, sync_period, slow_step_size)

    def init(params: optax.Params) -> LookaheadState:
        # A copy, since the memory of a whole state is given to the next one.
        slow = jax.tree.map(jnp.copy, params)
        return LookaheadState(tx.init(optax.LookaheadParams(params, slow)), slow)

    def update(updates, state, params=None, **extra):
        both = optax.LookaheadParams(params, state.slow)
        updates, of_optimizer = tx.update(updates, state.of_optimizer, both)
        slow = optax.apply_updates(state.slow, updates.slow)
        return updates.fast, LookaheadState(of_optimizer, slow)

    return optax.GradientTransformationExtraArgs(init, update)


def sam(
    create: Create, optimizer: Any = "sgd(momentum=0.9)", rho: Any = 0.05
) -> optax.GradientTransformationExtraArgs:
    """optax.contrib.sam (Foret et al. 2021): the gradient is that at a distance of rho, uphill.

    It takes the gradient of the same batch twice, from `value_fn`. Raises UserError for an argument
    that is not allowed.
    """
    if type(rho) not in (int, float) or rho <= 0:
        raise UserError(f"rho={rho!r} must be a number above 0")
    uphill = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    tx = optax.contrib.sam(create("optimizer", optimizer), uphill, opaque_mode=True)

    def update(updates, state, params=None, *, value_fn, **extra: Any):
        return tx.update(updates, state, params, grad_fn=lambda p, _: jax.grad(value_fn)(p))

    return optax.GradientTransformationExtraArgs(tx.init, update)


def of_convolutions(params: optax.Params) -> Any:
    """For contrib.muon: each convolution's kernel is a matrix from a patch to its features.

    None for what is no such kernel, which Adam updates.
    """
    numbers = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    return jax.tree.map(lambda x: numbers if x.ndim == 4 else None, params)
