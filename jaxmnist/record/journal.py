"""The records of the runs that train at once: each in its own workdir, kept by process 0 alone."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxmnist.devices import distributed
from jaxmnist.devices.sharding import Layout, fetch
from jaxmnist.files import write_json
from jaxmnist.record import checkpoints
from jaxmnist.record import results as results_lib
from jaxmnist.record.checkpoints import Checkpoints, saved_part
from jaxmnist.record.metrics import MetricWriter
from jaxmnist.record.workdir import Workdir
from jaxmnist.train_step import TrainState

if TYPE_CHECKING:
    from jaxmnist.record.events import EventFile


class Records:
    """Checkpoints and metrics of each run; all processes call it, and process 0 writes.

    Attributes:
      seconds: that the newest record tells of training.
      starts: of each run, as Workdir.save_start has them; none in other processes than the first.
    """

    def __init__(
        self,
        workdirs: list[Workdir],
        layout: Layout,
        on_metrics: Callable[[dict[str, Any]], None] | None = None,
    ):
        self._workdirs = workdirs if distributed.is_first() else []
        self._layout, self._on_metrics = layout, on_metrics
        self._seeds: list[int] = []
        self._checkpoints: list[Checkpoints] = []
        self._writers: list[MetricWriter] = []
        self.seconds = 0.0
        self.starts: list[list[dict[str, Any]]] = []

    def open(
        self,
        configs: list[ConfigDict],
        network: dict[str, Any],
        state: TrainState,
        begun: Callable[[], None] = lambda: None,
    ) -> TrainState:
        """Records the runs, and returns the state of the newest checkpoint that all of them have.

        Or `state`, if there is none. A run that is refused leaves its workdir as it was.

        Args:
          configs: of the runs.
          network: as train_step.describe_network gives it.
          state: before the first step.
          begun: called by process 0 before the first write, when nothing can be refused any more.

        Raises:
          UserError: a workdir cannot be written, or is the record of another training, or has
            checkpoints of which none can be read.
        """
        tree = distributed.from_first(lambda: self._open(configs, network, state, begun))
        if tree is None:
            return state
        return state.replace(**self._layout.put(tree, self._layout.state))

    def _open(
        self,
        configs: list[ConfigDict],
        network: dict[str, Any],
        state: TrainState,
        begun: Callable[[], None],
    ) -> dict[str, Any] | None:
        for workdir, config in zip(self._workdirs, configs, strict=True):
            workdir.check(config)
        shapes = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), saved_part(state))
        target = next(self._layout.each_run(shapes))
        self._checkpoints = [Checkpoints(workdir.checkpoints) for workdir in self._workdirs]
        trees, damaged = checkpoints.restore(self._checkpoints, target)
        step = int(trees[0]["step"]) if trees else 0
        begun()
        for each in self._checkpoints:
            for newer in (newer for newer in each.steps() if newer > step):
                # A whole one is set aside too, where another run of the group has none of its step:
                # it is of the way that the run took before.
                each.set_aside(newer, "damaged" if (each, newer) in damaged else "superseded")
        for workdir, config in zip(self._workdirs, configs, strict=True):
            if step < config.num_steps:
                before = workdir.load_config() if trees else None
                self.starts.append(workdir.save_start(step, config, network, before))
            else:
                self.starts.append(workdir.load_run().get("starts", []))
            workdir.save(config)
            self._writers.append(MetricWriter(workdir, step))
            self._seeds.append(config.seed)
        self.seconds = max(writer.seconds for writer in self._writers)
        if not trees:
            return None
        return trees[0] if len(trees) == 1 else jax.tree.map(lambda *x: np.stack(x), *trees)

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write a checkpoint of each run; raises UserError as Checkpoints.save does."""
        fetched = fetch(saved_part(state))
        if not self._checkpoints:
            return
        # A copy of our own: the loop gives the state's memory to the next step.
        tree = jax.tree.map(np.array, fetched)
        for each, part in zip(self._checkpoints, self._layout.each_run(tree), strict=True):
            each.save(step, part)

    def write(self, step: int, split: str, seconds: float, runs: list[dict[str, float]]) -> None:
        """The metrics of each run."""
        for i, (writer, metrics) in enumerate(zip(self._writers, runs, strict=False)):
            record = writer.write(step, split, seconds, metrics)
            if self._on_metrics is not None:
                self._on_metrics(record | {"seed": self._seeds[i]})

    def events(self, split: str) -> "list[EventFile]":
        """The event file of a split, of each run; none in other processes than the first."""
        return [writer.events(split) for writer in self._writers]

    def latest(self, split: str) -> list[dict[str, float]]:
        """The newest metrics of each run; none in other processes, or if one has not any."""
        latest = [writer.latest[split] for writer in self._writers if split in writer.latest]
        return latest if len(latest) == len(self._writers) else []

    def finish(
        self, results: list[dict[str, Any]], split: str, *, trained: bool
    ) -> list[dict[str, Any]]:
        """Writes the results of each run, and returns them.

        Args:
          results: of each.
          split: that was evaluated.
          trained: whether this process took any steps.
        """
        for i, workdir in enumerate(self._workdirs):
            results[i] |= {"starts": self.starts[i]}
            before = workdir.load_results()
            if not trained and before and before["step"] == results[i]["step"]:
                results[i] = results_lib.evaluated_again(before, results[i], split)
            else:
                self._writers[i].write_hparams(results[i]["config"])
            write_json(workdir.results, results[i])
        return results

    def wait(self) -> None:
        """Returns once everything is on disk; raises UserError if something could not be."""
        for each in self._checkpoints:
            each.wait()

    def close(self) -> None:
        with ExitStack() as every:  # Closes all, also where one cannot be.
            for each in self._checkpoints:
                every.callback(each.close)
            for writer in self._writers:
                every.callback(writer.close)
