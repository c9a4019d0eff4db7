"""From the config's words to an optax schedule and an optax optimizer."""

import ast
import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxmnist.errors import UserError

DECAYS = ("constant", "linear", "cosine")


Hyperparams = dict[str, Any]  # Floats, or the arrays that stand for them in a step.


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer of optax and its schedule, but for their numbers, which a step is given.

    So runs that differ in these alone share a compiled step. Equal by value, for the same reason.

    Attributes:
      name: optax's, such as "adamw" or "contrib.muon".
      options: other keyword arguments, as Python literals.
      decay: one of DECAYS.
      num_steps: of the schedule, with the warm-up.
      warmup_steps: of the linear warm-up from 0.
    """

    name: str
    options: tuple[tuple[str, str], ...]
    decay: str
    num_steps: int
    warmup_steps: int

    def schedule(self, hyperparams: Hyperparams) -> optax.Schedule:
        """Learning rate by step: a linear warm-up, then the decay, to 0 at the end."""
        peak = hyperparams["learning_rate"]
        rest = max(self.num_steps - self.warmup_steps, 1)
        decay = {
            "constant": lambda: optax.constant_schedule(peak),
            "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
            "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        }[self.decay]()
        if not self.warmup_steps:
            return decay
        ramp = optax.linear_schedule(0.0, peak, self.warmup_steps)
        return optax.join_schedules([ramp, decay], [self.warmup_steps])

    def __call__(self, hyperparams: Hyperparams) -> optax.GradientTransformationExtraArgs:
        """optax's own, for these numbers."""
        factory = _optimizers()[self.name]
        kwargs = {name: ast.literal_eval(text) for name, text in self.options} | hyperparams
        if "learning_rate" in inspect.signature(factory).parameters:
            kwargs["learning_rate"] = self.schedule(hyperparams)
        else:
            del kwargs["learning_rate"]  # polyak_sgd alone has none.
        # Extra arguments, so that optimizers that look at the loss (polyak_sgd, lbfgs) work too.
        return optax.with_extra_args_support(factory(**kwargs))


def create_optimizer(config: ConfigDict) -> tuple[Optimizer, Hyperparams]:
    """The optimizer of a config, such as "adamw(b1=0.95, weight_decay=1e-4)", and its numbers.

    `config.optimizer` names any of optax's ("adam", "contrib.muon"), with its keyword arguments
    as Python literals; the learning rate is the schedule's.

    Raises:
      UserError: no such optimizer, or arguments that it refuses.
    """
    where = f"optimizer={config.optimizer!r}"
    name, kwargs = _parse(config.optimizer)
    factory = _optimizers().get(name)
    if factory is None:
        near = difflib.get_close_matches(name, _optimizers(), n=3) or ["sgd", "adam", "adamw"]
        raise UserError(f"{where}: optax has no optimizer {name!r}; near it: {', '.join(near)}.")
    allowed = [p for p in inspect.signature(factory).parameters if p != "learning_rate"]
    for argument in kwargs:
        if argument not in allowed:
            raise UserError(f"{where}: {name} takes {', '.join(allowed)}, not {argument!r}.")
    numbers = {argument: value for argument, value in kwargs.items() if type(value) is float}
    # Some optimizers decide by a number, and must know it: then it is an option.
    for given in (numbers, {}):
        options = tuple((a, repr(v)) for a, v in kwargs.items() if a not in given)
        optimizer = Optimizer(name, options, config.schedule, config.num_steps, config.warmup_steps)
        hyperparams = {"learning_rate": float(config.learning_rate)} | given
        try:
            jax.eval_shape(_try_step(optimizer), {"kernel": jnp.zeros((2, 2))}, hyperparams)
            return optimizer, hyperparams
        except Exception as e:
            refusal = e
    first_line = (str(refusal).splitlines() or [type(refusal).__name__])[0]
    raise UserError(f"{where}: optax refuses it: {first_line}") from refusal


def _parse(expression: str) -> tuple[str, dict]:
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        if call.args or not isinstance(call.func, ast.Name | ast.Attribute):
            raise ValueError(expression)
        kwargs = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        raise UserError(
            f"optimizer={expression!r} is not a name with keyword arguments, "
            'such as "sgd(momentum=0.9)" or "adam".'
        ) from None
    return ast.unparse(call.func), kwargs


@functools.cache
def _optimizers() -> dict[str, Callable]:
    """Every function of optax and optax.contrib that takes a learning rate of some kind."""
    found: dict[str, Callable] = {}
    for prefix, module in (("", optax), ("contrib.", optax.contrib)):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith(("_", "scale_by_")):
                continue
            if any("learning_rate" in p for p in inspect.signature(function).parameters):
                found[prefix + name] = function
    return found


def _try_step(optimizer: Optimizer) -> Callable:
    def step(params, hyperparams):
        def loss(p):
            return sum(jnp.sum(x) for x in jax.tree.leaves(p))

        tx = optimizer(hyperparams)
        value, grad = jax.value_and_grad(loss)(params)
        return tx.update(grad, tx.init(params), params, value=value, grad=grad, value_fn=loss)

    return step
