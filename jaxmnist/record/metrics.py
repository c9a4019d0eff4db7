"""Where metrics go: metrics.jsonl and TensorBoard event files in the workdir."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmnist.config import FREE_TO_CHANGE
from jaxmnist.errors import warn
from jaxmnist.files import write_text
from jaxmnist.record.workdir import Workdir

if TYPE_CHECKING:
    from jaxmnist.record.events import EventFile

_IN_EACH = {"step", "split", "seconds", "loss", "accuracy"}


class MetricWriter:
    """Appends metrics to metrics.jsonl and to TensorBoard event files, a folder for each split.

    Lines of steps after `step` are dropped: a run that resumes there writes them again.

    Attributes:
      lines: what metrics.jsonl holds.
    """

    def __init__(self, workdir: Workdir, step: int):
        found = list(read_metrics(workdir))
        if damaged := len(_lines(workdir)) - len(found):
            warn(f"WARNING: {damaged} damaged lines of {workdir.metrics} are left out.")
        self.lines = [r for r in found if r["step"] <= step]
        write_text(workdir.metrics, "".join(json.dumps(r) + "\n" for r in self.lines))
        self._file = workdir.metrics.open("a", buffering=1, encoding="utf-8")
        self._workdir, self._step = workdir, step
        self._events: dict[str, EventFile] = {}

    def write(
        self, step: int, split: str, seconds: float, metrics: dict[str, float]
    ) -> dict[str, Any]:
        """Writes the metrics of a split after a step; returns the line as a dict."""
        line = {"step": step, "split": split, **metrics, "seconds": round(seconds, 3)}
        self._file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        self.events(split).write(step, metrics)
        return line

    def events(self, split: str) -> "EventFile":
        """The event file of a split."""
        if split not in self._events:
            # Not before the first step: tensorboardX imports PyTorch where that is installed.
            from jaxmnist.record.events import EventFile

            self._events[split] = EventFile(self._workdir.tensorboard / split, self._step)
        return self._events[split]

    def write_hparams(self, config: dict[str, Any], evaluated: str) -> None:
        """Writes the fields of its config that a finished run was trained by.

        Args:
          config: the config.
          evaluated: the split that it was evaluated on, "test" or "validation".
        """
        from jaxmnist.record.events import EventFile

        hparams = {
            field: value
            for field, value in config.items()
            if field not in FREE_TO_CHANGE or field == "num_steps"
        }
        for old in self._workdir.tensorboard.glob("events*"):
            old.unlink()
        events = EventFile(self._workdir.tensorboard, 0)
        # TensorBoard takes one run's list for all that it shows: the other evaluation is on it too.
        other = "validation" if evaluated == "test" else "test"
        metrics = {evaluated: (), "train": ("learning_rate", "steps_per_second"), other: ()}
        tags = [(k, tag) for k, more in metrics.items() for tag in ("accuracy", "loss", *more)]
        events.write_hparams(hparams, ("learning_rate", "optimizer"), tags)
        events.close()

    def close(self) -> None:
        with ExitStack() as every:  # Closes all, also where one cannot be written.
            every.callback(self._file.close)
            for events in self._events.values():
                every.callback(events.close)


def read_metrics(workdir: Workdir) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl, but those that are damaged, as one that a crash cut off."""
    for text in _lines(workdir):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and set(line) >= _IN_EACH:
            yield line


def _lines(workdir: Workdir) -> list[str]:
    if not workdir.metrics.exists():
        return []
    return workdir.metrics.read_text(encoding="utf-8", errors="replace").splitlines()


def waited(evaluations: Iterable[dict[str, Any]], since: int) -> int:
    """How many of the last evaluations had no better accuracy than all before them.

    Args:
      evaluations: their lines.
      since: those up to this step do not count, but are compared with.
    """
    best, count = -1.0, 0
    for line in evaluations:
        is_better = line["accuracy"] > best
        best = max(best, line["accuracy"])
        count = 0 if is_better else count + (line["step"] > since)
    return count


def mean(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the runs."""
    return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}


def describe_evaluation(step: int, split: str, runs: Sequence[dict[str, float]]) -> str:
    """The line on the screen about an evaluation of one run, or of several."""
    metrics = mean(runs)
    of = f" (mean of {len(runs)} seeds)" if len(runs) > 1 else ""
    return (
        f"step {step}: {split} accuracy {metrics['accuracy']:.4f}, loss {metrics['loss']:.4f}{of}"
    )
