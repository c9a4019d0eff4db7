"""From the config's words to an optax schedule and an optax optimizer."""

import ast
import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

import optax
from ml_collections import ConfigDict

from jaxmnist.errors import UserError

T = TypeVar("T")

CONSTANT_RATE = ("rprop", "sm3")  # They take a number, and no schedule.


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

        polyak_sgd alone finds its own rate: of that, this is the upper bound.
        """
        if self.name == "polyak_sgd":
            return optax.constant_schedule(self.kwargs.get("max_learning_rate", 1.0))
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
        kwargs = self.kwargs
        if self.name in CONSTANT_RATE:
            kwargs["learning_rate"] = self.learning_rate
        elif self.name != "polyak_sgd":
            kwargs["learning_rate"] = self.schedule
        # Extra arguments, so that optimizers that look at the loss (polyak_sgd, lbfgs) work too.
        return optax.with_extra_args_support(optimizers()[self.name](**kwargs))

    @property
    def kwargs(self) -> dict[str, Any]:
        """Its keyword arguments, as values."""
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
      UserError: no such optimizer, or no such arguments. checks.check tells of more.
    """
    where = f"optimizer={config.optimizer!r}"
    name, kwargs = _parse(config.optimizer)
    factory = optimizers().get(name)
    if factory is None:
        near = difflib.get_close_matches(name, optimizers(), n=3) or ["sgd", "adam", "adamw"]
        raise UserError(f"{where}: optax has no optimizer {name!r}; near it: {', '.join(near)}.")
    fields = ("learning_rate", "warmup_steps")
    allowed = [p for p in inspect.signature(factory).parameters if p not in fields]
    for argument in kwargs:
        if argument not in allowed:
            field = ", which is a field of the config" if argument in fields else ""
            raise UserError(f"{where}: {name} takes {', '.join(allowed)}, not {argument!r}{field}.")
    options = tuple((argument, repr(value)) for argument, value in kwargs.items())
    if any(re.search(r"\binf", text) for _, text in options):  # 1e999 is a literal.
        raise UserError(f"{where} is not allowed: its numbers must be finite.")
    rate, schedule = float(config.learning_rate), config.schedule
    return Optimizer(name, options, rate, schedule, config.num_steps, config.warmup_steps)


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
def optimizers() -> dict[str, Callable]:
    """Every function of optax and optax.contrib that takes a learning rate of some kind."""
    found: dict[str, Callable] = {}
    for prefix, module in (("", optax), ("contrib.", optax.contrib)):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith(("_", "scale_by_")):
                continue
            if any("learning_rate" in p for p in inspect.signature(function).parameters):
                found[prefix + name] = function
    return found
