"""What tests/test_sharding.py asks of one to eight devices: a program, since JAX makes them once.

Run with eight virtual devices; prints JSON. Its argument is a folder for its runs.
"""

import contextlib
import hashlib
import io
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxmnist import main, train
from jaxmnist.config import get_config
from jaxmnist.data.input_pipeline import Data, ShuffledBatches, ordered_batches
from jaxmnist.devices.sharding import Layout
from jaxmnist.train_step import create_train_state, data_keys
from tests.test_main import RUN

COLLECTIVES = r" (all-\w+|reduce-scatter|collective-\w+)[.\w-]*\("
# Few passes of LLVM: what devices exchange is decided before.
FAST = {"xla_backend_optimization_level": 0}
# The cosine depends on num_steps. At the tutorial's rate 20 steps do not amplify rounding errors;
# at the default's they do, as in any training: there a change of the initial parameters by 1e-7
# alone moves losses by 1e-2.
SLOW = RUN | {
    "config.batch_size": 40,
    "config.schedule": "constant",
    "config.optimizer": "sgd",
    "config.learning_rate": 0.001,
}

# Layers, steps a call, seeds -> the mesh, and a device's part of the images and of a bias.
CASES = [
    (("plain", 1, [0]), ({"seed": 1, "data": 4}, [10, 28, 28, 1], [10])),
    (("plain", 3, [0]), ({"seed": 1, "data": 4}, [3, 10, 28, 28, 1], [10])),
    (("cpu", 1, [0, 1]), ({"seed": 2, "data": 2}, [1, 20, 28, 28, 1], [1, 10])),
    (("plain", 2, [*range(6)]), ({"seed": 2, "data": 2}, [2, 3, 20, 28, 28, 1], [3, 10])),
    (("plain", 1, [0, 1, 2, 3]), ({"seed": 4, "data": 1}, [1, 40, 28, 28, 1], [1, 10])),
]


@contextlib.contextmanager
def devices(count):
    """Within, there are as many."""
    found = jax.devices()[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: found)
        patch.setattr(jax, "device_count", lambda: count)
        yield


def config():
    found = get_config()
    found.dataset, found.batch_size = "mnist_sample", 40
    return found


def steps():
    """The losses of 20 steps, and how a step's arrays and sums are spread."""
    slow = config()
    slow.optimizer, slow.learning_rate, slow.schedule = "sgd", 0.001, "constant"
    layout = Layout.create()
    train_examples = Data().load(slow, layout)[1][0]
    batches = ShuffledBatches(train_examples, data_keys([0], layout), 40, layout)
    state = create_train_state(slow, layout=layout)
    step_fn = train.jit_train_step(1, layout).lower(state, batches(0)).compile()
    losses, digest = [], hashlib.sha256()
    for step in range(20):
        batch = batches(step)
        digest.update(np.asarray(batch["image"]).tobytes() + np.asarray(batch["label"]).tobytes())
        state, metrics = layout.settle(step_fn(state, batch))
        losses.append(float(metrics["loss"]))
    shards = {batch["image"].addressable_shards[0].data.shape[0], len(jax.devices())}
    return losses, digest.hexdigest(), re.findall(COLLECTIVES, step_fn.as_text()), sorted(shards)


def programs(kind, count, seeds):
    """The mesh, the collectives of a training and an evaluation step, and a device's shapes."""
    layout = Layout.create(len(seeds))
    examples = Data().load(config(), layout)[1][1]
    state = create_train_state(config(), 10, layout, seeds)
    if kind == "plain":
        state = state.replace(apply_fn=state.apply_fn.__self__.clone(conv_pool=None).apply)
    batches = ShuffledBatches(examples, data_keys(seeds, layout), 40, layout)
    batch = batches(0, count if count > 1 else None)
    found = [
        train.jit_train_step(count, layout).lower(state, batch),
        train.jit_eval_step(layout).lower(state, next(ordered_batches(examples, 100, layout))),
    ]
    texts = [program.compile(FAST).as_text() for program in found]
    collectives = [sorted(set(re.findall(COLLECTIVES, text))) for text in texts]
    arrays = batch["image"], state.params["Dense_1"]["bias"]
    local = [x.addressable_shards[0].data.shape for x in arrays]
    return dict(layout.mesh.shape), collectives, local


def run(count, workdir, **flags):
    """The command's status, and what it says, on so many devices."""
    out, err = io.StringIO(), io.StringIO()
    args = [f"--{name}={value}" for name, value in {"workdir": workdir, **flags}.items()]
    with devices(count), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main.main(args)
    return status, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    folder, answers = Path(sys.argv[1]), {"steps": {}}
    for count in (1, 2, 4, 8):
        with devices(count):
            answers["steps"][count] = steps()
    with devices(4):
        answers["programs"] = [programs(*case) for case, _ in CASES]
    answers["moves"] = [
        [
            run(count, folder / f"{pair[0]}", **SLOW | {"config.num_steps": num_steps})
            for count, num_steps in zip(pair, (20, 40), strict=True)
        ]
        for pair in ((8, 1), (1, 8))
    ]
    answers["refused"] = run(8, folder / "W", **RUN)
    json.dump(answers, sys.stdout)
