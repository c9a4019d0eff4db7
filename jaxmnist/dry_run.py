"""What a run would do, and how long it would take, without doing it: `train --dry_run`."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxmnist import checks, seeds
from jaxmnist import config as config_lib
from jaxmnist.compile import compiled_steps, data_keys
from jaxmnist.data import datasets
from jaxmnist.data.input_pipeline import OrderedBatches, ShuffledBatches, put_on_device
from jaxmnist.devices import machine
from jaxmnist.devices.sharding import Layout
from jaxmnist.models import create_model
from jaxmnist.optimizers import create_optimizer
from jaxmnist.record.network import layer_table
from jaxmnist.record.screen import Screen, duration
from jaxmnist.record.workdir import Run
from jaxmnist.train_step import TrainState

_INDENT = " " * 10
_SECONDS = 3.0  # Of measuring steps, and of measuring steps of an evaluation.


def describe(run: Run, screen: Screen) -> str:
    """What a run of this config in this workdir would train, on what, and for how long.

    The steps are measured on images of noise, so that no data are needed. Nothing is written.

    Raises:
      UserError: the run would be refused.
    """
    since = machine.process_seconds()
    option = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[option]
    jax.config.update(option, 1e9)  # A program that a cache would keep is something written.
    try:
        return _describe(run, screen, since)
    finally:
        jax.config.update(option, before)


def _describe(run: Run, screen: Screen, since: float) -> str:
    config = run.config
    config.model = run.workdir.same_model(config.model)
    checks.check(config)
    seeds.check_workdir(run)
    seeds.check_seeds(run)
    layout = Layout.create(seeds.at_once(config))
    layout.check(config.batch_size)
    found = machine.describe()
    runs = seeds.each_seed(run)
    steps = [
        config.num_steps
        if each.workdir.finished(each.config)  # Its patience may have ended before.
        else max(each.workdir.checkpoint_steps(), default=0)
        for each in runs
    ]
    lines = [
        ("data", _data(config)),
        ("network", _network(config)),
        ("training", _training(config)),
        ("device", f"{found['count']} {found['kind']} ({found['processor']})"),
    ]
    if min(steps) < config.num_steps:
        with screen.phase("measuring"):
            lines += _measure(config, layout, steps, since)
    lines += [("workdir", _state_of(run, steps)), ("", "nothing was written")]
    return "\n".join(f"{name:10}{text}".rstrip() for name, text in lines)


def _data(config: ConfigDict) -> str:
    info = datasets.describe(config)
    counts = {
        split: sum(end - first for _, first, end in datasets.slice_of(info, split))
        for split in (config.train_split, config.eval_split)
    }
    train, test = counts[config.train_split], counts[config.eval_split]
    uses = (
        f"{config.dataset}: {train:,} examples to train on ({config.train_split}), {test:,} to "
        f"evaluate on ({config.eval_split})"
    )
    if config.dataset == datasets.SAMPLE:
        return f"{uses}\n{_INDENT}it comes with the package"
    if config.dataset not in datasets.names():
        shape = "x".join(map(str, info.image_shape))
        return f"{uses}\n{_INDENT}{len(info.class_names)} classes, images of {shape}"
    from jaxmnist.data import tfds_builders  # Here, since tfds takes a moment to load.

    builder = tfds_builders.create(config.dataset, config.data_dir)
    where = f"prepared in {builder.data_dir}"
    if not tfds_builders.is_prepared(builder):
        where = f"not prepared in {builder.data_dir_root} yet: it would be downloaded"
        if config.dataset == "mnist" and config.allow_sample and config.data_dir is None:
            where += f";\n{_INDENT}where it cannot be, {datasets.SAMPLE} would stand in"
    return f"{uses}\n{_INDENT}{where}"


def _network(config: ConfigDict) -> str:
    info = datasets.describe(config)
    layers = layer_table(create_model(config, len(info.class_names)), info.image_shape)
    rows = [("layer", "output shape", "parameters")]
    rows += [(x.name, "x".join(map(str, x.shape)), f"{x.parameters:,}") for x in layers]
    rows.append(("all", "", f"{sum(x.parameters for x in layers):,}"))
    first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [f"{a:{first}}  {b:{second}}  {c:>{third}}".rstrip() for a, b, c in rows]
    return f"\n{_INDENT}".join(lines)


def _training(config: ConfigDict) -> str:
    steps = sorted({0, config.warmup_steps, config.num_steps // 2, config.num_steps})
    schedule = create_optimizer(config).schedule
    rates = ", ".join(f"{float(schedule(step)):.3g} at step {step:,}" for step in steps)
    seeds = f", for each of {config.num_seeds} seeds" if config.num_seeds > 1 else ""
    seeds += f", curriculum {config.curriculum}" if config.curriculum else ""
    return (
        f"{config.num_steps:,} steps of {config.batch_size} by {config.optimizer}{seeds}\n"
        f"{'schedule':10}{config.schedule}, learning rate {rates}"
    )


def _measure(
    config: ConfigDict, layout: Layout, steps: Sequence[int], since: float
) -> list[tuple[str, str]]:
    """The time and the memory of runs that go on from `steps`; starting took `since` seconds."""
    rng, info = np.random.default_rng(0), datasets.describe(config)
    count = config_lib.steps_per_call(config, jax.default_backend())
    number = max(config.batch_size, config.eval_batch_size)
    images = rng.integers(0, 256, (number, *info.image_shape), np.uint8)
    examples = put_on_device(images, rng.integers(0, len(info.class_names), number), layout)
    each_seed = range(config.seed, config.seed + layout.num_runs)
    compiled = compiled_steps(config, info, layout)
    start = time.perf_counter()
    step_fn = compiled.train_step(config.batch_size, count)
    compiling = time.perf_counter() - start
    state = compiled.init(each_seed)
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    keys = data_keys(each_seed, layout)
    batch = ShuffledBatches(examples, keys, config.batch_size, layout)(0, count)
    held: list[TrainState] = [state]

    def train() -> Any:
        held[0], metrics = step_fn(held[0], batch)
        return metrics

    seconds = _median_seconds(train) / count
    in_order = OrderedBatches(examples, config.eval_batch_size, layout)
    eval_step, eval_batch = compiled.eval_step(in_order.batch_size), next(iter(in_order))
    eval_seconds = _median_seconds(lambda: eval_step(held[0], eval_batch))
    parts = datasets.slice_of(info, config.eval_split)
    calls = -(-sum(end - first for _, first, end in parts) // config.eval_batch_size)
    # Seeds that train at once take their steps together.
    left = sum(config.num_steps - step for step in steps) // layout.num_runs
    every = config.eval_every
    evaluations = sum(-(-config.num_steps // every) - step // every for step in steps)
    evaluations = max(evaluations // layout.num_runs, 1)
    in_steps, in_evaluations = left * seconds, evaluations * calls * eval_seconds
    whole = since + compiling + in_steps + in_evaluations
    # With JAX_DISABLE_JIT it is no executable.
    analysis = step_fn.memory_analysis() if isinstance(step_fn, jax.stages.Compiled) else None
    temporary = getattr(analysis, "temp_size_in_bytes", 0)
    peak = machine.peak_memory_bytes()
    of_process = f"; about {peak / 2**20:,.0f} MiB for the whole process" if peak else ""
    plural = "s" * (evaluations > 1)
    return [
        (
            "time",
            f"about {duration(whole)}: {duration(in_steps)} for {left:,} steps of "
            f"{1e3 * seconds:.1f} ms, {duration(in_evaluations)} for {evaluations:,} "
            f"evaluation{plural}, {duration(since + compiling)} to start and compile",
        ),
        (
            "memory",
            f"{state_bytes / 2**20:,.0f} MiB for parameters and the optimizer's state, "
            f"{temporary / 2**20:,.0f} MiB more within a step{of_process}",
        ),
    ]


def _median_seconds(call: Callable[[], Any]) -> float:
    """Of a call, after two that warm up, in some seconds of calls."""
    taken: list[float] = []
    end = float("inf")
    while len(taken) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - start)
        if len(taken) == 2:
            end = time.perf_counter() + _SECONDS
    return statistics.median(taken[2:])


def _state_of(run: Run, steps: Sequence[int]) -> str:
    config, record = run
    if not max(steps):
        return f"{record.path}: a new run"
    if min(steps) == config.num_steps:
        more = f"--config.num_steps={2 * config.num_steps} continues it"
        return f"{record.path}: it holds this run, finished; {more}"
    return f"{record.path}: it holds this run at step {min(steps):,}, from which it goes on"
