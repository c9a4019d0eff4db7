"""The journal of the runs that train at once: checkpoints, metrics, the screen and the clock."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxmnist.data import datasets
from jaxmnist.devices import distributed, machine, tuning
from jaxmnist.devices.sharding import Layout, fetch
from jaxmnist.errors import UserError
from jaxmnist.files import write_json
from jaxmnist.record import checkpoints
from jaxmnist.record import results as results_lib
from jaxmnist.record.checkpoints import Checkpoints
from jaxmnist.record.metrics import MetricWriter, describe_evaluation, mean, waited
from jaxmnist.record.network import describe_network
from jaxmnist.record.screen import Screen
from jaxmnist.record.workdir import Run

if TYPE_CHECKING:
    from jaxmnist.record.events import EventFile
    from jaxmnist.train_step import TrainState


class Session(NamedTuple):
    """What the runs of one call share: the screen, a callback and when they began.

    Attributes:
      screen: where they say what they do.
      on_metrics: called with each line of metrics.jsonl, a dict, and the "seed" of its run.
      since: the age of this process, in seconds, when the runs that train now began.
    """

    screen: Screen
    on_metrics: Callable[[dict[str, Any]], None] | None = None
    since: float = 0.0


class Journal:
    """All that runs which train at once write and show; process 0 writes, and all call it.

    Attributes:
      runs: the runs.
      screen: the screen.
      layout: the layout of the runs.
      split: what their evaluation is called, "test" or "validation".
      step: the newest step.
      latest: the newest loss and accuracy by split, for each run.
      best: of each run the newest checkpoint that save_best wrote: "step", "accuracy" and "loss"
        of its evaluation; None before there is one.
      seconds: the seconds that were spent on "data", "compile", "eval" and until "first_step".
    """

    def __init__(self, runs: Sequence[Run], layout: Layout, session: Session):
        self.screen, self.layout, self.step = session.screen, layout, 0
        self.split = datasets.eval_name(runs[0].config)
        self.latest: dict[str, list[dict[str, float]]] = {}
        self.best: list[dict[str, Any] | None] = [None] * len(runs)
        self.seconds: dict[str, float] = {}
        self.runs, self._session = runs, session
        self._pending: list[dict[str, Any]] = []
        self._newest: dict[str, np.ndarray] = {}
        self._clock, self._logged = time.perf_counter(), (0, 0.0)
        self._stops_early = False
        # Of each run, in process 0.
        self._checkpoints: list[Checkpoints] = []
        self._bests: list[Checkpoints] = []
        self._since = 0  # The step from which patience counts.
        self._writers: list[MetricWriter] = []
        self._starts: list[list[dict[str, Any]]] = []

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as every:  # Closes all, also where one cannot be.
            for opened in (*self._checkpoints, *self._bests):
                every.callback(opened.close)
            for writer in self._writers:
                every.callback(writer.close)

    def resume(
        self, state: "TrainState", info: datasets.DatasetInfo, whole: Run | None = None
    ) -> "TrainState":
        """Opens the workdirs for writing; returns the newest state that all runs have saved.

        Or `state`, that before the first step, if there is none. A run that is refused leaves its
        workdir as it was.

        Args:
          state: the state before the first step.
          info: of the dataset.
          whole: the run of several seeds that these are part of, which is recorded too.

        Raises:
          UserError: a workdir cannot be written, or is the record of another training, or has
            checkpoints of which none can be read.
        """
        found, already, self.latest, self.best, self._stops_early = distributed.from_first(
            lambda: self._open(state, info, whole)
        )
        self.step = int(np.max(found["step"])) if found else 0
        self._logged = self.step, already
        self._clock = time.perf_counter() - already
        return state.replace(**self.layout.put(found, self.layout.state)) if found else state

    def _open(
        self, state: "TrainState", info: datasets.DatasetInfo, whole: Run | None
    ) -> tuple[
        dict[str, Any] | None,
        float,
        dict[str, list[dict[str, float]]],
        list[dict[str, Any] | None],
        bool,
    ]:
        for run in self.runs:
            run.workdir.check(run.config)
            run.workdir.check_data(info)
        # Arrays of the right shapes and types, which take no memory.
        shapes = jax.tree.map(
            lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), state.saved_part()
        )
        network = describe_network(state.model, info.image_shape, tuple(self.runs[0].config))
        self._checkpoints = [Checkpoints(run.workdir.checkpoints) for run in self.runs]
        found, damaged = checkpoints.restore(self._checkpoints, self.layout.split(shapes)[0])
        step = int(found[0]["step"]) if found else 0
        if whole:  # Nothing can be refused any more.
            whole.workdir.save(whole.config)
        if any(run.config.keep_best or run.workdir.best.exists() for run in self.runs):
            self._bests = [Checkpoints(run.workdir.best) for run in self.runs]
        for each in (*self._checkpoints, *self._bests):
            for newer in (newer for newer in each.steps() if newer > step):
                # A whole one is set aside too, where another of the runs has none of its step: it
                # is of the way that the run took before.
                each.set_aside(newer, "damaged" if (each, newer) in damaged else "superseded")
        for config, workdir in self.runs:
            self._writers.append(MetricWriter(workdir, step))
            starts = workdir.load_run().get("starts", [])
            self._since = _same_length_since(starts, step, config.num_steps)
            stops_early = step < config.num_steps and self._has_lost_patience()
            if step < config.num_steps and not stops_early:
                before = workdir.load_config() if found else None
                self._starts.append(workdir.save_start(step, config, network, info, before))
            else:
                self._starts.append(starts)
            workdir.save(config)
        newest = [{line["split"]: line for line in writer.lines} for writer in self._writers]
        latest = {
            split: [{k: each[split][k] for k in ("loss", "accuracy")} for each in newest]
            for split in set.intersection(*map(set, newest))
        }
        seconds = [line["seconds"] for writer in self._writers for line in writer.lines]
        best = [
            self._evaluation_of(i, max(x.steps(), default=0)) for i, x in enumerate(self._bests)
        ]
        return (
            self.layout.stack(found) if found else None,
            max(seconds, default=0.0),
            latest,
            best or self.best,
            stops_early,
        )

    def _evaluations(self, run: int) -> Iterator[dict[str, Any]]:
        return (line for line in self._writers[run].lines if line["split"] == self.split)

    def _evaluation_of(self, run: int, step: int) -> dict[str, Any] | None:
        """The step, accuracy and loss of a run's evaluation after a step; None if there is none."""
        found = [line for line in self._evaluations(run) if line["step"] == step]
        return {k: found[-1][k] for k in ("step", "accuracy", "loss")} if found else None

    def _has_lost_patience(self) -> bool:
        patience = self.runs[0].config.patience
        return 0 < patience <= waited(self._evaluations(0), self._since)

    @contextmanager
    def phase(self, name: str, what: str) -> Iterator[None]:
        """Within, the screen tells of a phase, whose seconds are added to those of `what`."""
        start = time.perf_counter()
        with self.screen.phase(name):
            yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start

    def start(self) -> int:
        """From now on the runs train; returns the step at which they stand."""
        _, already = self._logged
        self._clock = time.perf_counter() - already
        self.screen.start(self.runs[0].config.num_steps, self.step)
        return self.step

    def trained_seconds(self) -> float:
        """The seconds spent on training, less `pause`, with those of earlier processes."""
        return time.perf_counter() - self._clock

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Within, the clock of training stands still."""
        start = time.perf_counter()
        yield
        self._clock += time.perf_counter() - start

    @property
    def has_trained(self) -> bool:
        """Whether this process took any steps."""
        return "first_step" in self.seconds

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes the metrics of a call, after which the runs are at `step`; waits for nothing.

        They stay on the device until they are looked at.
        """
        self.step = step
        self._pending.append(metrics)
        self.screen.take(step, metrics["loss"])
        if not self.has_trained:
            jax.block_until_ready(metrics)
            self.seconds["first_step"] = machine.process_seconds() - self._session.since
            if self._checkpoints:
                checkpoints.import_in_background()

    def fetch_metrics(self) -> dict[str, np.ndarray]:
        """Fetches the metrics that were added since last time, which waits for their steps.

        Returns them for each run and step. Raises UserError if a loss is not finite.
        """
        calls, self._pending = jax.device_get(self._pending), []
        # A call's metrics are those of one step, or of several, of one run, or of several.
        count = len(self.runs)
        fetched = {
            name: np.concatenate([np.reshape(call[name], (count, -1)) for call in calls], axis=1)
            for name in (calls[0] if calls else {})
        }
        if calls and not np.isfinite(fetched["loss"]).all():
            losses = fetched["loss"]
            at, run = np.argwhere(~np.isfinite(losses.T))[0]
            seed = f" of seed {self.runs[run].config.seed}" if count > 1 else ""
            step = self.step - losses.shape[1] + 1 + at
            rate = f" ({fetched['learning_rate'][run, at]:g} at that step)"
            raise _diverged(f"the loss is {losses[run, at]} at step {step}{seed}", rate)
        if calls:
            self._newest = {name: values[:, -1] for name, values in fetched.items()}
            self._keep("train", self._newest)
        return fetched

    def log(self, step: int, state: "TrainState") -> None:
        """Writes and shows the newest step's metrics."""
        self.fetch_metrics()
        last_step, last_seconds = self._logged
        now = self.trained_seconds()
        self._logged = step, now
        speed = (step - last_step) / max(now - last_seconds, 1e-9)
        metrics = _per_run(self._newest, len(self.runs))
        runs = [each | {"steps_per_second": speed} for each in metrics]
        self._write(step, "train", runs)
        self.screen.progress(step, mean(runs))

    def write_evaluation(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Writes and shows an evaluation; raises UserError if its loss is not finite."""
        self.show_evaluation(step, metrics)
        self._write(step, self.split, self.latest[self.split])
        config = self.runs[0].config
        if config.patience and step < config.num_steps:
            self._stops_early = distributed.from_first(self._has_lost_patience)

    def stops_early(self) -> bool:
        """Whether patience ended the runs at the newest step, before num_steps."""
        return self._stops_early

    def show_evaluation(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Checks, keeps and shows an evaluation, and does not write it."""
        check_evaluation(step, metrics)
        self._keep(self.split, metrics)
        self.screen.line(describe_evaluation(step, self.split, self.latest[self.split]))

    def events(self) -> "list[EventFile]":
        """The event file of the evaluation, one for each run; only process 0 has them."""
        return [writer.events(self.split) for writer in self._writers]

    def save(self, step: int, state: "TrainState") -> None:
        """Starts to write a checkpoint of each run.

        Raises:
          UserError: the state is not finite, or as Checkpoints.save does.
        """
        if self._pending:
            self.fetch_metrics()
        for each in self._bests:
            each.wait()  # Who goes on from this checkpoint has them.
        self._save(self._checkpoints, step, state)

    def save_best(self, step: int, state: "TrainState") -> None:
        """Starts to write the state of each run whose newest evaluation is better than all before.

        Of equal accuracies, that with the lower loss is better. Raises as `save` does.
        """

        def better() -> list[dict[str, Any] | None]:
            newest = [{"step": step} | each for each in self.latest[self.split]]
            pairs = zip(self.best, newest, strict=True)
            return [max(filter(None, pair), key=_quality) for pair in pairs]

        self.best = distributed.from_first(better)
        is_new = [each is not None and each["step"] == step for each in self.best]
        if any(is_new):
            self._save(self._bests, step, state, is_new)

    def _save(
        self, to: Sequence[Checkpoints], step: int, state: "TrainState", which: Sequence[bool] = ()
    ) -> None:
        tuning.give_back_freed_memory()  # For the copies: the last steps and evaluation need none.
        fetched = fetch(state.saved_part())
        _check_state(step, fetched)
        if to:
            # A copy of our own: the loop gives the state's memory to the next step.
            trees = self.layout.split(jax.tree.map(np.array, fetched))
            for i, (each, tree) in enumerate(zip(to, trees, strict=True)):
                if not which or which[i]:
                    each.save(step, tree)

    def wait_for_checkpoints(self) -> None:
        """Returns once they are on disk; raises UserError if one could not be written."""
        for each in (*self._checkpoints, *self._bests):
            each.wait()

    def finish(self, state: "TrainState", dataset: datasets.Dataset) -> list[dict[str, Any]]:
        """Writes the results of each run, and returns them.

        Args:
          state: the state after the last step.
          dataset: what was trained and evaluated on.
        """
        with self.screen.phase("writing a checkpoint"):
            self.wait_for_checkpoints()
        seconds = self.seconds | {
            "train": self.trained_seconds(),
            "total": machine.process_seconds() - self._session.since,
        }
        trees = self.layout.split(fetch({"step": state.step, "params": state.params}))
        results = []
        for i, (run, tree) in enumerate(zip(self.runs, trees, strict=True)):
            names = [name for name in ("train", self.split) if name in self.latest]
            metrics = {name: self.latest[name][i] for name in names}
            if run.config.keep_best and (best := self.best[i]):
                metrics["best"] = best
            results.append(results_lib.collect(run.config, dataset, tree, metrics, seconds))
            results[i] |= {"stopped_early": True} if self._stops_early else {}
        for i, writer in enumerate(self._writers):
            workdir = self.runs[i].workdir
            results[i] |= {"starts": self._starts[i]}
            before = workdir.load_results()
            if not self.has_trained and before and before["step"] == results[i]["step"]:
                results[i] = results_lib.evaluated_again(before, results[i], self.split)
            else:
                writer.write_hparams(results[i]["config"], self.split)
            write_json(workdir.results, results[i])
        return results

    def _keep(self, split: str, metrics: dict[str, np.ndarray]) -> None:
        newest = {name: metrics[name] for name in ("loss", "accuracy")}
        self.latest[split] = _per_run(newest, len(self.runs))

    def _write(self, step: int, split: str, runs: Sequence[dict[str, float]]) -> None:
        for run, writer, metrics in zip(self.runs, self._writers, runs, strict=False):
            line = writer.write(step, split, self.trained_seconds(), metrics)
            if self._session.on_metrics is not None:
                self._session.on_metrics(line | {"seed": run.config.seed})


def _per_run(metrics: dict[str, np.ndarray], count: int) -> list[dict[str, float]]:
    values = {name: np.reshape(value, count) for name, value in metrics.items()}
    return [{name: float(each[i]) for name, each in values.items()} for i in range(count)]


def check_evaluation(step: int, metrics: dict[str, np.ndarray]) -> None:
    """Raises UserError if the loss of an evaluation after a step is not finite."""
    if not np.isfinite(metrics["loss"]).all():
        loss = np.max(metrics["loss"])
        raise _diverged(f"the loss of the evaluation after step {step} is {loss}")


def _check_state(step: int, tree: dict[str, Any]) -> None:
    """Raises UserError if parameters, or an optimizer's averages, are not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        is_param = path[0].key == "params"
        # Some optimizers keep an infinite number on purpose, such as a bound; but never a NaN.
        ok = np.isfinite(leaf) if is_param or np.ndim(leaf) else ~np.isnan(leaf)
        if not np.all(ok):
            what = "parameters are" if is_param else "optimizer's state is"
            raise _diverged(f"the {what} not finite after step {step}")


def _quality(evaluation: dict[str, Any]) -> tuple[float, float]:
    return evaluation["accuracy"], -evaluation["loss"]


def _same_length_since(starts: Sequence[dict[str, Any]], step: int, num_steps: int) -> int:
    """The step from which a run has had its num_steps: patience begins anew with another.

    Args:
      starts: of the run, as run.json has them.
      step: at which it stands.
      num_steps: its length now.
    """
    since = step
    for start in reversed([start for start in starts if start["step"] < step]):
        if start["num_steps"] != num_steps:
            break
        since = start["step"]
    return since


def _diverged(what: str, rate: str = "") -> UserError:
    return UserError(f"{what}: lower the learning rate{rate}; any checkpoint is from before.")
