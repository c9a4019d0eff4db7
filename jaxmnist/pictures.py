"""Any picture of a digit -> 28x28 grey levels, light on dark, prepared as MNIST's were."""

import io
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from jaxmnist.errors import UserError

SIZE = 28
_BOX = 20  # The digit's longer side, in pixels.
# Where MNIST's centres of mass lie, counted from the first pixel's centre: 14.00 on average,
# within 0.5, since digits were moved by whole pixels.
_CENTRE = 14
_LARGEST = 1024  # Larger pictures are reduced first.


def read(
    file: str | Path | io.BytesIO, name: str, formats: list[str] | None = None
) -> UInt8[np.ndarray, "28 28"]:
    """The digit in a picture file.

    Args:
      file: its path, or a stream of its bytes.
      name: what to call it in errors.
      formats: those of Pillow to allow; by default all.

    Raises:
      UserError: no picture, a damaged or far too large one, or nothing on it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=formats) as image:
                grey = _grey(image)
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such file.") from None
    except UnidentifiedImageError:
        raise UserError(f"{name} is no picture: give PNG, JPEG or another of its kind.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(
            f"{name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: give a smaller one."
        ) from None
    except Exception as e:  # Decoders raise what they like on damaged files.
        reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
        raise UserError(f"{name} cannot be read ({reason}): give a whole picture.") from None
    try:
        return prepare(grey)
    except ValueError as e:
        raise UserError(f"{name} shows no digit: {e}.") from None


def prepare(grey: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "28 28"]:
    """The digit in grey levels from 0 (black) to 255, dark on light or light on dark.

    As MNIST was made (LeCun et al. 1998, section III.A): the digit's box is scaled to fit 20x20
    pixels keeping its aspect, and placed with its centre of mass in the centre of 28x28. What
    is 28x28 and light on dark already goes through untouched.

    Raises:
      ValueError: there is nothing on it.
    """
    if grey.shape == (SIZE, SIZE) and _is_light_on_dark(grey - np.median(_edge(grey))):
        return grey.astype(np.uint8)
    paper, noise = _paper(grey)
    contrast = grey - paper
    digit = _digit(contrast if _is_light_on_dark(contrast) else -contrast, noise)
    rows, columns = (np.flatnonzero(digit.any(axis)) for axis in (1, 0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    height, width = box[3] - box[1], box[2] - box[0]
    scale = _BOX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.HAMMING, box=box))
    small = np.clip(small / small.max(), 0, 1)  # Strokes thinner than a pixel are made full too.
    field = np.zeros((SIZE, SIZE), np.float32)
    top, left = (
        min(max(round(_CENTRE - at), 0), SIZE - extent)
        for at, extent in zip(ndimage.center_of_mass(small), small.shape, strict=True)
    )
    field[top : top + size[1], left : left + size[0]] = small
    return np.round(field * 255).astype(np.uint8)


def _grey(image: Image.Image) -> Float[np.ndarray, "h w"]:
    """Grey levels from 0 to 255; what is transparent becomes paper."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):  # Of any range.
        levels = np.asarray(image, np.float32)
        levels = (levels - levels.min()) / max(float(np.ptp(levels)), 1e-9) * 255
        image = Image.fromarray(levels.astype(np.uint8))
    factor = -(-max(image.size) // _LARGEST)
    if not image.has_transparency_data:
        image = image.convert("L")
        return np.asarray(image.reduce(factor) if factor > 1 else image, np.float32)
    image = image.convert("RGBA").convert("LA").convert("La")  # Premultiplied, for averages.
    image = image.reduce(factor) if factor > 1 else image
    shown, opacity = (np.asarray(band, np.float32) for band in image.split())
    seen = opacity.sum()
    if not seen:
        raise ValueError("all of it is transparent")
    level = shown.sum() / seen * 255
    if np.mean(opacity) < 128:  # Mostly ink: on a paper that it stands out from.
        level = 255 if level < 128 else 0
    return shown + level * (1 - opacity / 255)


def _is_light_on_dark(contrast: Float[np.ndarray, "h w"]) -> bool:
    return bool(contrast.max() >= -contrast.min())


def _edge(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, " n"]:
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def _paper(grey: Float[np.ndarray, "h w"]) -> tuple[Float[np.ndarray, "h w"], float]:
    """What the paper's grey level would be everywhere, and its noise (a standard deviation).

    Light falls unevenly on paper: a quadratic surface through what is no ink.
    """
    basis = _quadratics(grey.shape)
    step = -(-max(grey.shape) // 100)
    sparse = basis[::step, ::step].reshape(-1, basis.shape[-1])
    levels = grey[::step, ::step].ravel()
    edge = _edge(grey)
    terms = np.zeros(basis.shape[-1], np.float32)
    terms[0] = np.median(edge)
    noise = _spread(edge - terms[0])
    for _ in range(5):
        blank = np.abs(levels - sparse @ terms) <= max(3 * noise, 8)
        if blank.sum() < 2 * len(terms):
            break
        terms = np.linalg.lstsq(sparse[blank], levels[blank], rcond=None)[0]
        noise = _spread(levels[blank] - sparse[blank] @ terms)
    return basis @ terms, noise


def _quadratics(shape: tuple[int, ...]) -> Float[np.ndarray, "h w 6"]:
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)


def _spread(x: Float[np.ndarray, " n"]) -> float:
    """The standard deviation, by the median, to which a few outliers do nothing.

    At most 16: more is ink.
    """
    return min(1.4826 * float(np.median(np.abs(x))), 16.0)


def _digit(ink: Float[np.ndarray, "h w"], noise: float) -> Float[np.ndarray, "h w"]:
    """The strokes, from 0 to 1, without the specks and the paper's noise."""
    top = ink.max()
    if top < max(16, 8 * noise):
        raise ValueError("it is blank")
    parts, _ = ndimage.label(ink > max(top / 10, 4 * noise), np.ones((3, 3)))
    strong = ink > top / 2
    areas = np.bincount(parts[strong], minlength=parts.max() + 1)
    areas[0] = 0
    kept = (areas >= areas.max() / 20)[parts]
    return (np.clip(ink / np.median(ink[strong & kept]), 0, 1) * kept).astype(np.float32)
