"""Whole runs in one process: what they leave, and that one goes on where another stopped."""

import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmnist
from jaxmnist import cli, hooks, models, train
from jaxmnist.compile import CompiledSteps
from jaxmnist.data import datasets, tfds_builders
from jaxmnist.data.input_pipeline import ShuffledBatches
from jaxmnist.devices import machine
from jaxmnist.errors import UserError
from jaxmnist.evaluate import Evaluation, evaluate
from jaxmnist.record import results as results_lib
from jaxmnist.record.workdir import Workdir
from jaxmnist.train_step import create_train_state
from jaxmnist.trained.checkpoint_evaluation import evaluate_checkpoints
from tests.conftest import content


def test_a_run_leaves_a_whole_record(config, tmp_path):
    results = train.train_and_evaluate(config, tmp_path / "run")
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
    assert results["options"] == machine.options()
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
    train.train_and_evaluate(config, tmp_path / "short")
    first = (tmp_path / "short/results.json").read_text()
    again = train.train_and_evaluate(config, tmp_path / "short")
    assert "finished at step 6" in capsys.readouterr().out
    assert (tmp_path / "short/results.json").read_text() == first
    assert again == json.loads(first)

    config.num_steps = 8
    longer = train.train_and_evaluate(config, tmp_path / "short")
    assert "resuming from step 6" in capsys.readouterr().out
    straight = train.train_and_evaluate(config, tmp_path / "long")
    assert longer["step"] == 8
    assert longer["params_sha256"] == straight["params_sha256"]

    assert [(start["step"], start["num_steps"]) for start in longer["starts"]] == [(0, 6), (6, 8)]
    assert [(start["step"], start["num_steps"]) for start in straight["starts"]] == [(0, 8)]

    config.num_steps = 7
    before = content(tmp_path / "short")
    with pytest.raises(UserError, match="step 8, beyond num_steps=7"):
        train.train_and_evaluate(config, tmp_path / "short")
    assert content(tmp_path / "short") == before


def other_network(monkeypatch, **fields):
    """As if models.py had been edited."""
    monkeypatch.setattr(models, "CNN", functools.partial(models.CNN, **fields))


@pytest.mark.parametrize("is_old", [False, True])
def test_a_run_of_another_network_is_refused_and_stays_as_it_was(
    config, finished, monkeypatch, is_old
):
    """On every way in; also where the workdir is from before networks were recorded."""
    if is_old:
        (finished / "run.json").unlink()
    before = content(finished)
    fields = {"features": (32, 64, 64)} if is_old else {"features": (16, 32)}
    other_network(monkeypatch, **fields)
    sentence = r"holds a run of another network: (params/)?Conv_\d/bias \(.* there, .* now\)"
    for num_steps in (6, 8):
        config.num_steps = num_steps
        with pytest.raises(UserError, match=sentence):
            train.train_and_evaluate(config, finished)
    for ask in (jaxmnist.load, lambda path: evaluate_checkpoints(config, path)):
        with pytest.raises(UserError, match=sentence):
            ask(finished)
    assert content(finished) == before


def test_a_workdir_without_run_json_goes_on_and_gets_one(config, finished):
    (finished / "run.json").unlink()
    config.num_steps = 8
    results = train.train_and_evaluate(config, finished)
    recorded = json.loads((finished / "run.json").read_text())
    assert recorded["network"]["fields"]["features"] == [32, 64]
    assert recorded["network"]["params"]["Conv_0/bias"] == "float32 (32,)"
    assert recorded["preparation"] == datasets.preparation("mnist_sample")
    assert recorded["starts"] == results["starts"]
    assert [(start["step"], start["num_steps"]) for start in results["starts"]] == [(0, 6), (6, 8)]


def test_a_run_that_trained_again_is_no_other_evaluation(config, finished):
    """Its newest checkpoint was lost, so steps were taken: all that is recorded is new."""
    before = json.loads((finished / "results.json").read_text())
    shutil.rmtree(finished / "checkpoints/6")
    found = train.train_and_evaluate(config, finished)
    assert [start["step"] for start in found["starts"]] == [0, 4]
    assert found["params_sha256"] == before["params_sha256"]
    assert found["seconds"] != before["seconds"]


def test_checkpoints_without_a_config_are_refused(config, finished):
    """Nobody can tell what they were trained with."""
    (finished / "config.json").unlink()
    before = content(finished)
    config.num_steps = 8
    with pytest.raises(UserError, match=r"holds checkpoints, but no config.json"):
        train.train_and_evaluate(config, finished)
    assert content(finished) == before


def test_a_finished_record_is_not_written_over_by_another_training(config, finished):
    """Also where its checkpoints were deleted."""
    shutil.rmtree(finished / "checkpoints")
    before = content(finished)
    config.learning_rate = 0.01
    with pytest.raises(UserError, match=r"trained differently: learning_rate \(0.05 there, 0.01"):
        train.train_and_evaluate(config, finished)
    assert content(finished) == before


def test_metrics_that_are_gone_are_no_stack_trace(config, finished, capsys):
    lines = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    (finished / "metrics.jsonl").write_text("".join(["7\n", '{"st', "\n", *lines[1:]]))
    train.train_and_evaluate(config, finished)
    assert "WARNING: 2 damaged lines of" in capsys.readouterr().err
    assert (finished / "metrics.jsonl").read_text() == "".join(lines[1:])
    for name in ("metrics.jsonl", "results.json"):
        (finished / name).unlink()
    assert "train" not in train.train_and_evaluate(config, finished)


def test_where_no_checkpoint_is_whole_the_run_stops(config, finished):
    for path in (finished / "checkpoints").glob("*/state/_METADATA"):
        path.write_text("{")
    before = content(finished)
    config.num_steps = 8
    with pytest.raises(UserError, match="but none is whole"):
        train.train_and_evaluate(config, finished)
    assert content(finished) == before


def test_a_run_killed_after_its_last_checkpoint_is_finished_the_next_time(config, finished):
    expected = json.loads((finished / "results.json").read_text())
    (finished / "results.json").unlink()
    for path in (finished / "tensorboard").glob("events*"):
        path.unlink()
    found = train.train_and_evaluate(config, finished)
    for part in ("test", "train", "params_sha256", "starts", "step"):
        assert found[part] == expected[part]
    assert "first_step" not in found["seconds"]
    assert found["seconds"]["train"] <= expected["seconds"]["train"] + 0.001
    assert len(list((finished / "tensorboard").glob("events*"))) == 1  # The hyperparameters.


def test_a_number_stands_beside_the_conditions_that_it_has(config, finished, monkeypatch):
    before = json.loads((finished / "results.json").read_text())
    config.eval_split = "train[-50:]"
    found = train.train_and_evaluate(config, finished)
    assert "test" not in found
    assert found["config"]["eval_split"] == "train[-50:]"
    assert found["dataset"]["num_examples"] == {"train": 400, "validation": 50}
    assert found["params_sha256"] == before["params_sha256"]
    assert found["seconds"] == before["seconds"]
    assert "evaluated_with" not in found

    config.eval_split = "test[:200]"
    elsewhere = machine.describe() | {"processor": "another"}
    monkeypatch.setattr(machine, "describe", lambda: elsewhere)
    found = train.train_and_evaluate(config, finished)
    assert found["device"] == before["device"]
    assert found.pop("evaluated_with")["device"] == elsewhere
    assert found == before


def test_an_evaluation_that_is_not_finite_is_an_error(config, finished, monkeypatch):
    before = content(finished)

    def diverged(*args):
        metrics, answers = evaluate(*args)
        bad = {name: np.asarray(value * np.nan) for name, value in metrics.items()}
        return Evaluation(bad, answers)

    monkeypatch.setattr(hooks, "evaluate", diverged)
    monkeypatch.setattr("jaxmnist.trained.checkpoint_evaluation.evaluate", diverged)
    for ask in (train.train_and_evaluate, evaluate_checkpoints):
        with pytest.raises(UserError, match="loss of the evaluation after step 6 is nan: lower"):
            ask(config, finished)
    assert content(finished) == before


def test_several_steps_a_call_are_the_same_training(config, tmp_path, monkeypatch):
    """Whole calls, the single steps at the end, and those that lead up to the next call."""
    config.num_steps = 7
    expected = train.train_and_evaluate(config, tmp_path / "single")
    compile_step, called = CompiledSteps.train_step, []

    def counted(self, batch_size, count=1):
        """CompiledSteps.train_step, whose programs' calls are noted in `called`."""
        program = compile_step(self, batch_size, count)

        def call(*args):
            called.append(count)
            return program(*args)

        return call

    monkeypatch.setattr(CompiledSteps, "train_step", counted)
    config.steps_per_call = 2
    found = train.train_and_evaluate(config, tmp_path / "several")
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
    assert train.train_and_evaluate(config, tmp_path / "several")["step"] == 10
    assert called == [1, 2]


def test_bfloat16_trains_float32_parameters(config, tmp_path):
    config.dtype = "bfloat16"
    config.num_steps = 40
    config.eval_every = config.checkpoint_every = config.log_every = 40
    results = train.train_and_evaluate(config, tmp_path)
    assert results["test"]["accuracy"] > 0.5
    state = create_train_state(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path):
    config.num_steps = 40
    config.learning_rate = 1e30
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+"):
        train.train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "results.json").exists()
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert np.isfinite(json.loads(line)["loss"])


def test_validation_is_not_called_test(config, tmp_path):
    config.num_steps = 2
    config.eval_split = "train[-50:]"
    results = train.train_and_evaluate(config, tmp_path)
    assert "test" not in results
    assert results["dataset"]["num_examples"] == {"train": 400, "validation": 50}
    assert "validation accuracy" in results_lib.summary(results, "validation", tmp_path)


def test_on_metrics_is_called_with_each_record_that_is_written(config, tmp_path):
    for num_seeds in (1, 2):
        config.num_seeds, got = num_seeds, []
        workdir = tmp_path / str(num_seeds)
        train.train_and_evaluate(config, workdir, on_metrics=got.append)
        written = [
            json.loads(line) | {"seed": seed}
            for seed in range(num_seeds)
            for line in (workdir / f"seed-{seed}" if num_seeds > 1 else workdir)
            .joinpath("metrics.jsonl")
            .read_text()
            .splitlines()
        ]
        assert sorted(got, key=str) == sorted(written, key=str)
        assert len(got) == 5 * num_seeds


def test_a_workdir_alone_resumes_its_run(config, tmp_path, capsys, monkeypatch):
    """With the settings that are there, the data_dir included; more steps may be asked for."""
    monkeypatch.setattr("jaxmnist.devices.tuning.keep_freed_memory", lambda: None)
    config.learning_rate = 0.01
    train.train_and_evaluate(config, tmp_path / "run")
    assert cli.main(["train", f"--workdir={tmp_path}/run"]) == 0
    assert "finished at step 6; evaluating it again" in capsys.readouterr().out
    assert cli.main(["train", f"--workdir={tmp_path}/run", "--config.num_steps=8"]) == 0
    said = capsys.readouterr()
    assert "resuming from step 6" in said.out
    assert "WARNING" not in said.err
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["step"] == 8
    config.num_steps = 8
    assert results["config"] == config.to_dict()


def test_a_run_on_mnist_never_goes_on_with_the_sample(
    no_network, config, tmp_path, monkeypatch, capsys
):
    """Where its data are gone that is said, at once."""
    train.train_and_evaluate(config, tmp_path / "run")
    path = tmp_path / "run/config.json"
    saved = json.loads(path.read_text()) | {"dataset": "mnist", "data_dir": None}
    path.write_text(json.dumps(saved))
    create = tfds_builders.create
    monkeypatch.setattr(
        tfds_builders, "create", lambda name, _: create(name, str(tmp_path / "none"))
    )
    config.dataset, config.data_dir = "mnist", None
    with pytest.raises(UserError, match=r"mnist is not in .*none, and .* cannot be reached"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert "sample" not in capsys.readouterr().err
    splits = datasets.load("mnist_sample", ["train[:400]", "test[:200]"]).splits
    found = datasets.Dataset("mnist", 10, splits)
    monkeypatch.setattr(datasets, "load", lambda *args: found)
    config.num_steps = 8
    results = train.train_and_evaluate(config, tmp_path / "run")  # They are there again.
    assert results["step"] == 8
    assert results["config"]["allow_sample"] is True  # As the user has it.


def test_a_run_on_the_sample_is_not_taken_for_one_on_mnist(config, tmp_path):
    train.train_and_evaluate(config, tmp_path / "run")
    config.dataset = "mnist"
    wanted = (
        "holds a run on mnist_sample: train on mnist in another workdir, or go on with --config"
    )
    with pytest.raises(UserError, match=wanted):
        Workdir(tmp_path / "run").check(config)


def test_a_folder_of_runs_is_no_workdir(config, tmp_path):
    train.train_and_evaluate(config, tmp_path / "runs/a")
    with pytest.raises(UserError, match=r"runs holds 1 run: .*/a \(finished.* choose another"):
        train.train_and_evaluate(config, tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a"]


def test_the_loop_s_guard(sample, layout, key):
    """It refuses what nobody asked for, but not a program that is to run without compilation."""
    with train.no_hidden_transfers(), pytest.raises(jax.errors.JaxRuntimeError, match="isallowed"):
        jnp.add(sample[0].labels, 1)
    with jax.disable_jit(), train.no_hidden_transfers():
        batch = ShuffledBatches(sample[0], key, 20, layout)(0)
    assert batch["image"].shape == (20, 28, 28, 1)


def test_a_model_that_learned_nothing_says_so(config, tmp_path, capsys):
    config.optimizer, config.num_steps = "adam", 10
    config.eval_every = config.checkpoint_every = config.log_every = 10
    train.train_and_evaluate(config, tmp_path / "chance")
    words = (
        r"WARNING: the model learned nothing: its loss, \d.*guessing, 2.\d+. Try another learning"
    )
    assert re.search(words, capsys.readouterr().out)


def test_nothing_is_compiled_once_the_first_evaluation_is_done(config, tmp_path):
    """Whatever is, in a step, an evaluation or a checkpoint, makes each of them slow."""
    names, after = [], []

    def note(event, seconds, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    config.num_steps, config.histograms = 16, True
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        train.train_and_evaluate(
            config, tmp_path, on_metrics=lambda line: after.append((line["step"], len(names)))
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert after[-1] == (16, len(names))
    assert {count for step, count in after if step > 4} == {len(names)}, names
