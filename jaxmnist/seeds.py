"""Several runs of one config that differ in their seeds: which to train, together or in turn."""

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxmnist import config as config_lib
from jaxmnist.data.datasets import describe, eval_name, names
from jaxmnist.devices import machine
from jaxmnist.devices.sharding import Layout
from jaxmnist.errors import UserError
from jaxmnist.models import create_model
from jaxmnist.record import find_runs
from jaxmnist.record.network import describe_network
from jaxmnist.record.workdir import Run, Workdir


def each_seed(run: Run) -> list[Run]:
    """The run itself or, of several seeds, the run of each, in a folder of its workdir."""
    config = run.config
    if config.num_seeds == 1:
        return [run]
    runs = []
    for seed in range(config.seed, config.seed + config.num_seeds):
        each = config.copy_and_resolve_references()
        each.seed, each.num_seeds = seed, 1
        runs.append(Run(each, Workdir(run.workdir.path / f"seed-{seed}")))
    return runs


def plan(whole: Run) -> tuple[dict[int, dict[str, Any]], list[list[int]]]:
    """What is finished of `each_seed(whole)`, and what is left to train.

    A single run is always left: where it stands at its end, it is evaluated again. Where all
    seeds are finished, the config is saved here.

    Returns the results of the finished runs by their index, and groups of the indices of the
    others: the runs of a group train at once. Raises UserError if the runs cannot go on.
    """
    runs = each_seed(whole)
    if len(runs) == 1:
        return {}, [[0]]
    check_seeds(whole)
    found = [run.workdir.finished(run.config) for run in runs]
    left = [i for i, results in enumerate(found) if results is None]
    groups = _groups(left, runs, at_once(whole.config))
    for group in groups:
        _check_batch(whole.config, len(group))
    if not groups:
        whole.workdir.save(whole.config)
    return {i: results for i, results in enumerate(found) if results is not None}, groups


def at_once(config: ConfigDict) -> int:
    """How many seeds train at once on the devices that there are."""
    return config_lib.seeds_per_call(config, jax.default_backend())


def check_workdir(run: Run) -> None:
    """Raises UserError if a workdir holds something else: other runs, or another network."""
    config, workdir = run
    saved = workdir.load_config()
    # Each seed may have been trained by a command of its own.
    own = {each.workdir.path for each in each_seed(run)} if config.num_seeds > 1 else set()
    if saved is None and not own.issuperset(find_runs.find(workdir.path)):
        others = find_runs.several(workdir.path)
        raise UserError(f"{others}. Name one of them, or choose another workdir.")
    for there, what in ((workdir.checkpoints.exists(), 1), (any(workdir.path.glob("seed-*")), 2)):
        if there and what != min(config.num_seeds, 2):
            held = "one run" if what == 1 else "the runs of several seeds"
            raise UserError(
                f"{workdir.path} holds {held}, and num_seeds={config.num_seeds} now: choose "
                "another workdir."
            )
    if config.num_seeds == 1:  # Before its steps are compiled, which takes seconds.
        if saved is not None and saved.dataset == config.dataset:
            workdir.check_data(describe(config))
        elif saved is not None and config.dataset not in names():  # The sample may stand in.
            workdir.check(config)
        if workdir.checkpoint_steps():
            workdir.check_network(todays_network(config))


def check_seeds(run: Run) -> None:
    """Raises UserError if the run, or the runs of its seeds, cannot go on in their workdirs."""
    # Older versions wrote "mnist" there even where the sample stood in.
    run.workdir.check(run.config, ("dataset",))
    network = todays_network(run.config)
    for config, workdir in each_seed(run):
        workdir.check(config)
        workdir.check_network(network)


def check_batches(config: ConfigDict) -> None:
    """Raises UserError if the devices cannot share a batch among the seeds that train at once."""
    most = at_once(config)
    for count in {most, config.num_seeds % most or most}:
        _check_batch(config, count)


def todays_network(config: ConfigDict) -> dict[str, Any]:
    """The network that a config trains with the code of today, as describe_network has it."""
    info = describe(config)
    model = create_model(config, len(info.class_names))
    return describe_network(model, info.image_shape, tuple(config))


def over_seeds(
    results: Sequence[dict[str, Any]], config: ConfigDict, since: float
) -> dict[str, Any]:
    """What results.json holds of the same training with several seeds.

    Of each metric the mean, the standard deviation (of a sample: over n - 1) and each value.

    Args:
      results: what it holds of each seed's run.
      config: the config of all.
      since: the age of this process, in seconds, when the first of them began.
    """
    first = results[0]
    names = ("train", eval_name(config), "best")
    splits = [name for name in names if all(name in each for each in results)]
    return {
        "dataset": first["dataset"],
        "step": max(each["step"] for each in results),
        **({"stopped_early": True} if any("stopped_early" in each for each in results) else {}),
        "seeds": [each["config"]["seed"] for each in results],
        **{
            split: {name: spread([each[split][name] for each in results]) for name in first[split]}
            for split in splits
        },
        "seconds": {"total": machine.process_seconds() - since},
        "params_sha256": [each["params_sha256"] for each in results],
        "starts": [each.get("starts", []) for each in results],
        "device": first["device"],
        "versions": first["versions"],
        "options": first.get("options", {}),
        "config": json.loads(config.to_json()),  # As it is read back.
    }


def spread(values: list[float] | list[int]) -> dict[str, Any]:
    """The mean, the standard deviation (of a sample) and each of some seeds' values."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": std, "each": values}


def _check_batch(config: ConfigDict, count: int) -> None:
    try:
        Layout.create(count).check(config.batch_size)
    except UserError as e:
        if config.num_seeds == 1:
            raise
        raise UserError(f"of {config.num_seeds} seeds {count} would train at once: {e}") from None


def _groups(left: list[int], runs: Sequence[Run], most: int) -> list[list[int]]:
    """Which runs to train at once: those that go on from the same step, as many as allowed."""
    newest = {i: max(runs[i].workdir.checkpoint_steps(), default=0) for i in left}
    by_step = [[i for i in left if newest[i] == step] for step in set(newest.values())]
    return sorted(
        together[start : start + most]
        for together in by_step
        for start in range(0, len(together), most)
    )
