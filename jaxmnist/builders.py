"""tfds builders of the MNIST family that need no TensorFlow, and what they prepare.

The classes keep the name, version, features, URLs and checksums of tfds's own, so that
`tfds.load` reads what they write, and they read what it wrote. Only what needs TensorFlow in
tfds's `_split_generators` and `_generate_examples` is done otherwise: gzip for its extractor,
PNG bytes for its encoder.
"""

import contextlib
import hashlib
import io
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import requests
import tensorflow_datasets as tfds
from jaxtyping import Int64, UInt8
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.image_classification import mnist as catalogue
from tensorflow_datasets.proto import tf_example_pb2

from jaxmnist import idx, png
from jaxmnist.errors import UserError, first_line

SPLITS = ("train", "test")
KINDS = ("images-idx3", "labels-idx1")
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


class Builder(catalogue.MNIST, skip_registration=True):
    """Mixed into a builder of tfds's; `arrays` are taken instead of a download if there."""

    arrays: Arrays | None = None
    prefix = {"train": "train", "test": "t10k"}
    num_examples = {"train": 60000, "test": 10000}

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        arrays = self.arrays or self._fetch(dl_manager)
        return {split: self._generate_examples(*arrays[split]) for split in SPLITS}

    def _generate_examples(self, images, labels) -> Iterator[tuple[int, dict[str, Any]]]:
        # tfds orders a split by a hash of its keys: the same keys give the same order.
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": io.BytesIO(png.encode(image)), "label": int(label)}

    def stem(self, split: str, kind: str) -> str:
        """An archive's name; `kind` is one of KINDS."""
        return f"{self.prefix[split]}-{kind}-ubyte"

    def read_archives(self, source_dir: Path) -> Arrays:
        """The splits' images and labels, checked; raises UserError naming what is wrong."""
        files = {(s, k): idx.find(source_dir, self.stem(s, k)) for s in SPLITS for k in KINDS}
        arrays = self._parse(files)
        for path in files.values():
            self._check_sum(path)
        return arrays

    def _check_sum(self, path: Path) -> None:
        """tfds registers the sums of the gzipped archives; a file of another name has none."""
        for url in self.urls():
            if not url.endswith("/" + path.name):
                continue
            wanted = checksums.get_all_url_infos()[url].checksum
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != wanted:
                raise UserError(
                    f"{path}: SHA-256 {found} is not the registered {wanted}: "
                    f"get it again from {url}."
                )

    def _parse(self, files: dict[tuple[str, str], Path]) -> Arrays:
        arrays = {}
        num_classes = self.info.features["label"].num_classes
        for split in SPLITS:
            images_path, labels_path = (files[split, kind] for kind in KINDS)
            images = idx.read_images(images_path)
            labels = idx.read_labels(labels_path, num_classes)
            for path, array in ((images_path, images), (labels_path, labels)):
                if len(array) != self.num_examples[split]:
                    raise UserError(
                        f"{path} holds {len(array)} examples where {self.name}'s {split} split "
                        f"has {self.num_examples[split]}: are train and test swapped?"
                    )
            if images.shape[1:] != catalogue.MNIST_IMAGE_SHAPE:
                raise UserError(f"{images_path} holds images of {images.shape[1:3]}, not 28x28.")
            arrays[split] = (images, labels)
        return arrays

    def urls(self) -> list[str]:
        """What a download fetches."""
        return [f"{self.URL}{self.stem(s, k)}.gz" for s in SPLITS for k in KINDS]

    def _fetch(self, dl_manager) -> Arrays:
        paths = dl_manager.download(self.urls())
        keys = [(split, kind) for split in SPLITS for kind in KINDS]
        return self._parse(dict(zip(keys, map(Path, paths), strict=True)))


class MNIST(Builder, skip_registration=True):
    name = "mnist"


class FashionMNIST(Builder, catalogue.FashionMNIST, skip_registration=True):
    name = "fashion_mnist"


class KMNIST(Builder, catalogue.KMNIST, skip_registration=True):
    name = "kmnist"


class EMNIST(Builder, catalogue.EMNIST, skip_registration=True):
    name = "emnist"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        config = self.builder_config
        self.prefix = {split: f"emnist-{config.name}-{split}" for split in SPLITS}
        self.num_examples = {"train": config.train_examples, "test": config.test_examples}

    def urls(self) -> list[str]:
        return [self.URL]

    def _fetch(self, dl_manager) -> Arrays:
        """All variants come in one zip file of 560 MB; only this one's archives are unpacked."""
        archive = Path(dl_manager.download(self.URL))
        unpacked = archive.with_name(f"{archive.name}.{self.builder_config.name}")
        try:
            with zipfile.ZipFile(archive) as z:
                for split in SPLITS:
                    for kind in KINDS:
                        z.extract(f"gzip/{self.stem(split, kind)}.gz", unpacked)
            return self.read_archives(unpacked / "gzip")
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)


_CLASSES = {c.name: c for c in (MNIST, FashionMNIST, KMNIST, EMNIST)}


def names() -> list[str]:
    """The datasets that there are builders for, tfds's way: "mnist", "emnist/letters"."""
    plain = [name for name, c in _CLASSES.items() if not c.BUILDER_CONFIGS]
    return plain + [f"emnist/{c.name}" for c in EMNIST.BUILDER_CONFIGS]


def create(name: str, data_dir: str | None) -> Builder:
    """The builder of a dataset in `names()`; `data_dir` None is tfds's default folder."""
    name, _, config = name.partition("/")
    return _CLASSES[name](data_dir=data_dir, **({"config": config} if config else {}))


def prepare(builder: Builder, source_dir: Path | None = None) -> None:
    """Writes the dataset as array_record, from `source_dir`'s archives or from its URLs.

    Does nothing if it is there already. One process at a time: a second waits for the first.

    Raises:
      UserError: the archives are wrong, or the folder cannot be written. Nothing is left behind.
    """
    arrays = builder.read_archives(source_dir) if source_dir else None
    root = Path(builder.data_dir_root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / f".{builder.name}.lock"), _quiet():
            # Made again under the lock: the process we waited for may have prepared it.
            fresh = type(builder)(data_dir=str(root), config=builder.builder_config)
            fresh.arrays = arrays
            fresh.download_and_prepare(file_format="array_record")
            _check_format(fresh)
    except requests.RequestException:  # An OSError too, but no fault of the folder's.
        raise
    except OSError as e:
        raise UserError(f"cannot write {root} ({e.strerror or e}): choose another data_dir.") from e


def read(
    builder: Builder, split: str
) -> tuple[UInt8[np.ndarray, "n 28 28 1"], Int64[np.ndarray, " n"]]:
    """A whole prepared split, in tfds's order.

    Raises:
      UserError: it is in a format that needs TensorFlow, or damaged.
    """
    _check_format(builder)
    try:
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        source = builder.as_data_source(split, deserialize_method=raw)
        records = source.__getitems__(range(len(source)))
        features = [tf_example_pb2.Example.FromString(r).features.feature for r in records]
        images = png.decode([f["image"].bytes_list.value[0] for f in features], 28, 28)
        labels = np.array([f["label"].int64_list.value[0] for f in features], np.int64)
    except Exception as e:
        raise UserError(
            f"{builder.data_dir} is damaged ({first_line(e)}): delete that folder and "
            "prepare it again."
        ) from e
    return images, labels


def _check_format(builder: Builder) -> None:
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{builder.data_dir} holds {builder.info.file_format.value} files, which only "
            "TensorFlow reads: prepare the data set as array_record in another folder (python -m "
            "jaxmnist.prepare_data ... --data_dir=OTHER) and use that as data_dir."
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps tfds's bars for terminals, and its announcements off standard output."""
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr if sys.stderr.isatty() else io.StringIO()):
        yield
