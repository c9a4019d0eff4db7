"""The tables of experiments/README.md are those of the files in results/, and count rightly."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments import recipes
from jaxmnist.config import get_config

README = recipes.RESULTS.parent / "README.md"


def results(accuracy, seed=0, split="test", **fields):
    """What results.json holds of a run, or of several seeds."""
    config = get_config()
    config.update(fields | {"seed": seed, "data_dir": "somewhere"})
    loss = {"each": [0.1] * len(accuracy)} if isinstance(accuracy, list) else 0.1
    seeds = {"seeds": list(range(seed, seed + len(accuracy)))} if isinstance(accuracy, list) else {}
    accuracy = {"each": accuracy} if isinstance(accuracy, list) else accuracy
    return seeds | {
        split: {"accuracy": accuracy, "loss": loss},
        "step": config.num_steps,
        "config": json.loads(config.to_json()),
        "device": {"processor": "P", "threads": 2},
        "versions": {"jax": "1"},
    }


@pytest.fixture
def keep(tmp_path):
    def keep(name, *found):
        workdirs = [tmp_path / f"run-{i}" for i in range(len(found))]
        for workdir, each in zip(workdirs, found, strict=True):
            workdir.mkdir(exist_ok=True)
            (workdir / "results.json").write_text(json.dumps(each))
        return recipes.keep(workdirs, tmp_path / "results" / f"{name}.json")

    return keep


def test_seeds_are_added_to_those_of_before(keep):
    fields = {"batch_size": 64, "features": (16, 32)}
    keep("a", results([0.99, 0.991], **fields))
    record = keep("a", results(0.992, seed=2, **fields), results(0.98, seed=1, **fields))
    assert record["fields"] == {"batch_size": 64, "features": [16, 32]}
    assert [run["accuracy"] for run in record["runs"].values()] == [0.99, 0.98, 0.992]
    assert "somewhere" not in json.dumps(record)
    with pytest.raises(ValueError, match="in one run, and"):
        keep("a", results(0.99, batch_size=32))
    with pytest.raises(ValueError, match="in one run, and"):
        keep("a", results(0.99, split="validation", **fields))


@pytest.fixture
def trained(tmp_path):
    """Makes a workdir of two seeds with these errors, in %, after steps 10 and 20."""

    def trained(name, *errors, split="validation", steps=(10, 20)):
        for seed, each in enumerate(errors):
            workdir = tmp_path / name / f"seed-{seed}"
            workdir.mkdir(parents=True)
            found = results(0.99, seed, split, batch_size=200)
            found["dataset"] = {"num_examples": {"train": 1000}}
            (workdir / "results.json").write_text(json.dumps(found))
            lines = [
                {
                    "step": step,
                    "split": of,
                    "seconds": 1.0,
                    "loss": 0.1,
                    "accuracy": 1 - error / 100,
                }
                for step, error in zip(steps, each, strict=True)
                for of in (split, "train")
            ]
            (workdir / "metrics.jsonl").write_text(
                "".join(map("{}\n".format, map(json.dumps, lines)))
            )
        return tmp_path / name

    return trained


def test_curves_are_drawn_of_evaluations_against_epochs(trained, tmp_path, monkeypatch):
    evaluated, epochs, errors = recipes._curves(trained("a", [2.0, 1.0], [4.0, 0.5]))
    assert evaluated == "validation"
    assert epochs.tolist() == [2, 4]  # 1,000 examples are 5 steps of 200.
    assert errors == pytest.approx(np.array([[2.0, 1.0], [4.0, 0.5]]))
    one = trained("b", [3.0, 2.0]) / "seed-0"
    monkeypatch.setattr(
        "sys.argv", ["r", f"--curves={tmp_path}/c.png", str(one.parents[1] / "a"), str(one)]
    )
    recipes.main()
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size == (840, 504)


def test_what_cannot_be_drawn_is_told_in_a_line(trained, tmp_path, monkeypatch, capsys):
    good, test = trained("a", [2.0, 1.0]), trained("b", [2.0, 1.0], split="test")
    uneven = trained("c", [2.0, 1.0], [2.0, 1.0])
    lines = (uneven / "seed-1/metrics.jsonl").read_text().splitlines()
    (uneven / "seed-1/metrics.jsonl").write_text("\n".join(lines[:2]))
    for workdirs, said in (
        ([good, test], "some were evaluated on the test set, and others"),
        ([uneven], "its seeds were evaluated after different steps"),
        ([tmp_path / "d"], "give workdirs of runs that are finished"),
    ):
        monkeypatch.setattr("sys.argv", ["r", f"--curves={tmp_path}/c.png", *map(str, workdirs)])
        with pytest.raises(SystemExit):
            recipes.main()
        assert said in capsys.readouterr().err
        assert not (tmp_path / "c.png").exists()


def test_what_cannot_be_kept_is_told_in_a_line(keep, tmp_path, monkeypatch, capsys):
    keep("a", results(0.99))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/results.json").write_text(json.dumps(results(0.99, batch_size=32)))
    for workdir, said in (("nowhere", "give workdirs of runs"), ("other", "fields: {'batch_size'")):
        command = ["recipes", f"--keep={tmp_path}/results/a.json", str(tmp_path / workdir)]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit):
            recipes.main()
        assert said in capsys.readouterr().err


def test_the_interval_is_student_s():
    # 2.776 is its 0.975 quantile of 4 degrees of freedom.
    assert recipes.interval([1.0, 2, 3, 4, 5]) == pytest.approx((3 - 1.9633, 3 + 1.9633), abs=1e-3)
    assert recipes.interval([2.0]) == (2.0, 2.0)
    assert recipes.interval([1.0, 99.0]) == (0.0, 100.0)


def test_the_table_of_recipes(keep, tmp_path):
    keep("quick", results([0.9901, 0.9900, 0.9905], num_steps=180, batch_size=64))
    text = recipes.tables(tmp_path / "results")
    assert "| quick | 180 x 64 | 3 | 99.020 (98.954 to 99.086) | 0.026 | 2 of 3 | P, 2 t" in text
    assert "- quick: 99.01, 99.00, 99.05" in text


def test_an_ablation_is_of_the_same_seeds(keep, tmp_path):
    keep("ablations/quick/base", results([0.99, 0.99, 0.993], split="validation"))
    keep(
        "ablations/quick/no-dropout",
        results([0.98, 0.99, 0.983], split="validation", dropout_rate=0.0, log_every=7),
    )
    text = recipes.tables(tmp_path / "results")
    assert "What changes of `quick.py` cost" in text
    # The differences are 1.0, 0.0 and 1.0 points.
    assert "| no-dropout | `dropout_rate=0.0` | 3 | 98.433 | 0.667 (0.333) |" in text
    keep("ablations/quick/two-seeds", results([0.98, 0.99], split="validation"))
    assert "| two-seeds |  | 2 | 98.500 | 0.500 (0.500) |" in recipes.tables(tmp_path / "results")
    keep("ablations/quick/other", results(0.98, seed=3, split="validation"))
    with pytest.raises(ValueError, match=r"other has seeds that the recipe lacks: \['3'\]"):
        recipes.tables(tmp_path / "results")


def test_the_table_of_optimizers(keep, tmp_path):
    keep("optimizers/lion", results([0.97, 0.98], optimizer="lion", learning_rate=1e-4))
    fields = {"optimizer": "sgd", "schedule": "constant", "warmup_steps": 9}
    keep("optimizers/sgd", results([0.98, 0.985], **fields))
    *_, first, second = recipes.tables(tmp_path / "results").splitlines()
    assert first.startswith("| `sgd` | 0.05, constant | 2 | 98.250 (95.073 to 100.000) | 98.00, ")
    assert second.startswith("| `lion` | 0.0001, no warm-up | 2 | 97.500 (")


def test_the_readme_has_these_tables():
    assert recipes.tables() in README.read_text(encoding="utf-8")
