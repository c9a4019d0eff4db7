"""Times the parts of our training step on a CPU, each beside what it replaces.

python -m experiments.benchmarks.parts [--profile]

Forward and backward, medians over interleaved rounds. --profile lists XLA's operations in the
whole step instead, from the trace of jax.profiler.
"""

import argparse
import collections
import functools
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax

from jaxmnist import models
from jaxmnist.config import get_config
from jaxmnist.devices import bfloat16_layers, cpu_layers, tuning
from jaxmnist.devices.sharding import Layout
from jaxmnist.models import create_model
from jaxmnist.optimizers import create_optimizer
from jaxmnist.train_step import init_state, train_step

BATCH = 100
ROUNDS = 8
CALLS = 15


def plain_block(x, kernel, bias):
    """A convolution, its ReLU and its pooling as everybody writes them."""
    return nn.max_pool(nn.relu(_conv(x, kernel, bias)), (2, 2), (2, 2))


def _conv(x, kernel, bias):
    params = {"kernel": kernel, "bias": bias}
    return nn.Conv(kernel.shape[3], kernel.shape[:2]).apply({"params": params}, x)


def both_ways(function: Callable, argnums: tuple[int, ...]) -> Callable:
    """The function's value and its gradients by the arguments `argnums`."""

    def run(cotangent, *args):
        def by_some(*some):
            whole = list(args)
            for i, value in zip(argnums, some, strict=True):
                whole[i] = value
            return function(*whole)

        value, pull_back = jax.vjp(by_some, *(args[i] for i in argnums))
        return value, pull_back(cotangent)

    return run


def cases() -> dict[str, tuple[Callable, tuple]]:
    """What is timed: a compiled function and its arguments, by name."""
    normal = functools.partial(jax.random.normal, jax.random.key(0))
    ours = functools.partial(jax.jit, compiler_options=tuning.compiler_options())
    in_bfloat16 = functools.partial(
        jax.jit, compiler_options=tuning.compiler_options(jax.numpy.bfloat16)
    )
    found = {}
    layers = (
        ("conv 1", (28, 28, 1), (5, 5, 1, 32), (1, 2)),  # No one needs the images' gradient.
        ("conv 2", (14, 14, 32), (5, 5, 32, 64), (0, 1, 2)),
    )
    for name, size, kernel, argnums in layers:
        height, width, _ = size
        args = (
            normal((BATCH, height // 2, width // 2, kernel[3])),
            normal((BATCH, *size)),
            0.1 * normal(kernel),
            0.1 * normal((kernel[3],)),
        )
        found[f"{name}, plain JAX"] = jax.jit(both_ways(plain_block, argnums)), args
        found[f"{name}, plain layers"] = ours(both_ways(models.conv_pool, argnums)), args
        found[f"{name}, cpu_layers"] = ours(both_ways(cpu_layers.conv_pool, argnums)), args
        rounded = both_ways(bfloat16_layers.conv_pool, argnums)
        found[f"{name}, bfloat16_layers"] = in_bfloat16(rounded), args
    x, kernel, hidden = normal((BATCH, 3136)), normal((3136, 1024)), normal((BATCH, 1024))
    products = {
        "forward": lambda x, kernel, hidden: x @ kernel,
        "input's gradient": lambda x, kernel, hidden: hidden @ kernel.T,
        "kernel's gradient": lambda x, kernel, hidden: x.T @ hidden,
        "both gradients": lambda x, kernel, hidden: (hidden @ kernel.T, x.T @ hidden),
    }
    for name, product in products.items():
        found[f"dense 1, {name}"] = ours(product), (x, kernel, hidden)
    both = both_ways(bfloat16_layers.dot_general, (0, 1))
    found["dense 1, both ways in bfloat16"] = in_bfloat16(both), (hidden, x, kernel)
    found["product of 2048 x 2048"] = ours(lambda a: a @ a), (normal((2048, 2048)),)
    return found


def time_cases(found: dict[str, tuple[Callable, tuple]]) -> dict[str, float]:
    """Median milliseconds of each."""
    seconds = collections.defaultdict(list)
    for _ in range(ROUNDS):
        for name, (function, args) in found.items():
            jax.block_until_ready(function(*args))
            for _ in range(CALLS):
                start = time.perf_counter()
                jax.block_until_ready(function(*args))
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def make_step(donate: bool) -> tuple[Callable, tuple]:
    """The default config's compiled step, and a state and a batch of noise for it."""
    model = create_model(get_config(), functions=cpu_layers.fastest_functions(Layout.create()))
    state = init_state(model, create_optimizer(get_config()), 0)
    key = jax.random.key(0)
    batch = {
        "image": jax.random.uniform(key, (BATCH, 28, 28, 1)),
        "label": jax.random.randint(key, (BATCH,), 0, 10),
    }
    step_fn = jax.jit(
        train_step,
        donate_argnums=0 if donate else (),
        compiler_options=tuning.compiler_options(),
    )
    return step_fn, (state, batch)


def time_step(keep_memory: bool, donate: bool) -> float:
    """Median milliseconds of the whole step, in this process."""
    if keep_memory:
        tuning.keep_freed_memory()
    step_fn, (state, batch) = make_step(donate)
    seconds = []
    for _ in range(120):
        start = time.perf_counter()
        state, _ = step_fn(state, batch)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds[20:])


def profile(count: int = 10) -> dict[str, float]:
    """Milliseconds of XLA's operations in a step; those that run at once both count."""
    tuning.keep_freed_memory()
    step_fn, args = make_step(donate=False)
    jax.block_until_ready(step_fn(*args))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(count):
                jax.block_until_ready(step_fn(*args))
        path = next(Path(folder).rglob("*.trace.json.gz"))
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    total = collections.Counter()
    for event in events:
        if "hlo_op" in event.get("args", {}):
            total[event["args"]["hlo_op"]] += event["dur"] / count / 1e3
    return dict(total.most_common(25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--step", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(time_step(*map(bool, args.step)))
        return
    if args.profile:
        rows = profile()
    else:
        steps = collections.defaultdict(list)
        for _ in range(3):  # Each in a process of its own: the memory's setting stays.
            for keep, donate in ((0, 1), (0, 0), (1, 1), (1, 0)):
                name = f"step, memory {'kept' if keep else 'returned'}" + ", donating" * donate
                command = [sys.executable, "-m", "experiments.benchmarks.parts"]
                command += ["--step", str(keep), str(donate)]
                steps[name].append(float(subprocess.check_output(command)))
        tuning.keep_freed_memory()
        rows = time_cases(cases())
        rows |= {name: statistics.median(values) for name, values in steps.items()}
    print("| | ms |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value:.2f} |")


if __name__ == "__main__":
    main()
