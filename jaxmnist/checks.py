"""Checks of a config: each refusal says field, value and what is allowed."""

import difflib
import functools
import math
import os
import re
import runpy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from jaxmnist.config import (
    ALL_FIELDS,
    DATASETS,
    PERIODS,
    TYPE_NAMES,
    get_config,
    profile_steps,
    type_of,
)
from jaxmnist.errors import UserError, first_line
from jaxmnist.files import local_path

if TYPE_CHECKING:
    from jaxmnist.optimizers import Optimizer

# Optimizers that optax has and a run cannot use, and why.
_REFUSED_OPTIMIZERS = {
    "contrib.dpsgd": "it needs the gradient of each example, and a run has that of their mean",
    "contrib.schedule_free": "it wraps another optimizer, which no text can name: take "
    "contrib.schedule_free_sgd or contrib.schedule_free_adamw",
    "contrib.sophia": "it needs second derivatives of the loss, which a run does not give",
    "optimistic_adam": "it takes no schedule of learning rates: take optimistic_adam_v2",
}
# Parameters to try an optimizer on, with the shapes that the network has.
_PARAMS = {
    "Conv_0": {"kernel": (5, 5, 1, 32), "bias": (32,)},
    "Dense_0": {"kernel": (3136, 1024), "bias": (1024,)},
}


def load(path: str | os.PathLike | None, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """The config of an experiment file (default: the paper's), with fields overridden.

    Args:
      path: a Python file that defines get_config().
      overrides: fields and their values as texts.

    Raises:
      UserError: the file is no config, or an override is none of its fields or of another type.
    """
    config = get_config() if path is None else _run_file(path)
    override(config, overrides)
    return config


def override(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> None:
    """Sets fields from texts; raises UserError as `load` does."""
    for field, text in overrides:
        _check_field(field, text)
        config[field] = _parse(field, text)


def check(config: ConfigDict, *, training: bool = True) -> None:
    """Raises UserError, naming field, value and what is allowed, if a run cannot use it.

    Args:
      config: of the run.
      training: whether it is to train; what it was trained with before may be evaluated anyhow.
    """
    # Imported here, since the help needs neither tfds nor JAX.
    from jaxmnist import optimizers
    from jaxmnist.data import datasets

    check_types(config)
    for name, found in ALL_FIELDS.items():
        if not found.is_allowed(config[name]):
            raise UserError(f"{name}={config[name]!r} is not allowed: it must be {found.allowed}.")
    if config.data_dir is not None:
        local_path(config.data_dir, "data_dir")
    period = math.gcd(*(config[field] for field in PERIODS))
    if config.steps_per_call and period % config.steps_per_call:
        raise UserError(
            f"steps_per_call={config.steps_per_call} is not allowed: it must divide "
            f"{', '.join(f'{field}={config[field]}' for field in PERIODS)}; {period} does."
        )
    if config.seed + config.num_seeds > 2**32:
        raise UserError(f"num_seeds={config.num_seeds} is not allowed: seeds are below 2**32.")
    if training and config.warmup_steps > config.num_steps:
        raise UserError(
            f"warmup_steps={config.warmup_steps} is not allowed: it must be at most "
            f"num_steps={config.num_steps}. Set it too, to {config.num_steps // 4} for example."
        )
    traced = profile_steps(config)
    if config.profile_steps and (not traced or traced.stop > config.num_steps):
        raise UserError(
            f"profile_steps={config.profile_steps} is not allowed: it must name some of the steps "
            f"from 0 to num_steps={config.num_steps}."
        )
    for field in ("train_split", "eval_split"):
        try:
            parts = datasets.slice_of(config.dataset, config[field])
        except UserError as e:
            raise UserError(f"{field}: {e}") from None
        count = sum(end - first for _, first, end in parts)
        if field == "train_split" and config.batch_size > count:
            raise UserError(
                f"batch_size={config.batch_size} is not allowed: it must be at most {count:,}, "
                f"the examples of {config.dataset}'s {config.train_split}."
            )
    _check_optimizer(optimizers.create_optimizer(config), config.optimizer)


def check_types(config: ConfigDict) -> None:
    """Raises UserError if a field is none, is missing, or has a value of another type."""
    default = get_config()
    for name in config:
        _check_field(name, config[name])
    for name in default:
        if name not in config:
            raise UserError(f"the config lacks the field {name}: start from get_config().")
        value, wanted = config[name], type_of(name)
        is_of_type = type(value) is wanted or (wanted is float and type(value) is int)
        if not is_of_type and (value is not None or default[name] is not None):
            raise UserError(f"{name}={value!r} is not allowed: it must be {TYPE_NAMES[wanted]}.")
    if config.dataset not in DATASETS:
        allowed = ALL_FIELDS["dataset"].allowed
        raise UserError(f"dataset={config.dataset!r} is not allowed: it must be {allowed}.")


def _run_file(text: str | os.PathLike) -> ConfigDict:
    path = local_path(text, "--config", as_pattern=False)
    if path.is_dir():
        raise UserError(f"--config={path} is a folder: name one of the Python files in it.")
    if not path.is_file():
        raise UserError(f"--config={path}: there is no such file.")
    try:
        found = runpy.run_path(str(path))
        if "get_config" not in found:
            raise UserError(f"--config={path}: it lacks 'get_config'.")
        config = found["get_config"]()
    except UserError:
        raise
    except (Exception, SystemExit) as e:
        reason = first_line(e, with_type=True)
        raise UserError(f"--config={path}: it fails with {reason}") from e
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={path}: get_config() returns no ConfigDict.")
    return config


def _check_field(field: str, value: Any) -> None:
    known = list(get_config())
    if field not in known:
        near = difflib.get_close_matches(field, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(known)}."
        raise UserError(f"{field}={value} is not allowed: the config has no such field; {hint}")


def _parse(field: str, text: str) -> Any:
    wanted = type_of(field)
    if field == "data_dir" and text in ("", "None"):
        return None
    if field == "data_dir":
        return str(local_path(text, "data_dir").absolute())  # A run goes on from any folder.
    try:
        if wanted is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if wanted is int and re.fullmatch(r"\d+e\d{1,2}", text.strip()):
            return int(float(text))
        return wanted(text)
    except (KeyError, ValueError):
        raise UserError(
            f"{field}={text} is not allowed: it must be {TYPE_NAMES[wanted]}."
        ) from None


def _check_optimizer(optimizer: "Optimizer", text: str) -> None:
    """Raises UserError if a run cannot update with it, or cannot save and restore its state."""
    refusal = _REFUSED_OPTIMIZERS.get(optimizer.name) or _refusal(optimizer)
    if refusal:
        raise UserError(f"optimizer={text!r} is not allowed: {refusal}.")


@functools.lru_cache(maxsize=32)  # A config is checked several times before it is trained.
def _refusal(optimizer: "Optimizer") -> str:
    """Why a run cannot use an optimizer; "" if it can."""
    import jax
    import jax.numpy as jnp

    from jaxmnist.optimizers import CONSTANT_RATE

    has_schedule = optimizer.decay != "constant" or optimizer.warmup_steps
    if has_schedule and optimizer.name in CONSTANT_RATE:
        return f"{optimizer.name} takes no schedule: set schedule=constant and warmup_steps=0"

    def shapes(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    def loss_fn(params):
        return sum(jnp.sum(x) for x in jax.tree.leaves(params))

    def step(params):
        tx = optimizer.tx
        before = tx.init(params)
        value, grad = jax.value_and_grad(loss_fn)(params)
        extra = {"value": value, "grad": grad, "value_fn": loss_fn}
        updates, after = tx.update(grad, before, params, **extra)
        return updates, before, after, optimizer.eval_params(after, params)

    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        _PARAMS,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    try:
        if optimizer.averages and not optimizer.kwargs.get("b1", 0.9) > 0:
            return "its b1 must be above 0"
        updates, before, after, _ = jax.eval_shape(step, params)
    except Exception as e:
        return f"optax refuses it: {first_line(e)}"
    if shapes(updates) != shapes(params):
        return "its updates have other shapes than the parameters"
    if shapes(before) != shapes(after):
        return "its state changes its shape or type from step to step"
    leaves = jax.tree.leaves(before)
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves):
        return "its state holds a random key, which no checkpoint can hold"
    if not all(leaf.size for leaf in leaves):
        return "its state holds arrays of no elements, which no checkpoint can hold"
    return ""
