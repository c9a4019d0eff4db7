"""The newest checkpoint of a run, evaluated again."""

import json

import pytest

import jaxmnist
from jaxmnist import train
from jaxmnist.config import get_config
from jaxmnist.errors import UserError
from jaxmnist.trained.checkpoint_evaluation import evaluate_checkpoints
from tests.conftest import content


def test_it_is_the_evaluation_of_the_run(config, finished):
    ((seed, step, metrics),) = evaluate_checkpoints(config, finished)
    assert (seed, step) == (0, 6)
    assert metrics == json.loads((finished / "results.json").read_text())["test"]
    config.eval_split = "test[:100]"
    ((_, _, of_part),) = evaluate_checkpoints(config, finished)
    assert of_part["loss"] != metrics["loss"]


def test_each_seed_is_evaluated(config, tmp_path):
    config.num_seeds, config.seed, config.num_steps = 2, 5, 2
    results = train.train_and_evaluate(config, tmp_path)
    found = evaluate_checkpoints(config, tmp_path)
    assert [(seed, step) for seed, step, _ in found] == [(5, 2), (6, 2)]
    assert [metrics["loss"] for _, _, metrics in found] == results["test"]["loss"]["each"]


def test_the_sample_never_stands_in(no_network, tmp_path):
    config = get_config()
    config.data_dir = str(tmp_path)
    with pytest.raises(UserError, match=r"mnist is not in .*, and .* cannot be reached"):
        evaluate_checkpoints(config, tmp_path)


def test_a_run_with_a_warm_up_that_is_longer_is_evaluated(config, finished):
    """As runs of before may have: they are whole, though none is started any more."""
    saved = json.loads((finished / "config.json").read_text())
    (finished / "config.json").write_text(json.dumps(saved | {"warmup_steps": 9}))
    config.warmup_steps = 9
    assert len(evaluate_checkpoints(config, finished)) == 1
    with pytest.raises(UserError, match="warmup_steps=9 is not allowed"):
        train.train_and_evaluate(config, finished)


def test_another_optimizer_s_state_does_not_spoil_a_model(config, finished):
    """As when a new version of optax keeps another state."""
    saved = json.loads((finished / "config.json").read_text())
    (finished / "config.json").write_text(json.dumps(saved | {"optimizer": "adam"}))
    assert jaxmnist.load(finished).step == 6
    config.optimizer = "adam"
    before = content(finished)
    with pytest.raises(UserError, match=r"opt_state/\S+ \(missing there, .* now\)"):
        train.train_and_evaluate(config.copy_and_resolve_references(), finished)
    assert content(finished) == before
    assert len(evaluate_checkpoints(config, finished)) == 1
    config.optimizer = "lion"
    with pytest.raises(UserError, match=r"cannot be set: optimizer \('adam' there, 'lion' now\)"):
        evaluate_checkpoints(config, finished)
