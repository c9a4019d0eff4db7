"""The command that trains and evaluates: flags in, train_and_evaluate or an evaluation out."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from jaxmnist.cli import Parser, command, run
from jaxmnist.errors import UserError, say
from jaxmnist.record.screen import Screen

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from jaxmnist.record.workdir import Workdir


_OF_EVALUATION = ("dataset", "data_dir", "eval_split", "dtype", "eval_batch_size")


def parser(verb: str | None = None) -> Parser:
    """The command's flags; `verb` is "train", "eval", or None for `python -m jaxmnist.main`."""
    parser = Parser(
        *(verb, "main"),
        description="Evaluate the newest checkpoint of a run; with keep_best, its best one."
        if verb == "eval"
        else "Train the paper's network on MNIST and evaluate it. If the workdir holds a run, it "
        "is\ncontinued with the settings in its config.json.",
    )
    parser.add_argument("--workdir", required=True, help="the folder of the run")
    parser.add_trust_code()
    if verb != "eval":
        parser.add_argument("--config", help="an experiment file; default: the paper's training")
        parser.add_argument(
            "--mode",
            choices=("train", "eval"),
            default="train",
            help="eval: only evaluate the workdir's newest checkpoint",
        )
        parser.add_argument(
            "--dry_run",
            action="store_true",
            help="say what would be trained, and how long it would take; write nothing",
        )
    together = parser.add_argument_group(
        "several processes",
        "The same command on each; on SLURM, Open MPI, Kubernetes and Cloud TPU without these.",
    )
    together.add_argument("--coordinator", metavar="HOST:PORT", help="an address of process 0")
    together.add_argument("--num_processes", type=int, help="how many processes; 1: this one alone")
    together.add_argument("--process_id", type=int, help="which of them this is, from 0")
    together.add_argument(
        "--join_timeout",
        type=float,
        default=300.0,
        help="seconds to wait for the others; default: %(default)g",
    )
    parser.add_config("config", only=_OF_EVALUATION if verb == "eval" else ())
    return parser


def main(argv: list[str] | None = None, verb: str | None = None) -> int:
    """Runs the command; returns the exit status."""
    flags = parser(verb)
    args = flags.parse_args(argv)
    if verb != "eval" and args.dry_run and args.mode == "eval":
        flags.error("--dry_run says what would be trained: leave out --mode=eval")
    if verb == "eval":
        args.mode, args.config, args.dry_run = "eval", None, False
    return run(lambda: execute(args))


def execute(args: argparse.Namespace) -> None:
    """Does what the flags say."""
    with Screen(quiet=bool(args.process_id)) as screen:
        # Imported here, so that a mistyped flag is told of at once, and while the screen moves.
        from jaxmnist import checks, dry_run, train
        from jaxmnist import config as config_lib
        from jaxmnist.config_help import reported_accuracy
        from jaxmnist.devices import distributed, machine, tuning
        from jaxmnist.files import local_path
        from jaxmnist.record.workdir import Run, Workdir

        workdir = Workdir(local_path(args.workdir, "--workdir"))
        distributed.join(args.coordinator, args.num_processes, args.process_id, args.join_timeout)
        if not distributed.is_first():
            screen.close()
            screen.quiet = True
        tuning.keep_freed_memory()
        if not args.dry_run:
            tuning.cache_compilations()
        if args.mode == "eval":
            _evaluate(args, workdir, screen)
            return
        saved = None if args.config else distributed.from_first(workdir.load_config)
        config = saved or checks.load(args.config)
        experiment = config.copy_and_resolve_references()
        checks.override(config, args.config_fields)
        if args.dry_run:
            text = dry_run.describe(Run(config, workdir), screen)
            screen.close()
            print(text)
            return
        # A command begins with its process; a call in another program now.
        since = 0.0 if machine.command_line() else None
        results = train.train_and_evaluate(config, workdir.path, screen=screen, since=since)
    if distributed.is_first():
        # An experiment's figure is that of its own training.
        same = not saved and not config_lib.changed_training(experiment, config, ("seed",))
        same = same and experiment.num_steps == config.num_steps
        reaches = reported_accuracy(args.config) if same else None
        say_the_end(results, config, workdir, reaches)


def _evaluate(args: argparse.Namespace, workdir: "Workdir", screen: Screen) -> None:
    from jaxmnist import checks, own_model
    from jaxmnist.data.datasets import eval_name
    from jaxmnist.devices import distributed
    from jaxmnist.record import find_runs
    from jaxmnist.record.metrics import describe_evaluation
    from jaxmnist.trained.checkpoint_evaluation import evaluate_checkpoints

    config = distributed.from_first(workdir.load_config)
    if config is None:
        others = find_runs.several(workdir.path)
        raise UserError(
            f"{others}. Name one of them."
            if others
            else f"{workdir.path} holds no run to evaluate: train there first."
        )
    own_model.share(config.model, distributed.from_first)
    checks.override(config, args.config_fields)
    checks.check(config, training=False)
    found = evaluate_checkpoints(config, workdir.path, screen)
    screen.close()
    for seed, step, metrics in found:
        if distributed.is_first():
            which = f"seed {seed}: " if config.num_seeds > 1 else ""
            on = f" on {config.dataset}'s {config.eval_split}"
            print(which + describe_evaluation(step, eval_name(config), [metrics]) + on)


def say_the_end(
    results: dict[str, Any], config: "ConfigDict", workdir: "Workdir", reaches: str | None
) -> None:
    """What was reached, and the commands that come next."""
    from jaxmnist.data import datasets
    from jaxmnist.record import results as results_lib

    done = results_lib.summary(results, datasets.eval_name(config), workdir.path)
    say(done)
    if results["dataset"]["name"] == datasets.SAMPLE:
        trained = results["dataset"]["num_examples"]["train"]
        more = f"; with MNIST this experiment reaches {reaches}" if reaches else ""
        say(f"trained on {trained:,} sample digits, not on MNIST{more}")
    model = f"--workdir={workdir.path}"
    if config.num_seeds > 1:
        model = f"{model}/seed-{config.seed}"
    steps = f"--config.num_steps={2 * config.num_steps}"
    say("next:")
    for verb, *flags in (
        ("report", model),
        ("demo", model),
        ("predict", model, "digit.png"),
        ("train", f"--workdir={workdir.path}", steps),
    ):
        say(f"  {command(verb, *flags)}", wrap=False)  # It is there to be pasted.


if __name__ == "__main__":
    sys.exit(main())
