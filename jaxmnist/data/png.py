"""Grey images as PNG files in memory: tfds keeps every image of MNIST as one."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin


def encode(image: UInt8[np.ndarray, "height width 1"]) -> bytes:
    """The PNG file of an image."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "PNG")
    return file.getvalue()


def decode(file: bytes) -> UInt8[np.ndarray, "height width 1"]:
    """The image in a PNG file; raises an error of Pillow's, or ValueError if it is not grey."""
    image = PngImagePlugin.PngImageFile(io.BytesIO(file))
    if image.mode != "L":
        raise ValueError(f"a PNG of mode {image.mode} is no grey image")
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 1)
