"""The command that trains a grid of configs and compares them on validation data."""

import argparse
import csv
import hashlib
import io
import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmnist.cli import Parser, run
from jaxmnist.errors import Interrupted, UserError, first_line, say, warn

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from jaxmnist.record.workdir import Workdir

Fields = list[tuple[str, str]]


def parser(verb: str | None = None) -> Parser:
    """The command's flags; `verb` is what it is called by."""
    parser = Parser(
        verb,
        "sweep",
        description="Train a grid of configs; the same command resumes it. --sweep.FIELD=A,B,...\n"
        "tries these values of a field, in each combination with those of other fields.\n"
        "By default the last twelfth of the training set is for validation (of MNIST,\n"
        "5,000 images). For example:\n\n"
        "  jaxmnist sweep --workdir=runs/s --sweep.learning_rate=0.05,0.1 --sweep.seed=0,1",
    )
    parser.add_argument("--workdir", required=True, help="the folder of the runs' workdirs")
    parser.add_argument("--config", help="an experiment file; default: the paper's training")
    parser.add_config("config", "sweep")
    return parser


def main(argv: list[str] | None = None, verb: str | None = None) -> int:
    """Runs the command; returns the exit status."""
    flags = parser(verb)
    args = flags.parse_args(argv)
    if not args.sweep_fields:
        flags.error("give the values to try: --sweep.FIELD=A,B,...")
    return run(lambda: _command(args))


def _command(args: argparse.Namespace) -> None:
    # Imported here, so that a mistyped flag is told of at once.
    from jaxmnist import checks
    from jaxmnist.data import datasets
    from jaxmnist.data.datasets import eval_name
    from jaxmnist.data.input_pipeline import Data
    from jaxmnist.devices import tuning
    from jaxmnist.files import local_path, write_text
    from jaxmnist.record.workdir import Workdir

    tuning.keep_freed_memory()
    tuning.cache_compilations()
    folder, grid, valid = Workdir(local_path(args.workdir, "--workdir")), [], []
    resolved: dict[str | None, str] = {}
    for chosen in choices(args.sweep_fields):
        config = checks.load(args.config, [*args.config_fields, *chosen])
        try:
            checks.check(config, training=False)  # Its splits are still to come.
            _resolve(config, resolved)
            if "eval_split" not in dict([*args.config_fields, *chosen]):
                _validate(config)
            checks.check(config)  # Again: the sample has fewer examples.
            refused = None
        except UserError as e:
            refused = e  # The others are tried all the same; this one's row tells of the error.
        choice = [(n, config.dataset if n == "dataset" else value) for n, value in chosen]
        grid.append((choice, config, workdir_of(folder, choice, config)))
        if not refused:
            info = datasets.describe(config)
            checks.check_validation(config, info, "a sweep chooses by its evaluation")
            valid.append((config, grid[-1][2]))
    if not valid and refused:
        raise refused
    _check_starts(valid)

    rows: list[dict[str, Any]] = []
    data = Data()
    with folder.locked():
        for i, (choice, config, workdir) in enumerate(grid):
            say(f"run {i + 1} of {len(grid)}: {workdir.path.name}")
            rows.append({**dict(choice), **_run(config, workdir, data)})
            rows.sort(key=lambda row: (bool(row["failed"]), -(row["accuracy"] or 0), row["loss"]))
            write_text(folder.path / "sweep.csv", _csv(rows))
    say(table(rows, eval_name(valid[0][0])))
    say(f"sweep.csv, and the workdir of each run, are in {folder.path}")
    failed = sum(bool(row["failed"]) for row in rows)
    if failed:
        raise UserError(f"{failed} of {len(rows)} runs failed; the same command tries them again.")


def choices(swept: Fields) -> list[Fields]:
    """All combinations of values, as pairs of a field and its value.

    Args:
      swept: the fields, and their values separated by commas. A comma in brackets is part of a
        value, as in "adam(b1=0.9, b2=0.99)".
    """
    names = [name for name, _ in swept]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--sweep.{name} is given twice: list all its values in one.")
    values = [_split(text) for _, text in swept]
    for name, of_field in zip(names, values, strict=True):
        if len(set(of_field)) < len(of_field):
            raise UserError(f"--sweep.{name} has a value twice: {', '.join(of_field)}.")
    return [list(zip(names, each, strict=True)) for each in itertools.product(*values)]


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [parts[0], *(part.lstrip() for part in parts[1:])]


def _resolve(config: "ConfigDict", resolved: dict[str | None, str]) -> None:
    """Names the sample in the config if it stands in for MNIST: the splits are cut from it then.

    Args:
      config: the config.
      resolved: the names that were found before, by data_dir.
    """
    from jaxmnist.data import datasets

    if config.dataset == "mnist" and config.allow_sample:
        where = config.data_dir
        if where not in resolved:
            resolved[where] = datasets.load("mnist", ["test"], where).name
        config.dataset = resolved[where]


def _validate(config: "ConfigDict") -> None:
    """Makes the last twelfth of the training set the evaluation split, unless splits are given."""
    from jaxmnist.data import datasets

    if (config.train_split, config.eval_split) == ("train", "test"):
        ((_, _, count),) = datasets.slice_of(datasets.describe(config), "train")
        config.train_split = f"train[:{count * 11 // 12}]"
        config.eval_split = f"train[{count * 11 // 12}:]"


def _check_starts(runs: "Sequence[tuple[ConfigDict, Workdir]]") -> None:
    """Raises UserError unless all runs are fresh, or go on from the same steps and num_steps.

    Others have had different schedules, so one table cannot compare them.
    """
    from jaxmnist.record.workdir import Workdir

    first: tuple[Path, list[tuple[int, int]]] | None = None
    for config, workdir in runs:
        seeds = range(config.seed, config.seed + config.num_seeds)
        several = [Workdir(workdir.path / f"seed-{seed}") for seed in seeds]
        for record in [workdir] if config.num_seeds == 1 else several:
            before = continued(record, config.num_steps)
            first = first or (record.path, before)
            if before != first[1]:
                raise UserError(
                    f"{first[0]} {_told(first[1])}, and {record.path} {_told(before)}: one table "
                    "cannot compare them; choose another workdir, or the num_steps of before."
                )


def continued(record: "Workdir", num_steps: int) -> list[tuple[int, int]]:
    """Where a run goes on with another num_steps than before: pairs of step and num_steps before.

    Args:
      record: the workdir of the run.
      num_steps: how many steps it is to have now.
    """
    steps, saved = record.checkpoint_steps(), record.load_config()
    if not steps or saved is None or max(steps) > num_steps:
        return []
    starts = [(each["step"], each["num_steps"]) for each in record.load_run().get("starts", [])]
    starts = starts or [(0, saved.num_steps)]
    if starts[-1][1] != num_steps:
        starts.append((max(steps), num_steps))
    schedules: list[tuple[int, int]] = []
    for start in starts:
        schedules = [each for each in schedules if each[0] < start[0]]  # Later steps were lost.
        if not schedules or schedules[-1][1] != start[1]:
            schedules.append(start)
    return [(after[0], before[1]) for before, after in itertools.pairwise(schedules)]


def _told(continued: list[tuple[int, int]]) -> str:
    if not continued:
        return "has one num_steps from the start"
    return " and ".join(f"goes on at step {step} from num_steps={n}" for step, n in continued)


def workdir_of(folder: "Workdir", choice: Fields, config: "ConfigDict") -> "Workdir":
    """The workdir of a run: its name says what was chosen, as far as all file systems allow.

    Args:
      folder: the workdir of the sweep.
      choice: the fields that were chosen, and their values.
      config: the config of the run.
    """
    from jaxmnist.config import changed_training
    from jaxmnist.record.workdir import Workdir

    text = ",".join(f"{name}={value}" for name, value in choice)
    name = re.sub(r"[^A-Za-z0-9_.,=()%+-]", "_", text)
    # Some file systems ignore case, and some a dot at the end: a hash tells such names apart.
    if name != text.lower() or len(name) > 100 or name.endswith("."):
        name = f"{name[:90]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    # Older versions allowed more in names. Such a run goes on where it is, unless its name has
    # brackets: in such a folder orbax finds no checkpoints.
    old = Workdir(folder.path / re.sub(r"[^\w.,=()\[\]:%+-]", "_", text))
    if old.path.name != name and len(old.path.name.encode()) < 256:
        saved = old.load_config()
        usable = "[" not in old.path.name or old.finished(config)
        if usable and saved is not None and not changed_training(saved, config):
            return old
    return Workdir(folder.path / name)


def _run(config, workdir, data) -> dict[str, Any]:
    """A row of the table, less what was chosen."""
    from jaxmnist import seeds, train
    from jaxmnist.data.datasets import eval_name
    from jaxmnist.record import results as results_lib

    row: dict[str, Any] = {"accuracy": None, "accuracy_std": None, "loss": None, "loss_std": None}
    row |= {"step": None, "seconds": None, "workdir": workdir.path.name, "failed": ""}
    before = None
    try:
        config.model = workdir.same_model(config.model)
        before = workdir.finished(config) if config.num_seeds == 1 else None
        if before:
            workdir.check_network(seeds.todays_network(config))
        results = before or train.train_and_evaluate(config, workdir.path, data)
    except Interrupted:  # Not the run's failure.
        raise
    except Exception as e:
        row["failed"] = first_line(e, with_type=not isinstance(e, UserError))
        warn(f"failed: {row['failed']}")
        return row
    name = eval_name(config)
    summary = results_lib.summary(results, name, workdir.path)
    say("it had finished before" if before else summary)
    for metric in ("accuracy", "loss"):
        value = results.get("best", results[name])[metric]
        spread = value if isinstance(value, dict) else {"mean": value, "std": None}
        row[metric], row[f"{metric}_std"] = spread["mean"], spread["std"]
    return row | {"step": results["step"], "seconds": round(results["seconds"]["total"], 1)}


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table(rows: Sequence[dict[str, Any]], split: str) -> str:
    """The rows as an aligned table; a failed run has its reason in place of its metrics.

    Args:
      rows: the rows of sweep.csv.
      split: what the evaluation split is called.
    """
    swept = list(rows[0])[: list(rows[0]).index("accuracy")]
    lines = [[*swept, f"{split} accuracy", f"{split} loss"]]
    for row in rows:
        metrics = [row["failed"], ""]
        if not row["failed"]:
            metrics = [_number(row[m], row[f"{m}_std"]) for m in ("accuracy", "loss")]
        lines.append([*(row[name] for name in swept), *metrics])
    done = [
        line for line, row in zip(lines, [{"failed": ""}, *rows], strict=True) if not row["failed"]
    ]
    widths = [max(len(line[i]) for line in done) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _number(value: float, std: float | None) -> str:
    return f"{value:.4f}" if std is None else f"{value:.4f} ± {std:.4f}"


if __name__ == "__main__":
    sys.exit(main())
