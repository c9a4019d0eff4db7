"""Names to arrays: slices, the sample, and what happens without a network."""

import threading
import time

import numpy as np
import pytest
import requests

from jaxmnist import datasets
from jaxmnist.errors import UserError


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", refuse)


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


def test_the_sample():
    dataset = datasets.load("mnist_sample", ["train", "test", "train[:300]", "train[300:]+test"])
    train, test, head, rest = dataset.splits
    assert (dataset.name, dataset.num_classes) == ("mnist_sample", 10)
    assert [len(s) for s in dataset.splits] == [4000, 1000, 300, 4700]
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert len(set(head.labels.tolist())) == 10
    np.testing.assert_array_equal(np.concatenate([head.images, rest.images[:3700]]), train.images)
    examples = np.concatenate([train.images, test.images]).reshape(5000, -1)
    assert len(np.unique(examples, axis=0)) == 5000


def test_the_sample_stands_in_for_mnist_with_a_warning(no_network, tmp_path, capsys):
    dataset = datasets.load("mnist", ["train", "test"], str(tmp_path))
    assert dataset.name == "mnist_sample"
    warning = capsys.readouterr().err
    assert "WARNING: mnist is not in" in warning
    assert "INSTEAD of MNIST" in warning
    with pytest.raises(UserError, match="names no examples of mnist_sample"):
        datasets.load("mnist", ["train[:55000]"], str(tmp_path))


def test_no_other_dataset_is_replaced(no_network, tmp_path):
    get_it = r"prepare_data --source_dir=SOURCE --dataset={} --data_dir="
    with pytest.raises(UserError, match=get_it.format("mnist")):
        datasets.load("mnist", ["train"], str(tmp_path), allow_sample=False)
    with pytest.raises(UserError, match=get_it.format("emnist/letters")):
        datasets.load("emnist/letters", ["train"], str(tmp_path))


def test_a_network_that_never_answers_is_given_up_in_time(monkeypatch, tmp_path):
    never = threading.Event()
    monkeypatch.setattr(requests, "head", lambda *args, **kwargs: never.wait(60))
    start = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        datasets.load("fashion_mnist", ["train"], str(tmp_path))
    assert 5 < time.monotonic() - start < 10
    never.set()


def test_the_whole_of_mnist(prepared_mnist):
    dataset = datasets.load(
        "mnist", ["train[:55000]", "train[55000:]", "test"], str(prepared_mnist)
    )
    assert dataset.name == "mnist"
    assert [len(s) for s in dataset.splits] == [55_000, 5_000, 10_000]
    assert np.bincount(dataset.splits[2].labels)[:3].tolist() == [980, 1135, 1032]
