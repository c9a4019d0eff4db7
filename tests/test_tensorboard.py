"""What TensorBoard reads of a run: mistakes, histograms, hyperparameters and traces."""

import gzip
import io
import json
from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from PIL import Image
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

import jaxmnist
from jaxmnist import hooks, runs, tensorboard
from jaxmnist.data import datasets
from jaxmnist.devices.sharding import Layout
from jaxmnist.errors import UserError
from jaxmnist.record.journal import Records
from jaxmnist.record.metrics import Stopwatch
from jaxmnist.record.screen import Screen
from jaxmnist.record.workdir import Workdir
from jaxmnist.train_step import create_train_state
from jaxmnist.trained import mistakes
from tests.conftest import read_events


def of_tag(folder, tag):
    return {step: value for step, value in read_events(folder) if value.tag == tag}


def test_the_mistakes_of_each_evaluation_are_a_picture(config, tmp_path, test_split):
    runs.train_and_evaluate(config, tmp_path)
    found = of_tag(tmp_path / "tensorboard" / "test", "mistakes")
    assert sorted(found) == [4, 6]
    for value in found.values():
        picture = Image.open(io.BytesIO(value.image.encoded_image_string))
        assert picture.size == (value.image.width, value.image.height)
    # The last is that of the last checkpoint's mistakes.
    model = jaxmnist.load(tmp_path)
    images, labels = test_split.images[:200], test_split.labels[:200]
    classes, probabilities = model.predict(images)
    first = mistakes.most_confident(labels, classes, probabilities.max(-1))[0]
    tile = np.asarray(picture.convert("L"))[16 : 16 + 28 * 6 : 6, 16 : 16 + 28 * 6 : 6]
    np.testing.assert_array_equal(tile, images[first, ..., 0])


def test_runs_that_train_at_once_have_each_their_own(config, tmp_path):
    config.num_seeds = config.seeds_per_call = 2
    config.histograms = True
    runs.train_and_evaluate(config, tmp_path)
    folders = [tmp_path / f"seed-{seed}" / "tensorboard" / "test" for seed in (0, 1)]
    for tag, kind in (("mistakes", "image"), ("Dense_1/kernel", "histo")):
        first, second = (getattr(of_tag(folder, tag)[6], kind) for folder in folders)
        assert first != second


def test_histograms_if_asked_for(config, tmp_path):
    config.histograms = True
    runs.train_and_evaluate(config, tmp_path)
    params = jaxmnist.load(tmp_path).params
    for layer, arrays in params.items():
        for name, array in arrays.items():
            found = of_tag(tmp_path / "tensorboard" / "test", f"{layer}/{name}")
            assert sorted(found) == [4, 6]
            histogram = found[6].histo
            assert histogram.num == sum(histogram.bucket) == array.size
            assert histogram.sum == pytest.approx(array.sum(dtype=np.float64), rel=1e-6, abs=1e-6)
            assert (histogram.min, histogram.max) == (array.min(), array.max())


def test_parameters_that_are_not_finite_have_no_histogram(config, tmp_path):
    config.histograms = True
    layout = Layout.create()
    with ExitStack() as cleanup:
        records = Records([Workdir(tmp_path)], layout)
        cleanup.callback(records.close)
        state = records.open([config], {}, create_train_state(config))
        params = jax.tree.map(lambda x: x.at[0].set(jnp.inf), state.params["Dense_1"])
        state = state.replace(params=state.params | {"Dense_1": params})
        split = datasets.load("mnist_sample", ["test[:3]"]).splits[0]
        show = tensorboard.Show(config, split, records, layout)
        show(4, state, {"classes": split.labels, "confidence": np.ones(3, np.float32)})
    tags = {value.tag for _, value in read_events(tmp_path / "tensorboard" / "test")}
    assert "Dense_0/kernel" in tags
    assert "Dense_1/kernel" not in tags


def test_hyperparameters_of_a_finished_run(config, tmp_path):
    for steps in (6, 8):  # The second run goes on from the first.
        config.num_steps = steps
        runs.train_and_evaluate(config, tmp_path)
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
            assert of_tag(tmp_path / "tensorboard" / folder, tag)


def test_a_trace_of_some_steps(config, tmp_path, capsys):
    config.profile_steps = "2:4"
    runs.train_and_evaluate(config, tmp_path)
    (folder,) = (tmp_path / "tensorboard" / "plugins" / "profile").iterdir()
    assert list(folder.glob("*.xplane.pb"))  # For TensorBoard.
    trace = json.loads(gzip.decompress((folder / "perfetto_trace.json.gz").read_bytes()))
    steps = [event for event in trace["traceEvents"] if event.get("name") == "train"]
    assert sorted(int(event["args"]["step_num"]) for event in steps) == [2, 3]
    assert "steps 3 to 4 are traced" in capsys.readouterr().out
    config.num_steps = 8
    runs.train_and_evaluate(config, tmp_path)
    assert "profile_steps=2:4 are done: nothing is traced" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("start", "many", "calls"),
    [
        *((0, 1, [12, 15]), (0, 5, [10, 15]), (0, 20, [0, 20]), (13, 1, [13, 15]), (15, 1, [])),
        (3, 5, [10, 15]),  # Single steps lead up to the calls of five.
        (1, 20, [12, 15]),
    ],
)
def test_a_trace_is_of_whole_calls(config, tmp_path, monkeypatch, start, many, calls):
    state = create_train_state(config)
    called, now = [], [0]
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: called.append(*now))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: called.append(*now))
    config.num_steps, config.profile_steps = 100, "12:15"
    profile = tensorboard.Profile(config, tmp_path, Screen(), Stopwatch())
    step = start
    while step < 100:
        count = 1 if step % many else many
        now[0] = step
        profile.start(step, count, state)
        step = now[0] = step + count
        profile(step, state, {})
    profile.close()
    assert called == calls


def test_a_run_that_fails_writes_its_trace(config, tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("the loss is nan")

    config.profile_steps = "2:6"
    monkeypatch.setattr(hooks.Evaluate, "__call__", fail)
    with pytest.raises(UserError, match="the loss is nan"):
        runs.train_and_evaluate(config, tmp_path / "first")
    config.profile_steps = "0:6"
    with pytest.raises(UserError, match="the loss is nan"):
        runs.train_and_evaluate(config, tmp_path / "second")
    assert list(tmp_path.glob("second/tensorboard/plugins/profile/*/*.xplane.pb"))
    assert not list(tmp_path.glob("first/tensorboard/plugins"))


@pytest.mark.parametrize("steps", ["100", "6:", "a:b", "3:2", "2:2", "0:7", "-1:3"])
def test_steps_that_there_are_not_are_refused(config, tmp_path, steps):
    config.profile_steps = steps
    with pytest.raises(UserError, match=rf"^profile_steps='?{steps}'? is not allowed: it must "):
        runs.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
