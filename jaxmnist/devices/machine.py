"""What a run is computed with, for its record: device, processor, versions and options."""

import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import jax
import psutil

from jaxmnist import __version__

# JAX's options that can change results, with JAX's defaults; and variables that can.
_OPTIONS = {
    "jax_allow_f16_reductions": True,
    "jax_default_matmul_precision": None,
    "jax_default_prng_impl": "threefry2x32",
    "jax_disable_jit": False,
    "jax_disable_most_optimizations": False,
    "jax_enable_custom_prng": False,
    "jax_enable_x64": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_random_seed_offset": 0,
    "jax_threefry_gpu_kernel_lowering": False,
    "jax_threefry_partitionable": True,
}
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")


def describe() -> dict[str, str | int]:
    """The device, as results.json records it: platform, kind, count, processor, threads."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
        "processes": jax.process_count(),
        "processor": processor(),
        "threads": num_threads(),
    }


def processor_and_threads(device: Mapping[str, str | int]) -> str:
    """The processor of what describe() returned, such as "AMD EPYC, 2 threads"."""
    threads = device["threads"]
    return f"{device['processor']}, {threads} thread{'s' * (threads != 1)}"


def options() -> dict[str, bool | int | str | None]:
    """What can change a result: JAX's options that are not at their defaults, and variables."""
    found = {name: jax.config.values.get(name, default) for name, default in _OPTIONS.items()}
    return {
        **{name: value for name, value in found.items() if value != _OPTIONS[name]},
        **{name: os.environ[name] for name in _VARIABLES if os.environ.get(name)},
    }


def has_bfloat16_units() -> bool:
    """Whether the processor multiplies matrices in bfloat16 by itself, as Intel's AMX does.

    AVX512-BF16 alone is not counted. At best it doubles the rate of a product; the convolution
    theorem, by which float32 is computed, saves more. That was not measured.
    """
    return "amx_bf16" in (cpuinfo("flags") or "").split()


def num_threads() -> int:
    """The number of threads that XLA's CPU backend computes on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """The versions that can change a result."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")
    return {
        "jaxmnist": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def command_line() -> str | None:
    """The command line of this process, if it is one of our commands; None in other programs."""
    script, args = Path(sys.argv[0]), sys.argv[1:]
    if script.parent == Path(__file__).parents[1]:
        module = "jaxmnist" if script.stem == "__main__" else f"jaxmnist.{script.stem}"
        return shlex.join(["python", "-m", module, *args])
    return shlex.join(["jaxmnist", *args]) if script.stem == "jaxmnist" else None


def process_seconds() -> float:
    """Seconds since this process was started."""
    try:  # psutil knows when Linux was started only to the second, and by a clock that is set.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
        started = int(fields.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError):
        return time.time() - psutil.Process().create_time()


def peak_memory_bytes() -> int | None:
    """The most memory that this process has had resident; None where the system cannot tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor() -> str:
    """The processor's name, such as "AMD EPYC"."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def cpuinfo(name: str) -> str | None:
    """A field of the first core in Linux's /proc/cpuinfo; None elsewhere.

    Args:
      name: the field, as a regular expression.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(rf"^(?:{name})\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else None
