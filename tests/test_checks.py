"""What a run refuses, and in which words."""

import pytest

from jaxmnist import checks
from jaxmnist.config import get_config
from jaxmnist.errors import UserError


@pytest.mark.parametrize("name", ["tutorial", "epoch", "quick", "fastest"])
def test_experiments_are_valid(name):
    config = checks.load(f"experiments/{name}.py")
    checks.check(config)


def test_overrides_take_the_type_of_their_field():
    overrides = [
        *(("learning_rate", "1"), ("num_steps", "7"), ("allow_sample", "False")),
        *(("optimizer", "adam(b1=0.8)"), ("data_dir", "/data"), ("eval_split", "train[55000:]")),
    ]
    config = checks.load(None, overrides)
    checks.check(config)
    assert (config.learning_rate, config.num_steps, config.allow_sample) == (1.0, 7, False)
    assert isinstance(config.learning_rate, float)
    assert (config.optimizer, config.data_dir) == ("adam(b1=0.8)", "/data")


@pytest.mark.parametrize(
    ("field", "text", "sentence"),
    [
        ("batch_sise", "5", "batch_sise=5 is not allowed: .*; did you mean batch_size"),
        ("zzz", "5", "zzz=5 is not allowed: .* no such field; the fields are allow_sample, "),
        ("batch_size", "x", "batch_size=x is not allowed: it must be a whole number"),
        ("batch_size", "1.5", "batch_size=1.5 is not allowed: it must be a whole number"),
        ("batch_size", "0", "batch_size=0 is not allowed: it must be a whole number of at least 1"),
        ("batch_size", "60001", "batch_size=60001 is not allowed: it must be at most 60,000"),
        ("num_steps", "-1", "num_steps=-1 is not allowed"),
        ("learning_rate", "fast", "learning_rate=fast is not allowed: it must be a number"),
        ("learning_rate", "nan", "learning_rate=nan is not allowed: it must be a number above 0"),
        ("learning_rate", "inf", "learning_rate=inf is not allowed"),
        ("learning_rate", "1e-60", "learning_rate=1e-60 is not allowed: .* above 0, in float32"),
        ("learning_rate", "1e-40", "learning_rate=1e-40 is not allowed"),
        ("learning_rate", "1e39", r"learning_rate=1e\+39 is not allowed: .* to 3.4e\+38"),
        ("num_steps", "3000000000", "num_steps=3000000000 .* at most 2,147,483,647"),
        ("eval_batch_size", "4000000000", "eval_batch_size=4000000000 .* at most 2,147,483,647"),
        ("num_seeds", "4294967296", "num_seeds=4294967296 .* at least 1 and at most 10,000"),
        ("seed", "4294967296", r"seed=4294967296 is not allowed: .* below 2\*\*32"),
        ("warmup_steps", "20001", "warmup_steps=20001 .* must be at most num_steps=20000"),
        ("dropout_rate", "nan", "dropout_rate=nan is not allowed"),
        ("profile_steps", "0:3000000000", "profile_steps=0:3000000000 is not allowed"),
        ("dropout_rate", "1.5", "dropout_rate=1.5 is not allowed: .* at least 0 and below 1"),
        ("dropout_rate", "1", "dropout_rate=1.0 is not allowed"),
        ("allow_sample", "maybe", "allow_sample=maybe is not allowed: it must be True or False"),
        ("dataset", "cifar10", "dataset='cifar10': it is not prepared in .* this prepares it: py"),
        ("dataset", "mnits", "dataset='mnits' is not allowed: .*; did you mean mnist"),
        ("dataset", "a b c", "dataset='a b c' is not allowed: .*; it must be one of mnist, "),
        ("dataset", "folder:", "dataset=folder: is empty: give it a path"),
        ("dataset", "folder:/nowhere", "dataset=folder:/nowhere: there is no such folder"),
        ("dataset", "arrays:00", "dataset=arrays:00: its arrays are not in .*data.npz"),
        ("image_shape", "9,9,1", r"image_shape=\(9, 9, 1\) is not allowed with dataset='mnist': "),
        ("prepare", "resize", "prepare='resize' is not allowed with dataset='mnist': how its "),
        ("schedule", "step", "schedule='step' is not allowed: .* constant, linear, cosine"),
        ("seed", "-1", "seed=-1 is not allowed"),
        ("train_split", "training", "train_split: 'training' names no examples of mnist"),
        ("eval_split", "test[20000:]", r"eval_split: 'test\[20000:\]' names no examples of mnist"),
        ("train_split", "train[", r"train_split: 'train\[' names no examples"),
        ("optimizer", "adamm", "optimizer='adamm': optax has no optimizer"),
        ("log_every", "0", "log_every=0 is not allowed"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(field, text, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        checks.check(checks.load(None, [(field, text)]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("x = 1", "it lacks 'get_config'"),
        ("def get_config(): return {}['a']", "fails with KeyError: 'a'"),
        ("def get_config(): raise ValueError", "fails with ValueError$"),
        ("import sys; sys.exit('no GPU')", "fails with SystemExit: no GPU"),
        ("def get_config(): return 5", "returns no ConfigDict"),
        ("def get_config(): return 1 / 0", "fails with ZeroDivisionError"),
        ("def get_config(:", "fails with SyntaxError"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, body, sentence):
    path = tmp_path / "experiment.py"
    path.write_text(body)
    with pytest.raises(UserError, match=sentence):
        checks.load(str(path))
    with pytest.raises(UserError, match="no such file"):
        checks.load(str(tmp_path / "none.py"))
    with pytest.raises(UserError, match="--config is empty: give it a path"):
        checks.load("")


def test_paths_in_the_config(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x[1].py").write_text("from jaxmnist.config import get_config")
    config = checks.load("~/x[1].py", [("data_dir", "~/data")])
    assert config.data_dir == f"{tmp_path}/data"
    with pytest.raises(UserError, match="data_dir=gs://a/b is a URL"):
        checks.load(None, [("data_dir", "gs://a/b")])


def test_a_field_that_an_experiment_file_adds_or_mistypes():
    config = get_config()
    config.momentum = 0.9
    with pytest.raises(UserError, match=r"momentum=0.9 is not allowed: .* no such field"):
        checks.check(config)
    config = get_config()
    with config.ignore_type():
        config.batch_size = "100"
    with pytest.raises(UserError, match="batch_size='100' is not allowed: it must be a whole"):
        checks.check(config)


def test_the_last_seeds_there_are():
    config = get_config()
    config.seed, config.num_seeds = 2**32 - 2, 2
    checks.check(config)
    config.num_seeds = 3
    with pytest.raises(UserError, match=r"num_seeds=3 is not allowed: seeds are below 2\*\*32"):
        checks.check(config)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"keep_best": True}, "keep_best=True chooses by the evaluation, so eval_split='test' is"),
        ({"patience": 3}, "patience=3 ends the run by the evaluation, so eval_split='test' is not"),
        (
            {"patience": 3, "eval_split": "train[55000:]"},
            r"so eval_split='train\[55000:\]' is not allowed with train_split='train': both have",
        ),
    ],
)
def test_the_test_set_chooses_nothing(fields, sentence):
    config = get_config()
    config.update(fields)
    with pytest.raises(UserError, match=sentence) as caught:
        checks.check(config)
    assert "\n" not in str(caught.value)
    checks.check(config, training=False)  # A run that has chosen may be evaluated on it.
    config.train_split, config.eval_split = "train[:55000]", "train[55000:]"
    checks.check(config)


def test_a_warm_up_that_takes_the_whole_run():
    config = get_config()
    config.warmup_steps = config.num_steps
    checks.check(config)
