"""The command as its users run it: real processes, killed, resumed, mistyped."""

import fcntl
import json
import os
import pty
import random
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

RUN = {
    "config.dataset": "mnist_sample",
    "config.eval_split": "test[:200]",
    "config.batch_size": 20,
    "config.num_steps": 200,
    "config.log_every": 10,
    "config.eval_every": 100,
    "config.checkpoint_every": 40,
}
SHORT = RUN | {"config.num_steps": 4, "config.log_every": 2}


def records(workdir):
    """The metrics of a run, without what depends on the time it took."""
    path = Path(workdir) / "metrics.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            break  # Being written.
        found.append(
            {k: v for k, v in record.items() if not k.startswith("s") or k in ("step", "split")}
        )
    return found


def results(workdir):
    return json.loads((Path(workdir) / "results.json").read_text())


def wait_for_step(run, workdir, step):
    """Until a process has logged `step`."""
    deadline = time.monotonic() + 60
    while max((r["step"] for r in records(workdir)), default=0) < step:
        assert run.process.poll() is None, run.process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The workdir of a run of RUN that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    flags = [f"--{name}={value}" for name, value in RUN.items()]
    command = [sys.executable, "-m", "jaxmnist.main", f"--workdir={workdir}", *flags]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    (workdir / "out.txt").write_text(run.stdout)
    (workdir / "err.txt").write_text(run.stderr)
    return workdir


def test_a_run_prints_plain_lines_that_end_with_the_result(uninterrupted):
    out = (uninterrupted / "out.txt").read_text()
    assert re.fullmatch(r"[\x20-\x7e\n]*", out), "control characters"
    assert (uninterrupted / "err.txt").read_text() == ""
    lines = out.splitlines()
    assert lines[0].startswith("mnist_sample: 4,000 training and 200 evaluation examples")
    assert re.match(
        r"step 10/200  loss \d\.\d{4}  accuracy \d\.\d{4}  \d+\.\d steps/s  .* left", lines[1]
    )
    assert sum(line.startswith("step 100: test accuracy") for line in lines) == 1
    found = results(uninterrupted)["test"]
    assert found["accuracy"] > 0.9
    assert lines[-1].startswith(
        f"done: mnist_sample test accuracy {found['accuracy']:.4f}, loss {found['loss']:.4f} "
        "after 200 steps in "
    )
    assert str(uninterrupted) in lines[-1]


def test_killed_runs_resume_bit_for_bit(command, uninterrupted, tmp_path):
    """SIGKILL before the first checkpoint, around one, long after one, and at random."""
    kills = [(10, 0.0), (80, 0.0), (110, 0.1), (120, random.uniform(0, 0.4))]
    for step, delay in kills:
        run = command("main", workdir=tmp_path, **RUN)
        wait_for_step(run, tmp_path, step)
        time.sleep(delay)
        run.kill()
        assert run.wait() == -signal.SIGKILL
        assert not (tmp_path / "results.json").exists()
    run = command("main", workdir=tmp_path, **RUN)
    assert run.wait() == 0, run.err
    assert re.search(r"resuming from step \d+", run.out)
    assert results(tmp_path)["params_sha256"] == results(uninterrupted)["params_sha256"]
    assert results(tmp_path)["test"] == results(uninterrupted)["test"]
    assert records(tmp_path) == records(uninterrupted)


def test_signals_checkpoint_and_the_run_resumes(command, uninterrupted, tmp_path):
    at = 0
    for signum, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        run = command("main", workdir=tmp_path, **RUN)
        wait_for_step(run, tmp_path, at + 50)
        run.kill(signum)
        assert run.wait() == status, run.err
        assert "writing a checkpoint" in run.err
        assert "the same command resumes it" in run.err
        at = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
        assert at >= 50
    run = command("main", workdir=tmp_path, **RUN)
    assert run.wait() == 0, run.err
    assert f"resuming from step {at}" in run.out
    assert results(tmp_path)["params_sha256"] == results(uninterrupted)["params_sha256"]
    assert records(tmp_path) == records(uninterrupted)


def test_a_second_process_is_refused_and_a_second_ctrl_c_stops_at_once(command, tmp_path):
    endless = RUN | {"config.num_steps": 100_000}
    run = command("main", workdir=tmp_path, **endless)
    wait_for_step(run, tmp_path, 50)
    second = command("main", workdir=tmp_path, **endless)
    assert second.wait() == 1
    assert "another process is training in" in second.err
    run.kill(signal.SIGINT)
    time.sleep(0.01)
    run.kill(signal.SIGINT)
    start = time.monotonic()
    assert run.wait() in (-signal.SIGINT, 130)
    assert time.monotonic() - start < 5


def test_a_finished_run_evaluates_again_and_eval_mode_agrees(command, uninterrupted):
    before = results(uninterrupted)
    run = command("main", workdir=uninterrupted, **RUN)
    assert run.wait() == 0, run.err
    assert "finished at step 200; evaluating it again" in run.out
    assert results(uninterrupted) == before

    run = command("main", workdir=uninterrupted, mode="eval")
    assert run.wait() == 0, run.err
    accuracy, loss = before["test"]["accuracy"], before["test"]["loss"]
    assert run.out == f"step 200: test accuracy {accuracy:.4f}, loss {loss:.4f}\n"

    run = command("main", workdir=uninterrupted, mode="eval", **{"config.eval_split": "train[:50]"})
    assert run.wait() == 0, run.err
    assert run.out.startswith("step 200: validation accuracy")

    for field, sentence in (
        ("dataset=cifar10", "error: dataset='cifar10' is not allowed: it must be one of mnist, "),
        ("optimizer=adam", "cannot be set: optimizer ('sgd(momentum=0.9)' there, 'adam' now)"),
    ):
        run = command("main", f"--config.{field}", workdir=uninterrupted, mode="eval")
        assert run.wait() == 1
        assert sentence in run.err

    run = command(
        "main", workdir=uninterrupted, **RUN | {"config.seed": 1, "config.dropout_rate": 0}
    )
    assert run.wait() == 1
    assert "dropout_rate (0.4 there, 0.0 now); seed (0 there, 1 now)" in run.err


def test_compilations_are_kept_in_the_user_s_cache_folder(command, tmp_path):
    """And the parameters are the same, bit for bit, whether compiled or loaded."""

    def run(name, cache):
        env = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(cache), "HOME": str(cache)}
        finished = command("main", env=env, workdir=tmp_path / name, **SHORT)
        assert finished.wait() == 0
        assert "arning" not in finished.err
        return results(tmp_path / name)["params_sha256"]

    compiled = run("first", tmp_path)
    kept = set(tmp_path.rglob("jaxmnist/compiled/*/*-cache"))
    assert len(kept) >= 5
    assert run("second", tmp_path) == compiled
    assert set(tmp_path.rglob("jaxmnist/compiled/*/*-cache")) == kept
    assert run("no folder", "/dev/null") == compiled


def test_a_terminal_gets_a_bar(tmp_path):
    """A pseudo-terminal: the bar moves by carriage returns, evaluations are lines of their own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    flags = [f"--{name}={value}" for name, value in SHORT.items()]
    args = [sys.executable, "-m", "jaxmnist.main", f"--workdir={tmp_path}", *flags]
    process = subprocess.Popen(args, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    shown = b""
    while True:
        try:
            read = os.read(ours, 4096)
        except OSError:
            break
        if not read:
            break
        shown += read
    os.close(ours)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 0, err
    text = shown.decode()
    assert re.search(r"\r.*4/4 .*loss=\d\.\d{4}, accuracy=\d\.\d{4}", text)
    assert re.search(r"[\r\n]step 4: test accuracy \d\.\d{4}, loss \d\.\d{4}", text)
    assert text.splitlines()[-1].startswith("done: mnist_sample test accuracy")


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        (["--workdir=W", "--config.batch_size=0"], 1, "error: batch_size=0 is not allowed"),
        (
            ["--workdir=W", "--config.nothing=1"],
            1,
            "error: nothing=1 is not allowed: the config has no",
        ),
        (["--workdir=W", "--config=none.py"], 1, "error: --config=none.py: there is no such file"),
        (["--workdir=W", "--config.seed"], 2, "--config.seed lacks a value"),
        (["--workdir=W", "--lr=1"], 2, "unrecognized argument: --lr"),
        (["--workdir=W", "--mode=eval"], 1, "W holds no run to evaluate: train there first"),
        ([], 2, "the following arguments are required: --workdir"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(flags, status, sentence, tmp_path):
    args = [f.replace("=W", f"={tmp_path}/W") for f in flags]
    command = [sys.executable, "-m", "jaxmnist.main", *args]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == status
    assert sentence in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert not (tmp_path / "W").exists()


def test_a_full_disk_is_one_sentence_and_keeps_what_was_there(tmp_path):
    """As a limit on the size of files, which a checkpoint exceeds and the rest does not."""
    flags = [f"--{name}={value}" for name, value in SHORT.items()]
    args = [sys.executable, "-m", "jaxmnist.main", f"--workdir={tmp_path}", *flags]
    run = subprocess.run(args, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr

    more = [*args, "--config.num_steps=8"]
    limited = ["bash", "-c", 'ulimit -f 1024; exec "$@"', "-", *more]  # 1 MiB
    run = subprocess.run(limited, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert "error: cannot write checkpoints in" in run.stderr
    assert "Traceback" not in run.stderr
    assert results(tmp_path)["step"] == 4

    run = subprocess.run(more, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "resuming from step 4" in run.stdout


def test_tensorflow_is_never_imported(tmp_path):
    flags = [f"--{name}={value}" for name, value in SHORT.items()]
    script = (
        "import sys; from jaxmnist.main import main; status = main(sys.argv[1:]);"
        "assert 'tensorflow' not in sys.modules; sys.exit(status)"
    )
    args = [sys.executable, "-c", script, f"--workdir={tmp_path}", *flags]
    run = subprocess.run(args, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
