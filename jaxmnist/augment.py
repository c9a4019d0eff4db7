"""Random variations of training images, as pure functions of a key and a batch.

Images are float32 of (batch, height, width, channels). Each image has draws of its own, which
depend on the key and its place in the batch alone, however the batch is spread over devices. A
strength of 0 changes no bit.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxmnist.calls import parse_calls
from jaxmnist.errors import UserError

Images = Float[Array, "batch height width channels"]
Places = Float[Array, "batch height width"]

# The least and the most of every argument.
LIMITS = {
    "rotate": (0, 180),
    "shift": (0, 1000),
    "scale": (0, 0.9),
    "shear": (0, 10),
    "alpha": (0, 1000),
    "sigma": (0.1, 100),
    "size": (0, 1000),
    "thin": (0, 1),
    "thick": (0, 1),
    "gaps": (0, 1),
    "remains": (0, 1),
    "share": (0, 1),
}


@dataclasses.dataclass(frozen=True)
class Augment:
    """Transformations of images, one after the other; none is False.

    Equal by value, so that runs which differ in other things share a compiled step.

    Attributes:
      calls: their names in TRANSFORMATIONS, each with all its arguments.
    """

    calls: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.calls)

    def __call__(self, key: Key[Array, ""], images: Images) -> Images:
        """The images, varied."""
        for i, (name, arguments) in enumerate(self.calls):
            images = TRANSFORMATIONS[name](jax.random.fold_in(key, i), images, **dict(arguments))
        return images


NO_AUGMENT = Augment()


def create_augment(text: str) -> Augment:
    """The transformations of a config's `augment`, such as "affine(rotate=9), elastic()".

    Args:
      text: names of TRANSFORMATIONS with keyword arguments, with commas between them.

    Raises:
      UserError: there is no such transformation or argument, or a value is not allowed.
    """
    where = f"augment={text!r} is not allowed"
    try:
        calls = parse_calls(text)
    except ValueError:
        raise UserError(
            f"{where}: it must be names with keyword arguments and commas between them, such as "
            "'affine(rotate=12, shift=2), elastic(alpha=25)'."
        ) from None
    found = []
    for name, kwargs in calls:
        if name not in TRANSFORMATIONS:
            raise UserError(f"{where}: {name!r} is none of {', '.join(TRANSFORMATIONS)}.")
        _, _, *parameters = inspect.signature(TRANSFORMATIONS[name]).parameters.values()
        arguments = {parameter.name: parameter.default for parameter in parameters}
        for argument, value in kwargs.items():
            if argument not in arguments:
                raise UserError(f"{where}: {name} takes {', '.join(arguments)}, not {argument!r}.")
            least, most = LIMITS[argument]
            if type(value) not in (int, float) or not least <= value <= most:
                raise UserError(f"{where}: {argument} must be a number from {least} to {most:,}.")
        arguments |= kwargs
        found.append((name, tuple((argument, float(v)) for argument, v in arguments.items())))
    return Augment(tuple(found))


def affine(
    key: Key[Array, ""],
    images: Images,
    rotate: float = 12.0,
    shift: float = 2.0,
    scale: float = 0.1,
    shear: float = 0.1,
) -> Images:
    """Turns, moves, resizes and slants each image by amounts drawn uniformly from [-x, x].

    Args:
      key: of the draws.
      images: the images.
      rotate: degrees.
      shift: pixels, down and to the right, drawn apart.
      scale: of the size, relative: 0.1 is from 0.9 to 1.1 times.
      shear: the tangent of the slant's angle.
    """
    return transform(images, *_drawn_affine(key, len(images), rotate, shift, scale, shear))


def _drawn_affine(
    key: Key[Array, ""], count: int, rotate: float, shift: float, scale: float, shear: float
) -> tuple[Float[Array, "count 2 2"], Float[Array, "count 2"]]:
    """The matrices and shifts of `transform` for as many images."""
    most = np.array([math.radians(rotate), scale, shear, shift, shift], np.float32)
    draws = jax.random.uniform(key, (count, 5), minval=-1.0) * most[None]
    angles, scales, shears = draws[:, 0], 1.0 + draws[:, 1], draws[:, 2]
    return affine_matrix(angles, scales, shears), draws[:, 3:]


def affine_matrix(
    angles: Float[Array, " batch"], scales: Float[Array, " batch"], shears: Float[Array, " batch"]
) -> Float[Array, "batch 2 2"]:
    """From a place (down, right of the centre) in a result to that in the image it is made from.

    It undoes: slanting by `shears` to the right for a pixel down, then turning by `angles`
    radians from down to right, counterclockwise on the screen, then growing by `scales`.
    """
    cos, sin = jnp.cos(angles) / scales, jnp.sin(angles) / scales
    rows = [cos, sin, -sin - shears * cos, cos - shears * sin]
    return jnp.stack(rows, axis=1).reshape(-1, 2, 2)


def transform(
    images: Images, matrices: Float[Array, "batch 2 2"], shifts: Float[Array, "batch 2"]
) -> Images:
    """Images with the pixels at centre + matrix (place - centre - shift) of those that are given.

    Args:
      images: the images.
      matrices: about the centre, from places (row, column) in the result to places in the image.
      shifts: by how many pixels the result is then moved, down and to the right.
    """
    return warp(images, *_places(images, matrices, shifts))


def _places(
    images: Images,
    matrices: Float[Array, "batch 2 2"],
    shifts: Float[Array, "batch 2"],
    moved: Float[Array, "2 batch height width"] | None = None,
) -> tuple[Places, Places]:
    """The rows and columns of `transform`; `moved` are added to places of the result first."""
    _, height, width, _ = images.shape
    middle, centre = (height - 1) / 2, (width - 1) / 2
    down = _range(height)[None, :, None] - middle - shifts[:, :1, None]
    right = _range(width)[None, None, :] - centre - shifts[:, 1:, None]
    if moved is not None:
        down, right = down + moved[0], right + moved[1]
    m = matrices[:, :, :, None, None]
    rows = m[:, 0, 0] * down + m[:, 0, 1] * right + middle
    return rows, m[:, 1, 0] * down + m[:, 1, 1] * right + centre


def elastic(key: Key[Array, ""], images: Images, alpha: float = 25.0, sigma: float = 4.0) -> Images:
    """Moves each pixel by a smooth random field (Simard et al., 2003).

    That is noise, uniform in [-1, 1], smoothed by a Gaussian and multiplied: by the defaults
    pixels move by 1 in the root mean square, down and to the right.

    Args:
      key: of the draws.
      images: the images.
      alpha: what the smoothed noise is multiplied by, in pixels.
      sigma: the Gaussian's standard deviation, in pixels.
    """
    batch, height, width, _ = images.shape
    down, right = alpha * smooth(noise(key, (batch, height, width)), sigma)
    return warp(images, _range(height)[None, :, None] + down, _range(width)[None, None] + right)


def distort(
    key: Key[Array, ""],
    images: Images,
    rotate: float = 15.0,
    shift: float = 2.5,
    scale: float = 0.15,
    shear: float = 0.2,
    alpha: float = 25.0,
    sigma: float = 4.0,
    share: float = 0.7,
) -> Images:
    """`affine` and `elastic` in one, of a share of the images, which stay sharp.

    Each bilinear resampling blurs, and a network that sees only blurred images is worse on those
    that are as they were scanned. So this takes pixels once, by cubic convolution (`warp_sharp`),
    and leaves the other images as they are.

    Args:
      key: of the draws.
      images: the images.
      rotate: degrees.
      shift: pixels, down and to the right, drawn apart.
      scale: of the size, relative: 0.1 is from 0.9 to 1.1 times.
      shear: the tangent of the slant's angle.
      alpha: what elastic's smoothed noise is multiplied by, in pixels.
      sigma: its Gaussian's standard deviation, in pixels.
      share: of the images that are varied.
    """
    batch, height, width, _ = images.shape
    for_affine, for_elastic, for_share = jax.random.split(key, 3)
    matrices, shifts = _drawn_affine(for_affine, batch, rotate, shift, scale, shear)
    moved = alpha * smooth(noise(for_elastic, (batch, height, width)), sigma)
    rows, columns = _places(images, matrices, shifts, moved)
    return _of_share(for_share, share, images, warp_sharp(images, rows, columns))


def flip(key: Key[Array, ""], images: Images, share: float = 0.5) -> Images:
    """Mirrors a share of the images, left to right: for clothes, say, not for digits.

    Args:
      key: of the draws.
      images: the images.
      share: of the images that are mirrored.
    """
    return _of_share(key, share, images, images[:, :, ::-1])


def _of_share(key: Key[Array, ""], share: float, images: Images, varied: Images) -> Images:
    is_chosen = jax.random.uniform(key, (len(images), 1, 1, 1)) < share
    return jnp.where(is_chosen, varied, images)


def noise(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "2 ..."]:
    """Two independent arrays of a shape, uniform in [-1, 1].

    Drawing takes most of elastic's time, so half a word has to do for a value.
    """
    bits = jax.random.bits(key, shape, jnp.uint32)
    return jnp.stack([bits >> 16, bits & 0xFFFF]).astype(jnp.float32) / 32767.5 - 1.0


def smooth(
    fields: Float[Array, "2 batch height width"], sigma: float
) -> Float[Array, "2 batch height width"]:
    """scipy.ndimage.gaussian_filter of each field, of which the outside is 0, by two products."""
    from scipy import ndimage  # Here, since it takes a moment to load.

    matrices = [
        ndimage.gaussian_filter1d(np.eye(size, dtype=np.float32), sigma, axis=0, mode="constant")
        for size in fields.shape[2:]
    ]
    return jnp.einsum("ih,fbhw,jw->fbij", matrices[0], fields, matrices[1])


def cutout(key: Key[Array, ""], images: Images, size: float = 8.0) -> Images:
    """Makes a square of each image 0, around a place drawn uniformly (DeVries and Taylor, 2017).

    Args:
      key: of the draws.
      images: the images.
      size: the square's sides, in pixels; a part of it may lie outside.
    """
    batch, *sides, _ = images.shape
    places = jax.random.uniform(key, (batch, 2)) * np.array(sides, np.float32)[None] - 0.5
    rows, columns = (
        jnp.abs(_range(side)[None] - places[:, i : i + 1]) < size / 2
        for i, side in enumerate(sides)
    )
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], 0.0, images)


def strokes(key: Key[Array, ""], images: Images, thin: float = 0.7, thick: float = 0.7) -> Images:
    """Makes light strokes on black thinner or thicker, by an amount drawn from [-thin, thick].

    The image is mixed with its grey erosion or dilation over a pixel and its four neighbours; the
    amount is the share of that, so at 1 each edge of a stroke has moved by a pixel.

    Args:
      key: of the draws.
      images: the images.
      thin: by how many pixels each edge moves in, at most.
      thick: by how many pixels it moves out, at most.
    """
    amounts = jax.random.uniform(key, (len(images), 1, 1, 1), minval=-thin, maxval=thick)
    eroded = _of_neighbours(images, jnp.minimum)
    dilated = _of_neighbours(images, jnp.maximum)
    share = jnp.abs(amounts)
    return (1 - share) * images + share * jnp.where(amounts < 0, eroded, dilated)


def _of_neighbours(images: Images, function: Callable[[Array, Array], Array]) -> Images:
    """`function`, folded over each pixel and those above, below, left and right of it."""
    _, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    found = images
    for down, right in ((0, 1), (2, 1), (1, 0), (1, 2)):
        found = function(found, padded[:, down : down + height, right : right + width])
    return found


def lines(key: Key[Array, ""], images: Images, gaps: float = 0.2, remains: float = 0.2) -> Images:
    """Erases straight lines from some images and adds some to others.

    That is what is left of a digit on ruled paper: strokes with gaps where lines were removed, and
    pieces of lines that were not.

    Args:
      key: of the draws.
      images: the images, light on black.
      gaps: the share of images in which lines are erased.
      remains: the share in which lines are added, drawn apart.
    """
    erased, added = jax.random.split(key)
    images = images * (1 - ruled_lines(erased, images.shape, gaps))
    return jnp.maximum(images, ruled_lines(added, images.shape, remains))


def ruled_lines(
    key: Key[Array, ""], shape: tuple[int, ...], share: float
) -> Float[Array, "batch height width 1"]:
    """How bright lines in a share of the images make each pixel, in [0, 1].

    The lines of an image are parallel, horizontal or vertical within 3 degrees, 6 to 24 pixels
    apart, 0.3 to 1.5 pixels wide, 0.3 to 1 bright, and begin and end alike.
    """
    batch, height, width, _ = shape
    draws = jax.random.uniform(key, (batch, 9))[..., None, None, None]
    tilt, offset, spacing, thickness, strength, middle, reach = (
        least + (most - least) * draws[:, i]
        for i, (least, most) in enumerate(
            [(-0.05, 0.05), (0, 24), (6, 24), (0.3, 1.5), (0.3, 1), (-1, 1), (0.2, 1)]
        )
    )
    down = (_range(height) - (height - 1) / 2)[None, :, None, None]
    right = (_range(width) - (width - 1) / 2)[None, None, :, None]
    is_vertical, is_chosen = draws[:, 7] < 0.5, draws[:, 8] < share
    across = jnp.where(is_vertical, right + tilt * down, down + tilt * right)
    along = jnp.where(is_vertical, down * (2 / height), right * (2 / width))
    distance = jnp.abs((across + offset) % spacing - spacing / 2)
    covered = jnp.clip((thickness + 1) / 2 - distance, 0, jnp.minimum(thickness, 1))
    return jnp.where(is_chosen & (jnp.abs(along - middle) < reach), strength * covered, 0.0)


def corrupt(key: Key[Array, ""], images: Images, share: float = 0.3) -> Images:
    """Spoils the first images of a batch, each tenth of them in one of ten ways.

    They get noise; black and white pixels; less contrast and a lighter background; blur; lines as
    `lines` adds them; fog; outlines in place of strokes; grey blocks; a shift by up to 4 pixels; or
    a band in which black and white are swapped; how much is drawn for each. Batches are shuffled,
    so which images come first is random. If each way computed all images, that would take as long
    as a third of a step. The share is rounded to whole images, and of few images some ways get
    none.

    Args:
      key: of the draws.
      images: the images.
      share: of the images that are spoiled.
    """
    ends = [round(share * len(images) * i / len(_WAYS)) for i in range(len(_WAYS) + 1)]
    parts = []
    for i, spoil in enumerate(_WAYS):
        part = images[ends[i] : ends[i + 1]]
        if len(part):
            for_amounts, for_pixels = jax.random.split(jax.random.fold_in(key, i))
            amounts = jax.random.uniform(for_amounts, (3, len(part), 1, 1, 1))
            parts.append(jnp.clip(spoil(for_pixels, part, *amounts), 0.0, 1.0))
    return jnp.concatenate([*parts, images[ends[-1] :]])


def _noisy(key, images, a, b, c):
    return images + 0.4 * a * jax.random.normal(key, images.shape)


def _with_black_and_white(key, images, a, b, c):
    draws = jax.random.uniform(key, (*images.shape[:3], 1))
    changed = jnp.where(draws < 0.175 * a, 0.0, 1.0)
    return jnp.where(draws < 0.35 * a, changed, images)


def _faint(key, images, a, b, c):
    return 0.7 * a + (0.3 + 0.7 * b) * images


def _blurred(key, images, a, b, c):
    sigma = (0.5 + 1.2 * a)[..., 0]
    along = []
    for size in images.shape[1:3]:
        distance = _range(size)[:, None] - _range(size)[None]
        weights = jnp.exp(-(distance[None] ** 2) / (2 * sigma**2))
        along.append(weights / weights.sum(-1, keepdims=True))
    return jnp.einsum("nih,nhwc,njw->nijc", along[0], images, along[1])


def _with_lines(key, images, a, b, c):
    return jnp.maximum(images, ruled_lines(key, images.shape, 1.0))


def _in_fog(key, images, a, b, c):
    heights = 25 * jnp.abs(smooth(noise(key, images.shape[:3]), 4.0)[0, ..., None])
    return (0.4 + 0.6 * b) * images + a * jnp.minimum(heights, 1.0)


def _outlined(key, images, a, b, c):
    edges = _of_neighbours(images, jnp.maximum) - _of_neighbours(images, jnp.minimum)
    return (1 + a) * edges


def _with_blocks(key, images, a, b, c):
    batch, height, width, _ = images.shape
    is_grey = jax.random.uniform(key, (batch, 4, 4)) < 0.3 * a[..., 0]
    rows, columns = (np.arange(size) * 4 // size for size in (height, width))
    return jnp.where(is_grey[:, rows][:, :, columns][..., None], b, images)


def _moved(key, images, a, b, c):
    unchanged = jnp.tile(jnp.eye(2)[None], (len(images), 1, 1))
    return transform(images, unchanged, jnp.stack([8 * a - 4, 8 * b - 4], 1).reshape(-1, 2))


def _with_a_band(key, images, a, b, c):
    _, height, width, _ = images.shape
    is_row = c < 0.5
    place = jnp.where(is_row, _range(height)[None, :, None, None] / height, 0.0)
    place += jnp.where(is_row, 0.0, _range(width)[None, None, :, None] / width)
    start, end = 1.15 * a - 0.15, 1.15 * a + 0.35 * b
    return jnp.where((place >= start) & (place < end), 1 - images, images)


_WAYS = (
    *(_noisy, _with_black_and_white, _faint, _blurred, _with_lines),
    *(_in_fog, _outlined, _with_blocks, _moved, _with_a_band),
)


def warp(images: Images, rows: Places, columns: Places) -> Images:
    """Images with the pixels at other places of those that are given, bilinear between pixels.

    Outside of an image is 0, which its outermost pixels fade to within a pixel's distance: that is
    SciPy's mode "grid-constant". jax.scipy.ndimage.map_coordinates under jax.vmap does the same,
    but a step with affine and elastic then takes a tenth longer on two cores.

    Args:
      images: the images.
      rows: where each pixel comes from, counted from 0, with fractions.
      columns: likewise.
    """
    batch, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(batch, -1, channels)
    top, down = _whole_and_rest(rows, height)
    left, right = _whole_and_rest(columns, width)
    first = (top * (width + 2) + left).reshape(batch, -1, 1)

    def pixels(offset: int) -> Images:
        # Within each image, so that XLA needs no other device's images.
        found = jnp.take_along_axis(padded, first + offset, axis=1, mode="clip")
        return found.reshape(images.shape)

    upper, lower = (
        (1 - right) * pixels(offset) + right * pixels(offset + 1) for offset in (0, width + 2)
    )
    return (1 - down) * upper + down * lower


def warp_sharp(images: Images, rows: Places, columns: Places) -> Images:
    """`warp` by cubic convolution (Keys 1981, a = -1/2), which blurs less, clipped to [0, 1]."""
    batch, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0))).reshape(batch, -1, channels)
    top, down = _first_and_weights(rows, height)
    left, right = _first_and_weights(columns, width)
    first = (top * (width + 6) + left).reshape(batch, -1, 1)

    def add_row(i, result):
        # A loop, whose result XLA cannot compute anew for each transformation that follows.
        for j in range(4):
            index = first + (i * (width + 6) + j)
            pixels = jnp.take_along_axis(padded, index, axis=1, mode="clip").reshape(images.shape)
            result += down[i] * right[j] * pixels
        return result

    result = jax.lax.fori_loop(0, 4, add_row, jnp.zeros_like(images))
    return jnp.clip(result, 0.0, 1.0)


def _first_and_weights(places: Places, size: int):
    """Of places in an image with a margin of three pixels, the first of four and their weights."""
    places = jnp.clip(places + 3, 1, size + 4)
    whole = jnp.minimum(jnp.floor(places), size + 3)
    t = (places - whole)[..., None]
    weights = [
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]
    return whole.astype(jnp.int32) - 1, jnp.stack(weights)


def _whole_and_rest(places: Places, size: int):
    """Of places in an image with a margin of a pixel, the pixel before each and the rest."""
    places = jnp.clip(places + 1, 0, size + 1)
    whole = jnp.minimum(jnp.floor(places), size)
    return whole.astype(jnp.int32), (places - whole)[..., None]


def _range(size: int) -> Float[Array, " size"]:
    return jnp.arange(size, dtype=jnp.float32)


# By the names that a config has.
TRANSFORMATIONS: dict[str, Callable[..., Array]] = {
    function.__name__: function
    for function in (affine, elastic, distort, flip, cutout, strokes, lines, corrupt)
}
