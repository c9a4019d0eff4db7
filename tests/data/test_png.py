"""Grey PNG files come back as they were; others are refused."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxmnist.data import png


def file_of(image, **kwargs):
    file = io.BytesIO()
    image.save(file, "PNG", **kwargs)
    return file.getvalue()


def test_an_image_comes_back_as_it_was():
    image = np.random.default_rng(0).integers(0, 256, (5, 9, 1), np.uint8)
    np.testing.assert_array_equal(png.decode(png.encode(image)), image)
    assert Image.open(io.BytesIO(png.encode(image))).mode == "L"


def test_colours_are_refused():
    with pytest.raises(ValueError, match="a PNG of mode RGB is no grey image"):
        png.decode(file_of(Image.new("RGB", (4, 4))))


def test_a_file_that_is_cut_off_is_refused():
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)
    with pytest.raises((OSError, SyntaxError)):
        png.decode(png.encode(image)[:-200])
