"""Times whole runs of `python -m jaxmnist.main` beside the bare training step.

python -m experiments.benchmarks.run_speed --data_dir=DIR --output=FILE.json

Runs and bare steps take turns. A run logs, evaluates and writes checkpoints as by default; its
steps a second leave the evaluations out, as its results.json does. It writes to a terminal, on
which it draws its progress. The bare step is the compiled
train_step called again and again on one batch. DIR holds the prepared MNIST.
"""

import argparse
import contextlib
import json
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = "--bare"


def bare_step(data_dir: str, steps: int) -> dict[str, float]:
    """Milliseconds of a step, and of drawing a batch, called again and again in this process."""
    import jax

    from jaxmnist.compile import compiled_steps, data_keys
    from jaxmnist.config import get_config
    from jaxmnist.data import datasets
    from jaxmnist.data.input_pipeline import ShuffledBatches, put_on_device
    from jaxmnist.devices import tuning
    from jaxmnist.devices.sharding import Layout

    tuning.keep_freed_memory()
    split = datasets.load("mnist", ["train"], data_dir, allow_sample=False).splits[0]
    config, layout = get_config(), Layout.create()
    examples = put_on_device(split.images, split.labels, layout)
    batches = ShuffledBatches(examples, data_keys([0], layout), config.batch_size, layout)
    compiled = compiled_steps(config, datasets.describe(config), layout)
    state, batch, step_fn = compiled.init([0]), batches(0), compiled.train_step(config.batch_size)
    for _ in range(20):
        state, _ = step_fn(state, batch)
    jax.block_until_ready(state)
    start = time.perf_counter()
    for _ in range(steps):
        state, _ = step_fn(state, batch)
    jax.block_until_ready(state)
    step_ms = (time.perf_counter() - start) / steps * 1e3
    start = time.perf_counter()
    for step in range(steps):
        batch = batches(step)
    jax.block_until_ready(batch)
    return {"step_ms": step_ms, "batch_ms": (time.perf_counter() - start) / steps * 1e3}


def in_a_terminal(command: list[str], env: dict[str, str]) -> None:
    """Runs a command whose standard output is a terminal, so that its line moves."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdout=theirs, env=os.environ | env)
    os.close(theirs)
    with contextlib.suppress(OSError), os.fdopen(ours, "rb", 0) as terminal:  # Until it hangs up.
        while terminal.read(4096):
            pass
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)


def run(data_dir: str, steps: int, cache: str) -> dict[str, float]:
    """Seconds to the first step, and milliseconds a step after step 100, of a run."""
    with tempfile.TemporaryDirectory() as folder:
        in_a_terminal(
            [
                *(sys.executable, "-m", "jaxmnist.main", f"--workdir={folder}/run"),
                *(f"--config.data_dir={data_dir}", f"--config.num_steps={steps}"),
                "--config.allow_sample=False",
            ],
            {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": cache, "TERM": "xterm"},
        )
        workdir = Path(folder) / "run"
        results = json.loads((workdir / "results.json").read_text())
        records = [json.loads(r) for r in (workdir / "metrics.jsonl").read_text().splitlines()]
    first, last = (r for r in records if r["split"] == "train" and r["step"] in (100, steps))
    seconds = last["seconds"] - first["seconds"]
    return {
        "first_step_s": results["seconds"]["first_step"],
        "step_ms": seconds / (steps - 100) * 1e3,
        "peak_memory_bytes": results["peak_memory_bytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="tfds's folder, with MNIST prepared")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1100, help="of a run, in hundreds")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    parser.add_argument(BARE, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        print(json.dumps(bare_step(args.data_dir, args.steps)))
        return

    cold, warm, bare = [], [], []
    for index in range(args.rounds):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(run(args.data_dir, args.steps, cache))
            command = [sys.executable, "-m", "experiments.benchmarks.run_speed", BARE]
            flags = [f"--data_dir={args.data_dir}", f"--steps={args.steps - 100}"]
            bare.append(json.loads(subprocess.check_output(command + flags)))
            warm.append(run(args.data_dir, args.steps, cache))
        print(f"round {index + 1} of {args.rounds} done", file=sys.stderr)

    def median(rows, name):
        return statistics.median(row[name] for row in rows)

    def spread(rows, name):
        return [min(row[name] for row in rows), max(row[name] for row in rows)]

    results = {
        f"{kind}_{name}": {"median": median(rows, name), "range": spread(rows, name)}
        for kind, rows in (("cold", cold), ("warm", warm), ("bare", bare))
        for name in rows[0]
    }
    results["share_of_bare_speed"] = median(bare, "step_ms") / median(cold + warm, "step_ms")
    results["batch_share_of_step"] = median(bare, "batch_ms") / median(bare, "step_ms")
    text = json.dumps(results, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
