"""What the commands share: `jaxmnist VERB`, their flags, and how they end."""

import argparse
import atexit
import contextlib
import difflib
import gc
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

# The verbs: the module of each, and what it does.
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
        print(_overview())
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
    """Answers a shell that asks how a command line may go on, and ends the process."""
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


def _overview() -> str:
    """What `jaxmnist` prints without a verb."""
    readme = Path(__file__).parent.parent / "README.md"
    where = f", {readme}" if readme.is_file() else ""
    verbs = "\n".join(f"  {verb:14}{does}" for verb, (_, does) in VERBS.items())
    return (
        f"jaxmnist {__version__}: a paper's MNIST network, trained with JAX.\n\n"
        f"usage: jaxmnist VERB [FLAGS]\n\n{verbs}\n\n"
        f"examples:\n{_EXAMPLES}\n\n"
        f"The documentation is README.md{where}."
    )


def refuse_modules_without_a_command(argv: Sequence[str]) -> None:
    """Ends the process if it was started as `python -m jaxmnist.MODULE` and that does nothing.

    Args:
      argv: the interpreter's command line, `sys.orig_argv`.
    """
    name = argv[argv.index("-m") + 1] if "-m" in argv[:-1] else ""
    package, _, module = name.partition(".")
    commands = {"__main__", *(module for module, _ in VERBS.values())}
    path = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
    if package == "jaxmnist" and module not in commands and path.is_file():
        hint = "python -m jaxmnist lists them"
        if module in VERBS:
            hint = f"type python -m jaxmnist {module}"
        sys.exit(f"{name} is not a command: {hint}.")


def _module(verb: str) -> Any:
    return importlib.import_module(f"jaxmnist.{VERBS[verb][0]}")


class _Override(argparse.Action):
    """Collects the fields that are given, with their values as text, in their order."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), (self.const, values)])


class _Trust(argparse.Action):
    """Lets this process run the code that workdirs hold."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        from jaxmnist import own_model

        own_model.trust_every()


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests a flag for a mistyped one, and accepts no abbreviations.

    Args:
      verb: what the command is called by; None if by its module.
      module: the module.
      kwargs: other arguments of ArgumentParser.
    """

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
        """Adds --workdir, for a command that looks at what was trained."""
        self.add_argument("--workdir", required=True, help="the folder of a training run")
        self.add_trust_code()

    def add_trust_code(self) -> None:
        """Adds --trust_code, which acts when it is parsed."""
        self.add_argument(
            "--trust_code",
            action=_Trust,
            nargs=0,
            help="run the code of a network that a workdir from elsewhere holds, now and later",
        )

    def add_config(self, *prefixes: str, only: Sequence[str] = ()) -> None:
        """Adds --PREFIX.FIELD for each field of the config; the help has a table of the fields.

        What is given becomes `PREFIX_fields`: pairs of a field and its value as text, in order.

        Args:
          prefixes: the prefixes, such as "config".
          only: the fields that the table lists; by default all.
        """
        from jaxmnist import config, config_help

        completes = "_ARGCOMPLETE" in os.environ
        for prefix in prefixes:
            for name in config.get_config():
                flag = self.add_argument(
                    f"--{prefix}.{name}",
                    action=_Override,
                    dest=f"{prefix}_fields",
                    const=name,
                    default=[],
                    help=config.ALL_FIELDS[name].meaning if completes else argparse.SUPPRESS,
                )
                if name != "data_dir":  # Its value is a folder, which a shell completes itself.
                    listed = config_help.choices(name)
                    flag.completer = lambda listed=listed, **_: listed  # type: ignore[attr-defined]
        self._has_fields, self._only = True, tuple(only)

    def format_help(self) -> str:
        if not self._has_fields:
            return super().format_help()
        from jaxmnist import config_help

        width = min(shutil.get_terminal_size().columns, 100) - 2
        text = (
            f"{super().format_help()}\nfields of the config, --config.FIELD=VALUE:\n\n"
            f"{config_help.describe_fields(width, self._only)}\n"
        )
        if not self._only:
            text += "\nexperiments, --config=FILE:\n\n"
            for path, does in config_help.experiments().items():
                text += textwrap.fill(f"  {path}: {does}", width, subsequent_indent=" " * 4) + "\n"
        return text


def _did_you_mean(name: str, flags: Sequence[str]) -> str:
    """A suggestion for a flag that does not exist; it may be the bare name of a config's field."""
    prefix, dot, field = name.removeprefix("--").partition(".")
    if dot:  # Only the fields are compared: the prefix makes all of them look alike.
        fields = [flag for flag in flags if flag.startswith(f"--{prefix}.")]
        near = difflib.get_close_matches(field, [flag.partition(".")[2] for flag in fields], 1)
        return f"; did you mean --{prefix}.{near[0]}?" if near else ""
    of_config = f"--config.{prefix.replace('-', '_')}"
    near = [of_config] if of_config in flags else difflib.get_close_matches(name, flags, 1, 0.7)
    near = near or difflib.get_close_matches(of_config, flags, 1, 0.85)
    return f"; did you mean {near[0]}?" if near else ""


def command(verb: str, *args: object) -> str:
    """A command line that can be pasted into the shell from which this process was started."""
    script, python = Path(sys.executable).with_name("jaxmnist"), Path(sys.executable)
    if shutil.which("jaxmnist") == str(script):
        return shlex.join(["jaxmnist", verb, *map(str, args)])
    with contextlib.suppress(ValueError):
        script, python = script.relative_to(Path.cwd()), python.relative_to(Path.cwd())
    start = [str(script)] if script.exists() else [str(python), "-m", "jaxmnist"]
    return shlex.join([*start, verb, *map(str, args)])


class _Stopped(KeyboardInterrupt):
    """A signal came while nothing had to be saved first.

    Attributes:
      signum: the number of the signal.
    """

    def __init__(self, signum: int):
        super().__init__()
        self.signum = signum


def run(command: Callable[[], None]) -> int:
    """Runs a command: errors that a user can mend, and signals, become one sentence on stderr.

    Signals are handled in the main thread only, as Python allows it nowhere else.

    Returns:
      The exit status: 0; 1 for an error; 128 plus the signal's number for a signal. An answer that
      cannot be written to standard output is an error; the lines of a training run are no answer,
      since its record is the workdir.
    """
    _open_streams()
    _silence_libraries()
    _collect_less()
    with _signals():
        status = _run(command)
    _release_streams()
    return status


def _run(command: Callable[[], None]) -> int:
    status = 0
    try:
        command()
        if not STDOUT.has_lost:
            sys.stdout.flush()  # Here, where a failure is reported like any other.
    except UserError as e:
        warn(f"error: {e}")
        status = 1
    except BrokenPipeError:  # The reader of our lines has closed the pipe, as `head` does.
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
    """In this context the first SIGTERM or Ctrl-C raises _Stopped, and a second ends the process.

    Raised too, the second would interrupt the clean-up after the first.
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
    """Makes standard input, output and error usable, even if the caller has closed them."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            # Closed (">&-"): the next file that is opened would get this number, and with it what
            # libraries print. So the null device gets it: the lowest free number is given.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            stream = os.fdopen(fd, "w" if fd else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
    STDOUT.has_lost = False
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=REPLACE)


def _release_streams() -> None:
    """Drops what could not be written; the interpreter would report it again at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _leave(status: int, words: str = "") -> None:
    """Calls what was registered for the end of a command."""
    for leave in at_end:
        leave(status, words)


def _collect_less() -> None:
    """Has Python look for unreachable objects less often, and not at all at the end.

    Nearly all of the million objects that a command makes, of modules and programs, stay. To search
    them again and again takes a tenth of its start; to search them as the process ends, more than
    half a second in which nothing is left to do.
    """
    gc.set_threshold(100_000)
    atexit.unregister(gc.freeze)  # Several commands in one process.
    atexit.register(gc.freeze)


def _silence_libraries() -> None:
    """Suppresses the stack traces that libraries print for errors that we report in a sentence."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    default = sys.unraisablehook

    def hook(unraisable):
        if isinstance(unraisable.exc_value, _Stopped):  # Raised in a library's callback.
            Screen.close_open()
            warn("stopped.")
            _leave(128 + unraisable.exc_value.signum)
            os._exit(128 + unraisable.exc_value.signum)
        # If one of tensorstore's reads or writes fails, the others find the event loop closed.
        if str(unraisable.exc_value) != "Event loop is closed":
            default(unraisable)

    sys.unraisablehook = hook
