"""A config's dataset -> its splits as arrays.

Those of MNIST's family are prepared by tfds if need be; the bundled sample, folders of pictures,
arrays and what else is prepared by tfds are read as they are.
"""

import contextlib
import dataclasses
import hashlib
import re
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32, Integer, UInt8
from ml_collections import ConfigDict

from jaxmnist.data import arrays, family, folder, idx
from jaxmnist.data.info import DatasetInfo, Preparation, some
from jaxmnist.errors import UserError, first_line, warn

SAMPLE = "mnist_sample"
_SAMPLE_DIR = Path(__file__).parent / SAMPLE
_SAMPLE_EXAMPLES = {"train": 4000, "test": 1000}
NETWORK_SECONDS = 8  # How long a server may take to answer.


class _Unreachable(UserError):
    """The data are not here, and could not be got."""


@dataclasses.dataclass(frozen=True)
class Split:
    """A split, or a slice of one, in host memory."""

    images: UInt8[np.ndarray, "n h w c"] | Float32[np.ndarray, "n h w c"]
    labels: Integer[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def upright(self, preparation: Preparation) -> "Split":
        """The same split, with its images as a person sees them, in uint8."""
        images = self.images.swapaxes(1, 2) if preparation["swap_axes"] else self.images
        return Split(to_uint8(images), self.labels)


def to_uint8(images: np.ndarray) -> UInt8[np.ndarray, "n h w c"]:
    """Images of a split as grey levels or colours from 0 to 255."""
    return images if images.dtype == np.uint8 else np.round(images * 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The splits that a run asked for, in that order, and what is known of the dataset."""

    info: DatasetInfo
    splits: list[Split]

    @property
    def name(self) -> str:
        return self.info.name


def names() -> list[str]:
    """The datasets whose content is known, so that they are described without being there."""
    return [*family.names(), SAMPLE]


def describe(config: ConfigDict) -> DatasetInfo:
    """What is known of a config's dataset before its images are read.

    Raises:
      UserError: there is no such dataset, or it is not there; those in `names()` may be missing.
    """
    name = config.dataset
    return _describe(name) if name in names() else _source(name).describe(config)


def _source(name: str) -> ModuleType:
    """The module that has `describe` and `read` for a dataset that is none of `names()`."""
    if source := {"folder": folder, "arrays": arrays}.get(name.partition(":")[0]):
        return source
    from jaxmnist.data import prepared  # Here, since tfds takes a moment to load.

    return prepared


def _describe(name: str) -> DatasetInfo:
    counts = _SAMPLE_EXAMPLES if name == SAMPLE else family.num_examples(name)
    return DatasetInfo(name, counts, class_names(name), (28, 28, 1), preparation(name))


def class_names(name: str) -> list[str]:
    """What each class of a dataset stands for; its data may still be missing."""
    if name == SAMPLE:
        return family.class_names("mnist")
    return family.class_names(name)


def preparation(name: str) -> Preparation:
    """How a picture becomes an input of a network that was trained on a dataset.

    It is done as the papers say that the images of the datasets were made: MNIST's (LeCun et al.
    1998, section III.A), Fashion-MNIST's (Xiao et al. 2017, section 2) and EMNIST's (Cohen et al.
    2017, figure 1), whose published arrays have swapped axes. KMNIST's characters fill their
    images.
    """
    dataset, _, variant = name.partition("/")
    strokes = {"method": "strokes", "box": 20, "centre": "mass", "swap_axes": False}
    if dataset == "fashion_mnist":
        photo = {"method": "photo", "box": 28, "centre": "box", "swap_axes": False}
        return {"shows": "piece of clothing", **photo}
    if dataset == "kmnist":
        return {"shows": "character", **strokes, "box": 28, "centre": "box"}
    if dataset == "emnist":
        shows = {"digits": "digit", "mnist": "digit", "letters": "letter"}.get(variant, "character")
        return {"shows": shows, **strokes, "box": 24, "centre": "box", "swap_axes": True}
    return {"shows": "digit", **strokes}


def num_classes(name: str) -> int:
    """The number of classes of a dataset, whose data may still be missing."""
    return len(class_names(name))


def with_digest(dataset: Dataset) -> Dataset:
    """The same, with the SHA-256 of its first split in its info, if its content may change."""
    if dataset.name in names():
        return dataset
    digest = hashlib.sha256(repr(dataset.info.class_names).encode())
    for array in (dataset.splits[0].labels.astype(np.int64), dataset.splits[0].images):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    info = dataclasses.replace(dataset.info, sha256=digest.hexdigest())
    return Dataset(info, dataset.splits)


def read(config: ConfigDict, splits: list[str]) -> Dataset:
    """Splits such as "train[:55000]" of a config's dataset; see `load` for those in `names()`.

    Raises:
      UserError: no such split, or no data: how to get it.
    """
    if config.dataset in names():
        return load(config.dataset, splits, config.data_dir, config.allow_sample)
    source, info = _source(config.dataset), describe(config)
    bases = {base for split in splits for base, _, _ in slice_of(info, split)}
    info, whole = source.read(config, bases)
    _warn_of_gaps(info, whole)
    return Dataset(info, _cut(whole, [slice_of(info, split) for split in splits]))


def load(
    name: str, splits: list[str], data_dir: str | None = None, allow_sample: bool = True
) -> Dataset:
    """Splits such as "train[:55000]" of a dataset, downloaded and prepared if need be.

    Args:
      name: one of `names()`.
      splits: in tfds's syntax.
      data_dir: tfds's folder; None is its default.
      allow_sample: whether the bundled sample, with a warning, may stand in for an "mnist" that is
        neither prepared in tfds's default folder nor can be reached. The result has its name. It
        never stands in for what should be in a `data_dir`.

    Raises:
      UserError: no such split, or no data: how to get it.
    """
    if name == SAMPLE:
        return _load_sample(splits)
    info = _describe(name)
    slices = [slice_of(info, split) for split in splits]
    whole = {}
    for base in {base for parts in slices for base, _, _ in parts}:
        found = family.kept(name, data_dir, base) or _decoded(name, base, data_dir, allow_sample)
        if found is None:
            return _load_sample(splits)
        whole[base] = found
    return Dataset(info, _cut(whole, slices))


def _decoded(
    name: str, base: str, data_dir: str | None, allow_sample: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """A base split, downloaded and prepared if need be; None if the sample has to stand in."""
    from jaxmnist.data import tfds_builders  # Here, since tfds takes a moment to load.

    builder = tfds_builders.create(name, data_dir)
    if not tfds_builders.is_prepared(builder):
        try:
            _download(name, builder)
        except _Unreachable:
            if name != "mnist" or not allow_sample or data_dir is not None:
                raise
            warn(
                "WARNING: this run uses 5,000 sample digits, NOT MNIST:\n"
                "MNIST is neither prepared here, nor can it be reached.\n"
                "With its four archives in a folder SOURCE, run\n"
                "  jaxmnist prepare_data --source_dir=SOURCE"
            )
            return None
        builder = tfds_builders.create(name, data_dir)  # Again: it reads on creation what is there.
    return tfds_builders.read(builder, base)


def slice_of(of: DatasetInfo | str, split: str) -> list[tuple[str, int, int]]:
    """The parts of a split in tfds's syntax: [(base split, first example, end)].

    Args:
      of: what is known of the dataset, or one of `names()`.
      split: the split.

    Raises:
      UserError: no such split, or an empty one.
    """
    info = _describe(of) if isinstance(of, str) else of
    counts = info.num_examples
    allowed = " and ".join(f"{base} ({n:,} examples)" for base, n in counts.items())
    ranges = _plain_ranges(counts, split) or _ranges(counts, split)
    if not ranges or any(first >= end for _, first, end in ranges):
        raise UserError(
            f"{split!r} names no examples of {info.name}: it has {allowed}, which can be "
            "sliced as in 'train[:80%]', 'train[100:200]' or 'train+test'."
        )
    return ranges


def _plain_ranges(counts: dict[str, int], split: str) -> list[tuple[str, int, int]]:
    """The parts of a split such as "test" or "train[:55000]"; [] if it is anything else."""
    ranges = []
    for part in split.split("+"):
        match = re.fullmatch(r"([\w-]+)(?:\[(?!:\])(\d*):(\d*)\])?", part, re.ASCII)
        if not match or match[1] not in counts:
            return []
        count = counts[match[1]]
        first, end = int(match[2] or 0), int(match[3] or count)
        if not first < end <= count:
            return []
        ranges.append((match[1], first, end))
    return ranges


def _ranges(counts: dict[str, int], split: str) -> list[tuple[str, int, int]]:
    """The parts of a split as tfds reads it; [] if it does not know it."""
    import tensorflow_datasets as tfds  # Here, since it takes a moment to load.

    infos = {b: tfds.core.SplitInfo(b, [n], 0, filename_template=None) for b, n in counts.items()}
    try:
        parts = tfds.core.splits.AbstractSplit.from_spec(split).to_absolute(infos)
    except (ValueError, NotImplementedError):
        return []
    return [
        (p.splitname, p.from_ or 0, counts[p.splitname] if p.to is None else p.to) for p in parts
    ]


def eval_name(config: ConfigDict) -> str:
    """What to call the evaluation's split in metrics: "test" or, of all others, "validation"."""
    bases = set(re.findall(r"(?:^|\+)\s*([\w-]+)", config.eval_split))
    return "test" if bases == {"test"} else "validation"


def _load_sample(splits: list[str]) -> Dataset:
    info = _describe(SAMPLE)
    slices = [slice_of(info, split) for split in splits]
    whole = {}
    for base, prefix in family.PREFIX.items():
        images = idx.read_images(idx.find(_SAMPLE_DIR, f"{prefix}-images-idx3-ubyte"))
        labels = idx.read_labels(idx.find(_SAMPLE_DIR, f"{prefix}-labels-idx1-ubyte"), 10)
        whole[base] = images, labels
    return Dataset(info, _cut(whole, slices))


def _warn_of_gaps(info: DatasetInfo, whole: family.Arrays) -> None:
    """Tells of classes that one of the splits lacks."""
    for split, (_, labels) in sorted(whole.items()):
        lacking = sorted(set(range(len(info.class_names))) - set(labels.tolist()))
        if lacking:
            named = some([info.class_names[i] for i in lacking])
            classes = "class" if len(lacking) == 1 else f"{len(lacking)} classes"
            warn(f"WARNING: {split} of {info.name} has no examples of the {classes} {named}")


def _cut(whole: family.Arrays, slices: list[list[tuple[str, int, int]]]) -> list[Split]:
    """The splits of which `slices` tells; one that is a single part shares its memory."""
    cut = []
    for parts in slices:
        images = [whole[base][0][first:end] for base, first, end in parts]
        labels = [whole[base][1][first:end] for base, first, end in parts]
        if len(parts) == 1:
            cut.append(Split(images[0], labels[0]))
        else:
            cut.append(Split(np.concatenate(images), np.concatenate(labels)))
    return cut


def _download(name: str, builder: Any) -> None:
    from jaxmnist.data import tfds_builders

    folder = builder.data_dir_root
    get_it = (
        "To get it without internet, put its archives into a folder SOURCE and run\n  jaxmnist "
        f"prepare_data --source_dir=SOURCE --dataset={name} --data_dir={folder}"
    )
    url = builder.urls()[0]
    # tfds tries for minutes before it gives up, so ask first.
    if not _reachable(url):
        raise _Unreachable(f"{name} is not in {folder}, and {url} cannot be reached. {get_it}")
    try:
        tfds_builders.prepare(builder)
    except UserError:
        raise
    except Exception as e:
        raise _Unreachable(f"{name} could not be downloaded ({first_line(e)}). {get_it}") from e


def _reachable(url: str) -> bool:
    """Whether a server answers within NETWORK_SECONDS."""
    import requests  # Here, since it takes a moment to load.

    answers = []

    def ask():
        with contextlib.suppress(requests.RequestException):
            answers.append(requests.head(url, timeout=NETWORK_SECONDS))

    thread = threading.Thread(target=ask, daemon=True)  # To look up a name has no timeout.
    thread.start()
    thread.join(NETWORK_SECONDS)
    return len(answers) == 1
