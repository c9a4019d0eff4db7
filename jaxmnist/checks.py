"""Checks of a config: each refusal says field, value and what is allowed."""

import dataclasses
import difflib
import functools
import inspect
import math
import os
import re
import runpy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from jaxmnist.config import (
    ALL_FIELDS,
    PAPERS_FIELDS,
    PERIODS,
    SCHEDULES,
    TYPE_NAMES,
    get_config,
    profile_steps,
    type_of,
)
from jaxmnist.errors import UserError, first_line
from jaxmnist.files import local_path
from jaxmnist.own_model import read as read_model

if TYPE_CHECKING:
    from jaxmnist.data.info import DatasetInfo
    from jaxmnist.optimizers import Optimizer

# Optimizers that optax has and a run cannot use, and why.
_REFUSED_OPTIMIZERS = {
    "contrib.dpsgd": "it needs the gradient of each example, and a run has that of their mean",
    "contrib.schedule_free": "it wraps another optimizer: take contrib.schedule_free_sgd "
    "or contrib.schedule_free_adamw",
    "contrib.sophia": "it needs second derivatives of the loss, which a run does not give",
    "optimistic_adam": "it takes no schedule of learning rates: take optimistic_adam_v2",
}
# They divide by the learning rates so far: after a first step at 0, by 0. safeguard_warmup of
# contrib.prodigy makes it do without.
_NEED_A_FIRST_RATE = ("contrib.dadapt_adamw", "contrib.prodigy")
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
    if isinstance(config.get("model"), str):
        config.model = read_model(config.model)
    return config


def override(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> None:
    """Sets fields from texts; raises UserError as `load` does.

    A network of one's own takes the place of the config's: fields of that are what they are by
    default, unless they are among the overrides too.
    """
    if dict(overrides).get("model"):
        config.update({field: get_config()[field] for field in PAPERS_FIELDS})
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
    from jaxmnist import augment, curriculum, optimizers
    from jaxmnist.data import datasets
    from jaxmnist.devices import distributed

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
    # Process 0 alone has the data.
    info = distributed.from_first(lambda: datasets.describe(config))
    _check_images(config, info)
    for field in ("train_split", "eval_split"):
        try:
            parts = datasets.slice_of(info, config[field])
        except UserError as e:
            raise UserError(f"{field}: {e}") from None
        count = sum(end - first for _, first, end in parts)
        if field == "train_split" and config.batch_size > count:
            raise UserError(
                f"batch_size={config.batch_size} is not allowed: it must be at most {count:,}, "
                f"the examples of {config.dataset}'s {config.train_split}."
            )
        if field == "train_split" and (later := curriculum.create_curriculum(config.curriculum)):
            hardest = curriculum.num_hardest(later, count)
            if config.batch_size > hardest:
                raise UserError(
                    f"curriculum={config.curriculum!r} is not allowed: its share of {count:,} "
                    f"examples is {hardest:,}, fewer than batch_size={config.batch_size}."
                )
            if training and later.after > config.num_steps:
                raise UserError(
                    f"curriculum={config.curriculum!r} is not allowed: after must be at most "
                    f"num_steps={config.num_steps}."
                )
    augment.create_augment(config.augment)
    _check_network(config, info)
    for field, what in (("keep_best", "chooses"), ("patience", "ends the run")):
        if training and config[field]:
            check_validation(config, info, f"{field}={config[field]} {what} by the evaluation")
    optimizer = optimizers.create_optimizer(config)
    _check_optimizer(optimizer, config)
    if refusal := training and _division_refusal(optimizer):
        raise UserError(f"optimizer={config.optimizer!r} is not allowed: {refusal}.")


def check_validation(config: ConfigDict, info: "DatasetInfo", who: str) -> None:
    """Raises UserError if the evaluation is on the test set, or on examples that are trained on.

    Args:
      config: the config.
      info: of its dataset.
      who: what needs a validation split, and why, as the error's sentence begins.
    """
    from jaxmnist.data import datasets

    train, evaluation = (
        datasets.slice_of(info, split) for split in (config.train_split, config.eval_split)
    )
    if any(base == "test" for base, _, _ in evaluation):
        raise UserError(
            f"{who}, so eval_split={config.eval_split!r} is not allowed: take a part of the "
            "training set for it, and the rest as train_split."
        )
    for base, first, end in evaluation:
        for _, start, stop in (part for part in train if part[0] == base):
            both = range(max(first, start), min(end, stop))
            if both:
                raise UserError(
                    f"{who}, so eval_split={config.eval_split!r} is not allowed with "
                    f"train_split={config.train_split!r}: both have "
                    f"{base}[{both.start}:{both.stop}], and no model is judged by what it was "
                    "trained on."
                )


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


def _check_images(config: ConfigDict, info: "DatasetInfo") -> None:
    """Raises UserError if the dataset's images are not as the config says."""
    kind = config.dataset.partition(":")[0]
    refused, default = f"is not allowed with dataset={config.dataset!r}", get_config()
    if tuple(config.image_shape) not in (default.image_shape, tuple(info.image_shape)):
        shape = "x".join(map(str, info.image_shape))
        raise UserError(
            f"image_shape={tuple(config.image_shape)} {refused}: its images are {shape}, and only "
            "the pictures of a folder can be made to another shape."
        )
    if kind == "folder" and config.prepare == "mnist" and info.image_shape[2] != 1:
        raise UserError(
            f"prepare='mnist' is not allowed with image_shape={tuple(config.image_shape)}: it cuts "
            "out strokes, which are grey; set prepare=resize, or 1 channel."
        )
    if kind not in ("folder", "arrays") and config.prepare != default.prepare:
        raise UserError(
            f"prepare={config.prepare!r} {refused}: how its pictures are prepared is known, and "
            "only those of a folder have a choice."
        )


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
    if field == "model":
        return read_model(text)
    if field == "data_dir":
        return str(local_path(text, "data_dir").absolute())  # A run goes on from any folder.
    if field == "dataset" and text.startswith("folder:"):
        path = local_path(text.removeprefix("folder:"), "dataset=folder:", as_pattern=False)
        return f"folder:{path.absolute()}"
    try:
        if wanted is tuple:
            return tuple(int(part) for part in text.strip("()[] ").rstrip(",").split(","))
        if wanted is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if wanted is int and re.fullmatch(r"\d+e\d{1,2}", text.strip()):
            return int(float(text))
        return wanted(text)
    except (KeyError, ValueError):
        raise UserError(
            f"{field}={text} is not allowed: it must be {TYPE_NAMES[wanted]}."
        ) from None


def _check_network(config: ConfigDict, info: "DatasetInfo") -> None:
    """Raises UserError if a config's network does not fit the data, or does not work."""
    height, width, _ = info.image_shape
    most = min(height, width).bit_length() - 1
    if not config.model:
        if len(config.features) > most:
            raise UserError(
                f"features={config.features} is not allowed: each convolution's pooling halves the "
                f"image, and {height}x{width} pixels allow at most {most}."
            )
        return
    default = get_config()
    for field in PAPERS_FIELDS:
        if config[field] != default[field]:
            raise UserError(
                f"{field}={config[field]!r} is not allowed with model={config.model!r}: it is the "
                "paper's network's. Give your own network arguments instead."
            )
    from jaxmnist.models import create_model

    model = create_model(config, len(info.class_names))
    if refusal := _refusal_of_model(
        model, info.image_shape, len(info.class_names), config.batch_size
    ):
        raise UserError(f"model={config.model!r}: {refusal}.")


@functools.lru_cache(maxsize=32)
def _refusal_of_model(
    model: Any, image_shape: tuple[int, ...], num_classes: int, batch_size: int
) -> str:
    """Why a network of one's own cannot be trained; "" if it can."""
    import jax
    import jax.numpy as jnp

    def forward(key, images):
        before = dict(model.init(key, images[:1], train=False))
        params = before.pop("params", {})
        trained, after = model.apply(
            {"params": params, **before},
            images,
            train=True,
            rngs={"dropout": key},
            mutable=list(before),
        )
        evaluated = model.apply({"params": params, **before}, images, train=False)
        return params, before, after, trained, evaluated

    def shapes(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
    try:
        params, before, after, *logits = jax.eval_shape(forward, jax.random.key(0), images)
    except (Exception, SystemExit) as e:
        hint = ""
        if "needs PRNG" in str(e):
            hint = ". The only random numbers are those of 'dropout'"
        return f"it fails with {first_line(e, with_type=True)}".rstrip(".") + hint
    leaves = jax.tree.leaves((params, before))
    if not jax.tree.leaves(params):
        return "it has no parameters"
    if shapes(before) != shapes(dict(after)):
        return "its collections beside the parameters change their shapes or types in a step"
    if any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) or not x.size for x in leaves):
        return "it keeps a random key, or an array of no elements, which no checkpoint can hold"
    for each in logits:
        if getattr(each, "shape", None) != (batch_size, num_classes):
            return (
                f"for {batch_size} images it gives {getattr(each, 'shape', type(each).__name__)}, "
                f"not logits of the shape {(batch_size, num_classes)}, one for each of the "
                f"{num_classes} classes"
            )
    return ""


def _check_optimizer(optimizer: "Optimizer", config: ConfigDict) -> None:
    """Raises UserError if a run cannot update with it, or cannot save and restore its state."""
    where = f"optimizer={config.optimizer!r}"
    if refusal := _schedule_refusal(optimizer):
        raise UserError(f"schedule={config.schedule!r} is not allowed: {refusal}.")
    if refusal := config.weight_decay and _decay_refusal(optimizer):
        raise UserError(
            f"weight_decay={config.weight_decay} is not allowed with {where}: {refusal}."
        )
    if config.ema_decay and optimizer.averages_itself:
        raise UserError(
            f"ema_decay={config.ema_decay} is not allowed with {where}, which averages by itself: "
            "set ema_decay=0."
        )
    if refusal := _REFUSED_OPTIMIZERS.get(optimizer.name) or _refusal(optimizer):
        raise UserError(f"{where} is not allowed: {refusal}.")


def _decay_refusal(optimizer: "Optimizer") -> str:
    """Why the config's weight_decay cannot come on top of an optimizer; "" if it can."""
    from jaxmnist.optimizers import WRAPPERS, optimizers

    if optimizer.name in WRAPPERS:
        return "it wraps another optimizer: give that one a decay, as adamw(weight_decay=0.01)"
    if optimizer.name == "polyak_sgd":
        return "it finds its learning rate by itself, so that a share of that is not known"
    parameters = inspect.signature(optimizers()[optimizer.name]).parameters
    for name in ("weight_decay", "weight_decay_rate", "adam_weight_decay"):
        if name not in parameters:
            continue
        if value := optimizer.kwargs.get(name, parameters[name].default):
            return f"it has a decay of its own, {name}={value}, so that one of the two must be 0"
        if optimizer.averages_itself:
            return f"its average needs its own: set {name} there, as an argument"
    return ""


@functools.lru_cache(maxsize=32)
def _schedule_refusal(optimizer: "Optimizer") -> str:
    """Why a run cannot use a schedule; "" if it can."""
    import jax
    import numpy as np

    if optimizer.schedule_name in SCHEDULES:
        return ""
    steps = np.unique(np.linspace(0, optimizer.num_steps, 101).astype(np.int32))
    try:
        rates = np.asarray(jax.jit(jax.vmap(optimizer.schedule))(steps), np.float32)
    except Exception as e:
        return f"optax refuses it: {first_line(e).rstrip('.')}"
    bad = ~(np.isfinite(rates) & (rates >= 0))
    if bad.any():
        found = f"its learning rate at step {steps[bad][0]} is {rates[bad][0]:g}"
        return f"{found}, and must be finite and at least 0"
    return "" if rates.any() else "its learning rate is 0 at every step"


@functools.lru_cache(maxsize=32)  # A config is checked several times before it is trained.
def _refusal(optimizer: "Optimizer") -> str:
    """Why a run cannot use an optimizer; "" if it can."""
    import jax
    import jax.numpy as jnp

    from jaxmnist.optimizers import CONSTANT_RATE

    has_schedule = optimizer.schedule_name != "constant" or optimizer.warmup_steps
    if has_schedule and optimizer.name in CONSTANT_RATE:
        return f"{optimizer.name} takes no schedule: set schedule=constant and warmup_steps=0"

    def shapes(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    def step(params):
        before = optimizer.tx.init(params)
        updates, after = _trial(optimizer, before, params)
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
    except UserError as e:
        return str(e).rstrip(".")
    except Exception as e:
        return f"optax refuses it: {first_line(e).rstrip('.')}"
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


@functools.lru_cache(maxsize=32)
def _division_refusal(optimizer: "Optimizer") -> str:
    """Why the first updates of an optimizer are not finite; "" if they are."""
    import jax
    import jax.numpy as jnp
    import optax

    # By itself, or within one that wraps it.
    text = f"{optimizer.name} {optimizer.options}"
    name = next((name for name in _NEED_A_FIRST_RATE if name in text), "")
    if not name:
        return ""

    @jax.jit
    def step(state, params):
        updates, state = _trial(optimizer, state, params)
        return state, optax.apply_updates(params, updates)

    params = {"kernel": jnp.ones((2, 2))}
    state = optimizer.tx.init(params)
    for _ in range(3):
        state, params = step(state, params)
    if jnp.isfinite(params["kernel"]).all():
        return ""
    if optimizer.schedule(0):
        return f"{name} divides by 0 with these arguments"
    begins = dataclasses.replace(optimizer, warmup_steps=0).schedule(0)
    advice = "set warmup_steps=0" if begins else "take a schedule that begins above 0"
    if name == "contrib.prodigy":
        advice += ", or safeguard_warmup=True as its argument"
    return f"{name} divides by the learning rate, which is 0 at step 0: {advice}"


def _trial(optimizer: "Optimizer", state: Any, params: Any) -> tuple[Any, Any]:
    """The updates and the state after a step on the sum of all parameters."""
    import jax
    import jax.numpy as jnp

    def loss_fn(params):
        return sum(jnp.sum(x) for x in jax.tree.leaves(params))

    value, grad = jax.value_and_grad(loss_fn)(params)
    extra = {"value": value, "grad": grad, "value_fn": loss_fn}
    return optimizer.tx.update(grad, state, params, **extra)
