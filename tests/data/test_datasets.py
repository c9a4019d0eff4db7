"""Names to arrays: slices, the sample, and what happens without a network."""

import http.server
import json
import shutil
import threading
import time
import zipfile

import numpy as np
import pytest
import requests
from PIL import Image

from jaxmnist.config import get_config
from jaxmnist.data import datasets, family, pictures, tfds_builders
from jaxmnist.errors import UserError
from tests.conftest import SAMPLE_DIR


@pytest.fixture
def server(tmp_path):
    """A web server on this machine: its address, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()
        thread.join()


@pytest.fixture
def small_counts(monkeypatch):
    """MNIST and EMNIST with as many examples as the sample."""
    for name in ("mnist", "emnist/digits"):
        for split, count in (("train", 4000), ("test", 1000)):
            monkeypatch.setitem(family.num_examples(name), split, count)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", [("train", 0, 60000)]),
        ("train[:55000]", [("train", 0, 55000)]),
        ("train[55000:]", [("train", 55000, 60000)]),
        ("train[-100:]", [("train", 59900, 60000)]),
        ("train[:10%]", [("train", 0, 6000)]),
        ("test+train[5:6]", [("test", 0, 10000), ("train", 5, 6)]),
    ],
)
def test_split_syntax(split, expected):
    assert datasets.slice_of("mnist", split) == expected


PLAIN = ["train", "train[5:]", "train[:60000]", "train+test", "test[1:2]+train[3:4]"]


@pytest.mark.parametrize(
    "split",
    [
        *(
            *PLAIN,
            "test[:]",
            "train[:0]",
            "train[7:7]",
            "train[:60001]",
            "train[-5:]",
            "train[:1%]",
            "all",
            "",
            "+",
        ),
        *("Train", "train[", "train [:5]", "train[٣:]", "validation", "train[5:3]", "train[1_0:]"),
    ],
)
def test_what_is_plain_is_read_as_tfds_does(split):
    counts = datasets.describe(get_config()).num_examples
    plain, theirs = datasets._plain_ranges(counts, split), datasets._ranges(counts, split)
    assert plain == (theirs if split in PLAIN else [])
    assert theirs or split not in PLAIN


def test_a_split_shares_the_memory_of_the_whole():
    """60,000 images are 47 MB."""
    whole = {"train": (np.zeros((6, 28, 28, 1), np.uint8), np.arange(6))}
    (split,) = datasets._cut(whole, [[("train", 2, 6)]])
    assert np.shares_memory(split.images, whole["train"][0])
    assert split.labels.tolist() == [2, 3, 4, 5]


def test_the_sample():
    dataset = datasets.load("mnist_sample", ["train", "test", "train[:300]", "train[300:]+test"])
    train, test, head, rest = dataset.splits
    assert (dataset.name, len(dataset.info.class_names)) == ("mnist_sample", 10)
    assert [len(s) for s in dataset.splits] == [4000, 1000, 300, 4700]
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert len(set(head.labels.tolist())) == 10
    np.testing.assert_array_equal(np.concatenate([head.images, rest.images[:3700]]), train.images)
    examples = np.concatenate([train.images, test.images]).reshape(5000, -1)
    assert len(np.unique(examples, axis=0)) == 5000


@pytest.fixture
def empty_default_dir(monkeypatch, tmp_path):
    """tfds's own folder, which holds nothing."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "own"))


def test_the_sample_stands_in_for_mnist_with_a_warning(no_network, empty_default_dir, capsys):
    dataset = datasets.load("mnist", ["train", "test"])
    assert dataset.name == "mnist_sample"
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == "WARNING: this run uses 5,000 sample digits, NOT MNIST:"
    assert len(rest) < 5
    assert max(map(len, rest)) < 60
    with pytest.raises(UserError, match="names no examples of mnist_sample"):
        datasets.load("mnist", ["train[:55000]"])


def test_a_folder_that_was_named_and_holds_nothing_is_an_error(no_network, tmp_path, capsys):
    with pytest.raises(UserError, match=f"mnist is not in {tmp_path}, and .* cannot be reached"):
        datasets.load("mnist", ["train"], str(tmp_path))
    assert capsys.readouterr().err == ""


def test_no_other_dataset_is_replaced(no_network, tmp_path):
    get_it = r"prepare_data --source_dir=SOURCE --dataset={} --data_dir="
    with pytest.raises(UserError, match=get_it.format("mnist")):
        datasets.load("mnist", ["train"], str(tmp_path), allow_sample=False)
    with pytest.raises(UserError, match=get_it.format("emnist/letters")):
        datasets.load("emnist/letters", ["train"], str(tmp_path))


def test_the_sample_never_hides_that_the_folder_is_at_fault(
    no_network, small_counts, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be read"):
        datasets.load("mnist", ["train"], str(tmp_path / "file"))
    (tmp_path / "mnist/3.0.1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is damaged .it lacks dataset_info\.json"):
        datasets.load("mnist", ["train"], str(tmp_path))

    def refuse(builder):
        raise UserError("cannot write")

    monkeypatch.setattr(requests, "head", lambda *args, **kwargs: None)
    monkeypatch.setattr(tfds_builders, "prepare", refuse)
    with pytest.raises(UserError, match="cannot write"):
        datasets.load("mnist", ["train"], str(tmp_path / "new"))


def test_classes_have_their_names():
    names = {name: datasets.class_names(name) for name in datasets.names()}
    assert names["mnist_sample"] == names["emnist/digits"] == list("0123456789")
    # NIST's mapping files: label 36 is "a" (97), of the merged ones 38 is "d" (100).
    assert "".join(names["emnist/byclass"])[35:38] == "Zab"
    assert "".join(names["emnist/balanced"])[35:] == "Zabdefghnqrt"
    assert names["emnist/bymerge"] == names["emnist/balanced"]
    letters = names["emnist/letters"]
    assert (letters[1], letters[26], len(letters)) == ("Aa", "Zz", 37)


@pytest.mark.parametrize("name", datasets.names())
def test_a_preparation_is_whole_and_can_be_recorded(name):
    preparation = datasets.preparation(name)
    assert json.loads(json.dumps(preparation)) == preparation
    assert preparation.keys() == datasets.preparation("mnist").keys()
    assert preparation["swap_axes"] == name.startswith("emnist/")
    image = np.zeros((60, 50), np.uint8)
    image[20:50, 20:28] = 255
    found = pictures.read(Image.fromarray(image), "it", preparation)
    assert found.any(1).sum() == preparation["box"]  # It is shown upright.


def test_a_network_that_never_answers_is_given_up_in_time(monkeypatch, tmp_path):
    never = threading.Event()
    monkeypatch.setattr(requests, "head", lambda *args, **kwargs: never.wait(60))
    assert datasets.NETWORK_SECONDS < 10
    monkeypatch.setattr(datasets, "NETWORK_SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        datasets.load("fashion_mnist", ["train"], str(tmp_path))
    assert 1 <= time.monotonic() - start < 3
    never.set()


def test_what_can_be_reached_is_downloaded_and_prepared(
    monkeypatch, server, small_counts, tmp_path, capsys
):
    url, folder = server
    for path in SAMPLE_DIR.glob("*.gz"):
        shutil.copy(path, folder)
    monkeypatch.setattr(tfds_builders.MNIST, "URL", url)
    for _ in range(2):  # The second time it is there.
        dataset = datasets.load("mnist", ["train", "test"], str(tmp_path / "data"))
        assert dataset.name == "mnist"
        assert [len(split) for split in dataset.splits] == [4000, 1000]
        shutil.rmtree(folder, ignore_errors=True)
    assert capsys.readouterr().err == ""


def test_emnist_comes_out_of_its_zip_file(monkeypatch, server, small_counts, tmp_path):
    url, folder = server
    with zipfile.ZipFile(folder / "gzip.zip", "w") as z:
        for path in SAMPLE_DIR.glob("*.gz"):
            prefix, kind = path.name.split("-", 1)
            z.write(path, f"gzip/emnist-digits-{prefix.replace('t10k', 'test')}-{kind}")
    monkeypatch.setattr(tfds_builders.EMNIST, "URL", f"{url}gzip.zip")
    dataset = datasets.load("emnist/digits", ["train", "test"], str(tmp_path / "data"))
    assert [len(split) for split in dataset.splits] == [4000, 1000]
    assert not list((tmp_path / "data").rglob("emnist-digits-*.gz"))


def test_a_download_that_fails_is_one_sentence(monkeypatch, server, tmp_path):
    monkeypatch.setattr(tfds_builders.FashionMNIST, "URL", server[0])
    with pytest.raises(
        UserError, match=r"(?s)fashion_mnist could not be downloaded \(.*prepare_data"
    ):
        datasets.load("fashion_mnist", ["train"], str(tmp_path / "data"))


def test_the_whole_of_mnist(prepared_mnist):
    dataset = datasets.load(
        "mnist", ["train[:55000]", "train[55000:]", "test"], str(prepared_mnist)
    )
    assert dataset.name == "mnist"
    assert [len(s) for s in dataset.splits] == [55_000, 5_000, 10_000]
    assert np.bincount(dataset.splits[2].labels)[:3].tolist() == [980, 1135, 1032]


def test_a_failure_without_words_has_a_name(monkeypatch, tmp_path):
    def fail(*args):
        raise EOFError

    monkeypatch.setattr(requests, "head", lambda *args, **kwargs: None)
    monkeypatch.setattr(tfds_builders, "prepare", fail)
    with pytest.raises(UserError, match=r"kmnist could not be downloaded \(EOFError\)\. To get it"):
        datasets.load("kmnist", ["test"], str(tmp_path))


def test_eval_name(config):
    assert datasets.eval_name(config) == "test"
    config.eval_split = "train[10:20]"
    assert datasets.eval_name(config) == "validation"
