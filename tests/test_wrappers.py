"""Optimizers that wrap others, beside what their papers say, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmnist import checks
from jaxmnist.config import get_config
from jaxmnist.errors import UserError
from jaxmnist.optimizers import create_optimizer, optimizers


def create(text, **fields):
    config = get_config()
    config.update({"optimizer": text, "learning_rate": 0.1, "schedule": "constant"} | fields)
    checks.check(config)
    return create_optimizer(config)


def loss_fn(params):
    return jnp.sum(params["kernel"] ** 4)


def train(optimizer, params, steps):
    tx = optimizer.tx
    state = tx.init(params)
    for _ in range(steps):
        grad = jax.grad(loss_fn)(params)
        updates, state = tx.update(grad, state, params, value_fn=loss_fn)
        params = optax.apply_updates(params, updates)
    return np.asarray(params["kernel"]), optimizer.eval_params(state, params)["kernel"]


@pytest.mark.parametrize("clip_norm", [0.0, 100.0])
def test_lookahead_is_evaluated_with_the_slow_parameters(clip_norm):
    text = "lookahead(fast_optimizer='sgd(momentum=0.5)', sync_period=3, slow_step_size=0.25)"
    optimizer = create(text, clip_norm=clip_norm)
    assert optimizer.averages
    fast = slow = start = np.array([1.0, -0.5, 0.25])
    trace = np.zeros(3)
    for step in range(1, 8):
        trace = 0.5 * trace + 4 * fast**3
        fast = fast - 0.1 * trace
        if step % 3 == 0:
            fast = slow = slow + 0.25 * (fast - slow)
        found = train(optimizer, {"kernel": jnp.asarray(start, jnp.float32)}, step)
        np.testing.assert_allclose(found, (fast, slow), rtol=1e-5)


def test_sam_takes_the_gradient_uphill():
    optimizer = create("contrib.sam(optimizer='sgd(momentum=0.5)', rho=0.2)")
    assert not optimizer.averages
    params = start = np.array([1.0, -0.5, 0.25])
    trace = np.zeros(3)
    for step in range(1, 5):
        gradient = 4 * params**3
        uphill = params + 0.2 * gradient / np.linalg.norm(gradient)
        trace = 0.5 * trace + 4 * uphill**3
        params = params - 0.1 * trace
        found, evaluated = train(optimizer, {"kernel": jnp.asarray(start, jnp.float32)}, step)
        np.testing.assert_allclose(found, params, rtol=1e-5)
        np.testing.assert_array_equal(evaluated, found)


def test_muon_on_the_convolutions_alone():
    """A convolution's update has singular values near 1; a dense layer's is that of Adam."""
    text = "contrib.muon(muon_weight_dimension_numbers='convolutions', adam_b1=0.8)"
    optimizer = create(text)
    rng = np.random.default_rng(0)
    shapes = {"conv": (5, 5, 4, 16), "dense": (30, 20), "bias": (16,)}
    params = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    params["conv"] *= jnp.geomspace(0.1, 1, 16).reshape(
        1, 1, 1, 16
    )  # Singular values that are far apart.
    tx, adam = optimizer.tx, optax.nadam(0.1, b1=0.8)
    updates, _ = tx.update(params, tx.init(params), params)
    of_adam, _ = adam.update(params, adam.init(params), params)
    for name in ("dense", "bias"):
        np.testing.assert_allclose(updates[name], of_adam[name], rtol=1e-5)
    matrix = np.asarray(updates["conv"]).reshape(100, 16) / 0.1
    singular = np.linalg.svd(matrix, compute_uv=False)
    assert singular.max() / singular.min() < 2
    assert np.linalg.cond(np.asarray(params["conv"]).reshape(100, 16)) > 10


@pytest.mark.parametrize(
    ("text", "fields", "sentence"),
    [
        ("lookahead(fast_optimizer='sdg')", {}, "optax has no optimizer 'sdg'; near it: sgd"),
        ("lookahead(fast_optimizer='lookahead')", {}, "lookahead cannot be wrapped"),
        ("contrib.sam(optimizer='rprop')", {}, "rprop cannot be wrapped"),
        ("lookahead(sync_period=0)", {}, "sync_period=0 must be a whole number of at least 1"),
        ("lookahead(sync_period=1.5)", {}, "sync_period=1.5 must be a whole number"),
        ("lookahead(slow_step_size=-1)", {}, "slow_step_size=-1 must be above 0 and at most 1"),
        ("contrib.sam(rho=0)", {}, "rho=0 must be a number above 0"),
        ("lookahead(fast_optimizer=3)", {}, 'fast_optimizer=3 must be a text, such as "adamw"'),
        ("lookahead(create=3)", {}, "takes fast_optimizer, sync_period, slow_step_size, not 'cre"),
        ("contrib.muon(muon_weight_dimension_numbers='all')", {}, "='all' must be 'convolutions'"),
        ("lookahead", {"ema_decay": 0.9}, "averages by itself: set ema_decay=0"),
        ("lookahead", {"weight_decay": 0.1}, "give that one a decay"),
    ],
)
def test_what_cannot_be_wrapped(text, fields, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        create(text, **fields)
    assert "\n" not in str(caught.value)
    assert ".." not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Specifying a key:UserWarning")
def test_every_optimizer_is_wrapped_or_refused_in_a_sentence():
    wrapped, refused = set(), {}
    for name in optimizers():
        for text in (f"lookahead(fast_optimizer='{name}')", f"contrib.sam(optimizer='{name}')"):
            try:
                create(text)
                wrapped.add(name)
            except UserError as e:
                refused[name] = str(e)
    assert all(f"{name} cannot be wrapped" in said for name, said in refused.items()), refused
    assert {"sgd", "adamw", "lion", "nadamw", "contrib.prodigy", "contrib.muon"} <= wrapped
    assert not wrapped & {"lookahead", "contrib.sam", "lbfgs", "rprop", "contrib.sophia"}
