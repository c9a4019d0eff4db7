"""A grid of runs: all its configs, none twice, the best first, and failures with their reasons."""

import csv
import re
import signal
import sys

import pytest

from jaxmnist import runs, sweep, train
from jaxmnist.errors import UserError
from jaxmnist.sharding import Layout
from tests.conftest import unwritable
from tests.test_main import SHORT

FLAGS = [f"--{name}={value}" for name, value in SHORT.items() if name != "config.eval_split"]


def run(workdir, *flags):
    return sweep.main([f"--workdir={workdir}", *FLAGS, *flags])


def rows(workdir):
    with (workdir / "sweep.csv").open() as f:
        return list(csv.DictReader(f))


@pytest.fixture(autouse=True)
def _no_process_settings(monkeypatch):
    """The sweep runs in the tests' process, whose memory and cache are to stay as they are."""
    monkeypatch.setattr("jaxmnist.device.keep_freed_memory", lambda: None)
    previous = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, previous)


@pytest.mark.parametrize(
    ("swept", "expected"),
    [
        ([("seed", "0,1")], [[("seed", "0")], [("seed", "1")]]),
        (
            [("a", "1, 2"), ("b", "x,y")],
            [[("a", i), ("b", j)] for i in ("1", "2") for j in ("x", "y")],
        ),
        (
            [("optimizer", "sgd,adam(b1=0.9, b2=0.99),lion")],
            [[("optimizer", name)] for name in ("sgd", "adam(b1=0.9, b2=0.99)", "lion")],
        ),
    ],
)
def test_choices(swept, expected):
    assert sweep.choices(swept) == expected


def test_a_field_given_twice():
    with pytest.raises(UserError, match=r"--sweep.seed is given twice"):
        sweep.choices([("seed", "0"), ("seed", "1")])


def test_a_grid_with_failures(tmp_path, capsys):
    """One compilation for all rates; a table by accuracy; run again, only failures are tried."""
    step_fn = train.jit_train_step(1, Layout.create())
    before = step_fn._cache_size()
    assert run(tmp_path, "--sweep.learning_rate=0.001,0.1,1e30,-1", "--sweep.seed=0,1") == 1
    assert step_fn._cache_size() - before <= 1
    captured = capsys.readouterr()
    assert "4 of 8 runs failed; the same command tries them again" in captured.err
    found = rows(tmp_path)
    assert len(found) == 8
    accuracies = [float(row["accuracy"]) for row in found[:4]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert {row["learning_rate"] for row in found[:4]} == {"0.001", "0.1"}
    for row in found[4:]:
        reason = "the loss is" if row["learning_rate"] == "1e30" else "learning_rate=-1.0 is not"
        assert row["failed"].startswith(reason)
        assert row["accuracy"] == ""
    table = captured.out[captured.out.index("learning_rate  seed  validation accuracy") :]
    assert [line.split()[:2] for line in table.splitlines()[1:9]] == [
        [row["learning_rate"], row["seed"]] for row in found
    ]
    assert f"{accuracies[0]:.4f}" in table.splitlines()[1]

    assert run(tmp_path, "--sweep.learning_rate=0.001,0.1", "--sweep.seed=0,1,2") == 0
    captured = capsys.readouterr()
    assert captured.out.count("it had finished before") == 4
    assert len(rows(tmp_path)) == 6


def test_it_validates_on_a_part_of_the_training_set(tmp_path, capsys):
    assert run(tmp_path, "--sweep.seed=0") == 0
    assert "3,666 training and 334 evaluation examples" in capsys.readouterr().out
    assert run(tmp_path / "test", "--sweep.seed=0", "--config.eval_split=test") == 1
    assert "a sweep chooses by its evaluation, so eval_split='test'" in capsys.readouterr().err
    assert run(tmp_path / "test", "--sweep.seed=0", "--config.train_split=train[:100]") == 1
    assert "take a part of the training set for it" in capsys.readouterr().err
    assert not (tmp_path / "test").exists()


def test_several_seeds_of_each(tmp_path, capsys):
    assert run(tmp_path, "--sweep.learning_rate=0.01,0.05", "--config.num_seeds=2") == 0
    for row in rows(tmp_path):
        assert float(row["accuracy_std"]) >= 0
        assert (tmp_path / row["workdir"] / "seed-1/results.json").exists()
    assert re.search(r"0\.05 +0\.\d{4} ± 0\.\d{4}", capsys.readouterr().out)


def test_what_cannot_be_printed_is_no_failure_of_a_run(tmp_path, monkeypatch):
    metrics = {name: {"mean": 0.5, "std": 0.1, "each": [0.4, 0.6]} for name in ("accuracy", "loss")}
    results = {"dataset": {"name": "mnist_sample"}, "seeds": [0, 1], "step": 4}
    results |= {"validation": metrics, "seconds": {"total": 1.0}}
    monkeypatch.setattr(runs, "train_and_evaluate", lambda *args: results)
    monkeypatch.setattr(sys, "stdout", unwritable())
    assert run(tmp_path, "--sweep.seed=0,2", "--config.num_seeds=2") == 0
    assert [row["failed"] for row in rows(tmp_path)] == ["", ""]


def test_a_failure_without_words_has_a_name(tmp_path, monkeypatch):
    def fail(*args):
        raise AssertionError

    monkeypatch.setattr(runs, "train_and_evaluate", fail)
    assert run(tmp_path, "--sweep.seed=0") == 1
    assert [row["failed"] for row in rows(tmp_path)] == ["AssertionError"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--sweep.lr=1"], "lr=1 is not allowed: the config has no such field"),
        (["--sweep.seed=a"], "seed=a is not allowed: it must be a whole number"),
        (["--sweep.seed=0", "--config=none.py"], "there is no such file"),
    ],
)
def test_mistakes_start_nothing(flags, sentence, tmp_path, capsys):
    assert run(tmp_path / "W", *flags) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "W").exists()


def test_nothing_to_try(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path)
    assert "--sweep.FIELD=A,B,..." in capsys.readouterr().err


def test_killed_and_started_again(command, tmp_path):
    """In a process of its own: the run that was cut off resumes, the one before is not repeated."""
    flags = {"config.dataset": "mnist_sample", "config.num_steps": 40, "config.log_every": 5}
    flags |= {"config.checkpoint_every": 5, "sweep.seed": "0,1"}
    first = command("sweep", workdir=tmp_path, **flags)
    for line in first.process.stdout:
        if line.startswith("step 20/40") and (tmp_path / "seed=1").exists():
            break
    first.kill()
    first.wait()
    second = command("sweep", workdir=tmp_path, **flags)
    assert second.wait() == 0, second.err
    assert "it had finished before" in second.out
    assert re.search(r"resuming from step (10|15|20)", second.out)
    assert len(rows(tmp_path)) == 2
