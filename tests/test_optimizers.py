"""Optimizers and schedules by name, and the sentences for what is none."""

import dataclasses
import re

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
from jaxmnist.optimizers import create_optimizer, optimizers, schedules
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


def rates(schedule, at, **fields):
    """The learning rates of a config at some steps."""
    config = get_config()
    config.update({"learning_rate": 0.4, "num_steps": 100, "schedule": schedule} | fields)
    checks.check(config)
    found = create_optimizer(config).schedule
    return jax.jit(jax.vmap(found))(np.asarray(at, np.int32))


AT = (0, 1, 10, 30, 50, 85, 99)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("exponential_decay(decay_rate=0.5)", lambda step: 0.4 * 0.5 ** (step / 100)),
        (
            "exponential_decay(decay_rate=0.5, transition_steps=10)",
            lambda step: 0.4 * 0.5 ** (step / 10),
        ),
        ("polynomial_schedule(power=2)", lambda step: 0.4 * (1 - step / 100) ** 2),
        ("polynomial_schedule(power=1, init_value=0.2)", lambda step: 0.2 * (1 - step / 100)),
        (
            "piecewise_constant_schedule(boundaries_and_scales={20: 0.1, 60: 0.1})",
            lambda step: 0.4 * 0.1 ** (1 * (step >= 20) + (step >= 60)),
        ),
        ("linear_schedule", lambda step: 0.4 * (1 - step / 100)),
        ("constant_schedule", lambda step: np.full(7, 0.4)),
    ],
)
def test_any_schedule_of_optax(text, plain):
    """Its highest or first rate is learning_rate, its length num_steps, unless it says another."""
    np.testing.assert_allclose(rates(text, AT), plain(np.array(AT)), rtol=1e-5, atol=1e-9)


def test_one_cycle_in_both_forms():
    steps = np.array(AT, np.int32)
    cosine = optax.cosine_onecycle_schedule(100, 0.4)
    wanted = jax.jit(jax.vmap(cosine))(steps)
    np.testing.assert_allclose(rates("cosine_onecycle_schedule", AT), wanted, rtol=1e-5)
    assert max(wanted) == pytest.approx(0.4)
    linear = optax.linear_onecycle_schedule(100, 0.4, pct_start=0.2, div_factor=10)
    text = "linear_onecycle_schedule(pct_start=0.2, div_factor=10)"
    np.testing.assert_allclose(rates(text, AT), jax.jit(jax.vmap(linear))(steps), rtol=1e-5)


def test_a_warm_up_before_a_schedule_of_optax():
    """It leads to the schedule's first rate, and the schedule has the steps that are left."""
    found = rates("cosine_onecycle_schedule(div_factor=4)", (0, 10, 20, 44, 100), warmup_steps=20)
    np.testing.assert_allclose(found, [0, 0.05, 0.1, 0.4, 1e-5], atol=1e-6)
    found = rates("exponential_decay(decay_rate=0.5)", (10, 20, 100), warmup_steps=20)
    np.testing.assert_allclose(found, [0.2, 0.4, 0.2], rtol=1e-6)


@pytest.mark.parametrize("warmup_steps", [0, 20])
def test_a_schedule_that_warms_up_by_itself(warmup_steps):
    """It has the config's steps for it, and ends with the run."""
    found = rates("warmup_cosine_decay_schedule", AT, warmup_steps=warmup_steps)
    np.testing.assert_allclose(found, rates("cosine", AT, warmup_steps=warmup_steps), rtol=1e-5)
    text = "warmup_exponential_decay_schedule(decay_rate=0.5)"
    decays = rates("exponential_decay(decay_rate=0.5)", AT, warmup_steps=warmup_steps)
    np.testing.assert_allclose(rates(text, AT, warmup_steps=warmup_steps), decays, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("onecycle", "is not allowed: it must be one of constant, linear, cosine, constant_sched"),
        ("join_schedules(schedules=[], boundaries=[])", "it must be one of constant, linear, cos"),
        ("cosine(alpha=0.1)", "cosine takes no arguments, not 'alpha'"),
        ("cosine_decay_schedule(beta=1)", "takes init_value, decay_steps, alpha, .* not 'beta'"),
        ("warmup_constant_schedule(warmup_steps=2)", "not 'warmup_steps', which is a field of"),
        ("polynomial_schedule(power=", "is not a name with keyword arguments, such as .cosine_one"),
        ("polynomial_schedule(power=1e999)", "its numbers must be finite"),
        ("exponential_decay(decay_rate=9, transition_steps=9)", "its .* step 400 is inf, and must"),
        ("cosine_decay_schedule(alpha=-1.0)", "its learning rate at step .* is -.*, and must be"),
        ("exponential_decay", "optax refuses it: .* missing 1 required .*'decay_rate'"),
        ("cosine_decay_schedule(decay_steps=0)", r"requires positive .*decay_steps=0\.$"),
        ("cosine_decay_schedule(alpha='a')", "optax refuses it"),
        ("warmup_constant_schedule", "its learning rate is 0 at every step"),
    ],
)
def test_what_is_no_schedule(text, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        rates(text, AT, num_steps=20_000)
    assert str(caught.value).startswith("schedule=")
    assert "\n" not in str(caught.value)


def test_every_schedule_of_optax_is_known():
    """But those that take functions; new ones of optax's are looked at here first."""
    assert list(schedules()) == [
        *("constant", "linear", "cosine", "constant_schedule", "cosine_decay_schedule"),
        *("cosine_onecycle_schedule", "exponential_decay", "linear_onecycle_schedule"),
        *("linear_schedule", "piecewise_constant_schedule", "piecewise_interpolate_schedule"),
        *("polynomial_schedule", "sgdr_schedule", "warmup_constant_schedule"),
        *("warmup_cosine_decay_schedule", "warmup_exponential_decay_schedule"),
    ]


def test_equal_configs_have_equal_optimizers():
    """And so share a compiled step."""
    texts = "cosine_onecycle_schedule(pct_start=0.2)", "cosine_onecycle_schedule( pct_start = 0.2 )"
    one, other = (create_one("sgd", schedule=text, ema_decay=0.5) for text in texts)
    assert one == other
    assert hash(one) == hash(other)
    assert one != create_one("sgd", schedule="cosine_onecycle_schedule", ema_decay=0.5)
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
    for field in ("weight_decay", "clip_norm", "ema_decay"):
        assert create_one(one) != create_one(one, **{field: 0.5})


def create_one(expression, learning_rate=0.05, **fields):
    config = get_config()
    config.update({"optimizer": expression, "learning_rate": learning_rate} | fields)
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


WITHOUT_WARM_UP = ("contrib.dadapt_adamw", "contrib.prodigy", "rprop", "sm3")


@pytest.mark.filterwarnings("ignore:Specifying a key:UserWarning")
@pytest.mark.parametrize("name", [name for name in optimizers() if name not in REFUSED])
def test_every_optimizer_warms_up_or_is_refused(name, params):
    """A warm-up begins at a learning rate of 0, by which no optimizer may divide."""
    config = get_config()
    config.update({"optimizer": name, "warmup_steps": 5})
    if name in WITHOUT_WARM_UP:
        with pytest.raises(UserError, match=r"set .*warmup_steps=0"):
            checks.check(config)
        return
    checks.check(config)
    found, _ = steps(lambda: create_optimizer(config).tx, params, count=8)
    assert np.isfinite(distance(found))


@pytest.mark.parametrize(
    ("expression", "advice"),
    [
        ("contrib.prodigy", "set warmup_steps=0, or safeguard_warmup=True as its argument."),
        ("contrib.dadapt_adamw", "set warmup_steps=0."),
        ("lookahead(fast_optimizer='contrib.prodigy')", "set warmup_steps=0, or safeguard_"),
    ],
)
def test_what_divides_by_the_first_learning_rate_is_told(expression, advice):
    config = get_config()
    config.update({"optimizer": expression, "warmup_steps": 1})
    wanted = "divides by the learning rate, which is 0 at step 0: "
    with pytest.raises(UserError, match=re.escape(wanted + advice)):
        checks.check(config)
    checks.check(config, training=False)
    config.warmup_steps = 0
    checks.check(config)
    for schedule in ("linear_schedule(init_value=0.0, end_value=1.0)", "warmup_constant_schedule"):
        config.update({"schedule": schedule, "warmup_steps": 5})
        with pytest.raises(UserError, match=wanted + "take a schedule that begins above 0"):
            checks.check(config)


def test_prodigy_with_its_safeguard_warms_up(params):
    for expression in (
        "contrib.prodigy(safeguard_warmup=True)",
        "lookahead(fast_optimizer='contrib.prodigy(safeguard_warmup=True)')",
    ):
        config = get_config()
        config.update({"optimizer": expression, "warmup_steps": 5})
        checks.check(config)
        found, _ = steps(lambda config=config: create_optimizer(config).tx, params, count=8)
        assert np.isfinite(distance(found))


def test_arguments_by_which_prodigy_divides_by_0():
    config = get_config()
    config.optimizer = "contrib.prodigy(estim_lr0=0.0)"
    with pytest.raises(UserError, match=r"contrib\.prodigy divides by 0 with these arguments"):
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


RATE = 0.05


def by_hand(optimizer, params, count, decay=0.0, largest=np.inf):
    """The parameters after each of some steps, in NumPy: see `distance` for the gradients."""
    b1, b2, eps = 0.9, 0.999, 1e-8
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    first = second = jax.tree.map(np.zeros_like, params)
    each = []
    for t in range(1, count + 1):
        grads = jax.tree.map(lambda x: 2 * (x - 3.0), params)
        norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g, n=norm: g * min(1, largest / n), grads)
        if optimizer == "sgd(momentum=0.9)":
            first = jax.tree.map(lambda m, g: b1 * m + g, first, grads)
            steps = first
        else:
            first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, first, grads)
            second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, second, grads)
            steps = jax.tree.map(
                lambda m, v, t=t: m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps), first, second
            )
        rate = RATE * (1 - (t - 1) / 10)
        params = jax.tree.map(
            lambda x, s, r=rate: x - r * s - r * decay * x * (x.ndim > 1), params, steps
        )
        each.append(params)
    return each


def assert_close(found, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), found, wanted)


def create_linear(optimizer, **fields):
    """With a rate that falls from RATE to 0 in 10 steps."""
    config = get_config()
    config.update({"optimizer": optimizer, "learning_rate": RATE, "schedule": "linear"} | fields)
    config.num_steps, config.batch_size = 10, 1
    checks.check(config)
    return create_optimizer(config)


@pytest.mark.parametrize("expression", ["sgd(momentum=0.9)", "adam"])
def test_weight_decay_clipping_and_the_average_of_any_optimizer(expression, params):
    """Each by itself and all together; biases do not decay."""
    recipes = ({"weight_decay": 0.5}, {"clip_norm": 0.25}, {"ema_decay": 0.3})
    for fields in (*recipes, recipes[0] | recipes[1] | recipes[2]):
        optimizer = create_linear(expression, **fields)
        clip = fields.get("clip_norm", np.inf)
        each = by_hand(expression, params, 5, fields.get("weight_decay", 0.0), clip)
        found, state = steps(lambda o=optimizer: o.tx, params, 5)
        assert_close(found, each[-1])
        assert optimizer.averages == ("ema_decay" in fields)
        average = params if optimizer.averages else each[-1]
        for t, now in enumerate(each if optimizer.averages else ()):
            kept = min(0.3, (1 + t) / (10 + t))
            average = jax.tree.map(lambda a, x, k=kept: k * a + (1 - k) * x, average, now)
        assert_close(optimizer.eval_params(state, found), average)


def test_an_average_of_a_short_run_is_not_that_of_its_initial_values(params):
    """The decay of step t is at most (1 + t) / (10 + t)."""
    optimizer = create_linear("sgd(momentum=0.9)", ema_decay=0.9999)
    found, state = steps(lambda: optimizer.tx, params, 5)
    each, average, weights = by_hand("sgd(momentum=0.9)", params, 5), params, 1.0
    for t, now in enumerate(each):
        kept = (1 + t) / (10 + t)
        average = jax.tree.map(lambda a, x, k=kept: k * a + (1 - k) * x, average, now)
        weights *= kept
    assert_close(optimizer.eval_params(state, found), average)
    assert weights < 0.001
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(state.average))


def test_a_state_without_them_is_optax_s_own(params):
    """So that checkpoints of before are read."""
    optimizer = create_linear("sgd(momentum=0.9)")
    ours, theirs = optimizer.tx.init(params), optax.sgd(optimizer.schedule, 0.9).init(params)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    averaging = dataclasses.replace(optimizer, ema_decay=0.9).tx.init(params)
    assert jax.tree.structure(averaging.of_optimizer) == jax.tree.structure(theirs)


def test_schedule_free_with_clipped_gradients_is_evaluated_with_its_average(params):
    optimizer = create_linear("contrib.schedule_free_sgd", clip_norm=0.1)
    found, state = steps(lambda: optimizer.tx, params)
    wanted = optax.contrib.schedule_free_eval_params(state[1], found)
    assert_close(optimizer.eval_params(state, found), wanted)


@pytest.mark.parametrize(
    ("expression", "fields", "sentence"),
    [
        ("adamw", {"weight_decay": 0.1}, "it has a decay of its own, weight_decay=0.0001, so that"),
        ("adamw(weight_decay=0.0)", {"weight_decay": 0.1}, None),
        ("adafactor(weight_decay_rate=0.1)", {"weight_decay": 0.1}, "own, weight_decay_rate=0.1,"),
        ("contrib.muon(adam_weight_decay=0.1)", {"weight_decay": 0.1}, "adam_weight_decay=0.1,"),
        ("contrib.muon", {"weight_decay": 0.1, "clip_norm": 1.0, "ema_decay": 0.9}, None),
        ("polyak_sgd", {"weight_decay": 0.1}, "it finds its learning rate by itself"),
        ("polyak_sgd", {"clip_norm": 1.0, "ema_decay": 0.9}, None),
        ("contrib.schedule_free_sgd", {"weight_decay": 0.1}, "set weight_decay there, as an arg"),
        ("contrib.schedule_free_sgd", {"ema_decay": 0.9}, "averages by itself: set ema_decay=0"),
        ("lbfgs", {"weight_decay": 0.1, "clip_norm": 1.0, "ema_decay": 0.9}, None),
    ],
)
def test_optimizers_that_decay_or_average_by_themselves(expression, fields, sentence):
    if sentence is None:
        create_linear(expression, **fields)
        return
    with pytest.raises(UserError, match=sentence) as caught:
        create_linear(expression, **fields)
    (field,) = fields
    start = f"{field}={fields[field]} is not allowed with optimizer='{expression}'"
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images, *, train=False):
        kernel = self.param("kernel", nn.initializers.zeros_init(), (784, 10))
        return images.reshape(len(images), -1) @ kernel


@pytest.mark.parametrize(
    ("expression", "ema_decay"),
    [("contrib.schedule_free_adamw", 0.0), ("adamw", 0.0), ("adamw", 0.9)],
)
def test_what_a_state_is_evaluated_and_predicts_with(
    expression, ema_decay, config, batch, layout, tmp_path
):
    """The average where there is one, of each of several runs; else the trained parameters."""
    optimizer = create_one(expression, 0.1, ema_decay=ema_decay)
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
            average = optax.contrib.schedule_free_eval_params
            opt_state = state.opt_state
            wanted = opt_state.average if ema_decay else average(opt_state, state.params)
            assert np.abs(wanted["kernel"] - state.params["kernel"]).max() > 1e-3
        logits = Linear().apply({"params": wanted}, batch["image"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        np.testing.assert_allclose(sums["loss"][i], losses.sum(), rtol=1e-5)
        run = Run(config, Workdir(tmp_path))
        model = Model(run, datasets.describe(run.config), state, layout)
        np.testing.assert_allclose(model.params["kernel"], wanted["kernel"], rtol=1e-6)
        assert fingerprint(model.trained_params) == fingerprint(state.params)
        np.testing.assert_allclose(model.logits(np.asarray(batch["image"])), logits, rtol=1e-4)
