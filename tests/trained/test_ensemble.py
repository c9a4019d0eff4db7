"""The seeds of a run as one model."""

import numpy as np
import pytest

from jaxmnist import train
from jaxmnist.errors import UserError
from jaxmnist.trained import ensemble, inference


def test_the_mean_of_probabilities(config, tmp_path, test_split):
    config.num_seeds = 2
    train.train_and_evaluate(config, tmp_path / "run")
    models = ensemble.load(tmp_path / "run")
    assert [model.config.seed for model in models] == [0, 1]
    images = test_split.images[:50]
    each = [inference.load(tmp_path / f"run/seed-{i}").probabilities(images) for i in (0, 1)]
    assert not np.array_equal(*each)
    found = ensemble.probabilities(models, images)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (each[0] + each[1]) / 2)
    assert ensemble.load(tmp_path / "run", dtype="bfloat16")[0].config.dtype == "bfloat16"


def test_one_run_is_its_own_average(finished):
    assert len(ensemble.load(finished)) == 1


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(UserError, match="holds no run of several seeds: train there first"):
        ensemble.load(tmp_path)
