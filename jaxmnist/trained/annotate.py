"""A picture of what was found on a picture: boxes, answers, and what the network saw."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from jaxmnist.data import pictures
from jaxmnist.trained.mistakes import shown_size
from jaxmnist.trained.reading import Detection

_SMALLEST = 320  # Smaller pictures are enlarged, so that their labels are legible.
_TILE = 112  # About the longer side of an input, in pixels.
_GAP = 12
_SURE, _UNSURE = "#1d5fc4", "#c2410c"
_KEY, _WRITER = "Software", "jaxmnist predict --show"  # A text in the files, to know them by.


def annotate(
    page: pictures.Page, detections: Sequence[Detection], class_names: Sequence[str], shows: str
) -> Image.Image:
    """The picture with a box around each detection, and the inputs beside it, as RGB.

    Args:
      page: the picture.
      detections: of the page, with boxes in pixels of `page.size`.
      class_names: the names of the classes.
      shows: what pictures show, for the words where there is no detection.
    """
    picture = _with_boxes(page, detections, class_names)
    if not detections:
        tiles = _words(f"no {shows}")
    elif picture.width > picture.height:
        tiles = _tiles(detections, class_names, width=picture.width)
    else:
        tiles = _tiles(detections, class_names, height=picture.height)
    is_below = not detections or picture.width > picture.height
    right, below = (0, picture.height + _GAP) if is_below else (picture.width + _GAP, 0)
    size = max(picture.width, right + tiles.width), max(picture.height, below + tiles.height)
    sheet = Image.new("RGB", size, "white")
    sheet.paste(picture)
    sheet.paste(tiles, (right, below))
    return sheet


def save(
    page: pictures.Page,
    detections: Sequence[Detection],
    class_names: Sequence[str],
    shows: str,
    path: Path,
) -> None:
    """Writes what `annotate` draws, as PNG.

    Raises:
      OSError: it cannot be written; then nothing is left of it.
    """
    text = PngImagePlugin.PngInfo()
    text.add_text(_KEY, _WRITER)
    drawn = annotate(page, detections, class_names, shows)
    try:
        drawn.save(path, compress_level=1, pnginfo=text)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def was_saved(path: Path) -> bool:
    """Whether a file is one that `save` wrote."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(_KEY) == _WRITER
    except Exception:  # Damaged files raise errors of any type.
        return False


def may_replace(path: Path) -> bool:
    """Whether `save` may write a file: there is none, or one that it wrote."""
    return not path.is_symlink() and (not path.exists() or was_saved(path))


def _with_boxes(
    page: pictures.Page, detections: Sequence[Detection], class_names: Sequence[str]
) -> Image.Image:
    picture = page.picture.convert("RGB")
    factor = -(-_SMALLEST // max(picture.size))
    picture = picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
    draw, scale = ImageDraw.Draw(picture), picture.width / page.size[0]
    for each in detections:
        left, top, right, bottom = (round(at * scale) for at in each.box)
        left, top = max(left, 3), max(top, 3)  # A box around all of it is seen too.
        right, bottom = min(right, picture.width - 3), min(bottom, picture.height - 3)
        colour = _UNSURE if each.doubt else _SURE
        # A light line outside the dark one, to be seen on any picture.
        draw.rectangle((left - 3, top - 3, right + 2, bottom + 2), outline="white", width=4)
        draw.rectangle((left - 2, top - 2, right + 1, bottom + 1), outline=colour, width=2)
    # Labels come last, so that no box crosses them.
    for each in detections:
        left, top, _, bottom = (round(at * scale) for at in each.box)
        label = _label(each, class_names)
        font_size = min(max((bottom - top) // 3, 14), 28)
        font = ImageFont.load_default(font_size)
        width, height = font.getlength(label) + 8, round(font_size * 1.3)
        x = min(max(left - 3, 0), max(picture.width - width, 0))
        y = top - 3 - height if top - 3 >= height else min(bottom + 3, picture.height - height)
        colour = _UNSURE if each.doubt else _SURE
        draw.rectangle((x, y, x + width, y + height), fill=colour)
        draw.text((x + width / 2, y + height / 2), label, "white", font, "mm")
    return picture


def _tiles(
    detections: Sequence[Detection],
    class_names: Sequence[str],
    *,
    width: int | None = None,
    height: int | None = None,
) -> Image.Image:
    """The inputs, each with its answer, in rows of a width or in columns of a height."""
    font = ImageFont.load_default(16)
    captions = [
        f"{_label(each, class_names)}  {each.probabilities[each.classes]:.4f}"
        for each in detections
    ]
    image_height, image_width, _ = detections[0].image.shape
    size = shown_size((image_height, image_width), _TILE)
    across = max(size[0], *(int(font.getlength(caption)) for caption in captions)) + _GAP
    down = size[1] + 24 + _GAP
    if width is not None:
        columns = max(width // across, 1)
    else:
        columns = -(-len(detections) // max((height or 0) // down, 1))
    rows = -(-len(detections) // columns)
    sheet = Image.new("RGB", (columns * across, rows * down), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (each, caption) in enumerate(zip(detections, captions, strict=True)):
        x, y = i % columns * across + _GAP // 2, i // columns * down
        sheet.paste(pictures.to_pillow(each.image).resize(size, Image.Resampling.NEAREST), (x, y))
        draw.text((x, y + size[1] + 4), caption, _UNSURE if each.doubt else "black", font)
    return sheet


def _words(words: str) -> Image.Image:
    font = ImageFont.load_default(24)
    sheet = Image.new("RGB", (int(font.getlength(words)) + 2 * _GAP, 40), "white")
    ImageDraw.Draw(sheet).text((_GAP, 4), words, _UNSURE, font)
    return sheet


def _label(detection: Detection, class_names: Sequence[str]) -> str:
    return class_names[detection.classes] + "?" * bool(detection.doubt)
