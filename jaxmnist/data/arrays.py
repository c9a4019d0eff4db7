"""Arrays that a Python program trains on, kept in the workdir for all that comes later.

Their dataset is "arrays:" and a hash of them. In data.npz beside the run's record, or in the folder
above, that of several seeds, they are found again wherever the workdir is.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from ml_collections import ConfigDict

from jaxmnist.data.cache import Arrays
from jaxmnist.data.info import DatasetInfo, natural, preparation
from jaxmnist.errors import UserError, first_line
from jaxmnist.files import local_path, write_bytes

PREFIX = "arrays:"
FILE = "data.npz"
_SPLITS = ("train", "test")
_Images = UInt8[np.ndarray, "n h w c"] | Float32[np.ndarray, "n h w c"]


def pack(data: Any) -> tuple[str, Arrays]:
    """The name of a dataset of arrays, and what its file holds.

    Args:
      data: ((x, y), (x_test, y_test)). Images are of the shape (n, height, width, channels) or, in
        grey, (n, height, width): integers in 0 to 255, floating-point in [0, 1] or bool. They are
        kept as uint8 if that loses nothing, else as float32. Labels are whole numbers from 0, or
        the names of the classes.

    Raises:
      UserError: data are something else, in one sentence.
    """
    try:
        (x, y), (x_test, y_test) = data
    except (TypeError, ValueError):
        raise UserError(
            "data is not allowed: it must be ((x, y), (x_test, y_test)), the images and labels to "
            "train on and those to evaluate on."
        ) from None
    images = _images(x, "x"), _images(x_test, "x_test")
    if images[0].shape[1:] != images[1].shape[1:]:
        shapes = " and ".join("x".join(map(str, each.shape[1:])) for each in images)
        raise UserError(f"data: the images of x and x_test differ in their shapes, {shapes}.")
    if images[0].dtype != images[1].dtype:
        images = _float(images[0]), _float(images[1])
    each = _labels(y, len(images[0]), ""), _labels(y_test, len(images[1]), "_test")
    class_names, labels = _classes(*each)
    arrays: Arrays = {}
    for split, of_images, of_labels in zip(_SPLITS, images, labels, strict=True):
        arrays |= {f"{split}_images": of_images, f"{split}_labels": of_labels}
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for array in arrays.values():
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    name = f"{PREFIX}{digest.hexdigest()[:16]}"
    counts = dict(zip(_SPLITS, map(len, labels), strict=True))
    about = {"name": name, "num_examples": counts, "class_names": class_names}
    about["image_shape"] = images[0].shape[1:]
    return name, arrays | {"about": np.array(json.dumps(about))}


def write(file: Path, packed: Arrays) -> None:
    """Writes what `pack` returns, whole or not at all."""
    data = io.BytesIO()
    np.savez(data, **packed)  # type: ignore[arg-type]
    write_bytes(file, data.getvalue())


def name_of(file: Path) -> str | None:
    """The name of the arrays in a file; None if there are none."""
    try:
        return _about(file)["name"]
    except Exception:  # It may be damaged in any way.
        return None


def find(workdir: Path, name: str) -> Path:
    """The folder in which a workdir's arrays are; the workdir's own if they are nowhere."""
    workdir = workdir.absolute()
    folders = (workdir, workdir.parent)
    return next((each for each in folders if name_of(each / FILE) == name), workdir)


def describe(config: ConfigDict) -> DatasetInfo:
    """What is known of a config's arrays.

    Raises:
      UserError: they are not in the folder `config.data_dir`.
    """
    name, file = config.dataset, _file(config)
    try:
        about = _about(file)
        if about["name"] != name:
            raise UserError(f"dataset={name}: {file} holds other arrays ({about['name']}).")
        shape, class_names = tuple(about["image_shape"]), about["class_names"]
        prepared = preparation(config, class_names, shape)
        return DatasetInfo(name, about["num_examples"], class_names, shape, prepared)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(
            f"dataset={name}: its arrays are not in {file}, which its workdir had: put that file "
            "back, or give the arrays again."
        ) from None
    except Exception as e:
        raise _damaged(file, e) from e


def read(
    config: ConfigDict, splits: set[str]
) -> tuple[DatasetInfo, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """What is known of the dataset, and the images and labels of splits.

    Raises:
      UserError: as `describe` does.
    """
    info, file = describe(config), _file(config)
    try:
        with file.open("rb") as f, np.load(f) as held:
            return info, {s: (held[f"{s}_images"], held[f"{s}_labels"]) for s in splits}
    except Exception as e:
        raise _damaged(file, e) from e


def _file(config: ConfigDict) -> Path:
    return local_path(config.data_dir or ".", "data_dir") / FILE


def _about(file: Path) -> dict[str, Any]:
    with file.open("rb") as f, np.load(f) as held:
        return json.loads(str(held["about"]))


def _damaged(file: Path, e: Exception) -> UserError:
    return UserError(f"{file} is damaged ({first_line(e).rstrip('.')}): give the arrays again.")


def _array(x: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(x)
    except ValueError as e:
        raise UserError(f"data: {what} is no array ({first_line(e).rstrip('.')}).") from None


def _images(x: Any, what: str) -> _Images:
    x = _array(x, what)
    images = x[..., None] if x.ndim == 3 else x
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(
            f"data: {what} has the shape {x.shape}, where images have (n, height, width, channels) "
            "or (n, height, width)."
        )
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise UserError(
            f"data: {what} has the shape {x.shape}, in which channels come second: move them to "
            f"the end, with numpy.moveaxis({what}, 1, -1)."
        )
    if images.dtype == bool:
        return images * np.uint8(255)
    is_float = np.issubdtype(images.dtype, np.floating)
    if not is_float and not np.issubdtype(images.dtype, np.integer):
        raise UserError(f"data: {what} is of {x.dtype}, where images are of numbers.")
    if np.isnan(images).any():
        raise UserError(f"data: {what} has values that are no numbers (NaN).")
    low, high = images.min(), images.max()
    if low < 0 or high > (1 if is_float else 255):
        raise UserError(
            f"data: {what} has values from {low:g} to {high:g}, where images of floating-point "
            "numbers have 0 to 1, and of integers 0 to 255."
        )
    if not is_float:
        return images.astype(np.uint8)
    images = images.astype(np.float32)
    levels = np.round(images * 255).astype(np.uint8)
    return levels if (_float(levels) == images).all() else images


def _float(images: _Images) -> Float32[np.ndarray, "n h w c"]:
    return images / np.float32(255) if images.dtype == np.uint8 else images


def _labels(y: Any, count: int, of: str) -> np.ndarray:
    y = _array(y, f"y{of}")
    labels = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if labels.ndim != 1:
        raise UserError(
            f"data: y{of} has the shape {y.shape}, where labels have (n,), one for each image."
        )
    if len(labels) != count:
        raise UserError(f"data: x{of} has {count:,} images, and y{of} {len(labels):,} labels.")
    if all(isinstance(label, str) for label in labels.tolist()):
        return labels.astype(np.str_)
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"data: y{of} is of {y.dtype}, where labels are whole numbers from 0 or names of "
            "classes."
        )
    return labels.astype(np.int64)


def _classes(
    y: np.ndarray, y_test: np.ndarray
) -> tuple[list[str], tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]]:
    """The names of the classes, and the labels of both splits as their numbers."""
    if y.dtype.kind != y_test.dtype.kind:
        raise UserError("data: y and y_test must both be whole numbers, or both names of classes.")
    used = sorted({*y.tolist(), *y_test.tolist()}, key=natural if y.dtype.kind == "U" else None)
    if len(used) < 2:
        raise UserError(f"data: all labels are {used[0]!r}, where two classes are the least.")
    if y.dtype.kind == "U":
        numbers = {name: number for number, name in enumerate(used)}
        first, second = (np.array([numbers[n] for n in of.tolist()]) for of in (y, y_test))
        return used, (first, second)
    if used != list(range(len(used))):
        wanted = next(i for i, label in enumerate(used) if i != label)
        raise UserError(
            f"data: labels are from {used[0]} to {used[-1]}, and no example has {wanted}: number "
            "the classes from 0, without gaps."
        )
    return [str(label) for label in used], (y, y_test)
