"""Times the training on one GPU: the step in many forms, PyTorch beside it, and whole runs.

python -m experiments.benchmarks.accelerator --data_dir=DIR --output=FILE.json

Each section is a process of its own, which is ended at its time limit. Each figure is printed as it
is measured, and the file is written again, so that a run that is cut leaves what it had. DIR holds
the prepared MNIST. PyTorch takes part where it is installed.
"""

import argparse
import functools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

QUICK = Path(__file__).parents[1] / "quick.py"
BATCH_SIZE = 100
# How far a first loss may be from that of float32 on the CPU, relative to it: rounding of 24 bits,
# of TF32's 11, of bfloat16's 8, summed over the layers.
LOSS_BOUNDS = {"float32": 1e-5, "tf32": 1e-3, "bfloat16": 1e-2}
# The same of gradients, of which a pooling window may give one to another pixel: in the norm.
GRADIENT_BOUNDS = {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 1e-1}
IN_LOOPS = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
# XLA's command buffers are CUDA graphs. By default it makes them of what is in a program of at
# least 5 such operations, but not of loops.
BUFFERS = {
    "no command buffers": {
        "xla_gpu_enable_command_buffer": "",
        "xla_gpu_graph_min_graph_size": 1_000_000,
    },
    "command buffers from 1 operation": {"xla_gpu_graph_min_graph_size": 1},
    "the loop in a command buffer": {"xla_gpu_enable_command_buffer": IN_LOOPS},
    "the loop unrolled in a command buffer": {
        "xla_gpu_enable_command_buffer": IN_LOOPS,
        "xla_gpu_command_buffer_unroll_loops": True,
    },
}

Row = dict[str, Any]


class Form(NamedTuple):
    """A form of the step.

    Attributes:
      name: what the table calls it.
      scanned: whether a call takes many steps, by lax.scan, or one.
      unroll: of lax.scan.
      data: "ready": float32 batches that are there; "drawn": drawn by ShuffledBatches before each
        call, as training does; "within": uint8 images that each step gathers from the data set.
      dtype: of the config.
      precision: jax_default_matmul_precision; None: JAX's default.
      options: XLA's.
      donated: whether the state's memory goes to the next one.
    """

    name: str
    scanned: bool = True
    unroll: int = 1
    data: str = "ready"
    dtype: str = "float32"
    precision: str | None = None
    options: dict[str, Any] = {}
    donated: bool = True

    @property
    def bound(self) -> str:
        if self.dtype == "bfloat16":
            return "bfloat16"
        return "float32" if self.precision == "highest" else "tf32"


def forms() -> list[Form]:
    """The forms of the step, in the order of their interest."""
    best = {"scanned": True, "data": "within", "unroll": 4}
    in_loop = BUFFERS["the loop in a command buffer"]
    return [
        Form("one step a call", scanned=False),
        Form("one step a call, batch drawn", scanned=False, data="drawn"),
        Form("scanned"),
        Form("scanned, batches drawn (the command's)", data="drawn"),
        Form("scanned, uint8 gathered within", data="within"),
        Form("one step a call, bfloat16", scanned=False, dtype="bfloat16"),
        Form("scanned, bfloat16", dtype="bfloat16"),
        Form("one step a call, precision highest", scanned=False, precision="highest"),
        Form("scanned, precision highest", precision="highest"),
        Form("scanned, precision tensorfloat32", precision="tensorfloat32"),
        *(Form(f"scanned, unroll {unroll}", unroll=unroll) for unroll in (2, 4, 8)),
        *(Form(f"scanned, {name}", options=options) for name, options in BUFFERS.items()),
        Form(
            "one step a call, no command buffers",
            scanned=False,
            options=BUFFERS["no command buffers"],
        ),
        Form("one step a call, not donated", scanned=False, donated=False),
        Form("scanned, not donated", donated=False),
        Form("scanned, uint8, unroll 4", **best),
        Form("scanned, uint8, unroll 4, bfloat16", **best, dtype="bfloat16"),
        Form(
            "scanned, uint8, unroll 4, bfloat16, in a command buffer",
            **best,
            dtype="bfloat16",
            options=in_loop,
        ),
        Form("scanned, unroll 16", unroll=16),
    ]


def step_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Each form of the project's train_step, by the default config."""
    import jax
    import numpy as np

    from jaxmnist.compile import compiled_steps, data_keys
    from jaxmnist.config import get_config
    from jaxmnist.data import datasets
    from jaxmnist.data.input_pipeline import ShuffledBatches, put_on_device, to_float
    from jaxmnist.devices import machine, tuning
    from jaxmnist.devices.sharding import Layout
    from jaxmnist.train_step import create_train_state, train_step

    yield {"name": "device", **machine.describe(), "jax": jax.__version__}
    sample = datasets.load("mnist_sample", ["train"]).splits[0]
    size = 60_000  # MNIST's: a gather from less would find it in the cache.
    images = np.resize(sample.images, (size, *sample.images.shape[1:]))
    layout = Layout.create()
    examples = put_on_device(images, np.resize(sample.labels, size), layout)
    shuffled = ShuffledBatches(examples, data_keys([0], layout), BATCH_SIZE, layout)
    indices = np.random.default_rng(0).integers(0, size, (args.steps, BATCH_SIZE)).astype(np.int32)

    # What the first step has to find, on the CPU in float32.
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        start = jax.device_get(create_train_state(get_config()).params)
    batch = jax.device_get(shuffled(0))
    batch_within = {
        "image": to_float(images[indices[0]]),
        "label": np.resize(sample.labels, size)[indices[0]].astype(np.int32),
    }

    def reference(batch):
        with jax.default_device(cpu):
            state = create_train_state(get_config())
            after, metrics = jax.jit(train_step)(state, batch)
            return float(metrics["loss"]), jax.device_get(after.params)

    references = {"within": reference(batch_within), "drawn": reference(batch)}
    references["ready"] = references["drawn"]

    def build(form: Form) -> tuple[Callable, Any]:
        """A function of a state, compiled, and the state."""
        config = get_config()
        config.dtype = form.dtype
        compiled = compiled_steps(config, datasets.describe(config), layout)
        state = compiled.init([0])
        count = args.steps if form.scanned else 1
        if form.data == "drawn":
            function, counter = compiled.train_step(BATCH_SIZE, count), iter(range(0, 10**9, count))
            return (lambda state: function(state, shuffled(next(counter), count))), state

        unroll = min(form.unroll, count)

        def gathering(state, examples, indices):
            def step(state, index):
                batch = {"image": to_float(examples.images[index]), "label": examples.labels[index]}
                return train_step(state, batch)

            return jax.lax.scan(step, state, indices, unroll=unroll)

        if form.data == "within":
            inputs, function = (examples, layout.put(indices)), gathering
        elif form.scanned:
            inputs = (shuffled(0, count),)
            function = functools.partial(jax.lax.scan, train_step, unroll=unroll)
        else:
            inputs, function = (shuffled(0),), train_step
        jitted = jax.jit(
            function,
            donate_argnums=(0,) if form.donated else (),
            compiler_options=tuning.compiler_options() | form.options,
        )
        program = jitted.lower(state, *inputs).compile()
        return (lambda state: program(state, *inputs)), state

    for form in forms():
        row: Row = {"name": form.name, "steps_a_call": args.steps if form.scanned else 1}
        try:
            began = time.perf_counter()
            with jax.default_matmul_precision(form.precision):
                call, state = build(form)
            row["compile_s"] = time.perf_counter() - began
            state, metrics = jax.block_until_ready(call(state))
            loss, after = references[form.data]
            first = float(np.ravel(metrics["loss"])[0])
            row["loss_differs_by"] = abs(first - loss) / loss
            row["within_bound"] = row["loss_differs_by"] < LOSS_BOUNDS[form.bound]
            if not form.scanned:
                changes = [
                    jax.tree.map(lambda a, b: np.asarray(a) - b, params, start)
                    for params in (jax.device_get(state.params), after)
                ]
                row["gradients_differ_by"] = norm_of_difference(*map(jax.tree.leaves, changes))
                bound = GRADIENT_BOUNDS[form.bound]
                row["within_bound"] &= row["gradients_differ_by"] < bound

            def run(count, call=call):
                nonlocal state
                for _ in range(count):
                    state, metrics = call(state)
                jax.block_until_ready((state, metrics))

            row |= times(run, row["steps_a_call"], args.seconds)
        except Exception as e:  # What one form does not allow must not cost the others.
            row["error"] = f"{type(e).__name__}: {str(e).splitlines()[0][:200] if str(e) else ''}"
        yield row


def norm_of_difference(found: list, expected: list) -> float:
    """The largest relative difference of arrays, in the norm of each."""
    import numpy as np

    pairs = zip(found, expected, strict=True)
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def times(run: Callable[[int], None], steps: int, seconds: float) -> Row:
    """Milliseconds of a step, median and range of five times that take `seconds` each.

    Args:
      run: makes as many calls as it is told, and waits for the last.
      steps: of a call.
      seconds: how long to measure each time.
    """

    def timed(count: int) -> float:
        start = time.perf_counter()
        run(count)
        return time.perf_counter() - start

    run(2)
    count = max(1, math.ceil(seconds / max(timed(2) / 2, 1e-6)))
    measured = [1e3 * timed(count) / count / steps for _ in range(5)]
    middle = statistics.median(measured)
    return {
        "ms_a_step": middle,
        "least_ms": min(measured),
        "most_ms": max(measured),
        "steps_a_second": 1e3 / middle,
    }


def torch_rows(args: argparse.Namespace) -> Iterator[Row]:
    """The same network in PyTorch, on one batch again and again."""
    import numpy as np
    import torch

    from experiments.benchmarks import contenders, step_speed

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    yield {"name": "device", "device": kind, "torch": torch.__version__}
    problem = step_speed.make_problem(0.9, BATCH_SIZE)
    expected_loss, expected = contenders.Plain(problem).loss_and_gradients(
        problem.images, problem.labels
    )

    class Eager(contenders.PyTorch):
        device = kind

        def wait(self) -> None:
            if kind == "cuda":
                torch.cuda.synchronize()

    class Graphed(Eager):
        """The whole step captured in a CUDA graph, as PyTorch's documentation does it."""

        def __init__(self, problem):
            super().__init__(problem)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    super().step()
            torch.cuda.current_stream().wait_stream(side)
            self._optimizer.zero_grad()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                super().step()

        def _logits(self, images):
            # Within a graph the casts of the weights must not be remembered.
            with torch.autocast(kind, torch.bfloat16, enabled=self.autocast, cache_enabled=False):
                return self._network(images).float()

        def step(self) -> None:
            self._graph.replay()

    variants = [
        ("eager", Eager, None, "tf32"),
        ("eager", Eager, None, "float32"),
        ("eager, autocast bfloat16", Eager, None, "bfloat16"),
        ("step in a CUDA graph", Graphed, None, "tf32"),
        ("step in a CUDA graph", Graphed, None, "float32"),
        ("step in a CUDA graph, autocast bfloat16", Graphed, None, "bfloat16"),
        ("torch.compile reduce-overhead", Eager, "reduce-overhead", "tf32"),
        ("torch.compile", Eager, "default", "tf32"),
        ("torch.compile reduce-overhead, autocast bfloat16", Eager, "reduce-overhead", "bfloat16"),
        ("torch.compile reduce-overhead", Eager, "reduce-overhead", "float32"),
    ]
    for name, base, mode, precision in variants:
        row: Row = {"name": f"PyTorch, {name}", "precision": precision}
        try:
            if base is Graphed and kind != "cuda":
                raise RuntimeError("no GPU")
            torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
            torch.backends.cudnn.allow_tf32 = precision != "float32"
            torch.compiler.reset()
            began = time.perf_counter()
            given = {"autocast": precision == "bfloat16", "compile_mode": mode}
            subject = type(base.__name__, (base,), given)(problem)
            for _ in range(3):
                subject.step()
            subject.wait()
            row["compile_s"] = time.perf_counter() - began

            def run(count, subject=subject):
                for _ in range(count):
                    subject.step()
                subject.wait()

            row |= times(run, 1, args.seconds)
            # Another of the same kind, as this one's weights are no longer those of the problem.
            fresh = base if base is Eager else Eager
            loss, grads = type("Fresh", (fresh,), given)(problem).loss_and_gradients(
                problem.images, problem.labels
            )
            row["loss_differs_by"] = abs(loss - expected_loss) / expected_loss
            names = sorted(expected)
            found, wanted = ([np.asarray(each[n]) for n in names] for each in (grads, expected))
            row["gradients_differ_by"] = norm_of_difference(found, wanted)
            row["within_bound"] = (
                row["loss_differs_by"] < LOSS_BOUNDS[precision]
                and row["gradients_differ_by"] < GRADIENT_BOUNDS[precision]
            )
        except Exception as e:
            row["error"] = f"{type(e).__name__}: {str(e).splitlines()[0][:200] if str(e) else ''}"
        yield row


def command(*flags: str, cache: Path, **env: str) -> float:
    """Runs `python -m jaxmnist.main`, its output to standard error; returns its seconds."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "jaxmnist.main", *flags],
        stdout=sys.stderr,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(cache)} | env,
        check=True,
    )
    return time.perf_counter() - start


def data_flags(args: argparse.Namespace) -> list[str]:
    """What tells a run where the data are."""
    if args.data_dir is None:
        return ["--config.dataset=mnist_sample"]
    return [f"--config.data_dir={args.data_dir}", "--config.allow_sample=False"]


def run_rows(args: argparse.Namespace) -> Iterator[Row]:
    """The paper's training by the command, with an empty cache of programs and with a full one."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "from the cache", "from the cache, bfloat16"):
            dtype = "bfloat16" if name.endswith("bfloat16") else "float32"
            workdir = Path(folder) / name.replace(" ", "-").replace(",", "")
            wall = command(
                *(f"--workdir={workdir}", f"--config.num_steps={args.run_steps}"),
                *(f"--config.dtype={dtype}", *data_flags(args)),
                cache=Path(folder) / "cache",
            )
            results = json.loads((workdir / "results.json").read_text())
            seconds = results["seconds"]
            yield {
                "name": name,
                "steps": results["step"],
                "wall_s": wall,
                "seconds": seconds,
                "after_compilation_s": seconds["train"] + seconds["eval"],
                "steps_a_second": results["step"] / seconds["train"],
                "accuracy": results["test"]["accuracy"],
                "loss": results["test"]["loss"],
            }


def seed_rows(args: argparse.Namespace) -> Iterator[Row]:
    """quick.py with one seed, and with many at once."""
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, args.seeds):
            workdir = Path(folder) / f"seeds-{count}"
            wall = command(
                *(f"--workdir={workdir}", f"--config={QUICK}", f"--config.num_seeds={count}"),
                *(f"--config.num_steps={args.seed_steps}", f"--config.seeds_per_call={count}"),
                f"--config.warmup_steps={args.seed_steps // 4}",
                *data_flags(args),
                cache=Path(folder) / "cache",
            )
            results = json.loads((workdir / "results.json").read_text())
            one = workdir / "seed-0" if count > 1 else workdir
            seconds = json.loads((one / "results.json").read_text())["seconds"]
            accuracy = results["test"]["accuracy"]
            yield {
                "name": f"{count} seeds at once" if count > 1 else "one seed",
                "seeds": count,
                "wall_s": wall,
                "seconds": seconds,
                "steps_a_second_of_all": count * args.seed_steps / seconds["train"],
                "accuracy": accuracy if count == 1 else accuracy["mean"],
                "accuracy_std": None if count == 1 else accuracy["std"],
            }


def fingerprint_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Whether the same training, and one that is resumed, ends in the same bits.

    With several flags at once, each in memory of its own. That disturbs the measurements by which
    XLA chooses among algorithms, as other programs on a GPU would.
    """
    flags = [
        "",
        "--xla_gpu_deterministic_ops=true",
        "--xla_gpu_exclude_nondeterministic_ops=true",
    ]
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(_fingerprints, args, flag) for flag in flags]
        for future in as_completed(futures):
            yield future.result()


def _fingerprints(args: argparse.Namespace, flag: str) -> Row:
    steps = args.fingerprint_steps
    # The half must be trained at the rate that the whole is trained at.
    training = [*data_flags(args), "--config.schedule=constant"]
    variables = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if flags := f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip():
        variables["XLA_FLAGS"] = flags
    row: Row = {"name": flag or "default flags", "steps": steps}

    with tempfile.TemporaryDirectory() as folder:

        def run(name: str, num_steps: int, cache: str = "cache") -> str:
            workdir = Path(folder) / name
            given = (f"--workdir={workdir}", f"--config.num_steps={num_steps}", *training)
            command(*given, cache=Path(folder) / cache, **variables)
            results = json.loads((workdir / "results.json").read_text())
            row["loss"] = results["test"]["loss"]
            return results["params_sha256"]

        try:
            row["sha256"] = run("a", steps)
            run("b", steps // 2)
            row["resumed"] = run("b", steps) == row["sha256"]
            row["again_same_programs"] = run("c", steps) == row["sha256"]
            row["again_compiled_anew"] = run("d", steps, "other-cache") == row["sha256"]
        except (subprocess.CalledProcessError, OSError, KeyError) as e:
            row["error"] = f"{type(e).__name__}: {str(e)[-200:]}"
    return row


class Section(NamedTuple):
    """A section: what measures it, its limit in seconds, the columns of its table, variables."""

    rows: Callable[[argparse.Namespace], Iterator[Row]]
    limit: float
    columns: dict[str, str]
    env: dict[str, str] = {}


_OF_STEPS = {
    "ms_a_step": "ms a step",
    "least_ms": "least",
    "most_ms": "most",
    "steps_a_second": "steps a second",
    "compile_s": "compiled in, s",
    "loss_differs_by": "loss differs by",
    "gradients_differ_by": "gradients by",
    "within_bound": "within the bound",
}
_OF_RUNS = {
    "wall_s": "command, s",
    "seconds.first_step": "first step, s",
    "seconds.compile": "compiling, s",
    "seconds.train": "training, s",
    "seconds.eval": "evaluating, s",
}
SECTIONS = {
    "run": Section(
        run_rows,
        60,
        _OF_RUNS
        | {
            "seconds.total": "in all, s",
            "after_compilation_s": "training and evaluating, s",
            "steps_a_second": "steps a second",
            "accuracy": "accuracy",
        },
    ),
    "steps": Section(step_rows, 110, _OF_STEPS),
    "torch": Section(
        torch_rows, 90, {"precision": "products"} | _OF_STEPS, {"JAX_PLATFORMS": "cpu"}
    ),
    "fingerprints": Section(
        fingerprint_rows,
        90,
        {
            "steps": "steps",
            "sha256": "params_sha256",
            "resumed": "resumed after half: the same",
            "again_same_programs": "again: the same",
            "again_compiled_anew": "again, compiled anew: the same",
        },
    ),
    "seeds": Section(
        seed_rows,
        60,
        _OF_RUNS
        | {
            "steps_a_second_of_all": "steps a second, of all seeds",
            "accuracy": "accuracy",
            "accuracy_std": "standard deviation",
        },
    ),
}


def table(columns: dict[str, str], rows: list[Row]) -> str:
    """Rows in Markdown; a row that failed has its error instead."""
    lines = ["| | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['name']} | {row['error']} |")
        elif row["name"] != "device":
            cells = [_cell(_look_up(row, column)) for column in columns]
            lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _look_up(row: Row, column: str) -> Any:
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value and abs(value) < 1e-3:
            return f"{value:.0e}"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
    return value[:8] if isinstance(value, str) and len(value) == 64 else str(value)


def run_section(name: str, argv: list[str], limit: float, take: Callable[[Row], None]) -> None:
    """Runs a section in a process of its own, and gives its rows to `take` as they come.

    The process, and all that it started, is ended after `limit` seconds.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.benchmarks.accelerator", *argv, f"--section={name}"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | SECTIONS[name].env,
        start_new_session=True,
    )

    def end() -> None:
        print(f"{name}: ended after {limit:.0f} s", file=sys.stderr)
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, end)
    timer.start()
    with process.stdout as lines:
        for line in lines:
            if line.startswith("{"):
                take(json.loads(line))
            else:
                print(line, end="", flush=True)
    if process.wait() not in (0, -signal.SIGKILL):
        take({"name": name, "error": f"ended with status {process.returncode}"})
    timer.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="tfds's folder; default: the sample digits")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="default: %(default)s")
    parser.add_argument("--limit", type=float, default=235, help="seconds for all sections")
    parser.add_argument("--steps", type=int, default=100, help="of a scanned call")
    parser.add_argument("--seconds", type=float, default=0.1, help="of each of five timings")
    parser.add_argument("--run_steps", type=int, default=20_000, help="of a whole run")
    parser.add_argument("--seed_steps", type=int, default=600, help="of a run of seeds")
    parser.add_argument("--seeds", type=int, default=64, help="that train at once")
    parser.add_argument("--fingerprint_steps", type=int, default=400, help="of those runs")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.section:
        for row in SECTIONS[args.section].rows(args):
            print(json.dumps(row), flush=True)
        return

    names = args.sections.split(",")
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"--sections: {', '.join(sorted(unknown))}: one of {', '.join(SECTIONS)}")
    results: dict[str, list[Row]] = {}
    start = time.perf_counter()
    for name in names:
        section, rows = SECTIONS[name], results.setdefault(name, [])
        left = args.limit - (time.perf_counter() - start)
        if left < 5:
            print(f"{name}: no time is left", file=sys.stderr)
            continue

        def take(row: Row, name: str = name, rows: list[Row] = rows) -> None:
            rows.append(row)
            print(f"{time.perf_counter() - start:4.0f} s {name}: {json.dumps(row)}", flush=True)
            if args.output:
                args.output.write_text(json.dumps(results, indent=2) + "\n")

        run_section(name, sys.argv[1:], min(section.limit, left), take)
    for name, rows in results.items():
        print(f"\n{name}\n\n{table(SECTIONS[name].columns, rows)}")


if __name__ == "__main__":
    main()
