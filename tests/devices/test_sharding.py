"""One to eight devices train alike: virtual ones of a CPU."""

import contextlib
import functools
import hashlib
import math
import re

import jax
import numpy as np
import pytest
from jax.extend.backend import clear_backends
from jax.sharding import AbstractMesh

from jaxmnist import models
from jaxmnist.augment import create_augment
from jaxmnist.compile import CompiledSteps, data_keys
from jaxmnist.config import get_config
from jaxmnist.data.input_pipeline import Data, OrderedBatches, ShuffledBatches
from jaxmnist.devices import tuning
from jaxmnist.devices.cpu_layers import fastest_functions
from jaxmnist.devices.sharding import Layout, fetch
from jaxmnist.errors import UserError
from jaxmnist.evaluate import evaluate
from jaxmnist.models import create_model
from jaxmnist.optimizers import create_optimizer
from jaxmnist.train_step import init_state
from tests.test_main import RUN, records, results, wait_for_step

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


@pytest.fixture(scope="module", autouse=True)
def eight_devices():
    """JAX has eight devices for the tests of this file, and as many as before after them.

    Only for this file: XLA makes at least as many threads as there are devices. Therefore a step
    on one device of eight gives other bits, and takes longer, than where there is only one.
    """
    before = jax.config.values["jax_num_cpu_devices"]
    for count in (8, before):
        clear_backends()
        jax.config.update("jax_num_cpu_devices", count)
        if count == 8:
            yield


@contextlib.contextmanager
def devices(count):
    """Within, JAX seems to have that many devices."""
    found = jax.devices()[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: found)
        patch.setattr(jax, "device_count", lambda: count)
        yield


def small_config():
    config = get_config()
    config.dataset, config.batch_size = "mnist_sample", 40
    config.optimizer, config.learning_rate, config.schedule = "sgd", 0.001, "constant"
    return config


def start(seeds=(0,), functions=None, **network):
    """What a training on all devices begins with: the steps, the examples, batches and state.

    `functions` are those that the network is computed with; None: those of the devices. `network`
    are other fields of the config.
    """
    layout, config = Layout.create(len(seeds)), small_config()
    config.update(network)
    examples = Data().load(config, layout)[1][0]
    batches = ShuffledBatches(examples, data_keys(seeds, layout), 40, layout)
    model = create_model(config, 10, functions or fastest_functions(layout))
    init = functools.partial(init_state, model, create_optimizer(config))
    steps = CompiledSteps(init, (28, 28, 1), layout)
    return steps, examples, batches, steps.init(seeds)


def collectives(compiled):
    """What devices exchange in a program."""
    return re.findall(COLLECTIVES, compiled.as_text())


def num_exchanged(compiled):
    """How many float32 values a program's all-reduces exchange."""
    lines = [
        x.split(" all-reduce(")[0] for x in compiled.as_text().splitlines() if "all-reduce(" in x
    ]
    shapes = [shape for line in lines for shape in re.findall(r"f32\[([\d,]*)\]", line)]
    return sum(math.prod(int(size) for size in shape.split(",") if size) for shape in shapes)


def train_20_steps(count):
    """On `count` devices: losses, the batches' sum, what is exchanged, how much, a part's size.

    With dropout: another mask for a single example would show in the loss's third digit.
    """
    with devices(count):
        steps, _, batches, state = start()
        step_fn, layout = steps.train_step(40), steps.layout
        losses, digest = [], hashlib.sha256()
        for step in range(20):
            batch = batches(step)
            for x in batch.values():
                digest.update(np.asarray(x).tobytes())
            state, metrics = layout.wait_on_cpus(step_fn(state, batch))
            losses.append(float(metrics["loss"]))
    part = batch["image"].addressable_shards[0].data.shape[0]
    return losses, digest.hexdigest(), collectives(step_fn), num_exchanged(step_fn), part


@pytest.fixture(scope="module")
def on_one_device():
    return train_20_steps(1)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_losses_agree_to_rounding_on_any_number_of_devices(on_one_device, count):
    losses, digest, exchanged, num_values, part = train_20_steps(count)
    assert digest == on_one_device[1], "other batches"
    np.testing.assert_allclose(losses, on_one_device[0], rtol=3e-6)
    assert part == 40 // count
    assert on_one_device[2] == []
    assert exchanged == ["all-reduce"], "all gradients, in one go, and nothing else"
    assert num_values == 3_274_634 + 2, "of the parameters' size, with the loss and the accuracy"


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_batch_normalization_is_over_the_batches_of_all_devices(seeds):
    """Augmented, on one device and on four: the losses, the running averages, an evaluation."""
    found = []
    for count in (1, 4):
        with devices(count):
            varied = {"batch_norm": True, "hidden": 32}
            # On one device the plain layers, which are those that several have: other forms have
            # other rounding errors.
            functions = models.Functions() if count == 1 else None
            steps, examples, batches, state = start(seeds, functions, **varied)
            init = functools.partial(
                init_state, state.model, state.optimizer, augment=create_augment("affine()")
            )
            steps = CompiledSteps(init, (28, 28, 1), steps.layout)
            state, losses = steps.init(seeds), []
            for step in range(5):
                taken = steps.train_step(40)(state, batches(step))
                state, metrics = steps.layout.wait_on_cpus(taken)
                losses.append(fetch(metrics["loss"]))
            evaluation = evaluate(steps, state, OrderedBatches(examples, 400, steps.layout))
        found.append((losses, fetch(state.model_state), evaluation.metrics))
    # Each device's own mean and variance would be off by per cents.
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * np.abs(a).max())
    assert found[0][1]["batch_stats"]["Conv_1"]["BatchNorm_0"]["mean"].any()


@pytest.mark.parametrize(
    ("layers", "count", "seeds", "mesh", "images", "bias"),
    [
        ("plain", 1, range(1), {"seed": 1, "data": 4}, [10, 28, 28, 1], [10]),
        ("plain", 3, range(1), {"seed": 1, "data": 4}, [3, 10, 28, 28, 1], [10]),
        ("cpu", 1, range(2), {"seed": 2, "data": 2}, [1, 20, 28, 28, 1], [1, 10]),
        ("plain", 2, range(6), {"seed": 2, "data": 2}, [3, 2, 20, 28, 28, 1], [3, 10]),
        ("plain", 1, range(4), {"seed": 4, "data": 1}, [1, 40, 28, 28, 1], [1, 10]),
    ],
)
def test_devices_exchange_sums_alone(monkeypatch, layers, count, seeds, mesh, images, bias):
    """No device gathers another's examples or activations; runs are spread over devices first.

    On four devices: with the layers that accelerators have or a CPU's, `count` steps a call, and
    one run or several at once. `images` and `bias` are the shapes of a device's part.
    """
    with devices(4):
        monkeypatch.setattr(tuning, "compiler_options", lambda dtype: FAST)
        functions = models.Functions() if layers == "plain" else None
        steps, examples, batches, state = start(seeds, functions)
        batch, step = batches(0, count), steps.train_step(40, count)
        evaluation = steps.eval_step(OrderedBatches(examples, 100, steps.layout).batch_size)
    assert dict(steps.layout.mesh.shape) == mesh
    for array, shape in ((batch["image"], images), (state.params["Dense_1"]["bias"], bias)):
        assert [*array.addressable_shards[0].data.shape] == shape
    # Metrics of runs on different devices are gathered, so that the host can read them.
    metrics = {"all-gather"} if mesh["seed"] > 1 else set()
    sums = {"all-reduce"} if mesh["data"] > 1 else set()
    for program in (step, evaluation):
        assert set(collectives(program)) in (metrics | sums, sums)


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


@pytest.mark.parametrize("count", [1, 4])
def test_arrays_come_and_go_unchanged(count):
    with devices(count):
        layout = Layout.create()
    tree = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.float32(2)}
    put = jax.block_until_ready(layout.put(tree))
    assert len(put["a"].devices()) == count
    assert put["a"].sharding.is_equivalent_to(layout.everywhere, 2)
    jax.tree.map(np.testing.assert_array_equal, fetch(put), tree)
    tree["a"][:] = 0
    assert put["a"][1, 2] == 5, "the host's memory is used"


def test_checkpoints_move_between_numbers_of_devices(here, tmp_path, capsys):
    """From 8 devices to 1 and back, as if nothing had happened, to rounding."""
    for name, counts in (("from 8", (8, 1)), ("from 1", (1, 8))):
        for count, num_steps in zip(counts, (20, 40), strict=True):
            with devices(count):
                more = {"config.num_steps": num_steps}
                assert here(workdir=tmp_path / name, **SLOW | more) == 0
            out = capsys.readouterr().out
            assert f" {count} cpu" in out
        assert "resuming from step 20" in out
    both = [records(tmp_path / name) for name in ("from 8", "from 1")]
    assert [r["step"] for r in both[0]] == [10, 20, 20, 30, 40, 40]
    for a, b in zip(*both, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=3e-6)


def test_a_batch_for_other_devices_leaves_nothing(here, tmp_path, capsys):
    with devices(8):
        assert here(workdir=tmp_path / "W", **RUN) == 1
    said = (
        "error: batch_size=20 is not allowed on 8 devices, which share it: the nearest that they "
        "divide is 16 or 24.\n"
    )
    assert capsys.readouterr() == ("", said)
    assert not (tmp_path / "W").exists()


def test_killed_on_two_devices_and_resumed_is_bit_identical(command, tmp_path):
    recipe = RUN | {"config.batch_size": 40, "config.schedule": "constant"}
    killed, whole = folders = [tmp_path / name for name in ("killed", "whole")]
    two = {"JAX_NUM_CPU_DEVICES": "2"}
    run = command("main", env=two, workdir=killed, **recipe)
    wait_for_step(run, killed, 50)
    run.kill()
    run.wait()
    recipe["config.num_steps"] = 100
    runs = [command("main", env=two, workdir=folder, **recipe) for folder in folders]
    assert [run.wait() for run in runs] == [0, 0], [run.err for run in runs]
    assert re.search(r"resuming from step [48]0", runs[0].out)
    assert all(" 2 cpu" in run.out for run in runs)
    assert results(whole)["params_sha256"] == results(killed)["params_sha256"]
