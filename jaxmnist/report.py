"""The command that writes what a model learned as one page, report.html, and its figures."""

import base64
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmnist.cli import Parser, run
from jaxmnist.errors import UserError
from jaxmnist.record.screen import Screen

if TYPE_CHECKING:
    from jaxmnist.trained.analysis import Analysis

_SHOWN = 24  # Mistakes, until a cell is chosen: whole rows of four and of six.
_TEMPLATE = Path(__file__).with_name("report.html")


def parser(verb: str | None = None) -> Parser:
    """The command's flags; `verb` is what it is called by."""
    parser = Parser(
        verb,
        "report",
        description="Write what a model learned as one page, report.html, and its figures.",
    )
    parser.add_workdir()
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="DIR",
        help="workdirs of runs to compare it with",
    )
    parser.add_argument(
        "--output", help="the page; its figures lie beside it. Default: report.html in the workdir"
    )
    parser.add_argument("--data_dir", help="tfds's folder; default: the runs'")
    return parser


def main(argv: list[str] | None = None, verb: str | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = parser(verb).parse_args(argv)
    return run(lambda: _report([args.workdir, *args.compare], args.output, args.data_dir))


def _report(workdirs: list[str], output_file: str | None, data_dir: str | None) -> None:
    with Screen() as screen:
        print(_write(workdirs, output_file, data_dir, screen))


def _write(
    workdirs: list[str], output_file: str | None, data_dir: str | None, screen: Screen
) -> str:
    """Writes the page and its figures; returns what to say of them."""
    try:
        import jinja2
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise UserError(f"the report needs {e.name}: pip install 'jaxmnist[report]'.") from None
    # Imported here, so that a mistyped flag is told of at once.
    from jaxmnist.devices import tuning
    from jaxmnist.files import local_path, write_bytes, write_text
    from jaxmnist.trained import figures, mistakes, themes

    output = local_path(workdirs[0], "--workdir") / "report.html"
    if output_file is not None:
        output = local_path(output_file, "--output", as_pattern=False)
    workdirs = _comparable(workdirs)
    tuning.cache_compilations()
    with screen.phase("evaluating"):
        runs = [analyse(workdir, data_dir) for workdir in workdirs]
    first = runs[0]
    with screen.phase("drawing"):
        drawn = {theme: figures.draw(runs, theme) for theme in (themes.LIGHT, themes.DARK)}
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        runs=[(each, themes.LIGHT.of_run(i), themes.DARK.of_run(i)) for i, each in enumerate(runs)],
        light=_as_base64(drawn[themes.LIGHT]),
        dark=_as_base64(drawn[themes.DARK]),
        shades=(themes.LIGHT, themes.DARK),
        **_words(runs),
        **_mistakes(first),
    )
    beside = drawn[themes.LIGHT] | {
        "confusion": figures.confusion(first, themes.LIGHT),
        "mistakes": mistakes.grid(
            *(first.split, first.classes, first.confidence, first.class_names), locate=first.place
        ),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    for name in {*beside, *figures.OVER_TIME}:
        file = output.with_name(f"{output.stem}-{name}.png")
        if name in beside:
            write_bytes(file, beside[name])
        else:  # Of an earlier report, which laid more runs side by side.
            file.unlink(missing_ok=True)
    write_text(output, page)
    return (
        f"{output} ({len(page) / 1e6:.1f} MB), and {output.stem}-*.png beside it: {first.dataset} "
        f"{first.config.eval_split} accuracy {first.accuracy:.4f}, expected calibration error "
        f"{first.bins.expected_calibration_error:.4f}"
    )


def _comparable(workdirs: list[str]) -> list[str]:
    """The workdirs, each once.

    Raises:
      UserError: one holds no run, or one that was evaluated on other examples than the first's.
    """
    from jaxmnist.data import datasets
    from jaxmnist.files import local_path
    from jaxmnist.record.workdir import Workdir
    from jaxmnist.trained import inference

    each_once = {local_path(each, "workdir").resolve(): each for each in reversed(workdirs)}
    found = []
    for workdir in reversed(each_once.values()):
        record = Workdir(local_path(workdir, "workdir"))
        config = record.load_config()
        if config is None or config.num_seeds > 1 or not record.checkpoint_steps():
            inference.load(workdir)  # It says why it cannot.
        else:
            split = datasets.slice_of(config.dataset, config.eval_split)
            found.append((workdir, config.dataset, config.eval_split, split))
    for name, dataset, words, split in found[1:]:
        first_name, first_dataset, first_words, first_split = found[0]
        if (dataset, split) != (first_dataset, first_split):
            raise UserError(
                f"{name} was evaluated on {words} of {dataset}, {first_name} on {first_words} of "
                f"{first_dataset}: compare runs that were evaluated on the same examples."
            )
    return [name for name, *_ in found]


def analyse(workdir: str | Path, data_dir: str | None = None) -> "Analysis":
    """A run's newest model on its evaluation split; raises UserError as inference.load does."""
    from jaxmnist.files import local_path
    from jaxmnist.record import metrics
    from jaxmnist.record.workdir import Workdir
    from jaxmnist.trained import inference
    from jaxmnist.trained.analysis import Analysis

    record = Workdir(local_path(workdir, "workdir"))
    model = inference.load(workdir)
    dataset = inference.load_evaluation(model.config, data_dir)
    (split,) = dataset.splits
    results = record.load_results()
    return Analysis(
        name=str(workdir),
        config=model.config,
        dataset=dataset.name,
        step=model.step,
        starts=[s for s in record.load_run().get("starts", []) if s["step"] < model.step],
        records=[r for r in metrics.read_metrics(record) if r["step"] <= model.step],
        results=results if results and results["step"] == model.step else None,
        class_names=model.class_names,
        split=split.upright(model.preparation),
        probabilities=model.probabilities(split.images),
        kernel=model.params["Conv_0"]["kernel"],
    )


def _as_base64(pictures: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(data).decode() for name, data in pictures.items()}


def _words(runs: "list[Analysis]") -> dict[str, Any]:
    """What the page says beside its figures."""
    from jaxmnist.data import datasets
    from jaxmnist.record.results import wilson_interval
    from jaxmnist.trained import figures

    first = runs[0]
    low, high = wilson_interval(np.array(first.accuracy), np.array(len(first.split)))
    facts = [_facts(each) for each in runs]
    trained_on = datasets.slice_of(first.config.dataset, first.config.train_split)
    of_sample = sum(end - start for _, start, end in trained_on)
    is_sample = first.dataset == datasets.SAMPLE
    started = _time(first.starts[0]) if first.starts else ""
    return {
        "run": first,
        "introduction": (
            f"{first.dataset}: {len(first.split):,} examples of its {first.config.eval_split} "
            f"split, after {first.step:,} training steps of {first.config.batch_size}"
            f"{f'; started {started}' if started else ''}."
        ),
        "sample": f"Trained on {of_sample:,} sample digits, not on MNIST." if is_sample else "",
        "numbers": list(facts[0].items()),
        "interval": f"95 % interval {100 * low:.2f} to {100 * high:.2f}",
        "first_climb": (
            f"The axis leaves out what is below {figures.lowest_accuracy(runs):.2f}."
            if any(r["accuracy"] < figures.lowest_accuracy(runs) for x in runs for r in x.records)
            else "Training: the logged batches, before their updates and with dropout."
        ),
        "comparison": _comparison(runs, facts) if len(runs) > 1 else [],
        "of_first": " Of the first run." if len(runs) > 1 else "",
        "layers": _layers(first),
        "starts": _starts(first),
        "config": _config(first),
        "environment": _environment(first),
    }


def _mistakes(analysis: "Analysis") -> dict[str, Any]:
    """The confusion matrix, and the pictures of its cells."""
    from jaxmnist.trained import mistakes

    said = analysis.split.labels, analysis.classes, analysis.confidence
    kept = mistakes.of_each_cell(*said)
    counts = analysis.confusion.tolist()
    wrong = [n for i, row in enumerate(counts) for j, n in enumerate(row) if i != j]
    largest = max(2, *wrong)
    return {
        # Of each cell the count, and its shade in percent of the darkest.
        "cells": [
            [(n, round(100 * math.log(max(n, 1)) / math.log(largest))) for n in row]
            for row in counts
        ],
        "sprite": base64.b64encode(mistakes.sprite(analysis.split.images[kept])).decode(),
        "columns": mistakes.SPRITE_COLUMNS,
        "count": _SHOWN,
        "kept": [
            {
                "label": int(analysis.split.labels[i]),
                "said": int(analysis.classes[i]),
                "confidence": f"{100 * analysis.confidence[i]:.1f} %",
                "place": analysis.place(int(i)),
            }
            for i in kept
        ],
    }


def _time(start: dict[str, Any]) -> str:
    """When a process started, to the minute; "" where an older workdir does not tell."""
    return start["time"][:16].replace("T", " ") + " UTC" if "time" in start else ""


def _starts(analysis: "Analysis") -> list[tuple[str, str, str]]:
    """When the run was started, and by which command, as far as it was recorded."""
    rows = [
        (
            f"continued from step {start['step']:,}" if start["step"] else "started",
            _time(start),
            start.get("command", ""),
        )
        for start in analysis.starts
    ]
    return [row for row in rows if any(row[1:])]


def _layers(analysis: "Analysis") -> list[tuple[str, str, str]]:
    """The network's layers, and the number of all their parameters."""
    from jaxmnist.models import create_model
    from jaxmnist.record.network import layer_table

    layers = layer_table(create_model(analysis.config, len(analysis.class_names)))
    rows = [
        (layer.name, "x".join(map(str, layer.shape)), f"{layer.parameters:,}") for layer in layers
    ]
    return [*rows, ("all", "", f"{sum(layer.parameters for layer in layers):,}")]


def _facts(analysis: "Analysis") -> dict[str, str]:
    seconds = max((r["seconds"] for r in analysis.records), default=0)
    return {
        "accuracy": f"{100 * analysis.accuracy:.2f} %",
        "mistakes": f"{analysis.num_mistakes:,} of {len(analysis.split):,}",
        "loss (nats)": f"{analysis.loss:.4f}",
        "calibration error": f"{analysis.bins.expected_calibration_error:.4f}",
        "training time": f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s",
    }


def _comparison(
    runs: "list[Analysis]", facts: list[dict[str, str]]
) -> list[tuple[str, list[str], bool]]:
    """Rows: a name, its value in each run, and whether it is a field that differs."""
    rows = [(name, [each[name] for each in facts], False) for name in facts[0]]
    rows.append(("step", [f"{each.step:,}" for each in runs], False))
    started = [_time(each.starts[0]) if each.starts else "" for each in runs]
    rows.append(("started", [time or "not recorded" for time in started], False))
    shas = [(each.results or {}).get("params_sha256", "not finished")[:12] for each in runs]
    rows.append(("parameters (SHA-256)", shas, False))
    for field in runs[0].config:
        values = [str(each.config[field]) for each in runs]
        if len(set(values)) > 1:
            rows.append((field, values, True))
    return rows


def _config(analysis: "Analysis") -> list[tuple[str, Any, bool]]:
    from jaxmnist.config import get_config

    default = get_config()
    return [
        (field, analysis.config[field], analysis.config[field] != default[field])
        for field in analysis.config
    ]


def _environment(analysis: "Analysis") -> list[tuple[str, Any, bool]]:
    results = analysis.results
    if results is None:
        return [("not recorded", "the run has not finished, or went on since", False)]
    peak = results["peak_memory_bytes"]
    found = {
        **results["device"],
        **results["versions"],
        "total time": f"{results['seconds']['total']:.0f} s",
        "peak memory": f"{peak / 2**20:,.0f} MiB" if peak else "unknown",
        "num_parameters": f"{results['num_parameters']:,}",
        "params_sha256": results["params_sha256"],
    }
    return [(name, value, False) for name, value in found.items()]


if __name__ == "__main__":
    sys.exit(main())
