"""What is recorded of the machine: its device, its processor, versions and options."""

import os
import subprocess
import sys
import time

import jax

from jaxmnist.devices import machine


def test_description():
    found = machine.describe()
    assert found["platform"] == jax.default_backend()
    assert found["count"] == jax.device_count()
    assert found["processor"]
    assert 1 <= found["threads"] <= (os.cpu_count() or 1)


def test_the_threads_of_a_processor():
    one, two = ({"processor": "P", "threads": n} for n in (1, 2))
    assert machine.processor_and_threads(one) == "P, 1 thread"
    assert machine.processor_and_threads(two) == "P, 2 threads"


def test_versions_are_those_that_run():
    found = machine.versions()
    assert found["jax"] == jax.__version__
    assert "tensorflow" not in found


def test_process_figures():
    assert 0 < machine.process_seconds() < 86_400
    assert machine.peak_memory_bytes() > 50 * 2**20


def test_options_that_change_numbers_are_recorded(monkeypatch):
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        monkeypatch.delenv(name, raising=False)
    assert machine.options() == {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    with jax.default_matmul_precision("highest"), jax.enable_x64(True), jax.disable_jit():
        assert machine.options() == {
            "jax_default_matmul_precision": "highest",
            "jax_disable_jit": True,
            "jax_enable_x64": True,
            "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
        }


def test_a_process_is_no_older_than_it_is():
    """Nor than its parent's question, but for the kernel's tick."""
    program = "from jaxmnist.devices import machine; print(machine.process_seconds())"
    start = time.monotonic()
    told = float(subprocess.check_output([sys.executable, "-c", program]))
    assert 0 < told < time.monotonic() - start + 0.05
