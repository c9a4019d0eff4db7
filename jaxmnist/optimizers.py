"""From the config's words to an optax schedule and an optax optimizer."""

import ast
import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from jaxmnist import wrappers
from jaxmnist.calls import parse_call
from jaxmnist.config import SCHEDULES
from jaxmnist.errors import UserError

T = TypeVar("T")
Options = tuple[tuple[str, str], ...]

CONSTANT_RATE = ("rprop", "sm3")  # They take a number, and no schedule.
# They need more than gradients and parameters, or are no optimizers that a run can use.
_NEVER_WRAPPED = (
    *("contrib.dpsgd", "contrib.galore", "contrib.momo", "contrib.momo_adam", "contrib.sophia"),
    *("contrib.schedule_free", "contrib.schedule_free_adamw", "contrib.schedule_free_sgd"),
    *("lbfgs", "noisy_sgd", "optimistic_adam", "polyak_sgd"),
)
WRAPPERS: dict[str, Callable] = {"lookahead": wrappers.lookahead, "contrib.sam": wrappers.sam}


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer of optax and its schedule, with what a run does before and after it.

    Equal by value, so that runs which differ in other things share a compiled step.

    Attributes:
      name: optax's name, such as "adamw" or "contrib.muon".
      options: its keyword arguments, as Python literals.
      learning_rate: the peak of the schedule.
      schedule_name: "constant", "linear", "cosine", or optax's name of another schedule.
      num_steps: the length of the schedule, with the warm-up.
      warmup_steps: the length of the linear warm-up from 0.
      schedule_options: the schedule's keyword arguments, as Python literals.
      weight_decay: how much of each kernel a step subtracts, times the learning rate. It is
        decoupled, as in AdamW, for every optimizer: no momentum and no scale of the gradients sees
        it, with SGD neither. Biases, and scales and biases of a normalization, stay.
      clip_norm: the largest norm of all gradients together: longer ones are scaled to it. 0: any.
      ema_decay: of the parameters' average; 0: there is none. Step t, from 0, takes
        min(ema_decay, (1 + t) / (10 + t)), so that the initial values are soon forgotten.
    """

    name: str
    options: Options
    learning_rate: float
    schedule_name: str
    num_steps: int
    warmup_steps: int
    schedule_options: Options = ()
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    ema_decay: float = 0.0

    @property
    def schedule(self) -> optax.Schedule:
        """Learning rate by step: a linear warm-up, then the schedule for the steps that are left.

        polyak_sgd alone finds its own rate: of that, this is the upper bound.
        """
        if self.name == "polyak_sgd":
            return optax.constant_schedule(self.kwargs.get("max_learning_rate", 1.0))
        factory, rest = schedules()[self.schedule_name], max(self.num_steps - self.warmup_steps, 1)
        parameters = inspect.signature(factory).parameters
        warms_up = "warmup_steps" in parameters  # By itself; its decay_steps are with these.
        known = {
            **dict.fromkeys(("value", "init_value", "peak_value"), self.learning_rate),
            **({"init_value": 0.0} if "peak_value" in parameters else {}),
            "end_value": 0.0,
            "transition_steps": rest,
            "decay_steps": rest + self.warmup_steps * warms_up,
            "warmup_steps": self.warmup_steps,
        }
        needed = {n for n, p in parameters.items() if p.default is inspect.Parameter.empty}
        filled = {name: value for name, value in known.items() if name in needed}
        schedule = factory(**filled | _values(self.schedule_options))
        if not self.warmup_steps or warms_up:
            return schedule
        first = self.learning_rate if self.schedule_name in SCHEDULES else schedule(0)
        ramp = optax.linear_schedule(0.0, first, self.warmup_steps)
        return optax.join_schedules([ramp, schedule], [self.warmup_steps])

    @property
    def tx(self) -> optax.GradientTransformationExtraArgs:
        """optax's own transformation, after the clipping and before weight decay and average."""
        parts = [self._create(self.name, self.kwargs)]
        if self.clip_norm:
            parts.insert(0, optax.clip_by_global_norm(self.clip_norm))
        if self.weight_decay:
            schedule = self.schedule
            parts.append(
                optax.add_decayed_weights(
                    lambda step: -self.weight_decay * schedule(step), _kernels
                )
            )
        # Extra arguments, so that optimizers that look at the loss (polyak_sgd, lbfgs) work too.
        # A chain of one would have another state, and older checkpoints could not be read.
        tx = optax.chain(*parts) if parts[1:] else optax.with_extra_args_support(parts[0])
        return _averaging(tx, self.ema_decay) if self.ema_decay else tx

    def _create(self, name: str, kwargs: dict[str, Any]) -> optax.GradientTransformation:
        if name in WRAPPERS:
            return WRAPPERS[name](self._create_wrapped, **kwargs)
        if name in CONSTANT_RATE:
            kwargs["learning_rate"] = self.learning_rate
        elif name != "polyak_sgd":
            kwargs["learning_rate"] = self.schedule
        of_muon = "muon_weight_dimension_numbers"
        if kwargs.get(of_muon) == "convolutions":
            kwargs[of_muon] = wrappers.of_convolutions
        elif kwargs.get(of_muon) is not None:
            raise UserError(f"{of_muon}={kwargs[of_muon]!r} must be 'convolutions'")
        return optimizers()[name](**kwargs)

    def _create_wrapped(self, argument: str, text: Any) -> optax.GradientTransformation:
        if not isinstance(text, str):
            raise UserError(f'{argument}={text!r} must be a text, such as "adamw"')
        name, options = _chosen(argument, text, optimizers())
        if name in (*WRAPPERS, *CONSTANT_RATE, *_NEVER_WRAPPED):
            raise UserError(f"{argument}={text!r}: {name} cannot be wrapped")
        return self._create(name, _values(options))

    @property
    def kwargs(self) -> dict[str, Any]:
        """Its keyword arguments, as values."""
        return _values(self.options)

    @property
    def averages_itself(self) -> bool:
        """Whether the optimizer of optax keeps an average of the parameters."""
        return self.name.startswith("contrib.schedule_free") or self.name == "lookahead"

    @property
    def averages(self) -> bool:
        """Whether a network is evaluated with other parameters than those that are trained."""
        return self.averages_itself or self.ema_decay > 0

    def eval_params(self, opt_state: optax.OptState, params: T) -> T:
        """The parameters to evaluate and to predict with: most often `params`, the trained ones.

        Where `averages` is False, nothing of `opt_state` is read.
        """
        if self.ema_decay:
            return opt_state.average
        if not self.averages_itself:
            return params
        own = opt_state[1] if self.clip_norm else opt_state
        if self.name == "lookahead":
            return own.slow
        return optax.contrib.schedule_free_eval_params(own, params)


class AverageState(NamedTuple):
    """The state of an optimizer that averages the parameters.

    Attributes:
      of_optimizer: the optimizer's own.
      step: how many steps were averaged.
      average: the parameters' exponential moving average.
    """

    of_optimizer: optax.OptState
    step: Int[Array, ""]
    average: optax.Params


def _averaging(
    tx: optax.GradientTransformationExtraArgs, decay: float
) -> optax.GradientTransformationExtraArgs:
    """The same updates, with an average of the parameters that they lead to in the state."""

    def init(params: optax.Params) -> AverageState:
        # A copy, since the memory of a whole state is given to the next one.
        average = jax.tree.map(jnp.copy, params)
        return AverageState(tx.init(params), jnp.zeros((), jnp.int32), average)

    def update(updates, state, params=None, **extra):
        updates, of_optimizer = tx.update(updates, state.of_optimizer, params, **extra)
        kept = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(
            optax.apply_updates(params, updates), state.average, 1 - kept
        )
        return updates, AverageState(of_optimizer, optax.safe_increment(state.step), average)

    return optax.GradientTransformationExtraArgs(init, update)


def _kernels(params: optax.Params) -> Any:
    """Which arrays are kernels, whose weights decay: those of two and more dimensions."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def create_optimizer(config: ConfigDict) -> Optimizer:
    """The optimizer of a config, such as "adamw(b1=0.95, weight_decay=1e-4)", and its schedule.

    `config.optimizer` names any of optax's ("adam", "contrib.muon"), with its keyword arguments
    as Python literals; the learning rate is the schedule's. `config.schedule` names a schedule in
    the same form; what is not given is filled in: learning_rate for its highest value, and
    num_steps less warmup_steps for its length.

    Raises:
      UserError: no such optimizer or schedule, or no such arguments. checks.check tells of more.
    """
    name, options = _chosen("optimizer", config.optimizer, optimizers())
    schedule_name, schedule_options = _chosen("schedule", config.schedule, schedules())
    return Optimizer(
        name,
        options,
        float(config.learning_rate),
        schedule_name,
        config.num_steps,
        config.warmup_steps,
        schedule_options,
        float(config.weight_decay),
        float(config.clip_norm),
        float(config.ema_decay),
    )


def _chosen(field: str, text: str, functions: Mapping[str, Callable]) -> tuple[str, Options]:
    """The name and the arguments that a field gives for one of optax's functions."""
    where = f"{field}={text!r}"
    name, kwargs = _parse(field, text)
    factory = functions.get(name)
    if factory is None and field == "schedule":
        raise UserError(f"{where} is not allowed: it must be one of {', '.join(functions)}.")
    if factory is None:
        near = difflib.get_close_matches(name, functions, n=3) or ["sgd", "adam", "adamw"]
        raise UserError(f"{where}: optax has no optimizer {name!r}; near it: {', '.join(near)}.")
    fields = ("learning_rate", "warmup_steps", "create")
    parameters = [] if name in SCHEDULES else inspect.signature(factory).parameters
    allowed = [p for p in parameters if p not in fields]
    for argument in kwargs:
        if argument not in allowed:
            is_field = ", which is a field of the config" if argument in fields[:2] else ""
            takes = ", ".join(allowed) or "no arguments"
            raise UserError(f"{where}: {name} takes {takes}, not {argument!r}{is_field}.")
    options = tuple((argument, repr(value)) for argument, value in kwargs.items())
    if any(re.search(r"\binf", value) for _, value in options):  # 1e999 is a literal.
        raise UserError(f"{where} is not allowed: its numbers must be finite.")
    return name, options


def _parse(field: str, expression: str) -> tuple[str, dict[str, Any]]:
    try:
        return parse_call(expression)
    except ValueError:
        named = {"optimizer": '"sgd(momentum=0.9)" or "adam"'}
        example = named.get(field, '"cosine_onecycle_schedule(pct_start=0.2)" or "cosine"')
        raise UserError(
            f"{field}={expression!r} is not a name with keyword arguments, such as {example}."
        ) from None


def _values(options: Options) -> dict[str, Any]:
    return {name: ast.literal_eval(text) for name, text in options}


@functools.cache
def schedules() -> dict[str, Callable]:
    """The three short names, and optax's schedules that a text can name with its arguments."""
    found: dict[str, Callable] = {
        name: function
        for name, function in inspect.getmembers(optax.schedules, inspect.isfunction)
        if name.endswith(("_schedule", "_decay"))
    }
    short = ("constant_schedule", "linear_schedule", "cosine_decay_schedule")
    return {a: found[b] for a, b in zip(SCHEDULES, short, strict=True)} | found


@functools.cache
def optimizers() -> dict[str, Callable]:
    """Every function of optax and optax.contrib that takes a learning rate of some kind.

    And two of those that wrap such a one, in the form of WRAPPERS.
    """
    found: dict[str, Callable] = dict(WRAPPERS)
    for prefix, module in (("", optax), ("contrib.", optax.contrib)):
        for name, function in inspect.getmembers(module, _is_function):
            if name.startswith(("_", "scale_by_")):
                continue
            if any("learning_rate" in p for p in inspect.signature(function).parameters):
                found[prefix + name] = function
    return found


def _is_function(x: Any) -> bool:
    return inspect.isfunction(x) or isinstance(x, functools.partial)  # nadam is adam in part.
