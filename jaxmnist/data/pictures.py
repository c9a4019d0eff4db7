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

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image

from jaxmnist.data import grouping, picture_files, strokes
from jaxmnist.data.info import Preparation
from jaxmnist.data.pieces import Blank
from jaxmnist.errors import NothingShown, UserError

_LARGEST = 1024  # Larger pictures are reduced first.
_MOST_FRAMES = 100  # So many blank ones are looked at before a file is called blank.
_CLOSE = 0.05  # A photo's pixels whose contrast is below this are part of the background.
_FAINT = 16  # Of 255: what a JPEG file leaves of black.
_OUTLINE = 0.15  # A stroke's pixels whose ink is below this are no part of its box.

Box = tuple[int, int, int, int]


class Region(NamedTuple):
    """A part of a picture that shows one object, such as a digit.

    Attributes:
      box: left, top, right and bottom, in pixels of the upright picture; the last two lie outside.
      image: the input that it becomes, upright.
      parts: what it is if it shows several objects that touch or are near: what is between any two
        cuts.
      cuts: of a part, the numbers of the cuts at its left and right: 0 is the left edge.
      doubt: why it may be no digit, as the rest of a sentence; "" if nothing says so.
      row: which row of the page it is in, from 0.
    """

    box: Box
    image: UInt8[np.ndarray, "h w c"]
    parts: "tuple[Region, ...]" = ()
    cuts: tuple[int, int] = (0, 0)
    doubt: str = ""
    row: int = 0


class Page(NamedTuple):
    """What a picture shows.

    Attributes:
      picture: upright, in RGB, reduced so that it is at most 1024 pixels long.
      size: width and height of the upright picture before it was reduced.
      regions: in reading order.
      note: which of several frames it is, as a sentence; "" of the only one.
    """

    picture: Image.Image
    size: tuple[int, int]
    regions: list[Region]
    note: str = ""


def find(
    file: str | Path | io.BytesIO | Image.Image,
    name: str,
    preparation: Preparation,
    formats: Sequence[str] | None = None,
    max_pixels: int | None = None,
) -> Page:
    """The objects that a picture shows, each as an input, upright: axes are not swapped.

    By the method "strokes" they may be several; by others the picture shows one. Of an animation or
    a document it is the first frame that is not blank.

    Args:
      file: a path, a stream of a file's bytes, or a Pillow image, which is not changed.
      name: what to call the picture in errors.
      preparation: the data set's preparation.
      formats: Pillow's names of the formats to allow; by default those of `picture_files.FORMATS`.
      max_pixels: the most pixels that it may have; never more than Pillow's limit.

    Raises:
      UserError: it is no picture, it is damaged or too large, or inputs have other channels than
        pictures.
      NothingShown: nothing is on it.
    """
    return _first(file, name, preparation, formats, max_pixels, as_one=False)


def read(
    file: str | Path | io.BytesIO | Image.Image,
    name: str,
    preparation: Preparation,
    formats: Sequence[str] | None = None,
    max_pixels: int | None = None,
) -> UInt8[np.ndarray, "h w c"]:
    """The input that a picture becomes if all that it shows is one object; otherwise as `find`."""
    return _first(file, name, preparation, formats, max_pixels, as_one=True).regions[0].image


def look(
    file: str | Path | io.BytesIO | Image.Image,
    name: str,
    formats: Sequence[str] | None = None,
    max_pixels: int | None = None,
) -> Page:
    """The first frame of a picture, whatever it shows; arguments and errors are those of `find`."""
    frame = next(picture_files.frames(file, name, _LARGEST, formats, max_pixels))
    return Page(_on_white(frame.levels).convert("RGB"), frame.size, [])


def _first(
    file: str | Path | io.BytesIO | Image.Image,
    name: str,
    preparation: Preparation,
    formats: Sequence[str] | None,
    max_pixels: int | None,
    as_one: bool,
) -> Page:
    """The first frame that is not blank."""
    shape = shape_of(preparation)
    if shape[2] not in (1, 3):
        raise UserError(
            f"{name} is a picture, and inputs of {shape[2]} channels are none: give arrays of the "
            f"shape {shape}."
        )
    is_whole = preparation["method"] == "resize"
    longest = 2**31 if is_whole else _LARGEST
    reason = ""
    for frame in picture_files.frames(file, name, longest, formats, max_pixels):
        if frame.number > _MOST_FRAMES:
            reason = f"its first {_MOST_FRAMES} frames are blank"
            break
        try:
            regions = list(_regions(frame.levels, frame.size, preparation, as_one))
        except Blank as e:
            reason = reason or str(e)
            continue
        note = ""
        if frame.total > 1:
            note = f"{name} has {frame.total:,} frames: this is frame {frame.number:,}"
            note += ", the first that is not blank." if frame.number > 1 else "."
        picture = _on_white(frame.levels).convert("RGB")
        picture.thumbnail((_LARGEST, _LARGEST))
        return Page(picture, frame.size, regions, note)
    raise NothingShown(f"{name} shows no {preparation['shows']}: {reason}.")


def shape_of(preparation: Preparation) -> tuple[int, int, int]:
    """Height, width and channels of what pictures become."""
    height, width, channels = preparation.get("shape") or (28, 28, 1)  # Older runs are all of that.
    return height, width, channels


def _regions(
    levels: UInt8[np.ndarray, "h w c"],
    size: tuple[int, int],
    preparation: Preparation,
    as_one: bool,
) -> Iterator[Region]:
    """What is on a frame of a size; raises Blank if nothing is."""
    height, width, channels = shape_of(preparation)
    whole = (0, 0, *size)

    def region(box: Box, image: UInt8[np.ndarray, "height width"]) -> Region:
        return Region(box, np.repeat(image[..., None], channels, axis=-1))

    if preparation["method"] == "resize":
        yield Region(whole, _resized(levels, (height, width, channels)))
        return
    is_small = levels.shape[:2] == (height, width)
    if preparation["method"] == "photo":
        grey = np.asarray(_on_white(levels).convert("L"), np.float32)
        yield region(whole, _photo(grey, (height, width), preparation))
        return
    shown = _on_paper(levels)
    if is_small and _is_prepared(shown[..., 0], preparation) and np.ptp(shown, axis=-1).max() == 0:
        yield region(whole, shown[..., 0])
        return
    found = strokes.find(shown)
    scales = [whole / reduced for whole, reduced in zip(size, found.ink.shape[::-1], strict=True)]

    def of_ink(ink: Float[np.ndarray, "h w"], left: int, top: int) -> Region:
        box = _box(ink > _OUTLINE)
        image = _centred(ink, box, (height, width), preparation, Image.Resampling.HAMMING)
        x0, y0, x1, y1 = (
            min(round((at + offset) * scale), side)
            for at, offset, scale, side in zip(
                box, (left, top) * 2, scales * 2, size * 2, strict=True
            )
        )
        return region((x0, y0, x1, y1), image)

    if as_one:
        yield of_ink(*strokes.cut_out(found, range(len(found.pieces))))
        return
    for row, members in grouping.group(found.pieces):
        ink, left, top = strokes.cut_out(found, members)
        doubt = (
            "there is a dot below it, as of a question mark" if found.is_dot[members].any() else ""
        )
        parts = tuple(
            of_ink(part, left, top)._replace(row=row, cuts=ends)
            for ends, part in grouping.between(ink, grouping.cuts(ink)).items()
        )
        yield of_ink(ink, left, top)._replace(parts=parts, doubt=doubt, row=row)


def _is_prepared(grey: UInt8[np.ndarray, "h w"], preparation: Preparation) -> bool:
    """Whether a picture of the inputs' size has its object where the data set's images have it.

    MNIST's longer sides are 18 to 20 pixels, and its centres of mass within 0.52 of the middle.
    """
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.median(edge) >= _FAINT or grey.max() < 128:
        return False
    rows, columns = (np.flatnonzero((grey >= _FAINT).any(axis)) for axis in (1, 0))
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    if preparation["centre"] == "box":
        middle = (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2
        return all(abs(at - n / 2) <= 2 for at, n in zip(middle, grey.shape, strict=True))
    middle = _ndimage().center_of_mass(grey)
    is_central = all(abs(at - n / 2) < 0.53 for at, n in zip(middle, grey.shape, strict=True))
    return bool(preparation["box"] - 2 <= longer <= preparation["box"] and is_central)


def _box(is_shown: Bool[np.ndarray, "h w"]) -> Box:
    rows, columns = (np.flatnonzero(is_shown.any(axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _centred(
    seen: Float[np.ndarray, "h w"],
    box: Box,
    shape: tuple[int, int],
    preparation: Preparation,
    resampling: Image.Resampling,
) -> UInt8[np.ndarray, "height width"]:
    """What is in a box, scaled to the preparation's, keeping its aspect, in the middle of zeros."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(preparation["box"], *shape) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(seen).resize(size, resampling, box=box))
    if preparation["method"] == "strokes":
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


def _photo(
    grey: Float[np.ndarray, "h w"], shape: tuple[int, int], preparation: Preparation
) -> UInt8[np.ndarray, "height width"]:
    """A photo's grey levels, on black; what has the inputs' size is only negated if needed."""
    background = float(np.median(_corners(grey)))
    if grey.shape == shape and background < 128:
        return grey.astype(np.uint8)
    seen = _contrast(grey, background)
    shown = seen > _CLOSE
    if not shown.any():
        raise Blank("it is blank")
    if grey.shape == shape:
        return np.round(seen * 255).astype(np.uint8)
    return _centred(seen, _box(shown), shape, preparation, Image.Resampling.LANCZOS)


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
            f"What is {size}, light on dark and placed as the data set's images are needs only the "
            f"last {rest} steps.",
            "Take the grey levels, or those of the colour in which the ink stands out most. The "
            "paper's levels are their closing by a square that is wider than the strokes; of ink "
            "that is lighter than the paper, their opening.",
            "Take how far each pixel is from the paper; set to 0 what is printed on the paper, or "
            "touches the picture's edge, and specks. Divide by the ink's level and clip to [0, 1]. "
            "jaxmnist/data/strokes.py has all of it.",
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


def _on_white(levels: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """A picture without opacity: photos that were cut out are put on white, as in a catalogue."""
    channels = levels.shape[2]
    image = Image.fromarray(levels[..., 0] if channels == 1 else levels)
    if channels in (1, 3):
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(
        "L" if channels == 2 else "RGB"
    )


def _on_paper(levels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w colours"]:
    """A picture without opacity, on a paper that shows its ink."""
    if levels.shape[2] in (1, 3):
        return levels
    colours, opacity = levels[..., :-1].astype(np.float32), levels[..., -1:] / np.float32(255)
    if not opacity.any():
        raise Blank("all of it is transparent")
    paper = np.average(colours, axis=(0, 1), weights=np.broadcast_to(opacity, colours.shape))
    if opacity.mean() < 0.5:  # What is opaque is ink, and not paper.
        paper = np.full_like(paper, 255 if paper.mean() < 128 else 0)
    return np.round(colours * opacity + paper * (1 - opacity)).astype(np.uint8)


def _resized(
    levels: UInt8[np.ndarray, "h w c"], shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "height width channels"]:
    """The whole picture, on white, in a shape."""
    height, width, channels = shape
    image = _on_white(levels).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    return np.asarray(image).reshape(shape)


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


def _ndimage() -> ModuleType:
    # Imported here, since training imports this module: it takes a tenth of a run's start.
    from scipy import ndimage

    return ndimage
