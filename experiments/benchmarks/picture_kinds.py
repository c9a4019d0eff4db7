"""The kinds of pictures that predict is measured on, and their files."""

import concurrent.futures
import dataclasses
import functools
import importlib.util
import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.benchmarks.picture_layers import (
    BLACK,
    BLUE,
    GREY,
    KRAFT,
    PENCIL,
    RED,
    YELLOW,
    Layer,
    Page,
    Save,
    animation,
    bilevel,
    blur,
    clip,
    cloth,
    coffee,
    crumpled,
    deskewed,
    dots,
    enlarged,
    exif_turned,
    exposure,
    face,
    file,
    filling,
    float_with_nan,
    fold,
    form_box,
    frame,
    glare,
    gradient,
    heic,
    holes,
    in_corner,
    lab,
    landscape,
    levels,
    lies_on,
    line_below,
    margin_line,
    moved,
    noise,
    on_28x28,
    palette,
    paper,
    pen,
    perspective,
    photo,
    plain,
    ruled,
    salt_and_pepper,
    scan_file,
    scanner,
    scribble,
    shadow,
    shape,
    show_through,
    smears,
    soft_shadow,
    specks,
    spiral,
    squared,
    static,
    text,
    texture,
    thumb,
    torn,
    transparent,
    turned,
    vignette,
    wood,
)
from jaxmnist.data import datasets


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
SCAN = {"save": scan_file}
PNG = {"save": file(".png")}
INNER = {"margin": 0.23, "share": (0.25, 0.5)}
EQUAL_RED, EQUAL_GREEN = (0.8, 0.15, 0.15), (0.12, 0.46, 0.2)


def _as_grey_as(ink, colour) -> tuple[float, ...]:
    """A colour made as grey as the ink."""
    weights = np.array([0.299, 0.587, 0.114])
    return tuple(np.array(colour) * (weights @ ink) / (weights @ colour))


GROUPS: dict[str, dict[str, Kind]] = {
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
        "mnist": _kind(save=on_28x28(lambda digit, rng: digit)),
        "mnist_moved": _kind(save=on_28x28(moved)),
        "mnist_corner": _kind(save=on_28x28(in_corner)),
        "mnist_filling": _kind(save=on_28x28(filling)),
        "mnist_dark": _kind(save=on_28x28(lambda digit, rng: 255 - digit)),
    },
    "transfer": {"sklearn": _kind(save=on_28x28(enlarged), source="sklearn")},
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
        "letters": _kind(P, pen(), glyph=text("ACEFHJKMNPRTUVWXadefhkmnprtuvwx")),
        "letters_ruled": _kind(P, ruled(), pen(BLUE), glyph=text("AEFHKMNRTWXadehkmnrw")),
        "question_mark": _kind(P, pen(), glyph=text("?")),
        "symbols": _kind(P, pen(), glyph=text("&#@%*=+")),
        "scribble": _kind(P, pen(), glyph=scribble),
        "face": _kind(P, pen(), glyph=face),
        "shapes": _kind(P, pen(), glyph=shape),
    },
}  # fmt: skip
KINDS: dict[str, Kind] = {
    name: dataclasses.replace(kind, group=group)
    for group, kinds in GROUPS.items()
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
