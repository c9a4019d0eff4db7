"""python experiments/rejection.py trains the small network that tells digits from what is none.

That is jaxmnist/trained/rejection.npz, of which predict and the demo ask whether an input looks
like a digit. Digits are those of MNIST's train[:55000], as they are or written with other pens;
what is no digit is drawn here: letters, symbols, shapes, faces, scribbles, several digits at once,
digits turned or mirrored, textures. The network has the ten digits as classes, and "none" as the
eleventh. The threshold is chosen so that few of train[55000:] are refused.

It takes some minutes on two cores, and needs matplotlib, for its fonts.
"""

import argparse
import functools
import io
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from PIL import Image, ImageDraw, ImageFont

from jaxmnist.augment import create_augment
from jaxmnist.data import datasets, pictures
from jaxmnist.devices import cpu_layers
from jaxmnist.errors import UserError
from jaxmnist.trained import rejection

SIDE = 160  # Of a drawing, in pixels.
PREPARATION = datasets.preparation("mnist")
AUGMENT = (
    "affine(rotate=8, shift=0.5, scale=0.08, shear=0.1), strokes(thin=0.5, thick=0.7), "
    "lines(gaps=0.15, remains=0.1)"
)

# Strokes through points (x, y) of a grid of 9 x 9, the origin at the top left. Letters that may
# pass for digits are left out: B, D, G, g, I, J, l, O, o, q, S, s, Y, y, Z, z.
LETTERS = """
08 40 88,25 65|72 41 16 38 73,72 78|81 40 03 05 48 87|82 62 41 05 38 78|80 00 08 88,04 64
04 84 62 30 04 38 87|80 00 08,04 64|80 51 28,04 64|00 08,80 88,04 84|00 08,05 34 65 68
00 08,80 04 88|00 08,64 06 68|10 18 68|08 00 45 80 88|03 08,05 24 45 48,45 64 85 88|08 00 88 80
03 08,05 44 85 88|08 00 70 82 44 04|40 02 06 48 86 82 40,56 88|08 00 60 82 64 04 88|03 08,05 33 64
00 80,40 48|40 47 68,13 63|00 06 48 86 80|00 48 80|00 28 43 68 80|00 88,80 08
02 06 38 46 42,46 68 86 82|08 28 06 02 40 82 86 68 88|08 40 88 08|00 80,10 18,70 78
00 04 46 84 80,40 48|80 00 44 08 88|10 78,44 08|41 14 47 74 41,40 48|08 00,02 06 48 86 80,68 88
00 08,40 48,80 88,08 88|00 08,80 88,08 80|00 04 84,80 88,04 04|40 48,00 88,80 08
73 30 05 38 87,05 65
"""
SYMBOLS = """
02 40 82 45 46,48 48|12 30 62 44 46,38 38|88 12 40 52 06 28 84|20 28,60 68,03 83,06 86
80 08,11 12 22 21 11,66 67 77 76 66|81 40 12 66 48 07,40 48|40 48,12 76,72 16|40 48,04 84
02 82,06 86|80 04 88|60 41 43 24 45 47 68|20 41 43 64 45 47 28|05 23 44 65 83|06 40 86
81 40 14 48 87,03 63,05 65|64 43 36 65 63 66 83 40 04 48 86|00 44 80,40 48,24 64,26 66
04 84,50 84 58|84 04,30 04 38|48 40,03 40 83|40 48,05 48 85|08 80,30 80 85|00 88,38 88 83
02 82,05 85,08 88|04 84,41 41,47 47|20 28,60 68|04 84,71 17|02 06,82 86,04 84|00 08 88,46 46
"""
SHAPES = """
00 80 88 08 00|00 80 88 08 00,00 88,80 08|00 80 88 08 00,44 44|02 82 86 06 02
02 82 86 06 02,02 44 82|08 40 88 08|40 84 48 04 40|40 84 48 04 40,04 84|18 40 78 03 83 18
40 86 06 40,48 02 82 48|08 04 40 84 88 08,04 84|08 04 40 84 88 08,38 35 55 58
20 28,60 68,02 82,06 86|00 80 88 08 00,40 48,04 84|08 00 60 63 03|08 06 26 24 44 42 62 60 80
04 20 48 60 84|00 08 28 40 68 88 80|20 28,60 68,21 61,23 63,25 65,27 67
40 22 62 40,42 14 74 42,45 17 77 45,47 48|05 85 68 28 05,45 40 73 43|00 08,20 28,40 48,60 68,80 88
02 42 40 84 48 46 06 02|30 50 53 83 85 55 58 38 35 05 03 33 30|00 44 80,08 44 88|08 48 40 80
00 80,08 88,20 28,60 68|22 62 66 26 22,00 80 88 08 00|00 80 80 88 88 08 08 00,00 44 80
06 46 40,40 86|03 23 20 60 63 83 85 65 68 28 25 05 03
"""
ROUND = """
42 20 02 48 82 60 42|60 22 26 68 44 60|04 30 60 84 60 48 20 04|05 13 35 55 63 83
16 04 12 21 50 72 84 76 16|04 32 62 85 88,04 36 66 83 80
40 22 44 62 40,44 02 44 06,44 48,44 82 44 86|04 20 24 40 44 60 64 80 84|08 00 30 04 34 05 38 58
44 34 35 55 53 32 26 67 72 50 11|00 26 62 88|04 42 84 46 04,44 44|02 42 82,04 44 84,06 46 86
40 20 22 42 40,42 46,04 44 84,46 28,46 68
"""

Ink = np.ndarray  # float32 (side, side) in [0, 1].


def drawn(rng, table: str, smooth: tuple[int, int], turned: bool = False) -> Ink:
    """One of a table's drawings, each corner of it moved a little."""
    text = rng.choice(table.replace("\n", "|").strip("|").split("|"))
    jitter = rng.uniform(0, 0.05)
    strokes, places = [], {}
    for stroke in text.split(","):
        for point in stroke.split():
            places.setdefault(
                point, np.array([int(n) / 8 for n in point]) + rng.normal(0, jitter, 2)
            )
        strokes.append(
            rounded(np.array([places[p] for p in stroke.split()]), rng.integers(*smooth))
        )
    shrink = [rng.uniform(0.55, 1), 1] if not turned else [rng.uniform(0.6, 1), rng.uniform(0.6, 1)]
    ink = lines_of(rng, [stroke * shrink for stroke in strokes])
    return np.rot90(ink, rng.integers(4))[:, :: rng.choice([-1, 1])] if turned else ink


def rounded(points, times):
    """Chaikin's corner cutting."""
    for _ in range(times):
        a, b = points[:-1], points[1:]
        inner = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], 1).reshape(-1, 2)
        points = np.concatenate([points[:1], inner, points[-1:]])
    return points


def lines_of(rng, strokes, width=None) -> Ink:
    """Strokes in the unit square, drawn with a pen."""
    ink = np.zeros((SIDE, SIDE), np.uint8)
    width = width or max(2, round(SIDE * rng.choice([0.01, 0.03, 0.05]) * rng.uniform(1, 2.2)))
    points = [np.int32(np.round((0.15 + 0.7 * np.asarray(s)) * SIDE * 16)) for s in strokes]
    cv2.polylines(ink, points, False, 255, width, cv2.LINE_AA, 4)
    return np.float32(ink / 255)


def letter(rng, digits) -> Ink:
    return drawn(rng, LETTERS, (0, 4))


def symbol(rng, digits) -> Ink:
    return drawn(rng, SYMBOLS, (0, 4))


def shape(rng, digits) -> Ink:
    ink = drawn(rng, SHAPES, (0, 1), turned=True)
    if rng.random() < 0.15:  # Filled.
        outlines, _ = cv2.findContours(
            np.uint8(ink > 0.5), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        ink = cv2.drawContours(ink.copy(), outlines, -1, 1, cv2.FILLED)
    return ink


def round_shape(rng, digits) -> Ink:
    return drawn(rng, ROUND, (2, 5), turned=True)


@functools.cache
def fonts():
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = [*folder.glob("DejaVu*.ttf"), *folder.glob("STIXGeneral*.ttf"), folder / "cmtt10.ttf"]
    found = [ImageFont.truetype(str(path), 150) for path in sorted(names)]
    return [*found, ImageFont.load_default(150)]


def written(rng, characters: str, count: int = 1) -> Ink:
    """Characters in a font."""
    font = fonts()[rng.integers(len(fonts()))]
    text = "".join(rng.choice(list(characters), count))
    image = Image.new("L", (240 * count, 300))
    ImageDraw.Draw(image).text((20, 40), text, 255, font)
    left, top, right, bottom = image.getbbox() or (0, 0, 1, 1)
    size = round(0.7 * SIDE)
    image = image.crop((left, top, right, bottom))
    image = image.resize([max(1, round(n * size / max(image.size))) for n in image.size])
    whole = Image.new("L", (SIDE, SIDE))
    whole.paste(image, [(SIDE - n) // 2 for n in image.size])
    return thicker(np.float32(whole) / 255, rng.integers(-3, 7))


def font_letter(rng, digits) -> Ink:
    letters = "ACEFHKLMNPQRTUVWXacefhkmnprtuvwx" + "ΓΔΘΛΞΠΣΦΨΩαγηκλμπψωБДЖИКЛФЦШЩЫЮЯжкмфшщюя"
    return written(rng, letters)


def font_symbol(rng, digits) -> Ink:
    return written(rng, "?&#@%$*+=<>{}~^€£¥§¶©®∑∫√∞≈≠←↑→↓±÷«»")


def word(rng, digits) -> Ink:
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    return written(rng, letters, rng.integers(2, 5))


def curves(rng, digits) -> Ink:
    count = rng.integers(1, 7)
    least = {1: 6, 2: 4}.get(count, 3)
    points = [rng.uniform(0, 1, (rng.integers(least, least + 6), 2)) for _ in range(count)]
    return lines_of(rng, [rounded(p, rng.integers(0, 5)) for p in points])


def scribble(rng, digits) -> Ink:
    """To and fro, round and round, or a walk."""
    n = rng.integers(8, 40)
    t = np.linspace(0, 1, n)
    kind = rng.integers(4)
    if kind == 0:
        points = np.stack([t, np.arange(n) % 2 * rng.uniform(0.3, 1)], 1) + rng.normal(
            0, 0.05, (n, 2)
        )
    elif kind == 1:
        t, turns = np.linspace(0, 1, 300), rng.uniform(2, 9)
        radius = rng.uniform(0.1, 0.5) * (1 + 0.4 * rng.normal() * np.sin(rng.uniform(2, 30) * t))
        angle = 2 * np.pi * turns * t
        points = np.stack([t + radius * np.cos(angle), radius * np.sin(angle)], 1)
    elif kind == 2:
        points = np.cumsum(rng.normal(0, 1, (n, 2)), 0)
    else:
        points = rng.uniform(0, 1, (n, 2)) * [1, rng.uniform(0.4, 1)]
    points = (points - points.min(0)) / np.ptp(points, axis=0).max()
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (points - points.mean(0)) @ turn * 0.8 + 0.5
    return lines_of(rng, [rounded(points, rng.integers(0, 4))])


def polygon(rng, digits) -> Ink:
    """A random one, or a star."""
    is_star = rng.random() < 0.6
    n = 2 * rng.integers(3, 8) if is_star else rng.integers(3, 6)
    angles = np.arange(n) * 2 * np.pi / n + rng.normal(0, 0.15, n) + rng.uniform(0, 6)
    radii = np.where(is_star & (np.arange(n) % 2 > 0), rng.uniform(0.2, 0.7), 1) * rng.uniform(
        0.8, 1, n
    )
    points = 0.5 + 0.5 * radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return lines_of(rng, [np.concatenate([points, points[:1]])])


def spiral(rng, digits) -> Ink:
    t = np.linspace(rng.uniform(0, 0.3), 1, 200)[:, None]
    angle = 2 * np.pi * rng.uniform(1.8, 5) * t + rng.uniform(0, 6)
    points = 0.5 + 0.5 * t * np.concatenate([np.cos(angle), np.sin(angle)], 1) * rng.choice([-1, 1])
    return lines_of(rng, [points])


def ellipse(x, y, a, b, start=0.0, end=1.0):
    angle = 2 * np.pi * np.linspace(start, end, 60)
    return np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], 1)


def face(rng, digits) -> Ink:
    """A circle with things in it or around it: a face, a sun, a wheel."""
    a, b = 0.5 * rng.uniform(0.7, 1, 2)
    strokes = [ellipse(0.5, 0.5, a, b)]
    kind = rng.random()
    if kind < 0.6:
        eye, apart, height = (
            rng.uniform(0.01, 0.08),
            rng.uniform(0.12, 0.25),
            rng.uniform(0.3, 0.45),
        )
        strokes += [ellipse(0.5 + side * apart, height, eye, eye) for side in (-1, 1)]
        start = rng.choice([0, 0.5])
        strokes += [ellipse(0.5, 0.65 + start / 5, 0.2, rng.uniform(0, 0.15), start, start + 0.5)]
        strokes += [np.array([[0.5, 0.45], [0.45, 0.6], [0.5, 0.6]])] * (rng.random() < 0.4)
        strokes += [ellipse(0.5, 0.5 - b, a * 0.8, 0.1, 0.5, 1)] * (rng.random() < 0.3)
    elif kind < 0.8:
        angles = np.arange(k := rng.integers(2, 9)) * 2 * np.pi / k + rng.uniform(0, 3)
        inner, outer = [(0, 0.5), (0.55, 0.8)][rng.integers(2)]
        direction = np.stack([np.cos(angles), np.sin(angles)], 1)
        strokes += [0.5 + np.outer([inner, outer], d) for d in direction]
        strokes = [0.5 + 0.6 * (s - 0.5) for s in strokes]
    else:
        x, y, r = rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65), rng.uniform(0.02, 0.3)
        strokes += [ellipse(x, y, r, r), *[ellipse(y, x, r / 2, r)] * rng.integers(2)]
    return lines_of(rng, strokes)


def several_digits(rng, digits) -> Ink:
    """Two or three side by side, above each other, or over each other."""
    kind = rng.integers(3)
    count = 2 if kind else rng.integers(2, 4)
    parts = [crop(rewritten(rng, digits)) for _ in range(count)]
    whole = np.zeros((3 * SIDE, 3 * SIDE), np.float32)
    x = y = 0
    for part in parts:
        h, w = part.shape
        whole[y : y + h, x : x + w] = np.maximum(whole[y : y + h, x : x + w], part)
        step = rng.uniform(0.85, 1.1) if kind < 2 else rng.uniform(0.3, 0.6)
        x += round(step * w) if kind != 1 else 0
        y += round(step * h) if kind == 1 else 0
    return fitted(crop(whole))


def turned_digit(rng, digits) -> Ink:
    """Mirrored, or turned by 90 degrees."""
    images, labels = digits
    allowed, mirrored = ((3, 4, 7), True) if rng.random() < 0.5 else ((2, 3, 4, 5), False)
    chosen = np.flatnonzero(np.isin(labels, allowed))
    ink = rewritten(rng, (images[chosen], labels[chosen]))
    return ink[:, ::-1] if mirrored else np.rot90(ink, rng.choice([1, 3]))


def letters_overlaid(rng, digits) -> Ink:
    """Two drawings over each other, one of them smaller and somewhere else."""
    first, second = (rng.choice([letter, symbol, shape, curves])(rng, digits) for _ in range(2))
    size = rng.uniform(0.4, 1)
    move = np.float32(
        [
            [size, 0, *rng.uniform(0, SIDE * (1 - size) + 1, 1)],
            [0, size, rng.uniform(0, SIDE * (1 - size) + 1)],
        ]
    )
    return np.maximum(first, cv2.warpAffine(second, move, (SIDE, SIDE)))


def texture(rng, digits) -> Ink:
    kind = rng.integers(6)
    if kind == 0:  # Blobs.
        field = waves(rng, rng.integers(3, 14))
        return np.float32(field > np.quantile(field, rng.uniform(0.5, 0.9)))
    if kind == 1:  # Noise.
        field = waves(rng, rng.integers(20, 100))
        return np.clip((field - np.quantile(field, rng.uniform(0.3, 0.95))) * 2, 0, 1)
    if kind == 2:  # Contours, as of wood.
        field = waves(rng, rng.integers(2, 6)) + np.linspace(0, rng.uniform(0, 6), SIDE)[:, None]
        return np.float32(np.abs(field % 1 - 0.5) < rng.uniform(0.05, 0.25))
    if kind == 3:  # Hills.
        x = np.linspace(0, 1, 40)
        ridges = [
            rounded(
                np.stack(
                    [
                        x,
                        np.interp(x, np.linspace(0, 1, 7), rng.uniform(0, 1, 7))
                        * rng.uniform(0.2, 0.6)
                        + y,
                    ],
                    1,
                ),
                2,
            )
            for y in rng.uniform(0, 0.6, rng.integers(1, 4))
        ]
        ink = lines_of(rng, ridges)
        return ink if rng.random() < 0.6 else np.float32(np.cumsum(ink, 0) > 0.5)
    if kind == 4:  # Ruled lines and squares.
        places = np.arange(0, 1.01, rng.uniform(0.15, 0.5))
        lines = [np.array([[rng.uniform(0, 0.5), y], [rng.uniform(0.6, 1), y]]) for y in places]
        return lines_of(rng, lines + [s[:, ::-1] for s in lines] * rng.integers(2))
    corner = np.array([[0, rng.uniform(0.3, 1)], [0, 0], [rng.uniform(0.5, 1), 0]])  # Of a box.
    return np.rot90(
        lines_of(rng, [corner, rng.uniform(0, 1, (rng.integers(2, 5), 2))]), rng.integers(4)
    )


def waves(rng, cells):
    return cv2.resize(
        np.float32(rng.normal(0, 1, (cells, cells))), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC
    )


# With their weights.
FAMILIES = {
    letter: 4, symbol: 3, shape: 3, round_shape: 1.5, font_letter: 2.5, font_symbol: 1.5, word: 1,
    curves: 3, scribble: 2.5, polygon: 1.5, spiral: 0.7, face: 2, several_digits: 3,
    turned_digit: 2, letters_overlaid: 1.5, texture: 2.5,
}  # fmt: skip


def thicker(ink: Ink, pixels: int) -> Ink:
    if pixels == 0:
        return ink
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (abs(pixels) + 1, abs(pixels) + 1))
    changed = (cv2.dilate if pixels > 0 else cv2.erode)(ink, disc)
    return changed if changed.sum() > 0.3 * ink.sum() else ink


def rewritten(rng, digits) -> Ink:
    """One of the digits, enlarged, with another pen."""
    large = cv2.resize(
        digits[0][rng.integers(len(digits[0]))], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC
    )
    soft = cv2.GaussianBlur(np.float32(large) / 255, (0, 0), rng.uniform(1.5, 4.3))
    ink = np.float32(soft > rng.uniform(0.3, 0.5) * soft.max())
    return thicker(ink, rng.integers(-7, 12))


def crop(ink: Ink) -> Ink:
    left, top, right, bottom = pictures._box(ink > 0.15)
    return ink[top:bottom, left:right]


def fitted(ink: Ink) -> Ink:
    """What is cropped, scaled into a drawing."""
    scale = 0.7 * SIDE / max(ink.shape)
    small = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    field = np.zeros((SIDE, SIDE), np.float32)
    top, left = ((SIDE - n) // 2 for n in small.shape)
    field[top : top + small.shape[0], left : left + small.shape[1]] = small
    return field


def distorted(rng, ink: Ink, strong: bool) -> Ink:
    """Turned, scaled, slanted, bent; with soft edges, and perhaps gaps where lines were."""
    angle = np.radians(rng.uniform(-15, 15)) * (1 if strong else 0.6)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = matrix @ [
        [rng.uniform(0.85, 1.15), rng.uniform(-0.25, 0.25)],
        [0, rng.uniform(0.85, 1.15)],
    ]
    grid = np.mgrid[:SIDE, :SIDE].astype(np.float32)[::-1] - SIDE / 2
    places = np.einsum("ij,jhw->ihw", matrix, grid).astype(np.float32) + SIDE / 2
    bend = SIDE * rng.uniform(0, 0.03)
    places += bend * np.stack([waves(rng, 5), waves(rng, 5)])
    ink = cv2.remap(np.ascontiguousarray(ink), places[0], places[1], cv2.INTER_LINEAR)
    if rng.random() < 0.15:
        period, width = rng.integers(20, 65), rng.integers(2, 6)
        ink[np.arange(SIDE) % period < width] *= rng.uniform(0, 0.5)
    soft = cv2.GaussianBlur(ink, (0, 0), rng.uniform(0.6, 3))
    if rng.random() < 0.2:
        soft = soft * (1 - 0.6 * rng.random() * np.clip(waves(rng, 60), 0, 1))
    return soft / max(soft.max(), 1e-6)


def to_input(ink: Ink) -> np.ndarray:
    box = pictures._box(ink > 0.15)
    return pictures._centred(ink, box, (28, 28), PREPARATION, Image.Resampling.HAMMING)


def examples(seed: int, count: int, digits) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and their classes: a half of them digits, and 10 for none."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(seed)
    families, weights = list(FAMILIES), np.array(list(FAMILIES.values()))
    images, labels = [], []
    while len(images) < count:
        kind = rng.random()
        if kind < 0.48:
            i = rng.integers(len(digits[0]))
            ink, label = rewritten(rng, (digits[0][i : i + 1], digits[1][i : i + 1])), digits[1][i]
        elif kind < 0.5:
            label = rng.integers(10)
            ink = written(rng, str(label))
        else:
            ink, label = (
                families[rng.choice(len(families), p=weights / weights.sum())](rng, digits),
                10,
            )
        ink = distorted(rng, ink, strong=label != 10 and kind < 0.2)
        if (ink > 0.15).sum() > 60:
            images.append(to_input(ink))
            labels.append(label)
    return np.stack(images)[..., None], np.array(labels)


def photographs(seed: int, count: int, digits) -> tuple[np.ndarray, np.ndarray]:
    """Inputs that pictures.py cuts out of pictures of single digits, and their classes."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for _ in range(count):
        i = rng.integers(len(digits[0]))
        ink = distorted(rng, rewritten(rng, (digits[0][i : i + 1], digits[1])), strong=False)
        paper = (
            rng.uniform(150, 250) * (1 + 0.1 * waves(rng, 3)[..., None]) * rng.uniform(0.85, 1, 3)
        )
        if rng.random() < 0.3:
            paper[:: rng.integers(14, 43)] *= rng.uniform(0.6, 0.9)
        levels = (
            paper * (1 - rng.uniform(0.4, 0.9) * ink[..., None])
            + rng.normal(0, rng.uniform(0, 8), ink.shape)[..., None]
        )
        file = io.BytesIO()
        Image.fromarray(np.uint8(np.clip(levels, 0, 255))).save(
            file, "JPEG", quality=int(rng.integers(50, 95))
        )
        try:
            page = pictures.find(file, "a picture", PREPARATION)
        except UserError:
            continue
        if len(page.regions) == 1:
            images.append(page.regions[0].image)
            labels.append(digits[1][i])
    return np.stack(images), np.array(labels)


def in_parallel(function, seed: int, count: int, digits):
    """The function's examples, made by two processes in parts that do not depend on these."""
    parts = -(-count // 2000)
    with ProcessPoolExecutor(2) as pool:
        jobs = [
            pool.submit(function, seed * 1000 + i, min(2000, count), digits) for i in range(parts)
        ]
        images, labels = zip(*(job.result() for job in jobs), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def train(seed: int, images, labels, steps: int, batch: int = 128):
    """The network's parameters."""
    network = rejection.NETWORK.clone(dropout_rate=0.1, conv_pool=cpu_layers.conv_pool)
    augment = create_augment(AUGMENT)
    key = jax.random.key(seed)
    params = network.init(key, jnp.zeros((1, 28, 28, 1)))["params"]
    schedule = optax.warmup_cosine_decay_schedule(0, 3e-3, 100, steps)
    optimizer = optax.adamw(schedule, b2=0.99, weight_decay=1e-3)

    @jax.jit
    def step(params, state, key, images, labels):
        vary, drop = jax.random.split(key)
        x = augment(vary, images.astype(jnp.float32) / 255)

        def loss(params):
            logits = network.apply({"params": params}, x, train=True, rngs={"dropout": drop})
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, rng = optimizer.init(params), np.random.default_rng(seed)
    for i in range(steps):
        chosen = rng.integers(len(images), size=batch)
        params, state, loss = step(
            params, state, jax.random.fold_in(key, i), images[chosen], labels[chosen]
        )
        if i % 500 == 0 or i == steps - 1:
            print(f"step {i} loss {loss:.4f}", flush=True)
    return jax.device_get(params)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data_dir")
    parser.add_argument("--count", type=int, default=36_000, help="drawings to train on")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--to", type=Path, default=rejection.FILE, help="the parameters' file")
    args = parser.parse_args()
    start = time.monotonic()
    found = datasets.load("mnist", ["train[:55000]", "train[55000:]"], args.data_dir, False)
    digits, held_out = [(split.images[..., 0], split.labels) for split in found.splits]
    images, labels = in_parallel(examples, 2 * args.seed, args.count, digits)
    drawings, classes = in_parallel(examples, 2 * args.seed + 1, 4000, held_out)
    photos, _ = in_parallel(photographs, 2 * args.seed + 1, 4000, held_out)
    print(f"{len(images):,} drawings in {time.monotonic() - start:.0f} s", flush=True)
    own = digits[0][: args.count // 3, ..., None], digits[1][: args.count // 3]
    images, labels = np.concatenate([images, own[0]]), np.concatenate([labels, own[1]])
    params = train(args.seed, images, labels.astype(np.int32), args.steps)
    rejection.save(args.to, params)
    print(f"trained after {time.monotonic() - start:.0f} s: {args.to.stat().st_size:,} bytes")

    p = {
        "MNIST's": rejection.digit_probability(held_out[0][..., None]),
        "rewritten": rejection.digit_probability(drawings[classes < 10]),
        "photographed": rejection.digit_probability(photos),
    }
    none = rejection.digit_probability(drawings[classes == 10])
    for share in (0.002, 0.004, 0.006, 0.01):
        threshold = np.quantile(p["photographed"], share)
        refused = ", ".join(f"{name} {(x < threshold).mean():.2%}" for name, x in p.items())
        print(f"threshold {threshold:.4f}: digits {refused}; none {(none < threshold).mean():.1%}")


if __name__ == "__main__":
    main()
