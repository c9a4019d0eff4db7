"""What is known without tfds is what tfds says, and what was decoded is read without it."""

import gzip
import os
import subprocess
import sys

import numpy as np
import platformdirs
import pytest
import tensorflow_datasets as tfds

from jaxmnist.data import family, tfds_builders
from jaxmnist.errors import UserError
from tests.conftest import SAMPLE_DIR


@pytest.mark.parametrize("name", family.names())
def test_it_is_what_tfds_says(name, tmp_path):
    builder = tfds_builders.create(name, str(tmp_path))
    assert str(family.folder(name, str(tmp_path))) == builder.data_dir
    assert builder.info.features["label"].num_classes == len(family.class_names(name))
    if config := builder.builder_config:
        theirs = {"train": config.train_examples, "test": config.test_examples}
        assert family.num_examples(name) == theirs


def test_all_of_emnist_s_variants_are_there():
    theirs = {f"emnist/{config.name}" for config in tfds_builders.EMNIST.BUILDER_CONFIGS}
    assert {name for name in family.names() if "/" in name} == theirs


def test_the_default_folder_is_tfds_s(monkeypatch, tmp_path):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert str(family.root(None)) == tfds.core.constants.get_default_data_dir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert str(family.root(None)) == tfds.core.constants.get_default_data_dir() == str(tmp_path)
    with pytest.raises(UserError, match="data_dir"):
        family.root("gs://bucket")


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """A data_dir in which mnist is prepared, as large as the sample."""
    for split, count in (("train", 4000), ("test", 1000)):
        monkeypatch.setitem(family.num_examples("mnist"), split, count)
    monkeypatch.setattr(tfds_builders.MNIST, "content_sums", {})
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    source, data_dir = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    for path in SAMPLE_DIR.glob("*.gz"):
        (source / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    tfds_builders.prepare(tfds_builders.create("mnist", str(data_dir)), source)
    return data_dir


def test_what_was_decoded_is_read_as_it_was(prepared):
    for split in ("train", "test"):
        kept = family.kept("mnist", str(prepared), split)
        read = tfds_builders.read(tfds_builders.create("mnist", str(prepared)), split)
        for a, b in zip(kept, read, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
    (prepared / "mnist/3.0.1/test.npz").rename(prepared / "aside")
    assert family.kept("mnist", str(prepared), "test") is None
    (own, _) = reversed(family.caches(prepared / "mnist/3.0.1", "test"))
    own.parent.mkdir(parents=True)
    (prepared / "aside").rename(own)
    assert len(family.kept("mnist", str(prepared), "test")[1]) == 1000


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: os.utime(folder / "dataset_info.json", (1, 1)),
        lambda folder: os.utime(next(folder.glob("*test.array_record*")), (1, 1)),
        lambda folder: next(folder.glob("*test.array_record*")).unlink(),
        lambda folder: (folder / "dataset_info.json").unlink(),
        lambda folder: (folder / "test.npz").write_bytes(b"no arrays"),
        lambda folder: np.savez(folder / "test.npz", images=[1], labels=[1], made_from="{}"),
    ],
)
def test_what_is_of_other_records_or_damaged_is_not_read(change, prepared):
    change(prepared / "mnist/3.0.1")
    assert family.kept("mnist", str(prepared), "test") is None


def test_another_number_of_examples_is_not_read(prepared, monkeypatch):
    monkeypatch.setitem(family.num_examples("mnist"), "test", 999)
    assert family.kept("mnist", str(prepared), "test") is None


def test_tfds_is_not_loaded_for_it(prepared):
    program = f"""
import sys
from jaxmnist.data import datasets, family
for split, count in (("train", 4000), ("test", 1000)):
    family.num_examples("mnist")[split] = count
found = datasets.load("mnist", ["train[:3000]", "test"], {str(prepared)!r})
assert [len(split) for split in found.splits] == [3000, 1000]
assert not {{"tensorflow_datasets", "requests", "PIL.PngImagePlugin"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
