"""One to eight devices train alike: virtual ones of a CPU, in processes that have them."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from jaxmnist.devices.sharding import Layout, fetch
from jaxmnist.errors import UserError
from tests.devices.eight_devices import CASES
from tests.test_main import RUN, records, results, wait_for_step


def on_devices(count):
    flag = f"--xla_force_host_platform_device_count={count}"
    return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}"}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """The answers of a process that has eight devices, and the folder of its runs."""
    folder = tmp_path_factory.mktemp("eight")
    run = subprocess.run(
        [sys.executable, "-m", "tests.eight_devices", folder],
        env=os.environ | on_devices(8),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout) | {"folder": folder}


@pytest.mark.parametrize("count", [2, 4, 8])
def test_losses_agree_to_rounding_on_any_number_of_devices(eight, count):
    """With dropout: another mask for a single example would show in the third digit."""
    losses, digest, collectives, shards = eight["steps"][str(count)]
    expected, expected_digest, none, _ = eight["steps"]["1"]
    assert digest == expected_digest, "other batches"
    np.testing.assert_allclose(losses, expected, rtol=3e-6)
    assert shards == sorted({40 // count, count})
    assert none == []
    assert collectives == ["all-reduce"], "all gradients, in one go, and nothing else"


def test_devices_exchange_sums_alone(eight):
    """No device gathers another's examples or activations; runs are spread over devices first.

    With the layers that accelerators have, several steps a call, several runs at once.
    """
    found = eight["programs"]
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


def test_checkpoints_move_between_numbers_of_devices(eight):
    """From 8 devices to 1 and back, as if nothing had happened, to rounding."""
    for (first, second), counts in zip(eight["moves"], ((8, 1), (1, 8)), strict=True):
        for (status, out, err), count in zip((first, second), counts, strict=True):
            assert status == 0, err
            assert f" {count} cpu" in out
        assert "resuming from step 20" in second[1]
    both = [records(eight["folder"] / name) for name in ("8", "1")]
    assert [r["step"] for r in both[0]] == [10, 20, 20, 30, 40, 40]
    for a, b in zip(*both, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=3e-6)


def test_a_batch_for_other_devices_leaves_nothing(eight):
    said = (
        "error: batch_size=20 is not allowed on 8 devices, which share it: the nearest that they "
        "divide is 16 or 24.\n"
    )
    assert eight["refused"] == [1, "", said]
    assert not (eight["folder"] / "W").exists()


# Both in one process, which compiles once.
TWICE = """
import sys
from jaxmnist.main import main
for workdir in sys.argv[1:3]:
    assert main([f"--workdir={workdir}", *sys.argv[3:]]) == 0
"""


def test_killed_on_two_devices_and_resumed_is_bit_identical(command, tmp_path):
    recipe = RUN | {"config.batch_size": 40, "config.schedule": "constant"}
    folders = [tmp_path / name for name in ("killed", "whole")]
    run = command("main", env=on_devices(2), workdir=folders[0], **recipe)
    wait_for_step(run, folders[0], 50)
    run.kill()
    run.wait()
    flags = [f"--{name}={value}" for name, value in {**recipe, "config.num_steps": 100}.items()]
    both = subprocess.run(
        [sys.executable, "-c", TWICE, *folders, *flags],
        env=os.environ | on_devices(2),
        capture_output=True,
        text=True,
    )
    assert both.returncode == 0, both.stderr
    assert re.search(r"resuming from step [48]0", both.stdout)
    assert " 2 cpu" in both.stdout
    killed, whole = (results(folder)["params_sha256"] for folder in folders)
    assert whole == killed
