"""IDX archives, the format MNIST was published in -> arrays, or a sentence that says why not."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxmnist.errors import UserError

# The last byte of the magic number is the number of dimensions, the one before it the type
# (8: unsigned byte). Source: LeCun's description of the format on the MNIST page.
_KINDS = {1: "labels", 3: "images"}


def find(source_dir: Path, stem: str) -> Path:
    """The archive `stem` in `source_dir`, such as "train-images-idx3-ubyte".

    Gzipped or not, also as "train-images.idx3-ubyte". Raises UserError if it is not there.
    """
    for name in (stem, stem.replace("-idx", ".idx")):
        for path in (source_dir / f"{name}.gz", source_dir / name):
            if path.is_file():
                return path
    raise UserError(f"{source_dir} holds neither {stem}.gz nor {stem}: put that archive there.")


def read_images(path: Path) -> UInt8[np.ndarray, "n height width 1"]:
    """The images of an archive; raises UserError if it is damaged or holds something else."""
    return _read(path, ndim=3)[..., None]


def read_labels(path: Path, num_classes: int) -> UInt8[np.ndarray, " n"]:
    """The labels of an archive, each below `num_classes`; raises UserError as above."""
    labels = _read(path, ndim=1)
    if labels.size and labels.max() >= num_classes:
        position = int(np.argmax(labels >= num_classes))
        raise UserError(
            f"{path}: label {labels[position]} at position {position} is not below {num_classes}: "
            "this archive belongs to another dataset or is damaged."
        )
    return labels


def is_gzipped(path: Path) -> bool:
    """Whether an archive is packed, whatever its name."""
    with path.open("rb") as f:
        return f.read(2) == b"\x1f\x8b"


def content(path: Path) -> bytes:
    """What an archive holds, unpacked if need be; raises UserError if it cannot be."""
    data = path.read_bytes()
    if not is_gzipped(path):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as e:
        raise UserError(f"{path}: damaged gzip file ({e}): get it again.") from None


def _read(path: Path, ndim: int) -> UInt8[np.ndarray, "..."]:
    data = content(path)
    again = "get it again."
    header = 4 + 4 * ndim
    if data[:4] != bytes([0, 0, 8, ndim]):
        if data[:3] == bytes([0, 0, 8]) and data[3] in _KINDS:
            held = _KINDS[data[3]]
            raise UserError(f"{path} holds {held}, not {_KINDS[ndim]}: are two archives swapped?")
        raise UserError(
            f"{path}: magic number 0x{data[:4].hex()} is not that of IDX {_KINDS[ndim]} "
            f"(0x000008{ndim:02x}): {again}"
        )
    if len(data) < header:
        raise UserError(f"{path}: {len(data)} bytes are too few for an IDX archive: {again}")
    shape = tuple(int(n) for n in np.frombuffer(data[4:header], ">u4"))
    expected = header + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise UserError(
            f"{path}: {len(data)} bytes where its header says {expected}: truncated or damaged, "
            + again
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
