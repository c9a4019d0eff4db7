"""The journal: what is written when, what is not finite, and whose time it is."""

import json
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmnist.config import get_config
from jaxmnist.data.datasets import describe
from jaxmnist.devices.sharding import Layout
from jaxmnist.errors import UserError
from jaxmnist.record.journal import Journal, Session, check_evaluation
from jaxmnist.record.screen import Screen
from jaxmnist.record.workdir import Run, Workdir
from jaxmnist.train_step import create_train_state

INFO = describe(get_config())


def metrics(loss):
    values = {"loss": loss, "accuracy": 0.5, "learning_rate": 1.0}
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}


def stacked(losses):
    return jax.tree.map(lambda *x: jnp.stack(x), *map(metrics, losses))


@pytest.fixture
def state(config):
    return create_train_state(config)


@pytest.fixture
def run(config, tmp_path):
    return Run(config, Workdir(tmp_path))


@pytest.fixture
def told():
    return []


@pytest.fixture
def journal(run, layout, state, told):
    with Journal([run], layout, Session(Screen(quiet=True), told.append)) as opened:
        assert opened.resume(state, INFO) is state
        yield opened


def lines(run):
    return [json.loads(line) for line in run.workdir.metrics.read_text().splitlines()]


def test_a_log_is_of_the_newest_step_and_its_speed_of_all_since_the_last(
    journal, run, state, told, monkeypatch
):
    now = 1000.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    journal.start()
    for step in range(1, 5):
        journal.add(step, metrics(step))
    now += 2
    journal.log(4, state)
    with journal.pause():
        now += 70
    journal.add(6, stacked([5, 6]))
    now += 1
    journal.log(6, state)
    found = [(x["step"], x["loss"], x["steps_per_second"], x["seconds"]) for x in lines(run)]
    assert found == [(4, 4.0, 2.0, 2.0), (6, 6.0, 2.0, 3.0)]
    assert journal.latest == {"train": [{"loss": 6.0, "accuracy": 0.5}]}
    assert told == [line | {"seed": 0} for line in lines(run)]


def test_a_bad_loss_between_two_logs_is_named_with_its_step(journal, run, state):
    for step, loss in ((1, 1), (2, math.nan), (3, 1)):
        journal.add(step, metrics(loss))
    words = r"the loss is nan at step 2: lower the learning rate \(1 at that step\); any checkpoint"
    with pytest.raises(UserError, match=words):
        journal.log(3, state)
    assert lines(run) == []


def test_a_bad_loss_within_a_call_of_several_steps_is_named_with_its_step(journal, state):
    journal.add(1, metrics(1))
    journal.add(6, stacked([1, math.inf, 1, 1, 1]))
    with pytest.raises(UserError, match="the loss is inf at step 3: lower the learning"):
        journal.log(6, state)


def test_a_bad_loss_of_one_of_several_runs_is_named_with_its_seed(config, tmp_path):
    runs = []
    for seed in (5, 6):
        config = config.copy_and_resolve_references()
        config.seed = seed
        runs.append(Run(config, Workdir(tmp_path / str(seed))))
    journal = Journal(runs, Layout.create(2), Session(Screen(quiet=True)))
    journal.add(2, jax.tree.map(lambda *x: jnp.stack(x), stacked([1, 2]), stacked([1, math.nan])))
    with pytest.raises(UserError, match="the loss is nan at step 2 of seed 6: lower"):
        journal.fetch_metrics()


def test_no_checkpoint_after_a_bad_loss(journal, run, state):
    journal.add(2, metrics(math.inf))
    with pytest.raises(UserError, match="the loss is inf at step 2"):
        journal.save(2, state)
    assert run.workdir.checkpoint_steps() == set()


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("params", math.nan, "the parameters are not finite after step 4: lower the learning rate"),
        ("params", math.inf, "the parameters are not finite after step 4"),
        ("opt_state", math.inf, "the optimizer's state is not finite after step 4"),
    ],
)
def test_what_is_not_finite_is_not_saved(journal, run, state, part, value, words):
    bad = jax.tree.map(
        lambda x: jnp.full_like(x, value) if x.ndim == 4 else x, getattr(state, part)
    )
    with pytest.raises(UserError, match=words):
        journal.save(4, state.replace(**{part: bad}))
    assert run.workdir.checkpoint_steps() == set()
    journal.save(4, state)
    journal.wait_for_checkpoints()
    assert run.workdir.checkpoint_steps() == {4}


def test_a_bound_of_an_optimizer_may_be_infinite_but_no_nan(journal, run, state):
    """As some optimizers keep one on purpose."""
    for step, value in ((4, math.inf), (6, math.nan)):
        with_bound = state.replace(opt_state=(*state.opt_state, jnp.float32(value)))
        if math.isnan(value):
            with pytest.raises(UserError, match="the optimizer's state is not finite after step 6"):
                journal.save(step, with_bound)
        else:
            journal.save(step, with_bound)
    journal.wait_for_checkpoints()
    assert run.workdir.checkpoint_steps() == {4}


def test_an_evaluation_that_is_not_finite_is_refused(journal, run):
    bad = {"loss": np.array([1.0, np.nan]), "accuracy": np.array([0.5, 0.5])}
    words = "the loss of the evaluation after step 4 is nan: lower the learning rate"
    for check in (check_evaluation, journal.write_evaluation):
        with pytest.raises(UserError, match=words):
            check(4, bad)
    assert lines(run) == []


def test_a_checkpoint_comes_back_with_the_clock_and_the_newest_metrics(
    run, layout, state, monkeypatch
):
    now = 1000.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    run.config.num_steps = 10
    with Journal([run], layout, Session(Screen(quiet=True))) as journal:
        journal.resume(state, INFO)
        for step in (2, 4):
            now += 3
            journal.add(step, metrics(step))
            journal.log(step, state)
            if step == 2:
                journal.save(step, state.replace(step=jnp.int32(2)))
        journal.wait_for_checkpoints()
    now += 500
    with Journal([run], layout, Session(Screen(quiet=True))) as journal:
        restored = journal.resume(create_train_state(run.config), INFO)
        assert int(restored.step) == journal.step == 2
        assert journal.latest == {"train": [{"loss": 2.0, "accuracy": 0.5}]}
        assert journal.trained_seconds() == 3
        assert not journal.has_trained
    assert [line["step"] for line in lines(run)] == [2]
