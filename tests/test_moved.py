"""Modules by the names that they had before: a notebook of an earlier version goes on."""

import importlib
import subprocess
import sys

import pytest

from jaxmnist import moved

NAMES = """
from jaxmnist.input_pipeline import Data, ShuffledBatches, put_on_device
from jaxmnist.train import train_and_evaluate, train_step, eval_step
from jaxmnist.train_state import TrainState, create_train_state
from jaxmnist.runs import train_and_evaluate
from jaxmnist.config import check, eval_name, get_config, load, override
from jaxmnist.models import CNN, num_parameters
from jaxmnist.errors import Interrupted, UserError
from jaxmnist import datasets, pictures
import jaxmnist.inference
import jaxmnist.data.datasets, jaxmnist.trained.inference
assert datasets.load is jaxmnist.data.datasets.load
assert jaxmnist.inference.Model is jaxmnist.trained.inference.Model
try:
    import jaxmnist.none_such
except ModuleNotFoundError:
    print("done")
"""


def test_names_that_users_have_stay_importable():
    run = subprocess.run([sys.executable, "-c", NAMES], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("done\n", "")


@pytest.mark.parametrize("name", moved.MOVED)
def test_each_name_leads_to_a_module_of_today(name):
    module = importlib.import_module(name)
    today = importlib.import_module(moved.MOVED[name])
    public = [each for each in vars(today) if not each.startswith("_")]
    assert public
    for each in public:
        assert getattr(module, each) is getattr(today, each)
    with pytest.raises(AttributeError, match="none_such"):
        _ = module.none_such
