"""What TensorBoard shows beside metrics: mistakes, histograms of the parameters, and traces."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np

from jaxmnist.config import profile_steps
from jaxmnist.data.datasets import DatasetInfo, Split
from jaxmnist.devices import distributed
from jaxmnist.devices.sharding import fetch
from jaxmnist.record.journal import Journal
from jaxmnist.record.workdir import Run
from jaxmnist.train_step import TrainState
from jaxmnist.trained import mistakes


class Mistakes:
    """Draws the most confident mistakes of an evaluation, for TensorBoard."""

    def __init__(self, info: DatasetInfo, split: Split, journal: Journal):
        self._journal = journal
        self._split = split.upright(info.preparation)
        self._class_names = info.class_names

    def __call__(self, step: int, answers: dict[str, np.ndarray]) -> None:
        each = self._journal.layout.split(answers)
        for events, of_run in zip(self._journal.events(), each, strict=False):
            picture = mistakes.grid(self._split, **of_run, class_names=self._class_names)
            events.write_image(step, "mistakes", picture)


class Histograms:
    """A hook that writes histograms of the parameters, for TensorBoard."""

    def __init__(self, journal: Journal):
        self._journal = journal

    def __call__(self, step: int, state: TrainState) -> None:
        with self._journal.pause():
            each = self._journal.layout.split(fetch(state.params))
            for events, params in zip(self._journal.events(), each, strict=False):
                for path, values in jax.tree_util.tree_leaves_with_path(params):
                    name = jax.tree_util.keystr(path, simple=True, separator="/")
                    if np.isfinite(values).all():  # The checkpoint tells of what is not.
                        events.write_histogram(step, name, np.asarray(values))


class Profile:
    """Traces the steps that config.profile_steps names, in whole calls, in process 0.

    `call` is entered around each call of the device, and the object itself is a hook. The trace,
    in the workdir's tensorboard/, is for TensorBoard's profiler and for Perfetto.
    """

    def __init__(self, run: Run, journal: Journal):
        self._steps = profile_steps(run.config) if distributed.is_first() else range(0)
        self._folder, self._journal = run.workdir.tensorboard, journal
        self._since: int | None = None

    @contextmanager
    def call(self, step: int, count: int) -> Iterator[None]:
        """Within, `count` steps are taken after `step`; starts the trace if it has some of them."""
        if self._since is None and self._steps.start < step + count and step < self._steps.stop:
            self._journal.fetch_metrics()
            with self._journal.pause():
                jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._since = step
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def __call__(self, step: int, state: TrainState) -> None:
        if self._since is None or step < self._steps.stop:
            return
        jax.block_until_ready(state)
        traced = f"steps {self._since + 1} to {step} are traced"
        self._close()
        self._journal.screen.line(f"{traced}: see {self._folder}/plugins/profile")

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        """Writes what is traced so far."""
        if self._since is not None:
            self._since, self._steps = None, range(0)
            with self._journal.pause():
                jax.profiler.stop_trace()
