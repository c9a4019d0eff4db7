"""What a run shows on a terminal of any width, and on what is none."""

import contextlib
import io
import os
import re
import sys
import threading

import pytest

from jaxmnist.record.screen import Screen, duration

METRICS = {"loss": 0.5, "accuracy": 0.75, "steps_per_second": 10.0}
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """A terminal that remembers what was written, and tells when it has been written to."""

    encoding = "utf-8"

    def __init__(self):
        super().__init__()
        self.written = threading.Event()

    def isatty(self):
        return True

    def write(self, text):
        self.written.set()
        return super().write(text)

    def frames(self):
        """What the moving line showed, one after the other."""
        return [ESCAPE.sub("", part).strip() for part in re.split("[\r\n]", self.getvalue())]


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 80 columns."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


@contextlib.contextmanager
def screen_on(terminal, **kwargs):
    """A screen whose standard output is the terminal; pytest has its own before and after."""
    before, sys.stdout = sys.stdout, terminal
    try:
        with Screen(**kwargs) as screen:
            yield screen
        assert sys.stdout is terminal
    finally:
        sys.stdout = before


def wait_for(terminal, pattern):
    """Until a frame shows it; the line is drawn by a thread of its own."""
    while not any(re.search(pattern, frame) for frame in terminal.frames()):
        terminal.written.clear()
        assert terminal.written.wait(10)


def lines(screen):
    screen.start(1000, 0)
    screen.progress(100, METRICS)
    screen.line("hello")


def test_lines_where_there_is_no_terminal(capsys):
    with Screen() as screen, screen.phase("reading data"):
        lines(screen)
    assert capsys.readouterr().out == (
        "step 100/1000  1:30 left  loss 0.5000  accuracy 0.7500  10.0 steps/s\nhello\n"
    )


def test_a_terminal_that_cannot_draw_gets_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with screen_on(terminal) as screen:
        lines(screen)
    assert terminal.getvalue().splitlines()[1:] == ["hello"]
    assert "\x1b" not in terminal.getvalue()


def test_other_processes_than_the_first_say_nothing(terminal):
    with screen_on(terminal, quiet=True) as screen:
        lines(screen)
    assert terminal.getvalue() == ""


def test_the_line_moves_while_nothing_else_does(terminal):
    """A phase tells its seconds, while the thread that is in it is busy."""
    with screen_on(terminal) as screen, screen.phase("reading data"):
        wait_for(terminal, "reading data 0 s")
        terminal.seek(0)
        terminal.truncate()
        wait_for(terminal, "reading data 1 s")


@pytest.mark.parametrize("width", [10, 20, 40, 60, 79, 80, 100, 160])
def test_the_line_fits_and_no_number_is_cut(terminal, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    with screen_on(terminal) as screen:
        screen.start(20_000, 0)
        screen.progress(12_300, METRICS | {"loss": 0.0123})
        screen.step = 12_345
        wait_for(terminal, "12345/20000" if width >= 20 else "^.$")
        with screen.phase("evaluating"):
            wait_for(terminal, "evaluating 0 s" if width >= 40 else "^.")
    shown = [frame for frame in terminal.frames() if frame]
    assert max(map(len, shown)) < width
    words = {*("12345/20000", "12:46 left", "loss 0.0123", "accuracy 0.7500", "10.0 steps/s")}
    words |= {"61 %", "evaluating 0 s", "0/20000", "0 %", "starting 0 s", "33:20 left"}
    for frame in shown:
        for word in re.split("  +| (?=[0-9]+/)", re.sub("^.|[━╸╺]+", " ", frame).strip()):
            assert word in words | {"", "12300/20000", "12:50 left"}, frame


def test_wide_terminals_show_more(terminal, monkeypatch):
    found = {}
    for width in (60, 160):
        terminal.seek(0)
        terminal.truncate()
        monkeypatch.setenv("COLUMNS", str(width))
        with screen_on(terminal) as screen:
            screen.start(20_000, 0)
            screen.progress(12_300, METRICS)
            screen.step = 12_345
            wait_for(terminal, "12345/20000 .*left .*loss")
        found[width] = [frame for frame in terminal.frames() if "loss" in frame][-1]
    assert re.search("━.*12345/20000 .*left .*loss .*accuracy .*steps/s .*61 %", found[160])
    assert "steps/s" not in found[60]


def test_no_color(terminal, monkeypatch):
    for wanted in (True, False):
        terminal.seek(0)
        terminal.truncate()
        if not wanted:
            monkeypatch.setenv("NO_COLOR", "1")
        with screen_on(terminal) as screen:
            screen.start(100, 50)
            wait_for(terminal, "50/100")
        colours = re.search(r"\x1b\[[0-9;]+m", terminal.getvalue())
        assert bool(colours) == wanted


def test_what_is_said_stands_above_the_line(terminal):
    """Also what libraries print, on standard error too, and a signal's handler."""
    with screen_on(terminal) as screen:
        screen.start(100, 0)
        wait_for(terminal, "0/100")
        screen.line("hello")
        print("from a library")
    assert {"hello", "from a library"} <= set(terminal.frames())


def test_an_error_stream_that_is_no_terminal_is_left_alone(terminal, capfd):
    with screen_on(terminal):
        print("to a file", file=sys.stderr)
    assert "to a file" not in terminal.getvalue()


def test_a_terminal_without_unicode(terminal):
    terminal.encoding = "ascii"
    with screen_on(terminal) as screen:
        screen.start(100, 50)
        wait_for(terminal, "50/100")
    assert ESCAPE.sub("", terminal.getvalue()).isascii()


def test_a_terminal_that_is_gone(terminal):
    class Gone(Terminal):
        def write(self, text):
            raise OSError(5, "Input/output error")

    with screen_on(Gone()) as screen:
        lines(screen)


def test_durations():
    assert [duration(s) for s in (7.0, 725.4, 12_000.0)] == ["0:07", "12:05", "3:20:00"]


class Result:
    """A step's result on a device."""

    def __init__(self):
        self.done = threading.Event()

    def is_ready(self):
        return self.done.is_set()


def test_the_steps_that_are_shown_are_those_that_are_done(terminal):
    """Not those that wait for the device."""
    results = [Result() for _ in range(3)]
    with screen_on(terminal) as screen:
        screen.start(100, 0)
        for step, result in enumerate(results):
            screen.take(step + 1, result)
        results[0].done.set()
        results[2].done.set()  # Out of order, as no device does it.
        wait_for(terminal, " 1/100")
        assert not any("2/100" in frame for frame in terminal.frames())
        results[1].done.set()
        wait_for(terminal, " 3/100")


def test_a_step_draws_nothing(terminal):
    """So a step never waits for the terminal, however slow that is."""
    stuck, released = threading.Event(), threading.Event()

    class Stuck(Terminal):
        slow = False

        def write(self, text):
            if self.slow and threading.current_thread() is not threading.main_thread():
                stuck.set()
                released.wait()
            return super().write(text)

    slow = Stuck()
    with screen_on(slow) as screen:
        screen.start(10_000, 0)
        slow.slow = True
        assert stuck.wait(60)
        result = Result()
        for step in range(10_000):
            screen.take(step, result)
        assert "9999" not in slow.getvalue()
        released.set()


def test_the_environment_of_a_terminal_that_is_unknown(terminal, monkeypatch):
    monkeypatch.delenv("TERM")
    assert "TERM" not in os.environ
    with screen_on(terminal) as screen:
        lines(screen)
    assert "\x1b" not in terminal.getvalue()


def test_a_phase_shows_how_much_of_it_is_done(terminal):
    Screen.count(1, 9)  # No screen is shown: nothing happens.
    with screen_on(terminal) as screen:
        with screen.phase("reading data"):
            Screen.count(250, 1000)
            screen._live.refresh()
        screen._live.refresh()
    shown = [frame for frame in terminal.frames() if "250/1000" in frame]
    assert shown
    assert re.search(r"━.*250/1000  reading data \d+ s  25 %$", shown[-1])
    assert "1000" not in [frame for frame in terminal.frames() if frame][-1]
