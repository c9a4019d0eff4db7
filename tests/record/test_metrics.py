"""Metrics on disk survive a restart."""

import json
import time

import pytest

from jaxmnist.record.metrics import MetricWriter, Stopwatch
from jaxmnist.record.workdir import Workdir
from tests.conftest import read_events

METRICS = {"loss": 0.5, "accuracy": 0.75, "learning_rate": 0.1}


def records(workdir):
    return [json.loads(line) for line in workdir.metrics.read_text().splitlines()]


def scalars(folder):
    """(step, name, value) of every scalar in the event files of a folder."""
    return [(step, value.tag, value.simple_value) for step, value in read_events(folder)]


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path)


def test_records_and_events_hold_the_same(workdir):
    writer = MetricWriter(workdir, 0)
    writer.write(10, "train", 1.5, METRICS)
    writer.write(10, "test", 1.5, {"loss": 0.25, "accuracy": 1.0})
    writer.close()
    assert records(workdir) == [
        {"step": 10, "split": "train", **METRICS, "seconds": 1.5},
        {"step": 10, "split": "test", "loss": 0.25, "accuracy": 1.0, "seconds": 1.5},
    ]
    wanted = [(10, name, pytest.approx(value)) for name, value in METRICS.items()]
    assert scalars(workdir.tensorboard / "train") == wanted
    assert scalars(workdir.tensorboard / "test") == [(10, "loss", 0.25), (10, "accuracy", 1.0)]


def test_what_came_after_the_checkpoint_is_dropped(workdir):
    writer = MetricWriter(workdir, 0)
    for step in (10, 20, 30):
        writer.write(step, "train", step / 10, METRICS | {"loss": 1 / step})
    writer.close()
    with workdir.metrics.open("a") as f:
        f.write('{"step": 40, "spl')  # Killed in the middle of a line.
    writer = MetricWriter(workdir, 20)
    assert writer.seconds == 2.0
    assert writer.latest["train"]["loss"] == 0.05
    writer.write(30, "train", 3.5, METRICS)
    writer.close()
    assert [(r["step"], r["seconds"]) for r in records(workdir)] == [
        (10, 1.0),
        (20, 2.0),
        (30, 3.5),
    ]


def test_the_stopwatch_leaves_pauses_out(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    watch = Stopwatch(already=100.0)
    now += 5
    with watch.pause():
        now += 70
    now += 2
    assert watch.seconds() == 107
