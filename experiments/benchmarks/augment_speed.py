"""Times augmentation beside a training step of the paper's network, or draws what it does.

python -m experiments.benchmarks.augment_speed [--picture=FILE.png]

Batches of 100, medians of interleaved rounds. With --picture nothing is timed: rows of digits, the
first column as they are, the others as two examples of the config's `augment` vary them.
"""

import argparse
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from jaxmnist.augment import create_augment
from jaxmnist.config import get_config
from jaxmnist.data import datasets
from jaxmnist.data.input_pipeline import to_float
from jaxmnist.devices import tuning
from jaxmnist.devices.cpu_layers import fastest_functions
from jaxmnist.devices.sharding import Layout
from jaxmnist.models import create_model
from jaxmnist.optimizers import create_optimizer
from jaxmnist.train_step import init_state, train_step

BATCH, ROUNDS, CALLS = 100, 20, 5
EXAMPLE = (
    "affine(rotate=12, shift=2, scale=0.1, shear=0.1), elastic(alpha=25, sigma=4), "
    "strokes(thin=0.7, thick=0.7), lines(gaps=0.2, remains=0.2)"
)
# One digit in each of corrupt's ten ways.
EXAMPLE_WITH_CORRUPT = "distort(share=1.0), corrupt(share=1.0)"
TEXTS = (
    *("affine()", "elastic()", "distort()", "flip()", "cutout()", "strokes()", "lines()"),
    *("corrupt()", "distort(), corrupt()", EXAMPLE),
)


def measure() -> dict[str, list[float]]:
    """Seconds of a step (""), of each augmentation (its text) and of a step with it ("+ text")."""
    config, key = get_config(), jax.random.key(0)
    split = datasets.load(datasets.SAMPLE, ["train"]).splits[0]
    batch = {
        "image": to_float(split.images[:BATCH]),
        "label": split.labels[:BATCH].astype(np.int32),
    }
    model = create_model(config, 10, fastest_functions(Layout.create()))
    calls = {}
    for text in ("", *TEXTS):
        augment = create_augment(text)

        def step(state, batch, augment=augment):
            varied = augment(jax.random.fold_in(state.dropout_key, state.step), batch["image"])
            return train_step(state, batch | {"image": varied})

        # Each has a state, which it gives away.
        calls[f"+ {text}" if text else ""] = _Steps(
            _jit(step, donate_argnums=0), init_state(model, create_optimizer(config), 0), batch
        )
        if text:
            function, images = _jit(augment), jax.device_put(batch["image"])
            calls[text] = lambda function=function, images=images: function(key, images)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(ROUNDS + 1):
        # There and back, so that none is always the one after the same.
        for name in list(calls)[:: 1 if index % 2 else -1]:
            for _ in range(CALLS):
                start = time.perf_counter()
                jax.block_until_ready(calls[name]())
                if index:  # The first round compiles.
                    seconds[name].append(time.perf_counter() - start)
    return seconds


class _Steps:
    def __init__(self, step, state, batch):
        self._step, self._state, self._batch = step, state, jax.device_put(batch)

    def __call__(self):
        self._state, metrics = self._step(self._state, self._batch)
        return self._state, metrics


def _jit(function, **options):
    return jax.jit(function, compiler_options=tuning.compiler_options(), **options)


def table(seconds: dict[str, list[float]]) -> str:
    """The medians and quartiles in Markdown."""
    step = statistics.median(seconds[""])
    lines = ["| | ms (quartiles) | of a step |", "|---|---|---|"]
    for name, each in seconds.items():
        lower, median, upper = (1e3 * s for s in statistics.quantiles(each, n=4))
        label = f"a step {name}".strip() if not name or name.startswith("+") else name
        lines.append(
            f"| {label} | {median:.2f} ({lower:.2f} to {upper:.2f}) | {median / step / 1e3:.3f} |"
        )
    return "\n".join(lines)


def picture(digits: int = 10, draws: int = 5) -> Image.Image:
    """A row for each digit: it, and draws of both examples; black on white, twice the size."""
    split = datasets.load(datasets.SAMPLE, ["train"]).splits[0]
    chosen = [np.flatnonzero(split.labels == digit)[0] for digit in range(digits)]
    images = to_float(split.images[chosen])
    columns = [np.maximum(images, 0.15)]  # The originals, on grey.
    for text in (EXAMPLE, EXAMPLE_WITH_CORRUPT):
        augment = create_augment(text)
        columns += [augment(jax.random.key(i), images) for i in range(draws)]
    # (column, digit, height, width, 1) to rows of digits, each with a margin.
    grid = np.pad(np.stack(columns)[..., 0], ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows = grid.transpose(1, 2, 0, 3).reshape(digits * grid.shape[2], -1)
    grey = (255 - 255 * rows).round().astype(np.uint8)
    # 32 greys, for a small file.
    return Image.fromarray(grey | 7).resize((2 * grey.shape[1], 2 * grey.shape[0]), Image.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, help="a PNG file for the picture")
    args = parser.parse_args()
    if args.picture:
        picture().save(args.picture, optimize=True)
    else:
        tuning.keep_freed_memory()
        print(table(measure()))


if __name__ == "__main__":
    main()
