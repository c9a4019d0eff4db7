"""What happens every so many steps: small objects that the training loop calls after its calls."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxmnist import device
from jaxmnist.checkpoints import Checkpoints
from jaxmnist.errors import UserError
from jaxmnist.logs import MetricWriter, Screen, Stopwatch
from jaxmnist.train_state import TrainState

Metrics = dict[str, Float[Array, "*steps"]]
Hook = Callable[[int, TrainState, Metrics], None]


class Interrupted(Exception):
    """A signal stopped the run, after its checkpoint was written."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"{signal.Signals(signum).name}: stopped after step {step}")
        self.signum = signum


class FirstStep:
    """Notes how many seconds after its start the process has ended its first call."""

    seconds = 0.0

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        if not self.seconds:
            jax.block_until_ready(metrics)
            self.seconds = device.process_seconds()


class Log:
    """Fetches the metrics of the steps; every `every` steps writes and shows the last of them.

    In between nothing waits for the device: the losses stay there until they are looked at.
    """

    def __init__(
        self,
        every: int,
        last: int,
        step: int,
        writer: MetricWriter,
        screen: Screen,
        watch: Stopwatch,
    ):
        self._every, self._last = every, last
        self._writer, self._screen, self._watch = writer, screen, watch
        self._pending: list[Metrics] = []
        self._logged = (step, watch.seconds())
        self.latest: dict[str, float] = {}

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        self._pending.append(metrics)
        if step % self._every and step != self._last:
            return
        self.catch_up(step)
        steps, seconds = step - self._logged[0], self._watch.seconds() - self._logged[1]
        self._logged = (step, self._watch.seconds())
        record = self.latest | {"steps_per_second": steps / max(seconds, 1e-9)}
        self._writer.write(step, "train", self._watch.seconds(), record)
        self._screen.progress(step, record)

    def catch_up(self, step: int) -> None:
        """Waits for all steps up to `step`; raises UserError if one's loss is not finite."""
        if not self._pending:
            return
        calls = jax.device_get(self._pending)
        self._pending = []
        # A call's metrics are those of one step, or of several, stacked.
        fetched = {n: np.concatenate([np.atleast_1d(c[n]) for c in calls]) for n in calls[0]}
        losses = fetched["loss"]
        if not np.isfinite(losses).all():
            bad = int(np.flatnonzero(~np.isfinite(losses))[0])
            raise UserError(
                f"the loss is {losses[bad]} at step {step - len(losses) + 1 + bad}: lower the "
                f"learning rate ({fetched['learning_rate'][bad]:g} there); the last checkpoint "
                "is from before."
            )
        self.latest = {name: float(values[-1]) for name, values in fetched.items()}


class Evaluate:
    """Every `every` steps, and after the last, evaluates; the result stays in `latest`."""

    def __init__(
        self,
        every: int,
        last: int,
        split: str,
        evaluate: Callable[[TrainState], dict[str, float]],
        log: Log,
        writer: MetricWriter,
        screen: Screen,
        watch: Stopwatch,
    ):
        self._every, self._last, self._split = every, last, split
        self._evaluate, self._log = evaluate, log
        self._writer, self._screen, self._watch = writer, screen, watch
        self.latest: dict[str, float] = {}

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        if step % self._every and step != self._last:
            return
        self._log.catch_up(step)
        with self._watch.pause():
            self.latest = self._evaluate(state)
        self._writer.write(step, self._split, self._watch.seconds(), self.latest)
        self._screen.line(describe(step, self._split, self.latest))


class Checkpoint:
    """Every `every` steps, after the last, and when a signal came, writes a checkpoint.

    Within `on_signals`, SIGTERM and Ctrl-C become a checkpoint and Interrupted; a second
    Ctrl-C stops the process at once.
    """

    def __init__(self, every: int, last: int, checkpoints: Checkpoints, log: Log):
        self._every, self._last = every, last
        self._checkpoints, self._log = checkpoints, log
        self._signum: int | None = None

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        if step % self._every and step != self._last and self._signum is None:
            return
        self._log.catch_up(step)
        self._checkpoints.save(step, state)
        if self._signum is not None:
            self._checkpoints.wait()
            raise Interrupted(self._signum, step)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within, SIGTERM and SIGINT end the loop after the call that is under way."""
        caught = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(s, self._handle) for s in caught]
        try:
            yield
        finally:
            for signum, handler in zip(caught, before, strict=True):
                signal.signal(signum, handler)

    def _handle(self, signum: int, frame) -> None:
        self._signum = signum
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print(
            f"{signal.Signals(signum).name}: writing a checkpoint; Ctrl-C stops at once.",
            file=sys.stderr,
            flush=True,
        )


def describe(step: int, split: str, metrics: dict[str, float]) -> str:
    """One line for an evaluation."""
    return f"step {step}: {split} accuracy {metrics['accuracy']:.4f}, loss {metrics['loss']:.4f}"
