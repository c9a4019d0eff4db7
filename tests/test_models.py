"""The network is the paper's, layer by layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmnist.models import CNN, max_pool, num_parameters


def layers(model, params, x, **kwargs):
    """The output of every layer by name, e.g. "Conv_0"."""
    _, state = model.apply(
        {"params": params}, x, capture_intermediates=True, mutable=["intermediates"], **kwargs
    )
    found = state["intermediates"]
    return {name: v["__call__"][0] for name, v in found.items() if name != "__call__"}


@pytest.fixture(scope="module")
def params():
    return jax.jit(CNN().init)(jax.random.key(7), jnp.zeros((1, 28, 28, 1)))["params"]


def reference(params, x):
    """The paper's network in its own order: convolution, ReLU, then nn.max_pool."""
    for name in ("Conv_0", "Conv_1"):
        x = jax.lax.conv_general_dilated(
            x, params[name]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = nn.max_pool(nn.relu(x + params[name]["bias"][None, None, None]), (2, 2), (2, 2))
    x = x.reshape(len(x), -1)
    x = nn.relu(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None])
    return x @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"][None]


def test_number_of_parameters(params):
    assert num_parameters(params) == 3_274_634


def test_layer_shapes(params):
    shapes = {k: v.shape[1:] for k, v in layers(CNN(), params, jnp.zeros((5, 28, 28, 1))).items()}
    assert shapes == {
        "Conv_0": (14, 14, 32),
        "Conv_1": (7, 7, 64),
        "Dense_0": (1024,),
        "Dropout_0": (1024,),
        "Dense_1": (10,),
    }
    assert params["Dense_0"]["kernel"].shape == (3136, 1024)


def test_initial_parameters_are_glorot_uniform_and_zero(params):
    fans = {
        "Conv_0": (25 * 1, 25 * 32),
        "Conv_1": (25 * 32, 25 * 64),
        "Dense_0": (3136, 1024),
        "Dense_1": (1024, 10),
    }
    for name, (fan_in, fan_out) in fans.items():
        limit = np.sqrt(6 / (fan_in + fan_out))
        kernel = np.asarray(params[name]["kernel"])
        assert 0.98 * limit < np.abs(kernel).max() <= limit
        np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.05)
        assert not params[name]["bias"].any()


def test_logits_are_those_of_the_reference(params, batch):
    noise = np.random.default_rng(7).standard_normal
    params = jax.tree.map(lambda p: p + 0.1 * noise(p.shape).astype(np.float32), params)
    expected = jax.jit(reference)(params, batch["image"])
    logits = jax.jit(CNN().apply)({"params": params}, batch["image"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_pooling_is_max_pool(key):
    for shape in ((2, 4, 6, 3), (1, 5, 7, 2)):
        x = jax.random.normal(key, shape)
        np.testing.assert_array_equal(max_pool(x), nn.max_pool(x, (2, 2), (2, 2)))


def test_dropout_drops_in_training_only(params, batch, key):
    x = batch["image"]
    trained = layers(CNN(), params, x, train=True, rngs={"dropout": key})
    before, after = nn.relu(trained["Dense_0"]), trained["Dropout_0"]
    dropped = (after == 0) & (before > 0)
    active = int((before > 0).sum())
    assert active > 5_000
    assert abs(int(dropped.sum()) / active - 0.4) < 0.03
    kept = after != 0
    np.testing.assert_allclose(after[kept], before[kept] / 0.6, rtol=1e-6)

    evaluated = layers(CNN(), params, x)
    np.testing.assert_array_equal(evaluated["Dropout_0"], nn.relu(evaluated["Dense_0"]))


def test_bfloat16_gives_float32_logits_near_those_of_float32(params, batch):
    logits = CNN(dtype=jnp.bfloat16).apply({"params": params}, batch["image"])
    expected = CNN().apply({"params": params}, batch["image"])
    assert logits.dtype == jnp.float32
    difference = np.abs(logits - expected).max() / np.abs(expected).max()
    assert 1e-5 < difference < 0.03


def test_other_sizes(key):
    model = CNN(features=(4,), kernel_size=3, hidden=8, num_classes=47)
    params = model.init(key, jnp.zeros((1, 28, 28, 1)))["params"]
    assert params["Conv_0"]["kernel"].shape == (3, 3, 1, 4)
    assert params["Dense_0"]["kernel"].shape == (14 * 14 * 4, 8)
    assert model.apply({"params": params}, jnp.zeros((2, 28, 28, 1))).shape == (2, 47)
