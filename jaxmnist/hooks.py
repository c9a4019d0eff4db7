"""What happens every so many steps, and how a signal stops a run."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxmnist.compile import CompiledSteps
from jaxmnist.data.input_pipeline import OrderedBatches
from jaxmnist.devices import distributed
from jaxmnist.errors import Interrupted, warn
from jaxmnist.evaluate import Evaluation, evaluate
from jaxmnist.record.journal import Journal
from jaxmnist.record.screen import Screen
from jaxmnist.tensorboard import Mistakes
from jaxmnist.train_step import TrainState

Hook = Callable[[int, TrainState], None]


class Hooks:
    """Functions of (step, state), each with the period with which it is called.

    `stops` tells whether the run ends before num_steps, which one of them may find: then the
    others are called after it.
    """

    def __init__(self, num_steps: int, stops: Callable[[], bool] = lambda: False):
        self._num_steps, self._stops = num_steps, stops
        self._hooks: list[tuple[int, Hook]] = []

    def add(self, hook: Hook, *, every: int) -> None:
        """Has `hook` called after each `every` steps, and after the last.

        `every` must be a multiple of the steps of a call, which config and checks see to.
        """
        self._hooks.append((every, hook))

    def __call__(self, step: int, state: TrainState) -> None:
        """Calls those that are due after `step`, in the order in which they were added."""
        others = []
        for every, hook in self._hooks:
            if step % every == 0 or step == self._num_steps:
                hook(step, state)
            else:
                others.append(hook)
        for hook in others if self._stops() else ():
            hook(step, state)


def device_calls(
    step: int, num_steps: int, most: int, stops: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, int]]:
    """The calls of the device from `step` on: the step before each, and how many it takes.

    Calls of `most` steps begin at its multiples; single steps lead up to them, and end the run,
    which ends before num_steps if `stops` says so after a call.
    """
    while step < num_steps and not stops():
        count = most if step % most == 0 and step + most <= num_steps else 1
        yield step, count
        step += count


class Evaluator:
    """A hook that evaluates a split, writes the metrics and draws the mistakes."""

    def __init__(
        self, compiled: CompiledSteps, batches: OrderedBatches, journal: Journal, mistakes: Mistakes
    ):
        self._compiled, self._batches = compiled, batches
        self._journal, self._mistakes = journal, mistakes

    def __call__(self, step: int, state: TrainState) -> None:
        self._journal.fetch_metrics()
        with self._journal.pause():
            evaluation = self.evaluate(state)
            self._mistakes(step, evaluation.answers)
        self._journal.write_evaluation(step, evaluation.metrics)

    def evaluate(self, state: TrainState) -> Evaluation:
        """The evaluation alone, which is written nowhere."""
        with self._journal.phase("evaluating", "eval"):
            return evaluate(self._compiled, state, self._batches)


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
        """Within, SIGTERM and SIGINT are noted, and end the loop when this hook is called next.

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
        Screen.close_open()  # A second Ctrl-C ends the process at once, and would leave the line.
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        again = "Ctrl-C again" if signum == signal.SIGINT else "Ctrl-C"
        warn(f"{name}: stopping after this step and writing a checkpoint; {again} stops at once.")
