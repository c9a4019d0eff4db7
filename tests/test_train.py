"""The jitted step: pure, right, compiled once; and a whole run in one process."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmnist import cpu_layers, train
from jaxmnist import results as results_lib
from jaxmnist.checkpoints import fingerprint
from jaxmnist.errors import UserError
from jaxmnist.input_pipeline import Examples
from jaxmnist.models import CNN
from jaxmnist.train_state import TrainState, create_train_state
from tests.test_models import reference


@pytest.fixture(scope="module")
def step_fn():
    return train.jit_train_step()


@pytest.fixture
def state(config):
    return create_train_state(config)


def test_same_inputs_same_outputs(config, step_fn, batch):
    outputs = [step_fn(create_train_state(config), batch) for _ in range(2)]
    (state_a, metrics_a), (state_b, metrics_b) = outputs
    assert fingerprint(state_a.params) == fingerprint(state_b.params)
    assert metrics_a == metrics_b


def test_compiles_once_over_many_steps(state, batch):
    step_fn = train.jit_train_step()
    before = step_fn._cache_size()  # Of other tests: jax.jit caches by function.
    for _ in range(4):
        state, _ = step_fn(state, batch)
    assert step_fn._cache_size() == before + 1
    assert int(state.step) == 4


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


def test_donated_state_is_not_reused(state, step_fn, batch):
    kernel = state.params["Dense_0"]["kernel"]
    new, _ = step_fn(state, batch)
    assert kernel.is_deleted()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(kernel)


def test_dropout_differs_from_step_to_step(config, batch):
    config.learning_rate = 1e-30  # The parameters stay, so that only the mask can differ.
    state = create_train_state(config)
    step_fn = jax.jit(train.train_step)
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
    step_fn = jax.jit(train.train_step)
    for _ in range(2):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
        params = jax.tree.map(lambda p, v: p - 0.05 * v, params, velocity)
        state, metrics = step_fn(state, batch)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        jax.tree.map(
            lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6),
            state.params,
            params,
        )


def test_gradient_agrees_with_finite_differences(batch, key):
    """In float64, dropout and all: SGD at rate 1 moves by minus the gradient of its own loss."""
    with jax.enable_x64(True):
        model = CNN(features=(3, 4), kernel_size=3, hidden=16)
        images = batch["image"][:, 6:22, 6:22].astype(jnp.float64)
        inputs = {"image": images, "label": batch["label"]}
        params = model.init(key, images)["params"]
        # Biases other than zero, because MNIST's black pixels sit on ReLU's kink without them.
        params = jax.tree.map(lambda p: p.astype(jnp.float64) + 0.05, params)
        tx = optax.with_extra_args_support(optax.sgd(1.0))
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(params),
            dropout_key=key,
            apply_fn=model.apply,
            tx=tx,
            schedule=optax.constant_schedule(1.0),
        )
        step_fn = jax.jit(train.train_step)
        gradient = jax.tree.map(lambda a, b: a - b, params, step_fn(state, inputs)[0].params)
        assert gradient["Conv_0"]["kernel"].dtype == jnp.float64

        for name, kind in [(n, k) for n in params for k in params[n]]:
            direction = jax.tree.map(jnp.zeros_like, params)
            noise = jax.random.normal(key, params[name][kind].shape, jnp.float64)
            direction[name][kind] = noise / jnp.linalg.norm(noise)

            def loss_at(distance, direction=direction):
                moved = jax.tree.map(lambda p, d: p + distance * d, params, direction)
                return step_fn(state.replace(params=moved), inputs)[1]["loss"]

            slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
            expected = jnp.vdot(gradient[name][kind], direction[name][kind])
            np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 7, 30, 64])
def test_evaluation_counts_every_image_once(state, sample, batch_size):
    examples = Examples(sample[1].images[:30], sample[1].labels[:30])
    logits = reference(state.params, examples.images / 255)
    correct = int((logits.argmax(-1) == examples.labels).sum()) / 30
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels).mean()
    found = train.evaluate(train.jit_eval_step(), state, examples, batch_size)
    assert found["accuracy"] == pytest.approx(correct, abs=1e-9)
    assert found["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_a_run_leaves_a_whole_record(config, tmp_path):
    results = train.train_and_evaluate(config, tmp_path / "run")
    assert results == json.loads((tmp_path / "run/results.json").read_text())
    assert results["dataset"] == {
        "name": "mnist_sample",
        "num_examples": {"train": 400, "test": 200},
    }
    assert results["step"] == 6
    assert 0 < results["test"]["accuracy"] <= 1
    assert results["num_parameters"] == 3_274_634
    assert len(results["params_sha256"]) == 64
    assert set(results["seconds"]) == {"first_step", "data", "compile", "eval", "train", "total"}
    assert all(value > 0 for value in results["seconds"].values())
    assert {"jax", "jaxlib", "python", "flax", "optax"} <= set(results["versions"])
    assert {"platform", "kind", "processor", "threads"} <= set(results["device"])
    assert results["config"] == config.to_dict()

    records = [json.loads(r) for r in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["split"]) for r in records] == [
        *((2, "train"), (4, "train"), (4, "test"), (6, "train"), (6, "test"))
    ]
    keys = {"step", "split", "loss", "accuracy", "learning_rate", "steps_per_second", "seconds"}
    assert set(records[0]) == keys
    assert records[-1]["accuracy"] == results["test"]["accuracy"]
    assert records[-2]["loss"] == results["train"]["loss"]
    kept = sorted(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir())
    assert kept == [2, 4, 6]


def test_more_steps_continue_a_finished_run(config, tmp_path, capsys):
    config.schedule = "constant"
    train.train_and_evaluate(config, tmp_path / "short")
    first = (tmp_path / "short/results.json").read_text()
    again = train.train_and_evaluate(config, tmp_path / "short")
    assert "finished at step 6" in capsys.readouterr().out
    assert (tmp_path / "short/results.json").read_text() == first
    assert again == json.loads(first)

    config.num_steps = 8
    longer = train.train_and_evaluate(config, tmp_path / "short")
    assert "resuming from step 6" in capsys.readouterr().out
    straight = train.train_and_evaluate(config, tmp_path / "long")
    assert longer["step"] == 8
    assert longer["params_sha256"] == straight["params_sha256"]

    config.num_steps = 7
    with pytest.raises(UserError, match="step 8, beyond num_steps=7"):
        train.train_and_evaluate(config, tmp_path / "short")


def test_several_steps_a_call_are_the_same_training(config, tmp_path, monkeypatch):
    """Whole calls, the single steps at the end, and those that lead up to the next call."""
    config.num_steps = 7
    expected = train.train_and_evaluate(config, tmp_path / "single")
    jit_train_step, called = train.jit_train_step, []

    class Counted:
        """jit_train_step(count), whose calls are noted in `called`."""

        def __init__(self, count=1):
            self.count, self.program = count, jit_train_step(count)

        def __call__(self, state, batch):
            called.append(self.count)
            return self.program(state, batch)

        def lower(self, *args):
            return self

        def compile(self):
            return self

    monkeypatch.setattr(train, "jit_train_step", Counted)
    config.steps_per_call = 2
    found = train.train_and_evaluate(config, tmp_path / "several")
    assert called == [2, 2, 2, 1]
    np.testing.assert_allclose(found["test"]["loss"], expected["test"]["loss"], rtol=1e-4)
    several, single = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("several", "single")
    )
    assert [(r["step"], r["split"]) for r in several] == [(r["step"], r["split"]) for r in single]
    for a, b in zip(several, single, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)
        np.testing.assert_allclose(a.get("learning_rate", 0), b.get("learning_rate", 0))

    config.num_steps = 10  # From step 7 on: a single step, then calls of two.
    called.clear()
    assert train.train_and_evaluate(config, tmp_path / "several")["step"] == 10
    assert called == [1, 2]


def test_layers_are_chosen_by_platform(config, monkeypatch):
    """For the same parameters, bit for bit."""
    states = {}
    for platform, conv_pool in (("cpu", cpu_layers.conv_pool), ("gpu", None), ("tpu", None)):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        states[platform] = create_train_state(config)
        assert states[platform].apply_fn.__self__.conv_pool is conv_pool
    assert len({fingerprint(state.params) for state in states.values()}) == 1


def test_bfloat16_trains_float32_parameters(config, tmp_path):
    config.dtype = "bfloat16"
    config.num_steps = 40
    config.eval_every = config.checkpoint_every = config.log_every = 40
    results = train.train_and_evaluate(config, tmp_path)
    assert results["test"]["accuracy"] > 0.5
    state = create_train_state(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path):
    config.num_steps = 40
    config.learning_rate = 1e30
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+"):
        train.train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "results.json").exists()
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert np.isfinite(json.loads(line)["loss"])


def test_validation_is_not_called_test(config, tmp_path):
    config.num_steps = 2
    config.eval_split = "train[-50:]"
    results = train.train_and_evaluate(config, tmp_path)
    assert "test" not in results
    assert results["dataset"]["num_examples"] == {"train": 400, "validation": 50}
    assert "validation accuracy" in results_lib.summary(results, "validation", tmp_path)
