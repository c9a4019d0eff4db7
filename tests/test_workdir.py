"""The record of a run: one writer, one training, whole files."""

import errno
import os

import pytest

from jaxmnist.errors import UserError
from jaxmnist.workdir import Workdir, write_json


@pytest.fixture
def workdir(tmp_path):
    with Workdir(tmp_path / "run").locked():
        yield Workdir(tmp_path / "run")


def test_only_one_process_at_a_time(workdir):
    with pytest.raises(UserError, match="another process is training in"), workdir.locked():
        pass


def test_the_lock_ends_with_the_run(tmp_path):
    for _ in range(2):
        with Workdir(tmp_path).locked():
            pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"workdir .*file/run cannot be written \(Not a directory\)"),
        Workdir(tmp_path / "file/run").locked(),
    ):
        pass


def test_the_config_comes_back(workdir, config):
    assert workdir.load_config() is None
    workdir.save_config(config)
    assert workdir.load_config() == config


def test_another_training_is_refused_by_its_fields(workdir, config):
    config.seed = 5
    workdir.save_config(config)
    config.seed = 0
    workdir.save_config(config)  # There is no checkpoint yet.
    (workdir.checkpoints / "2").mkdir(parents=True)
    config.num_steps = 9
    config.eval_every = 1
    workdir.save_config(config)
    config.dropout_rate = 0.1
    with pytest.raises(UserError, match=r"trained differently: dropout_rate \(0.4 there, 0.1 now"):
        workdir.save_config(config)
    assert workdir.load_config().dropout_rate == 0.4


def test_a_damaged_config_is_one_sentence(workdir):
    workdir.config.write_text("{")
    with pytest.raises(UserError, match=r"config.json is damaged"):
        workdir.load_config()


def test_a_full_disk_leaves_the_old_file_whole(workdir, monkeypatch):
    write_json(workdir.results, {"step": 1})

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(workdir.results, {"step": 2})
    assert workdir.load_results() == {"step": 1}
    assert [p.name for p in workdir.path.iterdir() if "new" in p.name] == []
