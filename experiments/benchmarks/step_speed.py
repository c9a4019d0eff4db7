"""Times our training step and evaluation against other frameworks', on this machine.

python -m experiments.benchmarks.step_speed --output=FILE.json

Each contender lives in a process of its own and is stopped while another has its turn. Before
anything is timed, all must find the same loss, gradients and evaluation from the same weights.
GFLOP/s are those of the direct algorithm, whatever a contender does instead.
PyTorch, TensorFlow and Keras take part where they are installed (extra `bench`). A contender that
fails, or takes longer than --patience for one call, is left out with a line that says so.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from experiments.benchmarks import contenders
from jaxmnist.data import datasets
from jaxmnist.devices import machine
from jaxmnist.models import CNN


class Contender(NamedTuple):
    """A contender: its class, the package that it needs, what its layers compute in."""

    kind: type
    package: str
    dtype: str = "float32"


CONTENDERS = {
    "ours": Contender(contenders.Ours, "jax"),
    "plain JAX": Contender(contenders.Plain, "jax"),
    "PyTorch": Contender(contenders.PyTorch, "torch"),
    "PyTorch compiled": Contender(contenders.PyTorchCompiled, "torch"),
    "TensorFlow": Contender(contenders.TensorFlow, "tensorflow"),
    "TensorFlow XLA": Contender(contenders.TensorFlowXLA, "tensorflow"),
    "Keras JAX": Contender(contenders.KerasJAX, "keras"),
    "ours bfloat16": Contender(contenders.OursBfloat16, "jax", "bfloat16"),
    "PyTorch bfloat16": Contender(contenders.PyTorchAutocast, "torch", "bfloat16"),
    "PyTorch compiled bfloat16": Contender(contenders.PyTorchCompiledAutocast, "torch", "bfloat16"),
    "TensorFlow bfloat16": Contender(contenders.TensorFlowBfloat16, "tensorflow", "bfloat16"),
}
REFERENCE = "plain JAX"
OURS = {"float32": "ours", "bfloat16": "ours bfloat16"}
WARM_UP = 3
EVAL_SIZE = 10_000
EVAL_BATCH_SIZES = (100, 200, 500, 1000)  # What counts is each contender's best.
# Of bfloat16: its rounding, 2^-9 an operand, goes through four layers there and back, and closes
# and opens ReLUs. Contenders are at 0.04 to 0.07; what computes something else is at 0.5 and more.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.1}
# What processors have for products, as Linux names it.
UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")


class Refused(Exception):
    """What a contender cannot do, and why."""


class Worker:
    """An object in a process of its own, which runs only within `call`.

    Args:
      kind: its class.
      args: of the class.
      patience: seconds that a call, and making it, may take.

    Attributes:
      patience: the same.
    """

    def __init__(self, kind: type, *args: Any, patience: float = 180):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.patience = patience
        self._process = context.Process(target=_serve, args=(theirs, kind, args))
        self._process.daemon = True
        self._process.start()
        theirs.close()  # So that its end is seen here.
        self._answer()
        os.kill(self._process.pid, signal.SIGSTOP)

    def call(self, method: str, *args):
        """What the object's method returns, and the seconds of each of its runs.

        Raises Refused if it fails, or takes too long.
        """
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
            if not self._connection.poll(self.patience):
                raise Refused(f"it took more than {self.patience:.0f} s")
            is_well, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            raise Refused("its process ended") from None
        except Refused:
            self.close()
            raise
        if not is_well:
            self.close()
            raise Refused(answer)
        return answer


def _serve(connection: Connection, kind: type, args: tuple) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        subject = kind(*args)
        connection.send((True, None))
        while True:
            method, given = connection.recv()
            if method == "time":
                answer = _time(getattr(subject, given[0]), *given[1:])
            elif method == "peak_memory":
                answer = machine.peak_memory_bytes()
            else:
                answer = getattr(subject, method)(*given)
            connection.send((True, answer))
    except Exception as e:
        first = (str(e).strip().splitlines() or [""])[0]
        connection.send((False, f"{type(e).__name__}: {first}"))


def _time(function: Callable, count: int, most: float, *args) -> list[float]:
    """Seconds of each of `count` runs; none begins once they took `most` together."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < count and sum(seconds) < most):
        start = time.perf_counter()
        function(*args)
        seconds.append(time.perf_counter() - start)
    return seconds


class Products:
    """The rates of a product of two square matrices, by the type of its operands."""

    def __init__(self, size: int = 2048):
        self._size = size
        self._products = {"float32": _numpy_product(size)}
        makers = [_jax_product, *([_torch_product] if importlib.util.find_spec("torch") else [])]
        # Without units for bfloat16 a library may take minutes, so small ones choose which.
        times = [min(_time(make(256), 3, 1.0)) for make in makers]
        self._products["bfloat16"] = makers[times.index(min(times))](size)

    def rates(self) -> dict[str, float]:
        """GFLOP/s: of NumPy in float32; of the faster of JAX and PyTorch in bfloat16."""
        gflop = 2 * self._size**3 / 1e9
        return {name: gflop / min(_time(f, 4, 2.0)) for name, f in self._products.items()}


def _numpy_product(size: int) -> Callable:
    matrix = np.ones((size, size), np.float32)
    return lambda: matrix @ matrix


def _jax_product(size: int) -> Callable:
    matrix = jax.numpy.ones((size, size), jax.numpy.bfloat16)
    dot = jax.jit(lambda a, b: jax.numpy.dot(a, b, preferred_element_type=np.float32))
    return lambda: dot(matrix, matrix).block_until_ready()


def _torch_product(size: int) -> Callable:
    import torch

    matrix = torch.ones(size, size, dtype=torch.bfloat16)
    return lambda: matrix @ matrix


class Neighbour:
    """A process that streams memory, as others on a shared machine do, while it is entered."""

    def __init__(self):
        self._process = multiprocessing.get_context("spawn").Process(target=_stream, daemon=True)
        self._process.start()
        os.kill(self._process.pid, signal.SIGSTOP)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Within, it is busy."""
        os.kill(self._process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGSTOP)

    def close(self) -> None:
        self._process.kill()
        self._process.join()


def _stream() -> None:
    arrays = [np.zeros(2**26, np.uint8) for _ in range(2)]
    while True:
        np.copyto(arrays[0], arrays[1])
        np.copyto(arrays[1], arrays[0])


def units(flags: str | None = None) -> list[str]:
    """The processor's units for products, by its flags in /proc/cpuinfo."""
    flags = (machine.cpuinfo("flags|Features") or "") if flags is None else flags
    return [unit for unit in UNITS if unit in flags.split()]


def make_problem(momentum: float, batch_size: int) -> contenders.Problem:
    """The initial weights, a batch of digits, and 10,000 images to evaluate on."""
    params = CNN().init(jax.random.key(0), jax.numpy.zeros((1, 28, 28, 1)))["params"]
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


def disagreement(worker: Worker, reference: Worker, dtype: str, batch: tuple) -> float:
    """The largest relative difference in loss, gradients and evaluation.

    In float32, of a gradient's values, relative to its largest; on noise, and little of it: where a
    window's maxima are equal to rounding, as in the black part of digits, any may get the gradient.
    In bfloat16, whose rounding does the same anywhere, in the norm of a gradient; on `batch`.
    """
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (10, 28, 28, 1)).astype(np.uint8), np.arange(10, dtype=np.int32)
    inputs = noise if dtype == "float32" else batch
    (loss, grads), (expected_loss, expected) = (
        each.call("loss_and_gradients", *inputs) for each in (worker, reference)
    )
    differences = [abs(loss - expected_loss) / expected_loss]
    size = np.linalg.norm if dtype == "bfloat16" else (lambda x: np.abs(x).max())
    for name, value in expected.items():
        differences.append(size(grads[name] - value) / size(value))
    found, wanted = (each.call("evaluate", EVAL_BATCH_SIZES[1]) for each in (worker, reference))
    differences += [abs(a - b) / b for a, b in zip(found, wanted, strict=True)]
    return float(max(differences))


def start(
    names: Sequence[str], problem: contenders.Problem, patience: float
) -> tuple[dict[str, Worker], dict[str, float]]:
    """The contenders that take part, and how much they differ from plain JAX, before any step.

    Raises SystemExit if one computes something else.
    """
    workers: dict[str, Worker] = {}
    differences: dict[str, float] = {}
    for name in [REFERENCE, *(name for name in names if name != REFERENCE)]:
        contender = CONTENDERS[name]
        try:
            if not importlib.util.find_spec(contender.package):
                raise Refused(f"{contender.package} is not installed")
            workers[name] = Worker(contender.kind, problem, patience=patience)
            batch = problem.images, problem.labels
            difference = disagreement(workers[name], workers[REFERENCE], contender.dtype, batch)
        except Refused as e:
            leave_out(name, e, workers)
            continue
        if not difference < TOLERANCES[contender.dtype]:
            sys.exit(f"error: {name} differs from plain JAX by {difference:.1e}.")
        differences[name] = difference
    return workers, differences


def leave_out(name: str, why: Refused, workers: dict[str, Worker]) -> None:
    """Says that a contender takes part no longer."""
    print(f"{name} is left out: {why}", file=sys.stderr)
    if name in workers:
        workers.pop(name).close()
    if name == REFERENCE:
        sys.exit("error: without plain JAX nothing can be checked.")


class Times:
    """Seconds of a contender's steps, and of its evaluations by the size of their batches."""

    def __init__(self):
        self.steps: list[float] = []
        self.evaluations: dict[int, list[float]] = {}


def measure(
    workers: dict[str, Worker],
    products: Worker,
    rounds: int,
    steps: int,
    most: float,
    busy: Callable[[], AbstractContextManager] = nullcontext,
) -> tuple[dict[str, Times], dict[str, float]]:
    """The times of each contender, in turns, and the machine's rates by type, medians.

    Args:
      workers: the contenders; one that fails is taken out.
      products: measures the rates.
      rounds: how many turns each has.
      steps: of a turn.
      most: seconds of a turn after which no step or evaluation begins.
      busy: what goes on while contenders are timed.
    """
    times, rates = {name: Times() for name in workers}, []
    for index in range(rounds):
        for name, worker in list(workers.items()):
            found = times[name]
            # Each round begins with another size, so that a slow contender gets to all.
            sizes = EVAL_BATCH_SIZES[index % 4 :] + EVAL_BATCH_SIZES[: index % 4]
            try:
                with busy():
                    worker.call("time", "step", WARM_UP, most)
                    found.steps += worker.call("time", "step", steps, most)
                    spent = 0.0
                    for size in sizes:
                        if spent > most:
                            break
                        if size not in found.evaluations:
                            worker.call("time", "evaluate", 1, 0.0, size)  # Compiles.
                        seconds = worker.call("time", "evaluate", 1, 0.0, size)
                        found.evaluations.setdefault(size, []).extend(seconds)
                        spent += sum(seconds)
            except Refused as e:
                leave_out(name, e, workers)
        rates.append(products.call("rates"))
        print(f"round {index + 1} of {rounds} done", file=sys.stderr)
    rate = {dtype: statistics.median(each[dtype] for each in rates) for dtype in rates[0]}
    return {name: times[name] for name in workers}, rate


def summarize(seconds: list[float]) -> dict[str, float]:
    """Median and quartiles in milliseconds."""
    ms = [1e3 * s for s in seconds]
    lower, median, upper = statistics.quantiles(ms, n=4) if len(ms) > 1 else ms * 3
    return {"median_ms": median, "lower_quartile_ms": lower, "upper_quartile_ms": upper}


def rows(
    times: dict[str, Times],
    differences: dict[str, float],
    peaks: dict[str, int],
    rates: dict[str, float],
    gflop: float,
) -> dict[str, dict[str, Any]]:
    """The table's rows by contender; "ours_takes" is of our time in the same type."""
    found = {}
    for name, each in times.items():
        step, dtype = summarize(each.steps), CONTENDERS[name].dtype
        evaluations = {size: summarize(seconds) for size, seconds in each.evaluations.items()}
        size = min(evaluations, key=lambda size: evaluations[size]["median_ms"])
        speed = gflop / step["median_ms"] * 1e3
        found[name] = {
            "dtype": dtype,
            "step": step,
            "evaluation": evaluations[size] | {"batch_size": size},
            "evaluations": evaluations,
            "gflops": speed,
            "fraction_of_machine": speed / rates[dtype],
            "largest_relative_difference": differences[name],
            "peak_memory_bytes": peaks[name],
        }
    for row in found.values():
        ours = found.get(OURS[row["dtype"]])
        for kind in ("step", "evaluation"):
            row[kind]["ours_takes"] = ours and ours[kind]["median_ms"] / row[kind]["median_ms"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="timed steps in a round")
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--momentum", type=float, default=0.0, help="of SGD; 0: plain SGD")
    parser.add_argument("--only", help=f"some of: {','.join(CONTENDERS)}")
    parser.add_argument(
        "--neighbour", action="store_true", help="one more process streams memory meanwhile"
    )
    parser.add_argument(
        "--patience", type=float, default=180, help="seconds that a call may take, compiling too"
    )
    parser.add_argument(
        "--most", type=float, default=10, help="seconds of a turn after which nothing more begins"
    )
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(CONTENDERS)
    if unknown := set(names) - set(CONTENDERS):
        parser.error(f"--only: {', '.join(sorted(unknown))}: some of {', '.join(CONTENDERS)}")

    problem = make_problem(args.momentum, args.batch_size)
    with ExitStack() as stack:
        products = Worker(Products)
        stack.callback(products.close)
        busy = nullcontext
        if args.neighbour:
            neighbour = Neighbour()
            stack.callback(neighbour.close)
            busy = neighbour.busy
        workers, differences = start(names, problem, args.patience)
        stack.callback(lambda: [worker.close() for worker in workers.values()])
        if REFERENCE not in names:
            workers.pop(REFERENCE).close()
        peaks = {}
        for name, worker in list(workers.items()):
            try:
                worker.call("time", "step", 1, args.most)  # Compiles.
                worker.call("time", "step", 100, args.most)
                peaks[name] = worker.call("peak_memory")
            except Refused as e:
                leave_out(name, e, workers)
        times, rate = measure(workers, products, args.rounds, args.steps, args.most, busy)

    gflop = gflop_per_step(args.batch_size)
    results = {
        "contenders": rows(times, differences, peaks, rate, gflop),
        "machine_gflops": rate,
        "units": units(),
        "gflop_per_step": gflop,
        "device": machine.describe(),
        "versions": machine.versions() | _versions(),
        **{name: value for name, value in vars(args).items() if name != "output"},
    }
    print(table(results))
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def table(results: dict) -> str:
    """The results in Markdown."""
    rate = results["machine_gflops"]
    meanwhile = "; meanwhile another process streams memory" if results["neighbour"] else ""
    lines = [
        f"{machine.processor_and_threads(results['device'])}, {', '.join(results['units'])}. A "
        f"product of matrices runs at {rate['float32']:.0f} GFLOP/s in float32, at "
        f"{rate['bfloat16']:.0f} in bfloat16. SGD with momentum {results['momentum']}, batches of "
        f"{results['batch_size']}; {results['rounds']} rounds of {results['steps']} steps"
        f"{meanwhile}.",
        "",
        "| | ms a step (quartiles) | GFLOP/s | of the machine's rate | ours takes "
        "| ms an evaluation (quartiles), in batches of | ours takes | MiB | differs by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results["contenders"].items():
        step, evaluation = row["step"], row["evaluation"]
        lines.append(
            f"| {name} | {_describe(step, 1)} | {row['gflops']:.0f} "
            f"| {row['fraction_of_machine']:.2f} | {_ratio(step)} "
            f"| {_describe(evaluation, 0)}, {evaluation['batch_size']} "
            f"| {_ratio(evaluation)} | {row['peak_memory_bytes'] / 2**20:.0f} "
            f"| {row['largest_relative_difference']:.0e} |"
        )
    return "\n".join(lines)


def _ratio(times: dict[str, Any]) -> str:
    return "" if times["ours_takes"] is None else f"{times['ours_takes']:.2f}"


def _versions() -> dict[str, str]:
    found = {}
    for package in ("torch", "tensorflow-cpu", "tensorflow", "keras"):
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
