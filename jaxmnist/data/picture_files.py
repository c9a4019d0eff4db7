"""Any picture file -> its frames, upright, reduced, with levels of 8 bits."""

import codecs
import contextlib
import io
import logging
import os
import stat
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError, features

from jaxmnist.errors import UserError

# Formats of pixels, by Pillow's names. Of its others some start programs (EPS, WMF), and some have
# no magic number, so that anything may be taken for one (TGA).
FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"),
    *("JPEG2000", "PPM", "ICO", "PCX", "QOI"),
)
# Of others, such as MPO and HEIF, further pictures are previews, or views for the other eye.
_WITH_FRAMES = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")

_SAVE = "save it as PNG or JPEG"
_GIVE = "give PNG, JPEG or another of its kind"
_RAW = f"a camera's raw file: {_SAVE}"
_VIDEO = "a video: save a frame of it as PNG or JPEG"
# What is not read, by bytes that are found at an offset.
_OTHERS = (
    (0, b"%PDF", "a PDF: give a picture of the page, such as a PNG"),
    (0, b"%!PS", f"a PostScript file: {_SAVE}"),
    (0, b"\xc5\xd0\xd3\xc6", f"a PostScript file: {_SAVE}"),
    (0, b"8BPS", f"a Photoshop file: {_SAVE}"),
    (0, b"\xff\x0a", f"a JPEG XL picture: {_SAVE}"),
    (0, b"\0\0\0\x0cJXL ", f"a JPEG XL picture: {_SAVE}"),
    (0, b"\xd7\xcd\xc6\x9a", f"a Windows metafile: {_SAVE}"),
    (40, b" EMF", f"a Windows metafile: {_SAVE}"),
    (128, b"DICM", f"a DICOM file: {_SAVE}"),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIRS", _RAW),
    (0, b"IIU\0", _RAW),
    (4, b"ftypcrx ", _RAW),
    (4, b"ftyp", _VIDEO),
    (0, b"\x1aE\xdf\xa3", _VIDEO),
    (8, b"AVI ", _VIDEO),
    (0, b"PK\x03\x04", "a ZIP archive or an office document: give the pictures that are in it"),
    (0, b"\x1f\x8b", "a gzip archive: give the pictures that are in it"),
)
_NEW_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION, _ORIENTATION = 254, 330, 50706, 274

# What makes a picture upright, by the orientation in its EXIF data.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Frame(NamedTuple):
    """A frame of an animation, a page of a document, or the only picture of a file.

    Attributes:
      levels: uint8, height x width x channels, upright and reduced. The channels are grey, or red,
        green and blue; if something is transparent, opacity is a further one and the last.
      size: width and height of the upright picture before it was reduced.
      number: which one of the file's frames it is, from 1.
      total: how many the file has.
    """

    levels: UInt8[np.ndarray, "h w c"]
    size: tuple[int, int]
    number: int
    total: int


def frames(
    file: str | Path | io.BytesIO | Image.Image,
    name: str,
    longest: int,
    formats: Sequence[str] | None = None,
    max_pixels: int | None = None,
) -> Iterator[Frame]:
    """The frames of a picture file, each decoded only when it is asked for.

    What has more than 8 bits, or uses only the lowest 16 levels of 8 bits, is scaled so that its
    own range becomes 0 to 255; if it has one level only, it becomes 0. Several threads may read at
    once.

    Args:
      file: a path, a stream of a file's bytes, or a Pillow image, of which the current frame is
        read and which is not changed.
      name: what to call the picture in errors.
      longest: the most pixels of the longer side; larger pictures are reduced by a whole number,
        each pixel the mean of a square.
      formats: Pillow's names of the formats to allow; by default `FORMATS`.
      max_pixels: the most pixels that a frame may have; never more than Pillow's limit.

    Raises:
      UserError: there is no such file, it is no picture of these formats, or a frame is damaged or
        too large.
    """
    pillow_limit = Image.MAX_IMAGE_PIXELS or sys.maxsize  # It may be None.
    limit = min(max_pixels or pillow_limit, pillow_limit)
    with contextlib.ExitStack() as stack:
        with _decoding(name, limit):
            if isinstance(file, Image.Image):
                image, total = file, 1
            else:
                image = stack.enter_context(_open(file, name, formats or FORMATS))
                total = getattr(image, "n_frames", 1) if image.format in _WITH_FRAMES else 1
        for number in range(1, total + 1):
            with _decoding(name, limit):
                if total > 1:
                    image.seek(number - 1)
                width, height = image.size
                if not width * height:
                    raise UserError(f"{name} has no pixels.")
                if width * height > limit:
                    raise _too_large(name, limit)
                if image is not file:
                    # JPEG's decoder can reduce by 2, 4 or 8, in a fraction of the time.
                    factor = -(-max(width, height) // longest)
                    image.draft(None, (max(1, width // factor), max(1, height // factor)))
                image.load()
                orientation = _orientation(image)
                levels = _levels(image, longest, _TURNS.get(orientation))
                size = (height, width) if orientation >= 5 else (width, height)
                frame = Frame(levels, size, number, total)
            yield frame


class _Quiet(threading.local):
    """A filter of warnings in the threads in which `on` is set.

    Unlike `warnings.catch_warnings`, it leaves other threads alone.
    """

    on = False

    def match(self, text: str) -> bool:
        return self.on


logging.getLogger("PIL").addHandler(logging.NullHandler())  # Else Python prints its errors.

_quiet = _Quiet()
_QUIET = ("ignore", _quiet, Warning, None, 0)


@contextlib.contextmanager
def _decoding(name: str, limit: int) -> Iterator[None]:
    """Turns whatever decoders raise into a UserError, and keeps their warnings to itself."""
    if warnings.filters[:1] != [
        _QUIET
    ]:  # Others may replace the list, as pytest does, or go first.
        warnings.filters.insert(0, _QUIET)  # type: ignore[attr-defined]
    _quiet.on = True
    try:
        yield
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(name, limit) from None
    except Exception as e:  # Decoders raise errors of any type on damaged files.
        if isinstance(e, OSError) and e.strerror:
            raise UserError(f"{name} cannot be read: {e.strerror}.") from None
        reason = str(e) or type(e).__name__
        raise UserError(f"{name} cannot be read ({reason}): give a whole picture.") from None
    finally:
        _quiet.on = False


def _too_large(name: str, limit: int) -> UserError:
    return UserError(f"{name} has more than {limit:,} pixels: give a smaller one.")


def _open(file: str | Path | io.BytesIO, name: str, formats: Sequence[str]) -> Image.Image:
    """Opens a file without decoding it, or says what it is."""
    if not isinstance(file, io.BytesIO):
        try:
            mode = os.stat(file).st_mode
        except FileNotFoundError:
            raise UserError(f"{name}: there is no such file.") from None
        if stat.S_ISDIR(mode):
            raise UserError(f"{name} is a folder: give a picture.")
        if not stat.S_ISREG(mode):  # Opening a pipe might wait forever.
            raise UserError(f"{name} is a pipe or a device: give a file.")
    with contextlib.nullcontext(file) if isinstance(file, io.BytesIO) else open(file, "rb") as f:
        f.seek(0)
        header = f.read(512)
    if header[8:11] == b"CR\2":  # Canon's, which Pillow takes for a TIFF.
        raise UserError(f"{name} is {_RAW}.")
    formats = [each for each in formats if each != "HEIF" or _is_heif(header)]
    if "HEIF" in formats:
        try:
            import pillow_heif
        except ImportError:
            raise UserError(
                f"{name} is a HEIC picture: reading it needs pillow-heif: "
                "pip install 'jaxmnist[heif]'."
            ) from None
        pillow_heif.register_heif_opener()
    if header[4:12] in (b"ftypavif", b"ftypavis") and not features.check("avif"):
        raise UserError(
            f"{name} is an AVIF picture: reading it needs a Pillow that was built with it: "
            "pip install --force-reinstall pillow."
        )
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError:
        if _begins_as(header, formats):
            raise ValueError("its header is damaged") from None
        raise UserError(f"{name} is {_kind(header)}.") from None
    if image.format == "TIFF" and _is_raw(image):
        image.close()
        raise UserError(f"{name} is {_RAW}.")
    return image


def begins_as_picture(path: Path) -> bool:
    """Whether a file begins as one of `FORMATS` does; also where it cannot be read at all."""
    Image.init()
    try:
        with open(path, "rb") as f:
            header = f.read(512)
    except OSError:
        return True
    return _is_heif(header) or _begins_as(header, [each for each in FORMATS if each != "HEIF"])


def _begins_as(header: bytes, formats: Sequence[str]) -> bool:
    accepts = (Image.OPEN[each][1] for each in formats)
    return any(accept and accept(header[:16]) is True for accept in accepts)


def _is_heif(header: bytes) -> bool:
    """Whether it is HEIC or its like, and not AVIF, which has the same container."""
    brands = header[8 : int.from_bytes(header[:4], "big")]
    is_avif = b"avif" in brands or b"avis" in brands
    known = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1")
    return header[4:8] == b"ftyp" and not is_avif and header[8:12] in (*known, b"msf1")


def _is_raw(image: Image.Image) -> bool:
    """Whether a TIFF is a camera's raw file, whose first picture is a preview."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    return _DNG_VERSION in tags or (tags.get(_NEW_SUBFILE_TYPE) == 1 and _SUB_IFDS in tags)


def _kind(header: bytes) -> str:
    """What a file is that is not read, and what to do, by its first bytes."""
    if not header:
        return f"empty and no picture: {_GIVE}"
    for offset, magic, kind in _OTHERS:
        if header.startswith(magic, offset):
            return kind
    try:  # A decoder, since the last character may be cut.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(header).lower()
    except UnicodeDecodeError:
        return f"no picture: {_GIVE}"
    if "<svg" in text:
        return f"an SVG drawing: {_SAVE}"
    if "<html" in text or "<!doctype html" in text:
        return f"a web page, no picture: {_GIVE}"
    return f"no picture{'' if chr(0) in text else ', but text'}: {_GIVE}"


def _orientation(image: Image.Image) -> int:
    """How EXIF data say that a picture is turned; 1, which is upright, if they are damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Of any type.
        return 1
    return orientation if orientation in _TURNS else 1


def _levels(
    image: Image.Image, longest: int, turn: Image.Transpose | None
) -> UInt8[np.ndarray, "h w c"]:
    """A loaded picture of any mode, reduced and turned."""
    factor = -(-max(image.size) // longest)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        floats = _finite(image) if image.mode == "F" else image.convert("F")
        reduced = np.asarray(floats.reduce(factor), np.float64)
        image = Image.fromarray(_scaled(reduced))
    else:
        # Pillow multiplies by the opacity before it reduces, so that means are right.
        image = _stretched(_with_channels(image)).reduce(factor)
        if image.mode in ("La", "RGBa"):
            image = image.convert(image.mode[:-1] + "A")
        elif image.mode not in ("L", "LA", "RGB", "RGBA"):
            image = image.convert("RGB")
        if image.mode in ("LA", "RGBA") and image.getextrema()[-1] == (255, 255):
            image = image.convert(image.mode[:-1])
    image = image if turn is None else image.transpose(turn)
    return np.array(image).reshape(image.height, image.width, -1)


def _finite(image: Image.Image) -> Image.Image:
    """Floats without infinities, which become the largest or least level, and without NaN.

    NaN becomes the median, which most likely is background.
    """
    levels = np.asarray(image)
    is_finite = np.isfinite(levels)
    if is_finite.all():
        return image
    finite = levels[is_finite] if is_finite.any() else np.zeros(1, np.float32)
    median, low, high = np.median(finite), finite.min(), finite.max()
    return Image.fromarray(np.nan_to_num(levels, nan=median, posinf=high, neginf=low))


def _scaled(levels: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Levels of any range, scaled so that the range becomes 0 to 255.

    A hot or dead pixel of a sensor would leave little of the range to the rest. Quantiles do not
    tell it from ink, of which a picture may have as little; but no neighbour of it is like it. So
    where the levels that are not above all their neighbours, or below, have less than half of the
    range, they are the range.
    """
    import cv2

    low, high = levels.min(), levels.max()
    neighbours = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
    shared_low = np.maximum(levels, cv2.erode(levels, neighbours)).min()
    shared_high = np.minimum(levels, cv2.dilate(levels, neighbours)).max()
    if shared_high - shared_low < (high - low) / 2:
        low, high = shared_low, shared_high
    if low >= high:
        return np.zeros(levels.shape, np.uint8)
    return np.round(np.clip((levels - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _with_channels(image: Image.Image) -> Image.Image:
    """A picture of 8 bits in a mode whose channels can be averaged."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("1", "L", "RGB") and "transparency" in image.info:
        return image.convert("RGBA" if image.mode == "RGB" else "LA")
    mode = {"1": "L", "HSV": "RGB"}.get(image.mode, image.mode)
    return image if mode == image.mode else image.convert(mode)


def _stretched(image: Image.Image) -> Image.Image:
    """The picture; if its levels are 0 to 1, or to at most 16, they become 0 to 255."""
    colours = {"L": 1, "LA": 1, "RGB": 3, "RGBA": 3}.get(image.mode)
    if colours is None:
        return image
    extrema = np.reshape(image.getextrema(), (-1, 2))[:colours]
    low, high = int(extrema.min()), int(extrema.max())
    if not low < high <= 16:
        return image
    table = [round(255 * min(max(i - low, 0) / (high - low), 1)) for i in range(256)]
    opacity = list(range(256)) if image.mode.endswith("A") else []
    return image.point(table * colours + opacity)
