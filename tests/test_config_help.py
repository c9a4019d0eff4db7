"""What the help says of the config's fields and of the experiments."""

import pytest

from jaxmnist import config_help
from jaxmnist.config import get_config


def test_every_field_is_described_with_its_default():
    text = config_help.describe_fields(width=400)
    for name, value in get_config().items():
        (line,) = (x for x in text.splitlines() if x.split()[0] == name)
        assert f"(default: {value!r})" in line
    lines = config_help.describe_fields(width=60).splitlines()
    assert max(map(len, lines)) <= 60
    only = config_help.describe_fields(only=["dtype", "eval_split"]).splitlines()
    assert [line.split()[0] for line in only if not line.startswith("     ")] == [
        *("data:", "eval_split", "network:", "dtype")
    ]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("allow_sample", ["True", "False"]),
        ("schedule", ["constant", "linear", "cosine"]),
        ("learning_rate", []),
        ("optimizer", []),
    ],
)
def test_values_that_can_be_listed(field, values):
    assert config_help.choices(field) == values


def test_experiments_say_what_they_are(tmp_path):
    found = {path.name: does for path, does in config_help.experiments().items()}
    assert set(found) == {
        *("best.py", "epoch.py", "fashion.py", "fastest.py", "photo.py", "plain.py", "quick.py"),
        "tutorial.py",
    }
    assert all(found.values())
    assert config_help.reported_accuracy("experiments/quick.py") == "99.21 %"
    assert config_help.reported_accuracy("experiments/tutorial.py") == "96.97 %"
    assert config_help.reported_accuracy(None) == "99.42 %"
    (tmp_path / "x.py").write_text("def get_config(:")
    assert config_help.reported_accuracy(tmp_path / "x.py") is None
