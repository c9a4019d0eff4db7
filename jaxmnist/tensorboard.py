"""What TensorBoard shows beside metrics: mistakes, histograms, hyperparameters, traces."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxmnist import config as config_lib
from jaxmnist import hooks
from jaxmnist.data import datasets
from jaxmnist.data.datasets import Split
from jaxmnist.devices import distributed
from jaxmnist.devices.sharding import Layout, fetch
from jaxmnist.record.journal import Records
from jaxmnist.record.metrics import Stopwatch
from jaxmnist.record.screen import Screen
from jaxmnist.train_step import TrainState
from jaxmnist.trained import mistakes


class Show:
    """Of each evaluation the most confident mistakes and, if asked for, the parameters."""

    def __init__(self, config: ConfigDict, split: Split, records: Records, layout: Layout):
        self._name = config_lib.eval_name(config)
        self._split = split.upright(datasets.preparation(config.dataset))
        self._class_names = datasets.class_names(config.dataset)
        self._histograms = config.histograms
        self._records, self._layout = records, layout

    def __call__(self, step: int, state: TrainState, answers: dict[str, np.ndarray]) -> None:
        every_events = self._records.events(self._name)
        for events, of_run in zip(every_events, self._layout.each_run(answers), strict=False):
            picture = mistakes.grid(self._split, **of_run, class_names=self._class_names)
            events.write_image(step, "mistakes", picture)
        if not self._histograms:
            return
        params = fetch(state.params)
        for events, of_run in zip(every_events, self._layout.each_run(params), strict=False):
            for path, values in jax.tree_util.tree_leaves_with_path(of_run):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                if np.isfinite(values).all():  # The checkpoint tells of what is not.
                    events.write_histogram(step, name, np.asarray(values))


class Profile:
    """Traces the steps that config.profile_steps names, in whole calls, on process 0.

    Into `folder`, for TensorBoard's profiler and for Perfetto.
    """

    def __init__(
        self,
        config: ConfigDict,
        folder: Path,
        screen: Screen,
        watch: Stopwatch,
    ):
        self._steps = config_lib.profile_steps(config) if distributed.is_first() else range(0)
        self._folder = folder
        self._screen, self._watch = screen, watch
        self._since: int | None = None

    def start(self, step: int, count: int, state: TrainState) -> None:
        """Starts the trace if the next call, of `count` steps, has some of those steps."""
        if self._since is None and self._steps.start < step + count and step < self._steps.stop:
            jax.block_until_ready(state)
            with self._watch.pause():
                jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._since = step

    def __call__(self, step: int, state: TrainState, metrics: hooks.Metrics) -> None:
        if self._since is None or step < self._steps.stop:
            return
        jax.block_until_ready(state)
        traced = f"steps {self._since + 1} to {step} are traced"
        self.close()
        self._screen.line(f"{traced}: see {self._folder}/plugins/profile")

    def close(self) -> None:
        """Writes what is traced so far."""
        if self._since is not None:
            self._since, self._steps = None, range(0)
            with self._watch.pause():
                jax.profiler.stop_trace()
