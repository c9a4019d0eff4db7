"""Checkpoints: exact, kept three at a time, and not trusted when damaged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxmnist.devices.sharding import Layout
from jaxmnist.errors import UserError
from jaxmnist.record.checkpoints import Checkpoints, Damaged, restore
from jaxmnist.record.network import fingerprint
from jaxmnist.train_step import create_train_state, train_step
from tests.conftest import content


@pytest.fixture
def state(config):
    """A run's, but for a first dense layer that is cut to a fiftieth, so that tests are fast."""
    state = create_train_state(config)
    params = jax.tree.map(lambda p: p[:64] if p.size > 10**6 else p, state.params)
    opt_state = state.optimizer.tx.init(params)
    return state.replace(params=params, opt_state=opt_state)


@pytest.fixture
def target(state):
    """A saved tree's shapes."""
    return host(state)


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints")
    yield opened
    opened.close()


def test_orbax_is_imported_for_what_is_there_or_to_save(checkpoints, target, tmp_path):
    """A new run's first step does not wait for it."""
    program = """
import sys
from pathlib import Path
from jaxmnist.record import checkpoints
found = checkpoints.Checkpoints(Path(sys.argv[1]))
print(found.steps(), "orbax" in sys.modules)
found.wait()
found.close()
"""
    for folder, said in ((tmp_path / "new", "[] False"), (checkpoints.folder, "[4] True")):
        if "4" in said:
            checkpoints.save(4, target)
            checkpoints.wait()
        command = [sys.executable, "-c", program, str(folder)]
        assert subprocess.check_output(command, text=True).strip() == said


def host(state):
    return jax.tree.map(np.array, jax.device_get(state.saved_part()))


def at(state, step):
    """What is saved of `state` at another step, with parameters that tell."""
    params = jax.tree.map(lambda p: p + step, state.params)
    return host(state.replace(step=state.step + step, params=params))


def newest(checkpoints, target, parts=None):
    """The newest whole one; None if there is none."""
    trees, damaged = restore([checkpoints], target, parts)
    for each, step in damaged:
        each.set_aside(step, "damaged")
    return trees[0] if trees else None


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def save(checkpoints, state, steps):
    for step in steps:
        checkpoints.save(step, at(state, step))
    checkpoints.wait()


def test_nothing_to_restore(checkpoints, state):
    assert newest(checkpoints, host(state)) is None


def test_a_restored_state_steps_on_bit_for_bit(checkpoints, config, batch):
    step_fn = jax.jit(train_step)
    state, _ = step_fn(create_train_state(config), batch)
    target = host(state)
    checkpoints.save(1, host(state))
    state, metrics = step_fn(state, batch)
    checkpoints.wait()
    tree = newest(checkpoints, target)
    assert int(tree["step"]) == 1
    layout = Layout.create()
    restored = create_train_state(config).replace(**layout.put(tree, layout.state))
    restored, again = step_fn(restored, batch)
    assert fingerprint(restored.params) == fingerprint(state.params)
    assert fingerprint(restored.opt_state) == fingerprint(state.opt_state)
    assert again == metrics


def test_the_newest_three_are_kept(checkpoints, state, target, tmp_path):
    save(checkpoints, state, [1, 2, 3, 4, 5])
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "4", "5"]
    assert int(newest(checkpoints, target)["step"]) == 5


def delete_largest(folder):
    max(files(folder / "state"), key=lambda p: p.stat().st_size).unlink()


def truncate_all(folder):
    for path in files(folder):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte_of_the_data(folder):
    path = max(files(folder / "state"), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def empty(folder):
    for path in files(folder):
        path.unlink()


def break_the_metadata(folder):
    (folder / "state/_METADATA").write_text("{")


def delete_the_metadata(folder):
    (folder / "state/_METADATA").unlink()


def lose_the_sums(folder):
    (folder / "meta/metadata").write_text("{}")


def make_the_sums_null(folder):
    (folder / "meta/metadata").write_text("null")


def break_the_sums(folder):
    (folder / "meta/metadata").write_text("")


DAMAGES = [
    *(delete_largest, truncate_all, flip_a_byte_of_the_data, empty),
    *(break_the_metadata, delete_the_metadata, break_the_sums, lose_the_sums, make_the_sums_null),
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tensorstore's.
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_checkpoint_is_skipped_and_its_step_written_again(
    checkpoints, state, target, tmp_path, capsys, damage
):
    folder = tmp_path / "checkpoints"
    save(checkpoints, state, [10, 20])
    damage(folder / "20")

    reading = Checkpoints(folder, read_only=True)
    trees, damaged = restore([reading], target)
    assert int(trees[0]["step"]) == 10
    assert damaged == [(reading, 20)]
    reading.close()
    assert (folder / "20").is_dir()

    resumed = Checkpoints(folder)
    restored = newest(resumed, target)
    assert int(restored["step"]) == 10
    assert fingerprint(restored["params"]) == fingerprint(at(state, 10)["params"])
    assert "WARNING: the checkpoint of step 20" in (err := capsys.readouterr().err)
    assert "using that of step 10" in err
    assert (folder / "damaged-20").is_dir()
    save(resumed, state, [20])
    assert int(newest(resumed, target)["step"]) == 20
    resumed.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_where_none_is_whole_nothing_is_touched(checkpoints, state, target, tmp_path, damage):
    save(checkpoints, state, [10, 20])
    for step in ("10", "20"):
        damage(tmp_path / "checkpoints" / step)
    before = content(tmp_path)
    resumed = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"but none is whole \(step 20: .*; step 10: .*Nothing was"):
        restore([resumed], target)
    resumed.close()
    assert content(tmp_path) == before


def add_a_layer(tree):
    tree["params"]["Conv_2"] = {"kernel": np.zeros((3, 3, 64, 64), np.float32)}


def remove_a_layer(tree):
    del tree["params"]["Dense_0"]


def widen_a_layer(tree):
    tree["params"]["Dense_0"]["bias"] = np.zeros(2048, np.float32)


def change_a_type(tree):
    tree["params"]["Dense_0"]["bias"] = np.zeros(1024, np.float16)


def change_the_optimizer(tree):
    tree["opt_state"] = (*tree["opt_state"], np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (add_a_layer, r"params/Conv_2/kernel \(missing there, float32 \(3, 3, 64, 64\) now\)"),
        (remove_a_layer, r"params/Dense_0/bias \(float32 \(1024,\) there, missing now\)"),
        (widen_a_layer, r"params/Dense_0/bias \(float32 \(1024,\) there, float32 \(2048,\) now\)"),
        (change_a_type, r"params/Dense_0/bias \(float32 \(1024,\) there, float16 \(1024,\) now\)"),
        (change_the_optimizer, r"opt_state/\d \(missing there, float32 \(3,\) now\)"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_merely_differs_is_refused_and_named(
    checkpoints, state, target, tmp_path, change, difference
):
    save(checkpoints, state, [10, 20])
    before = content(tmp_path)
    change(target)
    with pytest.raises(UserError, match=difference):
        restore([checkpoints], target)
    if change is change_the_optimizer:
        tree = newest(checkpoints, target, ("step", "params"))
        assert fingerprint(tree["params"]) == fingerprint(at(state, 20)["params"])
    assert content(tmp_path) == before


def test_what_is_set_aside_is_kept(checkpoints, state, tmp_path):
    for step in (10, 20):
        save(checkpoints, state, [step, 30])
        checkpoints.set_aside(30, "damaged")
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["10", "20", "damaged-30", "damaged-30-2"]


def test_a_folder_that_may_not_be_read_is_not_damaged(
    checkpoints, state, target, tmp_path, monkeypatch
):
    """orbax takes it for one that is not there."""
    save(checkpoints, state, [10, 20])
    folder, scandir = tmp_path / "checkpoints/20/state", os.scandir

    def refuse(path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    folder.rename(tmp_path / "hidden")
    folder.mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"20 cannot be read now \(Permission denied\)"):
        restore([checkpoints], target)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError()])
def test_what_the_machine_cannot_read_is_not_damaged(
    checkpoints, state, target, tmp_path, monkeypatch, error
):
    """As for another user, or on a disk that fails: root may read everything."""
    save(checkpoints, state, [10, 20])
    before = content(tmp_path)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(checkpoints._manager, "restore", fail)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(UserError, match=r"checkpoints/20 cannot be read now \(.*try again"):
        restore([checkpoints], target)
    monkeypatch.undo()
    assert content(tmp_path) == before


def test_a_flipped_bit_is_found_where_parameters_alone_are_read(
    checkpoints, state, target, tmp_path
):
    """Also in checkpoints of before, which have a sum of the whole alone."""
    save(checkpoints, state, [10, 20])
    parts = ("step", "params")
    assert set(newest(checkpoints, target, parts)) == set(parts)
    sums = tmp_path / "checkpoints/20/meta/metadata"
    whole = json.loads(sums.read_text())
    for kept in ({"sha256": whole["sha256"]}, whole):
        sums.write_text(json.dumps(kept))
        assert int(newest(checkpoints, target, parts)["step"]) == 20
        sums.write_text(json.dumps(dict.fromkeys(kept, "0" * 64)))
        with pytest.raises(Damaged, match="its values are not"):
            checkpoints.read(20, target, parts)


def test_a_step_below_the_newest_is_written_too(checkpoints, state, target):
    """As when several seeds go on from a step that one of them is beyond."""
    save(checkpoints, state, [10, 30, 20])
    assert sorted(checkpoints.steps()) == [10, 20, 30]
    assert int(checkpoints.read(20, target)["step"]) == 20


def test_what_cannot_be_read_back_is_told_at_once(checkpoints, state, tmp_path, monkeypatch):
    """As under a path that orbax takes for a pattern, where it loses what it writes."""
    monkeypatch.setattr(ocp.CheckpointManager, "save", lambda *args, **kwargs: None)
    with pytest.raises(UserError, match=r"step 10 in .* was written, but cannot be read back"):
        checkpoints.save(10, at(state, 10))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot open checkpoints in"):
        Checkpoints(tmp_path / "file/checkpoints")
