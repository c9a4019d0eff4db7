"""The command `runs`: its table, its JSON, and folders without runs."""

import json
import re
import shutil

import pytest

from jaxmnist import cli
from jaxmnist.record import find_runs


@pytest.fixture
def folder(trained, tmp_path):
    """A folder with a run that finished and one that stopped."""
    config = json.loads((trained / "config.json").read_text())
    shutil.copytree(trained, tmp_path / "runs/a")
    stopped = shutil.copytree(trained, tmp_path / "runs/b")
    (stopped / "results.json").unlink()
    (stopped / "config.json").write_text(json.dumps(config | {"num_steps": 500}))
    return tmp_path / "runs"


def test_as_json(folder, capsys):
    assert cli.main(["runs", str(folder), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["workdir"] for row in rows] == [f"{folder}/a", f"{folder}/b"]
    assert rows == [find_runs.describe(folder / name) for name in ("a", "b")]


def test_the_oldest_comes_first(folder, capsys):
    run = json.loads((folder / "b/run.json").read_text())
    run["starts"][0]["time"] = "2020-01-01T00:00:00+00:00"
    (folder / "b/run.json").write_text(json.dumps(run))
    assert cli.main(["runs", str(folder)]) == 0
    assert [line[:2] for line in capsys.readouterr().out.splitlines()] == ["ru", "b ", "a "]


def test_the_table(folder, capsys):
    assert cli.main(["runs", str(folder)]) == 0
    head, _, stopped = capsys.readouterr().out.splitlines()
    assert re.split("  +", head) == [
        *("run", "started", "state", "accuracy", "time", "differs from the default in")
    ]
    assert re.search(
        r"^b  +20\d\d-\d\d-\d\d \d\d:\d\d  stopped at step 120 of 500  test 0.9", stopped
    )
    assert stopped.endswith("dataset=mnist_sample eval_every=60 log_every=20 num_steps=500")


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
    for text in ("stopped at step 120 of 500", "num_steps=500", "test 0.9"):
        assert text in words
    assert (len(lines) == 3) == (columns == 200)


def test_a_run_that_is_damaged_is_listed_too(folder, capsys):
    (folder / "b/config.json").write_text("{")
    assert cli.main(["runs", str(folder)]) == 0
    assert re.search(r"^b +damaged$", capsys.readouterr().out, re.MULTILINE)


def test_folders_without_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["runs"]) == 1
    assert capsys.readouterr().err.startswith("error: runs: there is no such folder")
    assert cli.main(["runs", "."]) == 1
    assert capsys.readouterr().err == "error: . holds no runs: name the folder that does.\n"
