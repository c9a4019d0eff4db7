"""What is prepared is tfds's own mnist:3.0.1, byte for byte, and never a half of it."""

import gzip
import hashlib
import multiprocessing
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxmnist import builders, idx
from jaxmnist.datasets import _SAMPLE_DIR
from jaxmnist.errors import UserError


@pytest.fixture
def small_mnist(monkeypatch):
    """MNIST with as many examples as the bundled sample, whose archives then pass for it."""
    monkeypatch.setattr(builders.MNIST, "num_examples", {"train": 4000, "test": 1000})
    monkeypatch.setattr(builders.MNIST, "_check_sum", lambda self, path: None)


@pytest.fixture
def archives(tmp_path):
    """The sample's archives, not gzipped."""
    folder = tmp_path / "source"
    folder.mkdir()
    for path in _SAMPLE_DIR.glob("*.gz"):
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return folder


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def rows(images, labels):
    """Examples as sorted rows of bytes, since tfds has an order of its own."""
    flat = np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)
    return sorted(row.tobytes() for row in flat.astype(np.uint8))


def prepare_small(data_dir, archives, done):
    builders.MNIST.num_examples = {"train": 4000, "test": 1000}
    builders.MNIST._check_sum = lambda self, path: None
    builders.prepare(builders.create("mnist", str(data_dir)), archives)
    done.put(True)


def test_what_is_prepared_is_what_the_archives_hold(small_mnist, archives, tmp_path):
    builders.prepare(builders.create("mnist", str(tmp_path / "data")), archives)
    builder = builders.create("mnist", str(tmp_path / "data"))
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = builders.read(builder, split)
        wanted_images = idx.read_images(archives / f"{prefix}-images-idx3-ubyte")
        wanted_labels = idx.read_labels(archives / f"{prefix}-labels-idx1-ubyte", 10)
        assert rows(images, labels) == rows(wanted_images, wanted_labels)
    assert (tmp_path / "data/mnist/3.0.1/dataset_info.json").is_file()
    assert not [name for name in files(tmp_path / "data") if "incomplete" in name]
    assert "tensorflow" not in sys.modules


def test_tfds_itself_reads_it(small_mnist, archives, tmp_path):
    builders.prepare(builders.create("mnist", str(tmp_path)), archives)
    theirs = tfds.builder_from_directory(tmp_path / "mnist/3.0.1")
    assert theirs.info.full_name == "mnist/3.0.1"
    assert theirs.info.splits["train"].num_examples == 4000
    example = theirs.as_data_source("test")[3]
    images, labels = builders.read(builders.create("mnist", str(tmp_path)), "test")
    np.testing.assert_array_equal(example["image"], images[3])
    assert example["label"] == labels[3]


def test_two_processes_at_once_both_end_well(archives, tmp_path):
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    args = (tmp_path / "data", archives, done)
    processes = [context.Process(target=prepare_small, args=args) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [done.get(timeout=5) for _ in processes] == [True, True]
    assert len(builders.read(builders.create("mnist", str(tmp_path / "data")), "train")[1]) == 4000


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda d: (d / "t10k-labels-idx1-ubyte").unlink(),
            "neither t10k-labels-idx1-ubyte.gz nor",
        ),
        (
            lambda d: (d / "train-images-idx3-ubyte").write_bytes(
                (d / "train-images-idx3-ubyte").read_bytes()[:-5]
            ),
            "train-images-idx3-ubyte: .* truncated",
        ),
        (
            lambda d: swap(d / "train-images-idx3-ubyte", d / "t10k-images-idx3-ubyte"),
            "holds 1000 examples where mnist's train split has 4000: are train and test swapped",
        ),
        (
            lambda d: swap(d / "train-images-idx3-ubyte", d / "train-labels-idx1-ubyte"),
            "holds labels, not images",
        ),
    ],
)
def test_bad_archives_leave_nothing_behind(small_mnist, archives, tmp_path, change, sentence):
    change(archives)
    data_dir = tmp_path / "data"
    with pytest.raises(UserError, match=sentence):
        builders.prepare(builders.create("mnist", str(data_dir)), archives)
    assert not data_dir.exists()


def swap(a, b):
    shutil.move(a, a.with_name("aside"))
    shutil.move(b, a)
    shutil.move(a.with_name("aside"), b)


def test_registered_checksums_are_verified(monkeypatch, tmp_path):
    monkeypatch.setattr(builders.MNIST, "num_examples", {"train": 4000, "test": 1000})
    with pytest.raises(UserError, match=r"SHA-256 .* is not the registered 440fcabf73cc546"):
        builders.prepare(builders.create("mnist", str(tmp_path / "data")), _SAMPLE_DIR)
    assert not (tmp_path / "data").exists()


def test_a_folder_that_cannot_be_written(small_mnist, archives, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file.*: choose another data_dir"):
        builders.prepare(builders.create("mnist", str(tmp_path / "file/data")), archives)


def test_other_formats_are_refused(small_mnist, archives, tmp_path):
    builders.prepare(builders.create("mnist", str(tmp_path)), archives)
    info = tmp_path / "mnist/3.0.1/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for use in (lambda b: builders.read(b, "train"), lambda b: builders.prepare(b, archives)):
        with pytest.raises(UserError, match="tfrecord files, which only TensorFlow reads"):
            use(builders.create("mnist", str(tmp_path)))


def test_damaged_records_are_one_sentence(small_mnist, archives, tmp_path):
    builders.prepare(builders.create("mnist", str(tmp_path)), archives)
    (record,) = (tmp_path / "mnist/3.0.1").glob("*test.array_record*")
    record.write_bytes(record.read_bytes()[: record.stat().st_size // 2])
    with pytest.raises(UserError, match=r"is damaged .*: delete that folder and prepare it again"):
        builders.read(builders.create("mnist", str(tmp_path)), "test")


def test_the_family_keeps_tfdss_names_and_urls():
    for name in builders.names():
        builder = builders.create(name, None)
        theirs = tfds.image_classification
        stock = {
            "mnist": theirs.MNIST,
            "fashion_mnist": theirs.FashionMNIST,
            "kmnist": theirs.KMNIST,
            "emnist": theirs.EMNIST,
        }[builder.name]
        assert builder.version == stock.VERSION
        assert set(builder.urls()) == set(stock.url_infos)
        assert builder.info.features["label"].num_classes >= 10
    assert "tensorflow" not in sys.modules


def test_the_archives_are_in_memory_byte_for_byte(prepared_mnist, source_dir):
    """The whole of MNIST, as SHA-256 over its sorted examples."""
    builder = builders.create("mnist", str(prepared_mnist))
    for split, prefix in (("train", "train"), ("test", "t10k")):
        found = rows(*builders.read(builder, split))
        images = idx.read_images(source_dir / f"{prefix}-images-idx3-ubyte.gz")
        labels = idx.read_labels(source_dir / f"{prefix}-labels-idx1-ubyte.gz", 10)
        sums = [hashlib.sha256(b"".join(r)).hexdigest() for r in (found, rows(images, labels))]
        assert sums[0] == sums[1]
