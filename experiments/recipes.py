"""The recipes' figures: kept from runs, and printed as the tables of README.md.

python -m experiments.recipes --keep=experiments/results/quick.json WORKDIR...
python -m experiments.recipes --curves=experiments/curves.png WORKDIR...
python -m experiments.recipes

The first keeps what tables need of the results.json of some workdirs, each of one run or of several
seeds; seeds that the file has from before stay. The second draws how the error of workdirs fell.
The third prints all tables. In results/ a file is a recipe's run on the test set. In
results/ablations/RECIPE/ base.json is the recipe on validation data, and each other file the same
with the one change that its fields tell. In results/optimizers/ are runs of epoch.py with other
optimizers.
"""

import argparse
import datetime
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from experiments.benchmarks import whole_command
from jaxmnist import cli
from jaxmnist.config import FREE_TO_CHANGE, get_config
from jaxmnist.devices import machine
from jaxmnist.errors import UserError
from jaxmnist.files import write_text
from jaxmnist.record import find_runs
from jaxmnist.record.metrics import read_metrics
from jaxmnist.record.workdir import Workdir

RESULTS = Path(__file__).parent / "results"
ORDER = ("best", "plain", "default", "tutorial", "quick", "fastest", "fashion")
# What changes no training, and the seed; the splits are kept apart.
_NOT_OF_A_RECIPE = {"seed", "train_split", *FREE_TO_CHANGE} - {"num_steps"}
_SAME = ("split", "train_split", "eval_split", "fields")
_KEYS = {*_SAME, "steps", "batch_size", "processor", "jax", "date", "runs"}
Record = dict[str, Any]


def keep(workdirs: Sequence[Path], path: Path) -> Record:
    """Writes a record of the runs of workdirs, with the seeds that `path` has already.

    Raises UserError if they are not of one config, or a run is not finished.
    """
    records = [_read(path)] if path.exists() else []
    records += map(_record, workdirs)
    first = records[0]
    for each in records[1:]:
        for what in _SAME:
            if each[what] != first[what]:
                raise UserError(_difference(what, each[what], first[what]))
    base = path.with_name("base.json")
    if base.exists() and base != path:
        _check_same_data(path, records[-1], _read(base))
    runs = {seed: run for each in records for seed, run in each["runs"].items()}
    record = records[-1] | {"runs": dict(sorted(runs.items(), key=lambda item: int(item[0])))}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1) + "\n")
    return record


def _difference(what: str, one: Any, other: Any) -> str:
    if what == "fields":
        names = sorted(name for name in one | other if one.get(name) != other.get(name))
        default = json.loads(get_config().to_json())
        what = ", ".join(names)
        one, other = (", ".join(str((default | x)[name]) for name in names) for x in (one, other))
    return f"{what}: {one} in one run, and {other} in another: keep them in different files."


def _check_same_data(path: Path, record: Record, base: Record) -> None:
    """Raises UserError if a change was not trained and evaluated on the data of its base.json."""
    for what in ("train_split", "eval_split"):
        if record[what] != base[what]:
            raise UserError(
                f"{path} has {what}={record[what]}, and base.json beside it {base[what]}: train "
                "on the same."
            )


def _read(path: Path) -> Record:
    """What `keep` wrote. Raises UserError if it is something else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict) or not record.keys() >= _KEYS:
        raise UserError(f"{path} is no file that --keep wrote: name another, or delete it.")
    return record


def _results(workdir: Path) -> tuple[str, Record]:
    """What a finished run was evaluated on, "test" or "validation", and its results."""
    results = Workdir(workdir).load_results()
    if results is None:
        raise UserError(f"{workdir} holds no finished run: name workdirs of those.")
    return "test" if "test" in results else "validation", results


def _record(workdir: Path) -> Record:
    split, results = _results(workdir)
    default, config = json.loads(get_config().to_json()), results["config"]
    fields = {
        name: value
        for name, value in config.items()
        if name not in _NOT_OF_A_RECIPE and value != default[name]
    }
    seeds = results.get("seeds", [config["seed"]])
    each = results[split]
    values = {
        name: each[name]["each"] if len(seeds) > 1 else [each[name]]
        for name in ("accuracy", "loss")
    }
    runs = {str(seed): {name: values[name][i] for name in values} for i, seed in enumerate(seeds)}
    return {
        "fields": fields,
        "split": split,
        "train_split": config["train_split"],
        "eval_split": config["eval_split"],
        "steps": results["step"],
        "batch_size": config["batch_size"],
        "processor": _processor(results["device"]),
        "jax": results["versions"]["jax"],
        "date": datetime.date.today().isoformat(),
        "runs": runs,
    }


def _processor(device: dict[str, Any]) -> str:
    """What computed the steps, such as "AMD EPYC, 2 threads" or "NVIDIA H200"."""
    if device.get("platform", "cpu") == "cpu":
        return machine.processor_and_threads(device)
    return str(device["kind"])


def accuracies(record: Record) -> np.ndarray:
    """The accuracy of each seed, in %."""
    return np.array([100 * run["accuracy"] for run in record["runs"].values()])


def _mean_loss(record: Record) -> str:
    return f"{statistics.mean(run['loss'] for run in record['runs'].values()):.4f}"


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean, by Student's t, of what is between 0 and 100.

    Raises ValueError if there are fewer than two values.
    """
    if len(values) < 2:
        raise ValueError("one value tells nothing of how much they vary")
    middle, n = float(np.mean(values)), len(values)
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / n**0.5
    return max(middle - half, 0.0), min(middle + half, 100.0)


def _mean(values: np.ndarray) -> str:
    """The mean and, of several values, its interval."""
    if len(values) == 1:
        return f"{values.mean():.3f}"
    low, high = interval(values)
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def _check_tested(name: str, record: Record) -> None:
    """Raises UserError if a record is not of the whole test set, or leaves a seed out."""
    if record["eval_split"] != "test":
        raise UserError(f"{name} was evaluated on {record['eval_split']}, not on the test set.")
    seeds = sorted(map(int, record["runs"]))
    if seeds != list(range(len(seeds))):
        raise UserError(f"{name} has the seeds {seeds}, not all from 0: train those that lack.")


def recipes(records: dict[str, Record]) -> str:
    """The table of recipes on the test set, and below it every seed. Raises UserError."""
    lines = [
        "| recipe | steps x batch | seeds | test accuracy, %: mean (95 % interval) "
        "| standard deviation | seeds above 99.0 | processor, date |",
        "|---|---|---|---|---|---|---|",
    ]
    seeds = []
    for name, record in records.items():
        _check_tested(name, record)
        found = accuracies(record)
        cells = [
            name,
            f"{record['steps']:,} x {record['batch_size']}",
            str(len(found)),
            _mean(found),
            f"{found.std(ddof=1):.3f}" if len(found) > 1 else "",
            # Rounded, since 100 times 0.99 need not be 99.
            f"{int((found.round(4) > 99).sum())} of {len(found)}",
            f"{record['processor']}, {record['date']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
        seeds.append(f"- {name}: {', '.join(f'{each:.2f}' for each in found)}")
    return "\n".join([*lines, "", "Every seed, from 0:", "", *seeds])


def ablation(base: Record, others: dict[str, Record]) -> str:
    """The table of what each change costs on validation data, with the same seeds.

    Raises UserError if a change has a seed that the recipe lacks.
    """
    found = accuracies(base)
    lines = [
        "| what is changed | fields | seeds | validation accuracy, %: mean | worse by, points "
        "(standard error) | validation loss: mean |",
        "|---|---|---|---|---|---|",
        f"| nothing | | {len(found)} | {found.mean():.3f} | | {_mean_loss(base)} |",
    ]
    for name, record in others.items():
        if missing := record["runs"].keys() - base["runs"].keys():
            raise UserError(f"{name} has seeds that the recipe lacks: {sorted(missing, key=int)}.")
        default = json.loads(get_config().to_json())
        changed = [
            f"`{field}={record['fields'].get(field, default[field])!r}`"
            for field in default
            if record["fields"].get(field, default[field])
            != base["fields"].get(field, default[field])
        ]
        worse = accuracies(base | {"runs": {seed: base["runs"][seed] for seed in record["runs"]}})
        worse -= accuracies(record)
        error = f" ({worse.std(ddof=1) / len(worse) ** 0.5:.3f})" if len(worse) > 1 else ""
        lines.append(
            f"| {name} | {', '.join(changed)} | {len(worse)} | {accuracies(record).mean():.3f} "
            f"| {worse.mean():.3f}{error} | {_mean_loss(record)} |"
        )
    return "\n".join(lines)


def optimizers(records: dict[str, Record]) -> str:
    """The table of optimizers on the test set, the best first. Raises UserError."""
    lines = [
        "| optimizer | learning rate | seeds | test accuracy, %: mean (95 % interval) | each |",
        "|---|---|---|---|---|",
    ]
    for name, record in sorted(records.items(), key=lambda each: -accuracies(each[1]).mean()):
        _check_tested(name, record)
        found, fields = accuracies(record), json.loads(get_config().to_json()) | record["fields"]
        schedule = ", constant" if fields["schedule"] == "constant" else ""
        schedule += "" if fields["warmup_steps"] else ", no warm-up"
        lines.append(
            f"| `{fields['optimizer']}` | {fields['learning_rate']:g}{schedule} | {len(found)} "
            f"| {_mean(found)} | {', '.join(f'{each:.2f}' for each in found)} |"
        )
    return "\n".join(lines)


def _order(name: str) -> tuple[int, str]:
    """The key by which names of recipes are sorted."""
    return ORDER.index(name) if name in ORDER else len(ORDER), name


def tables(folder: Path = RESULTS) -> str:
    """All tables, in Markdown. Raises UserError if a file is not of `keep`, or of other runs."""
    records = {path.stem: _read(path) for path in folder.glob("*.json") if path.stem != "race"}
    parts = [recipes({name: records[name] for name in sorted(records, key=_order)})]
    for path in sorted(folder.glob("ablations/*/base.json"), key=lambda x: _order(x.parent.name)):
        others = {each.stem: _read(each) for each in sorted(path.parent.glob("*.json"))}
        base = others.pop("base")
        name = f"{path.parent.name}.py"
        if base["split"] != "validation":
            raise UserError(f"{path} was evaluated on the test set, not on validation data.")
        for other, record in others.items():
            _check_same_data(path.with_name(f"{other}.json"), record, base)
        size = f"{base['steps']:,} steps of {base['batch_size']}"
        parts.append(f"The cost of each change to `{name}`, in {size}:\n\n{ablation(base, others)}")
    if found := {path.stem: _read(path) for path in sorted(folder.glob("optimizers/*.json"))}:
        parts.append(f"Optimizers, one epoch each:\n\n{optimizers(found)}")
    if (race := folder / "race.json").exists():
        parts.append(whole_command.table(json.loads(race.read_text(encoding="utf-8"))))
    return "\n\n".join(parts)


def draw_curves(workdirs: Sequence[Path], path: Path) -> None:
    """Draws the error of each evaluation against the epochs: the mean over seeds, faintly each.

    Raises UserError if some were evaluated on the test set and others on validation data, or the
    seeds of one after different steps.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("--curves needs matplotlib: pip install 'jaxmnist[report]'.") from None
    from jaxmnist.trained.figures import LIGHT

    found = [_curves(workdir) for workdir in workdirs]
    if len({evaluated for evaluated, _, _ in found}) > 1:
        raise UserError(
            "some were evaluated on the test set, and others on validation data: draw them apart."
        )
    with rc_context(LIGHT.rc()):
        figure = Figure((7.0, 4.2), layout="constrained")
        axes = figure.subplots()
        for i, (name, (_, epochs, errors)) in enumerate(zip(_names(workdirs), found, strict=True)):
            color, marker = LIGHT.of_run(i), "o" if len(epochs) == 1 else None
            if len(errors) > 1:
                axes.plot(epochs, errors.T, marker=marker, color=color, alpha=0.3, linewidth=0.8)
            axes.plot(epochs, errors.mean(0), marker=marker, color=color, label=name)
        axes.set(xlabel="epochs", yscale="log", title=f"{found[0][0]} error, %")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.legend()
        figure.savefig(path, format="png", dpi=120)


def _names(workdirs: Sequence[Path]) -> list[str]:
    """What a legend calls workdirs: by their folders or, where two of these are alike, by paths."""
    names = [workdir.resolve().name for workdir in workdirs]
    return names if len(set(names)) == len(names) else list(map(str, workdirs))


def _curves(workdir: Path) -> tuple[str, np.ndarray, np.ndarray]:
    """What a run was evaluated on, after how many epochs, and the error in % of (seeds, epochs)."""
    runs = find_runs.seeds(workdir)
    (evaluated, results), *_ = map(_results, runs)  # Raises if one is not finished.
    lines = [
        [line for line in read_metrics(Workdir(run)) if line["split"] == evaluated] for run in runs
    ]
    steps = {tuple(line["step"] for line in each) for each in lines}
    if len(steps) > 1:
        raise UserError(f"{workdir}: its seeds were evaluated after different steps.")
    if not lines[0]:
        raise UserError(
            f"{workdir}: metrics.jsonl has no {evaluated} data: it was evaluated later."
        )
    epoch = results["dataset"]["num_examples"]["train"] / results["config"]["batch_size"]
    errors = [[100 * (1 - line["accuracy"]) for line in each] for each in lines]
    return evaluated, np.array(*steps) / epoch, np.array(errors)


def _run(args: argparse.Namespace) -> None:
    if args.keep:
        count = len(keep(args.workdirs, args.keep)["runs"])
        print(f"{args.keep} has {count} seed{'s' * (count > 1)}")
    if args.curves:
        args.curves.parent.mkdir(parents=True, exist_ok=True)
        draw_curves(args.workdirs, args.curves)
        print(f"{args.curves} has the curves of {', '.join(map(str, args.workdirs))}")
    if not args.workdirs:
        print(tables())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Without arguments it prints the tables."
    )
    parser.add_argument("--keep", type=Path, help="the file for the record of the workdirs")
    parser.add_argument("--curves", type=Path, help="a PNG file for the workdirs' curves")
    parser.add_argument("workdirs", type=Path, nargs="*")
    args = parser.parse_args(argv)
    if bool(args.keep or args.curves) != bool(args.workdirs):
        parser.error("give --keep or --curves with workdirs, or none of them")
    return cli.run(lambda: _run(args))


if __name__ == "__main__":
    sys.exit(main())
