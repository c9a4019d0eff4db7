"""A network of one's own is trained, recorded, loaded, and never run unasked."""

import hashlib
import json
import shutil

import numpy as np
import pytest

import jaxmnist
from jaxmnist import checks, dry_run, own_model, predict
from jaxmnist.errors import UserError
from jaxmnist.record.screen import Screen
from jaxmnist.record.workdir import Run, Workdir
from tests.conftest import content

NET = '''
import flax.linen as nn


class Net(nn.Module):
    """One that keeps a running average, and a state of its own."""

    width: int = 4
    widths: tuple = ()
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(self.width, (3, 3), strides=4)(x)
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9)(x))
        steps = self.variable("count", "steps", lambda: nn.initializers.zeros(None, (), int))
        if train:
            steps.value += 1
        return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1))


def function():
    pass
'''


@pytest.fixture
def state_dir(tmp_path, monkeypatch):
    """What this user trusts is remembered there; nothing is at first, nor in this process."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(own_model, "_trusted", set())
    return tmp_path / "state"


@pytest.fixture
def net(tmp_path, state_dir):
    path = tmp_path / "my_net.py"
    path.write_text(NET)
    return path


@pytest.fixture
def trained(net, config, tmp_path):
    """A workdir of a run with that network."""
    config.model = f"{net}:Net(width=3)"
    jaxmnist.train_and_evaluate(config, tmp_path / "run")
    return tmp_path / "run"


def forget(monkeypatch, tmp_path):
    """As on another machine, or for another user."""
    monkeypatch.setattr(own_model, "_trusted", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))


def test_it_is_recorded_and_resumed_bit_for_bit(net, trained, config, tmp_path):
    """Its other state too: the average, and the count of the steps."""
    saved = json.loads((trained / "config.json").read_text())
    assert saved["model"] == f"{own_model.read(config.model)}"
    assert saved["model"].startswith("my_net.py@")
    assert (trained / "my_net.py").read_text() == NET
    network = json.loads((trained / "run.json").read_text())["network"]
    assert network["params"]["Conv_0/kernel"] == "float32 (3, 3, 1, 3)"
    assert network["model_state"]["count/steps"] == "int32 ()"

    whole = jaxmnist.load(trained)
    assert whole.variables["count"]["steps"] == config.num_steps
    config.num_steps = 4
    parts = tmp_path / "parts"
    jaxmnist.train_and_evaluate(config, parts)
    net.unlink()  # What is kept in the workdir is enough.
    resumed = checks.load(None)
    resumed.update(json.loads((parts / "config.json").read_text()) | {"num_steps": 6})
    results = jaxmnist.train_and_evaluate(resumed, parts)
    assert results["params_sha256"] == whole_results(trained)["params_sha256"]
    found = jaxmnist.load(parts)
    np.testing.assert_equal(found.variables, whole.variables)


def whole_results(workdir):
    return json.loads((workdir / "results.json").read_text())


def test_an_edited_network_is_refused_and_a_comment_is_not(net, trained, config):
    before = content(trained)
    for edited in (NET.replace("strides=4", "strides=4, use_bias=False"), NET.replace("0.9", ".8")):
        net.write_text(edited)
        with pytest.raises(UserError, match=r"another network|my_net\.py has changed since"):
            jaxmnist.train_and_evaluate(config, trained)
        assert content(trained) == before
    net.write_text("# A comment.\n" + NET)
    again = config.copy_and_resolve_references()
    again.model = own_model.read(config.model)
    said = dry_run.describe(Run(again, Workdir(trained)), Screen(quiet=True))
    assert "it holds this run, finished" in said
    config.num_steps = 7
    assert jaxmnist.train_and_evaluate(config, trained)["step"] == 7
    assert (trained / "my_net.py").read_text() == NET


def test_code_from_elsewhere_is_run_only_if_trusted(trained, tmp_path, monkeypatch, capsys):
    digit = tmp_path / "digit.png"
    shutil.copy(jaxmnist.__path__[0] + "/../experiments/report.png", digit)
    forget(monkeypatch, tmp_path)
    text = f"print('it runs')\n{NET}"
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    config = json.loads((trained / "config.json").read_text())
    config["model"] = f"my_net.py@{key}:Net(width=3)"
    (trained / "config.json").write_text(json.dumps(config))
    (trained / "my_net.py").write_text(text)
    args = [f"--workdir={trained}", str(digit)]
    assert predict.main(args) == 1
    out, err = capsys.readouterr()
    assert "it runs" not in out
    assert f"error: {trained}/my_net.py is code that was not trained with here: read it" in err
    with pytest.raises(UserError, match="--trust_code"):
        jaxmnist.load(trained)
    assert jaxmnist.load(trained, trust_code=True).step == 6
    assert "it runs" in capsys.readouterr().out
    monkeypatch.setattr(own_model, "_trusted", set())
    assert predict.main(args) == 0, "it is remembered"


def test_the_flag_is_that_of_every_command_that_loads(trained, tmp_path, monkeypatch, here):
    forget(monkeypatch, tmp_path)
    assert here(workdir=trained, mode="eval") == 1
    assert here("--trust_code", workdir=trained, mode="eval") == 0


def test_a_kept_network_that_was_changed_or_names_another_file_is_refused(trained, tmp_path):
    (trained / "my_net.py").write_text(NET.replace("0.9", "0.8"))
    with pytest.raises(UserError, match=r"my_net\.py is not the network that was trained: undo"):
        jaxmnist.load(trained)
    config = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps(config | {"model": "my_net.py:Net"}))
    with pytest.raises(UserError, match=r"my_net\.py is not the network that was trained: undo"):
        jaxmnist.load(trained)
    (trained / "my_net.py").unlink()
    with pytest.raises(UserError, match=r"my_net\.py, the network that was .*: put it back\.$"):
        jaxmnist.load(trained)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nothing.py:Net", "there is no file .*nothing.py"),
        ("my_net.py", "is not a file and a linen module in it, .* such as my_net.py:Net"),
        ("my_net.py:Net(3)", r"'Net\(3\)' is not a name with keyword arguments, such as"),
        ("my_net.py:a.b()", "is not a name with keyword arguments"),
        ("my_net.py:Nett", "the file has no linen module 'Nett'"),
        ("my_net.py:function", "the file has no linen module 'function'"),
        ("my_net.py:Net(wide=3)", "Net takes width, widths, num_classes, not 'wide'"),
        ("my_net.py:Net(width=0)", "it fails with ZeroDivisionError"),
        ("my_net.py:Net(num_classes=3)", r"it gives \(20, 3\), not logits of the shape \(20, 10\)"),
        ("my_net.py@0123456789abcdef:Net", "no file of that content was read: name the file alone"),
        ("my_net.py:Net(widths={'a': {1}})", "it fails with TypeError: Failed to hash"),
        ("grows.py:Net", "change their shapes or types in a step"),
        ("batch.py:Net", "it fails with ValueError: not 20"),
        ("quits.py:Net", "it fails with SystemExit"),
        ("syntax.py:Net", "it fails with SyntaxError"),
        ("raises.py:Net", "it fails with RuntimeError: no"),
        ("empty.py:Net", "it has no parameters"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(model, said, net, config):
    folder = net.parent
    (folder / "syntax.py").write_text("class")
    (folder / "raises.py").write_text("raise RuntimeError('no')")
    empty = NET[: NET.index("        x = nn.Conv")] + "        return x.reshape(len(x), -1)[:, :10]"
    (folder / "empty.py").write_text(empty)
    grows = NET.replace("steps.value += 1", "steps.value = steps.value.astype(float)")
    (folder / "grows.py").write_text(grows)
    batch = NET.replace("steps.value += 1", "raise ValueError(f'not {len(x)}')")
    (folder / "batch.py").write_text(batch)
    (folder / "quits.py").write_text(NET.replace("steps.value += 1", "raise SystemExit"))
    config.model = f"{folder}/{model}"
    with pytest.raises(UserError, match=said):
        checks.check(config)


def test_it_takes_the_place_of_an_experiment_s_network(net):
    overrides = [("model", f"{net}:Net"), ("dataset", "mnist_sample")]
    config = checks.load("experiments/fastest.py", overrides)
    assert (config.features, config.hidden, config.dropout_rate) == ((32, 64), 1024, 0.4)
    checks.check(config)
    config = checks.load("experiments/fastest.py", [("hidden", "7"), *overrides])
    with pytest.raises(UserError, match="hidden=7 is not allowed with model="):
        checks.check(config)


def test_the_paper_s_fields_are_refused_beside_it(net, config):
    config.model, config.hidden = f"{net}:Net", 7
    with pytest.raises(UserError, match=r"hidden=7 is not allowed with model=.*: it is the paper"):
        checks.check(config)


def test_equal_networks_share_a_class_and_lists_become_tuples(net):
    one, other = (own_model.create(f"{net}:Net(widths=[1, [2]])") for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one.widths == (1, (2,))
