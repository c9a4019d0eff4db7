"""The default config is the paper's training; what differs in two; what 0 stands for."""

import pytest

from jaxmnist import checks
from jaxmnist import config as config_lib
from jaxmnist.errors import UserError


def test_the_default_is_the_papers_training():
    config = config_lib.get_config()
    checks.check(config)
    assert (config.dataset, config.train_split, config.eval_split) == ("mnist", "train", "test")
    assert (config.batch_size, config.num_steps, config.dropout_rate) == (100, 20_000, 0.4)


def test_changed_training_names_only_what_trains_differently():
    old, new = config_lib.get_config(), config_lib.get_config()
    new.update({"num_steps": 30_000, "log_every": 7, "eval_split": "test[:10]", "data_dir": "x"})
    assert config_lib.changed_training(old, new) == []
    new.update({"seed": 3, "learning_rate": 0.5})
    changed = config_lib.changed_training(old, new)
    assert len(changed) == 2
    assert "seed (0 there, 3 now)" in changed


def test_steps_per_call(config):
    for field, every in (("log_every", 20), ("eval_every", 60), ("checkpoint_every", 30)):
        config[field] = every
    assert config_lib.steps_per_call(config, "cpu") == 1
    assert (
        config_lib.steps_per_call(config, "gpu") == config_lib.steps_per_call(config, "tpu") == 10
    )
    for allowed in (5, 10):
        config.steps_per_call = allowed
        checks.check(config)
        assert config_lib.steps_per_call(config, "cpu") == allowed
    config.steps_per_call = 20
    wanted = "must divide log_every=20, eval_every=60, checkpoint_every=30; 10 does"
    with pytest.raises(UserError, match=f"steps_per_call=20 is not allowed: it {wanted}"):
        checks.check(config)
