"""Whole runs in one process: what they leave, and that one goes on where another stopped."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmnist import results as results_lib
from jaxmnist import runs, train
from jaxmnist.errors import UserError
from jaxmnist.train_state import create_train_state


def test_a_run_leaves_a_whole_record(config, tmp_path):
    results = runs.train_and_evaluate(config, tmp_path / "run")
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
    runs.train_and_evaluate(config, tmp_path / "short")
    first = (tmp_path / "short/results.json").read_text()
    again = runs.train_and_evaluate(config, tmp_path / "short")
    assert "finished at step 6" in capsys.readouterr().out
    assert (tmp_path / "short/results.json").read_text() == first
    assert again == json.loads(first)

    config.num_steps = 8
    longer = runs.train_and_evaluate(config, tmp_path / "short")
    assert "resuming from step 6" in capsys.readouterr().out
    straight = runs.train_and_evaluate(config, tmp_path / "long")
    assert longer["step"] == 8
    assert longer["params_sha256"] == straight["params_sha256"]

    config.num_steps = 7
    with pytest.raises(UserError, match="step 8, beyond num_steps=7"):
        runs.train_and_evaluate(config, tmp_path / "short")


def test_several_steps_a_call_are_the_same_training(config, tmp_path, monkeypatch):
    """Whole calls, the single steps at the end, and those that lead up to the next call."""
    config.num_steps = 7
    expected = runs.train_and_evaluate(config, tmp_path / "single")
    jit_train_step, called = train.jit_train_step, []

    def counted(count, layout):
        """jit_train_step, whose programs' calls are noted in `called`."""
        program = jit_train_step(count, layout)

        def call(*args):
            called.append(count)
            return program(*args)

        call.lower = program.lower
        return call

    monkeypatch.setattr(train, "jit_train_step", counted)
    config.steps_per_call = 2
    found = runs.train_and_evaluate(config, tmp_path / "several")
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
    assert runs.train_and_evaluate(config, tmp_path / "several")["step"] == 10
    assert called == [1, 2]


def test_bfloat16_trains_float32_parameters(config, tmp_path):
    config.dtype = "bfloat16"
    config.num_steps = 40
    config.eval_every = config.checkpoint_every = config.log_every = 40
    results = runs.train_and_evaluate(config, tmp_path)
    assert results["test"]["accuracy"] > 0.5
    state = create_train_state(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path):
    config.num_steps = 40
    config.learning_rate = 1e30
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+"):
        runs.train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "results.json").exists()
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert np.isfinite(json.loads(line)["loss"])


def test_validation_is_not_called_test(config, tmp_path):
    config.num_steps = 2
    config.eval_split = "train[-50:]"
    results = runs.train_and_evaluate(config, tmp_path)
    assert "test" not in results
    assert results["dataset"]["num_examples"] == {"train": 400, "validation": 50}
    assert "validation accuracy" in results_lib.summary(results, "validation", tmp_path)
