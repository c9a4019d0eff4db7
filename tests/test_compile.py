"""What is compiled is what is called: once for each network, optimizer, layout and batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmnist import models
from jaxmnist.compile import compiled_steps, data_keys
from jaxmnist.config import get_config
from jaxmnist.data.datasets import describe
from jaxmnist.data.input_pipeline import ShuffledBatches
from jaxmnist.devices import cpu_layers
from jaxmnist.record.network import fingerprint
from jaxmnist.train_step import create_train_state, split_seed, train_step

INFO = describe(get_config())


def test_the_compiled_step_is_train_step(config, batch, layout):
    steps = compiled_steps(config, INFO, layout)
    expected = jax.jit(train_step)(steps.init([3]), batch)
    found = steps.train_step(20)(steps.init([3]), batch)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_first_state_is_that_of_the_config(config, layout):
    config.seed = 4
    found, expected = compiled_steps(config, INFO, layout).init([4]), create_train_state(config)
    for name in ("Conv_0", "Dense_1"):
        kernels = (state.params[name]["kernel"] for state in (found, expected))
        np.testing.assert_allclose(*kernels, rtol=1e-6)
    assert (found.dropout_key == expected.dropout_key).all()


def test_a_donated_state_is_not_used_again(config, batch, layout):
    steps = compiled_steps(config, INFO, layout)
    state = steps.init([0])
    kernel = state.params["Dense_0"]["kernel"]
    new, _ = steps.train_step(20)(state, batch)
    assert kernel.is_deleted()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(kernel)


def test_equal_configs_share_their_programs(config, layout):
    steps = compiled_steps(config, INFO, layout)
    other = config.copy_and_resolve_references()
    other.seed, other.log_every = 5, 1
    assert compiled_steps(other, INFO, layout) is steps
    assert steps.train_step(20) is steps.train_step(20)
    other.learning_rate = 0.06
    assert compiled_steps(other, INFO, layout) is not steps


def test_what_fails_on_the_other_thread_fails_here(config, layout):
    def fail():
        raise ValueError("no room")

    steps = compiled_steps(config, INFO, layout)
    with pytest.raises(ValueError, match="no room"):
        steps.compile_at_once((20, 1), fail)
    called = []
    steps.compile_at_once((20, 1), lambda: called.append(steps.eval_step(20)))
    assert called == [steps.eval_step(20)]


def test_another_batch_is_refused_and_not_compiled(config, batch, layout):
    """So a second compilation in the loop cannot pass unnoticed."""
    steps = compiled_steps(config, INFO, layout)
    smaller = jax.tree.map(lambda x: x[:7], batch)
    with pytest.raises(TypeError, match="compiled with"):
        steps.train_step(20)(steps.init([0]), smaller)


def test_layers_are_chosen_by_platform(config, layout, monkeypatch):
    """For the same parameters, bit for bit."""
    states = {}
    wanted = {"cpu": cpu_layers.conv_pool, "gpu": models.conv_pool, "tpu": models.conv_pool}
    for platform, conv_pool in wanted.items():
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        states[platform] = compiled_steps(config, INFO, layout).init([0])
        assert states[platform].model.conv_pool is conv_pool
    assert len({fingerprint(state.params) for state in states.values()}) == 1


def test_the_keys_of_the_data(sample, layout):
    """The key is drawn from the seed, and the batches from the key."""
    keys = [data_keys([seed], layout) for seed in (0, 1)]
    assert (keys[0] == split_seed(0)["data"]).all()
    first, second = (ShuffledBatches(sample[0], key, 20, layout)(0) for key in keys)
    assert (first["label"] != second["label"]).any()


def test_where_nothing_may_be_compiled_the_functions_are_called(config, batch, layout):
    """As with JAX_DISABLE_JIT=1, to step through them: slowly, and with the same numbers."""
    config.learning_rate = 0.03  # No other test has compiled this.
    expected = jax.jit(train_step)(create_train_state(config), batch)[1]
    with jax.disable_jit():
        steps = compiled_steps(config, INFO, layout)
        state, metrics = steps.train_step(20)(steps.init([0]), batch)
        sums, _ = steps.eval_step(20)(state, batch | {"mask": jnp.ones(20, bool)})
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    assert np.isfinite(sums["loss"])
