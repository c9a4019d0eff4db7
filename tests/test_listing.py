"""Which runs lie below a folder, what became of each, and what other commands say of several."""

import json
import re
import shutil

import pytest

import jaxmnist
from jaxmnist import cli, files, listing, predict
from jaxmnist.errors import UserError


@pytest.fixture
def folder(trained, tmp_path):
    """A folder with a run that finished, one that stopped, one of three seeds, and a sweep."""
    top = tmp_path / "runs"
    config = json.loads((trained / "config.json").read_text())
    results = json.loads((trained / "results.json").read_text())

    def copy(name, ignored=(), **fields):
        path = shutil.copytree(trained, top / name, ignore=shutil.ignore_patterns(*ignored))
        (path / "config.json").write_text(json.dumps(config | fields))
        return path

    copy("a")
    copy("sweep/learning_rate=0.1", learning_rate=0.1)
    stopped = copy("b", ["results.json"], num_steps=500)
    seeds = top / "seeds"
    for seed in (0, 1, 2):
        copy(f"seeds/seed-{seed}", seed=seed)
    (seeds / "config.json").write_text(json.dumps(config | {"num_seeds": 3}))
    accuracy = {"mean": 0.9, "std": 0.01, "each": [0.89, 0.9, 0.91]}
    (seeds / "results.json").write_text(
        json.dumps({**results, "test": {"accuracy": accuracy, "loss": accuracy}})
    )
    (top / "not a run").mkdir()
    (top / "not a run/config.json").write_text("{}")
    (top / ".hidden").mkdir()
    shutil.copytree(stopped, top / ".hidden/run")
    return top


def rows(folder, capsys):
    assert cli.main(["runs", str(folder), "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {row["workdir"].removeprefix(f"{folder}/"): row for row in found}


def test_what_became_of_each_run(folder, trained, capsys):
    found = rows(folder, capsys)
    assert set(found) == {"a", "b", "seeds", "sweep/learning_rate=0.1"}
    results = json.loads((trained / "results.json").read_text())
    assert found["a"]["accuracy"] == results["test"]["accuracy"]
    assert (found["a"]["state"], found["a"]["step"], found["a"]["split"]) == (
        *("finished", 120),
        "test",
    )
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert found["a"]["seconds"] == round(records[-1]["seconds"])
    assert found["a"]["date"] == results["starts"][0]["time"]
    own = {"dataset": "mnist_sample", "eval_every": 60, "log_every": 20, "num_steps": 120}
    assert found["a"]["differs"] == own
    assert found["sweep/learning_rate=0.1"]["differs"] == own | {"learning_rate": 0.1}
    assert (found["b"]["state"], found["b"]["step"], found["b"]["num_steps"]) == (
        *("stopped", 120),
        500,
    )
    assert found["b"]["accuracy"] == results["test"]["accuracy"]  # Of its newest evaluation.
    assert (found["seeds"]["accuracy"], found["seeds"]["accuracy_std"]) == (0.9, 0.01)
    assert found["seeds"]["differs"] == own | {"num_seeds": 3}


def test_a_run_that_is_running(folder, capsys):
    with files.lock(folder / "b/.lock", "busy"):
        assert rows(folder, capsys)["b"]["state"] == "running"
    (folder / "b/.lock").touch()  # As a process that was killed leaves it.
    assert rows(folder, capsys)["b"]["state"] == "stopped"


def test_a_run_that_is_damaged_is_listed_too(folder, capsys):
    (folder / "b/config.json").write_text("{")
    (folder / "a/metrics.jsonl").write_text("{\n")
    found = rows(folder, capsys)
    assert found["b"]["state"] == "damaged"
    assert (found["a"]["state"], found["a"]["seconds"]) == ("finished", 0)


def test_the_table(folder, capsys):
    assert cli.main(["runs", str(folder)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", head) == [
        *("run", "started", "state", "accuracy", "time", "differs from the default in")
    ]
    assert len(lines) == 4
    (stopped,) = (line for line in lines if line.startswith("b "))
    assert re.search(
        r"^b  +20\d\d-\d\d-\d\d \d\d:\d\d  stopped at step 120 of 500  test 0.9", stopped
    )
    assert stopped.endswith("dataset=mnist_sample eval_every=60 log_every=20 num_steps=500")
    assert any("test 0.9000 ± 0.0100" in line for line in lines)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_table_on_a_terminal(folder, columns, monkeypatch, capsys):
    """What has no room beside the name stands below it, and nothing is cut."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("jaxmnist.errors.Output.isatty", lambda self: True)
    assert cli.main(["runs", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    words = " ".join(" ".join(lines).split())
    assert "b 20" in words
    for text in ("stopped at step 120 of 500", "num_steps=500", "test 0.9000 ± 0.0100"):
        assert text in words
    assert (len(lines) == 5) == (columns == 200)


@pytest.mark.parametrize("time", ["5", '"not a time"'])
def test_values_of_another_type_are_damage(folder, time, capsys):
    run = json.loads((folder / "b/run.json").read_text())
    run["starts"][0]["time"] = json.loads(time)
    (folder / "b/run.json").write_text(json.dumps(run))
    found = rows(folder, capsys)
    assert found["b"]["state"] == "damaged"
    assert found["a"]["state"] == "finished"
    assert cli.main(["runs", str(folder)]) == 0


def test_folders_without_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["runs"]) == 1
    assert capsys.readouterr().err.startswith("error: runs: there is no such folder")
    assert cli.main(["runs", "."]) == 1
    assert capsys.readouterr().err == "error: . holds no runs: name the folder that does.\n"


def test_other_commands_name_the_runs_of_a_folder(folder, capsys):
    assert predict.main([f"--workdir={folder}", "x.png"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {folder} holds 4 runs: {folder}/a (finished, test 0.9")
    assert f"{folder}/b (stopped at step 120 of 500, test 0.9" in said
    assert said.endswith(". Name one of them.\n")
    with pytest.raises(UserError, match=r"seeds holds 3 runs: .*/seed-0 \(finished, test 0\.9"):
        jaxmnist.load(folder / "seeds")


def test_of_many_runs_some_are_named(folder):
    for i in range(9):
        shutil.copytree(folder / "a", folder / f"c{i}")
    said = listing.several(folder)
    assert said.startswith(f"{folder} holds 13 runs: ")
    assert said.count(";") == 10
    assert said.endswith(f"and 3 more, which 'jaxmnist runs {folder}' lists")
