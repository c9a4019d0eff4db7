"""What makes runs faster on a device: XLA's options, kept memory, and kept compiled programs."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import platformdirs
from jax.typing import DTypeLike

from jaxmnist.devices import machine
from jaxmnist.errors import UserError, first_line

Options = dict[str, Any]

CPU_OPTIONS: Options = {
    # Since 0.10.2 jaxlib gives convolutions to YNNPACK, which uses one core for them. With this
    # option it gets matrix products only: a step of the plain layers takes 75 ms instead of 99 on
    # two cores. cpu_layers, which is all products, gains nothing from it.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
    # Without it the dense layer's kernel is copied, 13 MB, before it is updated in place.
    "xla_cpu_copy_insertion_use_region_analysis": True,
}
# Products in bfloat16 do not reach a processor's units for them with the first.
BFLOAT16_CPU_OPTIONS = {
    name: value for name, value in CPU_OPTIONS.items() if "fusion_type" not in name
}


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


def compiler_options(dtype: DTypeLike | None = None) -> Options:
    """What to pass as jax.jit's `compiler_options` on the default device.

    Args:
      dtype: the type of a network's products; None: float32.
    """
    if jax.default_backend() != "cpu":
        return {}
    is_bfloat16 = dtype is not None and jnp.dtype(dtype) == jnp.bfloat16
    return _known(tuple((BFLOAT16_CPU_OPTIONS if is_bfloat16 else CPU_OPTIONS).items()))


def options_to_compile_fast(level: int = 0) -> Options:
    """Likewise, for a program that runs once: it computes the same bits, and is slower.

    Args:
      level: how far XLA optimizes: 0 for what is done in no time, 1 for what takes a while.
    """
    options: Options = {"xla_backend_optimization_level": level}
    if jax.default_backend() == "cpu":
        # The older way to generate a CPU's code, in which it compiles in half the time.
        options |= _known((("xla_cpu_use_fusion_emitters", False),))
    return options


@functools.cache
def _known(options: tuple[tuple[str, Any], ...]) -> Options:
    """Those that this version of XLA has."""
    try:
        jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
    except jax.errors.JaxRuntimeError as e:
        if "No such compile option" not in str(e):
            raise
        if len(options) == 1:
            return {}
        return {name: value for one in options for name, value in _known((one,)).items()}
    return dict(options)


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


def give_back_freed_memory() -> None:
    """Gives what is freed, and kept until now, back to the kernel: once, where memory was needed.

    XLA's compiler leaves 100 MB.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def cache_compilations() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was told where to.

    Each kind of processor has a folder: what was compiled for one may not run on another.
    """
    check()
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    instructions = hashlib.sha256((machine.cpuinfo("flags|Features") or "").encode()).hexdigest()[
        :8
    ]
    kind = re.sub(r"\W+", "-", f"{jax.default_backend()} {machine.processor()} {instructions}")
    # Without a cache everything still works: RuntimeError, or "~", where there is no home.
    with contextlib.suppress(OSError, RuntimeError):
        folder = Path(platformdirs.user_cache_dir("jaxmnist")) / "compiled" / kind
        if not folder.is_absolute():
            return
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
