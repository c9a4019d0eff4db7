"""What a command says to its user, and how it stops for what is no bug: in one sentence."""

import codecs
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable
from typing import Any


class UserError(Exception):
    """An error that the user can fix: its message says what is wrong, where, and what to do."""


class NothingShown(UserError):
    """Nothing is on a picture that could be read."""


class Interrupted(Exception):
    """A signal stopped the run, after its checkpoint was written."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"{signal.Signals(signum).name}: stopped after step {step}")
        self.signum = signum


# What is called as a command ends, with its exit status and the traceback of a bug, if any.
at_end: list[Callable[[int, str], None]] = []


def first_line(e: BaseException, *, with_type: bool = False) -> str:
    """The first line of an error's message; where it has none, the name of the error's type.

    Args:
      e: an error, as a rule of another library.
      with_type: whether the name of its type comes before the message.
    """
    name = type(e).__name__
    line = next((line.strip() for line in str(e).splitlines() if line.strip()), "")
    return (f"{name}: {line}" if with_type else line) if line else name


class Output:
    """Standard output or standard error, for what a run says while it works.

    Nothing here raises, since the record of a run is its workdir: characters that the stream cannot
    encode are replaced, and what cannot be written, to a closed pipe or a full disk, is lost.

    Attributes:
      has_lost: whether something could not be written.
    """

    def __init__(self, stream: Callable[[], Any]):
        self._stream = stream
        self.has_lost = False

    def write(self, text: str) -> None:
        stream = self._stream()
        try:
            try:
                stream.write(text)
            except UnicodeEncodeError:
                stream.write(text.encode(stream.encoding, "replace").decode(stream.encoding))
        except Exception:  # Whatever a program, a notebook or a test put in the stream's place.
            self.has_lost = True

    def flush(self) -> None:
        try:
            self._stream().flush()
        except Exception:
            self.has_lost = True

    def isatty(self) -> bool:
        try:
            return self._stream().isatty()
        except Exception:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)


# As with `print`, each use writes to what `sys.stdout` or `sys.stderr` is by then.
STDOUT, STDERR = Output(lambda: sys.stdout), Output(lambda: sys.stderr)


def say(text: str, *, wrap: bool = True) -> None:
    """Prints a line on standard output; never raises.

    Args:
      text: the line.
      wrap: whether to break it between words where a terminal is too narrow for it.
    """
    if wrap and STDOUT.isatty():
        width = shutil.get_terminal_size().columns
        lines = text.splitlines()
        text = "\n".join(
            textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
            for line in lines
        )
    print(text, file=STDOUT, flush=True)


def warn(text: str) -> None:
    """Prints a line on standard error; never raises."""
    print(text, file=STDERR, flush=True)


def _bytes_or_question_mark(e: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(e, UnicodeEncodeError):
        raise e
    one = UnicodeEncodeError(e.encoding, e.object, e.start, e.start + 1, e.reason)
    try:
        return codecs.lookup_error("surrogateescape")(one)
    except UnicodeEncodeError:
        return "?", e.start + 1


# A codec's error handler for streams that people read: the bytes of a file name that is no text are
# kept, and a character that the stream's encoding lacks becomes a question mark.
REPLACE = "jaxmnist.replace"
codecs.register_error(REPLACE, _bytes_or_question_mark)
