"""The runs below a folder: where they are, and what became of each."""

import datetime
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxmnist import files
from jaxmnist.config import get_config
from jaxmnist.errors import UserError
from jaxmnist.record import metrics
from jaxmnist.record.screen import duration
from jaxmnist.record.workdir import Workdir, is_end

# What the workdir of a run has beside its config, whatever became of it.
_PARTS = ("run.json", "metrics.jsonl", "checkpoints", "results.json", "seed-*/config.json")


def find(folder: Path) -> Iterator[Path]:
    """The workdirs of the runs in a folder and below it; the seeds of one run count as one.

    Symbolic links and hidden folders are not followed.
    """
    for where, folders, names in os.walk(folder):
        path = Path(where)
        if "config.json" in names and any(any(path.glob(part)) for part in _PARTS):
            yield path
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def several(folder: Path) -> str | None:
    """The runs that a folder holds, in words, where one run was asked for; None if it has none."""
    paths = sorted(path.parent for path in folder.glob("seed-*/config.json")) or list(find(folder))
    if not paths:
        return None
    shown = []
    for path in paths[:10]:
        _, state, accuracy, *_ = in_words(describe(path))
        shown.append(f"{path} ({', '.join(filter(None, (state, accuracy)))})")
    if len(paths) > 10:
        shown.append(f"and {len(paths) - 10} more, which 'jaxmnist runs {folder}' lists")
    return f"{folder} holds {len(paths)} run{'s' * (len(paths) > 1)}: {'; '.join(shown)}"


def seeds(workdir: Path) -> list[Path]:
    """The workdirs of a run's seeds, in their order; of one seed, the workdir itself.

    A folder of single runs called seed-0, seed-1 and so on is taken for a run of these seeds.
    """
    config = Workdir(workdir).load_config()
    if config is None:
        found = [each.parent for each in workdir.glob("seed-*/config.json")]
        found = [each for each in found if each.name.removeprefix("seed-").isdecimal()]
        return sorted(found, key=lambda each: int(each.name[len("seed-") :])) or [workdir]
    if config.num_seeds == 1:
        return [workdir]
    return [workdir / f"seed-{config.seed + i}" for i in range(config.num_seeds)]


def describe(path: Path) -> dict[str, Any]:
    """What became of the run in a workdir, as values for JSON; None is what is not known.

    Returns:
      "workdir".
      "date": when it was started first, in UTC.
      "state": "running", "stopped", "finished" or "damaged".
      "step", "num_steps": how far it has come, and how far it is to go.
      "differs": the fields of its config whose values are not the default's.
      "split", "accuracy": the newest evaluation; "accuracy_std" is over several seeds.
      "seconds": how long it has trained.
    """
    row: dict[str, Any] = {"workdir": str(path), "date": None, "state": "damaged"}
    row |= dict.fromkeys(("step", "num_steps", "differs", "split", "accuracy", "accuracy_std"))
    row["seconds"] = None
    try:
        found = row | _describe(Workdir(path))
        in_words(found)  # Raises if a file holds values of other types than it should.
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return row
    return found


def _describe(workdir: Workdir) -> dict[str, Any]:
    config, default, results = workdir.load_config(), get_config(), workdir.load_results()
    if config is None:
        raise UserError(f"{workdir.path} has no config.json.")
    several_seeds = config.num_seeds > 1
    workdirs = [Workdir(each) for each in seeds(workdir.path)]
    records = [list(metrics.read_metrics(each)) for each in workdirs]
    steps = [max(each.checkpoint_steps(), default=0) for each in workdirs]
    starts = [start for each in workdirs for start in each.load_run().get("starts", [])[:1]]
    written = datetime.datetime.fromtimestamp(workdir.config.stat().st_mtime, datetime.UTC)
    times = [start["time"] for start in starts if "time" in start]  # Older runs have none.
    finished = results is not None and is_end(results, config)
    state = "finished" if finished else "stopped"
    if any(files.is_locked(each.path / ".lock") for each in (workdir, *workdirs)):
        state = "running"
    split = accuracy = std = None
    evaluations = [r for each in records for r in each if r["split"] != "train"]
    if results is not None and finished:
        (split,) = {"test", "validation"} & set(results)
        accuracy = results[split]["accuracy"]
        if isinstance(accuracy, dict):
            accuracy, std = accuracy["mean"], accuracy["std"]
    elif evaluations and not several_seeds:
        split, accuracy = evaluations[-1]["split"], evaluations[-1]["accuracy"]
    return {
        "date": min(times, default=written.isoformat(timespec="seconds")),
        "state": state,
        # Seeds may be trained in turn: this is the one that has come least far.
        "step": max(min(steps), results["step"] if finished and results else 0),
        "num_steps": config.num_steps,
        "differs": {name: config[name] for name in config if config[name] != default[name]},
        "split": split,
        "accuracy": accuracy,
        "accuracy_std": std,
        "seconds": round(sum(max((r["seconds"] for r in each), default=0.0) for each in records)),
    }


def in_words(row: dict[str, Any]) -> list[str]:
    """What `describe` returns, for people: date, state, accuracy, training time, what differs."""
    date = datetime.datetime.fromisoformat(row["date"]).astimezone() if row["date"] else None
    state, accuracy = row["state"], ""
    if state in ("running", "stopped"):
        state += f" at step {row['step']:,} of {row['num_steps']:,}"
    if row["accuracy"] is not None:
        accuracy = f"{row['split']} {row['accuracy']:.4f}"
        accuracy += "" if row["accuracy_std"] is None else f" ± {row['accuracy_std']:.4f}"
    return [
        f"{date:%Y-%m-%d %H:%M}" if date else "",
        state,
        accuracy,
        "" if row["seconds"] is None else duration(float(row["seconds"])),
        " ".join(f"{name}={value}" for name, value in (row["differs"] or {}).items()),
    ]
