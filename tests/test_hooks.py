"""What happens every so many steps, when it is due, and how a signal stops a run."""

import json
import os
import signal
import threading
import time

import numpy as np
import pytest

from jaxmnist import hooks
from jaxmnist.compile import compiled_steps
from jaxmnist.config import get_config
from jaxmnist.data.datasets import describe
from jaxmnist.data.input_pipeline import OrderedBatches
from jaxmnist.errors import Interrupted
from jaxmnist.evaluate import Evaluation
from jaxmnist.tensorboard import Mistakes
from tests.conftest import read_events

INFO = describe(get_config())


def checkpoints(run):
    return sorted(run.workdir.checkpoint_steps())


def test_hooks_are_due_every_few_steps_and_after_the_last(state):
    called = []
    hooked = hooks.Hooks(10)
    hooked.add(lambda step, state: called.append(("a", step)), every=3)
    hooked.add(lambda step, state: called.append(("b", step)), every=4)
    for step in range(1, 11):
        hooked(step, state)
    assert called == [(n, s) for n, s in zip("ababaab", (3, 4, 6, 8, 9, 10, 10), strict=True)]


def test_a_hook_that_is_due_after_calls_of_several_steps(state):
    called = []
    hooked = hooks.Hooks(10)
    hooked.add(lambda step, given: called.append((step, given is state)), every=4)
    for step, count in hooks.device_calls(0, 10, 4):
        hooked(step + count, state)
    assert called == [(4, True), (8, True), (10, True)]


def test_a_run_that_a_hook_ends(state):
    """The others are called then, and no step is taken any more."""
    called, steps = [], []
    hooked = hooks.Hooks(10, lambda: ("evaluate", 4) in called)
    for name, every in (("log", 3), ("evaluate", 2), ("save", 5)):
        hooked.add(lambda step, state, name=name: called.append((name, step)), every=every)
    for step, count in hooks.device_calls(0, 10, 2, lambda: ("evaluate", 4) in called):
        steps.append((step, count))
        hooked(step + count, state)
    assert steps == [(0, 2), (2, 2)]
    assert called == [("evaluate", 2), ("evaluate", 4), ("log", 4), ("save", 4)]
    assert list(hooks.device_calls(4, 10, 2, lambda: True)) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_makes_a_checkpoint_and_then_interrupts(journal, run, state, signum, capsys):
    stop = hooks.Stop(journal)
    before = signal.getsignal(signum)
    with stop.on_signals():
        stop(1, state)
        os.kill(os.getpid(), signum)
        with pytest.raises(Interrupted) as caught:
            stop(2, state)
    assert (caught.value.signum, checkpoints(run)) == (signum, [2])
    assert signal.getsignal(signum) == before
    again = {signal.SIGTERM: "SIGTERM: {}; Ctrl-C", signal.SIGINT: "Ctrl-C: {}; Ctrl-C again"}
    said = again[signum].format("stopping after this step and writing a checkpoint")
    assert capsys.readouterr().err == f"{said} stops at once.\n"


def test_outside_the_main_thread_signals_are_left_alone(journal):
    stop, entered = hooks.Stop(journal), []
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]

    def enter():
        with stop.on_signals():
            entered.append([signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [before]


def test_an_evaluation_is_written_and_no_part_of_the_training_time(
    config, journal, run, state, sample, layout, test_split, monkeypatch
):
    now = 1000.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    journal.start()
    now += 2

    def evaluate(*_):
        nonlocal now
        now += 70
        metrics = {"loss": np.array(0.5), "accuracy": np.array(0.75)}
        answers = {"classes": np.zeros(1000, int), "confidence": np.ones(1000, np.float32)}
        return Evaluation(metrics, answers)

    monkeypatch.setattr(hooks, "evaluate", evaluate)
    hook = hooks.Evaluator(
        compiled_steps(config, INFO, layout),
        OrderedBatches(sample[1], 200, layout),
        journal,
        Mistakes(INFO, test_split, journal),
    )
    hook(4, state)
    assert journal.latest == {"test": [{"loss": 0.5, "accuracy": 0.75}]}
    line = json.loads(run.workdir.metrics.read_text())
    assert (line["step"], line["split"], line["accuracy"]) == (4, "test", 0.75)
    assert (line["seconds"], journal.seconds["eval"]) == (2.0, 70.0)
    assert [s for s, v in read_events(run.workdir.tensorboard / "test") if v.tag == "mistakes"] == [
        4
    ]


@pytest.mark.parametrize(
    ("start", "last", "most", "expected"),
    [
        (0, 3, 1, [(0, 1), (1, 1), (2, 1)]),
        (3, 11, 4, [(3, 1), (4, 4), (8, 1), (9, 1), (10, 1)]),
        (8, 8, 4, []),
    ],
)
def test_calls_of_several_steps_begin_at_multiples(start, last, most, expected):
    assert list(hooks.device_calls(start, last, most)) == expected
