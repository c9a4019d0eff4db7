"""Several seeds: each as it would be alone, together or in turn, and where they go on."""

import json
import math
import shutil
import statistics

import pytest
from jax.sharding import AbstractMesh

from jaxmnist import seeds, train
from jaxmnist.devices.sharding import Layout
from jaxmnist.errors import UserError
from jaxmnist.record import results as results_lib
from jaxmnist.record.workdir import Run, Workdir
from tests.conftest import content

SEEDS = (5, 6, 7)


@pytest.fixture
def several(config):
    config.seed, config.num_seeds = SEEDS[0], len(SEEDS)
    return config


@pytest.fixture
def each_alone(config, tmp_path):
    """The results of each seed's run by itself."""
    found = []
    for seed in SEEDS:
        alone = config.copy_and_resolve_references()
        alone.seed, alone.num_seeds = seed, 1
        found.append(train.train_and_evaluate(alone, tmp_path / f"alone-{seed}"))
    return found


def test_seeds_in_turn_are_their_runs_alone(several, each_alone, tmp_path):
    """Bit for bit, with one compilation, and with a mean and a standard deviation by hand."""
    results = train.train_and_evaluate(several, tmp_path / "run")
    assert results["params_sha256"] == [alone["params_sha256"] for alone in each_alone]
    assert len(set(results["params_sha256"])) == len(SEEDS)
    assert results["seeds"] == list(SEEDS)
    for metric in ("accuracy", "loss"):
        values = [alone["test"][metric] for alone in each_alone]
        assert results["test"][metric]["each"] == values
        assert results["test"][metric]["mean"] == pytest.approx(statistics.mean(values))
        assert results["test"][metric]["std"] == pytest.approx(statistics.stdev(values))
    assert results == json.loads((tmp_path / "run/results.json").read_text())
    for seed, alone in zip(SEEDS, each_alone, strict=True):
        written = json.loads((tmp_path / f"run/seed-{seed}/results.json").read_text())
        assert written["config"] == alone["config"]
        assert written["test"] == alone["test"]
        assert 0 < written["seconds"]["total"] < results["seconds"]["total"]
    summary = results_lib.summary(results, "test", tmp_path)
    assert f"{results['test']['accuracy']['mean']:.4f} ± " in summary


@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_seeds_at_once_are_their_runs_alone_to_rounding(several, tmp_path, request, steps_per_call):
    """At a rate that does not amplify rounding: see test_sharding."""
    several.optimizer, several.learning_rate = "sgd", 0.001
    each_alone = request.getfixturevalue("each_alone")
    several.seeds_per_call = 2  # Two, and then the third.
    several.steps_per_call = steps_per_call
    results = train.train_and_evaluate(several, tmp_path / "run")
    for seed, loss, alone in zip(SEEDS, results["test"]["loss"]["each"], each_alone, strict=True):
        assert loss == pytest.approx(alone["test"]["loss"], rel=3e-6)
        lines = (tmp_path / f"run/seed-{seed}/metrics.jsonl").read_text().splitlines()
        expected = (tmp_path / f"alone-{seed}/metrics.jsonl").read_text().splitlines()
        for a, b in zip(map(json.loads, lines), map(json.loads, expected), strict=True):
            assert (a["step"], a["split"]) == (b["step"], b["split"])
            assert a["loss"] == pytest.approx(b["loss"], rel=3e-6)


def test_seeds_go_on_where_they_were(several, tmp_path, capsys):
    """Finished ones are not trained again, more can be added, and a stack can go on in turn."""
    several.schedule = "constant"  # A cosine would depend on num_steps.
    several.num_steps, several.seeds_per_call = 4, 3
    train.train_and_evaluate(several, tmp_path / "run")
    (tmp_path / "run/seed-6/results.json").unlink()
    several.num_steps = 6
    capsys.readouterr()
    together = train.train_and_evaluate(several, tmp_path / "run")
    out = capsys.readouterr().out
    assert "seed 5, 6, 7 (of 5 to 7):" in out
    assert "resuming from step 4" in out

    several.seeds_per_call, several.num_seeds = 1, 4
    more = train.train_and_evaluate(several, tmp_path / "run")
    out = capsys.readouterr().out
    assert "seed 8 (of 5 to 8):" in out
    assert "seed 7 (of" not in out
    assert more["params_sha256"][:3] == together["params_sha256"]

    straight = several.copy_and_resolve_references()
    straight.num_seeds, straight.seeds_per_call = 3, 3
    expected = train.train_and_evaluate(straight, tmp_path / "straight")
    assert together["params_sha256"] == expected["params_sha256"]


def test_seeds_that_stand_at_different_steps_go_on_in_turn(several, tmp_path, capsys):
    several.schedule = "constant"
    several.num_steps, several.num_seeds = 2, 2
    train.train_and_evaluate(several, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/seed-6")
    several.num_steps, several.seeds_per_call = 4, 2
    results = train.train_and_evaluate(several, tmp_path / "run")
    out = capsys.readouterr().out
    assert all(f"seed {seed} (of 5 to 6):" in out for seed in (5, 6))
    several.seeds_per_call = 1
    expected = train.train_and_evaluate(several, tmp_path / "straight")
    assert results["params_sha256"] == expected["params_sha256"]


def test_a_group_that_cannot_share_its_batches_is_refused_before_the_first_trains(
    several, tmp_path, monkeypatch
):
    """Eight devices: two share the batches of four seeds, but all eight those of the fifth."""

    def on_eight(count=1):
        groups = math.gcd(count, 8)
        return Layout(AbstractMesh((groups, 8 // groups), ("seed", "data")), count)

    monkeypatch.setattr(Layout, "create", on_eight)
    several.num_seeds, several.seeds_per_call, several.batch_size = 5, 4, 20
    sentence = "of 5 seeds 1 would train at once: batch_size=20 is not allowed on 8 devices"
    with pytest.raises(UserError, match=sentence):
        train.train_and_evaluate(several, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_run_and_several_seeds_do_not_share_a_workdir(several, tmp_path):
    several.num_steps = 2
    alone = several.copy_and_resolve_references()
    alone.num_seeds = 1
    train.train_and_evaluate(alone, tmp_path / "alone")
    with pytest.raises(UserError, match="holds one run, and num_seeds=3 now"):
        train.train_and_evaluate(several, tmp_path / "alone")
    train.train_and_evaluate(several, tmp_path / "several")
    with pytest.raises(UserError, match="holds the runs of several seeds, and num_seeds=1 now"):
        train.train_and_evaluate(alone, tmp_path / "several")


def test_seeds_that_commands_of_their_own_trained_go_on_as_one_run(several, tmp_path, capsys):
    alone, steps = several.copy_and_resolve_references(), several.num_steps
    for seed, alone.num_steps in ((5, steps), (7, 2)):
        alone.seed, alone.num_seeds = seed, 1
        train.train_and_evaluate(alone, tmp_path / f"run/seed-{seed}")
    before = content(tmp_path / "run/seed-5")
    several.num_seeds = 2  # Of 5 and 6.
    with pytest.raises(UserError, match=r"holds 2 runs: .*seed-5 .*seed-7 .*Name one of them"):
        train.train_and_evaluate(several, tmp_path / "run")
    several.num_seeds, several.learning_rate = 3, 0.01
    with pytest.raises(UserError, match=r"trained differently: learning_rate \(0.05 there, 0.01"):
        train.train_and_evaluate(several, tmp_path / "run")
    several.learning_rate = 0.05
    with (
        Workdir(tmp_path / "run/seed-7").locked(),
        pytest.raises(UserError, match=r"another process is training in .*seed-7"),
    ):
        train.train_and_evaluate(several, tmp_path / "run")
    capsys.readouterr()
    results = train.train_and_evaluate(several, tmp_path / "run")
    assert "resuming from step 2" in capsys.readouterr().out
    assert content(tmp_path / "run/seed-5") == before
    assert results == json.loads((tmp_path / "run/results.json").read_text())
    assert train.train_and_evaluate(several, tmp_path / "new")["test"] == results["test"]


def test_seeds_of_another_training_are_refused(several, tmp_path):
    several.num_steps = 2
    train.train_and_evaluate(several, tmp_path)
    before = content(tmp_path)
    several.num_steps = 1
    with pytest.raises(UserError, match="step 2, beyond num_steps=1"):
        train.train_and_evaluate(several, tmp_path)
    several.num_steps, several.learning_rate = 2, 0.01
    with pytest.raises(UserError, match=r"trained differently: learning_rate \(0.05 there, 0.01"):
        train.train_and_evaluate(several, tmp_path)
    several.seed, several.learning_rate = 9, 0.05
    with pytest.raises(UserError, match=r"trained differently: seed \(5 there, 9 now\)"):
        train.train_and_evaluate(several, tmp_path)
    assert content(tmp_path) == before


def test_seeds_of_which_one_has_a_damaged_checkpoint(several, tmp_path):
    """What the others have beyond is not left in the middle of another way."""
    several.num_seeds = several.seeds_per_call = 2
    several.num_steps = 4
    first = train.train_and_evaluate(several, tmp_path)
    assert len(first["starts"]) == 2
    whole = content(tmp_path)
    several.num_steps = 6
    for path in (tmp_path / "seed-6/checkpoints").glob("*/state/_METADATA"):
        path.write_text("{")
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"no whole checkpoint .*seed-6/checkpoints/4: a JSON"):
        train.train_and_evaluate(several, tmp_path)
    assert content(tmp_path) == before
    name = "seed-6/checkpoints/2/state/_METADATA"
    (tmp_path / name).write_bytes(whole[name])
    train.train_and_evaluate(several, tmp_path)
    kept = [sorted(p.name for p in (tmp_path / f"seed-{i}/checkpoints").iterdir()) for i in (5, 6)]
    assert kept == [["2", "4", "6", "superseded-4"], ["2", "4", "6", "damaged-4"]]


def test_where_the_sample_stands_in_all_say_so(no_network, several, tmp_path, monkeypatch):
    """Also in workdirs of before, whose parent says "mnist"."""
    several.dataset, several.num_steps, several.num_seeds = "mnist", 2, 2
    several.data_dir = None
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    for _ in range(2):
        results = train.train_and_evaluate(several, tmp_path / "run")
        paths = [tmp_path / "run" / name for name in ("config.json", "seed-5/config.json")]
        for config in (results["config"], *(json.loads(path.read_text()) for path in paths)):
            assert config["dataset"] == "mnist_sample"
        paths[0].write_text(paths[0].read_text().replace("mnist_sample", "mnist"))


@pytest.mark.parametrize(
    ("newest", "at_once", "groups"),
    [
        ([0, 0, 0, 0, 0], 4, [[0, 1, 2, 3], [4]]),
        ([4, 2, 4, 2, 0], 4, [[0, 2], [1, 3], [4]]),
        ([4, 4, 4], 1, [[0], [1], [2]]),
    ],
)
def test_seeds_that_stand_at_one_step_go_on_together(config, tmp_path, newest, at_once, groups):
    """So that none of them goes back, and loses what it has recorded since."""
    config.num_seeds, config.seeds_per_call = len(newest), at_once
    whole = Run(config, Workdir(tmp_path))
    for run, step in zip(seeds.each_seed(whole), newest, strict=True):
        run.workdir.path.mkdir()
        run.workdir.save(run.config)
        run.workdir.run.write_text(json.dumps({"network": seeds.todays_network(config)}))
        for kept in {1, step} - {0} if step else ():
            (run.workdir.checkpoints / str(kept)).mkdir(parents=True)
    assert seeds.plan(whole) == ({}, groups)


def test_a_bad_loss_names_its_seed(several, tmp_path):
    several.num_steps, several.learning_rate, several.seeds_per_call = 40, 1e30, 3
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+ of seed 5: lower"):
        train.train_and_evaluate(several, tmp_path)
