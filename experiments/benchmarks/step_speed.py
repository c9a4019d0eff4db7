"""Times our training step and evaluation against other frameworks', on this machine.

python -m experiments.benchmarks.step_speed --output=FILE.json

Each contender lives in a process of its own and is stopped while another has its turn. Before
anything is timed, all must find the same loss, gradients and evaluation from the same weights.
GFLOP/s are those of the direct algorithm, whatever a contender does instead.
PyTorch and TensorFlow take part where they are installed (extra `bench`).
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import signal
import statistics
import sys
import time
from contextlib import ExitStack, suppress
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from experiments.benchmarks import contenders
from jaxmnist.data import datasets
from jaxmnist.devices import machine
from jaxmnist.models import CNN

CONTENDERS = {
    "ours": (contenders.Ours, "jax"),
    "plain JAX": (contenders.Plain, "jax"),
    "PyTorch": (contenders.PyTorch, "torch"),
    "TensorFlow": (contenders.TensorFlow, "tensorflow"),
}
WARM_UP = 3
EVAL_SIZE = 10_000
EVAL_BATCH_SIZES = (100, 200, 500, 1000)  # What counts is each contender's best.
TOLERANCE = 1e-4


class Worker:
    """A contender in its own process, which runs only within `call`."""

    def __init__(self, contender: type, problem: contenders.Problem):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, contender, problem))
        self._process.daemon = True
        self._process.start()
        self._answer()
        os.kill(self._process.pid, signal.SIGSTOP)

    def call(self, method: str, *args):
        """What the contender's method returns, and the seconds of each of its runs."""
        os.kill(self._process.pid, signal.SIGCONT)
        self._connection.send((method, args))
        answer = self._answer()
        os.kill(self._process.pid, signal.SIGSTOP)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.join()

    def _answer(self):
        try:
            return self._connection.recv()
        except EOFError:
            sys.exit("error: a contender's process ended; its message is above.")


def _serve(connection: Connection, contender: type, problem: contenders.Problem) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    subject = contender(problem)
    connection.send(None)
    while True:
        method, args = connection.recv()
        if method == "time":
            connection.send(_time(getattr(subject, args[0]), *args[1:]))
        elif method == "peak_memory":
            connection.send(machine.peak_memory_bytes())
        else:
            connection.send(getattr(subject, method)(*args))


def _time(function, count: int, *args) -> list[float]:
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        function(*args)
        seconds.append(time.perf_counter() - start)
    return seconds


def make_problem(momentum: float, batch_size: int) -> contenders.Problem:
    """The initial weights, a batch of digits, and 10,000 images to evaluate on."""
    params = CNN().init(jax.random.key(0), np.zeros((1, 28, 28, 1), np.float32))["params"]
    weights = flatten_dict(jax.device_get(params), sep="/")
    digits = datasets.load("mnist_sample", ["train", "test"]).splits
    images = np.concatenate([split.images for split in digits])
    labels = np.concatenate([split.labels for split in digits]).astype(np.int32)
    order = np.random.default_rng(0).permutation(len(labels))[:batch_size]
    many = np.arange(EVAL_SIZE) % len(labels)
    return contenders.Problem(
        weights, images[order], labels[order], images[many], labels[many], momentum
    )


def gflop_per_step(batch_size: int) -> float:
    """Multiplications and additions of the step's convolutions and products, done directly."""
    conv_0, conv_1 = 28 * 28 * 25 * 32, 14 * 14 * 25 * 32 * 64
    dense = 3136 * 1024 + 1024 * 10
    # Forward, and a gradient for the weights and for the input; no one needs the images'.
    return 2 * batch_size * (2 * conv_0 + 3 * conv_1 + 3 * dense) / 1e9


def machine_gflops(size: int = 2048, count: int = 3) -> float:
    """NumPy's rate for a product of float32 matrices, in GFLOP/s."""
    matrix = np.ones((size, size), np.float32)
    return 2 * size**3 / 1e9 / min(_time(lambda: matrix @ matrix, count))


def disagreement(worker: Worker, reference: Worker) -> float:
    """The largest relative difference in loss, gradients and evaluation.

    Of a gradient, relative to its largest value. On noise, and little of it: where a window's
    maxima are equal to rounding, as in the black part of digits, any may get the gradient.
    """
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (10, 28, 28, 1)).astype(np.uint8)
    labels = np.arange(10, dtype=np.int32)
    (loss, grads), (expected_loss, expected) = (
        each.call("loss_and_gradients", images, labels) for each in (worker, reference)
    )
    differences = [abs(loss - expected_loss) / expected_loss]
    for name, value in expected.items():
        differences.append(np.abs(grads[name] - value).max() / np.abs(value).max())
    found, wanted = (each.call("evaluate", EVAL_BATCH_SIZES[0]) for each in (worker, reference))
    differences += [abs(a - b) / b for a, b in zip(found, wanted, strict=True)]
    return float(max(differences))


def measure(workers: dict[str, Worker], rounds: int, steps: int):
    """Seconds of steps, and of evaluations by batch size, by contender; the machine's rates."""
    step_seconds = {name: [] for name in workers}
    eval_seconds = {name: {size: [] for size in EVAL_BATCH_SIZES} for name in workers}
    rates = []
    for index in range(rounds):
        rates.append(machine_gflops())
        for name, worker in workers.items():
            worker.call("time", "step", WARM_UP)
            step_seconds[name] += worker.call("time", "step", steps)
            for size, seconds in eval_seconds[name].items():
                if index == 0:
                    worker.call("time", "evaluate", 1, size)  # Compiles.
                seconds.extend(worker.call("time", "evaluate", 1, size))
        print(f"round {index + 1} of {rounds} done", file=sys.stderr)
    return step_seconds, eval_seconds, rates


def summarize(seconds: list[float]) -> dict[str, float]:
    """Median and quartiles in milliseconds."""
    lower, median, upper = statistics.quantiles([1e3 * s for s in seconds], n=4)
    return {"median_ms": median, "lower_quartile_ms": lower, "upper_quartile_ms": upper}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="timed steps in a round")
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--momentum", type=float, default=0.0, help="of SGD; 0: plain SGD")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    args = parser.parse_args()

    problem = make_problem(args.momentum, args.batch_size)
    with ExitStack() as stack:
        workers = {}
        for name, (contender, package) in CONTENDERS.items():
            if importlib.util.find_spec(package):
                workers[name] = Worker(contender, problem)
                stack.callback(workers[name].close)
        differences = {n: disagreement(w, workers["plain JAX"]) for n, w in workers.items()}
        for name, difference in differences.items():
            if not difference < TOLERANCE:
                print(f"error: {name} differs from plain JAX by {difference:.1e}.", file=sys.stderr)
                return 1
        peaks = {}
        for name, worker in workers.items():
            worker.call("time", "step", 100)
            peaks[name] = worker.call("peak_memory")
        step_seconds, eval_seconds, rates = measure(workers, args.rounds, args.steps)

    rate, gflop = statistics.median(rates), gflop_per_step(args.batch_size)
    rows = {}
    for name in workers:
        step = summarize(step_seconds[name])
        evaluations = {size: summarize(seconds) for size, seconds in eval_seconds[name].items()}
        size = min(evaluations, key=lambda size: evaluations[size]["median_ms"])
        speed = gflop / step["median_ms"] * 1e3
        rows[name] = {
            "step": step,
            "evaluation": evaluations[size] | {"batch_size": size},
            "evaluations": evaluations,
            "gflops": speed,
            "fraction_of_machine": speed / rate,
            "largest_relative_difference": differences[name],
            "peak_memory_bytes": peaks[name],
        }
    for row in rows.values():
        for kind in ("step", "evaluation"):
            row[kind]["ours_takes"] = rows["ours"][kind]["median_ms"] / row[kind]["median_ms"]
    results = {
        "contenders": rows,
        "machine_gflops": rate,
        "gflop_per_step": gflop,
        "device": machine.describe(),
        "versions": machine.versions() | _versions("torch", "tensorflow-cpu", "tensorflow"),
        **{name: value for name, value in vars(args).items() if name != "output"},
    }
    print(table(results))
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def table(results: dict) -> str:
    """The results in Markdown."""
    lines = [
        f"SGD with momentum {results['momentum']}, batches of {results['batch_size']}; "
        f"{results['rounds']} rounds of {results['steps']} steps; a product of matrices runs at "
        f"{results['machine_gflops']:.0f} GFLOP/s.",
        "",
        "| | ms a step (quartiles) | GFLOP/s | of the machine's rate | ours takes "
        "| ms an evaluation (quartiles), in batches of | ours takes | MiB | differs by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results["contenders"].items():
        step, evaluation = row["step"], row["evaluation"]
        lines.append(
            f"| {name} | {_describe(step, 1)} | {row['gflops']:.0f} "
            f"| {row['fraction_of_machine']:.2f} | {step['ours_takes']:.2f} "
            f"| {_describe(evaluation, 0)}, {evaluation['batch_size']} "
            f"| {evaluation['ours_takes']:.2f} | {row['peak_memory_bytes'] / 2**20:.0f} "
            f"| {row['largest_relative_difference']:.0e} |"
        )
    return "\n".join(lines)


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _describe(times: dict[str, float], digits: int) -> str:
    median, lower, upper = (
        f"{times[f'{name}_ms']:.{digits}f}"
        for name in ("median", "lower_quartile", "upper_quartile")
    )
    return f"{median} ({lower} to {upper})"


if __name__ == "__main__":
    sys.exit(main())
