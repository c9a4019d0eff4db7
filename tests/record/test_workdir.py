"""The record of a run: one writer, one training, whole files."""

import dataclasses
import errno
import json
import os

import pytest

from jaxmnist.config import get_config
from jaxmnist.data.datasets import describe
from jaxmnist.errors import UserError
from jaxmnist.files import write_json
from jaxmnist.record.workdir import Workdir

INFO = describe(get_config())


@pytest.fixture
def workdir(tmp_path):
    with Workdir(tmp_path / "run").locked():
        yield Workdir(tmp_path / "run")


def test_only_one_process_at_a_time(workdir):
    with pytest.raises(UserError, match="another process is training in"), workdir.locked():
        pass


def test_the_lock_ends_with_the_run_and_leaves_nothing(tmp_path):
    for _ in range(2):
        with Workdir(tmp_path).locked():
            assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        assert list(tmp_path.iterdir()) == []
    (tmp_path / ".lock").touch()  # As filelock left it.
    with Workdir(tmp_path).locked():
        pass
    assert (tmp_path / ".lock").read_bytes() == b""


def test_a_refused_run_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="no"), Workdir(tmp_path / "run").locked():
        raise UserError("no")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"workdir .*file/run cannot be written \(Not a directory\)"),
        Workdir(tmp_path / "file/run").locked(),
    ):
        pass


def test_the_config_comes_back(workdir, config):
    assert workdir.load_config() is None
    workdir.save(config)
    assert workdir.load_config() == config


NETWORK = {
    "fields": {"features": [32, 64], "kernel_size": 5},
    "params": {"Conv_0/bias": "float32 (32,)", "Dense_0/bias": "float32 (1024,)"},
}


def test_another_training_is_refused_by_its_fields(workdir, config):
    config.seed = 5
    workdir.save(config)
    config.seed = 0
    workdir.check(config)  # There is no checkpoint yet.
    workdir.save(config)
    (workdir.checkpoints / "8").mkdir(parents=True)
    config.num_steps = 9
    config.eval_every = 1
    workdir.check(config)
    config.dropout_rate = 0.1
    with pytest.raises(UserError, match=r"trained differently: dropout_rate \(0.4 there, 0.1 now"):
        workdir.check(config)
    config.dropout_rate, config.num_steps = 0.4, 7
    with pytest.raises(UserError, match=r"is at step 8, beyond num_steps=7"):
        workdir.check(config)


@pytest.mark.parametrize(
    ("part", "name", "value", "difference"),
    [
        ("params", "Conv_0/bias", "float32 (16,)", r"Conv_0/bias \(float32 \(32,\) there, float32"),
        (
            "params",
            "Conv_2/bias",
            "float32 (9,)",
            r"Conv_2/bias \(missing there, float32 \(9,\) now",
        ),
        ("params", "Dense_0/bias", None, r"Dense_0/bias \(float32 \(1024,\) there, missing now"),
        ("fields", "kernel_size", 3, r"kernel_size \(5 there, 3 now\)"),
        ("fields", "activation", "relu", None),  # A field that is new, where all else is the same.
        ("fields", "kernel_size", None, None),
    ],
)
def test_another_network_is_refused_by_its_first_difference(
    workdir, config, part, name, value, difference
):
    workdir.save_start(0, config, NETWORK, INFO, None)
    workdir.check_network({})  # There is no checkpoint yet.
    (workdir.checkpoints / "8").mkdir(parents=True)
    workdir.check_network(NETWORK)
    changed = {name: value for name, value in (NETWORK[part] | {name: value}).items() if value}
    if difference is None:
        workdir.check_network(NETWORK | {part: changed})
        return
    with pytest.raises(UserError, match=f"holds a run of another network: {difference}"):
        workdir.check_network(NETWORK | {part: changed})


def test_what_is_recorded_of_the_data_counts_and_not_what_is_known_today(workdir, config):
    assert workdir.dataset_info(config) == describe(config)
    other = describe(config).preparation | {"box": 18}
    workdir.run.write_text(json.dumps({"preparation": other}))  # As older versions wrote it.
    assert workdir.dataset_info(config) == dataclasses.replace(describe(config), preparation=other)
    info = dataclasses.replace(INFO, name=config.dataset, class_names=["a", "b"], sha256="c" * 64)
    workdir.save_start(0, config, NETWORK, info, None)
    assert workdir.dataset_info(config) == info


def test_every_process_that_trained_on_is_recorded(workdir, config):
    """By where it started and how many steps it was to take; what was lost is left out."""

    def starts(step, before=None):
        found = workdir.save_start(step, config, NETWORK, INFO, before)
        assert workdir.load_run()["starts"] == found
        return [(start["step"], start["num_steps"]) for start in found]

    assert starts(0) == [(0, 6)]
    assert starts(0) == [(0, 6)]  # It was killed before its first checkpoint.
    assert starts(4) == [(0, 6), (4, 6)]
    config.num_steps = 9
    assert starts(6) == [(0, 6), (4, 6), (6, 9)]
    assert starts(4) == [(0, 6), (4, 9)]  # The checkpoint of step 6 was damaged.
    workdir.run.unlink()  # As in a workdir from before there was a run.json.
    old = config.copy_and_resolve_references()
    old.num_steps = 6
    assert starts(6, old) == [(0, 6), (6, 9)]


def test_a_damaged_config_is_one_sentence(workdir):
    wrong = ("{", "[]", "null", "5", '{"num_steps": "x"}', '{"num_steps": {"a": 1}}')
    for text in wrong:
        workdir.config.write_text(text)
        with pytest.raises(UserError, match=r"config.json is damaged") as caught:
            workdir.load_config()
        assert "\n" not in str(caught.value)
    workdir.results.write_text("[]")
    with pytest.raises(UserError, match=r"results.json is damaged .it holds no JSON object"):
        workdir.load_results()


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("run", '{"network": "x"}', "run.json is damaged: delete it, and it is made again"),
        ("run", '{"network": {"params": 3}}', "run.json is damaged"),
        ("run", '{"starts": [{}]}', "run.json is damaged"),
        ("run", '{"preparation": 5}', "run.json is damaged"),
        ("run", "null", "run.json is damaged"),
        ("results", '{"step": 8}', r"results.json is damaged \(it lacks 'config'\): delete it"),
        ("config", '{"seed": null}', "config.json is damaged .seed=None is not allowed"),
        ("config", '{"dataset": 5}', "config.json is damaged .*"),
        ("run", '{"dataset": 5}', "run.json is damaged"),
        ("run", '{"dataset": {}, "preparation": {}}', "run.json is damaged"),
        ("run", '{"dataset": null}', "run.json is damaged"),
    ],
)
def test_json_of_another_form_is_one_sentence(workdir, name, text, sentence):
    getattr(workdir, name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        getattr(workdir, f"load_{name}")()


def test_a_file_that_cannot_be_read_is_one_sentence(workdir):
    workdir.run.mkdir()
    with pytest.raises(UserError, match=r"run.json cannot be read \(Is a directory\)"):
        workdir.load_run()


def test_a_full_disk_leaves_the_old_file_whole(workdir, monkeypatch):
    write_json(workdir.results, {"step": 1})

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(workdir.results, {"step": 2})
    assert json.loads(workdir.results.read_text()) == {"step": 1}
    assert [p.name for p in workdir.path.iterdir() if "new" in p.name] == []
