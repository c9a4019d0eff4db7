"""Training: the explicit loop, and the runs that a config asks for."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxmnist import checks, own_model, seeds
from jaxmnist.compile import compiled_steps, data_keys
from jaxmnist.config import profile_steps, steps_per_call
from jaxmnist.curriculum import CurriculumBatches, training_batches
from jaxmnist.data.datasets import Dataset
from jaxmnist.data.input_pipeline import Data, OrderedBatches
from jaxmnist.devices import distributed, machine, tuning
from jaxmnist.devices.sharding import Layout
from jaxmnist.errors import UserError
from jaxmnist.files import local_path, write_json
from jaxmnist.hooks import Evaluator, Hooks, Stop, device_calls
from jaxmnist.record import results as results_lib
from jaxmnist.record.journal import Journal, Session
from jaxmnist.record.metrics import mean
from jaxmnist.record.screen import Screen
from jaxmnist.record.workdir import Run, Workdir, keep_arrays
from jaxmnist.tensorboard import Histograms, Mistakes, Profile
from jaxmnist.train_step import TrainState, eval_step, train_step  # noqa: F401  Public here too.

Arrays = Sequence[Any]  # ((x, y), (x_test, y_test))


def train(
    runs: Sequence[Run], data: Data, session: Session, whole: Run | None = None
) -> list[dict[str, Any]]:
    """Trains runs that differ in their seeds alone, at once, from where their workdirs stand.

    Returns the results of each, as results.json has them. Raises UserError, and Interrupted
    after a signal. `whole` is the run of several seeds that these are part of, if any.
    """
    config, layout = runs[0].config, Layout.create(len(runs))
    run_seeds, batch_size = [run.config.seed for run in runs], config.batch_size
    most = steps_per_call(config, jax.default_backend())
    with Journal(runs, layout, session) as journal:
        with journal.phase("reading data", "data"):
            dataset, (training, test) = data.load(config, layout)
            _set_dataset(runs, dataset)
        with journal.phase("compiling", "compile"):
            compiled = compiled_steps(config, dataset.info, layout)
            num_classes, keys = len(dataset.info.class_names), data_keys(run_seeds, layout)
            batches = training_batches(config, training, num_classes, keys, layout)
            in_order = OrderedBatches(test, config.eval_batch_size, layout)
            compiled.compile_at_once(
                (batch_size, most),
                lambda: compiled.eval_step(in_order.batch_size),
                *([batches.compile] if isinstance(batches, CurriculumBatches) else []),
            )
        state = journal.resume(compiled.init(run_seeds), dataset.info, whole)
        _introduce(config, dataset, state, journal)

        mistakes = Mistakes(dataset.info, dataset.splits[1], journal)
        evaluate_test = Evaluator(compiled, in_order, journal, mistakes)
        profile, stop = Profile(runs[0], journal), Stop(journal)
        hooks = Hooks(config.num_steps, journal.stops_early)
        hooks.add(profile, every=1)
        hooks.add(journal.log, every=config.log_every)
        hooks.add(evaluate_test, every=config.eval_every)
        if config.keep_best:
            hooks.add(journal.save_best, every=config.eval_every)
        if config.histograms:
            hooks.add(Histograms(journal), every=config.eval_every)
        hooks.add(journal.save, every=config.checkpoint_every)
        # Several processes stop after the same step: they ask each other when they log.
        hooks.add(stop, every=1 if jax.process_count() == 1 else config.log_every)

        with profile, stop.on_signals(), no_hidden_transfers():
            start, num_steps = journal.start(), config.num_steps
            for step, count in device_calls(start, num_steps, most, journal.stops_early):
                with profile.call(step, count):
                    step_fn = compiled.train_step(batch_size, count)
                    state, metrics = layout.wait_on_cpus(step_fn(state, batches(step, count)))
                journal.add(step + count, metrics)
                hooks(step + count, state)
        return _finish(state, dataset, evaluate_test, journal)


def _set_dataset(runs: Sequence[Run], dataset: Dataset) -> None:
    """Names the dataset that was found, and checks again: the sample has fewer examples."""
    for run in runs:
        run.config.dataset = dataset.name
        checks.check(run.config)


def _introduce(config: ConfigDict, dataset: Dataset, state: TrainState, journal: Journal) -> None:
    """Says what is trained, and from where."""
    compiling, num_runs = journal.seconds["compile"], journal.layout.num_runs
    for line in results_lib.introduction(config, dataset, state.model, num_runs, compiling):
        journal.screen.line(line)
    if 0 < journal.step < config.num_steps and not journal.stops_early():
        journal.screen.line(f"resuming from step {journal.step}")
    if config.profile_steps and journal.step >= profile_steps(config).stop:
        journal.screen.line(f"profile_steps={config.profile_steps} are done: nothing is traced")


def _finish(
    state: TrainState, dataset: Dataset, evaluate_test: Evaluator, journal: Journal
) -> list[dict[str, Any]]:
    """Evaluates if no step was left to take, and writes the results."""
    run = journal.runs[0]
    if not journal.has_trained:
        results = run.workdir.load_results() or {}
        journal.screen.line(
            f"the run in {run.workdir.path} finished at step {journal.step}; evaluating it again"
            if results.get("step") == journal.step
            else f"the run in {run.workdir.path} stopped after its last step; evaluating it"
        )
        with journal.pause():
            metrics = evaluate_test.evaluate(state).metrics
        journal.show_evaluation(journal.step, metrics)
    elif journal.stops_early():
        journal.screen.line(
            f"step {journal.step}: the run ends here, without a better accuracy in "
            f"patience={run.config.patience} evaluations"
        )
    newest, labels = mean(journal.latest[journal.split]), dataset.splits[1].labels
    if warning := results_lib.learned_nothing(newest, labels, run.config):
        journal.screen.line(warning)
    return journal.finish(state, dataset)


def no_hidden_transfers() -> AbstractContextManager[None]:
    """Within, only what is asked for moves between host and device.

    Unless nothing is compiled (JAX_DISABLE_JIT): each operation then moves its own constants.
    """
    return jax.transfer_guard("allow" if jax.config.values["jax_disable_jit"] else "disallow")


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | Path,
    data: Data | Arrays | None = None,
    *,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
    screen: Screen | None = None,
    since: float | None = None,
) -> dict[str, Any]:
    """Trains in `workdir` from where it stands, and evaluates.

    Each of several seeds has its own workdir within, as it would have if it had run alone.

    Args:
      config: the config; it stays as it is.
      workdir: the folder that becomes, or is, the record of the run.
      data: a `Data()` that several calls share, so that the same data are read once; or the arrays
        to train and to evaluate on, ((x, y), (x_test, y_test)), which take the place of the
        config's dataset: see `data.arrays.pack`. The workdir keeps them. Of several processes,
        those of process 0 are used, and the others give () or the same.
      on_metrics: called with each line that is written to metrics.jsonl, and its "seed": a dict
        of plain numbers and the "split". In process 0 alone.
      screen: where the run says what it does; by default its own on standard output.
      since: the age of this process, in seconds, when the run began; by default its age now.

    Returns:
      What it writes to results.json.

    Raises:
      UserError: what a user can mend.
      Interrupted: SIGTERM or Ctrl-C; the checkpoints are written.
    """
    path = local_path(workdir, "workdir")
    if data is not None and not isinstance(data, Data):
        with ExitStack() as cleanup, _disk_explained(path):
            own = config.copy_and_resolve_references()
            keep = functools.partial(keep_arrays, data, Workdir(path), cleanup)
            own.dataset, own.data_dir = distributed.from_first(keep)
            return train_and_evaluate(
                own, workdir, on_metrics=on_metrics, screen=screen, since=since
            )
    data = data or Data()
    tuning.check()
    checks.check_types(config)
    whole = Run(config.copy_and_resolve_references(), Workdir(path))
    config, is_one = whole.config, config.num_seeds == 1
    config.model = own_model.read(config.model)
    with distributed.explained():
        distributed.check_same(config.to_json(), "the config")
        config.model = distributed.from_first(lambda: whole.workdir.same_model(config.model))
        own_model.share(config.model, distributed.from_first)
    checks.check(config)
    seeds.check_batches(config)
    began = machine.process_seconds() if since is None else since
    with ExitStack() as cleanup, distributed.explained(), _disk_explained(path):
        # What was trained on MNIST never goes on with the sample; its config stays as it was.
        data.allow_sample = not distributed.from_first(lambda: _lock(cleanup, whole))
        screen = cleanup.enter_context(screen or Screen(quiet=not distributed.is_first()))
        if not is_one:
            with screen.phase("reading data"):
                _set_dataset([whole], data.load(config, Layout.create(seeds.at_once(config)))[0])
        runs = seeds.each_seed(whole)
        results, groups = distributed.from_first(lambda: seeds.plan(whole))
        session = Session(screen, on_metrics, began)
        for group in groups:
            if distributed.is_first() and not is_one:
                names = ", ".join(str(runs[i].config.seed) for i in group)
                first, last = (runs[i].config.seed for i in (0, -1))
                screen.line(f"seed {names} (of {first} to {last}):")
            together = [runs[i] for i in group]
            with ExitStack() as locks:
                if not is_one:
                    distributed.from_first(functools.partial(_lock_seeds, locks, together))
                found = train(together, data, session, None if is_one else whole)
            results |= zip(group, found, strict=True)
            session = session._replace(since=machine.process_seconds())
        if is_one:
            return results[0]
        over_seeds = seeds.over_seeds([results[i] for i in range(len(runs))], config, began)
        if distributed.is_first():
            write_json(whole.workdir.results, over_seeds)
        return over_seeds


def _lock(cleanup: ExitStack, whole: Run) -> bool:
    """Locks the workdir; returns whether what it holds was trained on MNIST itself."""
    cleanup.enter_context(whole.workdir.locked())
    seeds.check_workdir(whole)
    # The configs of the single seeds tell: older versions wrote "mnist" for the whole even where
    # the sample stood in.
    saved = [run.workdir.load_config() for run in seeds.each_seed(whole)]
    return any(each is not None and each.dataset == "mnist" for each in saved)


def _lock_seeds(cleanup: ExitStack, runs: Sequence[Run]) -> None:
    """Makes and locks the workdirs of seeds: each may also be trained by a command of its own."""
    for run in runs:
        cleanup.enter_context(run.workdir.locked())


@contextmanager
def _disk_explained(workdir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        within = workdir.absolute()
        if isinstance(e.filename, str) and not Path(e.filename).absolute().is_relative_to(within):
            raise  # It names what is at fault.
        raise UserError(
            f"cannot write in {workdir} ({e.strerror or e}): make room or choose another "
            "workdir; what was there before is whole."
        ) from e
