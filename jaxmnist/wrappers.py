"""Optimizers of optax that wrap others, which a config names by texts.

Each keeps in its state what optax wants beside the parameters, so that it is used as any other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Create = Callable[[str], optax.GradientTransformation]  # From a text; the rate is the schedule's.


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
    fast_optimizer: str = "sgd(momentum=0.9)",
    sync_period: int = 6,
    slow_step_size: float = 0.5,
) -> optax.GradientTransformationExtraArgs:
    """optax.lookahead (Zhang et al. 2019) of parameters that are the fast ones."""
    tx = optax.lookahead(create(fast_optimizer), sync_period, slow_step_size)

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
    create: Create, optimizer: str = "sgd(momentum=0.9)", rho: float = 0.05
) -> optax.GradientTransformationExtraArgs:
    """optax.contrib.sam (Foret et al. 2021): the gradient is that at a distance of rho, uphill.

    It takes the gradient of the same batch twice, from `value_fn`.
    """
    uphill = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    tx = optax.contrib.sam(create(optimizer), uphill, opaque_mode=True)

    def update(updates, state, params=None, *, value_fn, **extra: Any):
        return tx.update(updates, state, params, grad_fn=lambda p, _: jax.grad(value_fn)(p))

    return optax.GradientTransformationExtraArgs(tx.init, update)


def of_convolutions(params: optax.Params) -> Any:
    """For contrib.muon: each convolution's kernel is a matrix from a patch to its features.

    None for what is no such kernel, which Adam updates.
    """
    numbers = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    return jax.tree.map(lambda x: numbers if x.ndim == 4 else None, params)
