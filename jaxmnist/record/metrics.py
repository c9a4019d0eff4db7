"""Where metrics go: metrics.jsonl and TensorBoard event files in the workdir; the clock."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from jaxmnist.config import FREE_TO_CHANGE
from jaxmnist.errors import warn
from jaxmnist.files import write_text
from jaxmnist.record.workdir import Workdir

if TYPE_CHECKING:
    from jaxmnist.record.events import EventFile


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

    def write(
        self, step: int, split: str, seconds: float, metrics: dict[str, float]
    ) -> dict[str, Any]:
        """Writes `metrics`, plain numbers, of `split` after `step` steps; returns the record."""
        record = {"step": step, "split": split, **metrics, "seconds": round(seconds, 3)}
        self._file.write(json.dumps(record) + "\n")
        self.latest[split] = {name: metrics[name] for name in ("loss", "accuracy")}
        self.events(split).write(step, metrics)
        return record

    def events(self, split: str) -> "EventFile":
        """The event file of a split."""
        if split not in self._events:
            # Not before the first step: tensorboardX imports PyTorch where that is installed.
            from jaxmnist.record.events import EventFile

            self._events[split] = EventFile(self._workdir.tensorboard / split, self._step)
        return self._events[split]

    def write_hparams(self, config: dict[str, Any]) -> None:
        """The fields of its config that a finished run was trained by."""
        from jaxmnist.record.events import EventFile

        hparams = {
            field: value
            for field, value in config.items()
            if field not in FREE_TO_CHANGE or field == "num_steps"
        }
        for of_shorter_run in self._workdir.tensorboard.glob("events*"):
            of_shorter_run.unlink()
        events = EventFile(self._workdir.tensorboard, 0)
        # TensorBoard takes one run's list for all that it shows: the other evaluation is on it too.
        mine, other = sorted(("test", "validation"), key=lambda split: split not in self.latest)
        metrics = {mine: (), "train": ("learning_rate", "steps_per_second"), other: ()}
        tags = [(k, tag) for k, more in metrics.items() for tag in ("accuracy", "loss", *more)]
        events.write_hparams(hparams, ("learning_rate", "optimizer"), tags)
        events.close()

    def close(self) -> None:
        with ExitStack() as every:  # Closes all, also where one cannot be written.
            every.callback(self._file.close)
            for events in self._events.values():
                every.callback(events.close)


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
