"""Which runs lie below a folder, what became of each, and how they are named to a person."""

import json
import shutil

import pytest

import jaxmnist
from jaxmnist import files, predict
from jaxmnist.errors import UserError
from jaxmnist.record import find_runs


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


def names(folder):
    return [str(path.relative_to(folder)) for path in find_runs.find(folder)]


def test_the_runs_below_a_folder(folder):
    assert sorted(names(folder)) == ["a", "b", "seeds", "sweep/learning_rate=0.1"]
    assert names(folder / "a") == ["."]
    assert names(folder / "not a run") == []
    shutil.rmtree(folder / "b/checkpoints")  # What is left still tells of a run.
    (folder / "b/metrics.jsonl").unlink()
    (folder / "link").symlink_to(folder / "a")
    assert sorted(names(folder)) == ["a", "b", "seeds", "sweep/learning_rate=0.1"]


def test_what_became_of_each_run(folder, trained):
    results = json.loads((trained / "results.json").read_text())
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    own = {"dataset": "mnist_sample", "eval_every": 60, "log_every": 20, "num_steps": 120}
    assert find_runs.describe(folder / "a") == {
        "workdir": str(folder / "a"),
        "date": results["starts"][0]["time"],
        "state": "finished",
        "step": 120,
        "num_steps": 120,
        "differs": own,
        "split": "test",
        "accuracy": results["test"]["accuracy"],
        "accuracy_std": None,
        "seconds": round(records[-1]["seconds"]),
    }
    swept = find_runs.describe(folder / "sweep/learning_rate=0.1")
    assert swept["differs"] == own | {"learning_rate": 0.1}
    stopped = find_runs.describe(folder / "b")
    assert (stopped["state"], stopped["step"], stopped["num_steps"]) == ("stopped", 120, 500)
    assert stopped["accuracy"] == results["test"]["accuracy"]  # Of its newest evaluation.
    seeds = find_runs.describe(folder / "seeds")
    assert (seeds["accuracy"], seeds["accuracy_std"]) == (0.9, 0.01)
    assert seeds["differs"] == own | {"num_seeds": 3}
    assert seeds["seconds"] == round(3 * records[-1]["seconds"])


def test_a_run_that_is_running(folder):
    with files.lock(folder / "b/.lock", "busy"):
        assert find_runs.describe(folder / "b")["state"] == "running"
    (folder / "b/.lock").touch()  # As a process that was killed leaves it.
    assert find_runs.describe(folder / "b")["state"] == "stopped"


def test_a_run_that_is_damaged(folder):
    (folder / "b/config.json").write_text("{")
    (folder / "a/metrics.jsonl").write_text("{\n")
    assert find_runs.describe(folder / "b")["state"] == "damaged"
    described = find_runs.describe(folder / "a")
    assert (described["state"], described["seconds"]) == ("finished", 0)


@pytest.mark.parametrize("time", [5, "not a time"])
def test_values_of_another_type_are_damage(folder, time):
    run = json.loads((folder / "b/run.json").read_text())
    run["starts"][0]["time"] = time
    (folder / "b/run.json").write_text(json.dumps(run))
    described = find_runs.describe(folder / "b")
    assert described.pop("workdir") == str(folder / "b")
    assert described.pop("state") == "damaged"
    assert set(described.values()) == {None}


def test_a_run_in_words(folder):
    date, *words = find_runs.in_words(find_runs.describe(folder / "seeds"))
    assert date.startswith("20")
    assert words[:2] == ["finished", "test 0.9000 ± 0.0100"]
    assert words[3] == "dataset=mnist_sample eval_every=60 log_every=20 num_seeds=3 num_steps=120"
    (folder / "b/config.json").write_text("{")
    assert find_runs.in_words(find_runs.describe(folder / "b")) == ["", "damaged", "", "", ""]


def test_other_commands_name_the_runs_of_a_folder(folder, capsys):
    assert predict.main([f"--workdir={folder}", "x.png"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {folder} holds 4 runs: {folder}/a (finished, test 0.9")
    assert f"{folder}/b (stopped at step 120 of 500, test 0.9" in said
    assert said.endswith(". Name one of them.\n")
    with pytest.raises(UserError, match=r"seeds holds 3 runs: .*/seed-0 \(finished, test 0\.9"):
        jaxmnist.load(folder / "seeds")


def test_of_many_runs_some_are_named(folder, tmp_path):
    for i in range(9):
        shutil.copytree(folder / "a", folder / f"c{i}")
    said = find_runs.several(folder)
    assert said.startswith(f"{folder} holds 13 runs: ")
    assert said.count(";") == 10
    assert said.endswith(f"and 3 more, which 'jaxmnist runs {folder}' lists")
    (tmp_path / "empty").mkdir()
    assert find_runs.several(tmp_path / "empty") is None


def test_the_seeds_of_a_run_are_those_of_its_config(folder):
    run = folder / "seeds"
    three = [run / f"seed-{seed}" for seed in range(3)]
    assert find_runs.seeds(run) == three
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"num_seeds": 2, "seed": 1}))
    assert find_runs.seeds(run) == three[1:]
    (run / "config.json").unlink()  # Of single runs.
    three[1].rename(run / "seed-10")
    (run / "seed-x").mkdir()
    shutil.copy(three[0] / "config.json", run / "seed-x")
    assert find_runs.seeds(run) == [three[0], three[2], run / "seed-10"]
    assert find_runs.seeds(folder / "a") == [folder / "a"]
    assert find_runs.seeds(folder / "nowhere") == [folder / "nowhere"]
