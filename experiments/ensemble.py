"""Several seeds of a recipe, averaged: from training to the figure, and as one ONNX file.

python -m experiments.ensemble --workdir=DIR --config=experiments/best.py --config.num_seeds=5

trains the seeds in DIR, except those that have finished there, and evaluates the mean of their
probabilities. That is the figure: each test image is seen once, as it is. The printed table has one
more row, with help at test time: each image also moved by one pixel, up, down, left and right.
DIR/ensemble.json has both, and DIR/ensemble.onnx is the average as one network. --pictures=FOLDER
draws the images that the average gets wrong, most confidently first: of the evaluation split
(mistakes.png), and of the training split, where some have a wrong label (mislabelled.png).
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmnist.cli import Parser, run
from jaxmnist.errors import UserError, say, warn
from jaxmnist.record.screen import Screen

if TYPE_CHECKING:
    import numpy as np
    from ml_collections import ConfigDict

    from jaxmnist.data.datasets import Dataset
    from jaxmnist.trained.inference import Model

BEST = Path(__file__).with_name("best.py")
NUM_SEEDS = 5
PICTURES = "mistakes.png", "mislabelled.png"


def parser() -> Parser:
    """The command's flags."""
    parser = Parser(
        None,
        "ensemble",
        description="Train several seeds of a recipe, and evaluate and export their average. The\n"
        "same command resumes it; of finished seeds it is evaluated at once.",
    )
    parser.prog = "python -m experiments.ensemble"
    parser.add_argument("--workdir", required=True, help="the folder of the seeds' runs")
    parser.add_argument(
        "--config",
        help="an experiment file; default: the workdir's config, and of a new one "
        "experiments/best.py",
    )
    parser.add_argument("--pictures", help="a folder for pictures of what the average gets wrong")
    parser.add_trust_code()
    parser.add_config("config")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = parser().parse_args(argv)
    return run(lambda: _command(args))


def _command(args: argparse.Namespace) -> None:
    with Screen() as screen:
        # Imported here, so that a mistyped flag is told of at once, and while the screen moves.
        from jaxmnist import checks, export, sweep, train
        from jaxmnist.data.datasets import eval_name
        from jaxmnist.devices import tuning
        from jaxmnist.files import local_path, write_json
        from jaxmnist.record.workdir import Workdir
        from jaxmnist.trained import ensemble, inference

        tuning.keep_freed_memory()
        tuning.cache_compilations()
        workdir = Workdir(local_path(args.workdir, "--workdir"))
        config = None if args.config else workdir.load_config()
        config = config or checks.load(args.config or BEST)
        checks.check_types(config)
        if config.num_seeds == 1:
            config.num_seeds = NUM_SEEDS
        checks.override(config, args.config_fields)
        if config.num_seeds == 1:
            raise UserError("num_seeds=1 is not allowed: an average needs at least 2 seeds.")
        if args.pictures is not None:
            folder = local_path(args.pictures, "--pictures", as_pattern=False)
            folder.mkdir(parents=True, exist_ok=True)  # What is wrong with it is told at once.
        train.train_and_evaluate(config, workdir.path, screen=screen)
    config = workdir.load_config()  # It names the dataset that was found.
    with screen, screen.phase("evaluating the average"):
        models = ensemble.load(workdir.path)
        dataset = inference.load_evaluation(config, class_names=models[0].class_names)
        record = evaluate(models, config, dataset)
        write_json(workdir.path / "ensemble.json", record)
    say(sweep.table(rows(record, eval_name(config)), eval_name(config)))
    file = workdir.path / "ensemble.onnx"
    _remove_of_others(file, record)
    try:
        with screen, screen.phase("exporting"):
            of_float32 = ensemble.load(workdir.path, dtype="float32")
            say(export.write(of_float32, "onnx", file, dataset))
    except export.NotInOnnx as e:
        stays = " stays as it is" if file.exists() else " is left out"
        warn(f"{file.name}{stays}, since {e}")
        say(f"ensemble.json is in {workdir.path}")
    if args.pictures is not None:
        with screen, screen.phase("drawing"):
            drawn = draw(models, config, folder)
        say(f"{folder} has {' and '.join(drawn)}")


def _remove_of_others(file: Path, record: dict[str, Any]) -> None:
    """Deletes an average of other parameters than those of ensemble.json, and what is beside it."""
    beside = file.with_name(f"{file.name}.json")
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
        same = all(about[name] == record[name] for name in ("params_sha256", "evaluated_on"))
    except (OSError, ValueError, LookupError, TypeError):
        same = False
    if not same:
        for old in (file, beside):
            old.unlink(missing_ok=True)


def evaluate(models: "Sequence[Model]", config: "ConfigDict", dataset: "Dataset") -> dict[str, Any]:
    """What ensemble.json holds of the seeds' models, evaluated on a split.

    Like results.json it has the mean, the standard deviation and each value of the single seeds'
    accuracy and loss. "average" and "average_with_shifts" have those of the averaged probabilities.
    """
    import numpy as np

    from jaxmnist import seeds
    from jaxmnist.data.datasets import eval_name
    from jaxmnist.devices import machine
    from jaxmnist.record.checkpoints import fingerprint
    from jaxmnist.trained import ensemble

    (split,) = dataset.splits
    each = [model.probabilities(split.images) for model in models]
    average = np.mean(each, axis=0)
    views = [average, *(ensemble.probabilities(models, moved) for moved in shifts(split.images))]
    single = [metrics(probabilities, split.labels) for probabilities in each]
    return {
        "evaluated_on": {
            "dataset": dataset.name,
            "split": config.eval_split,
            "num_examples": len(split),
        },
        "step": max(model.step for model in models),
        "seeds": [model.config.seed for model in models],
        eval_name(config): {
            name: seeds.spread([one[name] for one in single]) for name in single[0]
        },
        "average": metrics(average, split.labels),
        "average_with_shifts": metrics(np.mean(views, axis=0), split.labels),
        "params_sha256": [fingerprint(model.trained_params) for model in models],
        "device": machine.describe(),
        "versions": machine.versions(),
        "options": machine.options(),
        "config": json.loads(config.to_json()),  # As it is read back.
    }


def draw(models: "Sequence[Model]", config: "ConfigDict", folder: Path) -> list[str]:
    """Pictures of what the models' average gets wrong of the two splits of a config; their names.

    In brackets is of how many mistakes of the split each shows the most confident.
    """
    from jaxmnist.data import datasets
    from jaxmnist.files import write_bytes
    from jaxmnist.trained import ensemble, mistakes

    dataset = datasets.read(config, [config.eval_split, config.train_split])
    drawn = []
    for name, split in zip(PICTURES, dataset.splits, strict=True):
        found = ensemble.probabilities(models, split.images)
        grid = mistakes.grid(split, found.argmax(-1), found.max(-1), dataset.info.class_names)
        write_bytes(folder / name, grid)
        wrong = int((found.argmax(-1) != split.labels).sum())
        drawn.append(f"{name} ({min(wrong, mistakes.COUNT)} of {wrong:,} mistakes)")
    return drawn


def shifts(images: "np.ndarray") -> "Iterator[np.ndarray]":
    """Images moved by one pixel down, up, right and left; what comes in is black."""
    import numpy as np

    _, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for top, left in ((0, 1), (2, 1), (1, 0), (1, 2)):
        yield padded[:, top : top + height, left : left + width]


def metrics(probabilities: "np.ndarray", labels: "np.ndarray") -> dict[str, float]:
    """The accuracy, and the mean cross entropy in nats."""
    import numpy as np

    of_labels = np.take_along_axis(probabilities, labels[:, None].astype(int), axis=1)
    # As float32 it may be 0, of which there is no logarithm.
    losses = -np.log(np.maximum(of_labels, np.finfo(np.float32).tiny))
    return {
        "accuracy": float(np.mean(probabilities.argmax(-1) == labels)),
        "loss": float(np.mean(losses, dtype=np.float64)),
    }


def rows(record: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """The rows of the table of `sweep.table`."""
    count, single = len(record["seeds"]), record[split]
    mean = {name: single[name]["mean"] for name in single}
    std = {f"{name}_std": single[name]["std"] for name in single}
    none = dict.fromkeys(std)
    return [
        {"": what, **found, "failed": ""}
        for what, found in (
            (f"{count} single seeds", mean | std),
            ("their average", record["average"] | none),
            ("with test-time shifts", record["average_with_shifts"] | none),
        )
    ]


if __name__ == "__main__":
    sys.exit(main())
