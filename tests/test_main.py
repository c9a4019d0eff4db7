"""The command as its users run it: real processes, killed, resumed, mistyped."""

import contextlib
import fcntl
import json
import os
import pty
import random
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from jaxmnist import checks, main
from jaxmnist.config_help import reported_accuracy
from jaxmnist.devices import machine
from jaxmnist.record.workdir import Workdir
from tests.conftest import unwritable

RUN = {
    "config.dataset": "mnist_sample",
    "config.eval_split": "test[:200]",
    "config.batch_size": 20,
    "config.num_steps": 200,
    "config.log_every": 10,
    "config.eval_every": 100,
    "config.checkpoint_every": 40,
}
# With a program that does not depend on num_steps.
SHORT = RUN | {"config.num_steps": 4, "config.log_every": 2, "config.schedule": "constant"}


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
    deadline = time.monotonic() + 600
    while max((r["step"] for r in records(workdir)), default=0) < step:
        assert run.process.poll() is None, run.process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def in_process(here):
    """Calls the command here, with SHORT."""
    return lambda workdir, *more: here(*more, **SHORT | {"workdir": workdir})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The workdir of a run of RUN that nothing disturbed, and that did not import TensorFlow."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    flags = [f"--{name}={value}" for name, value in RUN.items()]
    script = (
        "import sys; from jaxmnist.main import main; status = main(sys.argv[1:]);"
        "assert 'tensorflow' not in sys.modules; sys.exit(status)"
    )
    command = [sys.executable, "-c", script, f"--workdir={workdir}", *flags]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (workdir / "out.txt").write_text(run.stdout)
    (workdir / "err.txt").write_text(run.stderr)
    return workdir


def test_a_run_prints_plain_lines_that_end_with_the_result(uninterrupted):
    out = (uninterrupted / "out.txt").read_text()
    assert re.fullmatch(r"[\x20-\x7e\n]*", out), "control characters"
    assert (uninterrupted / "err.txt").read_text() == ""
    lines = out.splitlines()
    assert lines[0] == "mnist_sample: 4,000 training and 200 evaluation examples"
    assert lines[1].startswith("network: Conv_0 14x14x32, Conv_1 7x7x64, Dense_0 1024, Dense_1 10")
    assert lines[2] == (
        "training: 200 steps of 20 (1 epoch), sgd(momentum=0.9), learning rate 0.05, cosine, seed 0"
    )
    assert re.match(r"device: 1 cpu \(.*\d threads\); compiled in \d+\.\d s", lines[3])
    assert re.match(
        r"step 10/200  .* left  loss \d\.\d{4}  accuracy \d\.\d{4}  \d+\.\d steps/s", lines[4]
    )
    assert sum(line.startswith("step 100: test accuracy") for line in lines) == 1
    found = results(uninterrupted)["test"]
    assert found["accuracy"] > 0.9
    (done,) = (line for line in lines if line.startswith("done: "))
    assert re.match(
        f"done: mnist_sample test accuracy {found['accuracy']:.4f} \\(95 % interval 0.* to .*\\), "
        f"loss {found['loss']:.4f} after 200 steps in ",
        done,
    )
    assert str(uninterrupted) in done
    assert "trained on 4,000 sample digits, not on MNIST" in lines
    *_, last = lines
    assert shlex.split(last)[-3:] == [
        *("train", f"--workdir={uninterrupted}", "--config.num_steps=400")
    ]


def test_killed_and_stopped_runs_resume_bit_for_bit(command, here, uninterrupted, tmp_path, capsys):
    """SIGKILL before the first checkpoint, around one, long after one and at random; signals."""
    stops = [
        *((10, signal.SIGKILL), (30, signal.SIGTERM), (70, signal.SIGINT), (80, signal.SIGKILL)),
        *((110, signal.SIGKILL), (10 * random.randint(12, 15), signal.SIGKILL)),
    ]
    at = ""
    for step, signum in stops:
        before = max((r["step"] for r in records(tmp_path)), default=0)
        run = command("main", workdir=tmp_path, **RUN)
        wait_for_step(run, tmp_path, max(step, before + 10))  # Which the one before had not.
        run.kill(signum)
        status = run.wait()
        if step >= 110 and (tmp_path / "results.json").exists():
            break  # On a busy machine the run was at its end before the signal came.
        assert not (tmp_path / "results.json").exists()
        assert f"resuming from step {at}" in run.out or not at
        at = ""
        if signum == signal.SIGKILL:
            assert status == -signal.SIGKILL
            continue
        assert status == 128 + signum, run.err
        assert "stopping after this step and writing a checkpoint; Ctrl-C" in run.err
        assert "the same command resumes it" in run.err
        at = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
        assert at >= step
    assert here(workdir=tmp_path, **RUN) == 0
    assert re.search(r"resuming from step \d+", capsys.readouterr().out)
    assert results(tmp_path)["params_sha256"] == results(uninterrupted)["params_sha256"]
    assert results(tmp_path)["test"] == results(uninterrupted)["test"]
    assert records(tmp_path) == records(uninterrupted)


# A run whose checkpoint takes for ever to write.
ENDLESS = """
import signal, sys
from jaxmnist import main
from jaxmnist.record.journal import Journal

def save(journal, step, state):
    print("saving", flush=True)
    while True:
        signal.pause()

Journal.save = save
sys.exit(main.main(sys.argv[1:]))
"""


def test_a_second_process_is_refused_and_a_second_ctrl_c_stops_at_once(command, tmp_path):
    """The first waits for the checkpoint; the second, which waits for nothing, kills."""
    endless = RUN | {"config.num_steps": 100_000, "config.checkpoint_every": 100_000}
    flags = [f"--{name}={value}" for name, value in {"workdir": tmp_path, **endless}.items()]
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert any(line.startswith("step 10/") for line in run.stdout)
        second = command("main", workdir=tmp_path, **endless)
        assert second.wait() == 1
        assert "another process is training in" in second.err
        run.send_signal(signal.SIGINT)
        assert any(line == "saving\n" for line in run.stdout)
        assert run.poll() is None
        run.send_signal(signal.SIGINT)
        _, err = run.communicate()
    assert run.returncode == -signal.SIGINT
    told = "Ctrl-C: stopping after this step and writing a checkpoint; Ctrl-C again stops at once."
    assert err == f"{told}\n"


def test_a_finished_run_evaluates_again_and_eval_mode_agrees(here, uninterrupted, capsys):
    before = results(uninterrupted)
    assert here(workdir=uninterrupted, **RUN) == 0
    assert "finished at step 200; evaluating it again" in capsys.readouterr().out
    assert results(uninterrupted) == before

    assert here(workdir=uninterrupted, mode="eval") == 0
    accuracy, loss = before["test"]["accuracy"], before["test"]["loss"]
    found = f"step 200: test accuracy {accuracy:.4f}, loss {loss:.4f}"
    assert capsys.readouterr().out == f"{found} on mnist_sample's test[:200]\n"

    assert here("--config.eval_split=train[:50]", workdir=uninterrupted, mode="eval") == 0
    assert capsys.readouterr().out.startswith("step 200: validation accuracy")

    for field, sentence in (
        ("dataset=cifar10", "error: dataset='cifar10': it is not prepared in "),
        ("optimizer=adam", "cannot be set: optimizer ('sgd(momentum=0.9)' there, 'adam' now)"),
    ):
        assert here(f"--config.{field}", workdir=uninterrupted, mode="eval") == 1
        assert sentence in capsys.readouterr().err

    changed = RUN | {"config.seed": 1, "config.dropout_rate": 0}
    assert here(workdir=uninterrupted, **changed) == 1
    told = "dropout_rate (0.4 there, 0.0 now); seed (0 there, 1 now)"
    assert told in capsys.readouterr().err


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


def test_a_terminal_gets_a_line_that_moves(tmp_path):
    """A pseudo-terminal: what is done from the start, then the steps; sentences above it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    endless = RUN | {"config.num_steps": 100_000}
    flags = [f"--{name}={value}" for name, value in endless.items()]
    args = [sys.executable, "-m", "jaxmnist", "train", f"--workdir={tmp_path}", *flags]
    env = os.environ | {"TERM": "xterm"}
    process = subprocess.Popen(args, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    text = ""
    with contextlib.suppress(OSError), os.fdopen(ours, "rb", 0) as terminal:  # Until it hangs up.
        while read := terminal.read(4096):
            is_new = "step 100: test accuracy" not in text
            text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", read.decode(errors="replace"))
            if is_new and "step 100: test accuracy" in text:
                process.send_signal(signal.SIGINT)
    assert process.wait() == 130, text
    lines = [line.strip() for line in re.split("[\r\n]", text)]
    shown = "\n".join(lines)
    assert re.search(r"^. starting \d+ s(.|\n)*^. .*\d+/100000  ", shown, re.M)
    assert re.search(r"^. .*\d+/100000  \d.* left  loss \d\.\d{4}  accuracy ", shown, re.M)
    assert any(re.fullmatch(r"step 100: test accuracy \d\.\d{4}, loss .*", line) for line in lines)
    told = "Ctrl-C: stopping after this step and writing a checkpoint; Ctrl-C again stops at once."
    assert told in lines
    last = [line for line in lines if line][-1]
    assert re.fullmatch(r"SIGINT: stopped after step \d+; the same command resumes it\.", last)


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        (["--workdir=W", "--config.batch_size=0"], 1, "error: batch_size=0 is not allowed"),
        (["--workdir=W", "--config.nothing=1"], 2, "unrecognized argument: --config.nothing"),
        (["--workdir=W", "--config=none.py"], 1, "error: --config=none.py: there is no such file"),
        (["--workdir=W", "--config.seed"], 2, "argument --config.seed: expected one argument"),
        (["--workdir=W", "--lr=1"], 2, "unrecognized argument: --lr"),
        (["--workdir=W", "--mode=eval"], 1, "W holds no run to evaluate: train there first"),
        ([], 2, "the following arguments are required: --workdir"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    flags, status, sentence, here, tmp_path, capsys
):
    try:
        found = here(*(flag.replace("=W", f"={tmp_path}/W") for flag in flags))
    except SystemExit as e:  # As argparse ends.
        found = e.code
    assert found == status
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not (tmp_path / "W").exists()


def test_a_full_disk_is_one_sentence_and_keeps_what_was_there(in_process, tmp_path, capsys):
    """As a limit on the size of files, which a checkpoint exceeds and the rest does not."""
    assert in_process(tmp_path) == 0
    flags = [f"--{name}={value}" for name, value in SHORT.items()]
    args = [sys.executable, "-m", "jaxmnist.main", f"--workdir={tmp_path}", *flags]
    more = "--config.num_steps=8"
    limited = ["bash", "-c", 'ulimit -f 1024; exec "$@"', "-", *args, more]  # 1 MiB
    run = subprocess.run(limited, capture_output=True, text=True)
    assert run.returncode == 1
    assert "error: cannot write checkpoints in" in run.stderr
    assert "Traceback" not in run.stderr
    assert results(tmp_path)["step"] == 4

    capsys.readouterr()
    assert in_process(tmp_path, more) == 0
    assert "resuming from step 4" in capsys.readouterr().out


def test_a_run_that_cannot_print_ends_as_it_would_have(in_process, tmp_path, monkeypatch):
    """Also where its last line has a character, the ± of several seeds, that ASCII lacks."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, unwritable())
    assert in_process(tmp_path, "--config.num_seeds=2", "--config.num_steps=2") == 0
    assert results(tmp_path)["seeds"] == [0, 1]


def test_a_run_in_a_thread(in_process, tmp_path, capsys):
    """As in Streamlit or Gradio, where signals are not ours to handle."""
    before, found = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: found.append(in_process(tmp_path)))
    thread.start()
    thread.join()
    assert found == [0], capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
    assert results(tmp_path)["options"] == machine.options()


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--workdir=", "error: --workdir is empty: give it a path."),
        ("--workdir=gs://bucket/run", "error: --workdir=gs://bucket/run is a URL"),
        ("--workdir=a[1]", "error: --workdir=a[1] is not allowed"),
        ("--config=", "error: --config is empty: give it a path."),
        ("--config.data_dir=gs://a/b", "error: data_dir=gs://a/b is a URL"),
    ],
)
def test_paths_that_cannot_be(flag, sentence, in_process, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert in_process("run", flag) == 1
    assert capsys.readouterr().err.startswith(sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [(None, 0, ""), (3, 3, ""), ("no GPU", 1, "error: no GPU\n"), ((1, 2), 1, "")],
)
def test_an_exit_from_within(code, status, said, capsys):
    assert main.run(lambda: sys.exit(code)) == status
    assert capsys.readouterr().err == said


def shell(script, command):
    """Starts a shell's `script`, in which "$@" is main.run of `command`, the text of a function."""
    code = (
        "import os, sys, time\nfrom jaxmnist import errors, main\n"
        f"{textwrap.dedent(command)}\nsys.exit(main.run(command))"
    )
    args = ["bash", "-c", script, "-", sys.executable, "-c", code]
    return subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


ANSWER = "command = lambda: print('x' * 10_000)"
SAYING = "command = lambda: errors.say('x' * 10_000)"


@pytest.mark.parametrize(
    ("command", "script", "status", "said"),
    [
        (ANSWER, '"$@" > /dev/full', 1, "error: No space left on device.\n"),
        (ANSWER, '"$@" | true; exit ${PIPESTATUS[0]}', 1, ""),
        (ANSWER, '"$@" >&-', 0, ""),
        (SAYING, '"$@" > /dev/full', 0, ""),
        (SAYING, '"$@" | true; exit ${PIPESTATUS[0]}', 0, ""),
        ("command = lambda: sys.exit(os.dup(0))", '"$@" <&- >&- 2>&-', 3, ""),
        ("command = lambda: print(sys.stdin.read(), end='')", '"$@" <&-', 0, ""),
    ],
)
def test_standard_streams_that_are_closed_or_full(command, script, status, said):
    """An answer that is lost is an error, what a run says is none; no file gets 0, 1 or 2."""
    process = shell(script, command)
    out, err = process.communicate()
    assert (process.returncode, err, out) == (status, said, "")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_there_is_anything_to_save(signum):
    """The first unwinds, a second ends the process, in whatever clean-up it is by then."""
    body = """
    def command():
        try:
            print("started", flush=True)
            time.sleep(600)
        finally:
            print("cleaning", flush=True)
            time.sleep(SECONDS)
    """
    for seconds, status, said in ((0, 128 + signum, "stopped.\n"), (600, -signum, "")):
        process = shell('exec "$@"', body.replace("SECONDS", str(seconds)))
        assert process.stdout.readline() == "started\n"
        process.send_signal(signum)
        assert process.stdout.readline() == "cleaning\n"
        if seconds:
            process.send_signal(signum)
        assert process.communicate()[1] == said
        assert process.returncode == status


def test_a_signal_that_a_callback_swallows_stops_all_the_same():
    body = """
    class Callback:
        def __del__(self):
            os.kill(os.getpid(), 2)
            time.sleep(600)
    def command():
        Callback()
        print("not reached")
    """
    process = shell('exec "$@"', body)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "stopped.\n")


def test_the_sample_is_told_of_again_at_the_end(tmp_path, capsys):
    """With what the experiment says that it reaches with MNIST, if it was trained as it stands."""
    metrics = {"test": {"accuracy": 0.9, "loss": 0.3}, "step": 600, "seconds": {"total": 9.0}}
    examples = {"train": 4000, "test": 1000}
    results = metrics | {"dataset": {"name": "mnist_sample", "num_examples": examples}}
    config = checks.load("experiments/quick.py")
    for reaches, more in (
        (reported_accuracy("experiments/quick.py"), "99.21 %"),
        (reported_accuracy(None), "99.42 %"),
        (None, ""),
    ):
        main.say_the_end(results, config, Workdir(tmp_path), reaches)
        said = "trained on 4,000 sample digits, not on MNIST"
        said += f"; with MNIST this experiment reaches {more}" if more else ""
        assert said in capsys.readouterr().out.splitlines()


def test_seeds_in_groups_of_unequal_size_killed_and_resumed_in_others(
    command, here, tmp_path, capsys
):
    """Two seeds at once and a third, then one by one: each trains as it does by itself.

    To rounding, at a rate that does not amplify it.
    """
    flags = RUN | {
        "config.num_steps": 60,
        "config.checkpoint_every": 20,
        "config.schedule": "constant",
        "config.optimizer": "sgd",
        "config.learning_rate": 0.001,
    }
    groups = flags | {"config.num_seeds": 3, "config.seeds_per_call": 2}
    for seed in (1, 2):  # Killed in the first group, and in the second.
        run = command("main", workdir=tmp_path, **groups)
        wait_for_step(run, tmp_path / f"seed-{seed}", 30)
        run.kill()
        run.wait()
        assert not (tmp_path / "results.json").exists()
    assert "resuming from step" in run.out
    assert here(workdir=tmp_path, **groups | {"config.seeds_per_call": 1}) == 0
    assert "resuming from step" in capsys.readouterr().out
    assert results(tmp_path)["seeds"] == [0, 1, 2]
    for seed in range(3):
        alone = tmp_path / f"alone-{seed}"
        assert here(workdir=alone, **flags | {"config.seed": seed}) == 0
        for a, b in zip(records(tmp_path / f"seed-{seed}"), records(alone), strict=True):
            assert (a["step"], a["split"]) == (b["step"], b["split"])
            np.testing.assert_allclose(a["loss"], b["loss"], rtol=3e-6)
