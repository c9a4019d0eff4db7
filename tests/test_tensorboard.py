"""What TensorBoard reads of a run: mistakes, histograms and traces."""

import gzip
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxmnist
from jaxmnist import hooks, tensorboard, train
from jaxmnist.data import datasets
from jaxmnist.data.datasets import Split
from jaxmnist.errors import UserError
from jaxmnist.trained import mistakes
from tests.conftest import read_events


def of_tag(folder, tag):
    return {step: value for step, value in read_events(folder) if value.tag == tag}


def test_the_mistakes_of_each_evaluation_are_a_picture(config, tmp_path, test_split):
    train.train_and_evaluate(config, tmp_path)
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
    train.train_and_evaluate(config, tmp_path)
    folders = [tmp_path / f"seed-{seed}" / "tensorboard" / "test" for seed in (0, 1)]
    for tag, kind in (("mistakes", "image"), ("Dense_1/kernel", "histo")):
        first, second = (getattr(of_tag(folder, tag)[6], kind) for folder in folders)
        assert first != second


def test_histograms_if_asked_for(config, tmp_path):
    config.histograms = True
    train.train_and_evaluate(config, tmp_path)
    params = jaxmnist.load(tmp_path).params
    for layer, arrays in params.items():
        for name, array in arrays.items():
            found = of_tag(tmp_path / "tensorboard" / "test", f"{layer}/{name}")
            assert sorted(found) == [4, 6]
            histogram = found[6].histo
            assert histogram.num == sum(histogram.bucket) == array.size
            assert histogram.sum == pytest.approx(array.sum(dtype=np.float64), rel=1e-6, abs=1e-6)
            assert (histogram.min, histogram.max) == (array.min(), array.max())


def test_parameters_that_are_not_finite_have_no_histogram(config, journal, state, tmp_path):
    params = jax.tree.map(lambda x: x.at[0].set(jnp.inf), state.params["Dense_1"])
    tensorboard.Histograms(journal)(4, state.replace(params=state.params | {"Dense_1": params}))
    tags = {value.tag for _, value in read_events(tmp_path / "run/tensorboard/test")}
    assert "Dense_0/kernel" in tags
    assert "Dense_1/kernel" not in tags


def test_a_trace_of_some_steps(config, tmp_path, capsys):
    config.profile_steps = "2:4"
    train.train_and_evaluate(config, tmp_path)
    (folder,) = (tmp_path / "tensorboard" / "plugins" / "profile").iterdir()
    assert list(folder.glob("*.xplane.pb"))  # For TensorBoard.
    trace = json.loads(gzip.decompress((folder / "perfetto_trace.json.gz").read_bytes()))
    steps = [event for event in trace["traceEvents"] if event.get("name") == "train"]
    assert sorted(int(event["args"]["step_num"]) for event in steps) == [2, 3]
    assert "steps 3 to 4 are traced" in capsys.readouterr().out
    config.num_steps = 8
    train.train_and_evaluate(config, tmp_path)
    assert "profile_steps=2:4 are done: nothing is traced" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("start", "most", "traced"),
    [
        *((0, 1, [12, 15]), (0, 5, [10, 15]), (0, 20, [0, 20]), (13, 1, [13, 15]), (15, 1, [])),
        (3, 5, [10, 15]),  # Single steps lead up to the calls of five.
        (1, 20, [12, 15]),
    ],
)
def test_a_trace_is_of_whole_calls(run, journal, state, monkeypatch, start, most, traced):
    called, now = [], [0]
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: called.append(*now))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: called.append(*now))
    run.config.num_steps, run.config.profile_steps = 100, "12:15"
    with tensorboard.Profile(run, journal) as profile:
        for step, count in hooks.device_calls(start, 100, most):
            now[0] = step
            with profile.call(step, count):
                now[0] = step + count
            profile(step + count, state)
    assert called == traced


def test_a_run_that_fails_writes_its_trace(config, tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("the loss is nan")

    config.profile_steps = "4:6"  # It fails after step 4.
    monkeypatch.setattr(hooks.Evaluator, "__call__", fail)
    with pytest.raises(UserError, match="the loss is nan"):
        train.train_and_evaluate(config, tmp_path / "first")
    config.profile_steps = "0:6"
    with pytest.raises(UserError, match="the loss is nan"):
        train.train_and_evaluate(config, tmp_path / "second")
    assert list(tmp_path.glob("second/tensorboard/plugins/profile/*/*.xplane.pb"))
    assert not list(tmp_path.glob("first/tensorboard/plugins"))


@pytest.mark.parametrize("steps", ["100", "6:", "a:b", "3:2", "2:2", "0:7", "-1:3"])
def test_steps_that_there_are_not_are_refused(config, tmp_path, steps):
    config.profile_steps = steps
    with pytest.raises(UserError, match=rf"^profile_steps='?{steps}'? is not allowed: it must "):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mistakes_are_shown_as_a_person_sees_them(config, journal, test_split, monkeypatch):
    shown = []
    png = io.BytesIO()
    Image.new("L", (1, 1)).save(png, "PNG")

    def grid(split, *args, **kwargs):
        shown.append(split)
        return png.getvalue()

    monkeypatch.setattr(mistakes, "grid", grid)
    swapped = Split(test_split.images.swapaxes(1, 2), test_split.labels)
    for config.dataset, split in (("emnist/digits", swapped), ("mnist", test_split)):
        info = datasets.describe(config)
        answers = {"classes": split.labels, "confidence": np.ones(len(split), np.float32)}
        tensorboard.Mistakes(info, split, journal)(1, answers)
    assert len(shown) == 2
    for split in shown:
        np.testing.assert_array_equal(split.images, test_split.images)
