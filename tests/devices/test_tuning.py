"""What is tuned for a device: each option is one that it knows, and helps."""

import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
import pytest

from jaxmnist.devices import tuning
from jaxmnist.errors import UserError


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a CPU's option")
def test_convolutions_leave_ynnpack_on_a_cpu():
    """One core would compute them; a JAX that lacks the option gets none."""
    options = tuning.compiler_options()
    if not options:
        with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
            jax.jit(lambda: 0, compiler_options=tuning.CPU_OPTIONS).lower().compile()
        return

    def convolve(x, kernel):
        return jax.lax.conv(x, kernel, (1, 1), "SAME")

    args = jnp.ones((8, 32, 14, 14)), jnp.ones((64, 32, 5, 5))
    compiled = jax.jit(convolve, compiler_options=options).lower(*args).compile()
    assert "__ynn_fusion" not in compiled.as_text()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting")
def test_freed_memory_is_kept():
    """Large arrays that come and go fault their pages in once, not each time."""
    program = """
import resource, sys, numpy as np
from jaxmnist.devices import tuning
if sys.argv[1] == "keep":
    tuning.keep_freed_memory()
np.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = [
        int(subprocess.check_output([sys.executable, "-c", program, mode])) for mode in ("", "keep")
    ]
    assert faults[1] < faults[0] / 5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting")
def test_freed_memory_that_was_kept_can_be_given_back():
    program = """
import psutil, numpy as np
from jaxmnist.devices import tuning
tuning.keep_freed_memory()
held = [np.ones(1000) for _ in range(20_000)]  # 160 MB, and below the last of it nothing is freed.
last = held.pop()
del held
before = psutil.Process().memory_info().rss
tuning.give_back_freed_memory()
print(before - psutil.Process().memory_info().rss)
"""
    assert int(subprocess.check_output([sys.executable, "-c", program])) > 100e6


def test_what_is_compiled_fast_has_the_same_bits():
    def draw(key):
        return jax.random.truncated_normal(key, -2, 2, (100, 100))

    def drawn(**options):
        return np.asarray(jax.jit(draw, **options)(jax.random.key(3))).tobytes()

    older = {"xla_backend_optimization_level": 0}
    assert drawn(compiler_options=tuning.options_to_compile_fast()) == drawn(compiler_options=older)


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (AssertionError(), "no device for JAX_PLATFORMS=cuda: install what it needs"),
        (RuntimeError("no libtpu\nmore"), r"JAX_PLATFORMS=cuda \(no libtpu\): install"),
    ],
)
def test_a_device_that_is_asked_for_and_not_there(raised, sentence, monkeypatch):
    def devices():
        raise raised

    monkeypatch.setattr(jax, "devices", devices)
    for asked, error, words in ((None, type(raised), None), ("cuda", UserError, sentence)):
        monkeypatch.setattr(type(jax.config), "values", {"jax_platforms": asked})
        with pytest.raises(error, match=words):
            tuning.check()


def test_where_nobody_is_at_home_nothing_is_cached(monkeypatch, tmp_path):
    def refuse(name):
        raise RuntimeError("could not determine the home directory")

    before = jax.config.values["jax_compilation_cache_dir"]
    monkeypatch.chdir(tmp_path)
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        for user_cache_dir in (refuse, lambda name: f"~/.cache/{name}"):  # Newer; older versions.
            monkeypatch.setattr(platformdirs, "user_cache_dir", user_cache_dir)
            tuning.cache_compilations()
            assert jax.config.values["jax_compilation_cache_dir"] is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert list(tmp_path.iterdir()) == []
