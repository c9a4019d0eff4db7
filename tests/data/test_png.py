"""The bulk PNG codec agrees with Pillow, whatever filters a file uses."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxmnist.data import png


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(0, 9, (6, 9, 7, 1)), axis=1).astype(np.uint8)
    return np.concatenate([smooth, rng.integers(0, 256, (6, 9, 7, 1), dtype=np.uint8)])


def with_filters(image, kinds):
    """A PNG whose row i was filtered by kinds[i], by the definition of the filters."""
    height, width, _ = image.shape
    padded = np.zeros((height + 1, width + 1), int)
    padded[1:, 1:] = image[..., 0]
    rows = bytearray()
    for y, kind in enumerate(kinds, 1):
        rows.append(kind)
        for x in range(1, width + 1):
            a, b, c = padded[y, x - 1], padded[y - 1, x], padded[y - 1, x - 1]
            paeth = min((a, b, c), key=lambda value: abs(a + b - c - value))
            predicted = [0, a, b, (a + b) // 2, paeth][kind]
            rows.append((padded[y, x] - predicted) % 256)

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", data[:5])
        + chunk(b"IDAT", data[5:])
        + chunk(b"IEND", b"")
    )


def test_pillow_reads_what_we_write(images):
    for image in images:
        read = np.asarray(Image.open(io.BytesIO(png.encode(image))))
        np.testing.assert_array_equal(read, image[..., 0])


def test_we_read_what_pillow_and_we_write(images):
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image[..., 0]).save(file, "PNG")
        files.append(file.getvalue())
    np.testing.assert_array_equal(png.decode(files, 9, 7), images)
    np.testing.assert_array_equal(png.decode([png.encode(i) for i in images], 9, 7), images)


def test_every_filter_in_one_image_and_pixels_in_two_chunks(images):
    files = [with_filters(image, [(i + y) % 5 for y in range(9)]) for i, image in enumerate(images)]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(files[3]))), images[3, ..., 0])
    np.testing.assert_array_equal(png.decode(files, 9, 7), images)


def test_no_files():
    assert png.decode([], 9, 7).shape == (0, 9, 7, 1)


def test_other_files_are_refused(images):
    good = png.encode(images[0])
    with pytest.raises(ValueError, match="image 1 is not a grey 7x9 PNG"):
        png.decode([good, b"GIF89a" + good[6:]], 9, 7)
    with pytest.raises(ValueError, match="image 0 is not a grey 9x7 PNG"):
        png.decode([good], 7, 9)
    with pytest.raises(ValueError, match="image 0 is a damaged PNG"):
        png.decode([good[:50]], 9, 7)
