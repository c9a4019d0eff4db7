"""Measures how much of a trained model's accuracy carries over to other images.

python -m experiments.benchmarks.robustness --data_dir=TFDS WORKDIR... [--split=SPLIT] [--seed=0]
    [--picture=FILE.png] [--output=FILE.json]
python -m experiments.benchmarks.robustness --table=FILE.json

That is to a split with the 15 kinds of damage of corruptions.py, and to scikit-learn's 1,797 digits
of 13 other writers (Alpaydin and Kaynak 1998). Prints a table in Markdown, with a column for each
workdir: of one run, or of several seeds (seed-0, seed-1, ...). Whoever chooses between recipes does
so on validation data, such as --split=train[55000:], where the digits of the other writers are left
out.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from experiments.benchmarks.corruptions import CORRUPTIONS, corrupt
from jaxmnist import cli
from jaxmnist.data import datasets, pictures
from jaxmnist.devices import tuning
from jaxmnist.errors import UserError
from jaxmnist.files import write_json
from jaxmnist.record import find_runs
from jaxmnist.record.workdir import Workdir
from jaxmnist.trained import inference


def digits() -> tuple[UInt8[np.ndarray, "n 28 28"], Integer[np.ndarray, " n"]]:
    """scikit-learn's 8x8 digits as predict prepares pictures of them, and their labels.

    They touch the edges of their images, where predict takes ink for something else. So they have a
    black margin of a pixel; then they are enlarged 20 times.
    """
    from sklearn.datasets import load_digits  # Only [test] and [bench] have it.

    loaded, preparation = load_digits(), datasets.preparation("mnist")
    levels = np.pad(np.round(loaded.images * 255 / 16).astype(np.uint8), ((0, 0), (1, 1), (1, 1)))

    def prepared(digit: np.ndarray) -> np.ndarray:
        large = Image.fromarray(digit).resize((200, 200), Image.Resampling.BICUBIC)
        return pictures.read(large, "a digit", preparation)[..., 0]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(prepared, levels))), loaded.target


def measure(
    workdirs: Sequence[Path], data_dir: str | None = None, split: str = "test", seed: int = 0
) -> dict[str, Any]:
    """The accuracies of the models of workdirs.

    Args:
      workdirs: of runs on MNIST or on the sample.
      data_dir: tfds's folder, if not the first run's own.
      split: what is corrupted.
      seed: of the corruptions.

    Returns:
      What `table` takes: by the name of each workdir and by kind, a list with a share of 1 for each
      seed; "clean" and, of the test set, "digits" are kinds too.

    Raises:
      UserError: a workdir has no such run, one is not finished, or the data are not there.
    """
    runs = {workdir: find_runs.seeds(workdir) for workdir in dict.fromkeys(workdirs)}
    configs = [_config(path) for paths in runs.values() for path in paths]
    config = configs[0]
    if others := {each.dataset for each in configs} - {config.dataset}:
        raise UserError(
            f"the runs are on {config.dataset} and {', '.join(sorted(others))}: name those of one."
        )
    models = {path: inference.load(path) for paths in runs.values() for path in paths}
    config.eval_split = split
    dataset = inference.load_evaluation(config, data_dir)
    images, labels = dataset.splits[0].images[..., 0], dataset.splits[0].labels
    results: dict[str, Any] = {
        "dataset": dataset.name, "split": split, "images": len(labels), "seed": seed, "digits": 0,
        "note": "", "models": {},
    }  # fmt: skip
    of = {"clean": (images, labels)}
    of |= {kind: (corrupt(images, kind, seed), labels) for kind in CORRUPTIONS}
    if datasets.eval_name(config) != "test":
        results["note"] = f"scikit-learn's digits are left out: {split} is not the test set."
    elif not importlib.util.find_spec("sklearn"):
        results["note"] = "scikit-learn's digits are left out: scikit-learn is not installed."
    else:
        of["digits"] = digits()
        results["digits"] = len(of["digits"][1])
    names = [each.resolve().name for each in runs]
    for workdir, paths in runs.items():
        name = workdir.resolve().name
        found: dict[str, list[float]] = {kind: [] for kind in of}
        results["models"][name if names.count(name) == 1 else str(workdir)] = found
        for path in paths:
            for kind, (x, expected) in of.items():
                answers = models[path].logits(x[..., None]).argmax(-1)
                found[kind].append(float((answers == expected).mean()))
            print(f"{path}: {100 * found['clean'][-1]:.2f} % of clean images", file=sys.stderr)
    return results


def _config(path: Path) -> ConfigDict:
    """The config of a run on digits."""
    config = Workdir(path).load_config()
    if config is None:
        raise UserError(f"{path} holds no run: train there first.")
    if config.dataset not in ("mnist", datasets.SAMPLE):
        raise UserError(f"{path} is a run on {config.dataset}, not on MNIST: name another.")
    if not Workdir(path).results.exists():
        raise UserError(f"{path} is not finished: train it to its end, or name another.")
    return config


def table(results: dict[str, Any]) -> str:
    """The results in Markdown: means over seeds and, of several, standard deviations, in %."""
    models = results["models"]
    counts = {name: len(each["clean"]) for name, each in models.items()}
    titles = [f"{name}, mean of {n} single seeds" if n > 1 else name for name, n in counts.items()]
    kinds = {f"clean {results['split']}": "clean", f"mean of the {len(CORRUPTIONS)} kinds": ""}
    kinds |= {"scikit-learn's digits": "digits"} if results["digits"] else {}
    kinds |= {kind.replace("_", " "): kind for kind in CORRUPTIONS}
    lines = [
        f"{results['images']:,} images of {results['dataset']}, {results['split']}.",
        "",
        f"| accuracy, % | {' | '.join(titles)} |",
        "|---" + "|---:" * len(titles) + "|",
    ]
    if results["digits"]:
        lines[0] += f" {results['digits']:,} digits of scikit-learn."
    lines[0] += f" {results['note']}" if results["note"] else ""
    for label, kind in kinds.items():
        cells = [label]
        for each in models.values():
            values = each[kind] if kind else np.mean([each[k] for k in CORRUPTIONS], 0)
            cells.append(f"{100 * float(np.mean(values)):.2f}")
            if len(values) > 1:
                cells[-1] += f" ± {100 * statistics.stdev(map(float, values)):.2f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(seed: int = 0, large: int = 2) -> Image.Image:
    """The sample's first test digits of each class, in a row for each kind, with their names."""
    split = datasets.load(datasets.SAMPLE, ["test"]).splits[0]
    chosen = split.images[[np.flatnonzero(split.labels == each)[0] for each in range(10)], ..., 0]
    rows = {"clean": chosen} | {kind: corrupt(chosen, kind, seed) for kind in CORRUPTIONS}
    # (kind, digit, height, width) to rows, each image with a margin.
    grid = np.pad(
        np.stack(list(rows.values())), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=96
    )
    cell, left = grid.shape[2] * large, 130
    grey = grid.transpose(0, 2, 1, 3).reshape(len(rows) * grid.shape[2], -1)
    page = Image.new("L", (left + 10 * cell, len(rows) * cell), 255)
    page.paste(Image.fromarray(grey.repeat(large, 0).repeat(large, 1)), (left, 0))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    for i, kind in enumerate(rows):
        draw.text((8, (i + 0.5) * cell), kind.replace("_", " "), 0, font, anchor="lm")
    return page


def _read(path: Path) -> str:
    """The table of what --output wrote."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        return table(json.loads(path.read_text(encoding="utf-8")))
    raise UserError(f"{path} is no file that --output wrote: name another.")


def _run(args: argparse.Namespace) -> None:
    if args.picture:
        picture(args.seed).save(args.picture, "PNG", optimize=True)
    if args.table:
        print(_read(args.table))
    if args.workdirs:
        if args.output:  # Before minutes of measuring.
            args.output.parent.mkdir(parents=True, exist_ok=True)
        tuning.cache_compilations()
        tuning.keep_freed_memory()
        results = measure(args.workdirs, args.data_dir, args.split, args.seed)
        print(table(results))
        if args.output:
            write_json(args.output, results)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", type=Path, nargs="*", metavar="WORKDIR")
    parser.add_argument("--data_dir", help="tfds's folder, if not that of the first run")
    parser.add_argument("--split", default="test", help="what is corrupted; the test set")
    parser.add_argument("--seed", type=int, default=0, help="of the corruptions")
    parser.add_argument("--picture", type=Path, help="a PNG file for some digits of each kind")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    parser.add_argument("--table", type=Path, help="print the table of a file of --output again")
    args = parser.parse_args(argv)
    if not (args.workdirs or args.picture or args.table):
        parser.error("name a workdir, or give --picture or --table")
    if args.seed < 0:
        parser.error("--seed must be 0 or more")
    if args.output and not args.workdirs:
        parser.error("--output is for the figures of workdirs: name one")
    return cli.run(lambda: _run(args))


if __name__ == "__main__":
    sys.exit(main())
