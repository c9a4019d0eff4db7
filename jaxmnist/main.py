"""The command line: flags in, train_and_evaluate or an evaluation out."""

import argparse
import atexit
import contextlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from jaxmnist.errors import REPLACE, STDOUT, Interrupted, UserError, say, warn


class _Stopped(KeyboardInterrupt):
    """A signal came while nothing had to be saved first."""

    def __init__(self, signum: int):
        super().__init__()
        self.signum = signum


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    args, overrides = _parse(sys.argv[1:] if argv is None else argv)
    return run(lambda: _command(args, overrides))


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
    if "jaxmnist.distributed" in sys.modules:
        sys.modules["jaxmnist.distributed"].leave(status, words)


def _silence_libraries() -> None:
    """Keeps the stack traces that libraries print of errors that we tell of in a sentence."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    default = sys.unraisablehook

    def hook(unraisable):
        if isinstance(unraisable.exc_value, _Stopped):  # Lost in a callback of a library's.
            warn("stopped.")
            _leave(128 + unraisable.exc_value.signum)
            os._exit(128 + unraisable.exc_value.signum)
        # Where one of tensorstore's reads or writes fails, the others find its loop closed.
        if str(unraisable.exc_value) != "Event loop is closed":
            default(unraisable)

    sys.unraisablehook = hook


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    parser = argparse.ArgumentParser(
        prog="python -m jaxmnist.main",
        description="Train the paper's network on MNIST, or resume it: the same command.",
        epilog="--config.FIELD=VALUE overrides a field of jaxmnist/config.py.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, help="the folder that is the run's record")
    parser.add_argument("--config", help="an experiment file; default: the paper's training")
    parser.add_argument(
        "--mode",
        choices=("train", "eval"),
        default="train",
        help="eval: only evaluate the workdir's newest checkpoint",
    )
    together = parser.add_argument_group(
        "several processes",
        "The same command on each; on SLURM, Open MPI, Kubernetes and Cloud TPU without these.",
    )
    together.add_argument("--coordinator", metavar="HOST:PORT", help="an address of process 0")
    together.add_argument("--num_processes", type=int, help="how many; 1: this one alone")
    together.add_argument("--process_id", type=int, help="which this is, from 0")
    together.add_argument(
        "--join_timeout",
        type=float,
        default=300.0,
        help="seconds to wait for the rest: %(default)g",
    )
    args, rest = parser.parse_known_args(argv)
    return args, fields(parser, rest)["config"]


def fields(
    parser: argparse.ArgumentParser, rest: list[str], prefixes: tuple[str, ...] = ("config",)
) -> dict[str, list[tuple[str, str]]]:
    """What is left of a command line: for each prefix, the fields in --PREFIX.FIELD=VALUE."""
    found: dict[str, list[tuple[str, str]]] = {prefix: [] for prefix in prefixes}
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        prefix, _, field = name.removeprefix("--").partition(".")
        if not name.startswith("--") or prefix not in found or not field:
            parser.error(f"unrecognized argument: {name}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                parser.error(f"{name} lacks a value: {name}=VALUE")
            value = rest.pop(0)
        found[prefix].append((field, value))
    return found


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    # Imported here, so that a mistyped flag is told of at once.
    from jaxmnist import config as config_lib
    from jaxmnist import device, distributed, hooks, results, runs
    from jaxmnist.files import local_path
    from jaxmnist.workdir import Workdir

    workdir = local_path(args.workdir, "--workdir")
    distributed.join(args.coordinator, args.num_processes, args.process_id, args.join_timeout)
    device.keep_freed_memory()
    device.cache_compilations()
    if args.mode == "eval":
        config = distributed.from_first(Workdir(workdir).load_config)
        if config is None:
            raise UserError(f"{workdir} holds no run to evaluate: train there first.")
        config_lib.override(config, overrides)
        config_lib.check(config, training=False)
        name = config_lib.eval_name(config)
        for seed, step, metrics in runs.evaluate_checkpoints(config, workdir):
            if distributed.is_first():
                which = f"seed {seed}: " if config.num_seeds > 1 else ""
                print(which + hooks.describe(step, name, [metrics]))
        return
    config = config_lib.load(args.config, overrides)
    found = runs.train_and_evaluate(config, workdir)
    if distributed.is_first():
        say(results.summary(found, config_lib.eval_name(config), workdir))


if __name__ == "__main__":
    sys.exit(main())
