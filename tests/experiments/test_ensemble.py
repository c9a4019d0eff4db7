"""The command that averages seeds: against NumPy, and what it says of what it cannot do."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest

from experiments import ensemble
from jaxmnist import train
from jaxmnist.data.datasets import Split
from jaxmnist.trained import inference, mistakes
from tests.conftest import content
from tests.test_export import LINEAR

FLAGS = (
    "--config=experiments/quick.py",
    "--config.dataset=mnist_sample",
    "--config.num_seeds=3",
    "--config.eval_split=test[:300]",
    "--config.curriculum=",
    "--config.features=4,8",
    "--config.hidden=16",
    "--config.num_steps=40",
    "--config.warmup_steps=10",
    "--config.ema_decay=0.8",
)


def command(workdir, *flags):
    with pytest.MonkeyPatch.context() as patch:
        # It runs in the tests' process, whose memory is to stay as it is.
        patch.setattr("jaxmnist.devices.tuning.keep_freed_memory", lambda: None)
        return ensemble.main([f"--workdir={workdir}", *flags])


@pytest.fixture
def workdir(once, tmp_path):
    """The workdir of three seeds, averaged; of one's own."""

    def fill(folder):
        assert command(folder, *FLAGS) == 0

    return shutil.copytree(once("averaged", fill), tmp_path / "averaged")


def numpy_probabilities(params, images):
    """The paper's network in NumPy alone, in float64."""
    x = images / 255
    for name in ("Conv_0", "Conv_1"):
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), (1, 2))
        x = np.maximum(np.einsum("nhwcij,ijcf->nhwf", windows, kernel, optimize=True) + bias, 0)
        n, height, width, features = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, features).max((2, 4))
    x = x.reshape(len(x), -1)
    x = np.maximum(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"], 0)
    exp = np.exp(x @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"])
    return exp / exp.sum(-1, keepdims=True)


def averaged(workdir, images):
    """The mean over the seeds, by NumPy, with the parameters that evaluations use."""
    models = [inference.load(workdir / f"seed-{seed}") for seed in range(3)]
    params = [jax.tree.map(np.float64, model.params) for model in models]
    assert not np.array_equal(
        params[0]["Dense_1"]["bias"], models[0].trained_params["Dense_1"]["bias"]
    )
    return np.mean([numpy_probabilities(each, images) for each in params], axis=0)


def test_the_figures_are_those_of_numpy(workdir, test_split):
    images, labels = test_split.images[:300], test_split.labels[:300]
    record = json.loads((workdir / "ensemble.json").read_text())

    def check(found, probabilities):
        assert found["accuracy"] == np.mean(probabilities.argmax(-1) == labels)
        loss = -np.log(probabilities[np.arange(300), labels]).mean()
        assert found["loss"] == pytest.approx(loss, rel=1e-5)

    check(record["average"], averaged(workdir, images))
    moved = []
    for down, right in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        view = np.roll(images, (down, right), (1, 2))
        if down:
            view[:, 0 if down > 0 else -1] = 0
        if right:
            view[:, :, 0 if right > 0 else -1] = 0
        moved.append(averaged(workdir, view))
    check(record["average_with_shifts"], np.mean(moved, axis=0))
    assert record["average"] != record["average_with_shifts"]
    assert record["average"]["accuracy"] > 0.6

    results = json.loads((workdir / "results.json").read_text())
    for name in ("accuracy", "loss"):
        for what in ("mean", "std", "each"):
            expected = pytest.approx(results["test"][name][what], rel=1e-5)
            assert record["test"][name][what] == expected
    for name in ("seeds", "step", "params_sha256", "device", "versions", "config"):
        assert record[name] == results[name]
    evaluated_on = {"dataset": "mnist_sample", "split": "test[:300]", "num_examples": 300}
    assert record["evaluated_on"] == evaluated_on


def test_the_file_answers_as_numpy_does(workdir, test_split):
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    images, labels = test_split.images[:300], test_split.labels[:300]
    session = runtime.InferenceSession(workdir / "ensemble.onnx")
    assert [each.name for each in session.get_outputs()] == ["probabilities"]
    parts = [session.run(None, {"image": part})[0] for part in (images[:1], images[1:])]
    found, expected = np.concatenate(parts), averaged(workdir, images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))

    about = json.loads((workdir / "ensemble.onnx.json").read_text())
    record = json.loads((workdir / "ensemble.json").read_text())
    assert about["accuracy"] == np.mean(found.argmax(-1) == labels)
    assert about["largest_difference_of_probabilities"] < 1e-5
    assert about["output"]["name"] == "probabilities"
    assert about["output"]["shape"] == ["batch", 10]
    assert 'run(["probabilities"], {"image": image})' in about["read_with"]
    for name in ("seeds", "params_sha256", "evaluated_on"):
        assert about[name] == record[name]


def test_finished_seeds_are_not_trained_again(workdir, monkeypatch, capsys):
    before = content(workdir)
    (workdir / "ensemble.json").unlink()
    (workdir / "ensemble.onnx").unlink(missing_ok=True)
    monkeypatch.setattr(train, "train", lambda *args: pytest.fail("it trains"))
    assert command(workdir) == 0
    after = content(workdir)
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {"results.json"}, "which has the seconds of the last command"
    average = json.loads(after["ensemble.json"])["average"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["test", "accuracy", "test", "loss"]
    assert lines[1].startswith("3 single seeds         0.")
    wanted = f"their average          {average['accuracy']:.4f}           {average['loss']:.4f}"
    assert lines[2] == wanted
    assert lines[3].startswith("with test-time shifts  0.")


def test_another_seed_is_added(workdir, capsys):
    assert command(workdir, "--config.num_seeds=4") == 0
    captured = capsys.readouterr()
    assert "seed 3 (of 0 to 3):" in captured.out
    assert "seed 2 (of" not in captured.out
    assert "\n4 single seeds " in captured.out


def test_another_split_is_evaluated(workdir):
    assert command(workdir, "--config.eval_split=test[300:500]") == 0
    record = json.loads((workdir / "ensemble.json").read_text())
    results = json.loads((workdir / "results.json").read_text())
    assert record["evaluated_on"]["split"] == "test[300:500]"
    assert record["test"]["accuracy"]["each"] == results["test"]["accuracy"]["each"]
    if (workdir / "ensemble.onnx.json").exists():
        about = json.loads((workdir / "ensemble.onnx.json").read_text())
        assert about["evaluated_on"] == record["evaluated_on"]
        assert about["accuracy"] == record["average"]["accuracy"]


def test_without_the_extra_the_file_is_left_out(workdir, monkeypatch, capsys):
    (workdir / "ensemble.json").unlink(missing_ok=True)
    exported = [workdir / "ensemble.onnx", workdir / "ensemble.onnx.json"]
    for old in exported:
        old.write_text("of other seeds")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert command(workdir) == 0
    said = capsys.readouterr()
    assert said.err == (
        "ensemble.onnx is left out, since the format onnx needs onnx: pip install "
        "'jaxmnist[onnx]'.\n"
    )
    assert "their average" in said.out
    assert (workdir / "ensemble.json").exists()
    assert not any(old.exists() for old in exported)
    about = json.loads((workdir / "ensemble.json").read_text())
    exported[0].write_text("of these seeds")
    exported[1].write_text(json.dumps(about))
    assert command(workdir) == 0
    assert "ensemble.onnx stays as it is, since the format onnx needs" in capsys.readouterr().err
    assert exported[0].read_text() == "of these seeds"


def test_a_network_that_onnx_does_not_know(tmp_path, capsys):
    (tmp_path / "net.py").write_text(LINEAR)
    flags = (*FLAGS[:4], "--config.num_steps=4", "--config.warmup_steps=0", "--config.curriculum=")
    model = f"--config.model={tmp_path}/net.py:Linear"
    assert command(tmp_path / "run", *flags, "--config.num_seeds=2", model) == 0
    said = capsys.readouterr()
    assert "ensemble.onnx is left out, since onnx knows only the paper's network" in said.err
    assert said.err.count("\n") == 1
    assert (tmp_path / "run/ensemble.json").exists()


def test_a_folder_for_pictures_is_made_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "train_and_evaluate", lambda *args, **kwargs: pytest.fail("trains"))
    (tmp_path / "file").write_text("")
    for flag, sentence in (
        (f"--pictures={tmp_path}/file", "File exists"),
        ("--pictures=", "--pictures is empty: give it a path."),
    ):
        assert command(tmp_path / "new", *FLAGS, flag) == 1
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1


def test_a_finished_seed_without_a_checkpoint(workdir, capsys):
    shutil.rmtree(workdir / "seed-1/checkpoints")
    assert command(workdir) == 1
    assert (
        f"{workdir}/seed-1 has results.json, but no checkpoint: delete" in capsys.readouterr().err
    )
    shutil.rmtree(workdir / "seed-1")
    assert command(workdir) == 0


def test_what_is_no_ensemble_is_refused_in_a_sentence(finished, tmp_path, monkeypatch, capsys):
    for workdir, flags, sentence in (
        (tmp_path / "new", ("--config.num_seeds=1",), "num_seeds=1 is not allowed: an average ne"),
        (finished, (), f"{finished} holds one run, and num_seeds=3 now: choose another workdir"),
        (tmp_path / "new", ("--config=no.py",), "--config=no.py: there is no such file"),
        (tmp_path / "new", ("--config.optimizer=x",), "optimizer"),
    ):
        assert command(workdir, *FLAGS, *flags) == 1
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
    assert command(finished) == 1
    assert "holds one run, and num_seeds=5 now" in capsys.readouterr().err
    monkeypatch.setattr(ensemble, "BEST", tmp_path / "best.py")
    assert command(tmp_path / "new") == 1
    assert f"--config={tmp_path}/best.py: there is no such file" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    with pytest.raises(SystemExit):
        command(finished, "--config.num_seed=2")
    said = capsys.readouterr().err
    assert "usage: python -m experiments.ensemble" in said
    assert "did you mean --config.num_seeds?" in said


def test_pictures_of_what_the_average_gets_wrong(workdir, tmp_path, test_split, capsys):
    assert command(workdir, f"--pictures={tmp_path}/drawn") == 0
    drawn = tmp_path / "drawn"
    assert {path.name for path in drawn.iterdir()} == {"mistakes.png", "mislabelled.png"}
    split = Split(test_split.images[:300], test_split.labels[:300])
    found = averaged(workdir, split.images).astype(np.float32)
    wrong = np.sum(found.argmax(-1) != split.labels)
    assert wrong > mistakes.COUNT
    assert f"{drawn} has mistakes.png (25 of {wrong} mistakes) and mis" in capsys.readouterr().out
    expected = mistakes.grid(split, found.argmax(-1), found.max(-1), [str(i) for i in range(10)])
    assert (drawn / "mistakes.png").read_bytes() == expected
    assert (drawn / "mislabelled.png").read_bytes() != expected
