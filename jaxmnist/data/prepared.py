"""Any dataset of tfds with an image and a label that is prepared as array_record -> arrays.

Neither TensorFlow nor the code of the dataset is needed: what tfds has written beside the records
says all.
"""

import difflib
import functools
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image

from jaxmnist.data import cache, family, tfds_builders
from jaxmnist.data.info import DatasetInfo
from jaxmnist.errors import UserError
from jaxmnist.record.screen import Screen

_NAME = re.compile(r"(\w+)(?:/([\w.+-]+))?(?::(\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def describe(config: ConfigDict) -> DatasetInfo:
    """What tfds has written of a dataset, such as "cifar10", "name/config" or "name:1.0.0".

    Raises:
      UserError: there is none of that name, or it is not prepared: how to; or a run cannot use it.
    """
    builder, image, label = _open(config)
    names = builder.info.features[label].names or map(str, range(_num_classes(builder, label)))
    counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    shape = builder.info.features[image].shape
    if None in shape:
        first = next(name for name, count in counts.items() if count)
        (record,) = tfds_builders.records(builder, first, range(1))
        shape = _decode(record[image].bytes_list.value[0], shape[2]).shape
    preparation: dict[str, Any] = {"shows": "picture", "method": "resize", "swap_axes": False}
    if shape != (28, 28, 1):
        preparation["shape"] = list(shape)
    return DatasetInfo(config.dataset, counts, list(names), tuple(shape), preparation)


def read(
    config: ConfigDict, splits: set[str]
) -> tuple[DatasetInfo, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """What is known of the dataset, and the images and labels of splits, in tfds's order.

    Raises:
      UserError: as `describe` does, or its images have several shapes, or it lacks labels.
    """
    info, opened = describe(config), _open(config)
    decode = functools.partial(_arrays, info, *opened)
    arrays = {s: tfds_builders.kept(opened[0], s, functools.partial(decode, s)) for s in splits}
    return info, arrays


def _open(config: ConfigDict) -> tuple[Any, str, str]:
    """The builder, and the names of its features that are the image and the label."""
    folder = _folder(config)
    try:
        builder = tfds.builder_from_directory(folder)
        features = dict(builder.info.features.items())
    except Exception as e:
        raise tfds_builders.damaged(folder, e) from e
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{folder} holds {builder.info.file_format.value} files, which only TensorFlow reads: "
            f"prepare it in another data_dir too, with {_command(config, 'OTHER')}"
        )
    kinds = tfds.features.Image, tfds.features.ClassLabel
    image, label = ([n for n, f in features.items() if type(f) is kind] for kind in kinds)
    if len(image) != 1 or len(label) != 1:
        held = ", ".join(f"{name} ({type(f).__name__})" for name, f in features.items())
        raise UserError(
            f"dataset={config.dataset!r} is not allowed: a run needs one image (Image) and one "
            f"label (ClassLabel), and this has {held}."
        )
    of_image = features[image[0]]
    if of_image.np_dtype != np.uint8 or of_image.shape[2] not in _MODES:
        raise UserError(
            f"dataset={config.dataset!r} is not allowed: its images are of {of_image.np_dtype} "
            f"with {of_image.shape[2]} channels, where a run needs uint8 and 1, 3 or 4."
        )
    return builder, image[0], label[0]


def _folder(config: ConfigDict) -> Path:
    """The folder of the newest version, or of that which was named."""
    match = _NAME.fullmatch(config.dataset)
    root = family.root(config.data_dir)
    if not match:
        raise _unknown(config.dataset, root)
    name, variant, version = match.groups()
    folder = root / name / (variant or "")
    variants = [each.name for each in _inside(folder) if _versions(each)]
    if not variant and len(variants) == 1 and not _versions(folder):
        folder /= variants[0]
    found = [each for each in _versions(folder) if version in (None, each.name)]
    if found:
        return found[-1]
    if variants:
        raise UserError(
            f"dataset={config.dataset!r} is not allowed: {folder} holds several; name one of "
            f"{', '.join(f'{name}/{each}' for each in variants)}."
        )
    if there := _versions(folder):
        raise UserError(
            f"dataset={config.dataset!r}: of the versions, {folder} has "
            f"{', '.join(each.name for each in there)}."
        )
    own = {each.partition("/")[0] for each in family.names()}
    if name in own or name not in tfds.list_builders(with_community_datasets=False):
        raise _unknown(config.dataset, root)
    raise UserError(
        f"dataset={config.dataset!r}: it is not prepared in {root}. Where tfds and, for most, "
        f"TensorFlow are installed, this prepares it: {_command(config, str(root))}"
    )


def _inside(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def _versions(folder: Path) -> list[Path]:
    """The folders of prepared versions, the newest last."""
    found = [
        each
        for each in _inside(folder)
        if _VERSION.fullmatch(each.name) and (each / family.INFO).exists()
    ]
    return sorted(found, key=lambda each: [int(part) for part in each.name.split(".")])


def _command(config: ConfigDict, root: str) -> str:
    return (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder({config.dataset!r}, data_dir={root!r})"
        ".download_and_prepare(file_format='array_record')\""
    )


def _unknown(name: str, root: Path) -> UserError:
    own = [*family.names(), "mnist_sample"]
    known = [*own, *tfds.list_builders(with_community_datasets=False)]
    near = difflib.get_close_matches(name, [*known, *(each.name for each in _inside(root))], n=1)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f"it must be one of {', '.join(own)}, folder:PATH, or another of tfds's."
    )
    return UserError(
        f"dataset={name!r} is not allowed: tfds has none of that name, nor is one in {root}; {hint}"
    )


def _num_classes(builder: Any, label: str) -> int:
    return builder.info.features[label].num_classes or 0


def _arrays(info: DatasetInfo, builder: Any, image: str, label: str, split: str) -> cache.Arrays:
    """The split's images and labels, decoded."""
    records = tfds_builders.records(builder, split)
    images = np.empty((len(records), *info.image_shape), np.uint8)
    for i, features in enumerate(records):
        decoded = _decode(features[image].bytes_list.value[0], info.image_shape[2])
        if decoded.shape != info.image_shape:
            shapes = ("x".join(map(str, shape)) for shape in (info.image_shape, decoded.shape))
            raise UserError(
                f"dataset={info.name!r} is not allowed: its images have several shapes, such as "
                f"{' and '.join(shapes)}, where a run needs one."
            )
        images[i] = decoded
        Screen.count(i, len(records))
    labels = np.array([f[label].int64_list.value[0] for f in records], np.int64)
    if labels.min() < 0:
        raise UserError(f"dataset={info.name!r} is not allowed: its {split} split has no labels.")
    return {"images": images, "labels": labels}


def _decode(data: bytes, channels: int) -> UInt8[np.ndarray, "h w c"]:
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
        array = np.asarray(image.convert(_MODES[channels]))
    return array.reshape(*array.shape[:2], channels)
