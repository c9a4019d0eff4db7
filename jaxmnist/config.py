"""The paper's training as a config, and what a run refuses in one."""

import difflib
import math
import os
import re
import runpy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jaxmnist import datasets, optimizers
from jaxmnist.errors import UserError, first_line
from jaxmnist.files import local_path
from jaxmnist.optimizers import DECAYS


def get_config() -> ConfigDict:
    """The paper's training: 20,000 steps of 100 by SGD with momentum."""
    config = ConfigDict()

    config.dataset = "mnist"
    config.data_dir = placeholder(str)  # None: tfds's own, ~/tensorflow_datasets.
    config.allow_sample = True  # Stand in with mnist_sample where MNIST is out of reach.
    config.train_split = "train"
    config.eval_split = "test"

    config.batch_size = 100
    config.eval_batch_size = 200  # On a CPU 100 and 1,000 are slower, 500 sometimes.
    config.num_steps = 20_000

    config.optimizer = "sgd(momentum=0.9)"  # Any of optax, called with keyword arguments.
    config.learning_rate = 0.05
    config.schedule = "cosine"
    config.warmup_steps = 0
    config.dropout_rate = 0.4
    config.dtype = "float32"  # Of products; or "bfloat16", for accelerators.

    config.seed = 0
    config.num_seeds = 1  # Runs of seed, seed + 1, ..., each in a folder of the workdir.

    config.log_every = 100
    config.eval_every = 1_000
    config.checkpoint_every = 1_000
    config.histograms = False  # Of the parameters, at each evaluation, for TensorBoard.
    config.profile_steps = ""  # "100:110" traces what the ten steps after step 100 do.
    # Steps in one call of the device. 0: one on a CPU; elsewhere, where a call may cost more
    # than a step, as many as logging, evaluation and checkpoints allow.
    config.steps_per_call = 0
    # Seeds that train at once. 0: one on a CPU, all elsewhere.
    config.seeds_per_call = 0
    return config


# The fields that may change when a run is resumed; all others change the training.
FREE_TO_CHANGE = (
    *("data_dir", "allow_sample", "eval_split", "eval_batch_size", "num_steps"),
    *("log_every", "eval_every", "checkpoint_every", "histograms", "profile_steps"),
    *("num_seeds", "steps_per_call", "seeds_per_call"),
)

_DATASETS = datasets.names()
_DTYPES = ("float32", "bfloat16")
_PERIODS = ("log_every", "eval_every", "checkpoint_every")
_PROFILE_STEPS = re.compile(r"(\d{1,18}):(\d{1,18})")


def _whole(least: int, most: int | None = None) -> tuple[Callable[[Any], bool], str]:
    if most is None:
        return lambda value: value >= least, f"a whole number of at least {least}"
    bounds = f"a whole number of at least {least} and at most {most:,}"
    return lambda value: least <= value <= most, bounds


_AT_LEAST_0, _AT_LEAST_1 = _whole(0), _whole(1)
_INT32 = _whole(1, 2**31 - 1)  # What a device counts with.
# Below the smallest normal one a device may take a number for 0.
_FLOAT32_MIN, _FLOAT32_MAX = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dataset": (lambda value: value in _DATASETS, f"one of {', '.join(_DATASETS)}"),
    "batch_size": _AT_LEAST_1,
    "eval_batch_size": _INT32,
    "num_steps": _INT32,
    "learning_rate": (
        lambda value: _FLOAT32_MIN <= value <= _FLOAT32_MAX,
        f"a number above 0, in float32: from {_FLOAT32_MIN:.1e} to {_FLOAT32_MAX:.1e}",
    ),
    "schedule": (lambda value: value in DECAYS, f"one of {', '.join(DECAYS)}"),
    "warmup_steps": _AT_LEAST_0,
    "dropout_rate": (lambda value: 0 <= value < 1, "a number of at least 0 and below 1"),
    "dtype": (lambda value: value in _DTYPES, f"one of {', '.join(_DTYPES)}"),
    "seed": (lambda value: 0 <= value < 2**32, "a whole number of at least 0 and below 2**32"),
    "num_seeds": _whole(1, 10_000),  # Each has its workdir.
    "log_every": _AT_LEAST_1,
    "eval_every": _AT_LEAST_1,
    "checkpoint_every": _AT_LEAST_1,
    "profile_steps": (
        lambda value: not value or bool(_PROFILE_STEPS.fullmatch(value)),
        "FIRST:END, such as 100:110",
    ),
    "steps_per_call": _AT_LEAST_0,
    "seeds_per_call": _AT_LEAST_0,
}
_TYPES = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


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
    check_types(config)
    for field, value in config.items():
        is_allowed, allowed = _ALLOWED.get(field, (None, None))
        if is_allowed and not is_allowed(value):
            raise UserError(f"{field}={value!r} is not allowed: it must be {allowed}.")
    if config.data_dir is not None:
        local_path(config.data_dir, "data_dir")
    period = math.gcd(*(config[field] for field in _PERIODS))
    if config.steps_per_call and period % config.steps_per_call:
        raise UserError(
            f"steps_per_call={config.steps_per_call} is not allowed: it must divide "
            f"{', '.join(f'{field}={config[field]}' for field in _PERIODS)}; {period} does."
        )
    if config.seed + config.num_seeds > 2**32:
        raise UserError(f"num_seeds={config.num_seeds} is not allowed: seeds are below 2**32.")
    if training and config.warmup_steps > config.num_steps:
        raise UserError(
            f"warmup_steps={config.warmup_steps} is not allowed: it must be at most "
            f"num_steps={config.num_steps}."
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
    optimizers.create_optimizer(config)


def check_types(config: ConfigDict) -> None:
    """Raises UserError if a field is none, is missing, or has a value of another type."""
    default = get_config()
    for field in config:
        _check_field(field, config[field])
    for field in default:
        if field not in config:
            raise UserError(f"the config lacks the field {field}: start from get_config().")
        value, wanted = config[field], default.get_type(field)
        is_of_type = type(value) is wanted or (wanted is float and type(value) is int)
        if not is_of_type and not (field == "data_dir" and value is None):
            raise UserError(f"{field}={value!r} is not allowed: it must be {_TYPES[wanted]}.")
    if config.dataset not in _DATASETS:
        raise UserError(
            f"dataset={config.dataset!r} is not allowed: it must be one of {', '.join(_DATASETS)}."
        )


def changed_training(old: ConfigDict, new: ConfigDict, but: Sequence[str] = ()) -> list[str]:
    """The fields, with both values, in which two configs train differently; `but` are left out."""
    return [
        f"{field} ({old.get(field)!r} there, {new[field]!r} now)"
        for field in new
        if field not in (*FREE_TO_CHANGE, *but) and old.get(field) != new[field]
    ]


def steps_per_call(config: ConfigDict, platform: str) -> int:
    """How many steps a call of the device takes on a platform such as "cpu" or "gpu"."""
    if config.steps_per_call:
        return config.steps_per_call
    return 1 if platform == "cpu" else math.gcd(*(config[field] for field in _PERIODS))


def seeds_per_call(config: ConfigDict, platform: str) -> int:
    """How many seeds train at once on a platform such as "cpu" or "gpu"."""
    at_once = config.seeds_per_call or (1 if platform == "cpu" else config.num_seeds)
    return min(at_once, config.num_seeds)


def profile_steps(config: ConfigDict) -> range:
    """The steps that are traced, from 0; none by default."""
    match = _PROFILE_STEPS.fullmatch(config.profile_steps)
    return range(int(match[1]), int(match[2])) if match else range(0)


def eval_name(config: ConfigDict) -> str:
    """What to call the evaluation's split in metrics: "test", or "validation" if cut from train."""
    bases = {base for base, _, _ in datasets.slice_of(config.dataset, config.eval_split)}
    return "test" if bases == {"test"} else "validation"


def _run_file(text: str | os.PathLike) -> ConfigDict:
    path = local_path(text, "--config", as_pattern=False)
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
    wanted = get_config().get_type(field)
    if field == "data_dir" and text in ("", "None"):
        return None
    if field == "data_dir":
        return str(local_path(text, "data_dir"))
    try:
        if wanted is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if wanted is int and re.search("[.e]", text):
            raise ValueError(text)
        return wanted(text)
    except (KeyError, ValueError):
        raise UserError(f"{field}={text} is not allowed: it must be {_TYPES[wanted]}.") from None
