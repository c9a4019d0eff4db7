"""What the README says to type is typed: its commands and its Python, on the sample."""

import importlib
import json
import os
import re
import shlex
import signal
import sys
import threading
import types
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxmnist import checks, train

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)

# A command with these words is not executed, for the reason given.
NOT_EXECUTED = {
    "python3 -m venv ": "makes the environment that this test runs in",
    ".venv/bin/pip install ": "fills the environment that this test runs in",
    ".venv/bin/pytest ": "is what CI runs, this test included",
    "register-python-argcomplete": "is for an interactive shell; test_cli.py asks as it does",
    "--coordinator=HOST:PORT": "needs several machines; test_distributed.py trains with it",
    "--source_dir=FOLDER": "needs MNIST's archives; test_prepare_data.py executes it",
    "=folder:PICTURES": "needs a folder of pictures; test_folder.py trains on one",
    "=cifar10": "needs prepared data; test_prepared.py trains on some",
}
# What the others get in addition, by their verb.
SHORT = (
    "--config.dataset=mnist_sample",
    "--config.num_steps=4",
    "--config.warmup_steps=0",
    "--config.curriculum=",
)
ADDED = {
    **dict.fromkeys(("main", "train", "sweep"), SHORT),
    "demo": ("--no_browser", "--port=0"),
    **dict.fromkeys(("eval", "predict", "report", "export", "runs", "--help", "--version"), ()),
}
# And what is put in place of what the sample or the test's folder does not have, or takes long.
REPLACED = {
    "55000": "3500",
    "/tmp/": "runs/",
    "num_seeds=5": "num_seeds=2",
    "num_seeds=3": "num_seeds=1",
    "eval_every=200": "eval_every=2",
}


def commands():
    """Every command of the README, as it stands there."""
    texts = [
        text.replace("\\\n", " ") for language, text in BLOCKS if language in ("", "bash", "sh")
    ]
    lines = [line for text in texts for line in text.splitlines()]
    return [command.strip() for line in lines for command in line.split("&&") if command.strip()]


def parse(command):
    """The module whose main is to be called, the verb, and main's arguments."""
    words = shlex.split(command)
    program = words.pop(0).removeprefix(".venv/bin/")
    if program == "python" and words[:1] == ["-m"]:
        program, words = words[1], words[2:]
    if program.startswith("jaxmnist."):
        return program, program.removeprefix("jaxmnist."), words
    assert program == "jaxmnist", (
        f"{command!r} is unknown: say in NOT_EXECUTED why it cannot be run"
    )
    return "jaxmnist.cli", words[0], words


def status(module, words):
    """What a command that is called so ends with."""
    try:
        return importlib.import_module(module).main(words)
    except SystemExit as e:  # Of --help, say.
        return e.code or 0


def check_config(words):
    """That a run accepts the config of a command as it stands, also on data that are not here."""
    files = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    fields = [word.removeprefix("--config.") for word in words if word.startswith("--config.")]
    config = checks.load(*files or [None], [tuple(each.split("=", 1)) for each in fields])
    checks.check(config)


@pytest.fixture
def folder(tmp_path, monkeypatch, test_split):
    """The current folder: as a checkout as far as the README needs one, with pictures.

    And with the network of experiments/README.md.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    [network] = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "experiments/README.md").read_text(), re.M | re.S
    )
    (tmp_path / "my_net.py").write_text(network)
    (tmp_path / "photos").mkdir()
    for i, name in enumerate(("digit.png", "photos/one.jpg", "photos/two.png")):
        digit = Image.fromarray(test_split.images[i, ..., 0]).resize((140, 140))
        ImageOps.invert(digit).save(name)
    return tmp_path


@pytest.fixture
def one_page(monkeypatch):
    """The demo serves its page once, in place of until Ctrl-C."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra demo")
    serve, pages = uvicorn.Server.run, []

    def run(server, sockets):
        serving = threading.Thread(target=serve, args=(server, sockets))
        serving.start()
        try:
            url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/"
            with urllib.request.urlopen(url, timeout=60) as page:
                pages.append(page.read())
        finally:
            server.should_exit = True
            serving.join()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    # Python's logging would close absl's handlers, and absl's one pytest's standard error.
    monkeypatch.setattr(uvicorn.Config, "configure_logging", lambda config: None)
    return pages


def test_every_command_runs(folder, one_page, capsys):
    """In the README's order, in one process; each ends with status 0."""
    pytest.importorskip("matplotlib", reason="needs the extra report")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    executed = []
    for command in commands():
        if any(words in command for words in NOT_EXECUTED):
            continue
        module, verb, words = parse(command)
        assert verb in ADDED, f"{command!r} is unknown: say in ADDED how it is to be run"
        if ADDED[verb] == SHORT:
            check_config(words)
        for old, new in REPLACED.items():
            words = [word.replace(old, new) for word in words]
        print(f"$ {command}", file=sys.stderr)
        assert importlib.import_module(module).main([*words, *ADDED[verb]]) == 0, (
            capsys.readouterr()
        )
        executed.append(verb)
    assert len(one_page) == executed.count("demo")
    assert (folder / "runs/paper/report.html").exists()
    assert (folder / "runs/paper/results.json").exists()
    assert (folder / "runs/i/my_net.py").exists()


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (
            "jaxmnist predict --workdir=a 'b c'",
            ("cli", "predict", ["predict", "--workdir=a", "b c"]),
        ),
        ("python -m jaxmnist predict x", ("cli", "predict", ["predict", "x"])),
        (".venv/bin/python -m jaxmnist.predict x", ("predict", "predict", ["x"])),
        (".venv/bin/jaxmnist --version", ("cli", "--version", ["--version"])),
    ],
)
def test_each_way_to_write_a_command_is_understood(command, wanted):
    module, verb, words = wanted
    assert parse(command) == (f"jaxmnist.{module}", verb, words)


@pytest.mark.parametrize("command", ["tensorboard --logdir=runs", "python x.py", "pip install x"])
def test_a_command_that_is_not_known_is_told_of(command):
    with pytest.raises(AssertionError, match="is unknown: say in NOT_EXECUTED"):
        parse(command)


def test_every_reason_is_of_a_command():
    for words in NOT_EXECUTED:
        assert any(words in command for command in commands()), words


def interpreter():
    """What a run in Python must leave as it was."""
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    hooks = [sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning]
    return [*handlers, *hooks, sys.stdin, sys.stdout, sys.stderr, Path.cwd(), dict(os.environ)]


def test_the_python_runs(folder, monkeypatch, capsys):
    """As it stands, with 4 steps on the sample; Weights & Biases is played by a module."""
    train_and_evaluate, logged = train.train_and_evaluate, []

    def short(config, *args, **kwargs):
        config = config.copy_and_resolve_references()
        config.dataset, config.num_steps, config.log_every = "mnist_sample", 4, 2
        return train_and_evaluate(config, *args, **kwargs)

    class Run:
        def log(self, data, step):
            logged.append((step, data))

    def init(project, config):
        assert project == "jaxmnist"
        assert config["learning_rate"] == 0.05
        return Run()

    monkeypatch.setattr(train, "train_and_evaluate", short)
    wandb = types.ModuleType("wandb")
    wandb.init = init
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    blocks = [text for language, text in BLOCKS if language == "python"]
    names: dict = {}
    importlib.import_module("cv2")  # OpenCV sets a variable when it is imported first.
    before = interpreter()
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert interpreter() == before
    assert len([line for line in blocks[0].splitlines() if line]) <= 10
    printed = capsys.readouterr().out
    for run in ("python", "wandb"):
        lines = (folder / f"runs/{run}/metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [(r["step"], r["split"]) for r in records] == [
            (2, "train"),
            (4, "train"),
            (4, "test"),
        ]
    for step, data in logged:
        [(split, record)] = data.items()
        assert (record["step"], record["split"]) == (step, split)
    assert [(step, *data) for step, data in logged] == [(2, "train"), (4, "train"), (4, "test")]
    assert f"{names['results']['test']['accuracy']} Model(mnist_sample, step 4 of " in printed
    assert "'split': 'train'" in printed
    np.testing.assert_allclose(names["found"].probabilities.sum(), 1, rtol=1e-5)
