"""Augmentation beside SciPy's, what strength 0 leaves, and the sentences for what is refused."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxmnist import augment
from jaxmnist.augment import Augment, create_augment
from jaxmnist.errors import UserError

KEY = jax.random.key(0)
ALL = "affine(), elastic(), distort(), flip(), cutout(), strokes(), lines(), corrupt()"


@pytest.fixture(scope="module", params=[(28, 28, 1), (9, 14, 3)], ids=str)
def images(request):
    """Noise up to the edges, so that every pixel tells."""
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.random((6, *request.param)), jnp.float32)


def each_plane(function, images):
    """function(i, plane) of every channel of every image."""
    planes = np.moveaxis(np.asarray(images, np.float64), 3, 1)
    found = [[function(i, plane) for plane in image] for i, image in enumerate(planes)]
    return np.moveaxis(np.array(found), 1, 3)


@jax.jit
def transform(images, angle=0.0, scale=1.0, shear=0.0, shift=(0.0, 0.0)):
    """Each image transformed in the same way."""
    count = len(images)
    full = (jnp.full(count, value, jnp.float32) for value in (angle, scale, shear))
    matrices = augment.affine_matrix(*full)
    return augment.transform(
        images, matrices, jnp.tile(jnp.array(shift, jnp.float32)[None], (count, 1))
    )


@pytest.mark.parametrize(
    "text",
    [
        "affine(rotate=0, shift=0, scale=0, shear=0), elastic(alpha=0, sigma=1), cutout(size=0)",
        "strokes(thin=0, thick=0), lines(gaps=0, remains=0)",
        "distort(rotate=0, shift=0, scale=0, shear=0, alpha=0, share=1)",
        "distort(share=0), flip(share=0), corrupt(share=0)",
        "",
    ],
)
def test_strength_0_is_the_identity(images, text):
    np.testing.assert_array_equal(jax.jit(create_augment(text))(KEY, images), images)


@pytest.mark.parametrize("shift", [(2, 0), (0, -3), (-1, 4), (40, 0)])
def test_a_whole_shift_moves_down_and_right(images, shift):
    expected = each_plane(lambda i, x: ndimage.shift(x, shift, order=0, mode="constant"), images)
    np.testing.assert_array_equal(transform(images, shift=shift), expected)


@pytest.mark.parametrize(
    ("amounts", "forward"),
    [
        ({"angle": np.radians(30)}, lambda d, r: (d * 3**0.5 / 2 - r / 2, d / 2 + r * 3**0.5 / 2)),
        ({"angle": np.radians(-90)}, lambda d, r: (r, -d)),
        ({"scale": 1.25}, lambda d, r: (1.25 * d, 1.25 * r)),
        ({"shear": 0.25}, lambda d, r: (d, r + 0.25 * d)),
        ({"shift": (1.5, -0.25)}, lambda d, r: (d + 1.5, r - 0.25)),
        # Slanted, then turned, then grown, then moved.
        (
            {"angle": np.pi / 2, "scale": 0.5, "shear": 0.5, "shift": (1.0, 2.0)},
            lambda d, r: (1 - 0.5 * (r + 0.5 * d), 2 + 0.5 * d),
        ),
    ],
)
def test_affine_maps_beside_scipy(images, amounts, forward):
    """`forward` tells where a place, down and to the right of the centre, is moved to."""
    moved = np.array(forward(0.0, 0.0))
    matrix = np.stack([np.array(forward(*axis)) - moved for axis in np.eye(2)], axis=1)
    inverse, centre = np.linalg.inv(matrix), (np.array(images.shape[1:3]) - 1) / 2
    offset = centre - inverse @ (centre + moved)

    def expected(_, x):
        return ndimage.affine_transform(x, inverse, offset, order=1, mode="grid-constant")

    np.testing.assert_allclose(
        transform(images, **amounts), each_plane(expected, images), rtol=0, atol=1e-5
    )


def test_a_known_turn_is_counterclockwise(images):
    square = images[:, :9, :9]
    np.testing.assert_allclose(
        transform(square, angle=np.pi / 2), np.rot90(square, axes=(1, 2)), rtol=0, atol=1e-5
    )


def test_draws_are_uniform_up_to_each_strength(monkeypatch):
    """What is drawn for 4,000 images is between -x and x, and nearly as far as that."""
    drawn = []
    made = augment.affine_matrix
    monkeypatch.setattr(augment, "affine_matrix", lambda *args: drawn.extend(args) or made(*args))
    monkeypatch.setattr(augment, "transform", lambda x, _, shifts: drawn.append(shifts) or x)
    augment.affine(KEY, jnp.zeros((4000, 1, 1, 1)), rotate=90.0, shift=3.0, scale=0.2, shear=0.5)
    angles, scales, shears, shifts = drawn
    for values, most in (
        (angles, np.pi / 2),
        (scales - 1, 0.2),
        (shears, 0.5),
        (shifts[:, 0], 3),
        (shifts[:, 1], 3),
    ):
        quantiles = np.quantile(values / most, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(quantiles, [-1, -0.5, 0, 0.5, 1], atol=0.05)
    draws = np.stack([angles, scales, shears, *shifts.T])
    np.testing.assert_allclose(np.corrcoef(draws), np.eye(5), atol=0.1)


@pytest.mark.parametrize(("alpha", "sigma"), [(25.0, 4.0), (8.0, 1.5)])
def test_elastic_beside_scipy(images, alpha, sigma):
    fields = np.asarray(augment.noise(KEY, images.shape[:3]), np.float64)
    grid = np.mgrid[: images.shape[1], : images.shape[2]]

    def expected(i, x):
        smooth = [ndimage.gaussian_filter(field[i], sigma, mode="constant") for field in fields]
        places = grid + alpha * np.array(smooth)
        return ndimage.map_coordinates(x, places, order=1, mode="grid-constant")

    np.testing.assert_allclose(
        augment.elastic(KEY, images, alpha, sigma), each_plane(expected, images), rtol=0, atol=2e-5
    )


def test_noise_is_uniform_and_its_halves_are_independent():
    a, b = np.asarray(augment.noise(KEY, (100_000,)))
    for values in (a, b):
        quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(quantiles, [-1, -0.5, 0, 0.5, 1], atol=0.01)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02


def test_cubic_convolution_beside_its_definition(images):
    """Keys' kernel in float64 over all pixels, of which those outside are 0."""
    rng, (batch, height, width, _) = np.random.default_rng(1), images.shape
    rows = rng.uniform(-3, height + 2, (batch, height, width))
    columns = rng.uniform(-3, width + 2, (batch, height, width))

    def weights(places, size):
        d = np.abs(places[..., None] - np.arange(size))
        outer = np.where(d < 2, -(d**3) / 2 + 5 * d**2 / 2 - 4 * d + 2, 0)
        return np.where(d <= 1, 3 * d**3 / 2 - 5 * d**2 / 2 + 1, outer)

    def expected(i, x):
        of_rows, of_columns = weights(rows[i], height), weights(columns[i], width)
        return np.clip(np.einsum("hwi,hwj,ij->hw", of_rows, of_columns, x), 0, 1)

    found = augment.warp_sharp(images, *(jnp.asarray(p, jnp.float32) for p in (rows, columns)))
    np.testing.assert_allclose(found, each_plane(expected, images), rtol=0, atol=2e-5)


def test_distort_is_affine_and_elastic_in_one(images, monkeypatch):
    """Each alone, with the same draws and the same resampling, is the other function's."""
    monkeypatch.setattr(jax.random, "split", lambda key, count: [key] * count)
    monkeypatch.setattr(augment, "warp_sharp", augment.warp)
    amounts = {"rotate": 40.0, "shift": 3.0, "scale": 0.2, "shear": 0.3}
    found = augment.distort(KEY, images, **amounts, alpha=0.0, share=1.0)
    np.testing.assert_allclose(found, augment.affine(KEY, images, **amounts), rtol=0, atol=1e-5)
    none = dict.fromkeys(amounts, 0.0)
    found = augment.distort(KEY, images, **none, alpha=9.0, sigma=2.0, share=1.0)
    np.testing.assert_allclose(found, augment.elastic(KEY, images, 9.0, 2.0), rtol=0, atol=1e-5)


def test_distort_and_flip_leave_the_other_images_as_they_are():
    images = jax.random.uniform(KEY, (3000, 6, 7, 2))
    changed = (augment.distort(KEY, images, share=0.7) != images).any((1, 2, 3))
    assert np.mean(changed) == pytest.approx(0.7, abs=0.03)
    flipped = np.asarray(augment.flip(KEY, images, share=0.2))
    changed = (flipped != np.asarray(images)).any((1, 2, 3))
    assert np.mean(changed) == pytest.approx(0.2, abs=0.03)
    np.testing.assert_array_equal(flipped[changed], np.asarray(images)[changed, :, ::-1])


def test_corrupt_spoils_the_first_images_alone():
    images = jax.random.uniform(KEY, (100, 28, 28, 2), maxval=0.9)
    found = np.asarray(augment.corrupt(KEY, images, share=0.3))
    changed = (found != np.asarray(images)).any((1, 2, 3))
    assert changed[:30].mean() > 0.9  # A band or blocks may miss an image.
    assert not changed[30:].any()


@pytest.fixture(scope="module")
def spoiled():
    """A bright square on grey in 200 images, and what each of the ten ways made of 20 of them."""
    images = jnp.full((200, 28, 28, 1), 0.25).at[:, 8:20, 8:20].set(0.75)
    found = np.asarray(augment.corrupt(KEY, images, share=1.0))[..., 0]
    assert found.min() >= 0
    assert found.max() <= 1
    return np.asarray(images)[0, ..., 0], found.reshape(10, 20, 28, 28)


def test_noise_and_single_pixels(spoiled):
    image, (noisy, pixels, *_) = spoiled
    spread = (noisy - image).std((1, 2))
    assert 0.2 < spread.max() < 0.4
    assert spread.min() < 0.1
    black, white = (pixels == 0).mean((1, 2)), (pixels == 1).mean((1, 2))
    np.testing.assert_array_equal(pixels[(pixels > 0) & (pixels < 1)] * 4 % 2, 1)
    assert 0.1 < black.max() < 0.21
    np.testing.assert_allclose(black, white, atol=0.06)


def test_contrast_blur_and_lines(spoiled):
    image, (_, _, faint, blurred, lined, *_) = spoiled
    contrast, background = faint[:, 9, 9] - faint[:, 0, 0], faint[:, 0, 0]
    assert (contrast <= 0.5 + 1e-6).all()
    assert (contrast.min(), background.max()) < (0.3, 1.0)
    assert background.max() > 0.5
    np.testing.assert_allclose(blurred.mean((1, 2)), image.mean(), atol=0.01)
    steps = np.abs(np.diff(blurred[:, 14], axis=-1)).max(-1)
    assert (steps < 0.45).all()
    assert steps.min() < 0.2
    assert (lined >= image).all()
    assert (lined > image).any((1, 2)).mean() > 0.5


def test_fog_outlines_and_blocks(spoiled):
    image, (*_, fog, outlines, blocks, _, _) = spoiled
    np.testing.assert_allclose(np.abs(np.diff(fog[:, 2], axis=-1)).max(), 0.1, atol=0.1)
    assert fog[:, 0].std(0).mean() > 0.05
    np.testing.assert_array_equal(outlines[:, 12:16, 12:16], 0)
    np.testing.assert_array_equal(outlines[:, 1:6, 1:-1], 0)
    assert (outlines[:, 8, 8:20] >= 0.5).all()
    tiles = blocks.reshape(20, 4, 7, 4, 7)
    same = np.isclose(tiles, tiles[:, :, :1, :, :1]).all((2, 4))
    kept = (tiles == image.reshape(4, 7, 4, 7)).all((2, 4))
    assert (same | kept).all()
    assert 0.05 < (~kept).mean() < 0.3


def test_shifts_and_bands(spoiled):
    image, (*_, moved, banded) = spoiled
    centre = np.argwhere(moved > 0.7).mean(0)[1:]
    np.testing.assert_allclose(centre, 13.5, atol=2)
    columns = [np.argwhere(each > 0.7).mean(0) - 13.5 for each in moved]
    assert 2 < np.abs(columns).max() <= 4.01
    swapped = banded != image
    np.testing.assert_allclose(banded[swapped], (1 - image)[np.nonzero(swapped)[1:]], atol=1e-6)
    assert (swapped.all(1).any(1) | swapped.all(2).any(1) | ~swapped.any((1, 2))).all()
    assert swapped.any((1, 2)).mean() > 0.5


def test_cutout_makes_a_square_0():
    out = np.asarray(augment.cutout(KEY, jnp.ones((2000, 12, 20, 2)), size=5.0))
    assert set(np.unique(out)) == {0, 1}
    np.testing.assert_array_equal(out[..., 0], out[..., 1])
    gone = out[..., 0] == 0
    heights, widths = gone.any(2).sum(1), gone.any(1).sum(1)
    np.testing.assert_array_equal(heights * widths, gone.sum((1, 2)))
    # From whole ones to those of which half lies outside; every pixel can go.
    assert (set(heights), set(widths)) == ({3, 4, 5}, {3, 4, 5})
    assert gone.any(0).all()


def drawn_once(key, shape, minval=0.0, maxval=1.0):
    """jax.random.uniform, whose draws rise from minval to maxval over the batch."""
    steps = jnp.linspace(minval, maxval, shape[0], dtype=jnp.float32)
    return jnp.broadcast_to(steps.reshape(-1, *[1] * (len(shape) - 1)), shape)


def test_strokes_beside_scipy(images, monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", drawn_once)
    amounts, plus = np.linspace(-0.8, 0.5, len(images)), ndimage.generate_binary_structure(2, 1)

    def expected(i, x):
        morphology = ndimage.grey_erosion if amounts[i] < 0 else ndimage.grey_dilation
        moved = morphology(x, footprint=plus, mode="constant")
        return x + abs(amounts[i]) * (moved - x)

    out = augment.strokes(KEY, images, thin=0.8, thick=0.5)
    np.testing.assert_allclose(out, each_plane(expected, images), rtol=0, atol=1e-6)


def test_strokes_move_each_edge_by_a_pixel_at_most(monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", drawn_once)
    bar = jnp.zeros((3, 12, 12, 1)).at[:, :, 4:8].set(1.0)
    widths = augment.strokes(KEY, bar, thin=1.0, thick=1.0)[:, 5, :, 0].sum(axis=1)
    np.testing.assert_array_equal(widths, [2, 4, 6])


@pytest.mark.parametrize("vertical", [False, True])
def test_known_lines(monkeypatch, vertical):
    """Half of each range: no tilt, 15 pixels apart, 0.9 wide, of 0.6 of the middle."""
    draws = jnp.full((1, 9), 0.5).at[0, 7].set(0.1 if vertical else 0.9)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: draws)
    expected = np.zeros((28, 28))
    expected[[9, 24], 6:22] = 0.65 * 0.9
    found = augment.ruled_lines(KEY, (1, 28, 28, 1), 1.0)[0, ..., 0]
    np.testing.assert_allclose(found.T if vertical else found, expected, rtol=0, atol=1e-6)


def test_lines_are_erased_from_a_share_of_images_and_added_to_another():
    grey = jnp.full((2000, 28, 28, 2), 0.05)
    out = np.asarray(augment.lines(KEY, grey, gaps=0.3, remains=0.6))
    np.testing.assert_array_equal(out[..., 0], out[..., 1])
    assert (out.min(), out.max()) >= (0, 0.9)
    assert out.max() <= 1
    gaps, remains = (out < 0.05).any((1, 2, 3)), (out > 0.05).any((1, 2, 3))
    np.testing.assert_allclose([gaps.mean(), remains.mean()], [0.3, 0.6], atol=0.03)
    assert abs(np.corrcoef(gaps, remains)[0, 1]) < 0.1


ON_FOUR_DEVICES = """
import jax, numpy as np
from jaxmnist.augment import create_augment

key, function = jax.random.key(0), jax.jit(create_augment("{text}"))
images = jax.random.uniform(key, (8, 12, 12, 1))
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
out = function(key, jax.device_put(images, spread))
assert len(out.addressable_shards) == 4
np.testing.assert_allclose(out, function(key, images), rtol=0, atol=1e-6)
"""


def test_a_batch_over_several_devices_has_the_same_draws():
    """In a process of its own, since the number of devices is fixed once JAX has started."""
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # Compiles in a third of the time.
    }
    subprocess.run([sys.executable, "-c", ON_FOUR_DEVICES.format(text=ALL)], env=env, check=True)


@pytest.mark.parametrize(
    "text",
    [
        *("affine()", "elastic()", "distort(share=1)", "cutout(size=4)", "strokes(thick=0)"),
        *("lines(gaps=1)", "corrupt(share=1)"),
    ],
)
def test_draws_follow_the_key_and_differ_by_image(text):
    same = jnp.ones((20, 12, 12, 1))
    function = jax.jit(create_augment(text))
    out = np.asarray(function(KEY, same))
    np.testing.assert_array_equal(out, function(KEY, same))
    assert (out != np.asarray(function(jax.random.key(1), same))).any()
    assert len(np.unique(out.reshape(20, -1), axis=0)) > 10
    assert (out.min(), out.max()) >= (0, 0)
    assert out.max() <= 1 + 1e-6


def test_calls_are_applied_in_their_order():
    images = jax.random.uniform(KEY, (4, 9, 8, 2))
    out = create_augment("elastic(), affine(rotate=40)")(KEY, images)
    by_hand = augment.elastic(jax.random.fold_in(KEY, 0), images)
    by_hand = augment.affine(jax.random.fold_in(KEY, 1), by_hand, rotate=40.0)
    np.testing.assert_array_equal(out, by_hand)


def test_vmap_changes_no_draw():
    function, images = create_augment(ALL), jax.random.uniform(KEY, (4, 9, 8, 2))
    keys = jnp.stack([KEY, jax.random.key(1)])
    both = jax.jit(jax.vmap(function))(keys, jnp.stack([images, images]))
    for key, out in zip(keys, both, strict=True):
        np.testing.assert_allclose(jax.jit(function)(key, images), out, rtol=0, atol=1e-5)


def test_equal_by_value():
    one, same = create_augment("affine()"), create_augment(" affine(shear=0.1,rotate=12.0,shift=2)")
    assert one == same
    assert hash(one) == hash(same)
    others = [create_augment(text) for text in ("affine(shift=3)", "affine(), affine()", "elastic")]
    assert len({one, same, *others}) == 4
    assert create_augment("") == Augment()
    assert not Augment()
    assert one


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("affine(12)", "it must be names with keyword arguments and commas between them, such as"),
        ("affine() elastic()", "it must be names with keyword arguments"),
        ("affine(shift=x)", "it must be names with keyword arguments"),
        ("affine, blur(3), elastic", "it must be names with keyword arguments"),
        (
            "affine, blur",
            "'blur' is none of affine, elastic, distort, flip, cutout, strokes, lines, corrupt.",
        ),
        ("affine(angle=3)", "affine takes rotate, shift, scale, shear, not 'angle'."),
        ("elastic(key=3)", "elastic takes alpha, sigma, not 'key'."),
        ("affine(rotate=-1)", "rotate must be a number from 0 to 180."),
        ("affine(shift=1e999)", "shift must be a number from 0 to 1,000."),
        ("affine(scale=1)", "scale must be a number from 0 to 0.9."),
        ("affine(shear=True)", "shear must be a number from 0 to 10."),
        ("elastic(alpha='high')", "alpha must be a number from 0 to 1,000."),
        ("elastic(sigma=0)", "sigma must be a number from 0.1 to 100."),
        ("cutout(size=(1, 2))", "size must be a number from 0 to 1,000."),
        ("strokes(thin=1.5)", "thin must be a number from 0 to 1."),
        ("strokes(thick=-1)", "thick must be a number from 0 to 1."),
        ("lines(gaps=2)", "gaps must be a number from 0 to 1."),
        ("lines(remains=2)", "remains must be a number from 0 to 1."),
        ("corrupt(share=2)", "share must be a number from 0 to 1."),
        ("cutout(size=None)", "size must be a number from 0 to 1,000."),
    ],
)
def test_what_is_no_augmentation_is_refused_in_a_sentence(text, sentence):
    with pytest.raises(UserError) as e:
        create_augment(text)
    assert str(e.value).startswith(f"augment={text!r} is not allowed: {sentence}")
    assert str(e.value).count(". ") == 0
