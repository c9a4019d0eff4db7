"""The records of the runs that train at once: each in its own workdir, kept by process 0 alone."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxmnist import distributed
from jaxmnist.checkpoints import Checkpoints, saved_part
from jaxmnist.logs import MetricWriter
from jaxmnist.sharding import Layout, fetch
from jaxmnist.train_state import TrainState
from jaxmnist.workdir import Workdir, write_json

if TYPE_CHECKING:
    from jaxmnist.events import EventFile


class Records:
    """Checkpoints and metrics of each run; all processes call it, and process 0 writes.

    Attributes:
      seconds: that the newest record tells of training.
    """

    def __init__(self, workdirs: list[Workdir], layout: Layout):
        self._workdirs = workdirs if distributed.is_first() else []
        self._layout = layout
        self._checkpoints: list[Checkpoints] = []
        self._writers: list[MetricWriter] = []
        self.seconds = 0.0

    def open(self, configs: list[ConfigDict], state: TrainState) -> TrainState:
        """Saves the configs, and returns the state of the newest checkpoint that all runs have.

        Or `state`, if there is none.

        Raises:
          UserError: a workdir cannot be written, or has the record of another training.
        """
        tree = distributed.from_first(lambda: self._open(configs, state))
        if tree is None:
            return state
        return state.replace(**self._layout.put(tree, self._layout.state))

    def _open(self, configs: list[ConfigDict], state: TrainState) -> dict[str, Any] | None:
        for workdir, config in zip(self._workdirs, configs, strict=True):
            workdir.save_config(config)
            self._checkpoints.append(Checkpoints(workdir.checkpoints))
        shapes = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), saved_part(state))
        target = next(self._layout.each_run(shapes))
        tree, step = self._restore(target), 0
        if tree is not None:
            step = int(tree["step"].max())
        for workdir in self._workdirs:
            self._writers.append(MetricWriter(workdir, step))
        self.seconds = max(writer.seconds for writer in self._writers)
        return tree

    def _restore(self, target: dict[str, Any]) -> dict[str, Any] | None:
        steps = set.intersection(*(set(each.steps()) for each in self._checkpoints))
        for step in sorted(steps, reverse=True):
            trees = [each.read(step, target) for each in self._checkpoints]
            if all(tree is not None for tree in trees):
                return trees[0] if len(trees) == 1 else jax.tree.map(lambda *x: np.stack(x), *trees)
        return None

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write a checkpoint of each run; raises UserError as Checkpoints.save does."""
        fetched = fetch(saved_part(state))
        if not self._checkpoints:
            return
        # A copy of our own: the loop gives the state's memory to the next step.
        tree = jax.tree.map(np.array, fetched)
        for checkpoints, part in zip(self._checkpoints, self._layout.each_run(tree), strict=True):
            checkpoints.save(step, part)

    def write(self, step: int, split: str, seconds: float, runs: list[dict[str, float]]) -> None:
        """The metrics of each run."""
        for writer, metrics in zip(self._writers, runs, strict=False):
            writer.write(step, split, seconds, metrics)

    def events(self, split: str) -> "list[EventFile]":
        """The event file of a split, of each run; none in other processes than the first."""
        return [writer.events(split) for writer in self._writers]

    def latest(self, split: str) -> list[dict[str, float]]:
        """The newest metrics of each run; none in other processes than the first."""
        return [writer.latest[split] for writer in self._writers]

    def finish(
        self, results: list[dict[str, Any]], split: str, *, again: bool
    ) -> list[dict[str, Any]]:
        """Writes the results of each run, and returns them.

        Args:
          results: of each.
          split: that was evaluated.
          again: the runs had finished before, so that only this evaluation is new.
        """
        for i, workdir in enumerate(self._workdirs):
            before = workdir.load_results() if again else None
            if before and before["step"] == results[i]["step"]:
                results[i] = before | {split: results[i][split]}
            write_json(workdir.results, results[i])
            if not again:
                self._writers[i].write_hparams(results[i]["config"])
        return results

    def wait(self) -> None:
        """Returns once everything is on disk; raises UserError if something could not be."""
        for checkpoints in self._checkpoints:
            checkpoints.wait()

    def close(self) -> None:
        with ExitStack() as every:  # Closes all, also where one cannot be.
            for checkpoints in self._checkpoints:
                every.callback(checkpoints.close)
            for writer in self._writers:
                every.callback(writer.close)
