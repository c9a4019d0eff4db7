"""What makes runs faster on a device: XLA's options, kept memory, and kept compiled programs."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
from pathlib import Path

import jax
import platformdirs

from jaxmnist.devices import machine
from jaxmnist.errors import UserError, first_line

# Since 0.10.2 jaxlib gives convolutions to YNNPACK, which uses one core for them. With this option
# YNNPACK gets matrix products only: a step of the plain layers takes 75 ms instead of 99 on two
# cores. cpu_layers, which is all products, gains nothing from it.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


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
        jax.jit(lambda: 0, compiler_options=CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError as e:
        if "No such compile option" not in str(e):
            raise
        return {}
    return CPU_OPTIONS


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
