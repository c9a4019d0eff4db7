"""What the commands share: the door `jaxmnist VERB`, their flags, and how they end."""

import argparse
import atexit
import contextlib
import difflib
import importlib
import io
import logging
import os
import shlex
import shutil
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxmnist import __version__
from jaxmnist.errors import REPLACE, STDOUT, Interrupted, UserError, at_end, warn
from jaxmnist.record.screen import Screen

# Of each verb: its module, and what it does.
VERBS = {
    "train": ("main", "train, or go on with a run"),
    "eval": ("main", "evaluate a run's newest checkpoint"),
    "predict": ("predict", "tell which digit is on a picture"),
    "report": ("report", "write a page about one run, or several"),
    "demo": ("demo", "open a page to draw digits on"),
    "export": ("export", "write the model as ONNX or StableHLO"),
    "sweep": ("sweep", "train and compare a grid of configs"),
    "runs": ("listing", "list the runs below a folder"),
    "prepare_data": ("prepare_data", "prepare data from archives, offline"),
}
_EXAMPLES = """\
  jaxmnist train --workdir=runs/a --config=experiments/quick.py
  jaxmnist train --help
  jaxmnist predict --workdir=runs/a digit.png"""


def main(argv: list[str] | None = None) -> int:
    """`jaxmnist VERB ...` and `python -m jaxmnist VERB ...`; returns the exit status."""
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help", "help"):
        if argv[1:2] and argv[1] in VERBS:
            return main([argv[1], "--help"])
        print(_page())
        return 0
    if verb in ("-V", "--version"):
        print(f"jaxmnist {__version__}")
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(VERBS)}."
        print(f"jaxmnist: there is no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    return _module(verb).main(argv[1:], verb)


def _complete() -> None:
    """Answers a shell that asks how a command line may go on, and ends."""
    import argcomplete

    class Finder(argcomplete.CompletionFinder):
        def collect_completions(self, *args: Any) -> list[str]:
            found = super().collect_completions(*args)
            for each in found:  # zsh would show None for --FLAG=VALUE.
                self._display_completions.setdefault(each, "")
            return found

    parser = argparse.ArgumentParser(prog="jaxmnist")
    verbs = parser.add_subparsers()
    for verb, (_, does) in VERBS.items():
        of_verb = _module(verb).parser(verb)
        for action in of_verb._actions:
            if action.dest in ("workdir", "data_dir", "source_dir", "compare", "folder"):
                action.completer = argcomplete.DirectoriesCompleter()
        verbs.add_parser(verb, parents=[of_verb], add_help=False, help=does)
    Finder()(parser)


def _page() -> str:
    verbs = "\n".join(f"  {verb:14}{does}" for verb, (_, does) in VERBS.items())
    return (
        f"jaxmnist {__version__}: a paper's MNIST network, trained with JAX.\n\n"
        f"usage: jaxmnist VERB [FLAGS]\n\n{verbs}\n\n"
        f"examples:\n{_EXAMPLES}\n\n"
        f"The documentation is README.md{_readme()}."
    )


def _readme() -> str:
    path = Path(__file__).parent.parent / "README.md"
    return f", {path}" if path.is_file() else ""


def refuse_modules_without_a_command(argv: Sequence[str]) -> None:
    """Ends a process that was started as `python -m jaxmnist.MODULE` where that would do nothing.

    Args:
      argv: of the interpreter, `sys.orig_argv`.
    """
    name = argv[argv.index("-m") + 1] if "-m" in argv[:-1] else ""
    package, _, module = name.partition(".")
    commands = {"__main__", *(module for module, _ in VERBS.values())}
    path = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
    if package == "jaxmnist" and module not in commands and path.is_file():
        door = "python -m jaxmnist lists them"
        if module in VERBS:
            door = f"type python -m jaxmnist {module}"
        sys.exit(f"{name} is not a command: {door}.")


def _module(verb: str) -> Any:
    return importlib.import_module(f"jaxmnist.{VERBS[verb][0]}")


class _Override(argparse.Action):
    """Keeps the fields that are given, with their values as texts, in their order."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), (self.const, values)])


class Parser(argparse.ArgumentParser):
    """Flags that are written out; what is none of them is told of with what is near."""

    def __init__(self, verb: str | None, module: str, **kwargs: Any):
        super().__init__(
            prog=f"jaxmnist {verb}" if verb else f"python -m jaxmnist.{module}",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )
        self._has_fields, self._only = False, tuple[str, ...]()

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = list(sys.argv[1:] if args is None else args)
        flags = [flag for action in self._actions for flag in action.option_strings]
        for text in args:
            if text == "--":
                break
            name = text.partition("=")[0]
            if name.startswith("--") and name not in flags:
                self.error(f"unrecognized argument: {name}{_did_you_mean(name, flags)}")
        return super().parse_args(args, namespace)

    def add_workdir(self) -> None:
        """--workdir, of a verb that looks at what was trained."""
        self.add_argument("--workdir", required=True, help="the folder of a training run")

    def add_config(self, *prefixes: str, only: Sequence[str] = ()) -> None:
        """--PREFIX.FIELD for each field of the config, which the help lists in a table.

        They become PREFIX_fields, a list of fields and their values as texts, in their order.

        Args:
          prefixes: such as "config".
          only: the fields that the help lists; by default all.
        """
        from jaxmnist import config

        completes = "_ARGCOMPLETE" in os.environ
        for prefix in prefixes:
            for name in config.get_config():
                flag = self.add_argument(
                    f"--{prefix}.{name}",
                    action=_Override,
                    dest=f"{prefix}_fields",
                    const=name,
                    default=[],
                    help=config.meaning(name) if completes else argparse.SUPPRESS,
                )
                if name != "data_dir":  # Of that, folders and files, as a shell does by itself.
                    listed = config.choices(name)
                    flag.completer = lambda listed=listed, **_: listed  # type: ignore[attr-defined]
        self._has_fields, self._only = True, tuple(only)

    def format_help(self) -> str:
        if not self._has_fields:
            return super().format_help()
        from jaxmnist import config

        width = min(shutil.get_terminal_size().columns, 100) - 2
        there = "\nexperiments, --config=FILE:\n\n"
        for path, does in config.experiments().items():
            there += textwrap.fill(f"  {path}: {does}", width, subsequent_indent=" " * 4) + "\n"
        return (
            f"{super().format_help()}\nfields of the config, --config.FIELD=VALUE:\n\n"
            f"{config.describe(width, self._only)}\n{there if not self._only else ''}"
        )


def _did_you_mean(name: str, flags: Sequence[str]) -> str:
    """What a flag that there is not may stand for: also the field of a config, by its name."""
    prefix, dot, field = name.removeprefix("--").partition(".")
    if dot:  # A field's name: what all have in common would make them alike.
        fields = [flag for flag in flags if flag.startswith(f"--{prefix}.")]
        near = difflib.get_close_matches(field, [flag.partition(".")[2] for flag in fields], 1)
        return f"; did you mean --{prefix}.{near[0]}?" if near else ""
    of_config = f"--config.{prefix.replace('-', '_')}"
    near = [of_config] if of_config in flags else difflib.get_close_matches(name, flags, 1, 0.7)
    near = near or difflib.get_close_matches(of_config, flags, 1, 0.85)
    return f"; did you mean {near[0]}?" if near else ""


def command(verb: str, *args: object) -> str:
    """A command line that can be pasted in the shell that this process was started from."""
    script, python = Path(sys.executable).with_name("jaxmnist"), Path(sys.executable)
    if shutil.which("jaxmnist") == str(script):
        return shlex.join(["jaxmnist", verb, *map(str, args)])
    with contextlib.suppress(ValueError):
        script, python = script.relative_to(Path.cwd()), python.relative_to(Path.cwd())
    start = [str(script)] if script.exists() else [str(python), "-m", "jaxmnist"]
    return shlex.join([*start, verb, *map(str, args)])


class _Stopped(KeyboardInterrupt):
    """A signal came while nothing had to be saved first."""

    def __init__(self, signum: int):
        super().__init__()
        self.signum = signum


def run(command: Callable[[], None]) -> int:
    """Runs a command for a person: what they can mend and what stopped it become one sentence.

    In a thread that is not the main one no signals are handled, and all else is the same.

    Returns the exit status: 0; 1 for an error, also where an answer cannot be written to standard
    output (what a training run prints is none: its record is the workdir); 128 and the signal's
    number for a signal.
    """
    _open_streams()
    _silence_libraries()
    with _signals():
        status = _run(command)
    _release_streams()
    return status


def _run(command: Callable[[], None]) -> int:
    status = 0
    try:
        command()
        if not STDOUT.has_lost:
            sys.stdout.flush()  # Here, so that a failure is told of as any other.
    except UserError as e:
        warn(f"error: {e}")
        status = 1
    except BrokenPipeError:  # Whoever read our lines has enough of them.
        status = 1
    except OSError as e:
        where = f" ({e.filename})" if e.filename else ""
        warn(f"error: {e.strerror or e}{where}.")
        status = 1
    except Interrupted as e:
        warn(f"{e}; the same command resumes it.")
        status = 128 + e.signum
    except KeyboardInterrupt as e:
        warn("stopped.")
        status = 128 + (e.signum if isinstance(e, _Stopped) else signal.SIGINT)
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str):
            warn(f"error: {e.code}")
    except BaseException:
        _leave(1, traceback.format_exc())
        raise
    _leave(status)
    return status


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Within, a first SIGTERM or Ctrl-C unwinds what is under way; a second ends the process.

    Otherwise the second would be raised in the clean-up after the first, which may be any code.
    """
    before: dict[int, Any] = {}

    def stop(signum: int, frame: object) -> None:
        signal.signal(signum, signal.SIG_DFL)
        raise _Stopped(signum)

    if threading.current_thread() is threading.main_thread():
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, stop)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Not under nohup.
            before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _open_streams() -> None:
    """Makes standard input, output and error usable whatever they are."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            # Closed (">&-"): the next file that is opened would get its number, and with it what
            # libraries print. The null device gets it, the lowest that is free.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            stream = os.fdopen(fd, "w" if fd else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
    STDOUT.has_lost = False
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=REPLACE)


def _release_streams() -> None:
    """Drops what could not be written: the interpreter would complain of it as it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _leave(status: int, words: str = "") -> None:
    """Ends this process' part in a run of several, if it had joined one."""
    for leave in at_end:
        leave(status, words)


def _silence_libraries() -> None:
    """Keeps the stack traces that libraries print of errors that we tell of in a sentence."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    default = sys.unraisablehook

    def hook(unraisable):
        if isinstance(unraisable.exc_value, _Stopped):  # Lost in a callback of a library's.
            Screen.close_open()
            warn("stopped.")
            _leave(128 + unraisable.exc_value.signum)
            os._exit(128 + unraisable.exc_value.signum)
        # Where one of tensorstore's reads or writes fails, the others find its loop closed.
        if str(unraisable.exc_value) != "Event loop is closed":
            default(unraisable)

    sys.unraisablehook = hook
