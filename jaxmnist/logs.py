"""Where metrics go: metrics.jsonl and TensorBoard in the workdir, lines or a bar on screen."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from jaxmnist.config import FREE_TO_CHANGE
from jaxmnist.errors import STDOUT, say, warn
from jaxmnist.files import write_text
from jaxmnist.workdir import Workdir

if TYPE_CHECKING:
    from jaxmnist.events import EventFile


_IN_EACH = {"step", "split", "seconds", "loss", "accuracy"}


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
        found = list(read_records(workdir))
        if damaged := len(_lines(workdir)) - len(found):
            warn(f"WARNING: {damaged} damaged lines of {workdir.metrics} are left out.")
        kept = [r for r in found if r["step"] <= step]
        self.seconds = max((r["seconds"] for r in kept), default=0.0)
        self.latest = {r["split"]: {k: r[k] for k in ("loss", "accuracy")} for r in kept}
        write_text(workdir.metrics, "".join(json.dumps(record) + "\n" for record in kept))
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
    """The records of metrics.jsonl, less the lines that are none, as one that a crash cut off."""
    for line in _lines(workdir):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and set(record) >= _IN_EACH:
            yield record


def _lines(workdir: Workdir) -> list[str]:
    if not workdir.metrics.exists():
        return []
    return workdir.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
