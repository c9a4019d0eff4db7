"""The step is pure and right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmnist.augment import NO_AUGMENT, create_augment
from jaxmnist.models import CNN
from jaxmnist.optimizers import Optimizer
from jaxmnist.record.network import fingerprint
from jaxmnist.train_step import TrainState, create_train_state, eval_step, train_step
from tests.test_models import reference


@pytest.fixture(scope="module")
def step_fn():
    return jax.jit(train_step)


@pytest.fixture
def state(config):
    return create_train_state(config)


def test_same_inputs_same_outputs(config, step_fn, batch):
    outputs = [step_fn(create_train_state(config), batch) for _ in range(2)]
    (state_a, metrics_a), (state_b, metrics_b) = outputs
    assert fingerprint(state_a.params) == fingerprint(state_b.params)
    assert metrics_a == metrics_b


def test_loss_falls_to_near_zero_on_a_fixed_batch(config, step_fn, batch):
    config.schedule = "constant"
    config.learning_rate = 0.02
    state = create_train_state(config)
    losses = []
    for _ in range(120):
        state, metrics = step_fn(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[0] > 2
    assert max(losses[-5:]) < 0.02
    assert metrics["accuracy"] == 1


def test_dropout_differs_from_step_to_step(config, batch):
    config.learning_rate = 1e-30  # The parameters stay, so that only the mask can differ.
    state = create_train_state(config)
    step_fn = jax.jit(train_step)
    after_one, first = step_fn(state, batch)
    _, second = step_fn(after_one, batch)
    _, repeated = step_fn(state, batch)
    assert first["loss"] == repeated["loss"]
    assert first["loss"] != second["loss"]


def test_sgd_step_equals_the_update_by_hand(config, batch, key):
    """Without dropout, against the reference network and momentum written out.

    On noise, and little of it: windows whose maxima tie, as in the black part of a digit, give
    their gradient to any of them.
    """
    config.dropout_rate = 0.0
    batch = {"image": jax.random.uniform(key, (5, 28, 28, 1)), "label": batch["label"][:5]}
    config.schedule = "constant"
    state = create_train_state(config)

    def loss_fn(params):
        log_probabilities = jax.nn.log_softmax(reference(params, batch["image"]))
        picked = jnp.take_along_axis(log_probabilities, batch["label"][:, None], axis=1)
        return -picked.mean()

    params, velocity = state.params, jax.tree.map(jnp.zeros_like, state.params)
    step_fn = jax.jit(train_step)
    by_hand = jax.jit(jax.value_and_grad(loss_fn))
    for _ in range(2):
        loss, grads = by_hand(params)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
        params = jax.tree.map(lambda p, v: p - 0.05 * v, params, velocity)
        state, metrics = step_fn(state, batch)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        jax.tree.map(
            lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6),
            state.params,
            params,
        )


def test_running_averages_are_flax_s_and_are_evaluated_with(config, step_fn, batch):
    """Of batch normalization, against the formulas, on the convolution's own outputs."""
    config.batch_norm, config.features, config.hidden = True, (4,), 8
    state = create_train_state(config)
    before = state.model_state["batch_stats"]["Conv_0"]["BatchNorm_0"]
    after = step_fn(state, batch)[0].model_state["batch_stats"]["Conv_0"]["BatchNorm_0"]
    layer = state.params["Conv_0"]
    y = jax.lax.conv_general_dilated(
        batch["image"], layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = np.asarray(y, np.float64)
    np.testing.assert_allclose(after["mean"], 0.1 * y.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["var"], 0.9 + 0.1 * y.var((0, 1, 2)), rtol=1e-4)
    assert not before["mean"].any()

    other = state.replace(model_state={"batch_stats": {"Conv_0": {"BatchNorm_0": after}}})
    inputs = batch | {"mask": jnp.ones(20, bool)}
    assert eval_step(state, inputs)[0]["loss"] != eval_step(other, inputs)[0]["loss"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_labels_are_spread_over_all_classes(config, step_fn, batch, smoothing):
    config.label_smoothing, config.dropout_rate = smoothing, 0.0
    state = create_train_state(config)
    logits = np.asarray(state.apply_fn({"params": state.params}, batch["image"]), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = np.eye(10)[batch["label"]] * (1 - smoothing) + smoothing / 10
    wanted = -(targets * log_probabilities).sum(-1).mean()
    np.testing.assert_allclose(step_fn(state, batch)[1]["loss"], wanted, rtol=1e-5)
    evaluated, _ = eval_step(state, batch | {"mask": jnp.ones(20, bool)})
    by_label = -log_probabilities[np.arange(20), np.asarray(batch["label"])].sum()
    np.testing.assert_allclose(evaluated["loss"], by_label, rtol=1e-5)


def test_augmentation_is_drawn_from_seed_and_step(config, batch):
    """The loss is that of the augmented images, with the same labels; other steps draw others."""
    config.augment, config.dropout_rate, config.learning_rate = "affine()", 0.0, 1e-30
    state, step_fn = create_train_state(config), jax.jit(train_step)
    after_one, first = step_fn(state, batch)
    _, second = step_fn(after_one, batch)
    key = jax.random.fold_in(state.augment_key, 0)
    images = create_augment("affine()")(key, batch["image"])
    plain = state.replace(augment=NO_AUGMENT)
    _, by_hand = step_fn(plain, batch | {"image": images})
    np.testing.assert_allclose(first["loss"], by_hand["loss"], rtol=1e-5)
    assert len({float(m["loss"]) for m in (first, second, step_fn(plain, batch)[1])}) == 3


def test_gradient_agrees_with_finite_differences(batch, key):
    """In float64, dropout and all: SGD at rate 1 moves by minus the gradient of its own loss."""
    with jax.enable_x64(True):
        model = CNN(features=(3, 4), kernel_size=3, hidden=16)
        images = batch["image"][:, 6:22, 6:22].astype(jnp.float64)
        inputs = {"image": images, "label": batch["label"]}
        params = jax.jit(model.init)(key, images)["params"]
        # Biases other than zero, because MNIST's black pixels sit on ReLU's kink without them.
        params = jax.tree.map(lambda p: p.astype(jnp.float64) + 0.05, params)
        optimizer = Optimizer("sgd", (), 1.0, "constant", 1, 0)
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.tx.init(params),
            dropout_key=key,
            model=model,
            optimizer=optimizer,
        )
        step_fn = jax.jit(train_step)
        gradient = jax.tree.map(lambda a, b: a - b, params, step_fn(state, inputs)[0].params)
        assert gradient["Conv_0"]["kernel"].dtype == jnp.float64

        params, gradient = jax.device_get((params, gradient))
        normal = np.random.default_rng(7).standard_normal
        for name, kind in [(n, k) for n in params for k in params[n]]:
            noise = normal(params[name][kind].shape)
            direction = noise / np.linalg.norm(noise)

            def loss_at(distance, name=name, kind=kind, direction=direction):
                layer = params[name] | {kind: params[name][kind] + distance * direction}
                moved = jax.device_put(params | {name: layer})
                return step_fn(state.replace(params=moved), inputs)[1]["loss"]

            slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
            expected = np.vdot(gradient[name][kind], direction)
            np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-9)
