"""Any picture -> an input of the network, prepared as the dataset's images were.

A preparation is a dict, which belongs to a dataset and which a run records:
  shows: what the pictures show, in words.
  method: "strokes" if ink is separated from paper and becomes white on black; "photo" if grey
    levels are kept, and negated if the background is light; "resize" if the whole picture is
    scaled to the shape, its aspect not kept.
  shape: height, width and channels of an input, 1 (grey) or 3 (RGB); 28x28x1 where it is left out.
    No picture becomes an input of other channels. Of "strokes" and "photo" all three channels have
    the same grey levels.
  box: the longer side of the smallest box around the object, in pixels; not of "resize".
  centre: the centre that is put into the middle: that of "mass", or of the "box"; likewise.
  swap_axes: whether rows and columns are swapped in the network's inputs.
"""

import contextlib
import functools
import io
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxmnist.data.info import Preparation
from jaxmnist.errors import UserError

_LARGEST = 1024  # Larger pictures are reduced first.
_CLOSE = 0.05  # A photo's pixels whose contrast is below this are part of the background.


def read(
    file: str | Path | io.BytesIO | Image.Image,
    name: str,
    preparation: Preparation,
    formats: list[str] | None = None,
    max_pixels: int | None = None,
) -> UInt8[np.ndarray, "h w c"]:
    """A picture, prepared but upright, as a person sees it: axes are not swapped.

    Args:
      file: a path, a stream of a file's bytes, or a Pillow image, which is not changed.
      name: what to call the picture in errors.
      preparation: the data set's preparation.
      formats: Pillow's names of the formats to allow; by default all.
      max_pixels: the most pixels that it may have; by default Pillow's limit.

    Raises:
      UserError: it is no picture, it is damaged or too large, or nothing is on it; or inputs have
        other channels than pictures.
    """
    shape = shape_of(preparation)
    if shape[2] not in (1, 3):
        raise UserError(
            f"{name} is a picture, and inputs of {shape[2]} channels are none: give arrays of the "
            f"shape {shape}."
        )
    max_pixels = max_pixels or Image.MAX_IMAGE_PIXELS or sys.maxsize  # Pillow's may be None.
    too_large = UserError(f"{name} has more than {max_pixels:,} pixels: give a smaller one.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with (
                contextlib.nullcontext(file)
                if isinstance(file, Image.Image)
                else Image.open(file, formats=formats)
            ) as image:
                if image.width * image.height > max_pixels:
                    raise too_large
                if preparation["method"] == "resize":
                    return _resized(image, shape)
                # Photos that were cut out are put on white, as in a catalogue.
                grey = _grey(image, 255 if preparation["method"] == "photo" else None)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such file.") from None
    except UnidentifiedImageError:
        raise UserError(f"{name} is no picture: give PNG, JPEG or another of its kind.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large from None
    except Exception as e:  # Decoders raise errors of any type on damaged files.
        reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
        raise UserError(f"{name} cannot be read ({reason}): give a whole picture.") from None
    try:
        return prepare(grey, preparation)
    except ValueError as e:
        raise UserError(f"{name} shows no {preparation['shows']}: {e}.") from None


def shape_of(preparation: Preparation) -> tuple[int, int, int]:
    """Height, width and channels of what pictures become."""
    height, width, channels = preparation.get("shape") or (28, 28, 1)  # Older runs are all of that.
    return height, width, channels


def prepare(
    grey: Float[np.ndarray, "h w"], preparation: Preparation
) -> UInt8[np.ndarray, "height width channels"]:
    """Grey levels from 0 (black) to 255, dark on light or light on dark, as strokes or a photo.

    What they show is scaled to the box, keeping its aspect, and put into the middle of the shape.
    What has the shape's size and is light on dark already is returned as it is.

    Raises:
      ValueError: nothing is on it.
    """
    height, width, channels = shape_of(preparation)
    levels = _centred(grey, (height, width), preparation)
    return np.repeat(levels[..., None], channels, axis=-1)


def _centred(
    grey: Float[np.ndarray, "h w"], shape: tuple[int, int], preparation: Preparation
) -> UInt8[np.ndarray, "height width"]:
    is_photo = preparation["method"] == "photo"
    background = np.median(_corners(grey) if is_photo else _edge(grey))
    is_small = grey.shape == shape
    if is_small and (background < 128 if is_photo else _is_light_on_dark(grey - background)):
        return grey.astype(np.uint8)
    if is_photo:
        seen = _contrast(grey, float(background))
        shown = seen > _CLOSE
    else:
        paper, noise = _paper(grey)
        contrast = grey - paper
        seen = _strokes(contrast if _is_light_on_dark(contrast) else -contrast, noise)
        shown = seen > 0
    if not shown.any():
        raise ValueError("it is blank")
    if is_small and is_photo:  # It has the right size already.
        return np.round(seen * 255).astype(np.uint8)
    rows, columns = (np.flatnonzero(shown.any(axis)) for axis in (1, 0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    height, width = box[3] - box[1], box[2] - box[0]
    scale = min(preparation["box"], *shape) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resampling = Image.Resampling.LANCZOS if is_photo else Image.Resampling.HAMMING
    small = np.asarray(Image.fromarray(seen).resize(size, resampling, box=box))
    if not is_photo:
        small = small / small.max()  # Strokes thinner than a pixel become white too.
    small = np.clip(small, 0, 1)
    middle = _ndimage().center_of_mass(small) if preparation["centre"] == "mass" else None
    field = np.zeros(shape, np.float32)
    # MNIST's centres of mass, counted from the first pixel's centre, lie at half the size: 14.00
    # on average, within 0.5, since digits were moved by whole pixels.
    top, left = (
        min(max(round(side / 2 - at), 0), side - extent)
        for side, at, extent in zip(
            shape, middle or (n / 2 for n in small.shape), small.shape, strict=True
        )
    )
    field[top : top + size[1], left : left + size[0]] = small
    return np.round(field * 255).astype(np.uint8)


def swap(
    images: Shaped[np.ndarray, "n a b c"], preparation: Preparation
) -> Shaped[np.ndarray, "n ..."]:
    """Images as a person sees them, turned into those that the network sees, or back."""
    return images.swapaxes(1, 2) if preparation["swap_axes"] else images


def to_pillow(image: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """An input, upright, as a picture: RGB, or grey, the mean of its channels."""
    return Image.fromarray(image if image.shape[-1] == 3 else image.mean(-1).astype(np.uint8))


def steps(preparation: Preparation) -> list[str]:
    """What `read` and `swap` do, in sentences, for those who do it in other programs."""
    height, width, channels = shape_of(preparation)
    size, shows = f"{height}x{width}", f"the {preparation['shows']}"
    last = [
        "Swap rows and columns: the network was trained on images whose axes are swapped."
        if preparation["swap_axes"]
        else "Rows from the top and columns from the left: no axes are swapped.",
        f"Give it as uint8 of shape (batch, {height}, {width}, {channels}); the model divides by "
        "255.",
    ]
    if preparation["method"] == "resize":
        return [
            "Turn it as its EXIF data say, put what is transparent on white, and make it "
            f"{'grey' if channels == 1 else 'RGB'}, with levels from 0 to 255.",
            f"Scale the whole picture to {size} (height x width) with Lanczos's filter, not "
            "keeping its aspect; one of that size stays as it is.",
            *last,
        ]
    box = min(preparation["box"], height, width)
    if channels == 3:
        last.insert(0, "Repeat the grey levels in all three channels.")
    rest = {2: "two", 3: "three"}[len(last)]
    if preparation["method"] == "photo":
        first = [
            f"What is {size} and light on a dark background already needs only the last {rest} "
            "steps.",
            "Take the grey levels, 0 for black to 255. The background is their median in the four "
            "corners, squares of a fiftieth of the shorter side.",
            "On a light background (from 128) take (background - grey) / background of every "
            "pixel, on a dark one (grey - background) / (255 - background); clip to [0, 1].",
            f"What is {size} is multiplied by 255 and rounded, and then needs only the last {rest} "
            "steps.",
            f"Cut away the rows and columns at the edges in which nothing is above {_CLOSE}.",
            f"Scale it with Lanczos's filter, keeping its aspect, so that its longer side is {box} "
            "pixels.",
        ]
    else:
        first = [
            f"What is {size} and light on dark already needs only the last {rest} steps.",
            "Take the grey levels and subtract the paper's, so that paper is 0; where the ink is "
            "darker than the paper, change the sign.",
            "Divide by the median level of the strokes and clip to [0, 1]; set specks to 0.",
            f"Scale the smallest box around {shows}, keeping its aspect, so that its longer side "
            f"is {box} pixels; divide by the largest level.",
        ]
    middle = (
        "its centre of mass as near as whole pixels allow to "
        f"({height / 2:g}, {width / 2:g}), counted from the centre of the first pixel"
        if preparation["centre"] == "mass"
        else "its box in the middle"
    )
    return [
        *first,
        f"Put it on {size} zeros, {middle}; multiply by 255 and round.",
        *last,
    ]


def _resized(
    image: Image.Image, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "height width channels"]:
    """The whole picture, upright and on white, in a shape."""
    height, width, channels = shape
    image = _upright(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    return np.asarray(image).reshape(shape)


def _upright(image: Image.Image) -> Image.Image:
    """A picture as its camera was held, with at most 8 bits a level."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):  # Their levels may have any range.
        levels = np.asarray(image, np.float32)
        levels = (levels - levels.min()) / max(float(np.ptp(levels)), 1e-9) * 255
        return Image.fromarray(levels.astype(np.uint8))
    return image


def _grey(image: Image.Image, paper: int | None) -> Float[np.ndarray, "h w"]:
    """Grey levels from 0 to 255.

    Args:
      image: the picture, of any mode.
      paper: the level of what is transparent; by default one that the ink stands out from.
    """
    image = _upright(image)
    factor = -(-max(image.size) // _LARGEST)
    if not image.has_transparency_data:
        image = image.convert("L")
        return np.asarray(image.reduce(factor) if factor > 1 else image, np.float32)
    # Levels are multiplied by their opacity, so that means of them are right.
    image = image.convert("RGBA").convert("LA").convert("La")
    image = image.reduce(factor) if factor > 1 else image
    shown, opacity = (np.asarray(band, np.float32) for band in image.split())
    seen = opacity.sum()
    if not seen:
        raise ValueError("all of it is transparent")
    level = shown.sum() / seen * 255 if paper is None else paper
    if paper is None and np.mean(opacity) < 128:  # What is opaque is ink, and not paper.
        level = 255 if level < 128 else 0
    return shown + level * (1 - opacity / 255)


def _is_light_on_dark(contrast: Float[np.ndarray, "h w"]) -> bool:
    return bool(contrast.max() >= -contrast.min())


def _contrast(grey: Float[np.ndarray, "h w"], background: float) -> Float[np.ndarray, "h w"]:
    """How far a photo's pixels are from its background, as a share of what is possible."""
    if background >= 128:
        seen = (background - grey) / background
    else:
        seen = (grey - background) / (255 - background)
    return seen.clip(0, 1).astype(np.float32)


def _corners(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, " n"]:
    side = max(1, min(grey.shape) // 50)
    ends = slice(side), slice(-side, None)
    return np.concatenate([grey[y, x].ravel() for y in ends for x in ends])


def _edge(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, " n"]:
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def _paper(grey: Float[np.ndarray, "h w"]) -> tuple[Float[np.ndarray, "h w"], float]:
    """The paper's grey level at each pixel, also below ink, and its noise (a standard deviation).

    Light falls unevenly on paper, so a quadratic surface is fitted to what is no ink.
    """
    step = -(-max(grey.shape) // 100)
    basis, sparse = _quadratics(grey.shape, step)
    levels, edge = grey[::step, ::step].ravel(), _edge(grey)
    terms = np.zeros(sparse.shape[-1])
    terms[0] = np.median(edge)
    noise, before = _spread(edge - np.float32(terms[0])), None
    errors = levels - terms[0]
    for _ in range(5):
        blank = np.abs(errors) <= max(3 * noise, 8)
        if blank.sum() < 2 * len(terms) or (before is not None and (blank == before).all()):
            break  # Too little is blank, or nothing changes any more.
        before, chosen = blank, sparse[blank]
        # By the normal equations: a quarter of the time, and all of it where threads share a core.
        terms = np.linalg.lstsq(chosen.T @ chosen, chosen.T @ levels[blank], rcond=None)[0]
        errors = levels - sparse @ terms
        noise = _spread(errors[blank])
    return (basis @ terms.astype(np.float32)).reshape(grey.shape), noise


@functools.lru_cache(maxsize=2)  # Many pictures of a folder have one size.
def _quadratics(
    shape: tuple[int, ...], step: int
) -> tuple[Float[np.ndarray, "n 6"], Float[np.ndarray, "m 6"]]:
    """The terms of a quadratic surface at each pixel and, in float64, at each `step`-th."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    basis = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)
    return basis.reshape(-1, 6), basis[::step, ::step].reshape(-1, 6).astype(np.float64)


def _spread(x: Float[np.ndarray, " n"]) -> float:
    """The standard deviation, estimated from the median, which a few outliers do not change.

    It is at most 16: more is ink, not noise.
    """
    return min(1.4826 * float(np.median(np.abs(x))), 16.0)


def _ndimage() -> ModuleType:
    # Imported here, since training imports this module: it takes a tenth of a run's start.
    from scipy import ndimage

    return ndimage


def _strokes(ink: Float[np.ndarray, "h w"], noise: float) -> Float[np.ndarray, "h w"]:
    """The strokes, from 0 to 1, without specks and the paper's noise."""
    top = ink.max()
    if top < max(16, 8 * noise):
        raise ValueError("it is blank")
    parts, count = _ndimage().label(ink > max(top / 10, 4 * noise), np.ones((3, 3)))
    strong = ink > top / 2
    areas = np.bincount(parts[strong], minlength=count + 1)
    areas[0] = 0
    kept = (areas >= areas.max() / 20)[parts]
    return (np.clip(ink / np.median(ink[strong & kept]), 0, 1) * kept).astype(np.float32)
