"""What happens every so many steps, when it is due and when a loss is not finite."""

import math
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmnist import hooks
from jaxmnist.errors import Interrupted, UserError
from jaxmnist.record.journal import Records
from jaxmnist.record.metrics import MetricWriter, Stopwatch
from jaxmnist.record.screen import Screen
from jaxmnist.record.workdir import Workdir
from jaxmnist.train_step import create_train_state


class FakeRecords(Records):
    """Writes metrics, but notes checkpoints instead."""

    def __init__(self, workdir):
        self.saved, self.waited = [], 0
        self._checkpoints, self._writers = [], [MetricWriter(workdir, 0)]
        self._on_metrics = None

    def save(self, step, state):
        self.saved.append(step)

    def wait(self):
        self.waited += 1


@pytest.fixture
def state(config):
    return create_train_state(config)


@pytest.fixture
def records(tmp_path):
    opened = FakeRecords(Workdir(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def log(records):
    return hooks.Log(3, 10, 0, [0], records, Screen(), Stopwatch())


def metrics(loss):
    values = {"loss": loss, "accuracy": 0.5, "learning_rate": 1.0}
    return {name: jnp.float32(value) for name, value in values.items()}


def test_log_is_due_every_few_steps_and_after_the_last(log, state, records, tmp_path):
    for step in range(1, 11):
        log(step, state, metrics(step))
    steps = [line.split(",")[0] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [f'{{"step": {step}' for step in (3, 6, 9, 10)]
    assert records.latest("train") == [{"loss": 10.0, "accuracy": 0.5}]


def test_a_bad_loss_between_two_logs_is_named_with_its_step(log, state):
    log(1, state, metrics(1))
    log(2, state, metrics(float("nan")))
    with pytest.raises(UserError, match="the loss is nan at step 2: lower the learning rate"):
        log(3, state, metrics(1))


def test_a_bad_loss_within_a_call_of_several_steps_is_named_with_its_step(log, state):
    log(1, state, metrics(1))
    with pytest.raises(UserError, match="the loss is inf at step 3: lower the learning"):
        log(6, state, jax.tree.map(lambda *x: jnp.stack(x), *map(metrics, [1, math.inf, 1, 1, 1])))


def test_no_checkpoint_after_a_bad_loss(log, records, state):
    checkpoint = hooks.Checkpoint(2, 10, records, log)
    log(1, state, metrics(1))
    log(2, state, metrics(float("inf")))
    with pytest.raises(UserError, match="the loss is inf at step 2"):
        checkpoint(2, state, metrics(1))
    assert records.saved == []


def test_checkpoints_are_due_every_few_steps_and_after_the_last(log, records, state):
    checkpoint = hooks.Checkpoint(4, 10, records, log)
    for step in range(1, 11):
        checkpoint(step, state, metrics(1))
    assert records.saved == [4, 8, 10]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_makes_a_checkpoint_and_then_interrupts(log, records, state, signum, capsys):
    checkpoint = hooks.Checkpoint(100, 100, records, log)
    before = signal.getsignal(signum)
    with checkpoint.on_signals():
        checkpoint(1, state, metrics(1))
        os.kill(os.getpid(), signum)
        with pytest.raises(Interrupted) as caught:
            checkpoint(2, state, metrics(1))
    assert (caught.value.signum, records.saved, records.waited) == (signum, [2], 1)
    assert signal.getsignal(signum) == before
    again = {signal.SIGTERM: "SIGTERM: {}; Ctrl-C", signal.SIGINT: "Ctrl-C: {}; Ctrl-C again"}
    said = again[signum].format("stopping after this step and writing a checkpoint")
    assert capsys.readouterr().err == f"{said} stops at once.\n"


def test_evaluation_pauses_the_stopwatch(log, state, records):
    watch = Stopwatch()
    shown = []

    def evaluate(state):
        found = {"loss": np.array(0.5), "accuracy": np.array(0.75)}
        return hooks.Evaluation(found, {"classes": np.arange(3)})

    def show(step, state, answers):
        shown.append((step, answers["classes"].tolist()))

    evaluation = hooks.Evaluate(4, 10, "test", evaluate, show, log, records, Screen(), watch)
    for step in range(1, 11):
        evaluation(step, state, metrics(1))
    assert shown == [(step, [0, 1, 2]) for step in (4, 8, 10)]
    assert evaluation.latest == [{"loss": 0.5, "accuracy": 0.75}]
    assert records.latest("test") == evaluation.latest
    assert watch.paused > 0


def test_outside_the_main_thread_signals_are_left_alone(log, records):
    checkpoint, entered = hooks.Checkpoint(100, 100, records, log), []
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]

    def train():
        with checkpoint.on_signals():
            entered.append([signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)])

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert entered == [before]
