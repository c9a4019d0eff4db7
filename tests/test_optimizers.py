"""Optimizers and schedules by name, and the sentences for what is none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmnist.config import get_config
from jaxmnist.errors import UserError
from jaxmnist.optimizers import create_optimizer


def create(expression, learning_rate=0.1):
    """optax's transformation for an expression, at a constant rate."""
    config = get_config()
    config.update({"optimizer": expression, "learning_rate": learning_rate, "schedule": "constant"})
    optimizer, hyperparams = create_optimizer(config)
    return optimizer(hyperparams)


def loss_fn(params):
    return jnp.sum((params["kernel"] - 3.0) ** 2)


@pytest.mark.parametrize(
    "expression",
    ["sgd", "adam(b1=0.8)", "polyak_sgd(max_learning_rate=0.1)", "lbfgs", "contrib.muon", "lion"],
)
def test_any_optimizer_lowers_a_loss(expression):
    tx = create(expression, 0.05)
    params = {"kernel": jnp.ones((2, 3))}
    state = tx.init(params)
    before = loss_fn(params)
    for _ in range(5):
        value, grad = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss_fn)
        params = optax.apply_updates(params, updates)
    assert loss_fn(params) < before


def test_arguments_reach_optax():
    params = {"kernel": jnp.ones(3)}
    ours = create("sgd(momentum=0.5, nesterov=True)")
    theirs = optax.sgd(0.1, momentum=0.5, nesterov=True)
    for tx in (ours, theirs):
        updates, _ = tx.update(params, tx.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.15, rtol=1e-6)


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("adamm", "optax has no optimizer 'adamm'; near it: adam"),
        ("sgd(momentun=0.9)", "sgd takes momentum, nesterov, .*not 'momentun'"),
        ("sgd(0.9)", "is not a name with keyword arguments"),
        ("sgd(momentum=", "is not a name with keyword arguments"),
        ("sgd(momentum=x)", "is not a name with keyword arguments"),
        ("__import__('os').system('true')", "is not a name with keyword arguments"),
        ("adam(b1='high')", "optax refuses it"),
        ("sgd(learning_rate=1.0)", "not 'learning_rate'"),
    ],
)
def test_what_is_no_optimizer(expression, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        create(expression)
    assert "optimizer=" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "middle"), [("constant", 0.4), ("linear", 0.2), ("cosine", 0.2)])
def test_schedules(name, middle):
    config = get_config()
    config.update({"schedule": name, "learning_rate": 0.4, "num_steps": 110, "warmup_steps": 10})
    optimizer, hyperparams = create_optimizer(config)
    schedule = optimizer.schedule(hyperparams)
    assert schedule(0) == 0
    assert schedule(5) == pytest.approx(0.2)
    assert schedule(10) == pytest.approx(0.4)
    assert schedule(60) == pytest.approx(middle, rel=1e-5)
    assert schedule(110) == pytest.approx(0.4 if name == "constant" else 0, abs=1e-6)
    config.warmup_steps = 0
    assert create_optimizer(config)[0].schedule(hyperparams)(0) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("sgd(momentum=0.9)", "sgd(momentum=0.5)", True),
        ("adamw(b1=0.8, weight_decay=0.1)", "adamw(b1=0.9, weight_decay=0.0)", True),
        ("sgd(momentum=0.9)", "sgd(momentum=0.9, nesterov=True)", False),
        ("adafactor(decay_rate=0.8)", "adafactor(decay_rate=0.7)", True),
        ("lamb(b1=0.9)", "lamb(b1=0.8)", True),
        # optax decides by this number, so it belongs to what is compiled.
        (
            "adafactor(min_dim_size_to_factor=64.0)",
            "adafactor(min_dim_size_to_factor=128.0)",
            False,
        ),
    ],
)
def test_optimizers_that_differ_in_numbers_alone_are_equal(one, other, shared):
    """And so share a compiled step, which is given the numbers."""
    optimizers = []
    for expression in (one, other):
        config = get_config()
        config.optimizer = expression
        optimizers.append(create_optimizer(config)[0])
    assert (optimizers[0] == optimizers[1]) is shared
    assert (hash(optimizers[0]) == hash(optimizers[1])) is shared
