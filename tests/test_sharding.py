"""One to eight devices train alike: virtual ones of a CPU, in processes of their own."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from jaxmnist.errors import UserError
from jaxmnist.sharding import Layout, fetch
from tests.test_main import RUN, records, results, wait_for_step

# At the tutorial's rate 50 steps do not amplify rounding errors; at the default's they do, as in
# any training: there a change of the initial parameters by 1e-7 alone moves losses by 1e-2.
STEPS = """
import hashlib, json, re, sys
import jax, numpy as np
from jaxmnist import config, datasets, device, train
from jaxmnist.input_pipeline import Data, ShuffledBatches
from jaxmnist.sharding import Layout
from jaxmnist.train_state import create_train_state, data_keys

config = config.get_config()
config.dataset, config.batch_size = "mnist_sample", 40
config.optimizer, config.learning_rate = "sgd", 0.001
layout = Layout.create()
train_examples = Data().load(config, layout)[1][0]
batches = ShuffledBatches(train_examples, data_keys([0], layout), 40, layout)
state, step_fn = create_train_state(config, layout=layout), train.jit_train_step(1, layout)
program = step_fn.lower(state, batches(0)).compile().as_text()
losses, digest = [], hashlib.sha256()
for step in range(50):
    batch = batches(step)
    digest.update(np.asarray(batch["image"]).tobytes() + np.asarray(batch["label"]).tobytes())
    state, metrics = layout.settle(step_fn(state, batch))
    losses.append(float(metrics["loss"]))
collectives = re.findall(r" (all-\\w+|reduce-scatter|collective-\\w+)[.\\w-]*\\(", program)
shards = {batch["image"].addressable_shards[0].data.shape[0], len(jax.devices())}
json.dump([losses, digest.hexdigest(), collectives, sorted(shards)], sys.stdout)
"""


def on_devices(count):
    flag = f"--xla_force_host_platform_device_count={count}"
    return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}"}


@pytest.fixture(scope="module")
def some_steps():
    found = {}
    for count in (1, 2, 4, 8):
        run = subprocess.run(
            [sys.executable, "-c", STEPS],
            env=os.environ | on_devices(count),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        found[count] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("count", [2, 4, 8])
def test_losses_agree_to_rounding_on_any_number_of_devices(some_steps, count):
    """With dropout: another mask for a single example would show in the third digit."""
    losses, digest, collectives, shards = some_steps[count]
    expected, expected_digest, none, _ = some_steps[1]
    assert digest == expected_digest, "other batches"
    np.testing.assert_allclose(losses, expected, rtol=3e-6)
    assert shards == sorted({40 // count, count})
    assert none == []
    assert collectives == ["all-reduce"], "all gradients, in one go, and nothing else"


# The layers that accelerators have, several steps a call, two runs at once, on four devices.
PROGRAMS = """
import json, re, sys
import jax, jax.numpy as jnp
from jaxmnist import config, train
from jaxmnist.input_pipeline import Data, ShuffledBatches, ordered_batches
from jaxmnist.sharding import Layout
from jaxmnist.train_state import create_train_state, data_keys

config = config.get_config()
config.dataset, config.batch_size = "mnist_sample", 40
cases = []
for kind, count, seeds in json.loads(sys.argv[1]):
    layout = Layout.create(len(seeds))
    examples = Data().load(config, layout)[1][1]
    state = create_train_state(config, 10, layout, seeds)
    if kind == "plain":
        state = state.replace(apply_fn=state.apply_fn.__self__.clone(conv_pool=None).apply)
    batches = ShuffledBatches(examples, data_keys(seeds, layout), 40, layout)
    batch = batches(0, count if count > 1 else None)
    programs = [
        train.jit_train_step(count, layout).lower(state, batch),
        train.jit_eval_step(layout).lower(state, next(ordered_batches(examples, 100, layout))),
    ]
    pattern = r" (all-\\w+|reduce-scatter|collective-\\w+)[.\\w-]*\\("
    found = [sorted(set(re.findall(pattern, p.compile().as_text()))) for p in programs]
    arrays = batch["image"], state.params["Dense_1"]["bias"]
    local = [x.addressable_shards[0].data.shape for x in arrays]
    cases.append([dict(layout.mesh.shape), found, local])
json.dump(cases, sys.stdout)
"""


# Layers, steps a call, seeds -> the mesh, and a device's part of the images and of a bias.
CASES = [
    (("plain", 1, [0]), ({"seed": 1, "data": 4}, [10, 28, 28, 1], [10])),
    (("plain", 3, [0]), ({"seed": 1, "data": 4}, [3, 10, 28, 28, 1], [10])),
    (("cpu", 1, [0, 1]), ({"seed": 2, "data": 2}, [1, 20, 28, 28, 1], [1, 10])),
    (("plain", 2, [*range(6)]), ({"seed": 2, "data": 2}, [2, 3, 20, 28, 28, 1], [3, 10])),
    (("plain", 1, [0, 1, 2, 3]), ({"seed": 4, "data": 1}, [1, 40, 28, 28, 1], [1, 10])),
]


def test_devices_exchange_sums_alone():
    """No device gathers another's examples or activations; runs are spread over devices first."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAMS, json.dumps([case for case, _ in CASES])],
        env=os.environ | on_devices(4),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    for (_, (mesh, *parts)), (found_mesh, (step, evaluation), local) in zip(
        CASES, found, strict=True
    ):
        assert found_mesh == mesh
        assert local == parts
        # Metrics of runs on different devices are gathered, so that the host can read them.
        metrics = ["all-gather"] if mesh["seed"] > 1 else []
        sums = ["all-reduce"] if mesh["data"] > 1 else []
        assert step in (metrics + sums, sums)
        assert evaluation in (metrics + sums, sums)


@pytest.mark.parametrize(
    ("batch_size", "count", "nearest"),
    [(100, 8, "96 or 104"), (101, 2, "100 or 102"), (103, 8, "104"), (97, 8, "96"), (1, 4, "4")],
)
def test_a_batch_that_devices_do_not_divide_is_refused(batch_size, count, nearest):
    layout = Layout(AbstractMesh((1, count), ("seed", "data")))
    with pytest.raises(UserError, match=rf"on {count} devices.* divide is {nearest}\.$"):
        layout.check(batch_size)
    layout.check(count * 3)
    assert layout.round_up(batch_size) - batch_size in range(count)
    assert layout.round_up(batch_size) % count == 0


def test_arrays_come_and_go_unchanged(key):
    layout = Layout.create()
    tree = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.float32(2)}
    put = jax.block_until_ready(layout.put(tree))
    assert put["a"].sharding.is_equivalent_to(layout.everywhere, 2)
    jax.tree.map(np.testing.assert_array_equal, fetch(put), tree)
    tree["a"][:] = 0
    assert put["a"][1, 2] == 5, "the host's memory is used"


# The cosine depends on num_steps.
RECIPE = RUN | {"config.batch_size": 40, "config.schedule": "constant"}


def run_on(command, count, workdir, **flags):
    run = command("main", env=on_devices(count), workdir=workdir, **RECIPE | flags)
    assert run.wait() == 0, run.err
    return run


def test_checkpoints_move_between_numbers_of_devices(command, tmp_path):
    """From 8 devices to 1 and back, as if nothing had happened, to rounding."""
    slow = {"config.optimizer": "sgd", "config.learning_rate": 0.001}
    for first, second in ((8, 1), (1, 8)):
        workdir = tmp_path / f"{first}"
        run_on(command, first, workdir, **slow | {"config.num_steps": 20})
        run = run_on(command, second, workdir, **slow | {"config.num_steps": 40})
        assert "resuming from step 20" in run.out
        assert f" {second} cpu" in run.out
    both = [records(tmp_path / name) for name in ("8", "1")]
    assert [r["step"] for r in both[0]] == [10, 20, 20, 30, 40, 40]
    for a, b in zip(*both, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=3e-6)


def test_killed_on_two_devices_and_resumed_is_bit_identical(command, tmp_path):
    run_on(command, 2, tmp_path / "whole", **{"config.num_steps": 100})
    run = command("main", env=on_devices(2), workdir=tmp_path / "killed", **RECIPE)
    wait_for_step(run, tmp_path / "killed", 50)
    run.kill()
    run.wait()
    resumed = run_on(command, 2, tmp_path / "killed", **{"config.num_steps": 100})
    assert re.search(r"resuming from step [48]0", resumed.out)
    whole, killed = (results(tmp_path / name)["params_sha256"] for name in ("whole", "killed"))
    assert whole == killed


def test_a_batch_for_other_devices_leaves_nothing(command, tmp_path):
    run = command("main", env=on_devices(8), workdir=tmp_path / "W", **RUN)
    assert run.wait() == 1
    assert run.err == (
        "error: batch_size=20 is not allowed on 8 devices, which share it: the nearest that they "
        "divide is 16 or 24.\n"
    )
    assert not (tmp_path / "W").exists()
