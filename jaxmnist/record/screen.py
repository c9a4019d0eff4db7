"""What a run shows while it works: on a terminal a line that moves, elsewhere plain lines."""

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

_PER_SECOND = 4  # How often the line is drawn; a thread does it, and no step waits for it.
_BAR = range(8, 41)  # Columns.


class Screen:
    """Standard output while one run, or one after the other, works. Nothing here ever fails.

    On a terminal the last line tells what is being done, from `open` to `close`: a phase and its
    seconds, then the steps. Elsewhere (a pipe, a notebook, TERM=dumb) there are lines alone.

    Attributes:
      step: of the run, as the line shows it.
      quiet: whether to show nothing, as processes other than the first do.
    """

    _open: "Screen | None" = None

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
        self.step = 0
        self._num_steps = 0
        self._phase, self._since = "starting", time.monotonic()
        self._metrics: dict[str, float] = {}
        self._taken: collections.deque[tuple[int, Any]] = collections.deque()
        self._live: Any = None
        self._console: Any = None

    def open(self) -> None:
        """Begins to draw, where standard output is a terminal that can."""
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
        """Takes the line away; what comes later is printed as usual."""
        if self._live is not None:
            self._live.stop()
            self._live = Screen._open = None

    @classmethod
    def close_open(cls) -> None:
        """Takes away the line that there is, where a signal's handler speaks."""
        if cls._open is not None:
            cls._open.close()

    def __enter__(self) -> "Screen":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Within, the line says what is done, such as "compiling", and for how long by now."""
        before = self._phase, self._since
        self._phase, self._since = name, time.monotonic()
        try:
            yield
        finally:
            self._phase, self._since = before

    def start(self, num_steps: int, step: int) -> None:
        """From now on steps are taken, after `step`, to `num_steps`."""
        self.step, self._num_steps, self._metrics = step, num_steps, {}
        self._taken.clear()
        self._phase = ""

    def take(self, step: int, result: Any) -> None:
        """A step was given to the device; it is done once `result`, a jax.Array, is ready.

        That is looked at when the line is drawn, so a step never waits for it.
        """
        if self._live is not None:
            self._taken.append((step, result))

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """Shows the metrics of a training step."""
        self._metrics = metrics
        if self._live is None and not self.quiet:
            say("  ".join([f"step {step}/{self._num_steps}", *self._words(step)]))

    def line(self, text: str) -> None:
        """Prints a line, above the one that moves if there is one."""
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
        """The line, of what fits in the terminal's width: never cut within a word or a number."""
        from rich.progress_bar import ProgressBar
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        while self._taken and self._taken[0][1].is_ready():
            self.step = self._taken.popleft()[0]
        console, step, total = self._console, self.step, self._num_steps
        text = console.encoding.lower().startswith("utf")
        spinner = Spinner("dots" if text else "line").render(console.get_time())
        phase = f"{self._phase} {time.monotonic() - self._since:.0f} s" if self._phase else ""
        words = [phase] if phase else []
        if total:
            words = [f"{step}/{total}", *(words or self._words(step)), f"{100 * step // total} %"]
        room = console.width - 3  # Less the spinner, and the last column, where terminals wrap.
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
