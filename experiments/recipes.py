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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from experiments.benchmarks import whole_command
from jaxmnist.config import FREE_TO_CHANGE, get_config
from jaxmnist.devices import machine
from jaxmnist.record.metrics import read_metrics
from jaxmnist.record.workdir import Workdir

RESULTS = Path(__file__).parent / "results"
ORDER = ("best", "plain", "default", "tutorial", "quick", "fastest", "fashion")
# What changes no training, and the seed.
_NOT_OF_A_RECIPE = {"seed", "train_split", *FREE_TO_CHANGE} - {"num_steps"}
Record = dict[str, Any]


def keep(workdirs: Sequence[Path], path: Path) -> Record:
    """Writes a record of the runs of workdirs, with the seeds that `path` has already.

    Raises ValueError if they are not of one config.
    """
    found = [json.loads((each / "results.json").read_text(encoding="utf-8")) for each in workdirs]
    records = [json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
    records += map(_record, found)
    first = records[0]
    for each in records[1:]:
        for what in ("split", "fields"):
            if each[what] != first[what]:
                raise ValueError(f"{what}: {each[what]} in one run, and {first[what]} in another")
    runs = {seed: run for each in records for seed, run in each["runs"].items()}
    record = records[-1] | {"runs": dict(sorted(runs.items(), key=lambda item: int(item[0])))}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _record(results: dict[str, Any]) -> Record:
    default, config = json.loads(get_config().to_json()), results["config"]
    fields = {
        name: value
        for name, value in config.items()
        if name not in _NOT_OF_A_RECIPE and value != default[name]
    }
    split = "test" if "test" in results else "validation"
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


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean, by Student's t, of what is between 0 and 100."""
    middle, n = float(np.mean(values)), len(values)
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / n**0.5 if n > 1 else 0.0
    return max(middle - half, 0.0), min(middle + half, 100.0)


def recipes(records: dict[str, Record]) -> str:
    """The table of recipes on the test set, and below it every seed."""
    lines = [
        "| recipe | steps x batch | seeds | test accuracy, %: mean (95 % interval) | deviation "
        "| seeds above 99.0 | processor, date |",
        "|---|---|---|---|---|---|---|",
    ]
    seeds = []
    for name, record in records.items():
        found = accuracies(record)
        low, high = interval(found)
        deviation = f"{found.std(ddof=1):.3f}" if len(found) > 1 else ""
        within = f" ({low:.3f} to {high:.3f})" if len(found) > 1 else ""
        cells = [
            name,
            f"{record['steps']:,} x {record['batch_size']}",
            str(len(found)),
            f"{found.mean():.3f}{within}",
            deviation,
            # Rounded, since 100 times 0.99 need not be 99.
            f"{int((found.round(4) > 99).sum())} of {len(found)}",
            f"{record['processor']}, {record['date']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
        seeds.append(f"- {name}: {', '.join(f'{each:.2f}' for each in found)}")
    return "\n".join([*lines, "", "Every seed, from 0:", "", *seeds])


def ablation(base: Record, others: dict[str, Record]) -> str:
    """The table of what each change costs on validation data, with the same seeds.

    Raises ValueError if a change has a seed that the recipe lacks.
    """
    found = accuracies(base)
    lines = [
        "| what is changed | fields | seeds | validation accuracy, %: mean | worse by, points "
        "(standard error) |",
        "|---|---|---|---|---|",
        f"| nothing | | {len(found)} | {found.mean():.3f} | |",
    ]
    for name, record in others.items():
        if missing := record["runs"].keys() - base["runs"].keys():
            raise ValueError(f"{name} has seeds that the recipe lacks: {sorted(missing, key=int)}")
        default = json.loads(get_config().to_json())
        changed = [
            f"`{field}={record['fields'].get(field, default[field])!r}`"
            for field in default
            if record["fields"].get(field, default[field])
            != base["fields"].get(field, default[field])
        ]
        worse = accuracies(base | {"runs": {seed: base["runs"][seed] for seed in record["runs"]}})
        worse -= accuracies(record)
        error = worse.std(ddof=1) / len(worse) ** 0.5
        lines.append(
            f"| {name} | {', '.join(changed)} | {len(worse)} | {accuracies(record).mean():.3f} "
            f"| {worse.mean():.3f} ({error:.3f}) |"
        )
    return "\n".join(lines)


def optimizers(records: dict[str, Record]) -> str:
    """The table of optimizers on the test set, the best first."""
    lines = [
        "| optimizer | learning rate | seeds | test accuracy, %: mean (95 % interval) | each |",
        "|---|---|---|---|---|",
    ]
    for record in sorted(records.values(), key=lambda each: -accuracies(each).mean()):
        found, fields = accuracies(record), json.loads(get_config().to_json()) | record["fields"]
        low, high = interval(found)
        schedule = ", constant" if fields["schedule"] == "constant" else ""
        schedule += "" if fields["warmup_steps"] else ", no warm-up"
        lines.append(
            f"| `{fields['optimizer']}` | {fields['learning_rate']:g}{schedule} | {len(found)} "
            f"| {found.mean():.3f} ({low:.3f} to {high:.3f}) "
            f"| {', '.join(f'{each:.2f}' for each in found)} |"
        )
    return "\n".join(lines)


def tables(folder: Path = RESULTS) -> str:
    """All tables, in Markdown."""
    records = {path.stem: _read(path) for path in folder.glob("*.json") if path.stem != "race"}
    order = sorted(records, key=lambda name: (ORDER.index(name) if name in ORDER else 99, name))
    parts = [recipes({name: records[name] for name in order})]
    for path in sorted(folder.glob("ablations/*/base.json"), reverse=True):
        others = {each.stem: _read(each) for each in sorted(path.parent.glob("*.json"))}
        base = others.pop("base")
        parts.append(f"What changes of `{path.parent.name}.py` cost:\n\n{ablation(base, others)}")
    if found := {path.stem: _read(path) for path in sorted(folder.glob("optimizers/*.json"))}:
        parts.append(f"Optimizers, one epoch each:\n\n{optimizers(found)}")
    if (folder / "race.json").exists():
        parts.append(whole_command.table(_read(folder / "race.json")))
    return "\n\n".join(parts)


def _read(path: Path) -> Record:
    return json.loads(path.read_text(encoding="utf-8"))


def draw_curves(workdirs: Sequence[Path], path: Path) -> None:
    """Draws the error of each evaluation against the epochs: the mean over seeds, faintly each.

    Raises ValueError if some were evaluated on the test set and others on validation data, or the
    seeds of one after different steps.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from jaxmnist.trained.figures import LIGHT

    found = [_curves(workdir) for workdir in workdirs]
    if len({evaluated for evaluated, _, _ in found}) > 1:
        raise ValueError("some were evaluated on the test set, and others on validation data")
    with rc_context(LIGHT.rc()):
        figure = Figure((7.0, 4.2), layout="constrained")
        axes = figure.subplots()
        for i, (workdir, (_, epochs, errors)) in enumerate(zip(workdirs, found, strict=True)):
            color = LIGHT.of_run(i)
            if len(errors) > 1:
                axes.plot(epochs, errors.T, color=color, alpha=0.3, linewidth=0.8)
            axes.plot(epochs, errors.mean(0), color=color, label=workdir.resolve().name)
        axes.set(xlabel="epochs", yscale="log", title=f"{found[0][0]} error, %")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.legend()
        figure.savefig(path, dpi=120)


def _curves(path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    """What a run was evaluated on, after how many epochs, and the error in % of (seeds, epochs)."""
    runs = sorted(path.glob("seed-*")) or [path]
    results = json.loads((runs[0] / "results.json").read_text(encoding="utf-8"))
    evaluated = "test" if "test" in results else "validation"
    lines = [
        [line for line in read_metrics(Workdir(run)) if line["split"] == evaluated] for run in runs
    ]
    steps = {tuple(line["step"] for line in each) for each in lines}
    if len(steps) > 1:
        raise ValueError(f"{path}: its seeds were evaluated after different steps")
    epoch = results["dataset"]["num_examples"]["train"] / results["config"]["batch_size"]
    errors = [[100 * (1 - line["accuracy"]) for line in each] for each in lines]
    return evaluated, np.array(*steps) / epoch, np.array(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="the file for the record of the workdirs")
    parser.add_argument("--curves", type=Path, help="a PNG file for the workdirs' curves")
    parser.add_argument("workdirs", type=Path, nargs="*")
    args = parser.parse_args()
    if bool(args.keep or args.curves) != bool(args.workdirs):
        parser.error("give --keep or --curves with workdirs, or none of them")
    if args.workdirs:
        try:
            if args.keep:
                keep(args.workdirs, args.keep)
            if args.curves:
                draw_curves(args.workdirs, args.curves)
        except OSError as e:
            parser.error(f"{e.filename}: {e.strerror}; give workdirs of runs that are finished")
        except ValueError as e:
            parser.error(str(e))
    else:
        print(tables())


if __name__ == "__main__":
    main()
