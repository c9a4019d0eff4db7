"""Metrics on disk survive a restart."""

import json

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from jaxmnist import train
from jaxmnist.record.metrics import MetricWriter, waited
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
    assert [(line["step"], line["loss"]) for line in writer.lines] == [(10, 0.1), (20, 0.05)]
    writer.write(30, "train", 3.5, METRICS)
    writer.close()
    assert [(r["step"], r["seconds"]) for r in records(workdir)] == [
        (10, 1.0),
        (20, 2.0),
        (30, 3.5),
    ]


def test_hyperparameters_of_a_finished_run(config, tmp_path):
    for steps in (6, 8):  # The second run goes on from the first.
        config.num_steps = steps
        train.train_and_evaluate(config, tmp_path)
        found = {}
        for _, value in read_events(tmp_path / "tensorboard"):
            assert value.metadata.plugin_data.plugin_name == "hparams"
            found[value.tag] = HParamsPluginData.FromString(value.metadata.plugin_data.content)
        start = found["_hparams_/session_start_info"].session_start_info
        assert start.hparams["num_steps"].number_value == steps
        assert start.hparams["learning_rate"].number_value == 0.05
        assert start.hparams["optimizer"].string_value == "sgd(momentum=0.9)"
        assert "log_every" not in start.hparams
        assert found["_hparams_/session_end_info"].HasField("session_end_info")
        experiment = found["_hparams_/experiment"].experiment
        assert {info.name for info in experiment.hparam_infos} == set(start.hparams)
        # TensorBoard sorts by HParamInfo.differs, its field 7, and then by name.
        unknown = {info.name: list(UnknownFieldSet(info)) for info in experiment.hparam_infos}
        first = {
            name: [(f.field_number, f.data) for f in fields]
            for name, fields in unknown.items()
            if fields
        }
        assert first == {"learning_rate": [(7, 1)], "optimizer": [(7, 1)]}
        metrics = [(info.name.group, info.name.tag) for info in experiment.metric_infos]
        assert metrics[:2] == [("test", "accuracy"), ("test", "loss")]
        assert metrics[-2:] == [("validation", "accuracy"), ("validation", "loss")]
        for folder, tag in metrics[:-2]:
            tags = {value.tag for _, value in read_events(tmp_path / "tensorboard" / folder)}
            assert tag in tags


@pytest.mark.parametrize(
    ("accuracies", "since", "count"),
    [
        ([], 0, 0),
        ([0.0, 0.5, 0.6], 0, 0),
        ([0.5, 0.5, 0.6, 0.6, 0.1], 0, 2),
        ([0.5, 0.4, 0.3, 0.2], 0, 3),
        ([0.5, 0.4, 0.3, 0.2], 30, 1),
        ([0.5, 0.4, 0.45, 0.6, 0.6], 30, 1),
    ],
)
def test_how_long_there_was_no_better_accuracy(accuracies, since, count):
    """Of evaluations after steps 10, 20, ...: those after `since` that are not above all before."""
    lines = [{"step": 10 * (i + 1), "accuracy": value} for i, value in enumerate(accuracies)]
    assert waited(lines, since) == count
