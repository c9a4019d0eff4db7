"""What a run shows while it works: on a terminal a progress line, elsewhere plain lines."""

import collections
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jaxmnist.errors import STDOUT, Output, say

if TYPE_CHECKING:
    from rich.table import Table

_PER_SECOND = 4  # How often a thread draws the line; no step waits for it.
_BAR = range(8, 41)  # Columns.


class Screen:
    """Standard output while runs work, one after the other. Its methods never raise.

    On a terminal the last line shows progress from `open` to `close`: first what is being done and
    for how long, then the steps. Elsewhere (a pipe, a notebook, TERM=dumb) lines are all there is.

    Attributes:
      step: the last step that the device is known to have done.
      quiet: whether to show nothing, as in every process but the first.
    """

    _open: "Screen | None" = None

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
        self.step = 0
        self._num_steps = 0
        self._phase, self._since = "starting", time.monotonic()
        self._part = 0, 0
        self._metrics: dict[str, float] = {}
        self._taken: collections.deque[tuple[int, Any]] = collections.deque()
        self._live: Any = None
        self._console: Any = None

    def open(self) -> None:
        """Shows the progress line, if standard output is a terminal that can."""
        dumb = os.environ.get("TERM", "dumb") in ("dumb", "unknown")
        if self.quiet or self._live is not None or dumb or not STDOUT.isatty():
            return
        from rich.console import Console
        from rich.live import Live

        stream = sys.stdout  # While we draw, `sys.stdout` is rich's, which prints above the line.
        self._console = Console(
            file=Output(lambda: stream),  # type: ignore[arg-type]
            force_terminal=True,
            force_interactive=True,
            force_jupyter=False,
            highlight=False,
        )
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=_PER_SECOND,
            transient=True,
            redirect_stderr=Output(lambda: sys.stderr).isatty(),
        )
        self._live.start(refresh=True)
        Screen._open = self
        self._console.show_cursor(True)  # A process that is killed would leave it hidden.

    def close(self) -> None:
        """Removes the progress line; what comes later is printed as usual."""
        if self._live is not None:
            self._live.stop()
            self._live = Screen._open = None

    @classmethod
    def close_open(cls) -> None:
        """Removes the progress line, whoever shows it, for a signal's handler to print."""
        if cls._open is not None:
            cls._open.close()

    def __enter__(self) -> "Screen":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Shows what is being done within, such as "compiling", and for how long already."""
        before = self._phase, self._since
        self._phase, self._since = name, time.monotonic()
        try:
            yield
        finally:
            self._phase, self._since = before
            self._part = 0, 0

    @classmethod
    def count(cls, done: int, total: int) -> None:
        """Shows how much of a phase is done, on the screen that is shown, if any."""
        if cls._open is not None:
            cls._open._part = done, total

    def start(self, num_steps: int, step: int) -> None:
        """Shows a run that is at `step` of `num_steps`."""
        self.step, self._num_steps, self._metrics = step, num_steps, {}
        self._taken.clear()
        self._phase = ""

    def take(self, step: int, result: Any) -> None:
        """Notes that a step was given to the device.

        It is done when `result`, a jax.Array, is ready. The thread that draws the line looks at
        that, so no step waits for it.
        """
        if self._live is not None:
            self._taken.append((step, result))

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """Shows the metrics of a training step."""
        self._metrics = metrics
        if self._live is None and not self.quiet:
            say("  ".join([f"step {step}/{self._num_steps}", *self._words(step)]))

    def line(self, text: str) -> None:
        """Prints a line, above the progress line if there is one."""
        if not self.quiet:
            say(text)

    def _words(self, step: int) -> list[str]:
        metrics = self._metrics
        if not metrics:
            return []
        left = (self._num_steps - step) / metrics["steps_per_second"]
        return [
            f"{duration(left)} left",
            f"loss {metrics['loss']:.4f}",
            f"accuracy {metrics['accuracy']:.4f}",
            f"{metrics['steps_per_second']:.1f} steps/s",
        ]

    def _render(self) -> "Table":
        """The progress line: as many whole words as fit in the terminal's width."""
        from rich.progress_bar import ProgressBar
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        while self._taken and self._taken[0][1].is_ready():
            self.step = self._taken.popleft()[0]
        console = self._console
        step, total = self._part if self._part[1] else (self.step, self._num_steps)
        text = console.encoding.lower().startswith("utf")
        spinner = Spinner("dots" if text else "line").render(console.get_time())
        phase = f"{self._phase} {time.monotonic() - self._since:.0f} s" if self._phase else ""
        words = [phase] if phase else []
        if total:
            words = [f"{step}/{total}", *(words or self._words(step)), f"{100 * step // total} %"]
        room = console.width - 3  # The spinner takes two; in the last one terminals wrap.
        shown: list[str] = []
        for word in words:
            if sum(len(each) + 2 for each in [*shown, word]) <= room:
                shown.append(word)
        cells: list[Any] = [spinner, Text("  ".join(shown))]
        left = room - sum(len(each) + 2 for each in shown)
        if total and len(shown) == len(words) and left >= _BAR.start:
            width = min(left, _BAR.stop - 1)
            cells.insert(1, ProgressBar(total, min(step, total), width=width))
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(*cells)
        return line


def duration(seconds: float) -> str:
    """A time span for people: "0:07", "12:05", "3:20:00"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
