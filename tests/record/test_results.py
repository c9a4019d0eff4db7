"""What a run says of itself: its first lines, its warning, and its last line."""

import jax
import numpy as np
import pytest

from jaxmnist.config import get_config
from jaxmnist.data.datasets import Dataset, Split, describe
from jaxmnist.devices import cpu_layers
from jaxmnist.models import CNN
from jaxmnist.record import results as results_lib


def split(count):
    return Split(np.zeros((count, 28, 28, 1), np.uint8), np.arange(count) % 10)


def test_the_first_lines_tell_what_is_trained_and_how():
    config = get_config()
    config.num_steps, config.warmup_steps = 600, 50
    dataset = Dataset(describe(get_config()), [split(6_000), split(100)])
    data, network, training, device = results_lib.introduction(config, dataset, CNN(), 1, 1.25)
    assert data == "mnist: 6,000 training and 100 evaluation examples"
    assert network.startswith("network: Conv_0 14x14x32, Conv_1 7x7x64, Dense_0 1024, Dense_1 10;")
    assert network.endswith("3,274,634 parameters, plain layers")
    assert training == (
        "training: 600 steps of 100 (10 epochs), sgd(momentum=0.9), learning rate 0.05, cosine "
        "after 50 steps of warm-up, seed 0"
    )
    assert device.endswith("compiled in 1.2 s")
    fast = CNN(conv_pool=cpu_layers.conv_pool)
    config.augment, config.ema_decay = "affine()", 0.99
    config.curriculum = "hardest(share=0.3, after=60)"
    _, network, at_once, _ = results_lib.introduction(config, dataset, fast, 3, 1.0)
    assert network.endswith("3,274,634 parameters, convolutions as matrix products")
    assert at_once.endswith(
        ", 3 seeds at once, augmented by affine(), curriculum hardest(share=0.3, after=60); "
        "evaluated with the parameters' average (0.99)"
    )
    other = CNN(conv_pool=cpu_layers.conv_pool, kernel_size=4)
    assert results_lib.introduction(config, dataset, other, 1, 1.0)[1].endswith("plain layers")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of a CPU")
def test_a_run_says_that_it_is_not_computed_in_bfloat16():
    config = get_config()
    config.dtype = "bfloat16"
    dataset = Dataset(describe(get_config()), [split(6_000), split(100)])
    *_, told = results_lib.introduction(config, dataset, CNN(), 1, 1.0)
    assert told.startswith("dtype=bfloat16: all is computed in float32.")
    _, network, _, device = results_lib.introduction(config, dataset, CNN(dtype="bfloat16"), 1, 1.0)
    assert network.endswith("plain layers in bfloat16")
    assert device.startswith("device: ")


def test_a_model_no_better_than_guessing_learned_nothing():
    config = get_config()
    labels = np.repeat(np.arange(10), 20)
    for loss, accuracy, told in [(2.3, 0.11, True), (2.2, 0.11, False), (3.0, 0.6, False)]:
        metrics = {"loss": loss, "accuracy": accuracy}
        assert bool(results_lib.learned_nothing(metrics, labels, config)) is told
    rare = np.repeat([0, 1], [190, 10])  # To say 0 always is right in 95 %, at a loss of 0.199.
    assert results_lib.learned_nothing({"loss": 0.2, "accuracy": 0.95}, rare, config)
    one = np.zeros(20, int)  # A split of one class cannot tell.
    assert not results_lib.learned_nothing({"loss": 0.9, "accuracy": 1.0}, one, config)


def test_the_last_line_has_an_interval():
    results = {"dataset": {"name": "mnist", "num_examples": {"test": 10_000}}, "step": 600}
    results |= {"test": {"accuracy": 0.99, "loss": 0.03}, "seconds": {"total": 28.4, "train": 90}}
    line = results_lib.summary(results, "test", "DIR")
    assert line.startswith(
        "done: mnist test accuracy 0.9900 (95 % interval 0.9879 to 0.9918), loss 0.0300 after 600 "
        "steps in 28 s; results.json, "
    )
    continued = results | {"starts": [{"step": 0}, {"step": 300}]}
    assert "in 28 s (90 s of training in all); " in results_lib.summary(continued, "test", "DIR")


def test_the_last_line_of_several_seeds_has_the_mean_and_each():
    """The interval is Student's, of two degrees of freedom: 4.303 standard errors."""
    spread = {"mean": 0.98, "std": 0.01, "each": [0.97, 0.98, 0.99]}
    results = {"dataset": {"name": "mnist"}, "seeds": [0, 1, 2], "step": 600}
    results |= {"test": {"accuracy": spread, "loss": spread}, "seconds": {"total": 60.0}}
    line = results_lib.summary(results, "test", "DIR")
    half = 4.303 * 0.01 / 3**0.5
    interval = f"95 % interval of the mean {0.98 - half:.4f} to 1.0000"
    assert f"accuracy 0.9800 ± 0.0100 ({interval}; 0.9700, 0.9800, 0.9900), loss" in line


def test_wilson_s_interval():
    """Against the roots of (p - q)**2 = z**2 * q * (1 - q) / n."""
    low, high = results_lib.wilson_interval(np.array(0.9), np.array(50))
    z = 1.959964
    for q in (low, high):
        assert (0.9 - q) ** 2 == pytest.approx(z**2 * q * (1 - q) / 50, rel=1e-5)
    assert low < 0.9 < high
