"""Corruptions of digits, to measure models by; no recipe trains on them.

Some of the ways of `augment.corrupt`, which best.py trains with, are alike: noise, single pixels,
blur, fog, outlines, shifts, and bands and backgrounds of other brightness.

They are those that MNIST-C names (Mu and Gilmer 2019, arXiv 1906.02337), written anew, with the
strengths that its authors' code has by default. Where something is random, such as the side to
which a digit leans, each image draws its own.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

SIDE = 28
AT_ONCE = 50  # The heights of fog take 0.3 MB an image.

Images = Float[np.ndarray, "n 28 28"]
Rngs = Sequence[np.random.Generator]  # One for each image.


def corrupt(
    images: UInt8[np.ndarray, "n 28 28"], kind: str, seed: int = 0
) -> UInt8[np.ndarray, "n 28 28"]:
    """Images with one of CORRUPTIONS: the i-th depends on itself, seed, kind and i alone.

    Raises ValueError if there is no such kind, or the images are others.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"{kind!r} is none of {', '.join(CORRUPTIONS)}")
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"images must be uint8 (n, 28, 28), not {images.dtype} {images.shape}")
    result = np.empty_like(images)
    for start in range(0, len(images), AT_ONCE):
        part = images[start : start + AT_ONCE].astype(np.float32) / 255
        rngs = [
            np.random.default_rng([seed, zlib.crc32(kind.encode()), start + i])
            for i in range(len(part))
        ]
        levels = 255 * np.clip(CORRUPTIONS[kind](part, rngs), 0, 1)
        result[start : start + AT_ONCE] = np.round(levels)
    return result


def shot_noise(x: Images, rngs: Rngs) -> Images:
    """Each pixel a count of photons, of which a white one gets 3 in the mean."""
    return np.stack([rng.poisson(3 * each) / 3 for each, rng in zip(x, rngs, strict=True)])


def impulse_noise(x: Images, rngs: Rngs) -> Images:
    """17 % of the pixels are replaced, half of them by black, half by white."""
    draws = np.stack([rng.random(x.shape[1:]) for rng in rngs])
    return np.where(draws < 0.17, draws < 0.085, x)


def glass_blur(x: Images, rngs: Rngs) -> Images:
    """Twice every second pixel changes places with one before it, between blurs of 0.7 pixels.

    From the lower right corner on, each pixel but those at an edge has a chance of 1/2 to do so,
    with the one that is 0 or 1 rows and 0 or 1 columns before it.
    """
    x = _blur(x, 0.7)
    inner = range(SIDE - 1, 1, -1)
    draws = np.stack([rng.integers(2, size=(2, len(inner), len(inner), 3)) for rng in rngs])
    moves, every = draws[..., 1:] * draws[..., :1], np.arange(len(x))
    for turn in range(2):
        for i, row in enumerate(inner):
            for j, column in enumerate(inner):
                up, left = moves[:, turn, i, j].T
                other = every, row - up, column - left
                x[:, row, column], x[other] = x[other], x[:, row, column].copy()
    return _blur(x, 0.7)


def motion_blur(x: Images, rngs: Rngs) -> Images:
    """A trail of 10 pixels to one side, up to 45 degrees up or down, that fades as a Gaussian of 3.

    Each is the weighted mean of the pixels on its way, the nearest one of each step.
    """
    angles = np.radians([rng.uniform(-45, 45) for rng in rngs])
    way = np.stack([np.sin(angles), np.cos(angles)], 1)
    weights = np.exp(-(np.arange(11) ** 2) / (2 * 3**2))
    moved = (w * _moved(x, np.eye(2), -step * way, 0) for step, w in enumerate(weights))
    return sum(moved) / weights.sum()


def shear(x: Images, rngs: Rngs) -> Images:
    """Vertical lines lean by 21 degrees, sin 0.4 pixels a row, to either side.

    The height grows by 1 / cos 0.4.
    """
    sides = _sides(rngs)[:, 0]
    matrices = np.tile(np.array([[np.cos(0.4), 0], [0, 1]]), (len(x), 1, 1))
    matrices[:, 1, 0] = sides * np.sin(0.4)
    return _moved(x, matrices)


def scale(x: Images, rngs: Rngs) -> Images:
    """0.7 times the size."""
    return _moved(x, np.eye(2) / 0.7)


def rotate(x: Images, rngs: Rngs) -> Images:
    """By 0.4 radians, 23 degrees, to either side."""
    sines = np.sin(0.4) * _sides(rngs)[:, 0]
    cosines = np.full_like(sines, np.cos(0.4))
    return _moved(x, np.stack([cosines, -sines, sines, cosines], 1).reshape(-1, 2, 2))


def brightness(x: Images, rngs: Rngs) -> Images:
    """All is 0.5 brighter, of 1."""
    return x + 0.5


def translate(x: Images, rngs: Rngs) -> Images:
    """3 pixels up or down, and 3 to the left or to the right."""
    return _moved(x, np.eye(2), 3 * _sides(rngs), 0)


def stripe(x: Images, rngs: Rngs) -> Images:
    """The left and the right quarter are inverted."""
    columns = np.arange(SIDE)
    return np.where((columns < 7) | (columns >= 21), 1 - x, x)


def fog(x: Images, rngs: Rngs) -> Images:
    """Three times the heights of a random landscape, added; then as bright as before at most.

    The heights, from 0 to 1, are of 256x256 by the diamond-square algorithm, of which the image is
    a corner. The draws become 1.4**2 times smaller from one distance to its half.
    """
    top = x.max((1, 2), keepdims=True)
    return (x + 3 * _heights(rngs, 1.4**2)[:, :SIDE, :SIDE]) * top / (top + 3)


def spatter(x: Images, rngs: Rngs) -> Images:
    """Dark grey (63 of 255) drops: where normal noise, blurred by 1 pixel, is above its mean.

    Their edges are blurred by 1.5 pixels, and what is then below 0.8 is none.
    """
    noise = np.stack([rng.standard_normal(x.shape[1:]) for rng in rngs])
    drops = _blur((_blur(noise, 1.0) > 0).astype(np.float32), 1.5)
    drops[drops < 0.8] = 0
    return x * (1 - drops) + 63 / 255 * drops


def dotted_line(x: Images, rngs: Rngs) -> Images:
    """A straight line from the left edge to the right one: 2 columns without it, 2 with it."""
    ends = np.stack([rng.integers(27, size=2) for rng in rngs])
    columns = np.arange(SIDE)
    at = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * columns / 27
    return x + _ink(at) * (columns % 4 >= 2)


def zigzag(x: Images, rngs: Rngs) -> Images:
    """A zigzag of 2 pixels up and down, with teeth of 8 columns, about a line up to 12 degrees.

    In the columns of its corners both strokes count.
    """
    starts = np.array([[rng.integers(27)] for rng in rngs])
    rises = np.array([[rng.integers(-5, 5)] for rng in rngs])
    columns = np.arange(SIDE) - 2
    teeth = np.interp(columns % 8, [0, 2, 6, 8], [0, 2, -2, 0])
    strokes = ((columns >= 0) & (columns < 23)) * (1 + (columns % 4 == 2))
    return x + _ink(starts + rises * columns / 23 + teeth) * strokes


def canny_edges(x: Images, rngs: Rngs) -> Images:
    """White edges on black by Canny's method: a blur of 1 pixel, thresholds of 0.1 and 0.2.

    These are of Sobel's gradients, which are 8 times those of a pixel. (Canny 1986)
    """
    smooth = _blur(x, 1.0)
    down, right = (
        ndimage.correlate1d(ndimage.correlate1d(smooth, [-1, 0, 1], a), [1, 2, 1], b)
        for a, b in ((1, 2), (2, 1))
    )
    size = np.hypot(down, right)
    # An edge is no smaller than what is a pixel before and after it, where it is steepest.
    ahead = np.stack([down, right]) / np.maximum(np.maximum(abs(down), abs(right)), 1e-9)
    places = np.mgrid[: len(x), :SIDE, :SIDE].astype(np.float32)
    weak = size >= 0.1
    for sign in (-1, 1):
        there = places + sign * np.stack([np.zeros_like(size), *ahead])
        weak &= size >= ndimage.map_coordinates(size, there, order=1)
    weak[:, [0, -1]] = weak[:, :, [0, -1]] = False
    touching = np.zeros((3, 3, 3), bool)
    touching[1] = True
    lines, count = ndimage.label(weak, touching)
    has_strong = np.zeros(count + 1, bool)
    has_strong[lines[weak & (size >= 0.2)]] = True
    return has_strong[lines].astype(np.float32)


CORRUPTIONS: dict[str, Callable[[Images, Rngs], Images]] = {
    function.__name__: function
    for function in (
        shot_noise, impulse_noise, glass_blur, motion_blur, shear, scale, rotate, brightness,
        translate, stripe, fog, spatter, dotted_line, zigzag, canny_edges,
    )
}  # fmt: skip


def _sides(rngs: Rngs) -> Float[np.ndarray, "n 2"]:
    """-1 or 1."""
    return np.stack([rng.choice([-1.0, 1.0], 2) for rng in rngs])


def _blur(x: Images, sigma: float) -> Images:
    return ndimage.gaussian_filter(x, (0, sigma, sigma), mode="nearest")


def _moved(
    x: Images,
    matrices: Float[np.ndarray, "*n 2 2"],
    shifts: Float[np.ndarray, "n 2"] | None = None,
    order: int = 1,
) -> Images:
    """Images with the pixels at centre + matrix (place - centre) - shift of x, and black outside.

    Args:
      x: the images.
      matrices: from places (row, column) in the result to those in x.
      shifts: pixels, down and to the right.
      order: 0 takes the nearest pixel, 1 interpolates between four.
    """
    middle = (SIDE - 1) / 2
    grid = np.mgrid[:SIDE, :SIDE].reshape(2, -1) - middle
    places = np.zeros((len(x), 3, SIDE**2), np.float32)
    places[:, 0] = np.arange(len(x))[:, None]
    places[:, 1:] = matrices @ grid + middle
    if shifts is not None:
        places[:, 1:] -= shifts[..., None]
    places = places.swapaxes(0, 1).reshape(3, *x.shape)
    return ndimage.map_coordinates(x, places, order=order, mode="grid-constant")


def _ink(at: Float[np.ndarray, "n 28"]) -> Images:
    """A line that goes through rows `at` of each column, white, fading to none 1.5 rows away."""
    distance = abs(np.arange(SIDE)[:, None] - at[:, None])
    return np.clip(1 + np.log(1 - np.minimum(distance, 2.2) / 2.3), 0, 1)


def _heights(rngs: Rngs, decay: float, side: int = 256) -> Float[np.ndarray, "n side side"]:
    """Random landscapes that fit to themselves at all edges, from 0 to 1.

    By the diamond-square algorithm (Fournier et al. 1982): what is in the middle of four places
    is their mean and a draw, first for squares, then for the diamonds between these.
    """
    draws = 2 * np.stack([rng.random(side**2, np.float32) for rng in rngs]) - 1
    heights = np.zeros((len(rngs), side, side), np.float32)
    size, used = side, 0
    while size > 1:
        half, across = size // 2, side // size
        corners = heights[:, ::size, ::size]
        drawn = draws[:, used : used + 3 * across**2].reshape(-1, 3, across, across)
        drawn = drawn / decay ** np.log2(side / size)
        used += 3 * across**2
        below = corners + np.roll(corners, -1, 1)
        beside = corners + np.roll(corners, -1, 2)
        centres = (below + np.roll(below, -1, 2)) / 4 + drawn[:, 0]
        heights[:, half::size, half::size] = centres
        heights[:, ::size, half::size] = (beside + centres + np.roll(centres, 1, 1)) / 4
        heights[:, half::size, ::size] = (below + centres + np.roll(centres, 1, 2)) / 4
        heights[:, ::size, half::size] += drawn[:, 1]
        heights[:, half::size, ::size] += drawn[:, 2]
        size = half
    heights -= heights.min((1, 2), keepdims=True)
    return heights / heights.max((1, 2), keepdims=True)
