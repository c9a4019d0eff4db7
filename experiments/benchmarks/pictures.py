"""Measures predict on digits as people photograph, scan and draw them, in many kinds of pictures.

python -m experiments.benchmarks.pictures --workdir=runs/quick [--kinds=NAME,...] [--n=100]
    [--source=mnist|sklearn] [--folder=DIR] [--show=DIR] [--results=FILE] [--before=FILE]
python -m experiments.benchmarks.pictures --workdir=runs/quick --speed

The pictures are made of MNIST's test digits, or of scikit-learn's 1,797 digits of other writers,
and written as files. Predict reads them as a process of its own, and a table by kind follows. The
n-th picture of every kind has the same digit, and is the same in every run. Needs an
installation with [bench].
"""

import argparse
import concurrent.futures
import dataclasses
import difflib
import functools
import importlib.util
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps

from jaxmnist.data import datasets

GRID, BOX = 168, 120  # The side of a digit's field, and of the box within it that MNIST's fill.
FILES_AT_ONCE = 10_000  # A command line has an end.
BLACK, BLUE, RED, PENCIL = (0.08, 0.08, 0.1), (0.12, 0.2, 0.55), (0.75, 0.1, 0.12), (0.3, 0.3, 0.32)
WHITE, GREY, YELLOW, KRAFT = (0.97, 0.97, 0.96), (0.7,) * 3, (0.95, 0.88, 0.6), (0.72, 0.57, 0.4)


class Page:
    """A picture in the making.

    Attributes:
      rng: where every choice is drawn from.
      image: float32 RGB (h, w, 3); 1 is white.
      digits: what is written, each with the x and y of its middle, and the angle in degrees.
      unit: the height of a digit in pixels.
      box: left, top, right and bottom of all digits.
      cells: the rows of squares that the digits stand in, each as (x, y, side, count).
    """

    def __init__(self, digits: list[np.ndarray], rng: np.random.Generator, kind: "Kind"):
        self.rng = rng
        long = int(rng.uniform(*kind.side))
        h, w = rng.permutation([long, int(long * rng.uniform(*kind.ratio))]).tolist()
        one = len(kind.pattern) <= 1
        self.unit = rng.uniform(*kind.share) * min(h, w) if one else rng.uniform(45, 100)
        lines, digits, y = [], list(digits), 0.0
        for text in kind.pattern.splitlines():
            line, x = [], 0.0
            for mark in text:
                digit = digits.pop(0) if mark == "#" else None
                columns = np.flatnonzero(digit.max(0) > 60) if digit is not None else np.arange(6)
                size = (np.ptp(columns) + 1) / digit.shape[1] * 1.4 if digit is not None else 0.25
                size = kind.cell or max(size, 0.12)
                line.append((digit, mark, x + size / 2, y + rng.normal(0, 0.03) * (not kind.cell)))
                x += size + (0 if kind.cell else rng.uniform(*kind.gap))
            lines.append((line, x))
            y += rng.uniform(1.35, 1.7) if not kind.cell else max(kind.cell, 1) * 1.3
        wide, high = max((x for _, x in lines), default=0.5), max(y - 0.4, 1)
        if not one:
            w = max(w, int((wide + 2) * self.unit))
            h = max(h, int((high + 2) * self.unit))
        free = np.array([w, h]) - self.unit * np.array([wide, high])
        margin = np.minimum(kind.margin * min(h, w), free / 2)
        part = rng.uniform(0, 1, 2)
        if kind.at_edge:
            axis = rng.integers(2) if kind.at_edge == "side" else [0, 1]
            part[axis] = rng.integers(2, size=np.size(axis)).squeeze()
        left, top = margin + part * (free - 2 * margin)
        self.image = np.ones((h, w, 3), np.float32)
        self.digits, self.marks, self.cells = [], [], []
        for line, _ in lines:
            for digit, mark, x, y in line:
                at = left + x * self.unit, top + (y + 0.5) * self.unit
                if digit is not None:
                    self.digits.append((digit, *at, rng.uniform(-kind.angle, kind.angle)))
                elif mark != " ":
                    self.marks.append((mark, *at))
            if kind.cell and line:
                x, y = left + (line[0][2] - kind.cell / 2) * self.unit, line[0][3]
                at_y = top + (y + 0.5 - kind.cell / 2) * self.unit
                self.cells.append((x, at_y, kind.cell * self.unit, len(line)))
        right, bottom = left + wide * self.unit, top + high * self.unit
        self.box = left, top, right, bottom
        self.middle = np.array([(left + right) / 2, (top + bottom) / 2])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[:2]

    @functools.cached_property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """The pixels' y and x, which broadcast."""
        h, w = self.size
        return np.arange(h, dtype=np.float32)[:, None], np.arange(w, dtype=np.float32)[None]

    def blend(self, colour, alpha: np.ndarray) -> None:
        """Covers the picture with a colour, or a picture, as far as alpha (h, w) says."""
        alpha = np.asarray(alpha, np.float32)[..., None]
        self.image += (np.asarray(colour, np.float32) - self.image) * alpha

    def light(self, amount: np.ndarray) -> None:
        """Multiplies by an amount of light (h, w)."""
        self.image *= amount[..., None].astype(np.float32)

    def clouds(self, cell: float, octaves: int = 1) -> np.ndarray:
        """Smooth noise (h, w) from 0 to 1 with spots of `cell` pixels, and finer ones."""
        h, w = self.size
        total = np.zeros((h, w), np.float32)
        for octave in range(octaves):
            step = max(cell / 2**octave, 1)
            small = self.rng.random((int(h / step) + 2, int(w / step) + 2), np.float32)
            total += cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC) / 2**octave
        return np.clip(total / (2 - 2.0 ** (1 - octaves)), 0, 1)


Layer = Callable[[Page], None]
Save = Callable[[np.ndarray, np.random.Generator], tuple[bytes, str]]


# Ink.


def _thin(mask: np.ndarray) -> np.ndarray:
    """The middle lines of strokes, one pixel thick (Zhang and Suen 1984)."""
    # The eight neighbours, clockwise from the upper one, are the bits of a code.
    kernel = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    up, right, down, left = (bits[:, i] for i in (0, 2, 4, 6))
    starts = ((bits == 0) & (np.roll(bits, -1, 1) == 1)).sum(1)
    ends = (bits.sum(1) >= 2) & (bits.sum(1) <= 6) & (starts == 1)
    tables = [
        ends & (up * right * down == 0) & (right * down * left == 0),
        ends & (up * right * left == 0) & (up * down * left == 0),
    ]
    mask = mask.astype(np.uint8)
    while True:
        before = mask.sum()
        for table in tables:
            code = cv2.filter2D(mask, cv2.CV_8U, kernel, borderType=cv2.BORDER_CONSTANT)
            mask = mask & ~table[code]
        if mask.sum() == before:
            return mask > 0


def _field(digit: np.ndarray, width: float | None) -> np.ndarray:
    """The distance to the nearest stroke's edge in digit heights, negative within strokes.

    Args:
      digit: light on dark, uint8 (28, 28) or another square.
      width: what all strokes are made as wide as, in digit heights; None leaves them.
    """
    grey = cv2.resize(digit.astype(np.float32) / 255, (GRID, GRID), interpolation=cv2.INTER_CUBIC)
    mask = (cv2.GaussianBlur(grey, (0, 0), 1) > 0.45).astype(np.uint8)

    def distance(to: np.ndarray) -> np.ndarray:
        return cv2.distanceTransform(1 - to, cv2.DIST_L2, 5)

    if width:
        field = distance(_thin(mask).astype(np.uint8)) - BOX * width / 2
    else:
        field = distance(mask) - distance(1 - mask)
    return cv2.GaussianBlur(field, (0, 0), 1) / BOX


def _coverage(page: Page, width: float | None, grow: float, soft: float) -> np.ndarray:
    """Where the ink of the digits is (h, w), from 0 to 1."""
    h, w = page.size
    alpha = np.zeros((h, w), np.float32)
    for digit, x, y, angle in page.digits:
        transform = cv2.getRotationMatrix2D((GRID / 2, GRID / 2), angle, page.unit / BOX)
        transform[:, 2] += np.array([x, y]) - GRID / 2
        if page.cells or len(page.digits) > 1:  # In rows it is the box that is centred.
            columns = np.flatnonzero(digit.max(0) > 60)
            off = ((columns[0] + columns[-1] + 1) / 2 / digit.shape[1] - 0.5) * GRID
            transform[:, 2] -= transform[:, 0] * off
        outside = cv2.BORDER_CONSTANT  # It is far from ink: some strokes go on to the edge.
        field = cv2.warpAffine(
            _field(digit, width), transform, (w, h), None, cv2.INTER_CUBIC, outside, (1.0,)
        )
        alpha = np.maximum(alpha, np.clip(0.5 - (field - grow) * page.unit / soft, 0, 1))
    yy, xx = page.grid
    thick = (width or 0.09) / 2 * page.unit
    for mark, x, y in page.marks:
        if mark == ".":
            away = np.hypot(xx - x, yy - y - 0.45 * page.unit) - 1.1 * thick
        elif mark == "-":
            away = np.maximum(np.abs(xx - x) - 0.14 * page.unit, np.abs(yy - y) - 0.8 * thick)
        else:  # A slash, taller than the digits.
            t = np.clip((yy - y) / page.unit, -0.75, 0.75)
            away = np.hypot(xx - x + 0.3 * t * page.unit, yy - y - t * page.unit) - 0.8 * thick
        alpha = np.maximum(alpha, np.clip(0.5 - away / soft, 0, 1))
    return alpha


def pen(colour=BLACK, width=None, grow=(-0.01, 0.012), alpha=(0.9, 1.0), grain=0.0) -> Layer:
    """Writes the digits.

    Args:
      colour: RGB from 0 to 1.
      width: the range of the strokes' width in digit heights; None: as they are in the digit.
      grow: the range by which both edges move outwards.
      alpha: the range of the ink's cover.
      grain: how much of the paper's texture shows in the stroke.
    """

    def layer(page: Page) -> None:
        rng = page.rng
        thick = rng.uniform(*width) if width else None
        soft = rng.uniform(1, 2) + page.unit * rng.uniform(0, 0.025)
        cover = _coverage(page, thick, 0 if thick else rng.uniform(*grow), soft)
        cover *= rng.uniform(*alpha)
        if grain:
            tooth = page.clouds(max(page.unit / 80, 1.5), 2)
            cover *= np.clip(1.6 - grain * 2.5 * tooth, 0, 1)
        page.blend(np.clip(np.array(colour) + rng.normal(0, 0.02, 3), 0, 1), cover)

    return layer


# Paper, and what is printed on it.


def paper(colour=WHITE, texture=0.012, vary=0.02) -> Layer:
    """Paper with fibres, slightly uneven; `vary` is the deviation of its colour."""

    def layer(page: Page) -> None:
        tone = np.array(colour) + page.rng.normal(0, vary)
        page.image[:] = np.clip(tone, 0, 1)
        page.light(1 + texture * (page.rng.standard_normal(page.size, np.float32)))
        page.light(1 + 3 * texture * (page.clouds(40, 3) - 0.5))

    return layer


def _stripes(page: Page, pitch: float, angle: float, thick: float, start: float) -> np.ndarray:
    """The cover (h, w) of parallel lines; level if the angle is 0 degrees."""
    yy, xx = page.grid
    along = yy * np.cos(np.radians(angle)) + xx * np.sin(np.radians(angle)) - start
    return np.clip(thick / 2 + 0.5 - np.abs((along + pitch / 2) % pitch - pitch / 2), 0, 1)


def ruled(colour=(0.75,) * 3, pitch=(0.4, 1.5), thick=(0.012, 0.025), angle=0.6) -> Layer:
    """Lines across the page; pitch and thickness are ranges in digit heights."""

    def layer(page: Page) -> None:
        rng = page.rng
        step = page.unit * rng.uniform(*pitch)
        width = max(page.unit * rng.uniform(*thick), 1)
        start = page.box[3] + page.unit * rng.uniform(-0.15, 0.1)
        tilt = rng.uniform(-angle, angle)
        start += np.tan(np.radians(tilt)) * page.middle[0]
        page.blend(colour, _stripes(page, max(step, 8), tilt, width, start))

    return layer


def squared(colour=(0.75,) * 3, pitch=(0.25, 0.7), thick=(0.01, 0.018), angle=0.6) -> Layer:
    """Squares all over the page; where digits stand in cells, the squares are those."""

    def layer(page: Page) -> None:
        rng = page.rng
        step = max(page.unit * rng.uniform(*pitch), 7)
        width = max(page.unit * rng.uniform(*thick), 1)
        tilt, starts = rng.uniform(-angle, angle), rng.uniform(0, step, 2)
        if page.cells:
            x, y, step, _ = page.cells[0]
            tilt, starts = 0, (y, x)
        rows = _stripes(page, step, tilt, width, starts[0])
        page.blend(colour, np.maximum(rows, _stripes(page, step, tilt + 90, width, starts[1])))

    return layer


def dots(page: Page) -> None:
    """A grid of small dots."""
    step, radius = page.unit * page.rng.uniform(0.25, 0.5), max(0.016 * page.unit, 1.1)
    rows = _stripes(page, step, 0, 2 * radius, 0) * _stripes(page, step, 90, 2 * radius, 0)
    page.blend((0.6,) * 3, rows)


def margin_line(page: Page) -> None:
    """A red line down the page, left of the digits, on ruled paper."""
    ruled((0.72, 0.8, 0.9))(page)
    x = page.box[0] - page.unit * page.rng.uniform(0.15, 0.5)
    yy, xx = page.grid
    page.blend((0.85, 0.4, 0.4), np.clip(0.012 * page.unit + 0.9 - np.abs(xx - x), 0, 1) + 0 * yy)


def line_below(gap=(0.08, 0.3), colour=BLACK, whole=False) -> Layer:
    """One line under the digits, across the page or somewhat longer than they are."""

    def layer(page: Page) -> None:
        left, _, right, bottom = page.box
        rng, (yy, xx) = page.rng, page.grid
        y = bottom + page.unit * rng.uniform(*gap) + np.tan(rng.normal(0, 0.015)) * (xx - left)
        cover = np.clip(page.unit * rng.uniform(0.01, 0.03) + 0.7 - np.abs(yy - y), 0, 1)
        if not whole:
            reach = page.unit * rng.uniform(0.1, 0.4)
            cover = cover * ((xx > left - reach) & (xx < right + reach))
        page.blend(colour, cover)

    return layer


def form_box(colour=BLACK, by_hand=False) -> Layer:
    """A frame around the digit or around each cell, printed or drawn."""

    def layer(page: Page) -> None:
        rng, (h, w) = page.rng, page.size
        pad = page.unit * rng.uniform(0.15, 0.4)
        x, y = page.middle - page.unit / 2 - pad
        boxes = page.cells or [(x, y, page.unit + 2 * pad, 1)]
        cover = np.zeros((h, w), np.float32)
        wobble = page.unit * 0.05 if by_hand else 0
        for x, y, side, count in boxes:
            for i in range(count):
                corners = [(x + i * side, y), (x + (i + 1) * side, y)]
                corners += [(a, b + side) for a, b in corners[::-1]]
                points = np.array(corners) + rng.normal(0, wobble, (4, 2))
                thick = max(int(page.unit * (0.05 if by_hand else 0.02)), 1)
                points = np.round(points * 16).astype(np.int32)  # In sixteenths, by shift=4.
                cv2.polylines(cover, [points], True, 1.0, thick, cv2.LINE_AA, shift=4)
        page.blend(colour, np.clip(cover, 0, 1) * 0.9)

    return layer


# Light.


def shadow(depth=(0.5, 0.7), over=False, soft=(1, 5)) -> Layer:
    """A straight shadow, beside the digit or over it; `depth` is the range of light within."""

    def layer(page: Page) -> None:
        rng, (yy, xx) = page.rng, page.grid
        turn = rng.uniform(0, 2 * np.pi)
        normal = np.array([np.cos(turn), np.sin(turn)])
        reach = np.abs(normal) @ (np.array(page.box[2:]) - page.box[:2]) / 2
        away = reach * rng.uniform(-0.5, 0.5) if over else reach + page.unit * rng.uniform(0.05, 1)
        x, y = page.middle + normal * away
        side = ((xx - x) * normal[0] + (yy - y) * normal[1]) / rng.uniform(*soft)
        page.light(1 - (1 - rng.uniform(*depth)) * np.clip(side + 0.5, 0, 1))

    return layer


def soft_shadow(page: Page) -> None:
    """The blurred shadow of a hand or a head."""
    rng, (yy, xx) = page.rng, page.grid
    x, y = page.middle + page.unit * rng.normal(0, 0.8, 2)
    radii = page.unit * rng.uniform(0.6, 1.8, 2)
    away = np.hypot((xx - x) / radii[0], (yy - y) / radii[1]) + 0.4 * page.clouds(page.unit)
    page.light(1 - rng.uniform(0.3, 0.55) / (1 + np.exp(6 * (away - 1.2))))


def gradient(page: Page) -> None:
    """Light that falls off across the page."""
    (yy, xx), (h, w) = page.grid, page.size
    turn = page.rng.uniform(0, 2 * np.pi)
    along = (xx / w - 0.5) * np.cos(turn) + (yy / h - 0.5) * np.sin(turn)
    page.light(np.clip(0.72 + page.rng.uniform(0.45, 0.7) * along, 0.2, 1.1))


def vignette(page: Page) -> None:
    """Dark corners."""
    (yy, xx), (h, w) = page.grid, page.size
    away = ((xx / w - 0.5) ** 2 + (yy / h - 0.5) ** 2) * 2
    page.light(1 - page.rng.uniform(0.5, 0.75) * away)


def glare(page: Page) -> None:
    """The reflection of a lamp, beside the digit or on it."""
    page.light(np.full(page.size, 0.75, np.float32))
    rng, (yy, xx) = page.rng, page.grid
    x, y = page.middle + page.unit * rng.normal(0, 0.8, 2)
    away = np.hypot(xx - x, (yy - y) * rng.uniform(0.6, 1.6)) / (page.unit * rng.uniform(0.3, 0.7))
    page.blend(1.0, 0.5 / (1 + np.exp(4 * (away - 1))))


def exposure(gain=(1, 1), gamma=(1, 1), lift=(0, 0)) -> Layer:
    """Makes levels x to lift + gain * x ** gamma."""

    def layer(page: Page) -> None:
        a, g, b = (page.rng.uniform(*bounds) for bounds in (gain, gamma, lift))
        page.image[:] = np.clip(b + a * np.clip(page.image, 0, 1) ** g, 0, 1)

    return layer


def fold(page: Page) -> None:
    """A crease: a thin line, with light on one of its sides and shade on the other."""
    rng, (yy, xx) = page.rng, page.grid
    for turn in (rng.normal(0, 0.03), np.pi / 2 + rng.normal(0, 0.03))[: rng.integers(1, 3)]:
        x, y = page.middle + page.unit * rng.uniform(-0.9, 0.9, 2)
        side = (xx - x) * np.sin(turn) + (yy - y) * np.cos(turn)
        page.light(1 - 0.16 * np.exp(-np.abs(side) / page.unit) * (side > 0))
        line = np.clip(1.3 - np.abs(side - 0.3 * page.unit * (page.clouds(60) - 0.5) * 0.1), 0, 1)
        page.light(1 + rng.choice([-0.25, 0.1]) * line)


def crumpled(page: Page) -> None:
    """Facets of crumpled paper, each in a light of its own, with creases between them."""
    rng, (h, w) = page.rng, page.size
    small = (np.mgrid[0 : h : h / 150, 0 : w : w / 150].T).reshape(-1, 2)
    points = rng.uniform(0, 1, (int(rng.integers(12, 30)), 2)) * [h, w]
    away = np.linalg.norm(small[:, None] - points[None], axis=2)
    order = np.argsort(away, axis=1)[:, :2]
    first, second = np.take_along_axis(away, order, 1).T
    slope = rng.normal(0, 0.12, (len(points), 2)) / (min(h, w) / 4)
    shade = ((small - points[order[:, 0]]) * slope[order[:, 0]]).sum(1) + rng.normal(
        0, 0.04, len(points)
    )[order[:, 0]]
    crease = np.exp(-(second - first) / (0.008 * (h + w))) * rng.choice([-0.08, 0.03])
    side = round(len(small) ** 0.5)
    field = (shade + crease).reshape(side, side).T.astype(np.float32)
    page.light(0.92 + cv2.resize(field, (w, h), interpolation=cv2.INTER_CUBIC))


# Dirt, and what cameras do.


def specks(count=(1, 1), colour=BLACK, size=(0.01, 0.03)) -> Layer:
    """Round specks away from the digit; the size is a range in digit heights."""

    def layer(page: Page) -> None:
        rng, (h, w), (yy, xx) = page.rng, page.size, page.grid
        left, top, right, bottom = page.box
        for _ in range(rng.integers(count[0], count[1] + 1)):
            for _ in range(100):
                x, y = rng.uniform(0.02, 0.98, 2) * [w, h]
                pad = 0.15 * page.unit
                if not (left - pad < x < right + pad and top - pad < y < bottom + pad):
                    break
            radius = max(page.unit * rng.uniform(*size), 1)
            away = np.hypot(xx - x, (yy - y) * rng.uniform(0.7, 1.4))
            page.blend(colour, np.clip(radius + 0.5 - away, 0, 1))

    return layer


def salt_and_pepper(page: Page) -> None:
    """Single pixels in black and white."""
    share, chance = page.rng.uniform(0.005, 0.04), page.rng.random(page.size, np.float32)
    page.image[chance < share / 2] = 0
    page.image[chance > 1 - share / 2] = 1


def noise(sigma=(0.05, 0.1), coloured=False) -> Layer:
    """The grain of film, or of a sensor in the dark."""

    def layer(page: Page) -> None:
        shape = (*page.size, 3 if coloured else 1)
        page.image += page.rng.uniform(*sigma) * page.rng.standard_normal(shape, np.float32)

    return layer


def coffee(page: Page) -> None:
    """The ring that a cup left."""
    rng, (yy, xx) = page.rng, page.grid
    radius = page.unit * rng.uniform(0.7, 1.2)
    x, y = page.middle + page.unit * rng.uniform(0.3, 1, 2) * rng.choice([-1, 1], 2)
    away = np.abs(np.hypot(xx - x, yy - y) - radius) / (page.unit * 0.04)
    cover = np.exp(-(away**2)) * (0.25 + 0.6 * page.clouds(page.unit / 3, 2))
    page.blend((0.5, 0.33, 0.18), 0.75 * cover + 0.06 * (np.hypot(xx - x, yy - y) < radius))


def show_through(page: Page) -> None:
    """Writing on the back of the page, mirrored and faint."""
    rng, (h, w) = page.rng, page.size
    back = np.zeros((h, w), np.uint8)
    scale = page.unit / 40
    for y in np.arange(rng.uniform(0.3, 1), h / page.unit + 1, rng.uniform(0.9, 1.2)):
        text = "".join(rng.choice(list("adehkmnrtuvw  "), 40))
        at = int(-page.unit * rng.uniform(0, 1)), int(y * page.unit)
        face = cv2.FONT_HERSHEY_SCRIPT_SIMPLEX
        cv2.putText(back, text, at, face, scale, 255, max(int(page.unit * 0.06), 1), cv2.LINE_AA)
    back = cv2.GaussianBlur(back[:, ::-1] / 255, (0, 0), 1 + page.unit * 0.01)
    page.blend((0.3, 0.3, 0.4), np.clip(back, 0, 1) * rng.uniform(0.1, 0.22))


def smears(page: Page) -> None:
    """Chalk that was wiped away."""
    page.blend(0.8, 0.28 * np.clip(2 * page.clouds(page.unit, 4) - 0.7, 0, 1))


def blur(defocus=None, motion=None) -> Layer:
    """A lens out of focus, or a camera that moved; ranges in digit heights."""

    def layer(page: Page) -> None:
        if defocus:
            sigma = max(page.unit * page.rng.uniform(*defocus), 0.3)
            page.image = cv2.GaussianBlur(page.image, (0, 0), sigma)
        if motion:
            reach = int(max(page.unit * page.rng.uniform(*motion), 2)) | 1
            kernel = np.zeros((reach, reach), np.float32)
            turn = page.rng.uniform(0, np.pi)
            end = reach / 2 * np.array([np.cos(turn), np.sin(turn)])
            a, b = (
                tuple(np.round(reach / 2 - 0.5 + s * end).astype(int).tolist()) for s in (-1, 1)
            )
            cv2.line(kernel, a, b, 1.0)
            page.image = cv2.filter2D(page.image, -1, kernel / kernel.sum())

    return layer


# What lies around the paper, or on its edge.


def wood(colour=(0.28, 0.17, 0.1)) -> Callable[[Page], np.ndarray]:
    """A table's top with grain."""

    def background(page: Page) -> np.ndarray:
        h, w = page.size
        small = page.rng.random((max(h // 3, 4), 6), np.float32)
        grain = cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC) - 0.5
        grain = grain * 0.5 + 0.5 * (page.clouds(0.3 * w, 2) - 0.5)
        noise = page.rng.normal(0, 0.02, (h, w)).astype(np.float32)
        tone = np.array(colour, np.float32) * np.float32(page.rng.uniform(0.7, 1.3))
        return tone * (1 + 0.5 * grain + noise)[..., None]

    return background


def plain(colour) -> Callable[[Page], np.ndarray]:
    """One colour, almost even."""

    def background(page: Page) -> np.ndarray:
        shade = 1 + 0.15 * (page.clouds(200) - 0.5) + 0.02 * page.rng.standard_normal(page.size)
        return np.array(colour, np.float32) * shade[..., None].astype(np.float32)

    return background


def cloth(page: Page) -> np.ndarray:
    """A tablecloth with checks."""
    step = page.rng.uniform(0.08, 0.15) * min(page.size)
    angle = page.rng.uniform(-20, 20)
    checks = _stripes(page, step, angle, step / 2, 0) + _stripes(
        page, step, angle + 90, step / 2, 0
    )
    weave = 0.9 + 0.2 * page.rng.random(page.size, np.float32)
    colours = np.array([(0.85, 0.83, 0.8), page.rng.uniform(0.15, 0.6, 3)], np.float32)
    return (colours[0] + (colours[1] - colours[0]) * checks[..., None] / 2) * weave[..., None]


def lies_on(background, sides="all", size=(0.05, 0.16), turn=4.0, shade=0.5, edge=0.7) -> Layer:
    """Takes the paper as a sheet, and puts it on something.

    Args:
      background: a function that makes what is around, of the page.
      sides: which of "left", "top", "right" and "bottom" are seen, or "all".
      size: the range of the share of the picture on each of these sides.
      turn: by how many degrees the sheet may be turned.
      shade: how dark the shadow of the sheet is; 0: it has none.
      edge: how soft its edge is, in pixels.
    """

    def layer(page: Page) -> None:
        rng, (h, w) = page.rng, page.size
        seen = ("left", "top", "right", "bottom") if sides == "all" else sides.split()
        if sides == "any":
            seen = [str(rng.choice(["left", "top", "right", "bottom"]))]
        at = {name: rng.uniform(*size) if name in seen else -0.15 for name in _SIDES}
        left, top = at["left"] * w, at["top"] * h
        right, bottom = (1 - at["right"]) * w, (1 - at["bottom"]) * h
        quad = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        if sides == "all":
            source = np.array([(0, 0), (w, 0), (w, h), (0, h)], float)
            quad += rng.normal(0, 0.012 * min(h, w), (4, 2))
        else:  # The paper stays in its place, as only a part of the sheet is in the picture.
            source = quad.copy()
        turned = cv2.getRotationMatrix2D((w / 2, h / 2), rng.uniform(-turn, turn), 1)
        if sides == "all":
            quad = quad @ turned[:, :2].T + turned[:, 2]
            _warp(page, source, quad)
        else:
            quad = quad @ turned[:, :2].T + turned[:, 2]
        mask = np.zeros((h, w), np.float32)
        points = np.round(quad * 16).astype(np.int32)
        cv2.fillConvexPoly(mask, points, 1.0, cv2.LINE_AA, shift=4)
        mask = cv2.GaussianBlur(mask, (0, 0), edge)
        around = background(page)
        if shade:
            reach = 0.012 * min(h, w)
            moved = np.roll(cv2.GaussianBlur(mask, (0, 0), reach), int(reach), (0, 1))
            around = around * (1 - shade * moved)[..., None]
        page.image = around + (page.image - around) * mask[..., None]

    return layer


_SIDES = ("left", "top", "right", "bottom")


def _warp(page: Page, source: np.ndarray, target: np.ndarray) -> None:
    """Moves four points of the page, and all between them, to others."""
    h, w = page.size
    matrix = cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32))
    page.image = cv2.warpPerspective(
        page.image, matrix, (w, h), None, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE
    )
    page.middle = cv2.perspectiveTransform(page.middle[None, None], matrix)[0, 0]


def perspective(page: Page) -> None:
    """The page as seen from one side."""
    h, w = page.size
    source = np.array([(0, 0), (w, 0), (w, h), (0, h)], float)
    target = source.copy()
    near, far = page.rng.permutation([(0, 3), (1, 2)])  # The left and the right side.
    # The far side is seen smaller: the near one reaches out of the picture.
    target[far, 1] += (target[far, 1] - h / 2) * 0.05
    target[near, 1] += (target[near, 1] - h / 2) * page.rng.uniform(0.3, 0.6)
    _warp(page, source, target)


def turned(angle: float) -> Layer:
    """The camera was held askew by up to so many degrees; the paper fills the picture."""

    def layer(page: Page) -> None:
        h, w = page.size
        matrix = cv2.getRotationMatrix2D(tuple(page.middle), page.rng.uniform(-angle, angle), 1.0)
        page.image = cv2.warpAffine(
            page.image, matrix, (w, h), None, cv2.INTER_LINEAR, cv2.BORDER_REFLECT
        )

    return layer


def frame(page: Page) -> None:
    """A dark line along the picture's border."""
    h, w = page.size
    thick = int(page.rng.integers(1, max(min(h, w) // 60, 2) + 1))
    inner = np.zeros((h, w), bool)
    inner[thick : h - thick, thick : w - thick] = True
    page.image[~inner] = page.rng.uniform(0, 0.25)


def scanner(sides: str, colour=0.03) -> Layer:
    """Even strips along sides, where the scanner saw no paper."""

    def layer(page: Page) -> None:
        h, w = page.size
        for side in sides.split():
            part = page.rng.uniform(0.015, 0.08)
            tilt = page.rng.normal(0, 0.006)
            yy, xx = page.grid
            across = {"left": xx + tilt * yy, "right": w - xx + tilt * yy}
            across |= {"top": yy + tilt * xx, "bottom": h - yy + tilt * xx}
            reach = part * (w if side in ("left", "right") else h)
            page.blend(colour, np.clip(reach - across[side] + 0 * xx + 0 * yy, 0, 1))

    return layer


def deskewed(colour: float) -> Layer:
    """Wedges at the borders, as after a scan was turned upright."""

    def layer(page: Page) -> None:
        h, w = page.size
        angle = page.rng.uniform(1.5, 5) * page.rng.choice([-1, 1])
        matrix = cv2.getRotationMatrix2D((w / 2, h / 2), angle, 1)
        mask = cv2.warpAffine(np.ones((h, w), np.float32), matrix, (w, h), None, cv2.INTER_LINEAR)
        page.blend(colour, 1 - mask)

    return layer


def thumb(page: Page) -> None:
    """A thumb that holds the sheet, at the bottom or a side."""
    rng, (h, w), (yy, xx) = page.rng, page.size, page.grid
    size, side = min(h, w) * rng.uniform(0.1, 0.15), rng.integers(3)
    t = rng.uniform(0.2, 0.8)
    across, along = [
        (xx - t * w, yy - h + size),
        (yy - t * h, xx - w + size),
        (yy - t * h, size - xx),
    ][side]
    lean = rng.uniform(-0.3, 0.3)
    across = across - lean * along
    away = np.where(along > 0, np.abs(across), np.hypot(across, along)) / (0.75 * size)
    skin = np.array([(0.87, 0.66, 0.55), (0.55, 0.38, 0.28), (0.36, 0.24, 0.18)][rng.integers(3)])
    page.light(1 - 0.3 * np.exp(-4 * np.clip(away - 1, 0, 9)))  # Its shadow on the paper.
    round_ = np.clip(1.08 - 0.35 * away**2, 0, 2)[..., None] * (
        1 + 0.03 * page.rng.standard_normal((h, w, 1), np.float32)
    )
    page.blend(skin * round_, np.clip((1 - away) * size / 3, 0, 1))
    nail = np.hypot(across / 0.42, (along + 0.05 * size) / 0.55) / size
    page.blend(skin * 0.6 + 0.4 * np.array((1, 0.85, 0.82)), 0.7 * np.clip((1 - nail) * 8, 0, 1))


def clip(page: Page) -> None:
    """A dark clip at the top."""
    rng, (h, w) = page.rng, page.size
    wide, high = w * rng.uniform(0.15, 0.3), h * rng.uniform(0.05, 0.12)
    x = w * rng.uniform(0.3, 0.7)
    body = [
        (x - wide / 2, -5),
        (x + wide / 2, -5),
        (x + 0.42 * wide, high),
        (x - 0.42 * wide, high),
    ]
    cover = np.zeros((h, w), np.float32)
    cv2.fillConvexPoly(cover, np.round(body).astype(np.int32), 1.0, cv2.LINE_AA)
    page.light(1 - 0.35 * np.roll(cv2.GaussianBlur(cover, (0, 0), 5), 4, 0))
    page.blend((0.1, 0.1, 0.12), cover)


def holes(page: Page) -> None:
    """Two or four punched holes at the left, through which one sees what lies below."""
    rng, (h, w), (yy, xx) = page.rng, page.size, page.grid
    count, radius = int(rng.choice([2, 4])), rng.uniform(0.014, 0.022) * min(h, w)
    below, x = rng.uniform(0.05, 0.45), rng.uniform(0.035, 0.06) * w
    for i in range(count):
        y = h * (i + 0.5) / count
        page.blend(below, np.clip(radius + 0.5 - np.hypot(xx - x, yy - y), 0, 1))


def spiral(page: Page) -> None:
    """The binding of a notebook at the left or the top."""
    rng, (h, w) = page.rng, page.size
    at_left = rng.random() < 0.5
    reach, step = 0.05 * min(h, w), 0.045 * max(h, w)
    cover, wire = np.zeros((h, w), np.float32), np.zeros((h, w), np.float32)
    for along in np.arange(step / 2, h if at_left else w, step):
        ends = [(0, along - 0.2 * step), (reach * 0.7, along)]
        (x0, y0), (x1, y1) = ends if at_left else [e[::-1] for e in ends]
        side = 0.16 * step
        cv2.rectangle(
            cover, (int(x1 - side), int(y1 - side)), (int(x1 + side), int(y1 + side)), 1.0, -1
        )
        start, end = (int(x0), int(y0)), (int(x1), int(y1))
        cv2.line(wire, start, end, 1.0, max(int(0.12 * step), 2), cv2.LINE_AA)
    page.blend(0.12, cover)
    page.blend(0.45, wire)


def torn(page: Page) -> None:
    """A torn edge at the right; beyond it is the table."""
    rng, (h, w), (yy, xx) = page.rng, page.size, page.grid
    rough = np.cumsum(rng.normal(0, 1, h + 200))
    rough = np.convolve(rough - np.linspace(0, rough[-1], h + 200), np.ones(7) / 7, "same")[:h]
    edge = w * (1 - rng.uniform(0.05, 0.12)) + rough[:, None] * w / 1000 + 0 * yy
    around = wood(tuple(rng.uniform(0.15, 0.4) * np.array((1.2, 1, 0.8))))(page)
    page.blend(around, np.clip(xx - edge, 0, 1))
    rim = np.clip(1 - np.abs(xx - edge + 3) / (0.006 * w), 0, 1)
    page.blend(1.0, rim * 0.6 * page.clouds(8))


# Files.


def _bytes(image: Image.Image, suffix: str, **options) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    image.save(buffer, {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper()), **options)
    return buffer.getvalue(), suffix


def _rgb(image: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))


def _grey(image: np.ndarray) -> np.ndarray:
    return np.clip(image @ np.array([0.299, 0.587, 0.114], np.float32), 0, 1)


def file(suffix: str, mode: str | None = None, **options) -> Save:
    """Files of one format, and of Pillow's mode."""

    def save(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
        picture = _rgb(image)
        return _bytes(picture.convert(mode) if mode else picture, suffix, **options)

    return save


def photo(quality=(60, 95), scale=1.0) -> Save:
    """JPEGs of a camera, made `scale` times as large."""

    def save(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
        if scale != 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        return _bytes(_rgb(image), ".jpg", quality=int(rng.uniform(*quality)))

    return save


def levels(top: float, dtype=np.uint16) -> Save:
    """Grey PNGs whose white is `top`."""

    def save(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
        return _bytes(Image.fromarray(np.round(_grey(image) * top).astype(dtype)), ".png")

    return save


def bilevel(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
    """PNGs of 1 bit."""
    return _bytes(Image.fromarray(_grey(image) > 0.5), ".png")


def palette(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
    """PNGs with a palette whose numbers are in no order."""
    few = _rgb(image).quantize(16, Image.Quantize.MAXCOVERAGE)
    order = rng.permutation(16).tolist()
    return _bytes(few.remap_palette(order), ".png")


def float_with_nan(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
    """TIFFs of floats from 0 to 1 that lack a border and some pixels."""
    grey = _grey(image).astype(np.float32)
    grey[: int(rng.integers(2, 20))] = np.nan
    grey[rng.random(grey.shape) < 0.001] = np.nan
    return _bytes(Image.fromarray(grey), ".tif")


def lab(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
    """TIFFs in the colours of LAB."""
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return _bytes(ImageCms.profileToProfile(_rgb(image), *profiles, outputMode="LAB"), ".tif")


def animation(suffix: str) -> Save:
    """GIFs, or TIFFs of pages, whose first picture is blank."""

    def save(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
        picture = _rgb(image)
        blank = Image.new("RGB", picture.size, "white")
        return _bytes(blank, suffix, save_all=True, append_images=[picture])

    return save


def heic(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
    """HEIC as of a phone."""
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(_rgb(image)).save(buffer, quality=80)
    return buffer.getvalue(), ".heic"


def exif_turned(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
    """JPEGs that lie on a side, and say so."""
    exif = Image.Exif()
    quarter = int(rng.choice([1, 3]))
    exif[0x0112] = {1: 6, 3: 8}[quarter]
    return _bytes(_rgb(np.rot90(image, quarter)), ".jpg", quality=90, exif=exif)


def transparent(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
    """PNGs that have ink, and nothing where the paper would be."""
    alpha = (255 * (1 - _grey(image))).astype(np.uint8)
    ink = np.zeros((*alpha.shape, 4), np.uint8)
    ink[..., 3] = alpha
    return _bytes(Image.fromarray(ink), ".png")


def _scan_file(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
    return _bytes(_rgb(image).convert("L"), ".png")


# Inputs of 28x28, which are not photographed.


def _small(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]):
    def save(digit: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
        return _bytes(Image.fromarray(change(digit, rng)), ".png")

    return save


def _cut_out(digit: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero(digit.max(axis) > 0) for axis in (1, 0))
    return digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _put(digit: np.ndarray, top: int, left: int) -> np.ndarray:
    image = np.zeros((28, 28), np.uint8)
    image[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return image


def _moved(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    inner = _cut_out(digit)
    corner = rng.integers(2, size=2) * (28 - np.array(inner.shape))
    return _put(inner, *corner.tolist())


def _scaled(digit: np.ndarray, side: int) -> np.ndarray:
    inner = _cut_out(digit)
    h, w = (max(round(n * side / max(inner.shape)), 1) for n in inner.shape)
    return np.asarray(Image.fromarray(inner).resize((w, h), Image.Resampling.BICUBIC))


def _in_corner(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    small = _scaled(digit, int(rng.integers(12, 15)))
    top, left = (int(rng.choice([1, 27 - n])) for n in small.shape)
    return _put(small, top, left)


def _filling(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    large = _scaled(digit, 28)
    return _put(large, (28 - large.shape[0]) // 2, (28 - large.shape[1]) // 2)


def _enlarged(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # scikit-learn's 8x8 were enlarged by 2.5 already.
    return 255 - np.asarray(Image.fromarray(digit).resize((224, 224), Image.Resampling.BICUBIC))


# What is no digit.


def _glyph(draw: Callable[[ImageDraw.ImageDraw, np.random.Generator], None]):
    """Makes what is written as digits are, of lines on 168x168 within the box of 120."""

    def make(rng: np.random.Generator) -> np.ndarray:
        image = Image.new("L", (GRID, GRID))
        draw(ImageDraw.Draw(image), rng)
        return _distort(np.asarray(image), rng)

    return make


def _distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bends and slants a glyph as a hand does."""
    yy, xx = np.mgrid[:GRID, :GRID].astype(np.float32) - GRID / 2
    bends = rng.normal(0, 1, (2, 5, 5)).astype(np.float32) * 4
    dx, dy = (cv2.resize(b, (GRID, GRID), interpolation=cv2.INTER_CUBIC) for b in bends)
    slant, wide = rng.normal(0, 0.12), rng.uniform(0.9, 1.15)
    return cv2.remap(
        image, GRID / 2 + wide * xx + slant * yy + dx, GRID / 2 + yy + dy, cv2.INTER_LINEAR
    )


def _text(characters: str):
    def draw(pencil: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
        character = str(rng.choice(list(characters)))
        font = ImageFont.load_default(130)
        left, top, right, bottom = pencil.textbbox((0, 0), character, font)
        scale = 120 / max(right - left, bottom - top, 80)
        font = ImageFont.load_default(130 * scale)
        at = GRID / 2, GRID / 2
        if rng.random() < 0.5:
            pencil.text(at, character, 255, font, anchor="mm", stroke_width=int(rng.integers(3)))
            return
        face = [cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX][rng.integers(2)]
        (w, h), _ = cv2.getTextSize(character, face, 4, 9)
        image = np.zeros((GRID, GRID), np.uint8)
        cv2.putText(image, character, ((GRID - w) // 2, (GRID + h) // 2), face, 4, 255, 9)
        pencil.bitmap((0, 0), Image.fromarray(image), 255)

    return _glyph(draw)


@_glyph
def _scribble(pencil: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    t = np.linspace(0, rng.uniform(30, 60), 600)
    x = GRID / 2 + 50 * np.sin(t * rng.uniform(0.9, 1.2)) * np.cos(t * 0.13)
    y = GRID / 2 + 45 * np.sin(t * rng.uniform(0.5, 0.8) + 1) + 10 * np.sin(t * 2.3)
    pencil.line(list(zip(x.tolist(), y.tolist(), strict=True)), 255, 5)


@_glyph
def _face(pencil: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    pencil.ellipse((28, 28, 140, 140), outline=255, width=6)
    for x in (64, 104):
        pencil.ellipse((x - 7, 60, x + 7, 74), fill=255)
    turn = (20, 160) if rng.random() < 0.7 else (200, 340)
    pencil.arc((56, 70, 112, 120), *turn, fill=255, width=6)


@_glyph
def _shape(pencil: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    c, r = GRID / 2, 56
    which = rng.integers(4)
    if which == 0:  # A cross.
        pencil.line((c - r, c - r, c + r, c + r), 255, 8)
        pencil.line((c - r, c + r, c + r, c - r), 255, 8)
    elif which == 1:  # A plus.
        pencil.line((c - r, c, c + r, c), 255, 8)
        pencil.line((c, c - r, c, c + r), 255, 8)
    else:  # A triangle or a star.
        corners, step = [(3, 1), (5, 2)][which - 2]
        turns = np.arange(corners + 2) * step * 2 * np.pi / corners - np.pi / 2
        points = list(zip(c + r * np.cos(turns), c + r * np.sin(turns), strict=True))
        pencil.line(points, 255, 8, joint="curve")


def landscape(page: Page) -> None:
    """A sky with clouds and a sun, and hills."""
    rng, (h, w), (yy, xx) = page.rng, page.size, page.grid
    sky = np.array((0.45, 0.65, 0.9)) + (yy / h)[..., None] * np.array((0.45, 0.25, 0.05))
    page.image[:] = sky
    page.blend(1.0, 0.8 * np.clip(3 * page.clouds(w / 4, 5) - 1.6, 0, 1))
    if rng.random() < 0.6:
        x, y, radius = rng.uniform(0.1, 0.9) * w, rng.uniform(0.08, 0.3) * h, 0.05 * min(h, w)
        page.blend((1, 0.95, 0.7), np.clip(radius - np.hypot(xx - x, yy - y), 0, 1))
    for depth in (0.5, 0.65, 0.8):
        x = np.linspace(0, rng.uniform(4, 9), w)
        ridge = sum(np.sin(x * k + rng.uniform(0, 6)) / k for k in (1, 2.3, 5, 11)) * 0.07
        below = np.clip(yy - h * (depth + ridge[None]), 0, 1)
        green = np.array((0.3, 0.45, 0.35)) * (1.4 - depth) + np.array((0, 0.1, 0)) * depth
        page.blend(green * (0.7 + 0.6 * page.clouds(12, 3))[..., None], below)


def texture(page: Page) -> None:
    """Stone, bark or fabric from close by."""
    field = page.clouds(page.rng.uniform(20, 90), 5) + 0.5 * page.clouds(6, 2)
    low, high = page.rng.uniform(0.1, 0.45, 3), page.rng.uniform(0.5, 0.9, 3)
    field = (field - field.min()) / np.ptp(field)
    page.image[:] = low + (high - low) * field[..., None]


def static(page: Page) -> None:
    """Nothing but noise."""
    size = page.rng.integers(1, 9)
    h, w = page.size
    small = page.rng.random((h // size + 1, w // size + 1), np.float32)
    page.image[:] = cv2.resize(small, (w, h), interpolation=cv2.INTER_NEAREST)[..., None]


# Kinds.


@dataclasses.dataclass(frozen=True)
class Kind:
    """How pictures of one kind are made.

    Attributes:
      layers: what is done to the page, in that order.
      save: writes the finished image, or the digit itself if there are no layers.
      group: the table that it is listed in.
      pattern: "#" for each digit; separators, spaces and new lines stand for themselves.
      glyph: makes what is written in place of digits.
      side: the range of the picture's longer side, in pixels.
      ratio: the range of what part of that the shorter side is.
      share: the range of the digit's height as a share of the shorter side, if there is one digit.
      margin: what the digits keep from the border, as a share of the shorter side.
      at_edge: "corner" or "side": where the digit is as near to the border as the margin.
      angle: by how many degrees each digit may be turned.
      gap: the range of the gap between digits, in digit heights.
      cell: the side of the squares that the digits stand in, in digit heights; 0: in none.
      source: the digits that it is always made of.
    """

    layers: tuple[Layer, ...]
    save: Save
    group: str = ""
    pattern: str = "#"
    glyph: Callable[[np.random.Generator], np.ndarray] | None = None
    side: tuple[float, float] = (400, 900)
    ratio: tuple[float, float] = (0.6, 0.95)
    share: tuple[float, float] = (0.25, 0.6)
    margin: float = 0.12
    at_edge: str = ""
    angle: float = 5.0
    gap: tuple[float, float] = (0.15, 0.4)
    cell: float = 0.0
    source: str = ""

    @property
    def count(self) -> int:
        """How many digits a picture shows."""
        return 0 if self.glyph else self.pattern.count("#")

    def make(self, digits: list[np.ndarray], rng: np.random.Generator) -> tuple[bytes, str]:
        """A file and its suffix, of `count` digits, uint8 (28, 28), light on dark."""
        if not self.layers:
            return self.save(digits[0], rng)
        page = Page([self.glyph(rng)] if self.glyph else digits, rng, self)
        for layer in self.layers:
            layer(page)
        return self.save(page.image, rng)


def _kind(*layers: Layer, **options) -> Kind:
    return Kind(layers, **{"save": photo(), **options})


P = paper()
SCAN = {"save": _scan_file}
PNG = {"save": file(".png")}
INNER = {"margin": 0.23, "share": (0.25, 0.5)}
EQUAL_RED, EQUAL_GREEN = (0.8, 0.15, 0.15), (0.12, 0.46, 0.2)


def _as_grey_as(ink, colour) -> tuple[float, ...]:
    """A colour made as grey as the ink."""
    weights = np.array([0.299, 0.587, 0.114])
    return tuple(np.array(colour) * (weights @ ink) / (weights @ colour))


_GROUPS: dict[str, dict[str, Kind]] = {
    "pens": {
        "clean": _kind(paper(vary=0.005), pen(), **PNG),
        "clean_photo": _kind(P, pen()),
        "pencil": _kind(P, pen(PENCIL, (0.04, 0.07), alpha=(0.65, 0.9), grain=0.5)),
        "pencil_light": _kind(P, pen((0.5,) * 3, (0.03, 0.06), alpha=(0.55, 0.8), grain=0.5)),
        "fineliner": _kind(P, pen(BLACK, (0.022, 0.035))),
        "ballpoint_blue": _kind(P, pen(BLUE, (0.035, 0.06), alpha=(0.75, 0.95), grain=0.2)),
        "marker": _kind(P, pen(BLACK, grow=(0.015, 0.03))),
        "highlighter": _kind(P, pen((0.96, 0.95, 0.25), grow=(0.0, 0.03), alpha=(0.8, 1))),
        "red_pen": _kind(P, pen(RED, (0.04, 0.08))),
        "green_marker": _kind(P, pen((0.1, 0.5, 0.25), grow=(0.0, 0.03))),
        "chalk": _kind(
            paper((0.14, 0.2, 0.17), 0.05), smears, pen((0.93,) * 3, grain=0.6, grow=(0, 0.02))
        ),
        "white_on_black": _kind(paper((0.03,) * 3, vary=0.005), pen((0.97,) * 3), **PNG),
        "whiteboard": _kind(
            paper((0.88, 0.9, 0.92), 0.004), pen((0.1, 0.15, 0.5)), gradient, glare
        ),
        "screen": _kind(paper((0.1, 0.11, 0.15), 0.004), pen((0.4, 0.85, 0.95)), **PNG),
        "neon_pen": _kind(P, pen((0.98, 0.45, 0.6), grow=(0.0, 0.02))),
        "large": _kind(P, pen(), share=(0.8, 0.92), margin=0.02),
        "tiny": _kind(P, pen(), side=(1000, 1400), share=(0.03, 0.06)),
        "corner": _kind(P, pen(), at_edge="corner", margin=0.02, share=(0.15, 0.35)),
        "touches_edge": _kind(P, pen(), at_edge="side", margin=-0.01, share=(0.25, 0.5)),
        "small_picture": _kind(P, pen(), side=(80, 120), share=(0.35, 0.7)),
        "photo_12mp": _kind(
            P, pen(BLUE, (0.05, 0.09)), gradient, noise((0.01, 0.02)),
            side=(2000, 2000), ratio=(0.75, 0.75), share=(0.08, 0.3), save=photo((80, 90), 2),
        ),
    },
    "edges": {
        "frame": _kind(P, pen(), frame, **SCAN),
        "scan_left": _kind(P, pen(), scanner("left"), **SCAN),
        "scan_top": _kind(P, pen(), scanner("top"), **SCAN),
        "scan_two_sides": _kind(P, pen(), scanner("right bottom", 0.1), **SCAN),
        "wedges_black": _kind(P, pen(), deskewed(0.0), **SCAN),
        "wedges_white": _kind(paper((0.85,) * 3), pen(), deskewed(1.0), **SCAN),
        "table_side": _kind(P, pen(), lies_on(wood(), "any"), **INNER),
        "table_corner": _kind(P, pen(), lies_on(wood(), "left bottom"), **INNER),
        "table_dark": _kind(P, pen(), lies_on(wood()), turned(4)),
        "table_light_wood": _kind(P, pen(), lies_on(wood((0.72, 0.55, 0.36)))),
        "table_black": _kind(P, pen(BLUE, (0.05, 0.08)), lies_on(plain((0.06,) * 3))),
        "table_lighter": _kind(paper((0.68,) * 3), pen(), lies_on(plain((0.93,) * 3))),
        "table_cloth": _kind(P, pen(), lies_on(cloth)),
        "table_far": _kind(P, pen(), lies_on(wood(), size=(0.18, 0.28), turn=9), share=(0.4, 0.6)),
        "table_12mp": _kind(
            P, ruled((0.7, 0.78, 0.88)), pen(BLUE, (0.05, 0.09)), lies_on(wood()), gradient,
            side=(2000, 2000), ratio=(0.75, 0.75), share=(0.12, 0.35), save=photo((80, 90), 2),
        ),
        "thumb": _kind(P, pen(), thumb, **INNER),
        "clip": _kind(P, pen(), clip, **INNER),
        "holes": _kind(P, pen(), holes, **INNER),
        "spiral": _kind(P, ruled(), pen(), spiral, **INNER),
        "torn": _kind(P, pen(), torn, **INNER),
    },
    "lines": {
        "ruled_190": _kind(P, ruled(), pen()),
        "ruled_225": _kind(P, ruled((0.88,) * 3), pen(), **SCAN),
        "ruled_blue": _kind(P, ruled((0.6, 0.72, 0.9)), pen()),
        "ruled_blue_pen_blue": _kind(P, ruled((0.45, 0.55, 0.85)), pen(BLUE, (0.05, 0.09))),
        "ruled_darker": _kind(P, ruled((0.15,) * 3), pen((0.45,) * 3)),
        "ruled_same": _kind(P, ruled(BLACK), pen()),
        "ruled_thick": _kind(P, ruled((0.6,) * 3, thick=(0.035, 0.05)), pen()),
        "ruled_pencil": _kind(P, ruled(), pen(PENCIL, (0.04, 0.07), alpha=(0.7, 0.9), grain=0.4)),
        "ruled_turned": _kind(P, ruled(angle=6), pen()),
        "ruled_perspective": _kind(P, ruled(), pen(), perspective, **INNER),
        "ruled_shadow": _kind(P, ruled((0.6, 0.7, 0.85)), pen(), shadow(), noise((0.01, 0.03))),
        "squared_grey": _kind(P, squared(), pen()),
        "squared_blue": _kind(P, squared((0.55, 0.7, 0.9)), pen(BLUE, (0.05, 0.09))),
        "squared_small": _kind(P, squared(pitch=(0.12, 0.2)), pen()),
        "squared_large": _kind(P, squared((0.6,) * 3, pitch=(0.8, 1.3)), pen()),
        "squared_dark": _kind(P, squared((0.35,) * 3), pen(grow=(0, 0.02))),
        "squared_turned": _kind(P, squared(angle=6), pen()),
        "margin_line": _kind(P, margin_line, pen()),
        "dotted": _kind(P, dots, pen()),
        "line_below": _kind(P, pen(), line_below(whole=True)),
        "underlined": _kind(P, pen(), line_below()),
        "form_box": _kind(P, form_box((0.3,) * 3), pen(), share=(0.2, 0.45), margin=0.2),
        "box_by_hand": _kind(P, pen(), form_box(BLACK, True), share=(0.2, 0.4), margin=0.25),
    },
    "light": {
        "shadow_light": _kind(P, pen(), shadow((0.75, 0.88))),
        "shadow_dark": _kind(P, pen(), shadow((0.4, 0.6))),
        "shadow_over": _kind(P, pen(), shadow((0.5, 0.7), True)),
        "shadow_over_dark": _kind(P, pen(), shadow((0.35, 0.5), True)),
        "shadow_over_pencil": _kind(P, pen(PENCIL, (0.05, 0.08)), shadow((0.5, 0.7), True)),
        "shadow_blurred": _kind(P, pen(), shadow((0.4, 0.65), True, soft=(20, 80))),
        "shadow_soft": _kind(P, pen(), soft_shadow),
        "vignette": _kind(P, pen(), vignette),
        "glare": _kind(P, pen(), glare),
        "gradient": _kind(P, pen(), gradient),
        "grey_paper": _kind(paper(GREY, 0.02, 0.06), pen()),
        "yellow_paper": _kind(paper(YELLOW), pen(BLUE, (0.05, 0.09))),
        "kraft": _kind(paper(KRAFT, 0.04), pen()),
        "fold": _kind(P, pen(), fold),
        "crumpled": _kind(P, pen(), crumpled),
        "under_exposed": _kind(P, pen(), exposure((0.15, 0.3)), noise((0.008, 0.015), True)),
        "over_exposed": _kind(
            paper((0.9,) * 3), pen(PENCIL), exposure((1.15, 1.4), lift=(0.1, 0.25))
        ),
        "low_contrast": _kind(P, pen(), exposure((0.12, 0.25), lift=(0.4, 0.6))),
    },
    "dirt": {
        "white_speck": _kind(paper((0.75,) * 3), pen(PENCIL), specks(colour=(1,) * 3)),
        "dark_speck": _kind(P, pen(), specks(size=(0.02, 0.05))),
        "black_speck_light_pen": _kind(P, pen((0.5,) * 3), specks(colour=(0,) * 3)),
        "specks": _kind(P, pen(), specks((5, 25), size=(0.008, 0.035))),
        "salt_and_pepper": _kind(P, pen(), salt_and_pepper, **SCAN),
        "film_grain": _kind(P, pen(), noise((0.08, 0.16))),
        "coffee_ring": _kind(P, pen(), coffee),
        "show_through": _kind(P, show_through, pen()),
        "defocus": _kind(P, pen(), blur(defocus=(0.02, 0.05))),
        "motion": _kind(P, pen(), blur(motion=(0.08, 0.16))),
        "strong_jpeg": _kind(P, pen(), save=photo((4, 12))),
    },
    "colour": {
        "red_on_green": _kind(
            paper(_as_grey_as(EQUAL_RED, EQUAL_GREEN), vary=0), pen(EQUAL_RED), **PNG
        ),
        "green_on_red": _kind(
            paper(EQUAL_RED, vary=0), pen(_as_grey_as(EQUAL_RED, EQUAL_GREEN)), **PNG
        ),
        "orange_on_grey": _kind(
            paper(_as_grey_as((0.92, 0.47, 0.1), (1, 1, 1)), vary=0), pen((0.92, 0.47, 0.1)), **PNG
        ),
        "blue_on_yellow": _kind(paper((0.95, 0.85, 0.2)), pen((0.1, 0.25, 0.7))),
        "pink_on_blue": _kind(
            paper(_as_grey_as((0.95, 0.4, 0.65), (0.35, 0.6, 0.95)), vary=0),
            pen((0.95, 0.4, 0.65)),
            save=photo((88, 95)),
        ),
    },
    "files": {
        "png_16_bits": _kind(P, pen(), save=levels(65535)),
        "png_12_bits": _kind(P, pen(), save=levels(4095)),
        "png_10_bits": _kind(P, pen(), save=levels(1023)),
        "png_0_to_1": _kind(P, pen(), save=levels(1, np.uint8)),
        "png_0_to_16": _kind(P, pen(), save=levels(16, np.uint8)),
        "tiff_nan": _kind(P, pen(), save=float_with_nan),
        "tiff_lab": _kind(P, pen(), save=lab),
        "tiff_cmyk": _kind(P, pen(), save=file(".tif", "CMYK")),
        "jpeg_cmyk": _kind(P, pen(), save=file(".jpg", "CMYK")),
        "png_palette": _kind(P, pen(), save=palette),
        "png_1_bit": _kind(P, pen(), save=bilevel),
        "gif_second": _kind(P, pen(), save=animation(".gif")),
        "tiff_second": _kind(P, pen(), save=animation(".tif")),
        "webp": _kind(P, pen(), save=file(".webp", quality=80)),
        "avif": _kind(P, pen(), save=file(".avif", quality=70, speed=9)),
        "heic": _kind(P, pen(), save=heic),
        "exif_turned": _kind(P, pen(), save=exif_turned),
        "transparent": _kind(paper(vary=0), pen(), save=transparent),
    },
    "28x28": {
        "mnist": _kind(save=_small(lambda digit, rng: digit)),
        "mnist_moved": _kind(save=_small(_moved)),
        "mnist_corner": _kind(save=_small(_in_corner)),
        "mnist_filling": _kind(save=_small(_filling)),
        "mnist_dark": _kind(save=_small(lambda digit, rng: 255 - digit)),
    },
    "transfer": {"sklearn": _kind(save=_small(_enlarged), source="sklearn")},
    "numbers": {
        "two_digits": _kind(P, pen(), pattern="##"),
        "year": _kind(P, pen(BLUE, (0.06, 0.09)), pattern="####"),
        "date_dots": _kind(P, pen(), pattern="##.#.####"),
        "date_dashes": _kind(P, pen(), pattern="####-##-##"),
        "date_slashes": _kind(P, pen(), pattern="##/##/##"),
        "telephone": _kind(P, pen(), pattern="####  ######"),
        "three_lines": _kind(P, pen(), pattern="####\n####\n####"),
        "form_boxes": _kind(P, form_box((0.35,) * 3), pen(), pattern="######", cell=1.35),
        "number_ruled": _kind(P, ruled((0.6, 0.7, 0.88)), pen(BLUE, (0.06, 0.09)), pattern="#####"),
        "number_squared": _kind(P, squared((0.65, 0.75, 0.88)), pen(), pattern="#####", cell=1.2),
        "close": _kind(P, pen(), pattern="####", gap=(0.04, 0.09)),
        "touching": _kind(P, pen(), pattern="###", gap=(-0.06, 0.0)),
        "number_shadow": _kind(P, pen(), shadow(over=True), pattern="####"),
        "number_slanted": _kind(P, pen(), turned(5), pattern="#####"),
        "number_table": _kind(P, pen(), lies_on(wood()), pattern="####"),
        "number_pencil": _kind(
            paper((0.9,) * 3), pen(PENCIL, (0.05, 0.08), grain=0.4), gradient, pattern="####"
        ),
    },
    "nothing": {
        "blank": _kind(paper(texture=0.0, vary=0), pattern="", **PNG),
        "blank_grey": _kind(paper(GREY, 0.03), noise((0.01, 0.04)), pattern=""),
        "blank_shadow": _kind(P, shadow(), gradient, pattern=""),
        "blank_table": _kind(P, lies_on(wood()), pattern=""),
        "empty_ruled": _kind(P, ruled((0.6, 0.7, 0.85)), pattern=""),
        "empty_squared": _kind(P, squared((0.6, 0.7, 0.85)), pattern=""),
        "landscape": _kind(landscape, pattern=""),
        "noise": _kind(static, pattern=""),
        "texture": _kind(texture, pattern=""),
        "letters": _kind(P, pen(), glyph=_text("ACEFHJKMNPRTUVWXadefhkmnprtuvwx")),
        "letters_ruled": _kind(P, ruled(), pen(BLUE), glyph=_text("AEFHKMNRTWXadehkmnrw")),
        "question_mark": _kind(P, pen(), glyph=_text("?")),
        "symbols": _kind(P, pen(), glyph=_text("&#@%*=+")),
        "scribble": _kind(P, pen(), glyph=_scribble),
        "face": _kind(P, pen(), glyph=_face),
        "shapes": _kind(P, pen(), glyph=_shape),
    },
}  # fmt: skip
KINDS: dict[str, Kind] = {
    name: dataclasses.replace(kind, group=group)
    for group, kinds in _GROUPS.items()
    for name, kind in kinds.items()
    if name != "heic" or importlib.util.find_spec("pillow_heif")
}


@functools.cache
def digits(
    source: str, count: int = 10_000, seed: int = 0, data_dir: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Digits, uint8 (n, 28, 28), light on dark, and their labels, in an order that `seed` draws.

    Args:
      source: "mnist": its test split, or that of the sample, where it is not to be had; or
        "sklearn": scikit-learn's 8x8 digits, enlarged 2.5 times.
      count: at most so many.
      seed: of the order.
      data_dir: tfds's folder.
    """
    if source == "sklearn":
        from sklearn.datasets import load_digits

        loaded = load_digits()
        levels = (loaded.images * 255 / 16).astype(np.uint8)
        large = [Image.fromarray(i).resize((20, 20), Image.Resampling.BICUBIC) for i in levels]
        images, labels = np.pad(np.stack(large), ((0, 0), (4, 4), (4, 4))), loaded.target
    else:
        split = datasets.load("mnist", ["test"], data_dir).splits[0]
        images, labels = split.images[..., 0], split.labels
    order = np.random.default_rng(seed).permutation(len(labels))[:count]
    return images[order], labels[order]


def write(
    folder: Path,
    kinds: Iterable[str],
    n: int,
    source: str = "mnist",
    seed: int = 0,
    data_dir: str | None = None,
) -> dict[str, list[Path]]:
    """Writes n pictures of each kind as KIND/NNNN_LABELS.ext, except those that are there.

    LABELS are the digits in reading order, or "none". A kind has fewer than n if its digits run
    out.

    Returns:
      The files of each kind.
    """

    def one(name: str, index: int, there: dict[str, Path]) -> Path:
        if path := there.get(f"{index:04}"):
            return path
        kind = KINDS[name]
        images, labels = digits(kind.source or source, seed=seed, data_dir=data_dir)
        # Kinds of one digit have the same, so that they are compared on equal terms.
        take = (index * max(kind.count, 1) + np.arange(kind.count)) % len(images)
        rng = np.random.default_rng([zlib.crc32(name.encode()), index, seed])
        content, suffix = kind.make(list(images[take]), rng)
        shown = "".join(map(str, labels[take])) or "none"
        path = folder / name / f"{index:04}_{shown}{suffix}"
        path.write_bytes(content)
        return path

    files: dict[str, list[Path]] = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name in kinds:
            (folder / name).mkdir(parents=True, exist_ok=True)
            there = {path.name[:4]: path for path in (folder / name).iterdir()}
            count = len(digits(KINDS[name].source or source, seed=seed, data_dir=data_dir)[1])
            work = functools.partial(one, name, there=there)
            files[name] = list(pool.map(work, range(min(n, count))))
    return files


def label(path: Path) -> str:
    """The digits that a picture shows, in reading order; "" if it shows none."""
    shown = path.stem.partition("_")[2]
    return "" if shown == "none" else shown


# Measuring.


@dataclasses.dataclass(frozen=True)
class Answer:
    """What predict found: a text such as "42", and how sure it is; "" is no answer.

    Attributes:
      text: the names of the classes in reading order.
      unsure: whether it is unsure of all (a refusal), or of some.
      confidences: the highest probability of each.
    """

    text: str = ""
    refused: bool = True
    some_unsure: bool = False
    confidences: tuple[float, ...] = ()


def answers(lines: Iterable[str]) -> dict[str, Answer]:
    """What the lines of predict's --json say, by file."""
    found = {}
    for line in lines:
        told = json.loads(line)
        each = told.get("detections", [told] if "class_name" in told else [])
        unsure = ["unsure" in one or "unsure" in told for one in each]
        confidences = tuple(max(one["probabilities"]) for one in each)
        text = "".join(one["class_name"] for one in each)
        found[told["file"]] = Answer(text, all(unsure), any(unsure), confidences)
    return found


def predict(command: list[str], workdir: str, paths: list[Path]) -> dict[str, Answer]:
    """What a predict command answers for pictures; those that it refuses are missing.

    Raises:
      SystemExit: the command failed.
    """
    found = {}
    for start in range(0, len(paths), FILES_AT_ONCE):
        files = [str(path) for path in paths[start : start + FILES_AT_ONCE]]
        with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
            done = subprocess.run(
                [*command, "--json", f"--workdir={workdir}", *files],
                stdout=subprocess.PIPE, stderr=errors, text=True, check=False,
            )  # fmt: skip
            errors.seek(0)
            told = errors.read()
        # 1 is its status if one of the pictures was refused, which it tells of by name.
        said = done.stdout or any(name in told for name in files)
        if done.returncode not in (0, 1) or "Traceback" in told or not said:
            sys.exit(f"{shlex.join(command)} failed:\n{told[-2000:]}")
        found |= answers(done.stdout.splitlines())
    return found


def verdict(shown: str, answer: Answer) -> str:
    """ "right", "wrong" or "refused": an answer for a picture that shows these digits, or none."""
    if answer.refused:
        return "refused"
    return "right" if answer.text == shown and not answer.some_unsure else "wrong"


def figures(shown: list[str], found: list[Answer]) -> dict[str, float]:
    """The figures of one kind: n, and shares in %; None is the confidence if nothing was accepted.

    "digits" is the share of the digits that were read in the right order, for numbers.
    """
    verdicts = [verdict(*pair) for pair in zip(shown, found, strict=True)]
    accepted = [a for a, v in zip(found, verdicts, strict=True) if v != "refused"]
    values = [c for answer in accepted for c in answer.confidences]
    result = {"n": len(shown)}
    result |= {name: 100 * verdicts.count(name) / len(shown) for name in _VERDICTS}
    result["confidence"] = float(np.mean(values)) if values else None
    if total := sum(map(len, shown)):
        read = sum(
            block.size
            for text, answer in zip(shown, found, strict=True)
            if not answer.refused
            for block in difflib.SequenceMatcher(
                None, text, answer.text, False
            ).get_matching_blocks()
        )
        result["digits"] = 100 * read / total
    return result


_VERDICTS = ("right", "wrong", "refused")


def summary(kinds: dict[str, dict]) -> dict:
    """The figures over kinds, of `figures` by name; adds "of_clean" to those of one digit."""
    one = [name for name in kinds if KINDS[name].count == 1 and KINDS[name].group != "transfer"]
    numbers = [kinds[name] for name in kinds if KINDS[name].group == "numbers"]
    nothing = [kinds[name] for name in kinds if KINDS[name].group == "nothing"]
    result: dict = {}

    def mean(of: list[dict], name: str) -> float:
        return sum(each[name] * each["n"] for each in of) / sum(each["n"] for each in of)

    if one and kinds.get("clean", {}).get("right"):
        for name in one:
            kinds[name]["of_clean"] = 100 * kinds[name]["right"] / kinds["clean"]["right"]
        shares = {name: kinds[name]["of_clean"] for name in one}
        result["kinds"] = len(one)
        result["mean_of_clean"] = sum(shares.values()) / len(one)
        below = {name: share for name, share in shares.items() if share < 97}
        result["at_97"] = len(one) - len(below)
        result["below_97"] = dict(sorted(below.items(), key=lambda pair: pair[1]))
    if one:
        ours = [kinds[name] for name in one]
        right, wrong = mean(ours, "right"), mean(ours, "wrong")
        result["accepted_right"] = 100 * right / (right + wrong) if right + wrong else None
        result["digits_refused"] = mean(ours, "refused")
    if numbers:
        result["numbers_whole"] = mean(numbers, "right")
        result["numbers_digits"] = sum(each["digits"] for each in numbers) / len(numbers)
    if nothing:
        result["nothing_refused"] = mean(nothing, "refused")
    if "sklearn" in kinds:
        result["transfer"] = kinds["sklearn"]["right"]
    return result


def table(results: dict, before: dict | None = None) -> str:
    """The results in Markdown: a table for each group, and what it comes to."""
    lines = [f"{results['n']:,} pictures of each kind, of {results['source']}'s digits.", ""]
    earlier = before["kinds"] if before else {}
    kinds = results["kinds"]
    for group in dict.fromkeys(KINDS[name].group for name in kinds):
        names = [name for name in kinds if KINDS[name].group == group]
        digits_too = group == "numbers"
        titles = [group, "n", "right %", "wrong %", "refused %", "confidence"]
        titles += ["digits right %" if digits_too else "of clean %"]
        titles += ["before: right %", "refused %"] if before else []
        lines += [f"| {' | '.join(titles)} |", "|---" + "|---:" * (len(titles) - 1) + "|"]
        for name in names:
            each = kinds[name]
            shown = [f"{each['n']:,}", *(f"{each[v]:.1f}" for v in _VERDICTS)]
            shown.append(_or_dash(each["confidence"], ".2f"))
            shown.append(_or_dash(each.get("digits" if digits_too else "of_clean"), ".1f"))
            if before:
                old = earlier.get(name, {})
                shown += [_or_dash(old.get(v), ".1f") for v in ("right", "refused")]
            lines.append(f"| {name} | {' | '.join(shown)} |")
        lines.append("")
    return "\n".join(lines + _in_words(results, before))


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _in_words(results: dict, before: dict | None) -> list[str]:
    found, old = results["summary"], before["summary"] if before else {}
    lines = []
    texts = {
        "mean_of_clean": "one digit, mean of clean, %",
        "at_97": f"kinds at 97 % of clean or more, of {found.get('kinds')}",
        "accepted_right": "of the accepted answers for one digit, right, %",
        "digits_refused": "of the pictures of one digit, refused, %",
        "numbers_whole": "numbers read whole, %",
        "numbers_digits": "digits in numbers read, %",
        "nothing_refused": "of the pictures without a digit, refused, %",
        "transfer": "scikit-learn's digits, enlarged, right, %",
    }
    for name, text in texts.items():
        if found.get(name) is not None:
            shown = f"{found[name]:.1f}" if isinstance(found[name], float) else str(found[name])
            then = f" (before: {old[name]:.1f})" if old.get(name) is not None else ""
            lines.append(f"- {text}: {shown}{then}")
    if found.get("below_97"):
        below = ", ".join(f"{name} {share:.1f}" for name, share in found["below_97"].items())
        lines.append(f"- below 97 % of clean: {below}")
    if before:
        worse = [f"{name} {a:.1f} to {b:.1f}" for name, (a, b) in fallen(results, before).items()]
        lines.append(f"- fell by more than 1 point from 97 % or more: {', '.join(worse) or 'none'}")
    return lines


def fallen(results: dict, before: dict) -> dict[str, tuple[float, float]]:
    """The kinds of one digit that were right at 97 % or more before, and are so 1 point less."""
    pairs = {
        name: (before["kinds"][name]["right"], each["right"])
        for name, each in results["kinds"].items()
        if KINDS[name].count == 1 and name in before["kinds"]
    }
    return {name: (a, b) for name, (a, b) in pairs.items() if a >= 97 and a - b > 1}


def sheet(cells: list[tuple[Path, str]], across: int = 8, side: int = 150) -> Image.Image:
    """Thumbnails of pictures with a text below each."""
    rows = -(-len(cells) // across)
    whole = Image.new("RGB", (across * side, rows * (side + 14)), "white")
    pencil = ImageDraw.Draw(whole)
    for i, (path, text) in enumerate(cells):
        x, y = i % across * side, i // across * (side + 14)
        small = _thumbnail(path, side - 4)
        whole.paste(small, (x, y))
        pencil.text((x, y + side - 3), text[:28], "black")
    return whole


def _thumbnail(path: Path, side: int) -> Image.Image:
    if path.suffix == ".heic":
        import pillow_heif

        pillow_heif.register_heif_opener()
    with Image.open(path) as opened:
        opened.seek(getattr(opened, "n_frames", 1) - 1)
        image = ImageOps.exif_transpose(opened.copy())
    if image.mode.startswith(("I", "F")) or (image.mode == "L" and image.getextrema()[1] < 17):
        values = np.nan_to_num(np.asarray(image, np.float32))
        image = Image.fromarray((255 * values / max(values.max(), 1e-9)).astype(np.uint8))
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    small = image.convert("RGB")
    small.thumbnail((side, side))
    return small if max(small.size) >= 60 else small.resize([2 * n for n in small.size])


def show(folder: Path, files: dict[str, list[Path]], found: dict[str, Answer]) -> None:
    """Writes a sheet KIND.png of the pictures that were not read as they should be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, paths in files.items():
        cells = []
        for path in paths:
            answer, shown = found.get(str(path), Answer()), label(path)
            if verdict(shown, answer) == ("right" if shown else "refused"):
                continue
            said = answer.text + (" (unsure)" if answer.some_unsure else "") or "refused"
            cells.append((path, f"{path.name[:4]} {shown or 'none'}: {said}"))
        if cells:
            sheet(cells[:80]).save(folder / f"{name}.png")


def measure(files: dict[str, list[Path]], found: dict[str, Answer]) -> dict[str, dict]:
    """The figures of each kind."""
    return {
        name: figures(
            [label(path) for path in paths], [found.get(str(path), Answer()) for path in paths]
        )
        for name, paths in files.items()
    }


# A process's peak includes that of the process which started it, so a small one has to.
_LAUNCH = """
import pathlib, resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
pathlib.Path(sys.argv[1]).write_text(str(peak))
sys.exit(status)
"""


def speed(command: list[str], workdir: str, folder: Path, data_dir: str | None) -> str:
    """How long predict takes for 1,000 photographs of 12 megapixels, and its peak of memory."""
    names = ["photo_12mp", "table_12mp"]
    files = write(folder, names, 10, data_dir=data_dir)
    copies = []
    for copy in range(50):
        (folder / "copies" / str(copy)).mkdir(parents=True, exist_ok=True)
        for path in (path for name in names for path in files[name]):
            target = folder / "copies" / str(copy) / f"{path.parent.name}_{path.name}"
            if not target.exists():
                os.link(path, target)
            copies.append(target)
    start, memory = time.perf_counter(), folder / "memory"
    found = predict([sys.executable, "-c", _LAUNCH, str(memory), *command], workdir, copies)
    seconds, peak = time.perf_counter() - start, int(memory.read_text()) * 1024  # Linux has KiB.
    return (
        f"{len(copies):,} photographs of 12 megapixels: {seconds:.0f} s, at most "
        f"{peak / 1e9:.2f} GB of memory; {len(found):,} answered."
    )


def chosen(text: str) -> list[str]:
    """The kinds that a list of kinds and groups names; "clean" is always with those of one digit.

    Raises:
      SystemExit: there is no such kind or group.
    """
    names: list[str] = []
    for word in filter(None, text.split(",")):
        within = [name for name, kind in KINDS.items() if word in (name, kind.group)]
        if not within:
            sys.exit(f"error: no kind or group {word!r}; groups: {', '.join(_GROUPS)}; kinds: "
                     f"{', '.join(KINDS)}")  # fmt: skip
        names += within
    if any(KINDS[name].count == 1 and not KINDS[name].source for name in names):
        names.insert(0, "clean")
    if not text:
        names = list(KINDS)
        if not importlib.util.find_spec("sklearn"):
            names.remove("sklearn")
            print("the kind sklearn is left out: scikit-learn is not installed", file=sys.stderr)
    return list(dict.fromkeys(names))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="the run whose network predicts")
    parser.add_argument("--kinds", default="", help="kinds and groups, with commas; all if empty")
    parser.add_argument("--n", type=int, default=100, help="pictures of each kind")
    parser.add_argument("--source", default="mnist", choices=["mnist", "sklearn"])
    parser.add_argument("--seed", type=int, default=0, help="of the digits and of all choices")
    parser.add_argument("--folder", type=Path, help="where the pictures are kept, and looked for")
    parser.add_argument("--data_dir", help="tfds's folder, with MNIST prepared")
    parser.add_argument("--predict", default="jaxmnist predict", help="the command to measure")
    parser.add_argument("--show", type=Path, help="a folder for sheets of what was not read")
    parser.add_argument("--results", type=Path, help="a JSON file for the figures")
    parser.add_argument("--before", type=Path, help="a JSON file of --results to compare with")
    parser.add_argument("--speed", action="store_true", help="time 1,000 large photographs instead")
    args = parser.parse_args(argv)

    command, names = shlex.split(args.predict), chosen(args.kinds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if args.speed:
            print(speed(command, args.workdir, folder, args.data_dir))
            return
        files = write(folder, names, args.n, args.source, args.seed, args.data_dir)
        found = predict(command, args.workdir, [p for paths in files.values() for p in paths])
        kinds = measure(files, found)
        if args.show:
            show(args.show, files, found)
    results = {"n": args.n, "source": args.source, "summary": summary(kinds), "kinds": kinds}
    before = json.loads(args.before.read_text(encoding="utf-8")) if args.before else None
    print(table(results, before))
    if args.results:
        args.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
