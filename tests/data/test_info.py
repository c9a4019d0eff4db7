"""What is known of a dataset before its images are read."""

import dataclasses

import pytest

from jaxmnist.config import get_config
from jaxmnist.data.datasets import describe
from jaxmnist.data.info import natural, preparation
from jaxmnist.errors import UserError


def test_numbers_in_names_are_ordered_as_numbers():
    names = ["10", "9", "b2", "b10", "a", ""]
    assert sorted(names, key=natural) == ["", "9", "10", "a", "b2", "b10"]


def test_other_classes_than_those_of_training_are_refused():
    info = dataclasses.replace(describe(get_config()), class_names=["cat", "dog"])
    info.check_classes(["cat", "dog"])
    for trained in (["dog", "cat"], ["cat"], ["cat", "dog", "hen"]):
        with pytest.raises(UserError, match=r"has other classes now \(cat, dog\) than the model"):
            info.check_classes(trained)


def test_a_preparation_names_the_shape_where_it_is_not_mnist_s():
    config = get_config()
    assert preparation(config, ["0", "1"], (28, 28, 1)).get("shape") is None
    config.prepare = "resize"
    found = preparation(config, ["cat", "dog"], (32, 48, 3))
    assert (found["method"], found["shape"]) == ("resize", [32, 48, 3])
