"""The command line: flags in, train_and_evaluate or an evaluation out."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from jaxmnist.errors import UserError


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
    try:
        command()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except OSError as e:
        where = f" ({e.filename})" if e.filename else ""
        print(f"error: {e.strerror or e}{where}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


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
    args, rest = parser.parse_known_args(argv)
    overrides = []
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--config."):
            parser.error(f"unrecognized argument: {name}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                parser.error(f"{name} lacks a value: {name}=VALUE")
            value = rest.pop(0)
        overrides.append((name.removeprefix("--config."), value))
    return args, overrides


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    # Imported here, so that a mistyped flag is told of at once.
    from jaxmnist import config as config_lib
    from jaxmnist import device, hooks, results, train
    from jaxmnist.workdir import Workdir

    device.keep_freed_memory()
    device.cache_compilations()
    if args.mode == "eval":
        config = Workdir(Path(args.workdir)).load_config()
        if config is None:
            raise UserError(f"{args.workdir} holds no run to evaluate: train there first.")
        config_lib.override(config, overrides)
        step, metrics = train.evaluate_checkpoint(config, args.workdir)
        print(hooks.describe(step, config_lib.eval_name(config), metrics))
        return
    config = config_lib.load(args.config, overrides)
    try:
        found = train.train_and_evaluate(config, args.workdir)
    except hooks.Interrupted as e:
        print(f"{e}; the same command resumes it.", file=sys.stderr)
        sys.exit(128 + e.signum)
    print(results.summary(found, config_lib.eval_name(config), args.workdir))


if __name__ == "__main__":
    sys.exit(main())
