"""The device that JAX found: how to compile for it, and how to describe it."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path

import jax
import platformdirs
import psutil

from jaxmnist import __version__
from jaxmnist.errors import UserError, first_line

# Since 0.10.2 jaxlib gives convolutions to YNNPACK, which uses one core for them. This keeps it
# for matrix products alone: on the plain layers a step takes 75 ms instead of 99 on two cores. On
# cpu_layers, all products, it gains nothing, but keeps a young library to what we test.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}

# JAX's options that can change results, with JAX's defaults; and variables that can.
_OPTIONS = {
    "jax_allow_f16_reductions": True,
    "jax_default_matmul_precision": None,
    "jax_default_prng_impl": "threefry2x32",
    "jax_disable_jit": False,
    "jax_disable_most_optimizations": False,
    "jax_enable_custom_prng": False,
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_optimization_level": "UNKNOWN",
    "jax_random_seed_offset": 0,
    "jax_threefry_gpu_kernel_lowering": False,
    "jax_threefry_partitionable": True,
}
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")


def check() -> None:
    """Raises UserError if JAX finds no device of the kind that it is told to use."""
    platforms = jax.config.values["jax_platforms"]
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as e:
        if not platforms:
            raise
        reason = f" ({first_line(e)})" if str(e) else ""
        raise UserError(
            f"JAX finds no device for JAX_PLATFORMS={platforms}{reason}: install what it needs, as "
            "in 'jaxmnist[cuda]', or leave that variable out."
        ) from e


@functools.cache
def compiler_options() -> dict[str, str]:
    """What to pass as jax.jit's `compiler_options` on the default device."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError as e:
        if "No such compile option" not in str(e):
            raise
        return {}
    return _CPU_OPTIONS


def keep_freed_memory() -> None:
    """Keeps freed memory in the process, where the C library is glibc, which can be told to.

    A step allocates and frees 50 MB, which it would hand back to the kernel and fault in again
    page by page: about 15 ms a step on two cores.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_max = -1, -4  # glibc's M_TRIM_THRESHOLD and M_MMAP_MAX.
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(mmap_max, 0)


def cache_compilations() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was told where to.

    One folder a processor: what was compiled for another may not run on this one.
    """
    check()
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    instructions = hashlib.sha256((_cpuinfo("flags|Features") or "").encode()).hexdigest()[:8]
    kind = re.sub(r"\W+", "-", f"{jax.default_backend()} {_processor()} {instructions}")
    # Without a cache everything still works: RuntimeError, or "~", where there is no home.
    with contextlib.suppress(OSError, RuntimeError):
        folder = Path(platformdirs.user_cache_dir("jaxmnist")) / "compiled" / kind
        if not folder.is_absolute():
            return
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def describe() -> dict[str, str | int]:
    """The device, as results.json records it: platform, kind, count, processor, threads."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
        "processes": jax.process_count(),
        "processor": _processor(),
        "threads": num_threads(),
    }


def options() -> dict[str, bool | int | str | None]:
    """What can change a result and is not as JAX has it by default: options, and variables."""
    found = {name: jax.config.values.get(name, default) for name, default in _OPTIONS.items()}
    return {
        **{name: value for name, value in found.items() if value != _OPTIONS[name]},
        **{name: os.environ[name] for name in _VARIABLES if os.environ.get(name)},
    }


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
    """The command of ours that this process is, as it was typed; None in any other program."""
    script, args = Path(sys.argv[0]), sys.argv[1:]
    if script.parent == Path(__file__).parent:
        module = "jaxmnist" if script.stem == "__main__" else f"jaxmnist.{script.stem}"
        return shlex.join(["python", "-m", module, *args])
    return shlex.join(["jaxmnist", *args]) if script.stem == "jaxmnist" else None


def process_seconds() -> float:
    """Seconds since this process was started."""
    return time.time() - psutil.Process().create_time()


def peak_memory_bytes() -> int | None:
    """The most memory that this process has had resident; None where the system cannot tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(name: str) -> str | None:
    """What Linux says of the first core."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(rf"^(?:{name})\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else None
