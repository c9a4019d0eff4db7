"""What is prepared is tfds's own mnist:3.0.1, byte for byte, and never a half of it."""

import gzip
import hashlib
import io
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile

import numpy as np
import platformdirs
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxmnist.data import family, idx, png, tfds_builders
from jaxmnist.errors import UserError
from tests.conftest import SAMPLE_DIR


@pytest.fixture
def small_mnist(monkeypatch):
    """MNIST with as many examples as the bundled sample, whose archives then pass for it."""
    monkeypatch.setattr(tfds_builders.MNIST, "num_examples", {"train": 4000, "test": 1000})
    monkeypatch.setattr(tfds_builders.MNIST, "content_sums", {})


@pytest.fixture
def archives(tmp_path):
    """The sample's archives, not gzipped."""
    folder = tmp_path / "source"
    folder.mkdir()
    for path in SAMPLE_DIR.glob("*.gz"):
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return folder


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def rows(images, labels):
    """Examples as sorted rows of bytes, since tfds has an order of its own."""
    flat = np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)
    return sorted(row.tobytes() for row in flat.astype(np.uint8))


def prepare_small(data_dir, archives, done):
    tfds_builders.MNIST.num_examples = {"train": 4000, "test": 1000}
    tfds_builders.MNIST.content_sums = {}
    tfds_builders.prepare(tfds_builders.create("mnist", str(data_dir)), archives)
    done.put(True)


def test_what_is_prepared_is_what_the_archives_hold(small_mnist, archives, tmp_path):
    tfds_builders.prepare(tfds_builders.create("mnist", str(tmp_path / "data")), archives)
    builder = tfds_builders.create("mnist", str(tmp_path / "data"))
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = tfds_builders.read(builder, split)
        wanted_images = idx.read_images(archives / f"{prefix}-images-idx3-ubyte")
        wanted_labels = idx.read_labels(archives / f"{prefix}-labels-idx1-ubyte", 10)
        assert rows(images, labels) == rows(wanted_images, wanted_labels)
    assert (tmp_path / "data/mnist/3.0.1/dataset_info.json").is_file()
    assert not [name for name in files(tmp_path / "data") if "incomplete" in name]
    assert "tensorflow" not in sys.modules


def test_tfds_itself_reads_it(small_mnist, archives, tmp_path):
    tfds_builders.prepare(tfds_builders.create("mnist", str(tmp_path)), archives)
    theirs = tfds.builder_from_directory(tmp_path / "mnist/3.0.1")
    assert theirs.info.full_name == "mnist/3.0.1"
    assert theirs.info.splits["train"].num_examples == 4000
    example = theirs.as_data_source("test")[3]
    images, labels = tfds_builders.read(tfds_builders.create("mnist", str(tmp_path)), "test")
    np.testing.assert_array_equal(example["image"], images[3])
    assert example["label"] == labels[3]


def test_two_processes_at_once_both_end_well(small_mnist, archives, tmp_path):
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
    assert (
        len(tfds_builders.read(tfds_builders.create("mnist", str(tmp_path / "data")), "train")[1])
        == 4000
    )


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
        tfds_builders.prepare(tfds_builders.create("mnist", str(data_dir)), archives)
    assert not data_dir.exists()


def swap(a, b):
    shutil.move(a, a.with_name("aside"))
    shutil.move(b, a)
    shutil.move(a.with_name("aside"), b)


def test_the_content_of_archives_is_verified(monkeypatch, tmp_path):
    monkeypatch.setattr(tfds_builders.MNIST, "num_examples", {"train": 4000, "test": 1000})
    with pytest.raises(UserError, match=r"SHA-256 of its content is .*, not ba891046e6505d7aad"):
        tfds_builders.prepare(tfds_builders.create("mnist", str(tmp_path / "data")), SAMPLE_DIR)
    assert not (tmp_path / "data").exists()


@pytest.fixture
def sample_content(monkeypatch):
    """The sums of what the sample's archives hold, known as mnist's."""
    monkeypatch.setattr(tfds_builders.Builder, "num_examples", {"train": 4000, "test": 1000})
    sums = {
        path.name.removesuffix("-ubyte.gz"): hashlib.sha256(idx.content(path)).hexdigest()
        for path in SAMPLE_DIR.glob("*.gz")
    }
    monkeypatch.setattr(tfds_builders.MNIST, "content_sums", sums)
    monkeypatch.setattr(tfds_builders.FashionMNIST, "content_sums", {})


def pack(folder, into):
    into.mkdir()
    for path in folder.iterdir():
        (into / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=1234))
    return into


def test_archives_may_be_unpacked_or_packed_again_but_not_anothers(
    sample_content, archives, tmp_path
):
    packed = pack(archives, tmp_path / "packed")
    for folder in (archives, packed, SAMPLE_DIR):
        read = tfds_builders.create("mnist", None).read_archives(folder)
        assert [len(labels) for _, labels in read.values()] == [4000, 1000]
        for other in ("fashion_mnist", "kmnist"):
            with pytest.raises(UserError, match=f"is an archive of mnist, not of {other}"):
                tfds_builders.create(other, None).read_archives(folder)


def test_where_the_content_is_unknown_the_registered_file_is_wanted(
    sample_content, archives, tmp_path, monkeypatch
):
    monkeypatch.setattr(tfds_builders.MNIST, "content_sums", {})
    builder, packed = tfds_builders.create("kmnist", None), pack(archives, tmp_path / "packed")
    with pytest.raises(UserError, match=r"not the registered 51467d22.*packed again, unpack it"):
        builder.read_archives(packed)
    assert len(builder.read_archives(archives)["train"][1]) == 4000


def test_the_genuine_archives_unpacked_and_packed_again(source_dir, tmp_path):
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    for path in source_dir.glob("*-ubyte.gz"):
        (unpacked / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    with pytest.raises(UserError, match="is an archive of mnist, not of fashion_mnist"):
        tfds_builders.create("fashion_mnist", None).read_archives(unpacked)
    for path in unpacked.iterdir():
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()
    assert len(tfds_builders.create("mnist", None).read_archives(unpacked)["train"][1]) == 60000


def test_of_longer_archives_of_emnist_the_first_are_taken_as_tfds_does(archives, monkeypatch):
    """NIST's have 124,800 and 20,800 letters, tfds's splits 88,800 and 14,800."""
    for path in list(archives.iterdir()):
        prefix, kind = path.name.split("-", 1)
        path.rename(archives / f"emnist-letters-{prefix.replace('t10k', 'test')}-{kind}")
    builder = tfds_builders.create("emnist/letters", None)
    assert builder.archived_examples == {"train": 124800, "test": 20800}
    builder.num_examples = {"train": 3000, "test": 900}
    builder.archived_examples = {"train": 4000, "test": 1000}
    read = builder.read_archives(archives)
    assert [(len(images), len(labels)) for images, labels in read.values()] == [
        (3000, 3000),
        (900, 900),
    ]
    whole = idx.read_images(archives / "emnist-letters-train-images-idx3-ubyte")
    np.testing.assert_array_equal(read["train"][0], whole[:3000])


def test_no_folder_is_left_in_the_temporary_one(small_mnist, archives, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name in family.names():
        tfds_builders.create(name, str(tmp_path / "data"))
    tfds_builders.prepare(tfds_builders.create("mnist", str(tmp_path / "data")), archives)
    tfds_builders.read(tfds_builders.create("mnist", str(tmp_path / "data")), "test")
    with pytest.raises(UserError):
        tfds_builders.prepare(tfds_builders.create("kmnist", str(tmp_path / "data")), tmp_path)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *((name, "is not allowed: ") for name in ("[x]", "a*", "b?", "c\\d")),
        ("gs://bucket/data", "is a URL, or looks like one: "),
    ],
)
def test_a_data_dir_that_tfds_takes_for_something_else_is_refused(name, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"data_dir={re.escape(name)} {why}.*\\."):
        tfds_builders.create("mnist", name)
    assert list(tmp_path.iterdir()) == []


def test_any_other_data_dir_works(small_mnist, archives, tmp_path):
    data_dir = str(tmp_path / "a b {x} %s ~ ü")
    tfds_builders.prepare(tfds_builders.create("mnist", data_dir), archives)
    assert len(tfds_builders.read(tfds_builders.create("mnist", data_dir), "test")[1]) == 1000


def test_a_tilde_is_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tfds_builders.create("mnist", "~/data").data_dir == str(tmp_path / "data/mnist/3.0.1")


def test_what_is_there_in_part_or_cannot_be_read_is_one_sentence(small_mnist, archives, tmp_path):
    tfds_builders.prepare(tfds_builders.create("mnist", str(tmp_path)), archives)
    folder = tmp_path / "mnist/3.0.1"
    info = folder / "dataset_info.json"
    whole = info.read_text()
    for text in ("", "[]", whole[:200], whole.replace('"4000"', '"40"')):
        info.write_text(text)
        with pytest.raises(UserError, match=f"{folder} is damaged .*: delete that folder and"):
            tfds_builders.read(tfds_builders.create("mnist", str(tmp_path)), "train")
    info.unlink()
    for use in (
        tfds_builders.is_prepared,
        lambda builder: tfds_builders.prepare(builder, archives),
    ):
        with pytest.raises(UserError, match=f"{folder} is damaged .it lacks dataset_info.json"):
            use(tfds_builders.create("mnist", str(tmp_path)))
    info.mkdir()  # What cannot be read, even by root.
    with pytest.raises(UserError, match=r"dataset_info.json cannot be read .Is a directory"):
        tfds_builders.create("mnist", str(tmp_path))
    with pytest.raises(UserError, match=r"ubyte.* cannot be read .Not a directory"):
        tfds_builders.is_prepared(tfds_builders.create("mnist", str(next(archives.iterdir()))))


def test_a_full_disk_is_one_sentence_and_leaves_no_half(small_mnist, archives, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*File too large\): choose another"):
            tfds_builders.prepare(tfds_builders.create("mnist", str(tmp_path / "data")), archives)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(tmp_path / "data") in ([], [".mnist.lock"])


def test_what_lacks_its_end_is_not_kept(small_mnist, archives, tmp_path, monkeypatch):
    def prepare_and_cut(self, **kwargs):
        prepare(self, **kwargs)
        (record,) = self.data_path.glob("*test.array_record*")
        record.write_bytes(record.read_bytes()[:-70_000])

    prepare = tfds_builders.Builder.download_and_prepare
    monkeypatch.setattr(tfds_builders.Builder, "download_and_prepare", prepare_and_cut)
    with pytest.raises(UserError, match=r"cannot write .*what was written is not whole"):
        tfds_builders.prepare(tfds_builders.create("mnist", str(tmp_path / "data")), archives)
    assert not (tmp_path / "data/mnist/3.0.1").exists()


def test_a_folder_that_cannot_be_written(small_mnist, archives, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file.*: choose another data_dir"):
        tfds_builders.prepare(tfds_builders.create("mnist", str(tmp_path / "file/data")), archives)


def test_other_formats_are_refused(small_mnist, archives, tmp_path):
    tfds_builders.prepare(tfds_builders.create("mnist", str(tmp_path)), archives)
    info = tmp_path / "mnist/3.0.1/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for use in (
        lambda b: tfds_builders.read(b, "train"),
        lambda b: tfds_builders.prepare(b, archives),
    ):
        with pytest.raises(UserError, match="tfrecord files, which only TensorFlow reads"):
            use(tfds_builders.create("mnist", str(tmp_path)))


def test_damaged_records_are_one_sentence(small_mnist, archives, tmp_path):
    tfds_builders.prepare(tfds_builders.create("mnist", str(tmp_path)), archives)
    (record,) = (tmp_path / "mnist/3.0.1").glob("*test.array_record*")
    record.write_bytes(record.read_bytes()[: record.stat().st_size // 2])
    with pytest.raises(UserError, match=r"is damaged .*: delete that folder and prepare it again"):
        tfds_builders.read(tfds_builders.create("mnist", str(tmp_path)), "test")


@pytest.fixture
def prepared(small_mnist, archives, tmp_path):
    """The folder of a prepared dataset, as large as the sample."""
    tfds_builders.prepare(tfds_builders.create("mnist", str(tmp_path)), archives)
    return tmp_path / "mnist/3.0.1"


@pytest.fixture
def read(prepared, monkeypatch):
    """Reads the test split, and says whether its images had to be decoded."""
    own = str(prepared.parents[1] / "cache")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: own)
    decode, decoded = png.decode, []
    monkeypatch.setattr(png, "decode", lambda data: decoded.append(data) or decode(data))

    def read():
        decoded.clear()
        arrays = tfds_builders.read(tfds_builders.create("mnist", str(prepared.parents[1])), "test")
        return arrays, bool(decoded)

    return read


def assert_same(arrays, others):
    for a, b in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_what_was_decoded_is_kept_for_these_records_alone(prepared, read):
    first, was_decoded = read()
    assert not was_decoded, "preparing had decoded it already"
    for changed in (next(prepared.glob("*test.array_record*")), prepared / "dataset_info.json"):
        os.utime(changed, (1, 1))
        for expected in (True, False):
            again, was_decoded = read()
            assert was_decoded == expected
            assert_same(again, first)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[:50_000] + bytes([data[50_000] ^ 1]) + data[50_001:],
        lambda data: b"no arrays",
    ],
)
def test_kept_arrays_that_are_damaged_are_passed_over(damage, prepared, read, capsys):
    first, _ = read()
    cache = prepared / "test.npz"
    whole = cache.read_bytes()
    cache.write_bytes(damage(whole))
    again, was_decoded = read()
    assert was_decoded
    assert_same(again, first)
    assert cache.read_bytes() == whole
    assert capsys.readouterr() == ("", "")


def test_a_folder_that_cannot_be_written_is_read(prepared, read, capsys):
    """Where the user may not write, or the disk is full; root may write anywhere."""
    first, _ = read()
    (prepared / "test.npz").unlink()
    before = files(prepared)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    prepared.chmod(0o500)
    try:
        for _ in range(2):
            again, was_decoded = read()
            assert was_decoded
            assert_same(again, first)
    finally:
        prepared.chmod(0o700)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(prepared) == before
    assert capsys.readouterr() == ("", "")


def test_where_the_folder_cannot_be_written_the_arrays_are_in_the_user_s_cache(prepared, read):
    first, _ = read()
    (prepared / "test.npz").unlink()
    (prepared / ".test.npz.new").mkdir()  # So that not even root can write the file.
    for expected in (True, False):
        again, was_decoded = read()
        assert was_decoded == expected
        assert_same(again, first)
    (kept,) = (prepared.parents[1] / "cache").rglob("*.npz")
    assert kept.name == "test.npz"
    os.utime(next(prepared.glob("*test.array_record*")), (1, 1))
    assert read()[1], "arrays of other records were taken"
    assert not (prepared / "test.npz").exists()


def test_images_of_another_kind_are_damage(small_mnist, archives, tmp_path, monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (28, 28)).save(file, "PNG")
    monkeypatch.setattr(png, "encode", lambda image: file.getvalue())
    with pytest.raises(UserError, match="what was written is not whole"):
        tfds_builders.prepare(tfds_builders.create("mnist", str(tmp_path)), archives)


def test_the_family_keeps_tfdss_names_and_urls():
    for name in family.names():
        builder = tfds_builders.create(name, None)
        theirs = tfds.image_classification
        stock = {
            "mnist": theirs.MNIST,
            "fashion_mnist": theirs.FashionMNIST,
            "kmnist": theirs.KMNIST,
            "emnist": theirs.EMNIST,
        }[builder.name]
        assert builder.version == stock.VERSION
        assert set(builder.urls()) == set(stock.url_infos)
        names, label = family.class_names(name), builder.info.features["label"]
        assert len(names) == len(set(names)) == label.num_classes >= 10
        assert names == builder.class_names
        if builder.name != "emnist":
            assert names == label.names
        assert family.num_examples(name) == builder.num_examples
    assert "tensorflow" not in sys.modules


def test_the_archives_are_in_memory_byte_for_byte(prepared_mnist, source_dir):
    """The whole of MNIST, as SHA-256 over its sorted examples."""
    builder = tfds_builders.create("mnist", str(prepared_mnist))
    for split, prefix in (("train", "train"), ("test", "t10k")):
        found = rows(*tfds_builders.read(builder, split))
        images = idx.read_images(source_dir / f"{prefix}-images-idx3-ubyte.gz")
        labels = idx.read_labels(source_dir / f"{prefix}-labels-idx1-ubyte.gz", 10)
        sums = [hashlib.sha256(b"".join(r)).hexdigest() for r in (found, rows(images, labels))]
        assert sums[0] == sums[1]
