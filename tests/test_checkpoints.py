"""Checkpoints: exact, kept three at a time, and not trusted when damaged."""

import jax
import numpy as np
import pytest

from jaxmnist.checkpoints import Checkpoints, fingerprint, saved_part
from jaxmnist.errors import UserError
from jaxmnist.sharding import Layout
from jaxmnist.train import jit_train_step
from jaxmnist.train_state import create_train_state


@pytest.fixture
def state(config):
    return create_train_state(config)


@pytest.fixture
def target(state):
    """A saved tree's shapes."""
    return host(state)


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints")
    yield opened
    opened.close()


def host(state):
    return jax.tree.map(np.array, jax.device_get(saved_part(state)))


def at(state, step):
    """What is saved of `state` at another step, with parameters that tell."""
    params = jax.tree.map(lambda p: p + step, state.params)
    return host(state.replace(step=state.step + step, params=params))


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def save(checkpoints, state, steps):
    for step in steps:
        checkpoints.save(step, at(state, step))
    checkpoints.wait()


def test_nothing_to_restore(checkpoints, state):
    assert checkpoints.restore(host(state)) is None


def test_a_restored_state_steps_on_bit_for_bit(checkpoints, config, state, batch):
    step_fn = jit_train_step()
    state, _ = step_fn(state, batch)
    target = host(state)
    checkpoints.save(1, host(state))
    state, metrics = step_fn(state, batch)
    checkpoints.wait()
    tree = checkpoints.restore(target)
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
    assert int(checkpoints.restore(target)["step"]) == 5


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tensorstore's.
@pytest.mark.parametrize(
    "damage",
    [delete_largest, truncate_all, flip_a_byte_of_the_data, empty],
    ids=lambda f: f.__name__,
)
def test_a_damaged_checkpoint_is_skipped_and_its_step_written_again(
    checkpoints, state, target, tmp_path, capsys, damage
):
    folder = tmp_path / "checkpoints"
    save(checkpoints, state, [10, 20])
    damage(folder / "20")

    reading = Checkpoints(folder, read_only=True)
    assert int(reading.restore(target)["step"]) == 10
    reading.close()
    assert (folder / "20").is_dir()

    resumed = Checkpoints(folder)
    restored = resumed.restore(target)
    assert int(restored["step"]) == 10
    assert fingerprint(restored["params"]) == fingerprint(at(state, 10)["params"])
    assert "WARNING: the checkpoint of step 20" in capsys.readouterr().err
    assert (folder / "damaged-20").is_dir()
    save(resumed, state, [20])
    assert int(resumed.restore(target)["step"]) == 20
    resumed.close()


def test_what_is_not_finite_is_not_saved(checkpoints, state, tmp_path):
    save(checkpoints, state, [1])
    params = jax.tree.map(lambda p: p.at[0].set(np.inf), state.params)
    with pytest.raises(UserError, match="the parameters are not finite after step 2"):
        checkpoints.save(2, host(state.replace(params=params)))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot open checkpoints in"):
        Checkpoints(tmp_path / "file/checkpoints")


def test_fingerprint_tells_values_names_and_types_apart():
    tree = {"a": np.arange(4, dtype=np.float32)}
    others = [
        {"b": np.arange(4, dtype=np.float32)},
        {"a": np.arange(4, dtype=np.int32)},
        {"a": np.arange(4, dtype=np.float32).reshape(2, 2)},
        {"a": np.array([0, 1, 2, np.nextafter(3, 4, dtype=np.float32)], np.float32)},
    ]
    assert len({fingerprint(t) for t in (tree, *others)}) == 5
    assert fingerprint(tree) == fingerprint(jax.device_put(tree))
