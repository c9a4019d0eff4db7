"""The layers in bfloat16 compute what the plain layers compute of rounded values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmnist import models
from jaxmnist.config import get_config
from jaxmnist.devices import bfloat16_layers, cpu_layers
from jaxmnist.devices.sharding import Layout
from jaxmnist.models import CNN
from jaxmnist.train import train_and_evaluate
from jaxmnist.train_step import cross_entropy
from jaxmnist.trained import inference

# (batch, height, width, channels), k, features: the paper's two layers, then odd ones.
SHAPES = [
    ((10, 28, 28, 1), 5, 32),
    ((4, 14, 14, 32), 5, 64),
    ((3, 9, 13, 3), 3, 5),
    ((2, 15, 8, 9), 7, 6),
]


@pytest.fixture(scope="module")
def params():
    return CNN().init(jax.random.key(0), jnp.zeros((1, *models.IMAGE_SHAPE)))["params"]


def rounded(x):
    """Values that bfloat16 has: rounding them again changes nothing."""
    return jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32)


def inputs(shape, k, features):
    normal = np.random.default_rng(0).standard_normal
    kernel, bias = normal((k, k, shape[3], features)) / k, normal(features)
    return rounded(normal(shape)), rounded(kernel), jnp.float32(bias)


def largest_difference(found, expected):
    """Of any array, relative to its largest value."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


@pytest.mark.parametrize(("shape", "k", "features"), SHAPES, ids=str)
def test_of_rounded_values_the_convolutions_are_those_of_float32(shape, k, features):
    """With rounded cotangents the gradients, too: products are exact, and sums float32."""
    args = inputs(shape, k, features)
    results = []
    for function in (bfloat16_layers.conv_pool, models.conv_pool):
        y, pull_back = jax.vjp(function, *args)
        weights = rounded(np.random.default_rng(1).standard_normal(y.shape))
        results.append((y, pull_back(weights)))
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(results))
    assert largest_difference(*results) < 1e-5


@pytest.mark.parametrize("batch", [1, 20])
def test_of_rounded_values_the_product_is_that_of_float32(batch):
    normal = np.random.default_rng(0).standard_normal
    x, kernel, weights = (rounded(normal(s)) for s in ((batch, 30), (30, 40), (batch, 40)))
    results = []
    for product in (bfloat16_layers.dot_general, lambda x, kernel: x @ kernel):
        y, pull_back = jax.vjp(product, x, kernel)
        results.append((y, pull_back(weights)))
    assert largest_difference(*results) < 1e-6


def test_values_are_rounded_to_bfloat16():
    """A check of the tests above: these layers do not compute in float32."""
    x, kernel, bias = inputs(*SHAPES[1])
    exact = models.conv_pool(1.001 * x, kernel, bias)
    assert 1e-3 < largest_difference(bfloat16_layers.conv_pool(1.001 * x, kernel, bias), exact) < 1


def test_of_equal_maxima_the_first_gets_the_gradient():
    windows = jnp.array([1.0, 2.0, 2.0, 1.0]).reshape(4, 1)
    _, pull_back = jax.vjp(bfloat16_layers._max, windows)
    assert pull_back(jnp.array([3.0]))[0].ravel().tolist() == [0, 3, 0, 0]


def test_normalized_convolutions_are_those_of_float32():
    """In an odd size float32 computes them: what pooling drops is part of the mean."""

    def normalize(y):
        axes = tuple(range(y.ndim - 1))
        mean, std = y.mean(axes, keepdims=True), y.std(axes, keepdims=True)
        return (y - mean) / std

    for shape in (SHAPES[1], SHAPES[2]):
        args = inputs(*shape)
        found = cpu_layers.conv_pool(*args, jnp.bfloat16, normalize)
        assert largest_difference(found, models.conv_pool(*args, None, normalize)) < 1e-4


def networks(**fields):
    """The network in bfloat16, and in float32."""
    functions = (cpu_layers.conv_pool, bfloat16_layers.dot_general)
    fast = dict(zip(("conv_pool", "dot_general"), functions, strict=True))
    return CNN(dtype=jnp.bfloat16, **fast, **fields), CNN(**fields)


def test_gradients_of_the_network_agree_as_bfloat16_allows(params, batch):
    """To 10 % of each norm: where values are equal to rounding, ReLU and pooling choose anew.

    A product that is left out, or taken twice, differs by 100 %.
    """
    gradients = []
    for network in networks():

        def loss(params, network=network):
            logits = network.apply({"params": params}, batch["image"])
            assert logits.dtype == jnp.float32
            return cross_entropy(logits, batch["label"]).mean()

        gradients.append(jax.grad(loss)(params))
    norms = jax.tree.map(
        lambda a, b: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)), *gradients
    )
    assert 1e-4 < max(jax.tree.leaves(norms)) < 0.1
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradients[0]))


def test_the_products_are_those_that_reach_the_units(params, batch):
    """bfloat16 times bfloat16 is float32, of matrices whose last axes are contracted."""
    network, _ = networks()

    def loss(params):
        logits = network.apply({"params": params}, batch["image"])
        return cross_entropy(logits, batch["label"]).mean()

    text = jax.jit(jax.grad(loss)).lower(params).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line and "bf16" in line]
    # Forward and for each kernel's gradient 3 products; for the inputs' 2, but not the images'.
    assert len(products) == 8
    for line in products:
        assert "-> tensor<" in line
        assert "xf32>" in line.split("->")[1]
        assert "contracting_dims = [1] x" in line
        assert "batching_dims" not in line


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a CPU's layers")
@pytest.mark.parametrize("changed", [None, "units", "kernel_size", "model", "seeds"])
def test_they_are_used_where_products_reach_the_units(changed, monkeypatch, layout):
    """And float32 elsewhere: bfloat16 that does not reach them is slower."""
    monkeypatch.setattr(cpu_layers.machine, "has_bfloat16_units", lambda: changed != "units")
    config = get_config()
    config.dtype, config.kernel_size = "bfloat16", 4 if changed == "kernel_size" else 5
    config.model = "net.py:Net()" if changed == "model" else ""
    layout = Layout.create(2) if changed == "seeds" else layout
    functions = cpu_layers.fastest_functions(layout, config)
    used = changed is None
    assert (functions.dot_general is bfloat16_layers.dot_general) == used
    assert functions.dtype == (None if used else "float32")


@pytest.mark.parametrize("train", [True, False])
def test_batch_normalization_agrees_as_bfloat16_allows(train, batch):
    outputs = []
    for network in networks(batch_norm=True, hidden=32, dropout_rate=0.0):
        variables = CNN(batch_norm=True, hidden=32).init(jax.random.key(0), batch["image"])
        with jax.numpy_dtype_promotion("standard"):  # Flax mixes types in it.
            found = network.apply(variables, batch["image"], train=train, mutable=["batch_stats"])
        outputs.append(found[0])
    difference = jnp.linalg.norm(outputs[0] - outputs[1]) / jnp.linalg.norm(outputs[1])
    assert 1e-4 < difference < 0.05


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a CPU's layers")
def test_a_run_resumes_bit_for_bit_and_is_read_in_float32(monkeypatch, tmp_path):
    """Whether a machine has the units is no part of what a workdir records of its network."""
    config = get_config()
    config.dataset, config.dtype, config.schedule = "mnist_sample", "bfloat16", "constant"
    config.batch_size, config.eval_split, config.hidden = 20, "test[:200]", 32
    config.num_steps = config.log_every = config.eval_every = config.checkpoint_every = 4

    def train(name, num_steps):
        config.num_steps = num_steps
        return train_and_evaluate(config, tmp_path / name)["params_sha256"]

    in_float32 = train("float32", 4)
    monkeypatch.setattr(cpu_layers.machine, "has_bfloat16_units", lambda: True)
    first, resumed, whole = train("resumed", 4), train("resumed", 8), train("whole", 8)
    assert first != in_float32
    assert resumed == whole
    network = inference.load(tmp_path / "whole").network
    assert network.dtype == "bfloat16"
    assert inference.load(tmp_path / "whole", dtype="float32").network.dtype is None
    monkeypatch.setattr(cpu_layers.machine, "has_bfloat16_units", lambda: False)
    train("whole", 12)  # It goes on where there are none.
