"""The layers for CPUs compute what the plain layers compute, and so do their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxmnist import models
from jaxmnist.devices.cpu_layers import conv_pool
from jaxmnist.models import CNN
from jaxmnist.train_step import cross_entropy

# (batch, height, width, channels), k, features: the paper's two layers, then odd ones.
SHAPES = [
    ((20, 28, 28, 1), 5, 32),
    ((2, 14, 14, 32), 5, 64),
    ((3, 9, 13, 3), 3, 5),
    ((2, 7, 10, 9), 4, 6),
    ((1, 2, 2, 16), 1, 2),
]


def inputs(shape, k, features, dtype):
    """Few enough that no window has two maxima that float32 takes for equal."""
    normal = np.random.default_rng(3).standard_normal
    kernel = normal((k, k, shape[3], features)) / k
    return tuple(x.astype(dtype) for x in (normal(shape), kernel, normal(features)))


def values_and_gradients(function, args, weights=1.0):
    """Of a weighted sum of the values."""
    values, pull_back = jax.vjp(function, *args)
    return values, pull_back(jnp.broadcast_to(weights, values.shape).astype(values.dtype))


def assert_close(found, expected, tolerance):
    """Each array, to `tolerance` of its largest value."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize(
    ("shape", "dtype", "tolerance"),
    [(s, "float32", 1e-5) for s in SHAPES[:2]] + [(s, "float64", 1e-13) for s in SHAPES],
    ids=str,
)
def test_values_and_gradients_are_those_of_the_plain_layers(shape, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        args = inputs(*shape, dtype)
        weights = np.random.default_rng(2).standard_normal(
            jax.eval_shape(models.conv_pool, *args).shape
        )
        found, expected = (
            jax.jit(values_and_gradients, static_argnums=0)(f, args, weights)
            for f in (conv_pool, models.conv_pool)
        )
        assert_close(found, expected, tolerance)


@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[2], ((4, 6, 8, 3), 3, 5)], ids=str)
def test_normalized_values_and_gradients_are_those_of_the_plain_layers(shape):
    """Odd sizes and few channels too: what pooling drops is part of the mean and the variance."""

    def normalize(y):
        axes = tuple(range(y.ndim - 1))
        mean, std = y.mean(axes, keepdims=True), y.std(axes, keepdims=True)
        return (y - mean) / std

    with jax.enable_x64(True):
        args = inputs(*shape, "float64")
        weights = np.random.default_rng(2).standard_normal(
            jax.eval_shape(models.conv_pool, *args).shape
        )
        layers = [
            lambda *args, f=f: f(*map(jnp.asarray, args), None, normalize)
            for f in (conv_pool, models.conv_pool)
        ]
        found, expected = (
            jax.jit(values_and_gradients, static_argnums=0)(f, args, weights) for f in layers
        )
        assert_close(found[0], expected[0], 1e-12)
        assert_close(found[1][:2], expected[1][:2], 1e-12)
        assert np.abs(found[1][2]).max() < 1e-12, "a bias before it changes nothing"


def test_rounding_errors_do_not_open_a_relu_that_sees_only_zeros():
    """As the black part of a digit is seen with the zero biases of the first step."""
    x, kernel, bias = inputs(*SHAPES[1], "float32")
    x[:, 5:] = x[:, :, :6] = 0
    x, kernel, bias = map(jnp.asarray, (x, kernel, bias))
    expected = models.conv_pool(x, kernel, 0 * bias)
    blind = expected == 0
    assert 0.6 < blind.mean() < 0.95
    assert not conv_pool(x, kernel, 0 * bias)[blind].any()


@pytest.mark.parametrize(
    ("what", "value"),
    [("example", np.nan), ("kernel", np.nan), ("bias", np.nan), ("example", np.inf)],
)
@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_what_is_not_finite_stays_so(shape, what, value):
    """In both forms of the convolution: a CPU must not hide what other devices show."""
    args = inputs(*shape, "float32")
    i = {"example": 0, "kernel": 1, "bias": 2}[what]
    place = {"example": (1, 4, 4, 0), "kernel": (1, 1, 0, 2), "bias": (2,)}[what]
    args[i][place] = value
    (found, found_grads), (expected, expected_grads) = (
        jax.jit(values_and_gradients, static_argnums=0)(f, args)
        for f in (conv_pool, models.conv_pool)
    )
    assert not np.isfinite(expected).all()
    assert not np.isfinite(found[~np.isfinite(expected)]).any()
    for a, b in zip(found_grads, expected_grads, strict=True):
        assert np.isfinite(b).all() or not np.isfinite(a).all()
    # Other examples, or other features, are none the worse.
    rest = np.delete(found, 1, axis=0) if what == "example" else np.delete(found, 2, axis=3)
    assert np.isfinite(rest).all()


@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_gradients_agree_with_finite_differences(shape):
    with jax.enable_x64(True):
        function = jax.jit(lambda *args: conv_pool(*map(jnp.asarray, args)))
        check_grads(function, inputs(*shape, "float64"), order=1, atol=1e-6, rtol=1e-6, eps=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-12)])
def test_the_whole_network_has_the_plain_one_s_gradients(dtype, tolerance, key):
    """With dropout, for every layer's parameters, which are the same tree in both."""
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(3)
        images = jnp.asarray(rng.uniform(size=(20, 28, 28, 1)), dtype)
        labels = jnp.asarray(rng.integers(0, 10, 20), jnp.int32)
        params = CNN().init(key, images)["params"]
        params = jax.tree.map(
            lambda p: jnp.asarray(p + 0.05 * rng.standard_normal(p.shape), dtype), params
        )

        def loss_fn(params, model, images, labels):
            logits = model.apply({"params": params}, images, train=True, rngs={"dropout": key})
            return cross_entropy(logits, labels).mean()

        step = jax.jit(jax.value_and_grad(loss_fn), static_argnums=1)
        fast, expected = (
            step(params, model, images, labels) for model in (CNN(conv_pool=conv_pool), CNN())
        )
        assert_close(fast, expected, tolerance)


def test_values_without_a_gradient_are_those_of_the_plain_layers():
    """They are computed in other parts of the batch, of which the last may be larger."""
    for batch in (1, 7, 23):
        args = inputs((batch, 14, 14, 32), 5, 64, "float32")
        found, expected = (jax.jit(f)(*args) for f in (conv_pool, models.conv_pool))
        assert_close(found, expected, 1e-5)


def test_float32_that_is_asked_for_is_not_rounded():
    args = [jnp.asarray(x) for x in inputs((3, 14, 14, 32), 5, 64, "float32")]
    expected = models.conv_pool(*args)
    assert_close(conv_pool(*args, "float32"), expected, 1e-5)
    assert np.abs(conv_pool(*args, "bfloat16") - expected).max() > 1e-3
