"""The tables of experiments/README.md are those of the files in results/, and count rightly."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import recipes
from jaxmnist.config import get_config
from jaxmnist.errors import UserError

README = recipes.RESULTS.parent / "README.md"


def results(accuracy, seed=0, split="test", **fields):
    """What results.json holds of a run, or of several seeds."""
    config = get_config()
    config.eval_split = "test" if split == "test" else "train[55000:]"
    config.update(fields | {"seed": seed, "data_dir": "somewhere"})
    loss = {"each": [0.1] * len(accuracy)} if isinstance(accuracy, list) else 0.1
    seeds = {"seeds": list(range(seed, seed + len(accuracy)))} if isinstance(accuracy, list) else {}
    accuracy = {"each": accuracy} if isinstance(accuracy, list) else accuracy
    return seeds | {
        split: {"accuracy": accuracy, "loss": loss},
        "step": config.num_steps,
        "config": json.loads(config.to_json()),
        "dataset": {"num_examples": {"train": 1000}},
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


def test_seeds_are_added_to_those_of_before(keep, tmp_path):
    fields = {"batch_size": 64, "features": (16, 32)}
    keep("a", results([0.99, 0.991], **fields))
    record = keep("a", results(0.992, seed=2, **fields), results(0.98, seed=1, **fields))
    assert record["fields"] == {"batch_size": 64, "features": [16, 32]}
    assert [run["accuracy"] for run in record["runs"].values()] == [0.99, 0.98, 0.992]
    assert "somewhere" not in json.dumps(record)
    before = (tmp_path / "results/a.json").read_bytes()
    for other in (
        {"batch_size": 32},
        {"split": "validation", **fields},
        {"train_split": "train[:50]", **fields},
        {"eval_split": "test[:100]", **fields},
    ):
        with pytest.raises(UserError, match="in one run, and"):
            keep("a", results(0.99, **other))
    assert (tmp_path / "results/a.json").read_bytes() == before


@pytest.fixture
def trained(tmp_path):
    """Makes a workdir of two seeds with these errors, in %, after steps 10 and 20."""

    def trained(name, *errors, split="validation", steps=(10, 20)):
        for seed, each in enumerate(errors):
            workdir = tmp_path / name / f"seed-{seed}"
            workdir.mkdir(parents=True)
            found = results(0.99, seed, split, batch_size=200)
            (workdir / "results.json").write_text(json.dumps(found))
            (workdir / "config.json").write_text(json.dumps(found["config"]))
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


def test_curves_are_drawn_of_evaluations_against_epochs(trained, tmp_path, capsys):
    evaluated, epochs, errors = recipes._curves(trained("a", [2.0, 1.0], [4.0, 0.5]))
    assert evaluated == "validation"
    assert epochs.tolist() == [2, 4]  # 1,000 examples are 5 steps of 200.
    assert errors == pytest.approx(np.array([[2.0, 1.0], [4.0, 0.5]]))
    one = trained("b", [3.0, 2.0]) / "seed-0"
    assert recipes.main([f"--curves={tmp_path}/new/c.png", f"{tmp_path}/a", str(one)]) == 0
    assert (
        capsys.readouterr().out == f"{tmp_path}/new/c.png has the curves of {tmp_path}/a, {one}\n"
    )
    with Image.open(tmp_path / "new/c.png") as picture:
        assert picture.size == (840, 504)


def test_a_legend_tells_workdirs_apart():
    assert recipes._names([Path("runs/a"), Path("runs/z/b")]) == ["a", "b"]
    assert recipes._names([Path("runs/a"), Path("runs/z/a")]) == ["runs/a", "runs/z/a"]


def test_a_single_evaluation_is_a_point(trained, tmp_path):
    drawn = []
    for name, steps in (("a", (10,)), ("b", (10, 20))):
        workdir = trained(name, [2.0] * len(steps), steps=steps)
        assert recipes.main([f"--curves={tmp_path}/{name}.png", str(workdir)]) == 0
        with Image.open(tmp_path / f"{name}.png") as picture:
            inside = np.asarray(picture.convert("RGB"))[60:420, 60:600]
        blue = (inside.astype(int)[..., 2] - inside[..., 0]) > 100
        drawn.append(int(blue.sum()))
    assert all(drawn)


def test_what_cannot_be_drawn_is_told_in_a_line(trained, tmp_path, capsys):
    good, test = trained("a", [2.0, 1.0]), trained("b", [2.0, 1.0], split="test")
    uneven, later = trained("c", [2.0, 1.0], [2.0, 1.0]), trained("d", [2.0, 1.0])
    lines = (uneven / "seed-1/metrics.jsonl").read_text().splitlines()
    (uneven / "seed-1/metrics.jsonl").write_text("\n".join(lines[:2]))
    (later / "seed-0/metrics.jsonl").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        assert recipes.main([f"--curves={tmp_path}/c.png", str(good)]) == 1
        assert "needs matplotlib: pip install 'jaxmnist[report]'.\n" in capsys.readouterr().err
    for workdirs, said in (
        ([good, test], "some were evaluated on the test set, and others"),
        ([uneven], "its seeds were evaluated after different steps"),
        ([later], "metrics.jsonl has no validation data"),
        ([tmp_path / "e"], f"{tmp_path}/e holds no finished run: name workdirs of those"),
    ):
        assert recipes.main([f"--curves={tmp_path}/c.png", *map(str, workdirs)]) == 1
        found = capsys.readouterr().err
        assert said in found
        assert found.count("\n") == 1
        assert not (tmp_path / "c.png").exists()


def test_what_cannot_be_kept_is_told_in_a_line(keep, tmp_path, capsys):
    keep("a", results(0.99))
    for name, held in (("other", results(0.99, batch_size=32)), ("damaged", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(held))
    (tmp_path / "results/no.json").write_text("{")
    for file, workdir, said in (
        ("results/a.json", "nowhere", "nowhere holds no finished run"),
        ("results/a.json", "other", "batch_size: 32 in one run, and 100 in another"),
        ("results/a.json", "damaged", "results.json is damaged"),
        ("run-0/results.json", "run-0", "results.json is no file that --keep wrote"),
        ("results/no.json", "run-0", "no.json is no file that --keep wrote"),
        ("results", "run-0", "directory"),
    ):
        before = (tmp_path / "results/a.json").read_bytes()
        assert recipes.main([f"--keep={tmp_path}/{file}", str(tmp_path / workdir)]) == 1
        found = capsys.readouterr().err
        assert said in found
        assert found.count("\n") == 1
        assert (tmp_path / "results/a.json").read_bytes() == before


def test_a_table_is_of_the_data_that_its_heading_names(keep, tmp_path):
    keep("a", results([0.99, 0.98]))
    for name, found, said in (
        ("b", results(0.99, split="validation"), r"b was evaluated on train\[55000:\], not"),
        ("b", results(0.99, seed=1), r"b has the seeds \[1\], not all from 0"),
        ("ablations/quick/base", results(0.99), "base.json was evaluated on the test set, not"),
        (
            "optimizers/b",
            results(0.99, eval_split="test[:10]"),
            r"b was evaluated on test\[:10\]",
        ),
    ):
        keep(name, found)
        with pytest.raises(UserError, match=said):
            recipes.tables(tmp_path / "results")
        (tmp_path / f"results/{name}.json").unlink()


def test_the_interval_is_student_s():
    # 2.776 is its 0.975 quantile of 4 degrees of freedom.
    assert recipes.interval([1.0, 2, 3, 4, 5]) == pytest.approx((3 - 1.9633, 3 + 1.9633), abs=1e-3)
    with pytest.raises(ValueError, match="one value"):
        recipes.interval([2.0])
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
    assert "The cost of each change to `quick.py`, in 20,000 steps of 100:" in text
    # The differences are 1.0, 0.0 and 1.0 points.
    assert "| no-dropout | `dropout_rate=0.0` | 3 | 98.433 | 0.667 (0.333) | 0.1000 |" in text
    keep("ablations/quick/two-seeds", results([0.98, 0.99], split="validation"))
    assert "| two-seeds |  | 2 | 98.500 | 0.500 (0.500) |" in recipes.tables(tmp_path / "results")
    keep("ablations/quick/one-seed", results(0.98, split="validation"))
    assert "| one-seed |  | 1 | 98.000 | 1.000 |" in recipes.tables(tmp_path / "results")
    keep("ablations/quick/other", results(0.98, split="validation", seed=3))
    with pytest.raises(UserError, match=r"other has seeds that the recipe lacks: \['3'\]"):
        recipes.tables(tmp_path / "results")


def test_an_ablation_is_of_the_same_data(keep, tmp_path):
    keep("ablations/quick/base", results([0.99, 0.99], split="validation"))
    other, said = (
        tmp_path / "results/ablations/quick/other.json",
        r"other\.json has train_split=train",
    )
    with pytest.raises(UserError, match=rf"{said}\[:9\], and base\.json beside it train: train on"):
        keep("ablations/quick/other", results(0.98, split="validation", train_split="train[:9]"))
    assert not other.exists()
    record = keep("ablations/quick/other", results(0.98, split="validation"))
    other.write_text(json.dumps(record | {"train_split": "train[:9]"}))
    with pytest.raises(UserError, match=said):
        recipes.tables(tmp_path / "results")


def test_the_tables_are_in_one_order(keep, tmp_path):
    for name in ("fashion", "own", "best", "another", "quick"):
        keep(name, results(0.99))
        keep(f"ablations/{name}/base", results(0.99, split="validation"))
    lines = recipes.tables(tmp_path / "results").splitlines()
    order = ["best", "quick", "fashion", "another", "own"]
    assert [line[2:-7] for line in lines if line.startswith("- ")] == order
    assert [line.split("`")[1] for line in lines if line.startswith("The cost")] == [
        f"{name}.py" for name in order
    ]


def test_the_table_of_optimizers(keep, tmp_path):
    keep("optimizers/lion", results([0.97, 0.98], optimizer="lion", learning_rate=1e-4))
    fields = {"optimizer": "sgd", "schedule": "constant", "warmup_steps": 9}
    keep("optimizers/sgd", results([0.98, 0.985], **fields))
    *_, first, second = recipes.tables(tmp_path / "results").splitlines()
    assert first.startswith("| `sgd` | 0.05, constant | 2 | 98.250 (95.073 to 100.000) | 98.00, ")
    assert second.startswith("| `lion` | 0.0001, no warm-up | 2 | 97.500 (")


def test_the_readme_has_these_tables():
    assert recipes.tables() in README.read_text(encoding="utf-8")


def test_the_first_table_of_the_readme_has_their_means():
    rows = README.read_text(encoding="utf-8").split("## Results")[0].splitlines()
    cells = [[cell.strip(" `") for cell in row.split("|")] for row in rows if row.startswith("| ")]
    shown = {name.removesuffix(".py"): accuracy for _, name, _, accuracy, *_ in cells}
    for path in recipes.RESULTS.glob("*.json"):
        if path.stem != "race":
            runs = json.loads(path.read_text(encoding="utf-8"))["runs"].values()
            mean = 100 * np.mean([run["accuracy"] for run in runs])
            assert shown[path.stem] == f"{mean:.2f}", path.stem
