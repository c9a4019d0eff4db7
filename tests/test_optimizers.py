"""Optimizers and schedules by name, and the sentences for what is none."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmnist import checks
from jaxmnist.config import get_config
from jaxmnist.data import datasets
from jaxmnist.devices.sharding import fetch
from jaxmnist.errors import UserError
from jaxmnist.optimizers import create_optimizer, optimizers
from jaxmnist.record.checkpoints import Checkpoints
from jaxmnist.record.network import fingerprint
from jaxmnist.record.workdir import Run, Workdir
from jaxmnist.train_step import TrainState, eval_step
from jaxmnist.trained.inference import Model


def create(expression, learning_rate=0.1):
    """optax's transformation for an expression, at a constant rate."""
    config = get_config()
    config.update({"optimizer": expression, "learning_rate": learning_rate, "schedule": "constant"})
    checks.check(config)
    return create_optimizer(config).tx


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
        ("sgd(learning_rate=1.0)", "not 'learning_rate', which is a field of the config"),
        ("contrib.schedule_free_sgd(warmup_steps=3)", "not 'warmup_steps', which is a field"),
        ("contrib.schedule_free_sgd(b1=0.0)", "its b1 must be above 0"),
        ("contrib.schedule_free_sgd(b1='a')", "optax refuses it"),
        ("adamw(mask={1: True, 'a': True})", "optax refuses it"),
        ("sgd(momentum=0.9, momentum=0.5)", "is not a name with keyword arguments"),
        ("sgd(momentum=1e999)", "its numbers must be finite"),
        ("contrib.muon(ns_coeffs=(1e999, 1.0, 1.0))", "its numbers must be finite"),
        ("contrib.dpsgd(l2_norm_clip=1.0)", "it needs the gradient of each example"),
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
    schedule = create_optimizer(config).schedule
    assert schedule(0) == 0
    assert schedule(5) == pytest.approx(0.2)
    assert schedule(10) == pytest.approx(0.4)
    assert schedule(60) == pytest.approx(middle, rel=1e-5)
    assert schedule(110) == pytest.approx(0.4 if name == "constant" else 0, abs=1e-6)
    config.warmup_steps = 0
    assert create_optimizer(config).schedule(0) == pytest.approx(0.4)


def test_equal_configs_have_equal_optimizers():
    """And so share a compiled step."""
    for expression in ("sgd(momentum=0.9)", "adamw(b1=0.8, weight_decay=0.1)", "contrib.muon"):
        one, other = create_one(expression), create_one(expression)
        assert one == other
        assert hash(one) == hash(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sgd(momentum=0.9)", "sgd(momentum=0.5)"),
        ("sgd(momentum=0.9)", "sgd(momentum=0.9, nesterov=True)"),
        ("adafactor(min_dim_size_to_factor=64)", "adafactor(min_dim_size_to_factor=128)"),
    ],
)
def test_optimizers_that_differ_are_not(one, other):
    assert create_one(one) != create_one(other)
    assert create_one(one) != create_one(one, 0.06)


def create_one(expression, learning_rate=0.05):
    config = get_config()
    config.optimizer, config.learning_rate = expression, learning_rate
    return create_optimizer(config)


PARAMS = {"Conv_0": {"kernel": (3, 3, 1, 4)}, "Dense_0": {"kernel": (12, 6), "bias": (6,)}}


@pytest.fixture
def params(key):
    """A tree of few values like the network's."""
    return jax.tree.map(
        lambda shape: jax.random.normal(key, shape), PARAMS, is_leaf=lambda x: isinstance(x, tuple)
    )


def distance(params):
    return sum(jnp.sum((x - 3.0) ** 2) for x in jax.tree.leaves(params))


def steps(create_tx, params, count=3):
    """The parameters and the state after some updates, as a run does them."""

    def step(params, state):
        value, grad = jax.value_and_grad(distance)(params)
        extra = {"value": value, "grad": grad, "value_fn": distance}
        updates, state = create_tx().update(grad, state, params, **extra)
        return optax.apply_updates(params, updates), state

    options = {"xla_backend_optimization_level": 0}  # Compiled faster.
    step = jax.jit(step, donate_argnums=(0, 1), compiler_options=options)
    params = jax.tree.map(jnp.copy, params)
    state = jax.jit(lambda p: create_tx().init(p), compiler_options=options)(params)
    for _ in range(count):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("adam(b1=0.9, b2=0.999, eps=1e-8)", optax.adam),
        ("adamw(b2=0.999, weight_decay=1e-4)", optax.adamw),
        ("lion(b1=0.9, b2=0.99)", optax.lion),
        ("sgd(momentum=0.9)", lambda rate: optax.sgd(rate, 0.9)),
        ("contrib.schedule_free_adamw(b1=0.9, b2=0.999)", optax.contrib.schedule_free_adamw),
    ],
)
def test_numbers_that_are_written_are_those_that_optax_has_by_itself(written, plain, params):
    """Bit for bit."""
    config = get_config()
    config.update({"optimizer": written, "learning_rate": 0.03, "num_steps": 10})
    ours = steps(lambda: create_optimizer(config).tx, params)
    theirs = steps(lambda: plain(optax.cosine_decay_schedule(0.03, 10)), params)
    assert fingerprint(ours) == fingerprint(theirs)


REFUSED = {
    "noisy_sgd": "its state holds a random key",
    "optimistic_adam": "it takes no schedule of learning rates: take optimistic_adam_v2",
    "contrib.dpsgd": "it needs the gradient of each example",
    "contrib.galore": "its state holds arrays of no elements",
    "contrib.schedule_free": "it wraps another optimizer",
    "contrib.sophia": "it needs second derivatives of the loss",
}
TRIED = [*optimizers(), 'adam(mu_dtype="bfloat16")', 'contrib.muon(mu_dtype="bfloat16")']


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("optimizers"))
    yield checkpoints
    checkpoints.close()


@pytest.mark.filterwarnings("ignore:Specifying a key:UserWarning")
@pytest.mark.parametrize("expression", TRIED)
def test_every_optimizer_of_optax_works_or_is_refused(expression, params, checkpoints):
    """All that a run does with it: updates, and its state fetched, told, saved and restored."""
    if expression in REFUSED:
        with pytest.raises(UserError, match=REFUSED[expression]):
            create(expression)
        return
    tx = create(expression)
    found, state = steps(lambda: tx, params)
    assert distance(found) < distance(params) or expression == "contrib.cocob"
    tree = {"step": jnp.zeros((), jnp.int32), "params": found, "opt_state": state}
    tree = jax.tree.map(np.array, fetch(tree))
    step = TRIED.index(expression)
    checkpoints.save(step, tree)
    checkpoints.wait()
    restored = checkpoints.read(step, jax.tree.map(np.zeros_like, tree))
    assert fingerprint(restored) == fingerprint(tree)


@pytest.mark.parametrize("name", ["rprop", "sm3"])
def test_optimizers_without_a_schedule(name):
    config = get_config()
    config.optimizer = name
    wanted = f"{name} takes no schedule: set schedule=constant and warmup_steps=0"
    for schedule, warmup_steps in (("cosine", 0), ("constant", 1)):
        config.schedule, config.warmup_steps = schedule, warmup_steps
        with pytest.raises(UserError, match=wanted):
            checks.check(config)


def test_polyak_sgd_tells_the_bound_of_its_learning_rate():
    optimizer = create_one("polyak_sgd(max_learning_rate=0.3)")
    assert optimizer.schedule(100) == 0.3


def test_schedule_free_is_evaluated_with_the_average(params):
    """Of z, which is what SGD makes of the gradients that are taken in between."""
    optimizer, rate, b1 = create_one("contrib.schedule_free_sgd(b1=0.8)"), 0.05, 0.8
    assert optimizer.averages
    y = params
    z = [y]
    for _ in range(4):
        z.append(jax.tree.map(lambda z, y: z - rate * 2 * (y - 3.0), z[-1], y))
        x = jax.tree.map(lambda *z: sum(z) / len(z), *z[1:])
        y = jax.tree.map(lambda x, z: b1 * x + (1 - b1) * z, x, z[-1])
    found, state = steps(lambda: create("contrib.schedule_free_sgd(b1=0.8)", rate), params, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), found, y)
    averaged = jax.jit(optimizer.eval_params)(state, found)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), averaged, x)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images, *, train=False):
        kernel = self.param("kernel", nn.initializers.zeros_init(), (784, 10))
        return images.reshape(len(images), -1) @ kernel


@pytest.mark.parametrize("expression", ["contrib.schedule_free_adamw", "adamw"])
def test_what_a_state_is_evaluated_and_predicts_with(expression, config, batch, layout, tmp_path):
    """The average where there is one, of each of several runs; else the trained parameters."""
    optimizer = create_one(expression, 0.1)
    kernels = {"kernel": 0.1 * jax.random.normal(jax.random.key(0), (2, 784, 10))}

    def make(params):
        tx = optimizer.tx
        grads, trained = {"kernel": params["kernel"] - 1}, params
        opt_state = tx.init(params)
        for _ in range(2):
            updates, opt_state = tx.update(grads, opt_state, trained)
            trained = optax.apply_updates(trained, updates)
        return TrainState(
            step=jnp.int32(2),
            params=trained,
            opt_state=opt_state,
            dropout_key=jax.random.key(0),
            model=Linear(),
            optimizer=optimizer,
        )

    batch = batch | {"mask": jnp.ones(20, bool)}
    both = jax.jit(jax.vmap(make))(kernels)
    sums, _ = jax.jit(jax.vmap(eval_step, (0, None)))(both, batch)
    for i in range(2):
        state = jax.tree.map(lambda x, i=i: x[i], both)
        wanted = state.params
        if optimizer.averages:
            wanted = optax.contrib.schedule_free_eval_params(state.opt_state, state.params)
            assert np.abs(wanted["kernel"] - state.params["kernel"]).max() > 1e-3
        logits = Linear().apply({"params": wanted}, batch["image"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        np.testing.assert_allclose(sums["loss"][i], losses.sum(), rtol=1e-5)
        run = Run(config, Workdir(tmp_path))
        model = Model(run, datasets.preparation("mnist"), state, layout)
        np.testing.assert_allclose(model.params["kernel"], wanted["kernel"], rtol=1e-6)
        assert fingerprint(model.trained_params) == fingerprint(state.params)
        np.testing.assert_allclose(model.logits(np.asarray(batch["image"])), logits, rtol=1e-4)
