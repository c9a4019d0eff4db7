"""What a picture of handwriting is made of: ink, paper, light, dirt, surroundings and files.

A page is written on white; layers, which are functions of a page, change it one after the other.
"""

import functools
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont

if TYPE_CHECKING:
    from experiments.benchmarks.picture_kinds import Kind

GRID, BOX = 168, 120  # The side of a digit's field, and of the box within it that MNIST's fill.
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


def scan_file(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
    return _bytes(_rgb(image).convert("L"), ".png")


# Inputs of 28x28, which are not photographed.


def on_28x28(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]):
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


def moved(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    inner = _cut_out(digit)
    corner = rng.integers(2, size=2) * (28 - np.array(inner.shape))
    return _put(inner, *corner.tolist())


def _scaled(digit: np.ndarray, side: int) -> np.ndarray:
    inner = _cut_out(digit)
    h, w = (max(round(n * side / max(inner.shape)), 1) for n in inner.shape)
    return np.asarray(Image.fromarray(inner).resize((w, h), Image.Resampling.BICUBIC))


def in_corner(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    small = _scaled(digit, int(rng.integers(12, 15)))
    top, left = (int(rng.choice([1, 27 - n])) for n in small.shape)
    return _put(small, top, left)


def filling(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    large = _scaled(digit, 28)
    return _put(large, (28 - large.shape[0]) // 2, (28 - large.shape[1]) // 2)


def enlarged(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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


def text(characters: str):
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
def scribble(pencil: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    t = np.linspace(0, rng.uniform(30, 60), 600)
    x = GRID / 2 + 50 * np.sin(t * rng.uniform(0.9, 1.2)) * np.cos(t * 0.13)
    y = GRID / 2 + 45 * np.sin(t * rng.uniform(0.5, 0.8) + 1) + 10 * np.sin(t * 2.3)
    pencil.line(list(zip(x.tolist(), y.tolist(), strict=True)), 255, 5)


@_glyph
def face(pencil: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    pencil.ellipse((28, 28, 140, 140), outline=255, width=6)
    for x in (64, 104):
        pencil.ellipse((x - 7, 60, x + 7, 74), fill=255)
    turn = (20, 160) if rng.random() < 0.7 else (200, 340)
    pencil.arc((56, 70, 112, 120), *turn, fill=255, width=6)


@_glyph
def shape(pencil: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
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
