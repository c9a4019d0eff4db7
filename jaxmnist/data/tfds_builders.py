"""tfds builders of the MNIST family that need no TensorFlow, and what they prepare.

The classes keep the name, version, features, URLs and checksums of tfds's own, so that
`tfds.load` reads what they write, and they read what it wrote. They replace the two methods for
which tfds needs TensorFlow: `_split_generators`, which unpacks archives, and `_generate_examples`,
which encodes images.
"""

import contextlib
import functools
import hashlib
import io
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from jaxtyping import Int64, UInt8
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.image_classification import mnist as catalogue
from tensorflow_datasets.proto import tf_example_pb2

from jaxmnist.data import cache, family, idx, png
from jaxmnist.data.family import INFO, Arrays
from jaxmnist.errors import STDERR, UserError, first_line
from jaxmnist.files import lock

SPLITS = ("train", "test")
KINDS = ("images-idx3", "labels-idx1")


class Builder(catalogue.MNIST, skip_registration=True):
    """The part of a builder that needs no TensorFlow; mixed into one of tfds's.

    Attributes:
      arrays: the examples to prepare; None downloads them.
      prefix: what the names of each split's archives begin with.
      num_examples: the number of examples of each split.
      archived_examples: the numbers in the archives, where these hold more.
      class_names: what each class stands for.
      content_sums: the SHA-256 of what each archive holds, where it is known. It is that of the
        unpacked content, since gzip's own bytes differ from time to time.
    """

    arrays: Arrays | None = None
    prefix = family.PREFIX
    num_examples = family.num_examples("mnist")
    archived_examples: dict[str, int] = {}
    class_names = family.class_names("mnist")
    content_sums: dict[str, str] = {}

    def _info(self) -> tfds.core.DatasetInfo:
        info = super()._info()
        # It would ask tfds's bucket, which is switched off, and leave an empty folder each time.
        info.initialize_from_bucket = lambda: None
        return info

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        arrays = self.arrays or self._fetch(dl_manager)
        return {split: self._generate_examples(*arrays[split]) for split in SPLITS}

    def _generate_examples(self, images, labels) -> Iterator[tuple[int, dict[str, Any]]]:
        # tfds orders a split by a hash of its keys: the same keys give the same order.
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": io.BytesIO(png.encode(image)), "label": int(label)}

    def stem(self, split: str, kind: str) -> str:
        """The name of an archive without ".gz"; `kind` is one of KINDS."""
        return f"{self.prefix[split]}-{kind}-ubyte"

    def read_archives(self, source_dir: Path) -> Arrays:
        """The splits' images and labels, checked; raises UserError naming what is wrong."""
        files = {(s, k): idx.find(source_dir, self.stem(s, k)) for s in SPLITS for k in KINDS}
        arrays = self._parse(files)
        for path in files.values():
            self._check_sum(path)
        return arrays

    def _check_sum(self, path: Path) -> None:
        """Raises UserError for an archive that holds something else than it should.

        The content of MNIST's and Fashion-MNIST's archives is known. tfds knows the sums of
        KMNIST's as they are gzipped. All that is known of others is that they are not MNIST's.
        """
        found = hashlib.sha256(idx.content(path)).hexdigest()
        name = path.name.removesuffix(".gz").replace(".idx", "-idx").removesuffix("-ubyte")
        for other in _CLASSES.values():
            if found in other.content_sums.values() and other.name != self.name:
                raise UserError(f"{path} is an archive of {other.name}, not of {self.name}.")
        wanted = self.content_sums.get(name)
        if wanted and found != wanted:
            raise UserError(
                f"{path} holds something else than {self.name}'s {name}-ubyte (the SHA-256 of its "
                f"content is {found}, not {wanted}): get it again from {self.URL}."
            )
        registered = checksums.get_all_url_infos().get(f"{self.URL}{path.name}")
        if wanted or not registered or not idx.is_gzipped(path):
            return
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != registered.checksum:
            raise UserError(
                f"{path}: its SHA-256 is {found}, not the registered {registered.checksum}: get it "
                f"again from {self.URL} or, if it was only packed again, unpack it."
            )

    def _parse(self, files: dict[tuple[str, str], Path]) -> Arrays:
        arrays = {}
        for split in SPLITS:
            images_path, labels_path = (files[split, kind] for kind in KINDS)
            images = idx.read_images(images_path)
            labels = idx.read_labels(labels_path, len(self.class_names))
            for path, array in ((images_path, images), (labels_path, labels)):
                if len(array) not in (self.num_examples[split], self.archived_examples.get(split)):
                    raise UserError(
                        f"{path} holds {len(array)} examples where {self.name}'s {split} split "
                        f"has {self.num_examples[split]}: are train and test swapped?"
                    )
            if images.shape[1:] != catalogue.MNIST_IMAGE_SHAPE:
                raise UserError(f"{images_path} holds images of {images.shape[1:3]}, not 28x28.")
            count = self.num_examples[split]  # tfds takes the first ones.
            arrays[split] = (images[:count], labels[:count])
        return arrays

    def urls(self) -> list[str]:
        """The URLs of what a download fetches."""
        return [f"{self.URL}{self.stem(s, k)}.gz" for s in SPLITS for k in KINDS]

    def _fetch(self, dl_manager) -> Arrays:
        paths = dl_manager.download(self.urls())
        keys = [(split, kind) for split in SPLITS for kind in KINDS]
        return self._parse(dict(zip(keys, map(Path, paths), strict=True)))


class MNIST(Builder, skip_registration=True):
    name = "mnist"
    content_sums = {
        "train-images-idx3": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }


class FashionMNIST(Builder, catalogue.FashionMNIST, skip_registration=True):
    name = "fashion_mnist"
    content_sums = {
        "train-images-idx3": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }
    class_names = family.class_names("fashion_mnist")


class KMNIST(Builder, catalogue.KMNIST, skip_registration=True):
    name = "kmnist"
    class_names = family.class_names("kmnist")


class EMNIST(Builder, catalogue.EMNIST, skip_registration=True):
    name = "emnist"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        config = self.builder_config
        self.prefix = {split: f"emnist-{config.name}-{split}" for split in SPLITS}
        self.num_examples = family.num_examples(f"emnist/{config.name}")
        if config.name == "letters":
            self.archived_examples = {"train": 124800, "test": 20800}
        self.class_names = family.class_names(f"emnist/{config.name}")

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


_CLASSES: dict[str, type[Builder]] = {c.name: c for c in (MNIST, FashionMNIST, KMNIST, EMNIST)}


def create(name: str, data_dir: str | None) -> Builder:
    """The builder of one of `family.names()`; `data_dir` None is tfds's default folder.

    Raises:
      UserError: what lies in the folder cannot be read, or is damaged.
    """
    root, folder = family.root(data_dir), family.folder(name, data_dir)
    name, _, config = name.partition("/")
    try:
        return _CLASSES[name](data_dir=str(root), **({"config": config} if config else {}))
    except Exception as e:
        _is_whole(folder)
        raise damaged(folder, e) from e


def is_prepared(builder: Builder) -> bool:
    """Whether the dataset is there; raises UserError if it cannot be read, or is there in part."""
    return _is_whole(Path(builder.data_dir))


def _is_whole(folder: Path) -> bool:
    try:
        files = [name for name in os.listdir(folder) if name == INFO or "array_record" in name]
        for name in files:
            (folder / name).open("rb").close()
        if INFO in files:
            return True
    except FileNotFoundError:
        return False
    except OSError as e:
        raise UserError(
            f"{e.filename or folder} cannot be read ({e.strerror or e}): make it readable, or "
            "choose another data_dir."
        ) from None
    raise damaged(folder, f"it lacks {INFO}")


def damaged(folder: str | Path, why: str | Exception) -> UserError:
    """The error that says why what is prepared in a folder cannot be used."""
    why = why if isinstance(why, str) else first_line(why).rstrip(".")
    return UserError(f"{folder} is damaged ({why}): delete that folder and prepare it again.")


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
        busy = f"another process prepares {builder.name} in {root}"
        with lock(root / f".{builder.name}.lock", busy, wait=True), _quiet():
            # Asked under the lock: the process we waited for may have prepared it.
            if not is_prepared(builder):
                _write(builder, arrays)
        config = builder.builder_config
        _check_format(
            create(f"{builder.name}/{config.name}" if config else builder.name, str(root))
        )
    except requests.RequestException:  # An OSError too, but no fault of the folder's.
        raise
    except (OSError, RuntimeError) as e:  # array_record's writer raises RuntimeError.
        why = (getattr(e, "strerror", None) or first_line(e)).split(";")[0]
        raise UserError(f"cannot write {root} ({why}): choose another data_dir.") from e


def _write(builder: Builder, arrays: Arrays | None) -> None:
    builder.arrays = arrays
    builder.download_and_prepare(file_format="array_record")
    try:
        for split in SPLITS:  # A full disk may have cut off the end of a file.
            read(builder, split)
    except UserError:
        shutil.rmtree(builder.data_dir, ignore_errors=True)
        raise OSError("what was written is not whole") from None


def read(
    builder: Builder, split: str
) -> tuple[UInt8[np.ndarray, "n 28 28 1"], Int64[np.ndarray, " n"]]:
    """A whole prepared split, in tfds's order.

    Decoding it takes seconds, so its arrays are kept in a file: see `family.caches`.

    Raises:
      UserError: it is in a format that needs TensorFlow, or damaged.
    """
    _check_format(builder)
    return kept(builder, split, functools.partial(_decode, builder, split))


def kept(
    builder: Any, split: str, decode: Callable[[], cache.Arrays]
) -> tuple[UInt8[np.ndarray, "n h w c"], Int64[np.ndarray, " n"]]:
    """The "images" and "labels" that `decode` makes of a split's records, kept in a file.

    Raises:
      UserError: they are damaged.
    """
    folder = Path(builder.data_dir)
    try:
        count = builder.info.splits[split].num_examples
        if isinstance(builder, Builder):
            count = builder.num_examples[split]
        files = [folder / INFO, *map(Path, builder.info.splits[split].filepaths)]
        found = cache.kept(family.caches(folder, split), cache.stats(files), decode)
        images, labels = found["images"], found["labels"]
    except UserError:
        raise
    except Exception as e:
        raise damaged(builder.data_dir, e) from e
    if len(labels) != count:
        held = f"its {split} split has {len(labels)} examples, not {count}"
        raise damaged(builder.data_dir, held)
    return images, labels


def records(builder: Any, split: str, which: range | None = None) -> list[Any]:
    """The features of a split's records, or of some, by their names, as tf.train.Example's."""
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    source = builder.as_data_source(split, deserialize_method=raw)
    found = source.__getitems__(which or range(len(source)))
    return [tf_example_pb2.Example.FromString(record).features.feature for record in found]


def _decode(builder: Builder, split: str) -> cache.Arrays:
    features = records(builder, split)
    images = np.stack([png.decode(f["image"].bytes_list.value[0]) for f in features])
    labels = np.array([f["label"].int64_list.value[0] for f in features], np.int64)
    return {"images": images, "labels": labels}


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
    if not STDERR.isatty():
        tfds.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr if STDERR.isatty() else io.StringIO()):
        yield
