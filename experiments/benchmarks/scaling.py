"""Times training on one device, on two, and in two processes, and computes what follows for many.

python -m experiments.benchmarks.scaling --data_dir=DIR [--before=CHECKOUT] [--output=FILE.json]

Runs of `python -m jaxmnist.main` take turns: with one device, with two virtual devices of the CPU,
in two processes on this machine, and, with --before, with one device in a checkout of another
commit. Then come the parts of a step: its time by batch size, and an all-reduce of the gradients
and of one number in two processes. The last table puts these, and accelerators' data sheets, into
the formulas of experiments/cluster/README.md. DIR holds the prepared MNIST.
"""

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH_SIZES = (20, 40, 60, 80, 100)
CALLS = 30
PARAMETERS = 3_274_634
# Of an example: multiplications and additions of the layers as the paper has them, three times
# (forward, and the gradients of weights and of inputs, of which the first layer's has none).
FLOP = 2 * (3 * (14 * 14 * 25 * 32 * 64 + 3136 * 1024 + 1024 * 10) + 2 * 28 * 28 * 25 * 32)
# Data sheets: FLOP/s in bfloat16, bytes/s in one direction; and a guess of seconds a message.
H100 = {
    "8 H100 in a node (NVLink)": (8, 989e12, 450e9, 5e-6),
    "64 H100 (400 Gb/s each)": (64, 989e12, 50e9, 5e-6),
    "1,024 H100 (400 Gb/s each)": (1024, 989e12, 50e9, 5e-6),
}


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def run_steps_per_second(kind: str, data_dir: str, steps: int, before: str | None) -> float:
    """Of a run's steps after the first hundred."""
    env = dict(os.environ)
    count = 2 if kind == "2 processes" else 1
    if kind == "2 devices":
        env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    if kind == "before":
        env["PYTHONPATH"] = str(before)
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        command = [
            *(sys.executable, "-m", "jaxmnist.main", f"--workdir={workdir}"),
            *(f"--config.data_dir={data_dir}", f"--config.num_steps={steps}"),
            "--config.allow_sample=False",
        ]
        if count > 1:
            command += [f"--coordinator=localhost:{free_port()}", f"--num_processes={count}"]
        where = before if kind == "before" else None
        runs = [
            subprocess.Popen(
                command + ([f"--process_id={i}"] if count > 1 else []),
                stdout=subprocess.DEVNULL,
                env=env,
                cwd=where,
            )
            for i in range(count)
        ]
        statuses = [run.wait() for run in runs]
        if any(statuses):
            raise SystemExit(f"a run with {kind} failed")
        records = [json.loads(r) for r in (workdir / "metrics.jsonl").read_text().splitlines()]
    first, last = (r for r in records if r["split"] == "train" and r["step"] in (100, steps))
    return (steps - 100) / (last["seconds"] - first["seconds"])


def median_ms(function) -> float:
    import jax

    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3


def step_ms() -> dict[str, float]:
    """Milliseconds of a step, by batch size, and of the optimizer's update alone."""
    import jax
    import optax

    from jaxmnist.compile import compiled_steps
    from jaxmnist.config import get_config
    from jaxmnist.data import datasets
    from jaxmnist.devices import tuning
    from jaxmnist.devices.sharding import Layout

    tuning.keep_freed_memory()
    layout, key = Layout.create(), jax.random.key(0)
    steps = compiled_steps(get_config(), datasets.describe(get_config()), layout)
    state = steps.init([0])

    def step(batch):
        nonlocal state
        state, metrics = steps.train_step(len(batch["label"]))(state, batch)
        return metrics

    batches = {
        size: {
            "image": jax.device_put(jax.random.uniform(key, (size, 28, 28, 1)), layout.batches()),
            "label": jax.device_put(jax.random.randint(key, (size,), 0, 10), layout.batches()),
        }
        for size in BATCH_SIZES
    }

    @jax.jit
    def update(state):
        tx = state.optimizer.tx
        updates, opt_state = tx.update(state.params, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state

    found: dict[str, list[float]] = {}
    for _ in range(6):
        for size, batch in batches.items():
            jax.block_until_ready(step(batch))
            found.setdefault(str(size), []).append(median_ms(lambda b=batch: step(b)))
        found.setdefault("update", []).append(median_ms(lambda: update(state)))
    return {name: min(values) for name, values in found.items()}


def all_reduce_ms(coordinator: str, count: int, index: int) -> dict[str, float]:
    """Milliseconds to sum an array of a process each, as large as the gradients, and tiny."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxmnist.devices import distributed
    from jaxmnist.devices.sharding import Layout

    distributed.join(coordinator, count, index)
    layout = Layout.create()
    split = NamedSharding(layout.mesh, PartitionSpec("data"))
    add = jax.jit(lambda x: x.sum(0), out_shardings=layout.everywhere)
    found = {}
    for name, size in (("gradients", PARAMETERS), ("one number", 1)):
        x = layout.put(np.ones((count, size), np.float32), split)
        jax.block_until_ready(add(x))
        found[name] = min(median_ms(lambda x=x: add(x)) for _ in range(3))
    distributed.leave(0)
    return found


def in_processes(count: int) -> dict[str, float]:
    address = f"localhost:{free_port()}"
    command = [sys.executable, "-m", "experiments.benchmarks.scaling", "--data_dir="]
    runs = [
        subprocess.Popen(
            [*command, "--part=all_reduce", f"--arguments={address},{count},{i}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    outputs = [run.communicate()[0] for run in runs]
    return json.loads(outputs[0].splitlines()[-1])


def all_reduce_seconds(count: int, bandwidth: float, latency: float) -> float:
    """A ring's bytes and a tree's messages, both there and back."""
    sent = 2 * (count - 1) / count * 4 * PARAMETERS
    return sent / bandwidth + 2 * math.log2(count) * latency


def predictions(per_example: float, bandwidth: float, latency: float) -> list[str]:
    """The rows of the table in experiments/cluster/README.md."""
    here = {
        f"{count:,} processes like these": (count, FLOP / per_example, bandwidth, latency)
        for count in (8, 64, 1024)
    }
    rows = []
    for name, (count, flops, bytes_per_second, message) in (here | H100).items():
        seconds = all_reduce_seconds(count, bytes_per_second, message)
        balance = count * seconds * flops / FLOP
        rows.append(
            f"| {name} | {2 * (count - 1) / count * 4 * PARAMETERS / 1e6:.1f} | "
            f"{seconds * 1e3:.2f} | {FLOP / flops * 1e6:.2f} | {balance:,.0f} | "
            f"{balance / count:,.0f} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="tfds's folder, with MNIST prepared")
    parser.add_argument("--before", help="a checkout of the commit to compare with")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=600, help="of a run, in hundreds")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--arguments", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part == "step":
        print(json.dumps(step_ms()))
        return
    if args.part == "all_reduce":
        coordinator, count, index = args.arguments.split(",")
        print(json.dumps(all_reduce_ms(coordinator, int(count), int(index))))
        return

    kinds = ["1 device", "2 devices", "2 processes", *(["before"] if args.before else [])]
    speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(args.rounds):
        for kind in kinds:
            speeds[kind].append(run_steps_per_second(kind, args.data_dir, args.steps, args.before))
            print(f"{kind}: {speeds[kind][-1]:.1f} steps/s", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "experiments.benchmarks.scaling", "--data_dir="]
    steps = json.loads(subprocess.check_output([*command, "--part=step"]))
    reduce = in_processes(2)

    # A line through the times by batch size: what an example costs, and what a step costs anyway.
    times = [steps[str(size)] / 1e3 for size in BATCH_SIZES]
    per_example, fixed = statistics.linear_regression(BATCH_SIZES, times)
    latency = reduce["one number"] / 1e3 / 2
    seconds = (reduce["gradients"] - reduce["one number"]) / 1e3
    bandwidth = 4 * PARAMETERS / seconds  # Of two, each sends all once: there and back a half.
    results = {
        "steps_per_second": {
            kind: {"median": statistics.median(v), "range": [min(v), max(v)]}
            for kind, v in speeds.items()
        },
        "step_ms": steps,
        "all_reduce_ms": reduce,
        "per_example_ms": per_example * 1e3,
        "fixed_ms": fixed * 1e3,
        "bandwidth_bytes_per_second": bandwidth,
    }
    print(json.dumps(results, indent=2))
    print(*predictions(per_example, bandwidth, latency), sep="\n")
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
