"""What is known of MNIST's family, and what earlier runs have kept of it, without tfds.

To import tfds takes a third of a second, which only those need who prepare data or read records.
"""

import os
import string
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from jaxmnist.data import cache
from jaxmnist.files import local_path

INFO = "dataset_info.json"  # tfds writes it last.
PREFIX = {"train": "train", "test": "t10k"}  # What the names of MNIST's archives begin with.
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]

# As NIST's emnist-*-mapping.txt have them. Where a letter's two cases look alike, "merged"
# variants have one class for both; "letters" has one for every letter, from 1, and tfds gives it
# 37 classes, of which no example has the others.
_MERGED = list(string.digits + string.ascii_uppercase + "abdefghnqrt")
_CLASSES = {
    "mnist": list(string.digits),
    "fashion_mnist": [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ],
    "kmnist": ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"],
    "emnist/byclass": list(string.digits + string.ascii_uppercase + string.ascii_lowercase),
    "emnist/bymerge": _MERGED,
    "emnist/balanced": _MERGED,
    "emnist/letters": ["unused 0"]
    + [f"{upper}{upper.lower()}" for upper in string.ascii_uppercase]
    + [f"unused {label}" for label in range(27, 37)],
    "emnist/digits": list(string.digits),
    "emnist/mnist": list(string.digits),
}
_EXAMPLES = {name: {"train": 60000, "test": 10000} for name in _CLASSES} | {
    "emnist/byclass": {"train": 697932, "test": 116323},
    "emnist/bymerge": {"train": 697932, "test": 116323},
    "emnist/balanced": {"train": 112800, "test": 18800},
    "emnist/letters": {"train": 88800, "test": 14800},
    "emnist/digits": {"train": 240000, "test": 40000},
}
_VERSIONS = {"mnist": "3.0.1", "fashion_mnist": "3.0.1", "kmnist": "3.0.1", "emnist": "3.1.0"}


def names() -> list[str]:
    """The datasets of the family, tfds's way: "mnist", "emnist/letters"."""
    return list(_CLASSES)


def class_names(name: str) -> list[str]:
    """What each class of a dataset in `names()` stands for; all differ."""
    return _CLASSES[name]


def num_examples(name: str) -> dict[str, int]:
    """How many examples each split of a dataset in `names()` has."""
    return _EXAMPLES[name]


def root(data_dir: str | None) -> Path:
    """tfds's folder; None is its default one. Raises UserError if it cannot be one."""
    own = os.path.join(os.path.expanduser("~"), "tensorflow_datasets")
    return local_path(data_dir or os.environ.get("TFDS_DATA_DIR", own), "data_dir")


def folder(name: str, data_dir: str | None) -> Path:
    """Where a dataset in `names()` is, or will be, prepared; raises as `root`."""
    return root(data_dir) / name / _VERSIONS[name.partition("/")[0]]


def caches(folder: Path, split: str) -> list[Path]:
    """Files for a split's arrays: beside the records, or else in the user's cache folder."""
    folders = [folder, cache.own_folder(str(folder.absolute()))]
    return [each / f"{split}.npz" for each in folders if each]


def kept(
    name: str, data_dir: str | None, split: str
) -> tuple[UInt8[np.ndarray, "n 28 28 1"], Int64[np.ndarray, " n"]] | None:
    """The images and labels that were decoded from the records which a folder holds still.

    None where there are none: then `tfds_builders.read` decodes them, or tells what is wrong.
    Raises UserError if `data_dir` cannot be tfds's folder.

    Args:
      name: one of `names()`.
      data_dir: tfds's folder; None is its default.
      split: "train" or "test".
    """
    within = folder(name, data_dir)
    found = cache.unchanged(caches(within, split), within, INFO)
    if found is None or len(found["labels"]) != _EXAMPLES[name][split]:
        return None
    return found["images"], found["labels"]
