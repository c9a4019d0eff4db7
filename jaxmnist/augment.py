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
    most = np.array([math.radians(rotate), scale, shear, shift, shift], np.float32)
    draws = jax.random.uniform(key, (len(images), 5), minval=-1.0) * most[None]
    angles, scales, shears = draws[:, 0], 1.0 + draws[:, 1], draws[:, 2]
    return transform(images, affine_matrix(angles, scales, shears), draws[:, 3:])


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
    _, height, width, _ = images.shape
    middle, centre = (height - 1) / 2, (width - 1) / 2
    down = _range(height)[None, :, None] - middle - shifts[:, :1, None]
    right = _range(width)[None, None, :] - centre - shifts[:, 1:, None]
    m = matrices[:, :, :, None, None]
    rows = m[:, 0, 0] * down + m[:, 0, 1] * right + middle
    return warp(images, rows, m[:, 1, 0] * down + m[:, 1, 1] * right + centre)


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


def _whole_and_rest(places: Places, size: int):
    """Of places in an image with a margin of a pixel, the pixel before each and the rest."""
    places = jnp.clip(places + 1, 0, size + 1)
    whole = jnp.minimum(jnp.floor(places), size)
    return whole.astype(jnp.int32), (places - whole)[..., None]


def _range(size: int) -> Float[Array, " size"]:
    return jnp.arange(size, dtype=jnp.float32)


# By the names that a config has.
TRANSFORMATIONS: dict[str, Callable[..., Array]] = {
    function.__name__: function for function in (affine, elastic, cutout, strokes, lines)
}
