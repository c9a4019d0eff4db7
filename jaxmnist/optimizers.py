"""From the config's words to an optax schedule and an optax optimizer."""

import ast
import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxmnist.errors import UserError, first_line

T = TypeVar("T")

# What optax finds and we do not use, and why.
_REFUSED = {
    "contrib.dpsgd": "it needs the gradient of each example, and a run has that of their mean",
    "contrib.schedule_free": "it wraps another optimizer, which no text can name: take "
    "contrib.schedule_free_sgd or contrib.schedule_free_adamw",
    "contrib.sophia": "it needs second derivatives of the loss, which a run does not give",
    "optimistic_adam": "it takes no schedule of learning rates: take optimistic_adam_v2",
}
_CONSTANT_RATE = ("rprop", "sm3")  # They take a number, and no schedule.
# An optimizer may look at the number of axes and at their sizes: like the network's.
_SHAPES = {
    "Conv_0": {"kernel": (5, 5, 1, 32), "bias": (32,)},
    "Dense_0": {"kernel": (3136, 1024), "bias": (1024,)},
}


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer of optax and its schedule.

    Equal by value, so that runs which differ in other things share a compiled step.

    Attributes:
      name: optax's name, such as "adamw" or "contrib.muon".
      options: its keyword arguments, as Python literals.
      learning_rate: the peak of the schedule.
      decay: the config's schedule: "constant", "linear" or "cosine".
      num_steps: the length of the schedule, with the warm-up.
      warmup_steps: the length of the linear warm-up from 0.
    """

    name: str
    options: tuple[tuple[str, str], ...]
    learning_rate: float
    decay: str
    num_steps: int
    warmup_steps: int

    @property
    def schedule(self) -> optax.Schedule:
        """Learning rate by step: a linear warm-up, then the decay, to 0 at the end.

        polyak_sgd alone has none, but a bound on what it finds itself: then that.
        """
        if self.name == "polyak_sgd":
            return optax.constant_schedule(self._kwargs.get("max_learning_rate", 1.0))
        peak, rest = self.learning_rate, max(self.num_steps - self.warmup_steps, 1)
        decay = {
            "constant": lambda: optax.constant_schedule(peak),
            "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
            "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        }[self.decay]()
        if not self.warmup_steps:
            return decay
        ramp = optax.linear_schedule(0.0, peak, self.warmup_steps)
        return optax.join_schedules([ramp, decay], [self.warmup_steps])

    @property
    def tx(self) -> optax.GradientTransformationExtraArgs:
        """optax's own transformation."""
        kwargs = self._kwargs
        if self.name in _CONSTANT_RATE:
            kwargs["learning_rate"] = self.learning_rate
        elif self.name != "polyak_sgd":
            kwargs["learning_rate"] = self.schedule
        # Extra arguments, so that optimizers that look at the loss (polyak_sgd, lbfgs) work too.
        return optax.with_extra_args_support(_optimizers()[self.name](**kwargs))

    @property
    def _kwargs(self) -> dict[str, Any]:
        return {name: ast.literal_eval(text) for name, text in self.options}

    @property
    def averages(self) -> bool:
        """Whether a network is evaluated with other parameters than those that are trained."""
        return self.name.startswith("contrib.schedule_free")

    def eval_params(self, opt_state: optax.OptState, params: T) -> T:
        """The parameters to evaluate and to predict with: most often `params`, the trained ones.

        Where `averages` is False, nothing of `opt_state` is read.
        """
        if not self.averages:
            return params
        return optax.contrib.schedule_free_eval_params(opt_state, params)


def create_optimizer(config: ConfigDict) -> Optimizer:
    """The optimizer of a config, such as "adamw(b1=0.95, weight_decay=1e-4)", and its schedule.

    `config.optimizer` names any of optax's ("adam", "contrib.muon"), with its keyword arguments
    as Python literals; the learning rate is the schedule's.

    Raises:
      UserError: no such optimizer, arguments that it refuses, or one that a run cannot use.
    """
    where = f"optimizer={config.optimizer!r}"
    name, kwargs = _parse(config.optimizer)
    factory = _optimizers().get(name)
    if factory is None:
        near = difflib.get_close_matches(name, _optimizers(), n=3) or ["sgd", "adam", "adamw"]
        raise UserError(f"{where}: optax has no optimizer {name!r}; near it: {', '.join(near)}.")
    if name in _REFUSED:
        raise UserError(f"{where} is not allowed: {_REFUSED[name]}.")
    fields = ("learning_rate", "warmup_steps")
    allowed = [p for p in inspect.signature(factory).parameters if p not in fields]
    for argument in kwargs:
        if argument not in allowed:
            field = ", which is a field of the config" if argument in fields else ""
            raise UserError(f"{where}: {name} takes {', '.join(allowed)}, not {argument!r}{field}.")
    options = tuple((argument, repr(value)) for argument, value in kwargs.items())
    if any(re.search(r"\binf", text) for _, text in options):  # 1e999 is a literal.
        raise UserError(f"{where} is not allowed: its numbers must be finite.")
    schedule = (config.learning_rate, config.schedule, config.num_steps, config.warmup_steps)
    optimizer = Optimizer(name, options, float(schedule[0]), *schedule[1:])
    if refusal := _refusal(optimizer):
        raise UserError(f"{where} is not allowed: {refusal}.")
    return optimizer


def _parse(expression: str) -> tuple[str, dict]:
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        if call.args or not isinstance(call.func, ast.Name | ast.Attribute):
            raise ValueError(expression)
        kwargs = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        if len(kwargs) < len(call.keywords):  # One is given twice.
            raise ValueError(expression)
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


@functools.lru_cache(maxsize=32)  # A config is checked several times before it is trained.
def _refusal(optimizer: Optimizer) -> str:
    """Why a run cannot use it; "" if it can: update, fetch, fingerprint, save and restore."""
    has_schedule = optimizer.decay != "constant" or optimizer.warmup_steps
    if has_schedule and optimizer.name in _CONSTANT_RATE:
        return f"{optimizer.name} takes no schedule: set schedule=constant and warmup_steps=0"

    def loss_fn(params):
        return sum(jnp.sum(x) for x in jax.tree.leaves(params))

    def step(params):
        tx = optimizer.tx
        before = tx.init(params)
        value, grad = jax.value_and_grad(loss_fn)(params)
        extra = {"value": value, "grad": grad, "value_fn": loss_fn}
        updates, after = tx.update(grad, before, params, **extra)
        return updates, before, after, optimizer.eval_params(after, params)

    params = jax.tree.map(_float32, _SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    try:
        if optimizer.averages and not optimizer._kwargs.get("b1", 0.9) > 0:
            return "its b1 must be above 0"
        updates, before, after, _ = jax.eval_shape(step, params)
    except Exception as e:
        return f"optax refuses it: {first_line(e)}"
    if _shapes(updates) != _shapes(params):
        return "its updates have other shapes than the parameters"
    if _shapes(before) != _shapes(after):
        return "its state changes its shape or type from step to step"
    leaves = jax.tree.leaves(before)
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves):
        return "its state holds a random key, which no checkpoint can hold"
    if not all(leaf.size for leaf in leaves):
        return "its state holds arrays of no elements, which no checkpoint can hold"
    return ""


def _float32(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)
