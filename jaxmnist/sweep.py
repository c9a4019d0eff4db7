"""The command that trains a grid of configs and tables what each is worth on validation data."""

import argparse
import csv
import io
import itertools
import re
import sys
from collections.abc import Sequence
from typing import Any

from jaxmnist.errors import Interrupted, UserError, first_line, say, warn
from jaxmnist.main import fields, run

Fields = list[tuple[str, str]]


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxmnist.sweep",
        description="Train a grid of configs, or go on with it: the same command.",
        epilog="--sweep.FIELD=A,B,... tries each value of a field, with each of the other fields; "
        "--config.FIELD=VALUE overrides a field in all runs. Unless told otherwise, the last "
        "twelfth of the training set is for validation (of MNIST, 5,000 images).",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, help="the folder of the runs' workdirs")
    parser.add_argument("--config", help="an experiment file; default: the paper's training")
    args, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    given = fields(parser, rest, ("config", "sweep"))
    if not given["sweep"]:
        parser.error("what is to be tried? --sweep.FIELD=A,B,...")
    return run(lambda: _command(args, given["config"], given["sweep"]))


def _command(args: argparse.Namespace, overrides: Fields, swept: Fields) -> None:
    # Imported here, so that a mistyped flag is told of at once.
    from jaxmnist import config as config_lib
    from jaxmnist import device
    from jaxmnist.input_pipeline import Data
    from jaxmnist.workdir import Workdir, local_path, write_text

    device.keep_freed_memory()
    device.cache_compilations()
    folder = Workdir(local_path(args.workdir, "--workdir"))
    grid = []
    for choice in choices(swept):
        config = config_lib.load(args.config, [*overrides, *choice])
        if "eval_split" not in dict([*overrides, *choice]):
            _validate(config)
        if config_lib.eval_name(config) == "test":
            raise UserError(
                f"a sweep chooses by its evaluation, so eval_split={config.eval_split!r} is not "
                "allowed: take a part of the training set for it, and the rest as train_split."
            )
        grid.append((choice, config, Workdir(folder.path / _name(choice))))

    rows: list[dict[str, Any]] = []
    data = Data()
    with folder.locked():
        for i, (choice, config, workdir) in enumerate(grid):
            say(f"run {i + 1} of {len(grid)}: {workdir.path.name}")
            rows.append({**dict(choice), **_run(config, workdir, data)})
            rows.sort(key=lambda row: (bool(row["failed"]), -(row["accuracy"] or 0), row["loss"]))
            write_text(folder.path / "sweep.csv", _csv(rows))
    say(table(rows, config_lib.eval_name(grid[0][1])))
    say(f"sweep.csv, and the workdir of each run, are in {folder.path}")
    failed = sum(bool(row["failed"]) for row in rows)
    if failed:
        raise UserError(f"{failed} of {len(rows)} runs failed; the same command tries them again.")


def choices(swept: Fields) -> list[Fields]:
    """Every combination of the fields' values, which are separated by commas.

    Commas within brackets belong to a value, as in "adam(b1=0.9, b2=0.99)".
    """
    names = [name for name, _ in swept]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--sweep.{name} is given twice: list all its values in one.")
    values = [re.split(r",\s*(?![^(\[]*[)\]])", text) for _, text in swept]
    return [list(zip(names, each, strict=True)) for each in itertools.product(*values)]


def _validate(config) -> None:
    """Lets the last twelfth of the training set take the place of the test set."""
    from jaxmnist import datasets

    if (config.train_split, config.eval_split) == ("train", "test"):
        ((_, _, count),) = datasets.slice_of(config.dataset, "train")
        config.train_split = f"train[:{count * 11 // 12}]"
        config.eval_split = f"train[{count * 11 // 12}:]"


def _name(choice: Fields) -> str:
    return re.sub(r"[^\w.,=()\[\]:%+-]", "_", ",".join(f"{name}={value}" for name, value in choice))


def _run(config, workdir, data) -> dict[str, Any]:
    """A row of the table, less what was chosen."""
    from jaxmnist import config as config_lib
    from jaxmnist import results as results_lib
    from jaxmnist import runs

    row: dict[str, Any] = {"accuracy": None, "accuracy_std": None, "loss": None, "loss_std": None}
    row |= {"step": None, "seconds": None, "workdir": workdir.path.name, "failed": ""}
    name = config_lib.eval_name(config)
    try:
        results = workdir.finished(config) if config.num_seeds == 1 else None
        if results is None:
            results = runs.train_and_evaluate(config, workdir.path, data)
            say(results_lib.summary(results, name, workdir.path))
        else:
            say("it had finished before")
    except (Interrupted, KeyboardInterrupt):
        raise
    except Exception as e:
        row["failed"] = first_line(e, with_type=not isinstance(e, UserError))
        warn(f"failed: {row['failed']}")
        return row
    for metric in ("accuracy", "loss"):
        value = results[name][metric]
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
    """The rows, aligned; those that failed have their reason."""
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
