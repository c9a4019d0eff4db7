"""Pictures in one folder for each class -> their splits as arrays, prepared as a config says.

PATH/train/CLASS/* and PATH/test/CLASS/*, with other splits beside them if there are. Where train is
the only split, or where PATH holds the folders of the classes itself, the sixth of the pictures
that a hash of their paths below it chooses is the test split, so that a picture stays in its split
when others come or go.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxmnist.data import cache, pictures
from jaxmnist.data.info import DatasetInfo, natural, preparation, some
from jaxmnist.errors import UserError, warn
from jaxmnist.files import local_path
from jaxmnist.record.screen import Screen

PREFIX = "folder:"
_HELD_OUT = 6  # One in so many.


class _File(NamedTuple):
    """A picture: the hash that orders them, its path below the split's folder, and its class."""

    digest: str
    name: str
    label: int
    path: Path


def describe(config: ConfigDict) -> DatasetInfo:
    """What is known before pictures are read: those that cannot be read count too.

    Raises:
      UserError: there is no such folder, or it holds no pictures of two classes.
    """
    return _find(config)[0]


def read(
    config: ConfigDict, splits: set[str]
) -> tuple[DatasetInfo, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """What is known of the dataset, and the images and labels of splits.

    They are in the order of a hash, so that a slice of a split has all classes. What was prepared
    is kept in the user's cache folder, or in `config.data_dir`.

    Raises:
      UserError: as `describe` does, or nothing in a split can be read.
    """
    info, files = _find(config)
    root, counts, arrays = _root(config), dict(info.num_examples), {}
    total = sum(len(files[split]) for split in splits)
    done = 0
    for split in sorted(splits):
        found = _prepared(config, info, split, files[split], (done, total))
        done += len(files[split])
        left_out = found["left_out"].tolist()
        if not len(found["labels"]):
            raise UserError(
                f"dataset={info.name}: none of the {len(left_out):,} files of {split}, such as "
                f"{left_out[0]}, is a picture that can be used."
            )
        if left_out:
            warn(
                f"WARNING: {len(left_out):,} of {len(files[split]):,} files of {split} in {root} "
                f"are left out, since they are no pictures, damaged or blank: {some(left_out, 3)}"
            )
        counts[split] = len(found["labels"])
        arrays[split] = found["images"], found["labels"]
    return dataclasses.replace(info, num_examples=counts), arrays


def _root(config: ConfigDict) -> Path:
    text = config.dataset.removeprefix(PREFIX)
    return local_path(text, f"dataset={PREFIX}", as_pattern=False)


def _find(config: ConfigDict) -> tuple[DatasetInfo, dict[str, list[_File]]]:
    root, name = _root(config), config.dataset
    if not root.is_dir():
        raise UserError(f"dataset={name}: there is no such folder.")
    try:
        inside = _folders(root)
        if "test" in inside and "train" not in inside:
            raise UserError(f"dataset={name}: it holds a folder test, and none that is train.")
        bases = {each: root / each for each in inside} if "train" in inside else {"train": root}
        of_split = {split: _folders(base) for split, base in bases.items()}
        classes = sorted({each for of in of_split.values() for each in of}, key=natural)
        for each in classes:
            each.encode()  # So that it can be written in a record, and drawn.
        files = {
            split: sorted(
                _File(hashlib.sha256(name.encode(errors="replace")).hexdigest(), name, label, path)
                for label, of in enumerate(classes)
                for name, path in _files(base / of, of)
            )
            for split, base in bases.items()
        }
    except UnicodeEncodeError:
        raise UserError(
            f"dataset={name!r}: the name of the folder {each!r} is no text: give it another."
        ) from None
    except OSError as e:
        raise UserError(f"dataset={name}: {e.filename} cannot be read ({e.strerror}).") from None
    if list(files) == ["train"]:
        files = _hold_out(files["train"])
    with_pictures = {each.label for of in files.values() for each in of}
    if len(with_pictures) < 2:
        only = (
            f"only pictures of {classes[with_pictures.pop()]}" if with_pictures else "no pictures"
        )
        raise UserError(
            f"dataset={name}: it holds {only}: put those of each class into a folder of its own, "
            f"such as {root}/train/CLASS or {root}/CLASS."
        )
    counts, shape = {split: len(of) for split, of in files.items()}, tuple(config.image_shape)
    return DatasetInfo(name, counts, classes, shape, preparation(config, classes, shape)), files


def _folders(folder: Path) -> list[str]:
    names = (each.name for each in os.scandir(folder) if each.is_dir())
    return sorted(name for name in names if not name.startswith("."))


def _files(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """The files in a folder and in those within it, by their names; hidden ones are none."""
    if not folder.is_dir():  # This split lacks the class.
        return
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(folder / entry.name, f"{name}/{entry.name}")
        else:
            yield f"{name}/{entry.name}", folder / entry.name


def _hold_out(files: list[_File]) -> dict[str, list[_File]]:
    """Files in the order of their hashes, in two splits of which none is empty if there are two."""
    test = [each for each in files if int(each.digest[:8], 16) % _HELD_OUT == 0] or files[:1]
    if len(test) == len(files):
        test = test[:-1]
    held = set(test)
    return {"train": [each for each in files if each not in held], "test": test}


def _prepared(
    config: ConfigDict, info: DatasetInfo, split: str, files: list[_File], part: tuple[int, int]
) -> cache.Arrays:
    """Its "images" and "labels", and the names that are "left_out"."""
    key = json.dumps([info.preparation, info.class_names])
    what = f"{_root(config).absolute()} {key}"
    folder = cache.own_folder(what)
    if config.data_dir is not None:
        name = hashlib.sha256(what.encode(errors="replace")).hexdigest()[:16]
        folder = local_path(config.data_dir, "data_dir") / f"folder-{name}"
    states = hashlib.sha256()
    for each in files:
        try:
            stat = each.path.stat()
            state = f"{each.name} {each.label} {stat.st_size} {stat.st_mtime_ns}\n"
        except OSError:  # A link to nothing, say: it is told of with what cannot be read.
            state = f"{each.name} {each.label}\n"
        states.update(state.encode(errors="replace"))
    made_from = [key, states.hexdigest()]
    paths = [folder / f"{split}.npz"] if folder else []
    return cache.kept(paths, made_from, lambda: _prepare(info, files, part))


def _prepare(info: DatasetInfo, files: list[_File], part: tuple[int, int]) -> cache.Arrays:
    def read(file: _File) -> np.ndarray | None:
        try:
            return pictures.read(file.path, file.name, info.preparation)
        except UserError:
            return None

    done, total = part
    images, labels, left_out = [], [], []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for i, (file, image) in enumerate(zip(files, pool.map(read, files), strict=True)):
            Screen.count(done + i, total)
            if image is None:
                left_out.append(file.name)
            else:
                images.append(image.reshape(info.image_shape))
                labels.append(file.label)
    finally:
        pool.shutdown(cancel_futures=True)
    return {
        "images": np.array(images, np.uint8).reshape(-1, *info.image_shape),
        "labels": np.array(labels, np.int64),
        "left_out": np.array(left_out, np.str_),
    }
