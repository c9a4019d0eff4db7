"""Several processes on this machine train as one, and none waits for ever for one that is lost."""

import os
import re
import signal
import socket
import time

import jax
import numpy as np
import pytest

from jaxmnist import distributed
from jaxmnist.errors import UserError
from tests.test_main import RUN, records, results, wait_for_step

# At this rate 20 steps do not amplify rounding errors: see test_sharding.
SLOW = RUN | {
    "config.batch_size": 40,
    "config.num_steps": 20,
    "config.optimizer": "sgd",
    "config.learning_rate": 0.001,
    "config.schedule": "constant",
    "config.eval_every": 20,
    "config.checkpoint_every": 10,
}
LOST = "error: another process of this run ended or cannot be reached any more"


@pytest.fixture
def together(command):
    """Starts a run in several processes."""

    def start(count, workdir, **flags):
        address = f"localhost:{free_port()}"
        shared = {"workdir": workdir, "coordinator": address, "num_processes": count}
        return [command("main", **shared, process_id=i, **flags) for i in range(count)]

    return start


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def finish(runs):
    assert [run.wait() for run in runs] == [0] * len(runs), [run.err for run in runs]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of SLOW in one process."""
    from tests.conftest import Command

    workdir = tmp_path_factory.mktemp("alone")
    run = Command("main", workdir=workdir, **SLOW)
    assert run.wait() == 0, run.err
    return workdir


def assert_same_losses(workdir, other):
    assert records(workdir)
    for a, b in zip(records(workdir), records(other), strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=3e-6)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_as_one(together, alone, tmp_path, count):
    runs = together(count, tmp_path, **SLOW)
    finish(runs)
    assert_same_losses(tmp_path, alone)
    assert results(tmp_path)["device"]["processes"] == count
    assert f"{count} cpu in {count} processes" in runs[0].out
    assert runs[0].out.splitlines()[-1].startswith("done: mnist_sample test accuracy")
    for run in runs[1:]:
        said = [line for line in run.out.splitlines() if not line.startswith("[Gloo]")]
        assert said == [], "process 0 alone speaks"
    found = {path.name for path in tmp_path.iterdir()}
    expected = {"config.json", "run.json", "metrics.jsonl", "results.json"}
    expected |= {"tensorboard", "checkpoints"}
    assert found - {".lock"} == expected


def test_one_is_killed_the_other_ends_and_the_run_resumes(together, alone, tmp_path):
    """Bit for bit with as many processes, to rounding in one."""
    finish(together(2, tmp_path / "whole", **SLOW))
    longer = SLOW | {"config.num_steps": 100_000}
    workdirs = [tmp_path / f"killed-{victim}" for victim in (0, 1)]
    pairs, killed = [together(2, workdir, **longer) for workdir in workdirs], []
    for victim, (runs, workdir) in enumerate(zip(pairs, workdirs, strict=True)):
        wait_for_step(runs[0], workdir, 20)
        killed.append(time.monotonic())
        runs[victim].kill()
    for victim, (runs, workdir) in enumerate(zip(pairs, workdirs, strict=True)):
        survivor = runs[1 - victim]
        assert survivor.wait(timeout=60) in (1, -signal.SIGABRT)  # JAX may be first to tell.
        assert time.monotonic() - killed[victim] < 60
        assert LOST in survivor.err
        assert "The same command, started again on all, resumes the run" in survivor.err
        steps = {int(p.name): p for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal()}
        assert max(steps) >= 10
        for step in steps:
            if step > 10:
                steps[step].rename(workdir / f"later-{step}")

    finish(together(2, tmp_path / "killed-0", **SLOW))
    same = [results(tmp_path / name)["params_sha256"] for name in ("whole", "killed-0")]
    assert same[0] == same[1]

    finish(together(1, tmp_path / "killed-1", **SLOW))
    assert_same_losses(tmp_path / "killed-1", alone)


def test_a_signal_to_one_stops_all_with_a_checkpoint(together, tmp_path):
    runs = together(2, tmp_path, **SLOW | {"config.num_steps": 100_000})
    wait_for_step(runs[0], tmp_path, 30)
    runs[1].kill(signal.SIGTERM)
    assert runs[1].wait() == 143
    runs[0].kill(signal.SIGTERM)  # As launchers do with those that are left.
    assert runs[0].wait(timeout=10) == 143
    stopped = {re.search(r"stopped after step (\d+); the same command", run.err)[1] for run in runs}
    assert len(stopped) == 1
    assert (tmp_path / "checkpoints" / stopped.pop()).is_dir()


def test_mistakes_in_one_process_end_all_with_a_sentence(together, command, tmp_path):
    address = f"localhost:{free_port()}"
    flags = {"coordinator": address, "num_processes": 2, "workdir": tmp_path / "W"}
    runs = [command("main", process_id=i, **flags, **RUN | {"config.seed": i}) for i in (0, 1)]
    assert [run.wait() for run in runs] == [1, 1]
    for run in runs:
        assert "error: the config of process 1 is not that of process 0" in run.err
    assert not (tmp_path / "W").exists()

    runs = together(2, tmp_path / "W", **RUN | {"config.batch_size": 21})
    assert [run.wait() for run in runs] == [1, 1]
    for run in runs:
        assert "error: batch_size=21 is not allowed on 2 devices" in run.err

    (tmp_path / "file").touch()
    runs = together(2, tmp_path / "file/W", **RUN)
    assert [run.wait() for run in runs] == [1, 1]
    for run in runs:
        assert re.search(r"error: the workdir .*file/W cannot be written", run.err)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"coordinator": "localhost:1"}, "--num_processes and --process_id belong together"),
        ({"coordinator": "localhost"}, "--coordinator=localhost is no HOST:PORT"),
        ({"coordinator": "localhost:0"}, "--coordinator=localhost:0 is no HOST:PORT"),
        ({"process_id": 2}, "--process_id=2 is not allowed: it must be 0 to 1"),
        ({"coordinator": "localhost:1"}, "nobody answers at --coordinator=localhost:1 after 1 s"),
        ({"coordinator": "no.host.invalid:9"}, "nobody answers at --coordinator=no.host.invalid"),
        ({"process_id": 0}, "of 2 processes, these did not come within 1 s: 1"),
    ],
)
def test_who_is_not_met_is_told_of_in_time(flags, sentence):
    given = {"coordinator": f"localhost:{free_port()}", "num_processes": 2, "process_id": 1}
    if "belong together" in sentence:
        given["process_id"] = None
    start = time.monotonic()
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        distributed.join(**given | flags, timeout=1.0)
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)


def test_what_jax_raises_of_a_lost_process_is_explained(monkeypatch):
    """XLA's statuses, which come as either type; nothing else, and nothing in one process."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    lost = r"another process .*\(JAX says: UNKNOWN: Gloo failed"
    for kind in (ValueError, jax.errors.JaxRuntimeError):
        with pytest.raises(UserError, match=lost), distributed.explained():
            raise kind("UNKNOWN: Gloo failed\nmore")
    with pytest.raises(ValueError, match="not a status"), distributed.explained():
        raise ValueError("not a status: 1")
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    with pytest.raises(ValueError, match="UNKNOWN: ours"), distributed.explained():
        raise ValueError("UNKNOWN: ours")


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=r"port \d+ cannot be opened \(Address already in use"):
            distributed.join(address, 2, 0, timeout=1.0)


def test_two_processes_of_one_number_and_two_numbers_of_processes(command, tmp_path):
    for others, sentence in (
        ([(3, 1), (3, 1)], "error: two processes have --process_id=1."),
        ([(2, 1)], "error: --num_processes=2 in one process, 3 in another."),
    ):
        shared = {"workdir": tmp_path / "W", "coordinator": f"localhost:{free_port()}"}
        runs = [
            command("main", num_processes=n, process_id=i, **shared, **RUN)
            for n, i in [(3, 0), *others]
        ]
        assert [run.wait() for run in runs] == [1] * len(runs)
        assert [run.err for run in runs] == [f"{sentence}\n"] * len(runs)


def launched(name, i, port):
    """What a launcher tells process `i` of two on this machine."""
    if name == "slurm":
        return {
            "SLURM_JOB_ID": str(port - 61440),  # JAX's port is 61440 + the job's id.
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(i),
            "SLURM_LOCALID": str(i),
        }
    return {
        "OMPI_MCA_orte_hnp_uri": f"{port - 61440 << 12}.0;tcp://127.0.0.1:9",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(i),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(i),
    }


@pytest.mark.parametrize("launcher", ["slurm", "open mpi"])
def test_launchers_need_no_flags(command, alone, tmp_path, launcher):
    port = np.random.default_rng(os.getpid()).integers(61_500, 65_000).item()
    runs = [
        command("main", env=launched(launcher, i, port), workdir=tmp_path, **SLOW) for i in (0, 1)
    ]
    finish(runs)
    assert results(tmp_path)["device"]["processes"] == 2
    assert_same_losses(tmp_path, alone)


@pytest.mark.parametrize(
    "env",
    [
        launched("slurm", 0, 62_000) | {"SLURM_NTASKS": "1"},
        launched("open mpi", 0, 62_000) | {"OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {},
    ],
)
def test_a_process_that_was_launched_alone_stays_alone(env, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_bequeath", pytest.fail)
    distributed.join()
    assert distributed.is_first()
    assert distributed.from_first(lambda: 3) == 3
    assert distributed.largest(4) == 4


def test_one_process_of_a_launcher_s_several_may_train_by_itself(command, tmp_path):
    env = launched("slurm", 1, 62_000)
    run = command("main", env=env, workdir=tmp_path, num_processes=1, **SLOW)
    assert run.wait() == 0, run.err
    assert " 1 cpu (" in run.out
