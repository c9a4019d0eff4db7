"""Another dataset of tfds's, which the test writes with tfds itself, without TensorFlow."""

import io
import json
import os
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxmnist import checks, train
from jaxmnist.data import datasets, prepared, tfds_builders
from jaxmnist.errors import UserError

NAMES = ["red", "green", "blue"]


def builder(name, features, examples, version="1.0.0", variant=None):
    """A builder of tfds's whose splits hold the examples."""

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=variant)] if variant else []

        def _info(self):
            info = tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )
            info.initialize_from_bucket = lambda: None
            return info

        def _split_generators(self, dl_manager):
            return {split: enumerate(of) for split, of in examples.items()}

        def _generate_examples(self):
            pass

    Made.name = name
    return Made


def picture(label, size=(10, 6), kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, tuple(250 * (i == label) for i in range(3))).save(file, kind)
    return io.BytesIO(file.getvalue())


FEATURES = {
    "image": tfds.features.Image(shape=(None, None, 3)),
    "id": tfds.features.Text(),
    "kind": tfds.features.ClassLabel(names=NAMES),
}


def examples(count, **kwargs):
    return [{"image": picture(i % 3, **kwargs), "id": "x", "kind": i % 3} for i in range(count)]


def prepare(data_dir, name="flags", features=FEATURES, of=None, **kwargs):
    made = builder(name, features, of or {"train": examples(30), "test": examples(12)}, **kwargs)
    with tfds_builders._quiet():
        made(data_dir=str(data_dir)).download_and_prepare(file_format="array_record")


@pytest.fixture(scope="session")
def _flags(once):
    return once("flags", prepare)


@pytest.fixture
def config(config, _flags, tmp_path):
    """The short run on a small dataset in colour, of one's own."""
    config.dataset, config.data_dir = "flags", str(tmp_path / "data")
    config.train_split, config.eval_split, config.batch_size = "train", "test", 10
    shutil.copytree(_flags, config.data_dir)
    return config


@pytest.mark.parametrize("name", ["flags", "flags:1.0.0"])
def test_what_tfds_has_written_says_all(config, name):
    config.dataset = name
    checks.check(config)
    dataset = datasets.read(config, ["train", "test[:5]"])
    info = dataset.info
    assert (info.num_examples, info.class_names) == ({"train": 30, "test": 12}, NAMES)
    assert info.image_shape == (6, 10, 3)
    assert info.preparation == {
        "shows": "picture",
        "method": "resize",
        "swap_axes": False,
        "shape": [6, 10, 3],
    }
    for split, count in zip(dataset.splits, (30, 5), strict=True):
        assert split.images.shape == (count, 6, 10, 3)
        np.testing.assert_array_equal(split.images[:, 3, 3].argmax(-1), split.labels)
    assert "tensorflow" not in sys.modules


def test_it_is_decoded_once(config, monkeypatch):
    first = datasets.read(config, ["train"]).splits[0]
    monkeypatch.setattr(prepared, "_arrays", lambda *args: pytest.fail("decoded again"))
    again = datasets.read(config, ["train"]).splits[0]
    np.testing.assert_array_equal(again.images, first.images, strict=True)


def test_the_newest_version_or_the_one_that_is_named(config):
    for version in ("1.10.0", "1.9.0"):
        prepare(config.data_dir, of={"train": examples(3), "test": examples(3)}, version=version)
    prepare(config.data_dir, name="more", variant="small")
    assert datasets.describe(config).num_examples["train"] == 3
    assert prepared._folder(config).name == "1.10.0"
    config.dataset = "flags:1.0.0"
    assert datasets.describe(config).num_examples["train"] == 30
    config.dataset = "flags:1.1.0"
    with pytest.raises(UserError, match=r"/flags has 1\.0\.0, 1\.9\.0, 1\.10\.0"):
        datasets.describe(config)
    for config.dataset in ("more", "more/small", "more/small:1.0.0"):
        assert datasets.describe(config).num_examples["train"] == 30
    prepare(config.data_dir, name="more", variant="large")
    config.dataset = "more"
    with pytest.raises(UserError, match="holds several; name one of more/large, more/small"):
        datasets.describe(config)


def test_what_is_not_prepared_is_told_with_the_command(config):
    config.dataset = "cifar10"
    with pytest.raises(UserError, match="this prepares it: python -c") as caught:
        datasets.describe(config)
    assert f"tfds.builder('cifar10', data_dir='{config.data_dir}')" in str(caught.value)
    for config.dataset, near in (
        ("flag", "flags"),
        ("cifar_10", "cifar10"),
        ("emnist/leters", "emnist/letters"),
    ):
        with pytest.raises(UserError, match=f"is not allowed: .*did you mean {near}"):
            datasets.describe(config)


@pytest.mark.parametrize(
    ("features", "of", "words"),
    [
        (
            {name: FEATURES[name] for name in ("image", "id")},
            {"train": [{"image": picture(0), "id": "x"}]},
            r"a run needs one image \(Image\) and one label .*image \(Image\), id \(Text\)|id",
        ),
        (
            FEATURES | {"other": tfds.features.Image(shape=(None, None, 3))},
            {"train": [each | {"other": picture(0)} for each in examples(1)]},
            "a run needs one image",
        ),
        (FEATURES, {"train": examples(2) + examples(1, size=(4, 4))}, "have several shapes, such"),
        (
            FEATURES,
            {"train": [each | {"kind": -1} for each in examples(2)]},
            "its train split has no labels",
        ),
    ],
)
def test_what_a_run_cannot_use_is_refused(config, features, of, words):
    prepare(config.data_dir, name="odd", features=features, of=of)
    config.dataset = "odd"
    with pytest.raises(UserError, match=words):
        datasets.read(config, ["train"])


def test_jpeg_and_grey(config):
    features = FEATURES | {"image": tfds.features.Image(shape=(6, 10, 1))}
    of = {"train": [], "test": []}
    for split in of:
        for i in range(4):
            file = io.BytesIO()
            Image.new("L", (10, 6), 60 * i).save(file, "JPEG")
            image = io.BytesIO(file.getvalue())
            of[split].append({"image": image, "id": "x", "kind": i % 3})
    prepare(config.data_dir, name="grey", features=features, of=of)
    config.dataset = "grey"
    (split,) = datasets.read(config, ["train"]).splits
    assert sorted(split.images[:, 0, 0, 0].tolist()) == [0, 60, 120, 180]


def test_other_formats_and_damage_are_refused(config):
    (info,) = (f"{config.data_dir}/flags/1.0.0/dataset_info.json",)
    with open(info) as f:
        text = f.read()
    with open(info, "w") as f:
        f.write(text.replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="tfrecord files, which only TensorFlow reads: prepare it"):
        datasets.describe(config)
    with open(info, "w") as f:
        f.write(text[:50])
    with pytest.raises(UserError, match=r"1\.0\.0 is damaged .*: delete that folder"):
        datasets.describe(config)


def test_a_run_trains_goes_on_and_notices_other_data(config, tmp_path):
    config.num_steps = 2
    train.train_and_evaluate(config, tmp_path / "run")
    about = json.loads((tmp_path / "run/run.json").read_text())["dataset"]
    assert (about["image_shape"], about["class_names"]) == ([6, 10, 3], NAMES)
    os.rename(config.data_dir, f"{config.data_dir}2")
    config.data_dir, config.num_steps = f"{config.data_dir}2", 4
    assert train.train_and_evaluate(config, tmp_path / "run")["step"] == 4
    prepare(config.data_dir, of={"train": examples(20), "test": examples(9)}, version="1.0.1")
    config.num_steps = 6
    with pytest.raises(UserError, match="its training examples have changed"):
        train.train_and_evaluate(config, tmp_path / "run")
