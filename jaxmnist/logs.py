"""Where metrics go: metrics.jsonl and TensorBoard in the workdir, lines or a bar on screen."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from jaxmnist.config import FREE_TO_CHANGE
from jaxmnist.errors import STDOUT, say
from jaxmnist.workdir import Workdir

if TYPE_CHECKING:
    from jaxmnist.events import EventFile


class Stopwatch:
    """Seconds spent on training, evaluation left out, continued from an earlier process."""

    def __init__(self, already: float = 0.0):
        self._start = time.perf_counter() - already
        self.paused = 0.0

    def seconds(self) -> float:
        return time.perf_counter() - self._start - self.paused

    @contextmanager
    def pause(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.paused += time.perf_counter() - start


class MetricWriter:
    """Appends metrics to metrics.jsonl and to TensorBoard event files, a folder a split.

    A run that resumes from `step` writes what came after it again: those records are dropped.

    Attributes:
      seconds: the training time of the newest record that was kept.
      latest: the newest loss and accuracy of each split.
    """

    def __init__(self, workdir: Workdir, step: int):
        kept = [r for r in read_records(workdir) if r["step"] <= step]
        self.seconds = max((r["seconds"] for r in kept), default=0.0)
        self.latest = {r["split"]: {k: r[k] for k in ("loss", "accuracy")} for r in kept}
        new = workdir.metrics.with_name(".metrics.jsonl.new")
        new.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        new.replace(workdir.metrics)
        self._file = workdir.metrics.open("a", buffering=1, encoding="utf-8")
        self._workdir, self._step = workdir, step
        self._events: dict[str, EventFile] = {}

    def write(self, step: int, split: str, seconds: float, metrics: dict[str, float]) -> None:
        """One record: `metrics`, all plain numbers, of `split` after `step` steps."""
        record = {"step": step, "split": split, **metrics, "seconds": round(seconds, 3)}
        self._file.write(json.dumps(record) + "\n")
        self.latest[split] = {name: metrics[name] for name in ("loss", "accuracy")}
        self.events(split).write(step, metrics)

    def events(self, split: str) -> "EventFile":
        """The event file of a split."""
        if split not in self._events:
            # Not before the first step: tensorboardX imports PyTorch where that is installed.
            from jaxmnist.events import EventFile

            self._events[split] = EventFile(self._workdir.tensorboard / split, self._step)
        return self._events[split]

    def write_hparams(self, config: dict[str, Any]) -> None:
        """The fields of its config that a finished run was trained by."""
        from jaxmnist.events import EventFile

        hparams = {
            field: value
            for field, value in config.items()
            if field not in FREE_TO_CHANGE or field == "num_steps"
        }
        for of_shorter_run in self._workdir.tensorboard.glob("events*"):
            of_shorter_run.unlink()
        events = EventFile(self._workdir.tensorboard, 0)
        events.write_hparams(hparams)
        events.close()

    def close(self) -> None:
        with ExitStack() as every:  # Closes all, also where one cannot be written.
            every.callback(self._file.close)
            for events in self._events.values():
                every.callback(events.close)


class Screen:
    """Progress on standard output: a bar on a terminal, plain lines elsewhere, or nothing.

    Nothing here fails for what the output does: see errors.Output.
    """

    def __init__(self, num_steps: int, step: int, *, quiet: bool = False):
        self._bar = None
        self._num_steps, self._quiet = num_steps, quiet
        if STDOUT.isatty() and not quiet:
            self._bar = tqdm(
                total=num_steps, initial=step, unit="step", file=STDOUT, dynamic_ncols=True
            )

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """Shows the metrics of a training step."""
        if self._quiet:
            return
        loss, accuracy = f"{metrics['loss']:.4f}", f"{metrics['accuracy']:.4f}"
        if self._bar is not None:
            self._bar.set_postfix({"loss": loss, "accuracy": accuracy}, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        speed = metrics["steps_per_second"]
        left = tqdm.format_interval((self._num_steps - step) / speed)
        say(
            f"step {step}/{self._num_steps}  loss {loss}  accuracy {accuracy}  "
            f"{speed:.1f} steps/s  {left} left"
        )

    def line(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=STDOUT)
        elif not self._quiet:
            say(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def read_records(workdir: Workdir) -> Iterator[dict]:
    """The whole lines of metrics.jsonl; a line that was cut off by a crash ends them."""
    if not workdir.metrics.exists():
        return
    for line in workdir.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
