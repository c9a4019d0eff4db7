"""What happens every so many steps: small objects that the training loop calls after its calls."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxmnist.devices import distributed, machine
from jaxmnist.errors import Interrupted, UserError, warn
from jaxmnist.record.journal import Records
from jaxmnist.record.metrics import Stopwatch
from jaxmnist.record.screen import Screen
from jaxmnist.train_step import TrainState

Metrics = dict[str, Float[Array, "*steps_and_runs"]]
Hook = Callable[[int, TrainState, Metrics], None]


class Evaluation(NamedTuple):
    """What a model, or each of several, says of a split.

    Attributes:
      metrics: mean loss and accuracy.
      answers: of each example: "classes", the most probable ones, and "confidence", their
        probabilities.
    """

    metrics: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]


class FirstStep:
    """Notes how many seconds the first call ended after the process had the age `since`."""

    def __init__(self, since: float = 0.0):
        self._since, self.seconds = since, 0.0

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        if not self.seconds:
            jax.block_until_ready(metrics)
            self.seconds = machine.process_seconds() - self._since


class Log:
    """Fetches the metrics of the steps; every `every` steps writes and shows the last of them.

    In between nothing waits for the device: the losses stay there until they are looked at.
    """

    def __init__(
        self,
        every: int,
        last: int,
        step: int,
        seeds: Sequence[int],
        records: Records,
        screen: Screen,
        watch: Stopwatch,
    ):
        self._every, self._last, self._seeds = every, last, seeds
        self._records, self._screen, self._watch = records, screen, watch
        self._pending: list[Metrics] = []
        self._logged = (step, watch.seconds())
        self.latest: list[dict[str, float]] = []

    def is_due(self, step: int) -> bool:
        return step % self._every == 0 or step == self._last

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        self._pending.append(metrics)
        if not self.is_due(step):
            return
        self.catch_up(step)
        steps, seconds = step - self._logged[0], self._watch.seconds() - self._logged[1]
        self._logged = (step, self._watch.seconds())
        speed = {"steps_per_second": steps / max(seconds, 1e-9)}
        latest = [metrics | speed for metrics in self.latest]
        self._records.write(step, "train", self._watch.seconds(), latest)
        self._screen.progress(step, mean(latest))

    def catch_up(self, step: int) -> None:
        """Waits for all steps up to `step`; raises UserError if one's loss is not finite."""
        if not self._pending:
            return
        calls = jax.device_get(self._pending)
        self._pending = []
        # A call's metrics are those of one step, or of several, stacked; of one run or several.
        runs = len(self._seeds)
        fetched = {
            name: np.concatenate([np.reshape(call[name], (-1, runs)) for call in calls])
            for name in calls[0]
        }
        losses = fetched["loss"]
        if not np.isfinite(losses).all():
            at, run = np.argwhere(~np.isfinite(losses))[0]
            seed = f" of seed {self._seeds[run]}" if runs > 1 else ""
            raise UserError(
                f"the loss is {losses[at, run]} at step {step - len(losses) + 1 + at}{seed}: lower "
                f"the learning rate ({fetched['learning_rate'][at, run]:g} at that step); any "
                "checkpoint is from before."
            )
        self.latest = each_run({name: values[-1] for name, values in fetched.items()})


class Evaluate:
    """Every `every` steps, and after the last, evaluates; the result stays in `latest`."""

    def __init__(
        self,
        every: int,
        last: int,
        split: str,
        evaluate: Callable[[TrainState], Evaluation],
        show: Callable[[int, TrainState, dict[str, np.ndarray]], None],
        log: Log,
        records: Records,
        screen: Screen,
        watch: Stopwatch,
    ):
        self._every, self._last, self._split = every, last, split
        self._evaluate, self._show, self._log = evaluate, show, log
        self._records, self._screen, self._watch = records, screen, watch
        self.latest: list[dict[str, float]] = []

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        if step % self._every and step != self._last:
            return
        self._log.catch_up(step)
        with self._watch.pause():
            found = self._evaluate(state)
            self._show(step, state, found.answers)
        self.latest = each_run(found.metrics)
        self._records.write(step, self._split, self._watch.seconds(), self.latest)
        self._screen.line(describe(step, self._split, self.latest))


class Checkpoint:
    """Every `every` steps, after the last, and when a signal came, writes a checkpoint.

    Where there are several processes, a signal to one stops all, when they next log.

    Within `on_signals`, SIGTERM and Ctrl-C become a checkpoint and Interrupted; a second
    Ctrl-C stops the process at once.
    """

    def __init__(self, every: int, last: int, records: Records, log: Log):
        self._every, self._last = every, last
        self._records, self._log = records, log
        self._signum = 0

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        signum = self._agreed(step)
        if step % self._every and step != self._last and not signum:
            return
        self._log.catch_up(step)
        self._records.save(step, state)
        if signum:
            self._records.wait()
            distributed.largest(signum)  # Nobody leaves before process 0 has written it.
            raise Interrupted(signum, step)

    def _agreed(self, step: int) -> int:
        """The signal that stops the run, if any: several processes stop after the same step."""
        if jax.process_count() == 1:
            return self._signum
        return distributed.largest(self._signum) if self._log.is_due(step) else 0

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

    def _handle(self, signum: int, frame) -> None:
        self._signum = signum
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        Screen.close_open()  # A second Ctrl-C ends the process at once, and would leave it there.
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        again = "Ctrl-C again" if signum == signal.SIGINT else "Ctrl-C"
        warn(f"{name}: stopping after this step and writing a checkpoint; {again} stops at once.")


def describe(step: int, split: str, runs: list[dict[str, float]]) -> str:
    """One line for an evaluation, of one run or several."""
    metrics = mean(runs)
    of = f" (mean of {len(runs)} seeds)" if len(runs) > 1 else ""
    return (
        f"step {step}: {split} accuracy {metrics['accuracy']:.4f}, loss {metrics['loss']:.4f}{of}"
    )


def each_run(metrics: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """Metrics with a value for each run, run by run."""
    values = zip(*(np.atleast_1d(value).tolist() for value in metrics.values()), strict=True)
    return [dict(zip(metrics, run, strict=True)) for run in values]


def mean(runs: list[dict[str, float]]) -> dict[str, float]:
    """The mean over the runs of each metric."""
    return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
