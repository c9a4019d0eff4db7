"""What a dry run says, and that it writes nothing."""

import re
import shutil

import pytest

from jaxmnist import cli, dry_run
from jaxmnist.devices import tuning
from tests.conftest import content

SHORT = ["--dry_run", "--config.dataset=mnist_sample", "--config.batch_size=20"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setattr(dry_run, "_SECONDS", 0.0)
    monkeypatch.setattr(tuning, "keep_freed_memory", lambda: None)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def said(capsys, *args):
    assert cli.main(["train", *SHORT, *args]) == 0
    return capsys.readouterr().out


def test_what_would_be_trained(tmp_path, capsys):
    text = said(
        *(capsys, f"--workdir={tmp_path}/W", "--config.num_steps=600", "--config.warmup_steps=100"),
        *("--config.schedule=linear", "--config.learning_rate=0.2", "--config.eval_every=200"),
    )
    assert text.startswith(
        "data      mnist_sample: 4,000 examples to train on (train), 1,000 to evaluate on (test)\n"
    )
    assert re.search(r"network   layer +output shape +parameters\n +Conv_0 +14x14x32 +832\n", text)
    assert re.search(r"Dropout_0 +1024 +0\n +Dense_1 +10 +10,250\n +all +3,274,634\n", text)
    assert "\ntraining  600 steps of 20 by sgd(momentum=0.9)\n" in text
    assert (
        "\nschedule  linear, learning rate 0 at step 0, 0.2 at step 100, 0.12 at step 300, 0 at "
        "step 600\n"
    ) in text
    assert re.search(
        r"\ntime      about \d+:\d\d: \d+:\d\d for 600 steps of \d+\.\d ms, \d+:\d\d for 3 "
        r"evaluations, \d+:\d\d to start and compile\n",
        text,
    )
    assert re.search(r"\nmemory    25 MiB for parameters and the optimizer's state, \d+ MiB", text)
    assert text.endswith(f"\nworkdir   {tmp_path}/W: a new run\n          nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_there(trained, tmp_path, capsys):
    """It goes on from where it is, as its own config says, and is left as it was."""
    workdir = shutil.copytree(trained, tmp_path / "run")
    before = content(workdir)
    assert cli.main(["train", f"--workdir={workdir}", "--dry_run"]) == 0
    text = capsys.readouterr().out
    finished = "it holds this run, finished; --config.num_steps=240 continues it\n"
    assert f"workdir   {workdir}: {finished}" in text
    assert "time  " not in text  # Nothing is measured for it.
    assert cli.main(["train", f"--workdir={workdir}", "--dry_run", "--config.num_steps=200"]) == 0
    text = capsys.readouterr().out
    assert "it holds this run at step 120, from which it goes on" in text
    assert re.search(r" \d+:\d\d for 80 steps of ", text)
    assert cli.main(["train", f"--workdir={workdir}", "--dry_run", "--config.seed=1"]) == 1
    assert "trained differently: seed (0 there, 1 now)" in capsys.readouterr().err
    for flags, wanted in (
        ([f"--workdir={workdir}", "--config.num_seeds=2"], "holds one run, and num_seeds=2 now"),
        ([f"--workdir={tmp_path}"], f"{tmp_path} holds 1 run: {workdir} (finished"),
    ):
        assert cli.main(["train", "--dry_run", *flags]) == 1
        assert wanted in capsys.readouterr().err
    assert content(workdir) == before


def test_nothing_is_written_anywhere(command, tmp_path):
    """Data that are not there are not downloaded, and programs not kept for another run."""
    env = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": "", "HOME": str(tmp_path)}
    flags = {"config.dataset": "fashion_mnist", "config.data_dir": tmp_path / "data"}
    run = command("main", "--dry_run", env=env, workdir=tmp_path / "W", **flags)
    assert run.wait() == 0, run.err
    assert "fashion_mnist: 60,000 examples to train on (train), 10,000 to evaluate on" in run.out
    assert f"not prepared in {tmp_path}/data yet: it would be downloaded\n" in run.out
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_pictures_is_looked_at_and_nothing_is_prepared(tmp_path, capsys):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(30):
            (tmp_path / "pets" / name / f"{i}.png").touch()
    flags = [f"--config.dataset=folder:{tmp_path}/pets", "--config.image_shape=8,8,3"]
    before = content(tmp_path)
    text = said(capsys, f"--workdir={tmp_path}/W", "--config.prepare=resize", *flags)
    assert re.match(
        rf"data      folder:{tmp_path}/pets: \d+ examples to train on \(train\), ", text
    )
    assert "\n          2 classes, images of 8x8x3\n" in text
    assert content(tmp_path) == before
    assert not (tmp_path / "home").exists()
