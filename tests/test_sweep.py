"""A grid of runs: all its configs, none twice, the best first, and failures with their reasons."""

import csv
import json
import re
import signal
import sys
from unittest.mock import Mock

import jax
import pytest
import requests

from jaxmnist import checks, models, sweep, train
from jaxmnist.errors import UserError
from jaxmnist.record.workdir import Workdir
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
    """The sweep runs in the tests' process, whose memory is to stay as it is."""
    monkeypatch.setattr("jaxmnist.devices.tuning.keep_freed_memory", lambda: None)
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
        (
            [("optimizer", "a(x=1, y=(2, 3)),b(y=((1, 2), 3), z=4)"), ("s", "t[:1],t[:2]+u[1:]")],
            [
                [("optimizer", name), ("s", split)]
                for name in ("a(x=1, y=(2, 3))", "b(y=((1, 2), 3), z=4)")
                for split in ("t[:1]", "t[:2]+u[1:]")
            ],
        ),
    ],
)
def test_choices(swept, expected):
    assert sweep.choices(swept) == expected


def test_a_field_given_twice():
    with pytest.raises(UserError, match=r"--sweep.seed is given twice"):
        sweep.choices([("seed", "0"), ("seed", "1")])


@pytest.fixture
def compiled():
    """The names of the functions that JAX compiles, in their order."""
    names = []

    def note(event, seconds, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


def test_a_grid_with_failures(tmp_path, compiled, capsys):
    """Seeds share a compilation; a table by accuracy; run again, only failures are tried."""
    assert run(tmp_path, "--sweep.learning_rate=0.001,0.1,1e30,-1", "--sweep.seed=0,1") == 1
    assert len([name for name in compiled if "train_step" in name]) == 3, "one for each rate"
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


def test_runs_that_keep_their_best_are_compared_by_it(tmp_path):
    """On the part of the training set that a sweep takes by itself."""
    assert run(tmp_path, "--sweep.seed=0", "--config.keep_best=True", "--config.eval_every=2") == 0
    (row,) = rows(tmp_path)
    results = json.loads((tmp_path / row["workdir"] / "results.json").read_text())
    assert float(row["accuracy"]) == results["best"]["accuracy"]


def test_several_seeds_of_each(tmp_path, capsys):
    assert run(tmp_path, "--sweep.learning_rate=0.01,0.05", "--config.num_seeds=2") == 0
    for row in rows(tmp_path):
        assert float(row["accuracy_std"]) >= 0
        assert (tmp_path / row["workdir"] / "seed-1/results.json").exists()
    assert re.search(r"0\.05 +0\.\d{4} ± 0\.\d{4}", capsys.readouterr().out)


def test_a_finished_run_of_another_network_is_in_no_table(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, "--sweep.seed=0") == 0
    network = models.CNN
    other = lambda **kwargs: network(**kwargs | {"features": (16, 32)})  # noqa: E731
    monkeypatch.setattr("jaxmnist.models.CNN", other)
    assert run(tmp_path, "--sweep.seed=0") == 1
    assert "holds a run of another network: Conv_0/bias" in rows(tmp_path)[0]["failed"]


def test_what_cannot_be_printed_is_no_failure_of_a_run(tmp_path, monkeypatch):
    metrics = {name: {"mean": 0.5, "std": 0.1, "each": [0.4, 0.6]} for name in ("accuracy", "loss")}
    results = {"dataset": {"name": "mnist_sample"}, "seeds": [0, 1], "step": 4}
    results |= {"validation": metrics, "seconds": {"total": 1.0}}
    monkeypatch.setattr(train, "train_and_evaluate", lambda *args: results)
    monkeypatch.setattr(sys, "stdout", unwritable())
    assert run(tmp_path, "--sweep.seed=0,2", "--config.num_seeds=2") == 0
    assert [row["failed"] for row in rows(tmp_path)] == ["", ""]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--sweep.seed=1,2,1"], "--sweep.seed has a value twice: 1, 2, 1."),
        (["--sweep.seed=a"], "seed=a is not allowed: it must be a whole number"),
        (["--sweep.seed=0", "--config=none.py"], "there is no such file"),
        (["--sweep.seed="], "seed= is not allowed: it must be a whole number"),
        (["--sweep.seed=0", "--config.dataset=cifar10"], "dataset='cifar10': it is not prepared"),
        (["--sweep.seed=0", "--config.train_split=train["], "train_split: 'train[' names no"),
        (
            ["--sweep.seed=0", "--config.eval_split=train[3600:]"],
            "not allowed with train_split='train': both have train[3600:4000], and no model",
        ),
        (
            ["--sweep.train_split=train[:100],train[3500:3700]", "--config.eval_split=train[90%:]"],
            "not allowed with train_split='train[3500:3700]': both have train[3600:3700]",
        ),
        (
            ["--sweep.seed=0", "--config.train_split=test+train[:9]", "--config.eval_split=test"],
            "a sweep chooses by its evaluation, so eval_split='test' is not",
        ),
        (
            [
                "--sweep.eval_split=train[3900:],train[3900:]+test[:10%]",
                "--config.train_split=train[:99]",
            ],
            "so eval_split='train[3900:]+test[:10%]' is not allowed: take a part of the training",
        ),
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
    with pytest.raises(SystemExit):
        run(tmp_path, "--sweep.lr=1")
    assert "unrecognized argument: --sweep.lr" in capsys.readouterr().err


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


@pytest.fixture
def started(monkeypatch):
    """The configs of the runs that a sweep starts, in place of the runs."""
    configs = []

    def start(config, workdir, data=None):
        checks.check(config)
        configs.append(config)
        metrics = {"accuracy": 0.5, "loss": 1.0}
        where = {"dataset": {"name": config.dataset, "num_examples": {"validation": 10}}}
        where["seconds"] = {"total": 1.0}
        return {"validation": metrics, "step": config.num_steps, **where}

    monkeypatch.setattr("jaxmnist.train.train_and_evaluate", start)
    return configs


def test_what_is_refused_is_a_row_among_others(started, tmp_path, capsys):
    assert run(tmp_path, "--sweep.dataset=cifar10,mnist_sample") == 1
    assert [config.dataset for config in started] == ["mnist_sample"]
    found = rows(tmp_path)
    assert [row["dataset"] for row in found] == ["mnist_sample", "cifar10"]
    assert found[1]["failed"].startswith("dataset='cifar10': it is not prepared in")
    assert "1 of 2 runs failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AssertionError(), "AssertionError"),
        (ValueError("\n"), "ValueError"),
        (ValueError("a\nb"), "ValueError: a"),
        (UserError("make room"), "make room"),
    ],
)
def test_the_reason_of_a_failure(error, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train_and_evaluate", Mock(side_effect=error))
    assert run(tmp_path, "--sweep.seed=0") == 1
    assert [row["failed"] for row in rows(tmp_path)] == [reason]


def test_the_sample_in_place_of_mnist_is_split_as_the_sample(started, tmp_path, monkeypatch):
    monkeypatch.setattr("requests.head", Mock(side_effect=requests.ConnectionError))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    flags = ["--config.dataset=mnist"]
    assert run(tmp_path / "W", *flags, "--sweep.seed=0,1") == 0
    for config in started:
        assert config.dataset == "mnist_sample"
        assert (config.train_split, config.eval_split) == ("train[:3666]", "train[3666:]")


def name_of(field, value, folder, config):
    return sweep.workdir_of(Workdir(folder), [(field, value)], config).path.name


@pytest.mark.parametrize(
    ("field", "value"),
    [("learning_rate", "0.05"), ("learning_rate", "1e-3"), ("optimizer", "adam(b1=0.9)")],
)
def test_folders_are_called_by_what_was_chosen(field, value, config, tmp_path):
    assert name_of(field, value, tmp_path, config) == f"{field}={value}"


def test_folders_are_safe_and_unique_on_every_file_system(config, tmp_path):
    values = ["train[:400]", "train[:800]", "train_:400_", "TRAIN[:400]", "a/b", "a\\b", "a b"]
    values += ["a:b", "a*b", "Sgd", "sgd", "SGD", "ä", "1.", "1", "x" * 250, "x" * 251, "\n"]
    names = [name_of("train_split", value, tmp_path, config) for value in values]
    assert len({name.lower().rstrip(".") for name in names}) == len(values)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_.,=()%+-]{1,100}", name)
    assert names == [name_of("train_split", value, tmp_path, config) for value in values]


@pytest.mark.parametrize("chosen", ["adam(b1=0.9, b2=0.9)", "train[:400]"])
def test_a_run_in_a_folder_of_the_former_name_goes_on(chosen, config, tmp_path):
    """Unless it has brackets: of the checkpoints in those only finished runs have no need."""
    former = "optimizer=adam(b1=0.9,_b2=0.9)" if "adam" in chosen else "optimizer=train[:400]"
    old = Workdir(tmp_path / former)
    old.path.mkdir()
    assert name_of("optimizer", chosen, tmp_path, config) != former
    old.save(config)
    assert (name_of("optimizer", chosen, tmp_path, config) == former) is ("[" not in chosen)
    results = {"step": config.num_steps, "config": config.to_dict()}
    results |= {"dataset": {}, "device": {}, "versions": {}}
    old.results.write_text(json.dumps(results))
    assert name_of("optimizer", chosen, tmp_path, config) == former
    config.batch_size += 1
    assert name_of("optimizer", chosen, tmp_path, config) != former


def record(folder, config, steps, starts=()):
    """A workdir with checkpoints of some steps, as runs with `starts` leave it."""
    for step in steps:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    Workdir(folder).save(config)
    if starts:
        found = [{"step": step, "num_steps": num_steps} for step, num_steps in starts]
        (folder / "run.json").write_text(json.dumps({"starts": found}))
    return Workdir(folder)


@pytest.mark.parametrize(
    ("steps", "starts", "continued"),
    [
        ([2, 4], [(0, 4)], [(4, 4)]),
        ([2], [(0, 4), (0, 4)], [(2, 4)]),
        ([4], [], [(4, 6)]),  # From before run.json; its config says 6.
        ([4, 8], [(0, 8)], []),
        ([8], [(0, 8), (4, 8)], []),
        ([8], [(0, 4), (2, 4), (4, 8), (6, 8)], [(4, 4)]),
        ([8], [(0, 4), (4, 8), (2, 8)], [(2, 4)]),  # Of 4 the checkpoint was damaged.
        ([8], [(0, 4), (0, 8)], []),  # It was lost before its first checkpoint.
        ([], [(0, 4)], []),
    ],
)
def test_where_a_run_goes_on_from_another_num_steps(steps, starts, continued, config, tmp_path):
    workdir = record(tmp_path, config, steps, starts)
    assert sweep.continued(workdir, 8) == continued


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_continued_and_fresh_runs_are_in_no_table_together(
    num_seeds, started, config, tmp_path, capsys
):
    """And nothing is written; when all are continued alike, or none is, they are."""
    flags = [f"--config.num_seeds={num_seeds}", "--config.num_steps=8"]
    for i in (0, 10):
        folder = tmp_path / f"seed={i}"
        if num_seeds == 2:
            folder.mkdir()
            for seed in (i, i + 1):
                record(folder / f"seed-{seed}", config, [4], [(0, 4)])
        else:
            record(folder, config, [4], [(0, 4)])
    before = sorted(tmp_path.rglob("*"))
    assert run(tmp_path, "--sweep.seed=0,10,20", *flags) == 1
    wanted = r"seed=0\S* goes on at step 4 from num_steps=4, and .*seed=20\S* has one num_steps"
    assert re.search(wanted, capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before
    assert not started
    if num_seeds == 1:
        assert run(tmp_path, "--sweep.seed=0,10", *flags) == 0
        assert run(tmp_path, "--sweep.seed=20,30", *flags) == 0
        assert len(started) == 4
