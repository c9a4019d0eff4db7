"""Optimizers and schedules by name, and the sentences for what is none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmnist.config import get_config
from jaxmnist.errors import UserError
from jaxmnist.optimizers import create_optimizer, create_schedule


def loss_fn(params):
    return jnp.sum((params["kernel"] - 3.0) ** 2)


@pytest.mark.parametrize(
    "expression",
    ["sgd", "adam(b1=0.8)", "polyak_sgd(max_learning_rate=0.1)", "lbfgs", "contrib.muon", "lion"],
)
def test_any_optimizer_lowers_a_loss(expression):
    tx = create_optimizer(expression, 0.05)
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
    ours = create_optimizer("sgd(momentum=0.5, nesterov=True)", 0.1)
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
        create_optimizer(expression, 0.1)
    assert "optimizer=" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "middle"), [("constant", 0.4), ("linear", 0.2), ("cosine", 0.2)])
def test_schedules(name, middle):
    config = get_config()
    config.update({"schedule": name, "learning_rate": 0.4, "num_steps": 110, "warmup_steps": 10})
    schedule = create_schedule(config)
    assert schedule(0) == 0
    assert schedule(5) == pytest.approx(0.2)
    assert schedule(10) == pytest.approx(0.4)
    assert schedule(60) == pytest.approx(middle, rel=1e-5)
    assert schedule(110) == pytest.approx(0.4 if name == "constant" else 0, abs=1e-6)
    config.warmup_steps = 0
    assert create_schedule(config)(0) == pytest.approx(0.4)
