"""The layers for CPUs compute what the plain layers compute, and so do their gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxmnist.cpu_layers import conv_pool
from jaxmnist.models import CNN, MaxPool
from jaxmnist.train import cross_entropy

# (batch, height, width, channels), k, features: the paper's two layers, then odd ones.
SHAPES = [
    ((20, 28, 28, 1), 5, 32),
    ((2, 14, 14, 32), 5, 64),
    ((3, 9, 13, 3), 3, 5),
    ((2, 7, 10, 9), 4, 6),
    ((1, 2, 2, 16), 1, 2),
]
FAST = {"xla_backend_optimization_level": 0}  # To compile.


def inputs(shape, k, features, dtype):
    """Few enough that no window has two maxima that float32 takes for equal."""
    keys = jax.random.split(jax.random.key(3), 3)
    return (
        jax.random.normal(keys[0], shape, dtype),
        jax.random.normal(keys[1], (k, k, shape[3], features), dtype) / k,
        jax.random.normal(keys[2], (features,), dtype),
    )


def plain(x, kernel, bias):
    conv = nn.Conv(kernel.shape[3], kernel.shape[:2])
    return nn.relu(MaxPool().apply({}, conv.apply({"params": {"kernel": kernel, "bias": bias}}, x)))


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
        weights = jax.random.normal(jax.random.key(2), plain(*args).shape, dtype)

        def values_and_gradients(function):
            values, pull_back = jax.vjp(function, *args)
            return values, pull_back(weights)

        options = FAST if dtype == "float64" else None
        found, expected = (
            jax.jit(values_and_gradients, static_argnums=0, compiler_options=options)(f)
            for f in (conv_pool, plain)
        )
        assert_close(found, expected, tolerance)


def test_rounding_errors_do_not_open_a_relu_that_sees_only_zeros():
    """As the black part of a digit is seen with the zero biases of the first step."""
    x, kernel, bias = inputs(*SHAPES[1], "float32")
    x = x.at[:, 5:].set(0).at[:, :, :6].set(0)
    expected = plain(x, kernel, 0 * bias)
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
    args = [x.at[place].set(value) if j == i else x for j, x in enumerate(args)]

    def values_and_gradients(function):
        values, pull_back = jax.vjp(function, *args)
        return values, pull_back(jnp.ones_like(values))

    (found, found_grads), (expected, expected_grads) = (
        jax.jit(values_and_gradients, static_argnums=0, compiler_options=FAST)(f)
        for f in (conv_pool, plain)
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
        images = jax.random.uniform(key, (20, 28, 28, 1), dtype)
        labels = jax.random.randint(key, (20,), 0, 10)
        params = CNN().init(key, images)["params"]
        params = jax.tree.map(
            lambda p: p.astype(dtype) + 0.05 * jax.random.normal(key, p.shape, dtype), params
        )

        def loss_fn(params, model):
            logits = model.apply({"params": params}, images, train=True, rngs={"dropout": key})
            return cross_entropy(logits, labels).mean()

        step, options = jax.value_and_grad(loss_fn), FAST if dtype == "float64" else None
        fast, expected = (
            jax.jit(step, static_argnums=1, compiler_options=options)(params, model)
            for model in (CNN(conv_pool=conv_pool), CNN())
        )
        assert_close(fast, expected, tolerance)
