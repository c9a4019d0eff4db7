"""What was found is drawn on the picture, and what the network saw stands beside it."""

import numpy as np
import pytest
from PIL import Image

from jaxmnist.data import pictures
from jaxmnist.trained.annotate import annotate
from jaxmnist.trained.reading import Detection

NAMES = [str(digit) for digit in range(10)]
SURE, UNSURE = (29, 95, 196), (194, 65, 12)


def has(colour, pixels):
    return (pixels == colour).all(-1)


@pytest.mark.parametrize(
    ("size", "count", "wanted"),
    [
        ((28, 28), 1, (336, 336)),  # Enlarged; the input is on the right.
        ((4000, 3000), 12, (1024, 768)),  # Reduced; the inputs are below.
        ((600, 900), 12, (600, 900)),
        ((900, 40), 3, (900, 40)),
    ],
)
def test_boxes_are_drawn_on_the_picture_and_inputs_beside_it(size, count, wanted):
    inputs = np.random.default_rng(0).integers(256, size=(count, 28, 28, 1), dtype=np.uint8)
    width = size[0] // (2 * count)
    boxes = [(2 * i * width, 1, (2 * i + 1) * width, size[1] - 1) for i in range(count)]
    found = [
        Detection(box, image, 7, np.eye(10, dtype=np.float32)[7], "it is odd" * (i == 0))
        for i, (box, image) in enumerate(zip(boxes, inputs, strict=True))
    ]
    picture = Image.new("RGB", size, "grey")
    picture.thumbnail((1024, 1024))
    page = pictures.Page(picture, size, [])
    sheet = annotate(page, found, NAMES, "digit")
    pixels, scale = np.asarray(sheet), wanted[0] / size[0]
    on_picture = pixels[: wanted[1], : wanted[0]]
    for i, (left, _, right, _) in enumerate(boxes):
        part = on_picture[:, round(left * scale) : round(right * scale)]
        assert has(UNSURE if i == 0 else SURE, part).any()
        assert not has(SURE if i == 0 else UNSURE, part[:, 8:-8]).any()
        # The whole input, unsmoothed, stands outside the picture.
        large = inputs[i, ..., 0].repeat(4, 0).repeat(4, 1)
        columns = 124 * np.arange(sheet.width // 124 + 1) + 6
        outside = sheet.width - wanted[0] if wanted[0] <= wanted[1] else sheet.height - wanted[1]
        assert outside >= 112
        if wanted[0] > wanted[1]:
            starts = [(x, y) for x in columns for y in range(wanted[1] + 12, sheet.height, 148)]
        else:
            starts = [(x, y) for x in columns + wanted[0] + 12 for y in range(0, sheet.height, 148)]
        assert any(np.array_equal(pixels[y : y + 112, x : x + 112, 0], large) for x, y in starts)
    assert page.picture.tobytes() == picture.tobytes()


def test_a_picture_without_a_digit_says_so():
    page = pictures.Page(Image.new("RGB", (400, 300), "grey"), (400, 300), [])
    pixels = np.asarray(annotate(page, [], NAMES, "digit"))
    assert pixels.shape == (352, 400, 3)
    assert (pixels[:300] == 128).all()
    assert has(UNSURE, pixels[300:]).any()
