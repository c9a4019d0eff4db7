"""IDX archives: read under every name, and what is wrong with the others."""

import gzip
import struct

import numpy as np
import pytest

from jaxmnist.data import idx
from jaxmnist.errors import UserError


def idx_bytes(array):
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([3, 9], np.uint8)


@pytest.mark.parametrize("name", ["x-images-idx3-ubyte", "x-images.idx3-ubyte"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reads_both_spellings_gzipped_or_not(tmp_path, name, suffix):
    data = idx_bytes(IMAGES)
    (tmp_path / (name + suffix)).write_bytes(gzip.compress(data) if suffix else data)
    path = idx.find(tmp_path, "x-images-idx3-ubyte")
    np.testing.assert_array_equal(idx.read_images(path)[..., 0], IMAGES)


def test_reads_labels(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(LABELS))
    np.testing.assert_array_equal(idx.read_labels(path, 10), LABELS)


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(UserError, match="holds neither x-labels-idx1-ubyte"):
        idx.find(tmp_path, "x-labels-idx1-ubyte")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (idx_bytes(IMAGES)[:-1], "39 bytes where its header says 40: truncated"),
        (idx_bytes(IMAGES) + b"\0", "41 bytes where its header says 40"),
        (idx_bytes(IMAGES)[:9], "9 bytes are too few"),
        (b"\0\0", "magic number 0x0000 is not that"),
        (idx_bytes(LABELS), "holds labels, not images: are two archives swapped"),
        (
            b"\0\0\x0d\x03" + idx_bytes(IMAGES)[4:],
            "magic number 0x00000d03 is not that of IDX images",
        ),
        (b"<html>not found</html>", "magic number 0x3c68746d"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0)[:-9], "damaged gzip file"),
    ],
)
def test_a_bad_archive_is_one_sentence(tmp_path, data, sentence):
    path = tmp_path / "archive"
    path.write_bytes(data)
    with pytest.raises(UserError, match=sentence) as caught:
        idx.read_images(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_out_of_range_is_named(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(np.array([3, 10, 4], np.uint8)))
    with pytest.raises(UserError, match="label 10 at position 1 is not below 10"):
        idx.read_labels(path, 10)
