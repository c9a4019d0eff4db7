"""The command that lists the runs below a folder: what became of each, and how it differs."""

import datetime
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxmnist.cli import Parser, run
from jaxmnist.errors import STDOUT, UserError

_PARTS = ("run.json", "metrics.jsonl", "checkpoints", "results.json")


def parser(verb: str | None = None) -> Parser:
    """The command's flags; `verb` is what it is called by."""
    parser = Parser(verb, "listing", description="List the runs below a folder.")
    parser.add_argument("folder", metavar="DIR", nargs="?", default="runs", help="default: runs")
    parser.add_argument(
        "--json",
        action="store_true",
        help="one object a line, with the fields that differ from the default config",
    )
    return parser


def main(argv: list[str] | None = None, verb: str | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = parser(verb).parse_args(argv)
    return run(lambda: _list(args.folder, args.json))


def _list(text: str, as_json: bool) -> None:
    from jaxmnist.files import local_path

    folder = local_path(text, "DIR", as_pattern=False)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; name the one that holds your runs.")
    found = [describe(path) for path in find(folder)]
    if not found:
        raise UserError(f"{folder} holds no runs: name the folder that does.")
    found.sort(key=lambda row: row["date"] or "")
    if as_json:
        for row in found:
            print(json.dumps(row))
        return
    _print_table(found, folder)


def find(folder: Path) -> Iterator[Path]:
    """The workdirs of the runs in a folder and below it; those of single seeds count as one."""
    # Not into symbolic links, nor hidden folders.
    for where, folders, files in os.walk(folder):
        path = Path(where)
        if "config.json" in files and (
            any((path / part).exists() for part in _PARTS) or any(path.glob("seed-*/config.json"))
        ):
            yield path
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def several(folder: Path) -> str | None:
    """What to say of a folder that holds runs where one run was asked for; None if it has none."""
    paths = sorted(path.parent for path in folder.glob("seed-*/config.json")) or list(find(folder))
    if not paths:
        return None
    shown = [f"{path} ({_short(describe(path))})" for path in paths[:10]]
    if len(paths) > 10:
        shown.append(f"and {len(paths) - 10} more, which 'jaxmnist runs {folder}' lists")
    return f"{folder} holds {len(paths)} run{'s' * (len(paths) > 1)}: {'; '.join(shown)}"


def describe(path: Path) -> dict[str, Any]:
    """What became of a run, for JSON.

    Returns "workdir"; "date", of its first start, in UTC; "state": "running", "stopped", "finished"
    or "damaged"; "step" and "num_steps"; "differs", the fields whose values are not the
    default's; "split", "accuracy" of the newest evaluation, and "accuracy_std" over several
    seeds; "seconds" of training. What is not known is None.
    """
    from jaxmnist.record.workdir import Workdir

    row: dict[str, Any] = {"workdir": str(path), "date": None, "state": "damaged"}
    row |= dict.fromkeys(("step", "num_steps", "differs", "split", "accuracy", "accuracy_std"))
    row |= {"seconds": None}
    record = Workdir(path)
    try:
        found = row | _describe(record)
        _cells(found, path)  # Values of other types than theirs are damage too.
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return row
    return found


def _describe(record: Any) -> dict[str, Any]:
    from jaxmnist import files
    from jaxmnist.config import get_config
    from jaxmnist.record import metrics
    from jaxmnist.record.workdir import Workdir

    config, default, results = record.load_config(), get_config(), record.load_results()
    several = config.num_seeds > 1
    runs = [record]
    if several:
        seeds = range(config.seed, config.seed + config.num_seeds)
        runs = [Workdir(record.path / f"seed-{seed}") for seed in seeds]
    records = [list(metrics.read_records(each)) for each in runs]
    steps = [max(each.checkpoint_steps(), default=0) for each in runs]
    starts = [start for each in runs for start in each.load_run().get("starts", [])[:1]]
    written = datetime.datetime.fromtimestamp(record.config.stat().st_mtime, datetime.UTC)
    times = [start["time"] for start in starts if "time" in start]  # Older ones have none.
    date = min(times, default=written.isoformat(timespec="seconds"))
    finished = results is not None and results["step"] == config.num_steps
    state = "finished" if finished else "stopped"
    if any(files.is_locked(each.path / ".lock") for each in (record, *runs)):
        state = "running"
    split = accuracy = std = None
    evaluations = [r for each in records for r in each if r["split"] != "train"]
    if results is not None and finished:
        (split,) = {"test", "validation"} & set(results)
        accuracy = results[split]["accuracy"]
        if isinstance(accuracy, dict):
            accuracy, std = accuracy["mean"], accuracy["std"]
    elif evaluations and not several:
        split, accuracy = evaluations[-1]["split"], evaluations[-1]["accuracy"]
    return {
        "date": date,
        "state": state,
        # Of several seeds that are trained in turn, the one that has come least far.
        "step": max(min(steps), results["step"] if finished and results else 0),
        "num_steps": config.num_steps,
        "differs": {name: config[name] for name in config if config[name] != default[name]},
        "split": split,
        "accuracy": accuracy,
        "accuracy_std": std,
        "seconds": round(sum(max((r["seconds"] for r in each), default=0.0) for each in records)),
    }


def _state(row: dict[str, Any]) -> str:
    if row["state"] in ("finished", "damaged"):
        return row["state"]
    return f"{row['state']} at step {row['step']:,} of {row['num_steps']:,}"


def _short(row: dict[str, Any]) -> str:
    return ", ".join(word for word in (_state(row), _accuracy(row)) if word)


def _accuracy(row: dict[str, Any]) -> str:
    if row["accuracy"] is None:
        return ""
    std = "" if row["accuracy_std"] is None else f" ± {row['accuracy_std']:.4f}"
    return f"{row['split']} {row['accuracy']:.4f}{std}"


def _cells(row: dict[str, Any], folder: Path) -> list[str]:
    from jaxmnist.record.screen import duration

    path = Path(row["workdir"])
    date = datetime.datetime.fromisoformat(row["date"]).astimezone() if row["date"] else None
    return [
        str(path.relative_to(folder)) if path != folder else str(path),
        f"{date:%Y-%m-%d %H:%M}" if date else "",
        _state(row),
        _accuracy(row),
        "" if row["seconds"] is None else duration(float(row["seconds"])),
        " ".join(f"{name}={value}" for name, value in (row["differs"] or {}).items()),
    ]


def _print_table(rows: list[dict[str, Any]], folder: Path) -> None:
    """A line for each run; on a terminal what does not fit beside it stands below it."""
    head = ["run", "started", "state", "accuracy", "time", "differs from the default in"]
    lines = [head, *(_cells(row, folder) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    width = shutil.get_terminal_size().columns if STDOUT.isatty() else sys.maxsize
    beside = 6 if sum(widths) + 10 <= width else 5 if sum(widths[:5]) + 8 <= width else 1
    for line in lines[beside == 1 :]:
        cells = [cell.ljust(n) for cell, n in zip(line[:beside], widths, strict=False)]
        print("  ".join(cells).rstrip())
        below = "  ".join(cell for cell in line[beside:] if cell)
        if below:
            wrapper = textwrap.TextWrapper(width, " " * 4, " " * 4, break_long_words=False)
            print(wrapper.fill(below))


if __name__ == "__main__":
    sys.exit(main())
