"""The runs that a config asks for: one, or one for each seed, together or in turn."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxmnist import config as config_lib
from jaxmnist import hooks, listing
from jaxmnist.data import datasets
from jaxmnist.data.input_pipeline import Data
from jaxmnist.devices import distributed, machine, tuning
from jaxmnist.devices.sharding import Layout, fetch
from jaxmnist.errors import UserError
from jaxmnist.files import local_path, write_json
from jaxmnist.record import results as results_lib
from jaxmnist.record.screen import Screen
from jaxmnist.record.workdir import Workdir
from jaxmnist.train import evaluate, jit_eval_step, train
from jaxmnist.train_step import describe_network
from jaxmnist.trained.inference import newest_state


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | Path,
    data: Data | None = None,
    *,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
    screen: Screen | None = None,
) -> dict[str, Any]:
    """Trains in `workdir` from where it stands, and evaluates.

    Each of several seeds has its own workdir within, as it would have if it had run alone.

    Args:
      config: the run's.
      workdir: the folder that becomes, or is, its record.
      data: of an earlier call, whose data may then be used again.
      on_metrics: called with each record that is written to metrics.jsonl, and its "seed": a dict
        of plain numbers and the "split". In process 0 alone.
      screen: where the run says what it does; by default one of its own on standard output.

    Returns:
      What it writes to results.json.

    Raises:
      UserError: what a user can mend.
      Interrupted: SIGTERM or Ctrl-C; the checkpoints are written.
    """
    record, data = Workdir(local_path(workdir, "workdir")), data or Data()
    tuning.check()
    config_lib.check(config)
    config = config.copy_and_resolve_references()
    for count in {_at_once(config), config.num_seeds % _at_once(config) or _at_once(config)}:
        _check_batch(config, count)
    # A command begins with its process; a call in another program, or after another run, now.
    is_command = data.is_empty() and machine.command_line() is not None
    since = 0.0 if is_command else machine.process_seconds()
    with ExitStack() as cleanup, distributed.explained(), _disk_explained(record):
        distributed.check_same(config.to_json(), "the config")
        # What was trained on MNIST never goes on with the sample; its config stays as it was.
        data.allow_sample = not distributed.from_first(lambda: _open(cleanup, record, config))
        screen = cleanup.enter_context(screen or Screen(quiet=not distributed.is_first()))
        if config.num_seeds == 1:
            return train([config], [record], data, screen, since, on_metrics=on_metrics)[0]
        results = _train_seeds(config, record, data, screen, since, on_metrics)
        if distributed.is_first():
            write_json(record.results, results)
        return results


def evaluate_checkpoints(
    config: ConfigDict, workdir: str | Path, screen: Screen | None = None
) -> list[tuple[int, int, dict[str, float]]]:
    """Evaluates the newest checkpoint of each seed: (seed, step, mean loss and accuracy).

    `screen` is where it says what it does; by default nowhere.
    """
    screen = screen or Screen(quiet=True)
    record = Workdir(local_path(workdir, "workdir"))
    tuning.check()
    config_lib.check(config, training=False)
    saved = record.load_config() or config
    # What is fitted to the data is read from the checkpoint, so changing how is no evaluation.
    changed = config_lib.changed_training(saved, config, ("dataset", "dtype", "seed"))
    if changed:
        raise UserError(f"evaluation uses what was trained, so this cannot be set: {changed[0]}.")
    config = config.copy_and_resolve_references()
    config.allow_sample = False  # It is a part of what a run on MNIST was trained on.
    layout, data = Layout.create(), Data()
    with screen.phase("reading data"):
        _, (_, examples) = data.load(config, layout)
    found, eval_fn = [], jit_eval_step(layout)
    for each, of_seed in each_seed(config, record):
        with screen.phase("reading the checkpoint"):
            state = newest_state(each, of_seed, layout)
        with screen.phase("evaluating"):
            metrics = evaluate(eval_fn, state, examples, config.eval_batch_size, layout).metrics
        found.append((each.seed, int(fetch(state.step)), hooks.each_run(metrics)[0]))
    return found


def _at_once(config: ConfigDict) -> int:
    return config_lib.seeds_per_call(config, jax.default_backend())


def _open(cleanup: ExitStack, record: Workdir, config: ConfigDict) -> bool:
    """Locks the workdir; returns whether what it holds was trained on MNIST itself."""
    cleanup.enter_context(record.locked())
    check_workdir(record, config)
    # Of several seeds the workdirs tell: in older ones the whole is called MNIST where the sample
    # stood in.
    saved = [workdir.load_config() for _, workdir in each_seed(config, record)]
    return any(each is not None and each.dataset == "mnist" for each in saved)


def check_workdir(record: Workdir, config: ConfigDict) -> None:
    """Raises UserError if a workdir can hold no run of a config, whatever its seeds have done."""
    saved = record.load_config()
    if saved is None and (others := listing.several(record.path)):
        raise UserError(f"{others}. Name one of them, or choose another workdir.")
    for there, what in ((record.checkpoints.exists(), 1), (any(record.path.glob("seed-*")), 2)):
        if there and what != min(config.num_seeds, 2):
            held = "one run" if what == 1 else "the runs of several seeds"
            raise UserError(
                f"{record.path} holds {held}, and num_seeds={config.num_seeds} now: choose "
                "another workdir."
            )
    if config.num_seeds == 1:  # Before its steps are compiled, which takes seconds.
        record.check_network(describe_network(config, datasets.num_classes(config.dataset)))


def check_seeds(record: Workdir, config: ConfigDict, network: dict[str, Any]) -> None:
    """Raises UserError if the runs of a config's seeds cannot go on in their workdirs.

    Args:
      record: of the whole.
      config: of the whole.
      network: as train_step.describe_network gives it.
    """
    record.check(config, ("dataset",))  # Which may be called MNIST where the sample stood in.
    for each, workdir in each_seed(config, record):
        workdir.check(each)
        workdir.check_network(network)


def each_seed(config: ConfigDict, record: Workdir) -> Iterator[tuple[ConfigDict, Workdir]]:
    """The runs' own configs and workdirs."""
    if config.num_seeds == 1:
        yield config, record
        return
    for seed in range(config.seed, config.seed + config.num_seeds):
        each = config.copy_and_resolve_references()
        each.seed, each.num_seeds = seed, 1
        yield each, Workdir(record.path / f"seed-{seed}")


def _train_seeds(
    config: ConfigDict,
    record: Workdir,
    data: Data,
    screen: Screen,
    since: float,
    on_metrics: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    with screen.phase("reading data"):
        dataset, _ = data.load(config, Layout.create(_at_once(config)))
    config.dataset = dataset.name  # The sample may stand in.
    config_lib.check(config)
    configs, workdirs = zip(*each_seed(config, record), strict=True)
    network = describe_network(config, dataset.num_classes)

    def begin() -> tuple[list[dict[str, Any] | None], list[list[int]]]:
        """What is finished, and what is to be trained together; all is checked before it starts."""
        check_seeds(record, config, network)
        finished = [w.finished(each) for w, each in zip(workdirs, configs, strict=True)]
        left = [i for i, found in enumerate(finished) if found is None]
        groups = _groups(left, workdirs, _at_once(config))
        for group in groups:
            _check_batch(config, len(group))
        if not groups:
            record.save(config)
        return finished, groups

    finished, groups = distributed.from_first(begin)
    results = dict(enumerate(finished))
    began = since
    for group in groups:
        if distributed.is_first():
            names = ", ".join(str(configs[i].seed) for i in group)
            screen.line(f"seed {names} (of {configs[0].seed} to {configs[-1].seed}):")
            for i in group:
                workdirs[i].path.mkdir(exist_ok=True)
        found = train(
            [configs[i] for i in group],
            [workdirs[i] for i in group],
            data,
            screen,
            since,
            lambda: record.save(config),
            on_metrics,
        )
        results |= zip(group, found, strict=True)
        since = machine.process_seconds()
    return results_lib.over_seeds([results[i] or {} for i in range(len(configs))], config, began)


def _check_batch(config: ConfigDict, count: int) -> None:
    """Raises UserError if the devices cannot share a batch where `count` seeds train at once."""
    try:
        Layout.create(count).check(config.batch_size)
    except UserError as e:
        if config.num_seeds == 1:
            raise
        raise UserError(f"of {config.num_seeds} seeds {count} would train at once: {e}") from None


def _groups(left: list[int], workdirs: tuple[Workdir, ...], at_once: int) -> list[list[int]]:
    """Which runs to train together: those that go on from the same step, as many as allowed."""
    newest = {i: max(workdirs[i].checkpoint_steps(), default=0) for i in left}
    by_step = [[i for i in left if newest[i] == step] for step in set(newest.values())]
    return sorted(
        together[start : start + at_once]
        for together in by_step
        for start in range(0, len(together), at_once)
    )


@contextmanager
def _disk_explained(record: Workdir) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        within = record.path.absolute()
        if isinstance(e.filename, str) and not Path(e.filename).absolute().is_relative_to(within):
            raise  # It names what is at fault.
        raise UserError(
            f"cannot write in {record.path} ({e.strerror or e}): make room or choose another "
            "workdir; what was there before is whole."
        ) from e
