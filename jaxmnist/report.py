"""The command that writes what a model learned as one page, report.html, and its figures."""

import base64
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmnist.cli import Parser, run
from jaxmnist.errors import UserError
from jaxmnist.record.screen import Screen

if TYPE_CHECKING:
    from jaxmnist.trained.analysis import Analysis

_SHOWN = 24  # Mistakes that are shown until a cell is chosen: whole rows of four and of six.
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
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise UserError(f"the report needs {e.name}: pip install 'jaxmnist[report]'.") from None
    # Imported here, so that a mistyped flag is told of at once.
    from jaxmnist.devices import tuning
    from jaxmnist.files import local_path

    output = local_path(workdirs[0], "--workdir") / "report.html"
    if output_file is not None:
        output = local_path(output_file, "--output", as_pattern=False)
    workdirs = _comparable(workdirs)
    tuning.cache_compilations()
    with Screen() as screen:
        with screen.phase("evaluating"):
            runs = [analyse(workdir, data_dir) for workdir in workdirs]
        with screen.phase("drawing"):
            said = write(runs, output)
    print(said)


def write(runs: "list[Analysis]", output: Path) -> str:
    """Writes the page and, beside it, its figures; returns a sentence that says so."""
    import jinja2

    from jaxmnist.files import write_bytes, write_text
    from jaxmnist.trained import figures, mistakes

    first, light, dark = runs[0], figures.LIGHT, figures.DARK
    on_light, on_dark = figures.draw(runs, light), figures.draw(runs, dark)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        runs=[(run, light.of_run(i), dark.of_run(i)) for i, run in enumerate(runs)],
        light={name: _base64(data) for name, data in on_light.items()},
        dark={name: _base64(data) for name, data in on_dark.items()},
        shades=(light, dark),
        **_words(runs),
        **_mistakes(first),
    )
    beside = on_light | {
        "confusion": figures.png(light, figures.confusion, first),
        "mistakes": mistakes.grid(
            first.split, first.classes, first.confidence, first.class_names, locate=first.place
        ),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    for name in {*beside, *figures.OPTIONAL}:
        file = output.with_name(f"{output.stem}-{name}.png")
        if name in beside:
            write_bytes(file, beside[name])
        else:  # An earlier report may have left it.
            file.unlink(missing_ok=True)
    write_text(output, page)
    return (
        f"{output} ({len(page) / 1e6:.1f} MB), and {output.stem}-*.png beside it: {first.dataset} "
        f"{first.config.eval_split} accuracy {first.accuracy:.4f}, expected calibration error "
        f"{first.bins.expected_calibration_error:.4f}"
    )


def _comparable(workdirs: list[str]) -> list[str]:
    """The workdirs, without those that are named twice.

    Raises:
      UserError: a workdir holds no run, or its run was evaluated on other examples than the first.
    """
    from jaxmnist.data import datasets
    from jaxmnist.files import local_path
    from jaxmnist.record.workdir import Workdir
    from jaxmnist.trained import inference

    once: dict[Path, str] = {}
    for workdir in workdirs:
        once.setdefault(local_path(workdir, "workdir").resolve(), workdir)
    first = None
    for workdir in once.values():
        record = Workdir(local_path(workdir, "workdir"))
        config = record.load_config()
        if config is None or config.num_seeds > 1 or not record.checkpoint_steps():
            inference.load(workdir)  # Raises the UserError that says why it cannot be loaded.
        else:
            info = record.dataset_info(config)
            examples = config.dataset, datasets.slice_of(info, config.eval_split)
            words = f"{config.eval_split} of {config.dataset}"
            first = first or (examples, words)
            if examples != first[0]:
                raise UserError(
                    f"{workdir} was evaluated on {words}, {workdirs[0]} on {first[1]}: compare "
                    "runs that were evaluated on the same examples."
                )
    return list(once.values())


def analyse(workdir: str | Path, data_dir: str | None = None) -> "Analysis":
    """A run's newest model, asked about its evaluation split.

    Args:
      workdir: the folder of the run.
      data_dir: tfds's folder, if not the run's own.

    Raises:
      UserError: there is no such run, or its data are not there.
    """
    from jaxmnist.files import local_path
    from jaxmnist.record import metrics
    from jaxmnist.record.network import fingerprint, layer_table
    from jaxmnist.record.workdir import Workdir
    from jaxmnist.trained import inference
    from jaxmnist.trained.analysis import Analysis

    record = Workdir(local_path(workdir, "workdir"))
    model = inference.load(workdir)
    dataset = inference.load_evaluation(model.config, data_dir, model.class_names)
    (split,) = dataset.splits
    results = record.load_results()
    if results and results.get("best", {}).get("step") == model.step:
        results |= {"step": model.step, "params_sha256": fingerprint(model.trained_params)}
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
        kernel=_first_kernel(model.params),
        layers=layer_table(model.network, model.image_shape),
    )


def _first_kernel(params: dict[str, Any]) -> Any:
    """The kernel of the first layer if it can be shown, else None: see Analysis."""
    layer = params.get("Conv_0")
    kernel = layer.get("kernel") if isinstance(layer, dict) else None
    can_be_shown = kernel is not None and kernel.ndim == 4 and kernel.shape[2] in (1, 3)
    return kernel if can_be_shown else None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _words(runs: "list[Analysis]") -> dict[str, Any]:
    """What the page says, beside its figures, as values of the template."""
    import numpy as np

    from jaxmnist.config import get_config
    from jaxmnist.data import datasets
    from jaxmnist.record.results import wilson_interval
    from jaxmnist.trained import figures

    first = runs[0]
    low, high = wilson_interval(np.array(first.accuracy), np.array(len(first.split)))
    facts = [_facts(each) for each in runs]
    sample = ""
    if first.dataset == datasets.SAMPLE:
        trained_on = datasets.slice_of(first.config.dataset, first.config.train_split)
        of_sample = sum(end - start for _, start, end in trained_on)
        sample = f"Trained on {of_sample:,} sample digits, not on MNIST."
    started = _time(first.starts[0]) if first.starts else ""
    return {
        "run": first,
        "introduction": (
            f"{first.dataset}: {len(first.split):,} examples of its {first.config.eval_split} "
            f"split, after {first.step:,} training steps of {first.config.batch_size}"
            f"{f'; started {started}' if started else ''}."
        ),
        "sample": sample,
        "numbers": list(facts[0].items()),
        "interval": f"95 % interval {100 * low:.2f} to {100 * high:.2f}",
        "first_climb": (
            f"The axis leaves out what is below {figures.lowest_accuracy(runs):.2f}."
            if any(r["accuracy"] < figures.lowest_accuracy(runs) for x in runs for r in x.records)
            else "Training: the logged batches, before their updates and with dropout."
        ),
        "comparison": _comparison(runs, facts) if len(runs) > 1 else [],
        "of_first": " Of the first run." if len(runs) > 1 else "",
        "of_filters": _of_filters(first.kernel),
        "layers": first.layers,
        "starts": _starts(first),
        "default": get_config(),
        "environment": _environment(first),
    }


def _mistakes(analysis: "Analysis") -> dict[str, Any]:
    """The confusion matrix and the pictures of its cells, as values of the template."""
    import numpy as np

    from jaxmnist.trained import mistakes

    said = analysis.split.labels, analysis.classes, analysis.confidence
    shape, shown = analysis.split.images.shape[1:], analysis.shown_classes
    kept = mistakes.of_each_cell(*said, most=mistakes.most_kept(shape))
    wrong = analysis.confusion * (1 - np.eye(len(analysis.class_names), dtype=int))
    largest = max(2, int(wrong.max()))
    return {
        # Of the classes that are shown the count of each cell, and its shade in percent of the
        # darkest.
        "shown": shown.tolist(),
        "cells": [
            [(n, round(100 * math.log(max(n, 1)) / math.log(largest))) for n in row]
            for row in analysis.confusion[np.ix_(shown, shown)].tolist()
        ],
        "sprite": _base64(mistakes.sprite(analysis.split.images[kept])),
        "tile": mistakes.shown_size(shape, mistakes.TILE),
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


def _of_filters(kernel: Any) -> str:
    """What the colours of the filters mean."""
    if kernel is not None and kernel.shape[2] == 3:
        return "Grey is nothing: what has a filter's colours adds to its feature."
    return "Ink adds to a feature where the filter is red, and subtracts where it is blue."


def _time(start: dict[str, Any]) -> str:
    """When a process started, to the minute; "" where an older workdir does not say."""
    return start["time"][:16].replace("T", " ") + " UTC" if "time" in start else ""


def _starts(analysis: "Analysis") -> list[tuple[str, str, str]]:
    """When the run was started or continued and by which command, where it was recorded."""
    rows = [
        (
            f"continued from step {start['step']:,}" if start["step"] else "started",
            _time(start),
            start.get("command", ""),
        )
        for start in analysis.starts
    ]
    return [row for row in rows if any(row[1:])]


def _facts(analysis: "Analysis") -> dict[str, str]:
    """The numbers at the top of the page, by their names."""
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
    """The table of several runs: a name, its value in each, and whether it is a config field."""
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


def _environment(analysis: "Analysis") -> dict[str, Any]:
    """Where and how the run was trained."""
    results = analysis.results
    if results is None:
        return {"not recorded": "the run has not finished, or went on since"}
    peak = results["peak_memory_bytes"]
    return {
        **results["device"],
        **results["versions"],
        "total time": f"{results['seconds']['total']:.0f} s",
        "peak memory": f"{peak / 2**20:,.0f} MiB" if peak else "unknown",
        "num_parameters": f"{results['num_parameters']:,}",
        "params_sha256": results["params_sha256"],
    }


if __name__ == "__main__":
    sys.exit(main())
