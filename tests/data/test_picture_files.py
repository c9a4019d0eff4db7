"""Any file of a picture is read alike, and what is not read is called what it is."""

import io
import os
import sys
import threading
import warnings

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageDraw, features

from jaxmnist.data import picture_files
from jaxmnist.errors import UserError

pillow_heif.register_heif_opener()  # The tests write HEIC too.


def frames(file, longest=64, **kwargs):
    file = io.BytesIO(file) if isinstance(file, bytes) else file
    return list(picture_files.frames(file, "it", longest, **kwargs))


def levels(file, longest=64):
    (frame,) = frames(file, longest)
    return frame.levels


def as_bytes(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def difference(a, b):
    return np.abs(a.astype(float) - b).mean()


@pytest.fixture(scope="module")
def page():
    """Dark blue on light yellow, 60 wide and 40 high, and nowhere symmetric."""
    image = Image.new("RGB", (60, 40), (250, 250, 200))
    ImageDraw.Draw(image).polygon([(5, 5), (50, 8), (12, 30)], (20, 30, 120))
    return image


@pytest.fixture(scope="module")
def ramp():
    return np.tile(np.linspace(0, 255, 52, dtype=np.uint8), (40, 1))


LOSSY = {"JPEG": 6, "WEBP": 4, "AVIF": 4, "HEIF": 4, "JPEG2000": 4, "GIF": 4}


@pytest.mark.parametrize("kind", picture_files.FORMATS)
def test_every_format_is_read(page, kind, tmp_path):
    data = as_bytes(page, kind, **({"sizes": [page.size]} if kind == "ICO" else {}))
    frame = frames(data)[0]
    assert frame[1:] == ((60, 40), 1, 1)
    assert difference(frame.levels, np.asarray(page)) <= LOSSY.get(kind, 0)
    assert frames(page)[0][1:] == frame[1:]
    (tmp_path / "it").write_bytes(data[: len(data) // 2])  # Damaged, but a picture.
    assert picture_files.begins_as_picture(tmp_path / "it")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "La", "RGBa", "RGBX"])
def test_every_mode_of_8_bits_is_read(page, mode):
    through = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA", "RGBX": "RGB"}.get(mode)
    image = (page.convert(through) if through else page).convert(mode)
    found = levels(image)
    wanted = page.convert({"1": "1", "L": "L", "LA": "L", "La": "L"}.get(mode, "RGB"))
    wanted = np.asarray(wanted.convert("L") if mode == "1" else wanted)
    assert difference(found, wanted.reshape(found.shape)) < (20 if mode[0] == "P" else 0.01)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB"])
@pytest.mark.parametrize("longest", [60, 30])
def test_every_space_of_colours_becomes_rgb(page, mode, longest):
    image = page.convert(mode)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(page, *profiles, outputMode="LAB")
    files = [image] if mode == "HSV" else [image, as_bytes(image, "TIFF")]
    files += [as_bytes(image, "JPEG", quality=95)] if mode == "CMYK" else []
    for file in files:
        assert difference(levels(file, longest), levels(page, longest)) < 3


def test_opacity_is_the_last_channel_and_counts_in_means(page):
    image = page.convert("RGBA")
    image.paste((255, 255, 255, 0), (30, 0, 60, 40))
    # What is transparent is white, and the means of what is half so are of the rest's colour.
    whole, half = levels(image, 60), levels(image, 13)
    assert whole.shape == (40, 60, 4)
    assert half.shape == (8, 12, 4)
    np.testing.assert_array_equal(whole[..., 3], np.asarray(image)[..., 3])
    edge = Image.new("LA", (4, 4), (9, 255))
    edge.paste((200, 0), (1, 0, 4, 4))
    np.testing.assert_allclose(levels(edge, 1), [[[9, 64]]], atol=2)
    for data in (
        as_bytes(page.convert("P"), transparency=page.convert("P").getpixel((0, 0))),
        as_bytes(page.convert("L"), transparency=page.convert("L").getpixel((0, 0))),
        as_bytes(page, transparency=page.getpixel((0, 0))),
        as_bytes(page.convert("1", dither=0), transparency=1),
    ):
        found = levels(data)
        assert found.shape[-1] in (2, 4)
        assert found[0, 0, -1] == 0
        assert found[10, 12, -1] == 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright(kind, orientation):
    dark = Image.new("L", (48, 32), 250)
    dark.paste(10, (0, 0, 16, 8))  # At the upper left.
    stored = (
        dark.transpose(picture_files._TURNS.get({6: 8, 8: 6}.get(orientation, orientation), 0))
        if orientation > 1
        else dark
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    frame = frames(as_bytes(stored.convert("RGB"), kind, exif=exif), 24)[0]
    assert (frame.levels.shape[:2], frame.size) == ((16, 24), (48, 32))
    assert frame.levels[:3, :7].mean() < 40
    assert frame.levels[6:].mean() > 220
    assert frame.levels[:, 10:].mean() > 220


def test_damaged_exif_leaves_a_picture_as_it_is(page):
    data = as_bytes(page, exif=b"Exif\0\0nothing of the kind")
    np.testing.assert_array_equal(levels(data), np.asarray(page))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_each_frame_is_read_when_it_is_asked_for(page, kind):
    images = [Image.eval(page, lambda level, k=k: level // k) for k in (1, 2, 3)]
    data = as_bytes(images[0], kind, save_all=True, append_images=images[1:])
    found = frames(data)
    assert [(each.number, each.total) for each in found] == [(1, 3), (2, 3), (3, 3)]
    for frame, image in zip(found, images, strict=True):
        assert difference(frame.levels[..., :3], np.asarray(image)) < 6
    cut = picture_files.frames(io.BytesIO(data[:-60]), "it", 64)
    with pytest.raises(UserError, match="it cannot be read"):
        list(cut)


def test_pages_are_turned_each_for_itself(page):
    exif = Image.Exif()
    exif[0x0112] = 3
    first, second = as_bytes(page, "TIFF", exif=exif), as_bytes(page, "TIFF")
    pages = [Image.open(io.BytesIO(each)) for each in (first, second)]
    file = io.BytesIO()
    pages[1].save(file, "TIFF", save_all=True, append_images=[page.rotate(90, expand=True)])
    assert [each.size for each in frames(file.getvalue())] == [(60, 40), (40, 60)]
    np.testing.assert_array_equal(levels(first), np.asarray(page)[::-1, ::-1])


def test_previews_are_no_frames(page):
    data = as_bytes(page, "MPO", save_all=True, append_images=[page.rotate(180)])
    assert difference(levels(data), np.asarray(page)) < 6


def test_a_large_jpeg_is_reduced_by_its_decoder(page, monkeypatch):
    large = page.resize((2400, 1600))
    sizes = []
    monkeypatch.setattr(
        Image.Image, "reduce", lambda image, factor: sizes.append((image.size, factor)) or image
    )
    frames(as_bytes(large, "JPEG"), 300)
    frames(as_bytes(large, "JPEG"), 1100)
    frames(as_bytes(large, "PNG"), 300)
    assert sizes == [((300, 200), 1), ((1200, 800), 2), ((2400, 1600), 8)]
    monkeypatch.undo()
    assert difference(levels(as_bytes(large, "JPEG"), 300), levels(large, 300)) < 3


@pytest.mark.parametrize("longest", [1, 7, 59, 60, 10_000])
def test_the_longer_side_is_at_most_what_is_asked(page, longest):
    for file in (page, as_bytes(page, "JPEG"), page.transpose(Image.Transpose.ROTATE_90)):
        assert max(levels(file, longest).shape[:2]) <= longest


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("u2", 257), ("u2", 16), ("u2", 4), ("i4", 1000), ("f4", 1 / 255), ("f4", -3), ("f4", 1e35)],
)
def test_any_range_of_levels_becomes_8_bits(ramp, dtype, scale):
    image = Image.fromarray((ramp.astype(float) * scale).astype(dtype))
    wanted = 255 - ramp if scale < 0 else ramp
    for file in (image, as_bytes(image, "TIFF")):
        assert difference(levels(file)[..., 0], wanted) < 1


@pytest.mark.parametrize("mode", ["I;16B", "I;16L"])
def test_other_orders_of_bytes(ramp, mode):
    data = ramp.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    image = Image.frombytes(mode, ramp.shape[::-1], data)
    np.testing.assert_array_equal(levels(image)[..., 0], ramp)


@pytest.mark.parametrize("top", [1, 2, 16])
@pytest.mark.parametrize("mode", ["L", "RGB", "LA"])
def test_the_lowest_levels_of_8_bits_are_scaled(top, mode):
    small = (np.arange(17)[None] * top // 16).astype(np.uint8)
    found = levels(Image.fromarray(small).convert(mode))[..., 0]
    np.testing.assert_allclose(found, small * (255 / top), atol=0.51)
    dark = Image.fromarray(np.array([[0, 17]], np.uint8))
    np.testing.assert_array_equal(levels(dark)[..., 0], dark)


def test_a_hot_pixel_does_not_take_the_range(ramp):
    twelve = ramp.astype(np.uint16) * 16
    hot = twelve.copy()
    hot[20, 20], hot[5, 30] = 65535, 0
    assert difference(levels(Image.fromarray(hot))[..., 0], ramp) < 1
    thin = np.full((40, 40), 900, np.uint16)
    thin[20, 10:30] = 4000  # A line of one pixel is none.
    assert levels(Image.fromarray(thin))[20, 15, 0] == 255


def test_what_is_no_number_is_no_ink(ramp):
    floats = ramp.astype(np.float32)
    floats[3, 4], floats[6, 7], floats[9, 10] = np.nan, np.inf, -np.inf
    found = levels(Image.fromarray(floats))[..., 0]
    assert (found[6, 7], found[9, 10]) == (255, 0)
    assert abs(int(found[3, 4]) - np.median(ramp)) < 5
    found[3, 4], found[6, 7], found[9, 10] = ramp[3, 4], ramp[6, 7], ramp[9, 10]
    assert difference(found, ramp) < 1
    assert not levels(Image.fromarray(np.full((3, 3), np.nan, np.float32))).any()


@pytest.mark.parametrize("dtype", ["u2", "f4", "i4"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (30, 30)])
def test_a_blank_picture_stays_blank(dtype, shape):
    assert np.ptp(levels(Image.fromarray(np.full(shape, 700, dtype)))) == 0


def test_a_blank_picture_of_8_bits_keeps_its_level():
    for level in (0, 5, 255):
        assert (levels(Image.new("L", (9, 9), level)) == level).all()


def test_a_pillow_image_is_not_changed(page):
    data = as_bytes(page, "GIF", save_all=True, append_images=[page.rotate(180)])
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        (frame,) = frames(image)
        assert image.tell() == 1
        assert difference(frame.levels, np.asarray(page)[::-1, ::-1]) < 6
    with Image.open(io.BytesIO(as_bytes(page, "JPEG"))) as image:
        frames(image, 8)
        assert image.size == (60, 40)


OTHERS = {
    b"": "it is empty and no picture: give PNG, JPEG or another of its kind.",
    b"hello": "it is no picture, but text: give PNG, JPEG or another of its kind.",
    "größer".encode()[:3] + b"\n": "it is no picture: give PNG, JPEG or another of its kind.",
    bytes(600): "it is no picture: give PNG, JPEG or another of its kind.",
    b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg>": "it is an SVG drawing: save it as PNG or JPEG.",
    b"\n<!DOCTYPE html>": "it is a web page, no picture: give PNG, JPEG or another of its kind.",
    b"%PDF-1.7": "it is a PDF: give a picture of the page, such as a PNG.",
    b"%!PS-Adobe-3.0": "it is a PostScript file: save it as PNG or JPEG.",
    b"8BPS\0\1" + bytes(40): "it is a Photoshop file: save it as PNG or JPEG.",
    b"\0\0\0\x20ftypisom" + bytes(40): "it is a video: save a frame of it as PNG or JPEG.",
    b"\0\0\0\x20ftypcrx " + bytes(40): "it is a camera's raw file: save it as PNG or JPEG.",
    b"II*\0\x10\0\0\0CR\2\0" + bytes(40): "it is a camera's raw file: save it as PNG or JPEG.",
    bytes(128) + b"DICM": "it is a DICOM file: save it as PNG or JPEG.",
    b"PK\3\4" + bytes(40): "it is a ZIP archive or an office document: give the pictures that are "
    "in it.",
    b"\xff\x0a" + bytes(40): "it is a JPEG XL picture: save it as PNG or JPEG.",
}


@pytest.mark.parametrize("data", OTHERS, ids=[words[3:20] for words in OTHERS.values()])
def test_what_is_not_read_is_called_what_it_is(data, tmp_path):
    with pytest.raises(UserError) as e:
        frames(data)
    assert str(e.value) == OTHERS[data]
    (tmp_path / "it").write_bytes(data)
    assert picture_files.begins_as_picture(tmp_path / "it") is data.startswith(b"II*")  # As a TIFF.


def test_a_raw_file_is_not_its_preview(page):
    for tags in ({50706: b"\1\4\0\0"}, {254: 1, 330: 8}):
        with pytest.raises(UserError, match=r"^it is a camera's raw file"):
            frames(as_bytes(page, "TIFF", tiffinfo=tags))


def test_what_a_format_needs_is_told(page, monkeypatch):
    heic, avif = as_bytes(page, "HEIF"), as_bytes(page, "AVIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError) as e:
        frames(heic)
    assert str(e.value) == (
        "it is a HEIC picture: reading it needs pillow-heif: pip install 'jaxmnist[heif]'."
    )
    assert frames(avif)
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(UserError, match="it is an AVIF picture: reading it needs a Pillow that"):
        frames(avif)


def test_what_is_no_file_is_told_of(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    cases = {
        "none.png": "it: there is no such file.",
        "": "it is a folder: give a picture.",
        "pipe": "it is a pipe or a device: give a file.",
    }
    for file, words in cases.items():
        for path in (tmp_path / file, str(tmp_path / file)):
            with pytest.raises(UserError) as e:
                frames(path)
            assert str(e.value) == words


def test_a_file_is_closed(page, tmp_path):
    path = tmp_path / "page.gif"
    page.save(path, save_all=True, append_images=[page.rotate(90)])
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    some = picture_files.frames(path, "it", 64)
    next(some)
    some.close()
    frames(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError):
        frames(path)
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_too_large_a_picture_is_refused_before_it_is_decoded(page, monkeypatch):
    data = bytearray(as_bytes(page, "BMP"))
    data[18:26] = np.array([40_000, 30_000], "<i4").tobytes()
    for max_pixels, limit in ((None, Image.MAX_IMAGE_PIXELS), (1000, 1000), (10**10, 89_478_485)):
        with pytest.raises(UserError) as e:
            frames(bytes(data), max_pixels=max_pixels)
        assert str(e.value) == f"it has more than {limit:,} pixels: give a smaller one."
    whole = as_bytes(page)
    assert frames(whole, max_pixels=2400)
    with pytest.raises(UserError, match="more than 2,399 pixels"):
        frames(page, max_pixels=2399)
    for limit in (2000, 1000):  # Where Pillow warns, and where it refuses.
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError, match=f"more than {limit:,} pixels"):
            frames(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert frames(whole)


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(UserError, match="the picture has no pixels"):
        next(picture_files.frames(Image.new("L", (0, 3)), "the picture", 100))


def test_a_frame_that_nobody_asks_for_is_not_decoded(page):
    images = [page, Image.new("RGB", (3000, 3000))]
    data = as_bytes(images[0], "TIFF", save_all=True, append_images=images[1:])
    found = picture_files.frames(io.BytesIO(data), "it", 64, max_pixels=10_000)
    assert next(found).total == 2
    with pytest.raises(UserError, match="more than 10,000 pixels"):
        next(found)


def test_only_the_formats_that_are_allowed(page):
    with pytest.raises(UserError, match="it is no picture"):
        frames(as_bytes(page, "TIFF"), formats=["PNG"])
    assert frames(as_bytes(page), formats=["PNG"])
    assert not {"EPS", "WMF", "TGA"} & set(picture_files.FORMATS)


@pytest.mark.parametrize("kind", picture_files.FORMATS)
def test_damaged_files_give_one_sentence(page, kind, capsys):
    rng = np.random.default_rng(0)
    whole = as_bytes(page, kind)
    for i in range(40):
        data = bytearray(whole)
        if i % 2:
            data = data[: rng.integers(len(data))]
        else:
            for at in rng.integers(0, min(len(data), 400), 5):
                data[at] = rng.integers(256)
        try:
            assert frames(bytes(data))
        except UserError as e:
            assert str(e).startswith("it ")  # noqa: PT017
    assert capsys.readouterr() == ("", "")


def test_warnings_of_other_threads_are_left_alone(page):
    """Decoders' warnings are kept back where they arise, and nowhere else."""
    data = as_bytes(page, "TIFF")
    some = picture_files.frames(io.BytesIO(data), "it", 64)
    with picture_files._decoding("it", 100):
        warnings.warn("of a decoder", stacklevel=1)
        said = []

        def other():
            try:
                warnings.warn("of another", stacklevel=1)
            except UserWarning as e:
                said.append(str(e))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert said == ["of another"]
    next(some)
    with pytest.warns(UserWarning, match="of the caller"):
        warnings.warn("of the caller", stacklevel=1)
