"""Folders of pictures: their splits, what is left out, and that they are prepared once."""

import json
import os
import re
import shutil

import numpy as np
import platformdirs
import pytest
from PIL import Image, ImageDraw

from jaxmnist import checks, export, predict, report, sweep, train
from jaxmnist.data import datasets, folder, pictures
from jaxmnist.errors import UserError
from jaxmnist.trained.checkpoint_evaluation import evaluate_checkpoints

COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """A folder of 3 classes, each of 20 discs of a colour, in three formats and two sizes."""
    for name, colour in COLOURS.items():
        of_class = tmp_path / "discs" / name
        of_class.mkdir(parents=True)
        for i in range(20):
            image = Image.new("RGB", (20, 16 + i % 2), "white")
            ImageDraw.Draw(image).ellipse((i % 5, i % 4, 8 + i % 7, 9 + i % 6), fill=colour)
            image.save(of_class / f"{i}.{('png', 'jpg', 'webp')[i % 3]}")
    return tmp_path / "discs"


@pytest.fixture
def config(config, root):
    """The short run on the folder, in colour."""
    config.dataset, config.data_dir = f"folder:{root}", None
    config.prepare, config.image_shape = "resize", (8, 12, 3)
    config.train_split, config.eval_split = "train", "test"
    return config


def split_of(root, config):
    """The names in each split, as folder.py finds them."""
    _, files = folder._find(config)
    return {split: {each.name for each in of} for split, of in files.items()}


def test_a_sixth_is_held_out_and_no_picture_ever_changes_its_split(config, root):
    info = datasets.describe(config)
    assert info.class_names == ["blue", "green", "red"]
    assert sum(info.num_examples.values()) == 60
    assert 3 <= info.num_examples["test"] <= 20
    before = split_of(root, config)
    for name in ("0.png", "1.jpg", "2.webp"):
        (root / "red" / name).unlink()
        shutil.copy(root / "red/3.png", root / f"red/new-{name}")
    (root / "train").mkdir()
    for name in COLOURS:
        (root / name).rename(root / "train" / name)  # It is the folder of the one split.
    after = split_of(root, config)
    for split in ("train", "test"):
        both = before[split] & (after["train"] | after["test"])
        assert len(both) > 5
        assert both <= after[split]


def test_what_is_read_is_what_predict_prepares_and_its_labels(config, root):
    dataset = datasets.read(config, ["train", "test", "train[:50%]"])
    assert [len(each) for each in dataset.splits[:2]] == [
        dataset.info.num_examples[split] for split in ("train", "test")
    ]
    for split in dataset.splits:
        assert split.images.shape[1:] == (8, 12, 3)
        # A slice has all classes, since the order is that of a hash.
        assert set(split.labels.tolist()) == {0, 1, 2}
        darkest = split.images.astype(int).sum((1, 2)).argmax(-1)  # blue, green, red
        np.testing.assert_array_equal(darkest, 2 - split.labels)
    _, files = folder._find(config)
    first = files["train"][0]
    expected = pictures.read(first.path, first.name, dataset.info.preparation)
    np.testing.assert_array_equal(dataset.splits[0].images[0], expected)


def test_splits_have_folders_of_their_own(config, root):
    for split, names in (("train", COLOURS), ("test", ["red", "blue"]), ("extra", ["red"])):
        for name in names:
            shutil.copytree(root / name, root / split / name)
    for name in COLOURS:
        shutil.rmtree(root / name)
    (root / ".hidden").mkdir()
    (root / "train/red/.DS_Store").touch()
    info = datasets.describe(config)
    assert info.num_examples == {"extra": 20, "test": 40, "train": 60}
    assert datasets.slice_of(info, "train+extra[:5]") == [("train", 0, 60), ("extra", 0, 5)]
    with pytest.raises(UserError, match=r"it has extra \(20 examples\) and test \(40 examples\)"):
        datasets.read(config, ["validation"])


def test_what_one_split_lacks_is_told(config, root, capsys):
    for split in ("train", "test"):
        shutil.copytree(root / "red", root / split / "red")
    shutil.copytree(root / "blue", root / "train/blue")
    (root / "train/empty").mkdir()
    datasets.read(config, ["train", "test"])
    assert capsys.readouterr().err.splitlines() == [
        f"WARNING: test of folder:{root} has no examples of the 2 classes blue, empty",
        f"WARNING: train of folder:{root} has no examples of the class empty",
    ]


def test_what_is_no_picture_is_counted_and_named_each_time(config, root, capsys):
    for i in range(30):
        (root / f"red/{i}.txt").write_text("no picture")
    for _ in range(2):  # Also where the others are found prepared.
        dataset = datasets.read(config, ["train"])
        (line,) = capsys.readouterr().err.splitlines()
        count, left = len(dataset.splits[0]), 90 - datasets.describe(config).num_examples["test"]
        assert dataset.info.num_examples["train"] == count < left
        assert line.startswith(f"WARNING: {left - count} of {left} files of train in {root} are")
        assert line.count(".txt") == 3
        assert line.endswith(", ...")
        assert (dataset.splits[0].images.reshape(count, -1) != 255).any(1).all()
    for path in root.rglob("*.*"):
        path.write_text("nothing")
    with pytest.raises(UserError, match=r"none of the \d+ files of train, such as .* is a picture"):
        datasets.read(config, ["train"])


def test_folders_without_pictures_of_two_classes_are_refused(config, tmp_path):
    def refused(path, words):
        config.dataset = f"folder:{path}"
        with pytest.raises(UserError, match=words) as caught:
            checks.check(config)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none", "there is no such folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, f"it holds no pictures: .* such as {empty}/train/CLASS")
    (empty / "cats").mkdir()
    (empty / "cats/a.png").touch()
    refused(empty, "it holds only pictures of cats: ")
    (empty / "test").mkdir()
    refused(empty, "it holds a folder test, and none that is train")


def test_two_pictures_make_two_splits(config, root):
    for path in root.rglob("*.*"):
        if path.name != "5.webp":
            path.unlink()
    shutil.rmtree(root / "green")
    assert datasets.describe(config).num_examples == {"train": 1, "test": 1}


def test_pictures_are_read_once_until_they_change(config, root, monkeypatch):
    read, seen = pictures.read, []
    monkeypatch.setattr(pictures, "read", lambda *args: seen.append(args[1]) or read(*args))

    def count():
        seen.clear()
        datasets.read(config, ["train", "test"])
        return len(seen)

    assert [count(), count()] == [60, 0]
    config.image_shape = (8, 8, 3)
    assert [count(), count()] == [60, 0]
    config.image_shape = (8, 12, 3)
    assert count() == 0
    os.utime(root / "red/3.png", (1, 1))
    assert 0 < count() < 60  # The split that it is in.
    config.data_dir = str(root.parent / "data")
    assert [count(), count()] == [60, 0]
    assert len(list((root.parent / "data").rglob("*.npz"))) == 2


def test_names_and_strokes(config, root, tmp_path):
    """ "2" comes before "10"; strokes are cut out as MNIST's are, in grey alone."""
    for i, name in enumerate(COLOURS):
        (root / name).rename(root / ("2", "10", "1")[i])
    assert datasets.describe(config).class_names == ["1", "2", "10"]
    config.prepare = "mnist"
    with pytest.raises(UserError, match=r"prepare='mnist' is not allowed with image_shape=\(8, 12"):
        checks.check(config)
    config.image_shape = (28, 28, 1)
    checks.check(config)
    info = datasets.describe(config)
    assert info.preparation == datasets.preparation("mnist")
    config.image_shape = (42, 56, 1)
    assert datasets.describe(config).preparation == info.preparation | {
        "box": 30,
        "shape": [42, 56, 1],
    }


def test_a_path_on_the_command_line_is_made_absolute(monkeypatch, root):
    monkeypatch.chdir(root.parent)
    config = checks.load(None, [("dataset", "folder:discs"), ("batch_size", "9")])
    assert config.dataset == f"folder:{root}"
    checks.check(config)


def test_a_run_goes_on_and_is_evaluated_unless_its_pictures_have_changed(config, root, tmp_path):
    whole = train.train_and_evaluate(config, tmp_path / "whole")
    config.num_steps = 2
    train.train_and_evaluate(config, tmp_path / "run")
    config.num_steps = 6
    found = train.train_and_evaluate(config, tmp_path / "run")
    assert found["params_sha256"] == whole["params_sha256"]
    _, files = folder._find(config)
    files["train"][0].path.unlink()
    config.num_steps = 8
    with pytest.raises(UserError, match="its training examples have changed"):
        train.train_and_evaluate(config, tmp_path / "run")
    (root / "red").rename(root / "rouge")
    with pytest.raises(UserError, match="its classes have changed"):
        train.train_and_evaluate(config, tmp_path / "run")
    (root / "rouge").rename(root / "red")
    ((_, step, metrics),) = evaluate_checkpoints(config, tmp_path / "run")
    assert (step, metrics["accuracy"]) == (6, pytest.approx(whole["test"]["accuracy"]))


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_what_is_trained_is_looked_at_unless_its_classes_have_changed(
    config, root, tmp_path, capsys, here, num_seeds
):
    """By every command; renamed folders would give each class the name of another."""
    pytest.importorskip("matplotlib", reason="needs the extra report")
    config.num_seeds, config.num_steps, config.hidden = num_seeds, 2, 8
    train.train_and_evaluate(config, tmp_path / "run")
    of_one = f"--workdir={tmp_path}/run" + "/seed-0" * (num_seeds > 1)
    looks = [
        lambda: here(workdir=tmp_path / "run", mode="eval"),
        lambda: report.main([of_one]),
        lambda: export.main([of_one, "--format=stablehlo"]),
    ]
    assert [look() for look in looks] == [0, 0, 0]
    assert predict.main([of_one, "--json", str(root / "red/0.png")]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["class_name"] == ["blue", "green", "red"][answer["classes"]]

    (root / "red").rename(root / "amber")
    for look in looks:
        assert look() == 1
        said = r"has other classes now \(amber, blue, green\) than the model was trained on"
        assert re.search(said, capsys.readouterr().err)
    assert predict.main([of_one, str(root / "amber/0.png")]) == 0


def test_a_sweep_holds_out_a_part_of_the_folder(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxmnist.devices.tuning.keep_freed_memory", lambda: None)
    flags = {"dataset": f"folder:{root}", "image_shape": "8,8,3", "prepare": "resize"}
    flags |= {"batch_size": 10, "num_steps": 1}
    args = [f"--config.{name}={value}" for name, value in flags.items()]
    assert sweep.main([f"--workdir={tmp_path}/s", *args, "--sweep.learning_rate=0.1,0.2"]) == 0
    assert "validation accuracy" in capsys.readouterr().out
