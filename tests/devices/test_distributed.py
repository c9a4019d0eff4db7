"""Several processes on this machine train as one, and none waits for ever for one that is lost."""

import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import pytest

from jaxmnist.devices import distributed
from jaxmnist.errors import UserError
from tests.conftest import Command
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
LONGER = SLOW | {"config.num_steps": 100_000}
LOST = "error: another process of this run ended or cannot be reached any more"


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


def free_port():
    """One that launchers' jobs get, and the kernel does not give away by itself."""
    while True:
        port = random.randrange(61_500, 65_000)
        try:
            with socket.create_server(("", port)):
                return port
        except OSError:
            continue


@pytest.fixture
def together(command):
    """Starts a run in several processes: told by flags, or two by a launcher."""

    def start(count, workdir, launcher=None, **flags):
        port = free_port()
        if launcher:
            envs = [launched(launcher, i, port) for i in range(count)]
            return [command("main", env=env, workdir=workdir, **flags) for env in envs]
        shared = {"workdir": workdir, "coordinator": f"localhost:{port}", "num_processes": count}
        return [command("main", **shared, process_id=i, **flags) for i in range(count)]

    return start


def finish(runs):
    assert [run.wait() for run in runs] == [0] * len(runs), [run.err for run in runs]


@pytest.fixture
def alone(once, here):
    """The workdir of SLOW in one process."""
    return once("alone", lambda workdir: here(workdir=workdir, **SLOW))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The workdir of SLOW in two processes, and these."""
    workdir, address = tmp_path_factory.mktemp("pair"), f"localhost:{free_port()}"
    shared = {"workdir": workdir, "coordinator": address, "num_processes": 2}
    runs = [Command("main", **shared, process_id=i, **SLOW) for i in (0, 1)]
    finish(runs)
    return workdir, runs


def assert_same_losses(workdir, other):
    assert records(workdir)
    for a, b in zip(records(workdir), records(other), strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=3e-6)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_as_one(together, alone, pair, tmp_path, count):
    if count == 2:
        workdir, runs = pair
    else:
        workdir, runs = tmp_path, together(count, tmp_path, **SLOW)
        finish(runs)
    assert_same_losses(workdir, alone)
    assert results(workdir)["device"]["processes"] == count
    assert f"{count} cpu in {count} processes" in runs[0].out
    assert "\ndone: mnist_sample test accuracy" in runs[0].out
    for run in runs[1:]:
        said = [line for line in run.out.splitlines() if not line.startswith("[Gloo]")]
        assert said == [], "process 0 alone speaks"
    found = {path.name for path in workdir.iterdir()}
    expected = {"config.json", "run.json", "metrics.jsonl", "results.json"}
    expected |= {"tensorboard", "checkpoints"}
    assert found - {".lock"} == expected


def test_processes_keep_the_best_and_end_together(together, tmp_path):
    """At a rate at which no evaluation is better than the first."""
    flags = {"learning_rate": 1e-12, "eval_every": 2, "keep_best": True, "patience": 2}
    flags |= {"train_split": "train[:400]", "eval_split": "train[400:500]", "ema_decay": 0.9}
    flags = SLOW | {f"config.{name}": value for name, value in flags.items()}
    finish(together(2, tmp_path, **flags))
    found = results(tmp_path)
    assert (found["step"], found["stopped_early"], found["best"]["step"]) == (6, True, 2)


def test_one_is_killed_the_other_ends_and_the_run_resumes(together, here, alone, pair, tmp_path):
    """Bit for bit with as many processes, to rounding in one; a launcher needs no flags.

    Meanwhile a process of another run, which another launcher started, is stopped for longer than
    most things wait: it was slow, not lost.
    """
    slow = together(2, tmp_path / "slow", "slurm", **SLOW)
    wait_for_step(slow[0], tmp_path / "slow", 10)
    slow[1].kill(signal.SIGSTOP)
    stopped = time.monotonic()
    for victim, launcher in ((0, "open mpi"), (1, None)):
        workdir = tmp_path / f"killed-{victim}"
        runs = together(2, workdir, launcher, **LONGER)
        wait_for_step(runs[0], workdir, 20)
        killed, survivor = time.monotonic(), runs[1 - victim]
        runs[victim].kill()
        assert survivor.wait() in (1, -signal.SIGABRT)  # JAX may be first to tell.
        assert time.monotonic() - killed < 60
        assert LOST in survivor.err
        assert "The same command, started again on all, resumes the run" in survivor.err
        steps = {int(p.name): p for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal()}
        assert max(steps) >= 10
        for step in steps:
            if step > 10:
                steps[step].rename(workdir / f"later-{step}")

    finish(together(2, tmp_path / "killed-0", "open mpi", **SLOW))
    same = [results(path) for path in (pair[0], tmp_path / "killed-0")]
    assert same[0]["params_sha256"] == same[1]["params_sha256"]
    assert same[1]["device"]["processes"] == 2

    assert here(workdir=tmp_path / "killed-1", **SLOW) == 0
    assert_same_losses(tmp_path / "killed-1", alone)

    time.sleep(max(stopped + 45 - time.monotonic(), 0))  # As a rule it was longer already.
    slow[1].kill(signal.SIGCONT)
    finish(slow)
    same[1] = results(tmp_path / "slow")
    assert same[0]["params_sha256"] == same[1]["params_sha256"]
    assert same[1]["device"]["processes"] == 2
    assert_same_losses(tmp_path / "slow", alone)


def test_a_signal_to_one_stops_all_with_a_checkpoint(together, tmp_path):
    runs = together(2, tmp_path, **LONGER)
    wait_for_step(runs[0], tmp_path, 30)
    runs[1].kill(signal.SIGTERM)
    assert runs[1].wait() == 143
    runs[0].kill(signal.SIGTERM)  # As launchers do with those that are left.
    assert runs[0].wait() == 143
    stopped = {re.search(r"stopped after step (\d+); the same command", run.err)[1] for run in runs}
    assert len(stopped) == 1
    assert (tmp_path / "checkpoints" / stopped.pop()).is_dir()


MISTAKES = """
    import sys
    from jaxmnist import errors, main
    from jaxmnist.devices import distributed
    i, address, *runs = sys.argv[1:]
    distributed.join(address, 2, int(i))
    distributed.join, leave = lambda *_: None, errors.at_end.pop()
    for run in runs:
        if run == runs[-1]:
            errors.at_end.append(leave)
        status = main.main(run.split())
        print(status, flush=True)
"""


def test_mistakes_in_one_process_end_all_with_a_sentence(tmp_path):
    """Three commands in the same two processes, which the last ends."""
    (tmp_path / "file").touch()
    address, started = f"localhost:{free_port()}", []
    flags = " ".join(f"--{name}={value}" for name, value in RUN.items())
    for i in (0, 1):
        commands = [
            f"{flags} --workdir={tmp_path}/W --config.seed={i}",
            f"{flags} --workdir={tmp_path}/W --config.batch_size=21",
            f"{flags} --workdir={tmp_path}/file/W",
        ]
        args = [sys.executable, "-c", textwrap.dedent(MISTAKES), str(i), address, *commands]
        started.append(
            subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    for (out, err), process in zip([p.communicate() for p in started], started, strict=True):
        assert process.returncode == 1
        said = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        assert said == ["1", "1"], err
        config, batch, workdir = err.splitlines()
        assert config.startswith("error: the config of process 1 is not that of process 0")
        assert batch.startswith("error: batch_size=21 is not allowed on 2 devices")
        assert re.match(r"error: the workdir .*file/W cannot be written", workdir)
    assert not (tmp_path / "W").exists()


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
    assert time.monotonic() - start < 60
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
    distributed.join()
    assert not jax.distributed.is_initialized()
    assert distributed.is_first()
    assert distributed.from_first(lambda: 3) == 3
    assert distributed.largest(4) == 4


def test_one_process_of_a_launcher_s_several_may_train_by_itself(
    here, tmp_path, monkeypatch, capsys
):
    for name, value in launched("slurm", 1, 62_000).items():
        monkeypatch.setenv(name, value)
    assert here(workdir=tmp_path, num_processes=1, **SLOW | {"config.num_steps": 2}) == 0
    assert " 1 cpu (" in capsys.readouterr().out


@pytest.mark.parametrize("seeds_per_call", [1, 2])
def test_several_seeds_in_two_processes(together, alone, once, here, tmp_path, seeds_per_call):
    """One after the other on both processes, or at once, one on each: all train as if alone."""
    flags = {"config.num_seeds": 2, "config.seeds_per_call": seeds_per_call}
    runs = together(2, tmp_path, **SLOW | flags)
    finish(runs)
    second = once("alone-1", lambda folder: here(workdir=folder, **SLOW | {"config.seed": 1}))
    for seed, folder in enumerate([alone, second]):
        assert_same_losses(tmp_path / f"seed-{seed}", folder)
        assert results(tmp_path / f"seed-{seed}")["device"]["processes"] == 2
    found, (first, second) = results(tmp_path), map(results, (alone, second))
    assert found["seeds"] == [0, 1]
    each = [first["test"]["loss"], second["test"]["loss"]]
    np.testing.assert_allclose(found["test"]["loss"]["each"], each, rtol=3e-6)
