"""What happens every so many steps, and how a signal stops a run."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxmnist.compile import CompiledSteps
from jaxmnist.config import profile_steps
from jaxmnist.data import datasets
from jaxmnist.data.input_pipeline import OrderedBatches
from jaxmnist.devices import distributed
from jaxmnist.devices.sharding import fetch
from jaxmnist.errors import Interrupted, warn
from jaxmnist.evaluate import Evaluation, evaluate
from jaxmnist.record.journal import Journal
from jaxmnist.record.screen import Screen
from jaxmnist.record.workdir import Run
from jaxmnist.train_step import TrainState
from jaxmnist.trained import mistakes

Hook = Callable[[int, TrainState], None]


class Hooks:
    """Functions of (step, state), each with the period with which it is called."""

    def __init__(self, num_steps: int):
        self._num_steps = num_steps
        self._hooks: list[tuple[int, Hook]] = []

    def add(self, hook: Hook, *, every: int) -> None:
        """Has `hook` called after each `every` steps, and after the last."""
        self._hooks.append((every, hook))

    def __call__(self, step: int, state: TrainState) -> None:
        """Calls those that are due after `step`, in the order in which they were added."""
        for every, hook in self._hooks:
            if step % every == 0 or step == self._num_steps:
                hook(step, state)


def calls(step: int, num_steps: int, most: int) -> Iterator[tuple[int, int]]:
    """The calls of the device from `step` on: the step before each, and how many it takes.

    Calls of `most` steps begin at its multiples; single steps lead up to them, and end the run.
    """
    while step < num_steps:
        count = most if step % most == 0 and step + most <= num_steps else 1
        yield step, count
        step += count


class Mistakes:
    """Draws the most confident mistakes of an evaluation, for TensorBoard."""

    def __init__(self, config: ConfigDict, split: datasets.Split, journal: Journal):
        self._journal = journal
        self._split = split.upright(datasets.preparation(config.dataset))
        self._class_names = datasets.class_names(config.dataset)

    def __call__(self, step: int, answers: dict[str, np.ndarray]) -> None:
        each = self._journal.layout.split(answers)
        for events, of_run in zip(self._journal.events(), each, strict=False):
            picture = mistakes.grid(self._split, **of_run, class_names=self._class_names)
            events.write_image(step, "mistakes", picture)


class Evaluate:
    """A hook that evaluates a split, writes the metrics and draws the mistakes."""

    def __init__(
        self, steps: CompiledSteps, batches: OrderedBatches, journal: Journal, mistakes: Mistakes
    ):
        self._steps, self._batches = steps, batches
        self._journal, self._mistakes = journal, mistakes

    def __call__(self, step: int, state: TrainState) -> None:
        self._journal.wait_for_steps()
        with self._journal.pause():
            evaluation = self.evaluate(state)
            self._mistakes(step, evaluation.answers)
        self._journal.write_evaluation(step, evaluation.metrics)

    def evaluate(self, state: TrainState) -> Evaluation:
        """The evaluation alone, which is written nowhere."""
        with self._journal.phase("evaluating", "eval"):
            return evaluate(self._steps, state, self._batches)


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
            self._journal.wait_for_steps()
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


class Stop:
    """A hook that ends a run which a signal stopped, after a checkpoint; raises Interrupted.

    Within `on_signals`, SIGTERM and Ctrl-C are such signals; a second Ctrl-C ends the process at
    once. Where there are several processes, a signal to one stops all.
    """

    def __init__(self, journal: Journal):
        self._journal, self._signum = journal, 0

    def __call__(self, step: int, state: TrainState) -> None:
        signum = distributed.largest(self._signum)
        if signum:
            self._journal.save(step, state)
            self._journal.wait_for_checkpoints()
            distributed.largest(signum)  # Nobody leaves before process 0 has written it.
            raise Interrupted(signum, step)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within, SIGTERM and SIGINT end the loop after the call that is under way.

        Only the main thread can handle signals: in another one, nothing changes.
        """
        in_main = threading.current_thread() is threading.main_thread()
        both = (signal.SIGTERM, signal.SIGINT) if in_main else ()
        # What is ignored stays so, as Ctrl-C under nohup.
        caught = [s for s in both if signal.getsignal(s) is not signal.SIG_IGN]
        before = [signal.signal(s, self._handle) for s in caught]
        try:
            yield
        finally:
            for signum, handler in zip(caught, before, strict=True):
                signal.signal(signum, handler)

    def _handle(self, signum: int, frame: object) -> None:
        self._signum = signum
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        Screen.close_open()  # A second Ctrl-C ends the process at once, and would leave it there.
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        again = "Ctrl-C again" if signum == signal.SIGINT else "Ctrl-C"
        warn(f"{name}: stopping after this step and writing a checkpoint; {again} stops at once.")
