"""The race to 99 %: whole commands in turns, beside the fastest known training in PyTorch.

python -m experiments.benchmarks.whole_command --data_dir=DIR --source_dir=DIR --output=FILE.json

In turns, each round with a seed of its own: experiments/quick.py and fastest.py with an empty cache
of compiled programs, the same again with the cache that they left, and train_mnist_fast.py, which
reads the archives in --source_dir and runs in --peer_python, where PyTorch is installed; --data_dir
holds the prepared MNIST. Whole seconds are those of the process, from its start to its end. Seconds
of training are without start-up, reading data, compiling the step and evaluating; ours contain the
search for the hardest examples and, cold, the compilation of small programs.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from jaxmnist.devices import machine

EXPERIMENTS = Path(__file__).parents[1]
PEER = "train_mnist_fast.py"
Measured = dict[str, float]  # "whole" and "train", in seconds, and "accuracy".


def timed(command: Sequence[str], log: Path, **env: str) -> float:
    """The seconds of a process, whose output goes to a file."""
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        subprocess.run(command, stdout=output, env=os.environ | env, check=True)
    return time.perf_counter() - start


def ours(
    experiment: str, folder: Path, data_dir: str, seed: int, more: Sequence[str] = ()
) -> Measured:
    """Trains an experiment; its programs are in the folder's cache."""
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        whole = timed(
            [
                *(sys.executable, "-m", "jaxmnist.main", f"--workdir={workdir}/run"),
                f"--config={EXPERIMENTS / experiment}",
                *(f"--config.data_dir={data_dir}", f"--config.seed={seed}"),
                *("--config.allow_sample=False", *more),
            ],
            folder / "log",
            JAX_COMPILATION_CACHE_DIR="",
            XDG_CACHE_HOME=str(folder / "cache"),
        )
        results = json.loads((Path(workdir) / "run" / "results.json").read_text(encoding="utf-8"))
    accuracy = results["test"]["accuracy"]
    return {"whole": whole, "train": results["seconds"]["train"], "accuracy": accuracy}


def peer(
    python: str, folder: Path, source_dir: str, seed: int, more: Sequence[str] = ()
) -> Measured:
    """Trains train_mnist_fast.py."""
    output = folder / "peer.json"
    module = "experiments.benchmarks.train_mnist_fast"
    whole = timed(
        [
            *(python, "-m", module, f"--source_dir={source_dir}"),
            *(f"--seed={seed}", f"--output={output}", *more),
        ],
        folder / "log",
    )
    return {"whole": whole} | json.loads(output.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="tfds's folder, with MNIST prepared")
    parser.add_argument("--source_dir", required=True, help="the folder with the four archives")
    parser.add_argument("--peer_python", default=sys.executable, help="a Python with PyTorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--experiments", default="quick.py,fastest.py", help="which, with commas")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    args = parser.parse_args()

    found: dict[str, list[Measured]] = {}
    for seed in range(args.rounds):
        for experiment in args.experiments.split(","):
            with tempfile.TemporaryDirectory() as name:
                for cache in ("cold", "cached"):
                    measured = ours(experiment, Path(name), args.data_dir, seed)
                    found.setdefault(f"{experiment}, {cache}", []).append(measured)
        with tempfile.TemporaryDirectory() as name:
            measured = peer(args.peer_python, Path(name), args.source_dir, seed)
            found.setdefault(PEER, []).append(measured)
        print(f"round {seed + 1} of {args.rounds} done", file=sys.stderr)

    results = {
        "commands": found,
        "date": datetime.date.today().isoformat(),
        "device": machine.describe(),
        "versions": machine.versions(),
    }
    if args.output:
        args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


def table(results: dict) -> str:
    """The results in Markdown: medians, ranges, and the share of the peer's time."""
    commands = results["commands"]
    rounds = len(commands[PEER])
    lines = [
        f"{machine.processor_and_threads(results['device'])}; {rounds} rounds; {results['date']}.",
        "",
        "| | whole command, s (range) | of the peer's | training, s (range) | of the peer's "
        "| test accuracy, %: mean (range) |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in commands.items():
        cells = [name]
        for clock in ("whole", "train"):
            seconds = [one[clock] for one in each]
            middle = statistics.median(seconds)
            of_peer = middle / statistics.median(one[clock] for one in commands[PEER])
            cells += [f"{middle:.1f} ({min(seconds):.1f} to {max(seconds):.1f})", f"{of_peer:.2f}"]
        accuracy = [100 * one["accuracy"] for one in each]
        mean, low, high = statistics.mean(accuracy), min(accuracy), max(accuracy)
        cells.append(f"{mean:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
