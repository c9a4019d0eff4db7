"""The command line: flags in, train_and_evaluate or an evaluation out."""

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from jaxmnist.errors import Interrupted, UserError


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    args, overrides = _parse(sys.argv[1:] if argv is None else argv)
    return run(lambda: _command(args, overrides))


def run(command: Callable[[], None]) -> int:
    """Runs a command for a person: what they can mend and what stopped it become one sentence.

    Returns the exit status: 0; 1 for an error; 128 and the signal's number for a signal.
    """
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    _silence_libraries()
    status = 0
    try:
        command()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        status = 1
    except BrokenPipeError:  # Whoever read our lines has enough of them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as e:
        where = f" ({e.filename})" if e.filename else ""
        print(f"error: {e.strerror or e}{where}.", file=sys.stderr)
        status = 1
    except Interrupted as e:
        print(f"{e}; the same command resumes it.", file=sys.stderr)
        status = 128 + e.signum
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        status = 128 + signal.SIGINT
    except SystemExit as e:
        status = int(e.code or 0)
    except BaseException:
        _leave(1, traceback.format_exc())
        raise
    _leave(status)
    return status


def _leave(status: int, words: str = "") -> None:
    """Ends this process' part in a run of several, if it had joined one."""
    if "jaxmnist.distributed" in sys.modules:
        sys.modules["jaxmnist.distributed"].leave(status, words)


def _silence_libraries() -> None:
    """Keeps the stack traces that libraries print of errors that we tell of in a sentence."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    default = sys.unraisablehook

    def hook(unraisable):
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
        default=300,
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
    from jaxmnist.workdir import Workdir

    distributed.join(args.coordinator, args.num_processes, args.process_id, args.join_timeout)
    device.keep_freed_memory()
    device.cache_compilations()
    if args.mode == "eval":
        config = distributed.from_first(Workdir(Path(args.workdir)).load_config)
        if config is None:
            raise UserError(f"{args.workdir} holds no run to evaluate: train there first.")
        config_lib.override(config, overrides)
        config_lib.check(config)
        name = config_lib.eval_name(config)
        for seed, step, metrics in runs.evaluate_checkpoints(config, args.workdir):
            if distributed.is_first():
                which = f"seed {seed}: " if config.num_seeds > 1 else ""
                print(which + hooks.describe(step, name, [metrics]))
        return
    config = config_lib.load(args.config, overrides)
    found = runs.train_and_evaluate(config, args.workdir)
    if distributed.is_first():
        print(results.summary(found, config_lib.eval_name(config), args.workdir))


if __name__ == "__main__":
    sys.exit(main())
