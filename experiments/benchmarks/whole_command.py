"""Times whole commands: experiments/quick.py beside PyTorch's example of the same training.

python -m experiments.benchmarks.whole_command --data_dir=DIR --source_dir=DIR --output=FILE.json

In turns: `python -m jaxmnist.main --config=experiments/quick.py` with an empty cache of compiled
programs, the same again with the cache that it left, and torch_example.py, which reads the
archives in --source_dir; --data_dir holds the prepared MNIST. Seconds are those of the process,
from its start to its end.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxmnist.devices import machine

QUICK = Path(__file__).parents[1] / "quick.py"
OURS_COLD, OURS, EXAMPLE = "quick.py, cold", "quick.py, from the cache", "PyTorch's example"


def timed(command: list[str], log: Path, **env: str) -> float:
    """The seconds of a process, whose output goes to a file."""
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        subprocess.run(command, stdout=output, env=os.environ | env, check=True)
    return time.perf_counter() - start


def ours(folder: Path, data_dir: str, seed: int, more: list[str]) -> tuple[float, float]:
    """Seconds and test accuracy of quick.py; its programs are in the folder's cache."""
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        seconds = timed(
            [
                *(sys.executable, "-m", "jaxmnist.main", f"--workdir={workdir}/run"),
                *(f"--config={QUICK}", f"--config.data_dir={data_dir}", f"--config.seed={seed}"),
                *("--config.allow_sample=False", *more),
            ],
            folder / "log",
            JAX_COMPILATION_CACHE_DIR="",
            XDG_CACHE_HOME=str(folder / "cache"),
        )
        results = json.loads((Path(workdir) / "run" / "results.json").read_text())
    return seconds, results["test"]["accuracy"]


def example(folder: Path, source_dir: str, seed: int, more: list[str]) -> tuple[float, float]:
    """Seconds and test accuracy of PyTorch's example."""
    output = folder / "example.json"
    seconds = timed(
        [
            *(sys.executable, "-m", "experiments.benchmarks.torch_example"),
            *(f"--source_dir={source_dir}", f"--seed={seed}", f"--output={output}", *more),
        ],
        folder / "log",
    )
    return seconds, json.loads(output.read_text())["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="tfds's folder, with MNIST prepared")
    parser.add_argument("--source_dir", required=True, help="the folder with the four archives")
    parser.add_argument("--rounds", type=int, default=3, help="each with a seed of its own")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    args = parser.parse_args()

    steps, warmup = args.steps, args.steps // 4
    for_ours = [f"--config.num_steps={steps}", f"--config.warmup_steps={warmup}"]
    for_example = [f"--max_steps={steps}", f"--warmup_steps={warmup}"]
    found: dict[str, list[tuple[float, float]]] = {OURS_COLD: [], OURS: [], EXAMPLE: []}
    for seed in range(args.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for kind in (OURS_COLD, OURS):
                found[kind].append(ours(folder, args.data_dir, seed, for_ours))
            found[EXAMPLE].append(example(folder, args.source_dir, seed, for_example))
        print(f"round {seed + 1} of {args.rounds} done", file=sys.stderr)

    results = {
        "commands": {
            name: {"seconds": [s for s, _ in each], "accuracy": [a for _, a in each]}
            for name, each in found.items()
        },
        "steps": steps,
        "device": machine.describe(),
        "versions": machine.versions(),
    }
    print(table(results))
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


def table(results: dict) -> str:
    """The results in Markdown: medians, ranges, and the share of the example's time."""
    commands, device = results["commands"], results["device"]
    whole = statistics.median(commands[EXAMPLE]["seconds"])
    lines = [
        f"{device['processor']}, {device['threads']} threads; {results['steps']} steps.",
        "",
        "| | seconds (range) | of the example's | test accuracy, mean (range) |",
        "|---|---|---|---|",
    ]
    for name, each in commands.items():
        seconds, accuracy = each["seconds"], each["accuracy"]
        middle = statistics.median(seconds)
        lines.append(
            f"| {name} | {middle:.1f} ({min(seconds):.1f} to {max(seconds):.1f}) "
            f"| {middle / whole:.2f} | {statistics.mean(accuracy):.4f} "
            f"({min(accuracy):.4f} to {max(accuracy):.4f}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
