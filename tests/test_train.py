"""Whole runs in one process: what they leave, and that one goes on where another stopped."""

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
from jaxmnist.data import datasets
from jaxmnist.data.input_pipeline import ShuffledBatches
from jaxmnist.devices import machine
from jaxmnist.devices.sharding import fetch
from jaxmnist.errors import UserError
from jaxmnist.evaluate import Evaluation, evaluate
from jaxmnist.record import find_runs
from jaxmnist.record import results as results_lib
from jaxmnist.record.network import fingerprint
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
    assert results["config"] == json.loads(config.to_json())

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
    network = models.CNN
    monkeypatch.setattr(models, "CNN", lambda **kwargs: network(**kwargs | fields))


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
    assert recorded["network"]["fields"] == {"num_classes": 10}
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


def with_accuracies(monkeypatch, accuracies):
    """Evaluations with these accuracies, by step, and a loss of 1 - step / 100.

    Of several runs that train at once they are tuples.
    """

    def told(compiled, state, batches):
        step, answers = int(np.max(fetch(state.step))), evaluate(compiled, state, batches).answers
        accuracy = np.array(accuracies[step])
        metrics = {"accuracy": accuracy, "loss": np.full(accuracy.shape, 1 - step / 100)}
        return Evaluation(metrics, answers)

    monkeypatch.setattr(hooks, "evaluate", told)


def recorded(folder):
    """What a run leaves that does not depend on the time."""
    results = json.loads((folder / "results.json").read_text())
    timeless = {k: v for k, v in results.items() if k not in ("seconds", "starts", "config")}
    timeless.pop("peak_memory_bytes")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return timeless, [{k: line[k] for k in ("step", "split", "loss", "accuracy")} for line in lines]


def checkpoints_of(folder, name="checkpoints"):
    return sorted(int(path.name) for path in (folder / name).iterdir() if path.name.isdecimal())


@pytest.fixture
def validated(config):
    """A config with an evaluation every 2 steps on a validation split."""
    config.eval_split, config.num_steps = "train[400:500]", 8
    config.eval_every = config.checkpoint_every = 2
    return config


def test_the_best_checkpoint_is_kept_and_used(validated, tmp_path, monkeypatch, capsys):
    """Of equal ones the one of the lower loss; a run that was killed keeps the same."""
    run, config = tmp_path / "run", validated
    config.num_steps = 6
    of_6 = train.train_and_evaluate(config, tmp_path / "short")
    config.num_steps, config.keep_best = 8, True
    with_accuracies(monkeypatch, {2: 0.5, 4: 0.8, 6: 0.8, 8: 0.6})
    results = train.train_and_evaluate(config, run)
    assert results["best"] == {"step": 6, "accuracy": 0.8, "loss": 0.94}
    assert (results["step"], results["validation"]["accuracy"]) == (8, 0.6)
    assert (checkpoints_of(run), checkpoints_of(run, "best")) == ([4, 6, 8], [2, 4, 6])
    assert "; best accuracy 0.8000 after step 6, which is kept; results.json, " in (
        results_lib.summary(results, "validation", run)
    )
    model = jaxmnist.load(run)
    assert (model.step, model.metrics["validation"]["accuracy"]) == (6, 0.8)
    assert fingerprint(model.trained_params) == of_6["params_sha256"]
    ((_, step, metrics),) = evaluate_checkpoints(config, run)
    assert (step, metrics["loss"]) == (6, of_6["validation"]["loss"])
    config.eval_split = "test[:200]"  # Once it has been chosen.
    assert evaluate_checkpoints(config, run)[0][1] == 6
    config.eval_split = "train[400:500]"

    before = recorded(run)
    again = train.train_and_evaluate(config, run)
    assert "finished at step 8; evaluating it again" in capsys.readouterr().out
    assert (recorded(run), again["best"]) == (before, results["best"])
    for step in (6, 8):
        shutil.rmtree(run / f"checkpoints/{step}")
    (run / "results.json").unlink()
    train.train_and_evaluate(config, run)
    assert recorded(run) == before
    assert checkpoints_of(run, "best") == [2, 4, 6]
    assert (run / "best/superseded-6").is_dir()

    config.keep_best = False
    assert "best" not in train.train_and_evaluate(config, run)
    assert jaxmnist.load(run).step == 8
    config.keep_best, config.eval_split = True, "train[500:600]"
    with pytest.raises(
        UserError, match=r"evaluated on eval_split='train\[400:500\]', and keep_best"
    ):
        train.train_and_evaluate(config, run)


@pytest.mark.parametrize("at_once", [1, 2])
def test_each_seed_keeps_its_best(validated, tmp_path, monkeypatch, at_once):
    config = validated
    config.num_steps, config.keep_best = 4, True
    config.num_seeds, config.seeds_per_call = 2, at_once
    accuracies = {2: (0.5, 0.9), 4: (0.8, 0.1)} if at_once == 2 else {2: 0.9, 4: 0.1}
    with_accuracies(monkeypatch, accuracies)
    results = train.train_and_evaluate(config, tmp_path)
    steps = [4, 2] if at_once == 2 else [2, 2]
    assert results["best"]["step"]["each"] == steps
    assert [step for _, step, _ in evaluate_checkpoints(config, tmp_path)] == steps
    assert "; best accuracy 0." in results_lib.summary(results, "validation", tmp_path)


def test_patience_ends_a_run_which_is_finished_then(validated, tmp_path, monkeypatch, capsys):
    """Killed before its end it has the same one, and with more patience or steps it goes on."""
    run, config = tmp_path / "run", validated
    config.num_steps, config.patience = 20, 2
    config.log_every = config.checkpoint_every = 4
    accuracies = {2: 0.5, 4: 0.4, 6: 0.6, 8: 0.6, 10: 0.5, 12: 0.5} | dict.fromkeys(
        range(14, 26, 2), 0.3
    )
    with_accuracies(monkeypatch, accuracies)
    results = train.train_and_evaluate(config, run)
    assert (results["step"], results["stopped_early"]) == (10, True)
    said = "step 10: the run ends here, without a better accuracy in patience=2 evaluations\n"
    assert said in capsys.readouterr().out
    assert checkpoints_of(run) == [4, 8, 10]
    before = recorded(run)
    assert [line["step"] for line in before[1]] == [2, 4, 4, 6, 8, 8, 10, 10]
    assert find_runs.describe(run)["state"] == "finished"
    assert Workdir(run).finished(config)

    assert train.train_and_evaluate(config, run) == results
    assert "finished at step 10; evaluating it again" in capsys.readouterr().out
    (run / "results.json").unlink()  # Killed after its last checkpoint, and before.
    train.train_and_evaluate(config, run)
    assert recorded(run) == before
    for step in (8, 10):
        shutil.rmtree(run / f"checkpoints/{step}")
    (run / "results.json").unlink()
    found = train.train_and_evaluate(config, run)
    assert (recorded(run), [start["step"] for start in found["starts"]]) == (before, [0, 4])

    for field, value, end in (("patience", 3, 12), ("num_steps", 24, 18), ("patience", 0, 24)):
        config[field] = value
        assert Workdir(run).finished(config) is None
        found = train.train_and_evaluate(config, run)
        assert found["step"] == end
        assert ("stopped_early" in found) == (end < 24)


def test_seeds_with_patience_end_each_by_itself(validated, tmp_path, monkeypatch):
    config = validated
    config.patience, config.num_seeds, config.seeds_per_call = 1, 2, 2
    with_accuracies(monkeypatch, {2: 0.5, 4: 0.4})
    results = train.train_and_evaluate(config, tmp_path)
    assert (results["step"], results["stopped_early"], results["seeds"]) == (4, True, [0, 1])
    assert find_runs.describe(tmp_path)["state"] == "finished"
    monkeypatch.setattr(train, "train", None)  # It is not called again.
    assert train.train_and_evaluate(config, tmp_path)["params_sha256"] == results["params_sha256"]


def test_an_averaging_run_that_was_killed_ends_with_the_same_bits(config, tmp_path):
    config.update({"ema_decay": 0.9, "weight_decay": 0.01, "clip_norm": 1.0})
    found = train.train_and_evaluate(config, tmp_path)
    model = jaxmnist.load(tmp_path)
    assert fingerprint(model.trained_params) == found["params_sha256"]
    assert fingerprint(model.params) != found["params_sha256"]
    assert evaluate_checkpoints(config, tmp_path)[0][2] == found["test"]
    shutil.rmtree(tmp_path / "checkpoints/6")
    again = train.train_and_evaluate(config, tmp_path)
    assert [start["step"] for start in again["starts"]] == [0, 4]
    assert (again["params_sha256"], again["test"]) == (found["params_sha256"], found["test"])
    assert fingerprint(jaxmnist.load(tmp_path).params) == fingerprint(model.params)


def test_a_run_with_a_curriculum_and_lookahead_that_was_killed_ends_with_the_same_bits(
    config, tmp_path
):
    """It goes on among the hardest examples, with the slow parameters of before."""
    config.optimizer = "lookahead(fast_optimizer='sgd(momentum=0.9)', sync_period=4)"
    config.curriculum = "hardest(share=0.5, after=3)"
    found = train.train_and_evaluate(config, tmp_path)
    model = jaxmnist.load(tmp_path)
    assert fingerprint(model.trained_params) == found["params_sha256"]
    assert fingerprint(model.params) != found["params_sha256"]
    shutil.rmtree(tmp_path / "checkpoints/6")
    again = train.train_and_evaluate(config, tmp_path)
    assert [start["step"] for start in again["starts"]] == [0, 4]
    assert (again["params_sha256"], again["test"]) == (found["params_sha256"], found["test"])
    config.curriculum = ""
    other = train.train_and_evaluate(config, tmp_path / "other")
    assert other["params_sha256"] != found["params_sha256"]


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
    assert results["config"] == json.loads(config.to_json())


def test_a_run_on_mnist_never_goes_on_with_the_sample(
    no_network, config, tmp_path, monkeypatch, capsys
):
    """Where its data are gone that is said, at once."""
    train.train_and_evaluate(config, tmp_path / "run")
    path = tmp_path / "run/config.json"
    saved = json.loads(path.read_text()) | {"dataset": "mnist", "data_dir": None}
    path.write_text(json.dumps(saved))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    config.dataset, config.data_dir = "mnist", None
    with pytest.raises(UserError, match=r"mnist is not in .*none, and .* cannot be reached"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert "sample" not in capsys.readouterr().err
    splits = datasets.load("mnist_sample", ["train[:400]", "test[:200]"]).splits
    found = datasets.Dataset(datasets.describe(jaxmnist.get_config()), splits)
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
