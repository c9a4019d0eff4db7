"""Whatever shows a digit becomes an image like MNIST's."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from jaxmnist.data import datasets, pictures
from jaxmnist.errors import UserError

MNIST = datasets.preparation("mnist")


def read(file, name, preparation=MNIST, **kwargs):
    return pictures.read(file, name, preparation, **kwargs)


def prepare(levels):
    return read(Image.fromarray(np.round(levels).astype(np.uint8)), "it")


def as_file(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return io.BytesIO(file.getvalue())


@pytest.fixture(scope="module")
def seven():
    """A black 7 on white paper of 300x400, its box 90x160."""
    image = Image.new("L", (300, 400), 255)
    ImageDraw.Draw(image).line([(110, 110), (190, 110), (140, 260)], 0, 12, joint="curve")
    return image


@pytest.fixture(scope="module")
def prepared(seven):
    return read(as_file(seven), "seven")


def difference(a, b):
    return np.abs(a.astype(float) - b).mean()


def test_the_box_is_20_high_and_its_centre_of_mass_in_the_middle(prepared):
    assert prepared.shape == (28, 28, 1)
    assert prepared.dtype == np.uint8
    rows, columns = (np.flatnonzero(prepared.any(axis)) for axis in ((1, 2), (0, 2)))
    assert rows[-1] - rows[0] + 1 == 20
    assert columns[-1] - columns[0] + 1 == pytest.approx(20 * 90 / 160, abs=1)
    assert ndimage.center_of_mass(prepared[..., 0]) == pytest.approx((14, 14), abs=0.51)
    assert prepared.max() == 255


def test_images_of_mnist_go_through_untouched(test_split):
    for image in test_split.images[::50]:
        found = read(as_file(Image.fromarray(image[..., 0])), "one")
        np.testing.assert_array_equal(found, image)


def test_the_digits_of_mnist_come_out_as_mnist_made_them(test_split):
    """Scaled up, moved and made dark on light, then prepared: nearly what they were before."""
    ratios = []
    for image in test_split.images[::50, ..., 0]:
        large = Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)
        paper = Image.new("L", (500, 300), 0)
        paper.paste(large, (200, 30))
        found = prepare(255 - np.asarray(paper, np.float32))[..., 0]
        # Where the centre of mass lies between two pixels, either may be its place.
        moved = [np.roll(found, by, (0, 1)) for by in itertools.product((-1, 0, 1), repeat=2)]
        ratios.append(min(difference(each, image) for each in moved) / difference(image, 0))
    assert np.mean(ratios) < 0.2, ratios


@pytest.mark.parametrize("mode", ["1", "RGB", "RGBA", "P", "LA", "CMYK", "I;16", "I", "F"])
def test_every_mode_of_pillow_gives_the_same(seven, prepared, mode):
    image = seven.convert(mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(seven).astype(np.uint16) * 257)
    kind = "TIFF" if mode in ("CMYK", "I", "F") else "PNG"
    if mode in ("I", "F"):
        image = Image.fromarray(np.asarray(seven).astype({"I": np.int32, "F": np.float32}[mode]))
    assert difference(read(as_file(image, kind), "one"), prepared) < 2


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_every_format_gives_nearly_the_same(seven, prepared, kind):
    assert difference(read(as_file(seven, kind), "one"), prepared) < 3


@pytest.mark.parametrize("ink", [0, 255])
def test_ink_on_nothing_is_put_on_a_paper_that_shows_it(seven, prepared, ink):
    image = Image.new("L", seven.size, ink)
    image.putalpha(Image.eval(seven, lambda level: 255 - level))
    assert difference(read(as_file(image), "one"), prepared) < 2


def test_a_paper_with_transparent_corners_stays_a_paper(seven, prepared):
    shape = Image.new("L", seven.size, 0)
    ImageDraw.Draw(shape).rounded_rectangle([0, 0, 299, 399], 40, 255)
    image = seven.copy()
    image.putalpha(shape)
    assert difference(read(as_file(image), "one"), prepared) < 2


def test_a_palette_can_have_a_transparent_colour(seven, prepared):
    image = seven.convert("P")
    file = as_file(image, transparency=image.getpixel((0, 0)))
    assert difference(read(file, "one"), prepared) < 2


def test_light_on_dark_is_dark_on_light_seen_otherwise(seven, prepared):
    found = prepare(255 - np.asarray(seven, np.float32))
    assert difference(found, prepared) < 1


def test_a_photo_in_uneven_light_with_noise_and_specks(seven, prepared):
    y, x = np.mgrid[0:400, 0:300]
    noise = np.random.default_rng(0).normal(0, 5, (400, 300))
    photo = np.asarray(seven) * 0.5 + 60 + 0.15 * x - 0.1 * y + noise
    photo[20:23, 30:33] = photo[350:352, 250:252] = 40
    image = Image.fromarray(np.clip(photo, 0, 255).astype(np.uint8))
    assert difference(read(as_file(image, "JPEG"), "one"), prepared) < 5


def test_a_camera_that_was_turned_tells_so(seven, prepared):
    exif = Image.Exif()
    exif[0x0112] = 6  # To be seen, it is turned a quarter clockwise.
    file = as_file(seven.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    assert difference(read(file, "one"), prepared) < 3


def test_a_large_picture_is_the_same_digit(seven, prepared):
    image = seven.resize((3000, 4000))
    assert difference(read(as_file(image), "one"), prepared) < 4


def test_thin_strokes_become_full_ones():
    image = Image.new("L", (400, 400), 255)
    ImageDraw.Draw(image).line([(200, 50), (200, 350)], 0, 3)
    assert read(as_file(image), "one").max() == 255


def test_what_holds_no_digit_is_told_of(seven, tmp_path, monkeypatch):
    whole = as_file(seven).getvalue()
    cases = {
        b"": "no picture",
        b"hello": "no picture",
        whole[: len(whole) // 2]: "cannot be read",
        whole[:60] + b"\x00" * 40 + whole[100:]: "cannot be read",
        as_file(Image.new("L", (300, 300), 255)).getvalue(): "shows no digit",
        as_file(Image.new("L", (1, 1), 0)).getvalue(): "shows no digit",
        as_file(Image.new("RGBA", (30, 30), 0)).getvalue(): "transparent",
    }
    for data, words in cases.items():
        with pytest.raises(UserError, match=f"it .*{words}|it: .*{words}"):
            read(io.BytesIO(data), "it")
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.png", "it")
    with pytest.raises(UserError, match="no picture"):
        read(as_file(seven, "TIFF"), "it", formats=["PNG"])
    for limit in (100_000, 10_000):  # Where Pillow warns, and where it refuses.
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError, match=f"more than {limit:,} pixels"):
            read(io.BytesIO(whole), "it")


CLOTHES = datasets.preparation("fashion_mnist")


@pytest.fixture(scope="module")
def coat():
    """28x28 as Fashion-MNIST's: light on black, from edge to edge, of many greys."""
    y, x = np.mgrid[0:28, 0:28]
    image = (90 + 4 * y + 60 * (x % 7 == 3)).astype(np.uint8)
    image[:, :5] = image[:, 23:] = 0
    image[3:, 2:5] = image[3:, 23:26] = 200
    return image


def test_a_photos_greys_are_kept(coat):
    for photo in (coat, 255 - coat):  # As it is, and as it was on white.
        found = read(as_file(Image.fromarray(photo)), "coat", preparation=CLOTHES)[..., 0]
        np.testing.assert_array_equal(found, coat)
    on_grey = np.round((255 - coat) * (230 / 255)).astype(np.uint8)
    assert difference(read(as_file(Image.fromarray(on_grey)), "coat", CLOTHES)[..., 0], coat) < 1
    as_digit = read(as_file(Image.fromarray(255 - coat)), "coat")[..., 0]
    assert difference(as_digit, coat) > 20


@pytest.mark.parametrize("is_light", [True, False])
def test_a_large_photo_is_cut_and_scaled_to_the_edges(coat, is_light):
    large = Image.fromarray(coat).resize((280, 280), Image.Resampling.NEAREST)
    photo = Image.new("L", (500, 400), 0)
    photo.paste(large, (150, 50))
    photo = Image.eval(photo, lambda level: 255 - level) if is_light else photo
    found = read(as_file(photo), "coat", CLOTHES)[..., 0]
    assert difference(found, coat) < 6
    assert found[-1].max() > 100


def test_a_photo_that_was_cut_out_lies_on_white(coat):
    photo = Image.fromarray(255 - coat).resize((280, 280), Image.Resampling.NEAREST)
    photo.putalpha(Image.eval(photo, lambda level: 255 if level < 255 else 0))
    assert difference(read(as_file(photo), "coat", CLOTHES)[..., 0], coat) < 6


def test_a_photo_of_nothing_is_told_of():
    for level in (0, 250, 255):
        image = Image.new("L", (100, 90), level)
        with pytest.raises(UserError, match=r"it shows no piece of clothing: it is blank\."):
            read(as_file(image), "it", CLOTHES)


def test_a_letter_of_emnist_is_larger_and_its_box_is_in_the_middle(seven):
    found = read(as_file(seven), "seven", datasets.preparation("emnist/letters"))[..., 0]
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    assert (rows[0], rows[-1]) == (2, 25)
    assert abs(columns[0] - (27 - columns[-1])) <= 1


def test_swapping_twice_is_nothing(test_split):
    images = test_split.images[:3]
    for name in ("mnist", "emnist/digits"):
        preparation = datasets.preparation(name)
        swapped = pictures.swap(images, preparation)
        assert np.array_equal(swapped, images) == (name == "mnist")
        np.testing.assert_array_equal(pictures.swap(swapped, preparation), images)


def test_the_steps_have_the_figures_and_end_with_the_axes():
    for name in datasets.names():
        preparation = datasets.preparation(name)
        steps = pictures.steps(preparation)
        assert f"longer side is {preparation['box']} pixels" in " ".join(steps)
        assert steps[-2].startswith("Swap rows and columns") == preparation["swap_axes"]
        assert "(14, 14)" in " ".join(steps) or preparation["centre"] == "box"


def test_a_limit_on_pixels_can_be_set(seven):
    assert read(as_file(seven), "it", max_pixels=300 * 400).any()
    with pytest.raises(UserError, match="it has more than 119,999 pixels: give a smaller one"):
        read(as_file(seven), "it", max_pixels=300 * 400 - 1)


RESIZE = {"shows": "picture", "method": "resize", "swap_axes": False}


def resize(image, *shape, **options):
    """What an image becomes; its file is a TIFF, which has every mode."""
    file = as_file(image, options.pop("kind", "TIFF"), **options)
    return read(file, "it", RESIZE | {"shape": list(shape)})


@pytest.fixture(scope="module")
def flag():
    """Red above, green and blue below, each a plain rectangle: 60 high and 80 wide."""
    image = Image.new("RGB", (80, 60), (250, 0, 0))
    image.paste((0, 200, 0), (0, 30, 40, 60))
    image.paste((0, 0, 150), (40, 30, 80, 60))
    return image


@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 50, 3), (96, 96, 3), (8, 8, 1), (28, 28, 1)])
def test_a_whole_picture_is_resized_to_any_shape(flag, shape):
    found = resize(flag, *shape)
    assert (found.shape, found.dtype) == (shape, np.uint8)
    height, width, channels = shape
    y, x = height // 4, width // 4
    places = found[[y, -y, -y], [x, x, -x]]  # In the middle of each rectangle.
    wanted = [(250, 0, 0), (0, 200, 0), (0, 0, 150)]
    if channels == 1:
        wanted = [[flag.convert("L").getpixel(at)] for at in ((0, 0), (0, 59), (79, 59))]
    np.testing.assert_allclose(places, wanted, atol=12)


def test_what_has_the_size_already_goes_through_untouched(flag):
    np.testing.assert_array_equal(resize(flag, 60, 80, 3), np.asarray(flag))
    grey = flag.convert("L")
    np.testing.assert_array_equal(resize(grey, 60, 80, 1), np.asarray(grey)[..., None])
    same = np.asarray(grey.convert("RGB"))
    np.testing.assert_array_equal(resize(grey, 60, 80, 3), same)
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(8, 9, 3), dtype=np.uint8))
    np.testing.assert_array_equal(resize(noise, 8, 9, 3), np.asarray(noise))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_can_be_resized(mode):
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))  # Of 252 grey levels.
    ramp = np.where(ramp < 128, 0, 255).astype(np.uint8) if mode == "1" else ramp
    image = Image.fromarray(ramp)
    if mode in ("I;16", "I", "F"):
        types = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        image = Image.fromarray(ramp.astype(types[mode]) * types[mode](257))
    else:
        image = image.convert("RGB").convert(mode) if mode == "CMYK" else image.convert(mode)
    kind = "TIFF" if mode in ("CMYK", "I", "F") else "PNG"
    found = resize(image, 16, 16, 3, kind=kind)
    small = Image.fromarray(ramp).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_allclose(found, np.asarray(small.convert("RGB")).astype(int), atol=6)


def test_what_is_transparent_is_white_also_before_a_photo_was_turned(flag):
    clear = flag.convert("RGBA")
    clear.putalpha(Image.eval(flag.getchannel("R"), lambda level: 255 if level else 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # To be seen, it is turned a quarter clockwise.
    for image, options in (
        (clear, {}),
        (clear.transpose(Image.Transpose.ROTATE_90), {"exif": exif}),
    ):
        found = resize(image, 30, 40, 3, kind="PNG", **options)
        assert (found[20:] == 255).all()
        assert (found[:10] == (250, 0, 0)).all()
    palette = flag.convert("P", palette=Image.Palette.ADAPTIVE)
    index = palette.getpixel((0, 0))
    found = resize(palette, 30, 40, 3, kind="PNG", transparency=index)
    assert (found[:10] == 255).all()
    assert not (found[20:] == 255).all(-1).any()


def test_a_large_picture_is_resized_as_a_small_one(flag):
    large = flag.resize((4000, 3000), Image.Resampling.NEAREST)
    assert difference(resize(large, 32, 32, 3, kind="PNG"), resize(flag, 32, 32, 3)) < 2


def test_a_blank_picture_can_be_resized_and_a_damaged_one_cannot(flag):
    assert (resize(Image.new("L", (9, 9), 255), 8, 8, 1) == 255).all()
    data = as_file(flag, "JPEG").getvalue()
    with pytest.raises(UserError, match=r"it cannot be read \(.*\): give a whole picture\."):
        read(io.BytesIO(data[: len(data) // 2]), "it", RESIZE | {"shape": [8, 8, 3]})


@pytest.mark.parametrize("shape", [(64, 64, 1), (32, 48, 3), (8, 8, 1), (14, 9, 3)])
def test_strokes_are_centred_in_any_shape(seven, shape):
    height, width, channels = shape
    box = round(min(height, width) * 20 / 28)
    preparation = MNIST | {"shape": list(shape), "box": box}
    found = read(as_file(seven), "seven", preparation)
    assert (found.shape, found.dtype) == (shape, np.uint8)
    assert all((found[..., i] == found[..., 0]).all() for i in range(channels))
    rows = np.flatnonzero(found.any((1, 2)))
    assert rows[-1] - rows[0] + 1 == box
    middle = ndimage.center_of_mass(found[..., 0].astype(float))
    assert middle == pytest.approx((height / 2, width / 2), abs=0.6)
    # It is one already.
    again = read(as_file(Image.fromarray(found[..., 0])), "again", preparation)
    np.testing.assert_array_equal(again, found)


def test_the_steps_of_other_shapes_and_of_resizing():
    steps = pictures.steps(RESIZE | {"shape": [32, 48, 3]})
    assert "make it RGB" in steps[0]
    assert "to 32x48 (height x width)" in steps[1]
    assert steps[-1] == "Give it as uint8 of shape (batch, 32, 48, 3); the model divides by 255."
    assert "make it grey" in pictures.steps(RESIZE | {"shape": [8, 8, 1]})[0]
    steps = pictures.steps(MNIST | {"shape": [32, 40, 3], "box": 23})
    assert "only the last three steps" in steps[0]
    assert "longer side is 23 pixels" in steps[3]
    assert "Put it on 32x40 zeros" in steps[4]
    assert "(16, 20)" in steps[4]
    assert steps[-3] == "Repeat the grey levels in all three channels."


def test_all_of_mnist_goes_through_untouched(prepared_mnist):
    found = 0
    for split in datasets.load("mnist", ["train", "test"], str(prepared_mnist)).splits:
        for image in split.images:
            read_image = read(Image.fromarray(image[..., 0]), "one")
            found += np.array_equal(read_image, image)
    assert found == 70_000


@pytest.mark.parametrize(
    "change",
    [
        lambda image: np.roll(image, (4, -3), (0, 1)),
        lambda image: np.asarray(Image.fromarray(image[3:25, 3:25]).resize((28, 28))),
        lambda image: np.pad(
            np.asarray(Image.fromarray(image).resize((14, 14))), ((0, 14), (14, 0))
        ),
    ],
    ids=["moved", "filling", "small in a corner"],
)
def test_what_is_28x28_but_placed_otherwise_is_prepared(test_split, change):
    ratios = []
    for image in test_split.images[::50, ..., 0]:
        found = read(as_file(Image.fromarray(change(image))), "one")[..., 0]
        moved = [np.roll(found, by, (0, 1)) for by in itertools.product((-1, 0, 1), repeat=2)]
        ratios.append(min(difference(each, image) for each in moved) / difference(image, 0))
    assert np.median(ratios) < 0.5, ratios  # Untouched it is 1 or more.


def test_a_blank_28x28_is_blank():
    for level in (0, 255):
        with pytest.raises(UserError, match="it shows no digit: it is blank"):
            read(as_file(Image.new("L", (28, 28), level)), "it")


@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 2), (1, 600), (600, 1), (2, 1024), (3, 5000), (40, 41), (60, 300)]
)
def test_pictures_of_any_shape_are_read_or_blank(shape):
    rng = np.random.default_rng(0)
    for levels in (np.zeros(shape, np.uint8), rng.integers(0, 256, shape, np.uint8)):
        regions, told = [], ""
        try:
            regions = pictures.find(Image.fromarray(levels), "it", MNIST).regions
        except UserError as e:
            told = str(e)
        assert bool(regions) != told.startswith("it shows no digit: it ")
        height, width = shape
        for region in regions:
            left, top, right, bottom = region.box
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


def test_boxes_are_where_digits_are(seven):
    large = Image.new("L", (1500, 2600), 255)
    large.paste(seven.resize((600, 800)), (700, 1500))
    (region,) = pictures.find(as_file(large), "it", MNIST).regions
    assert region.box == pytest.approx((910, 1710, 1090, 2030), abs=12)


def test_a_jpeg_of_mnists_digit_is_placed_still(test_split):
    for image in test_split.images[::50, ..., 0]:
        file = as_file(Image.fromarray(image), "JPEG", quality=95)
        assert difference(read(file, "one")[..., 0], image) < 3


@pytest.mark.parametrize("name", ["emnist/letters", "kmnist", "mnist"])
def test_28x28_and_dark_on_light_is_turned_round(seven, name):
    preparation = datasets.preparation(name)
    small = seven.crop((80, 80, 220, 290)).resize((28, 28), Image.Resampling.BOX)
    found = read(as_file(small), "it", preparation)
    assert np.median(found) == 0
    assert found.max() == 255
    with pytest.raises(UserError, match="blank"):
        read(as_file(Image.new("L", (28, 28), 255)), "it", preparation)


def test_of_too_many_marks_it_is_said():
    rng = np.random.default_rng(0)
    page = Image.new("L", (900, 900), 255)
    draw = ImageDraw.Draw(page)
    for x, y in itertools.product(range(20, 880, 30), repeat=2):
        draw.line((x, y, x + rng.integers(4, 14), y + 15), 0, 3)
    with pytest.raises(UserError, match="it shows no digit: it shows more than 400 marks"):
        read(as_file(page), "it")


@pytest.mark.parametrize("width", [5, 9, 16])
@pytest.mark.parametrize("is_ruled", [False, True])
def test_a_one_beside_other_digits_is_no_line(width, is_ruled):
    page = Image.new("L", (600, 400), 255)
    draw = ImageDraw.Draw(page)
    if is_ruled:
        for y in range(30, 400, 45):
            draw.line((0, y, 599, y), 190, 2)
    draw.line((150, 80, 140, 320), 0, width)
    two = [(270, 130), (300, 85), (370, 85), (390, 140), (270, 318), (400, 318)]
    draw.line(two, 0, width, joint="curve")
    boxes = [region.box for region in pictures.find(as_file(page), "it", MNIST).regions]
    assert [box[0] for box in boxes] == pytest.approx([140, 270], abs=12)
