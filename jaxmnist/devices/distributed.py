"""Several processes that train as one: how they speak, and end when one of them is lost."""

import contextlib
import functools
import hashlib
import os
import pickle
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax._src import distributed as jax_distributed  # Its state has no public name.
from jax.experimental import multihost_utils

from jaxmnist.devices import rendezvous, watch
from jaxmnist.errors import STDERR, STDOUT, UserError, at_end, first_line, warn

T = TypeVar("T")

# JAX takes a process for lost after that many seconds of silence. A slow one may be silent for
# long; that a process has ended, `watch.Watch` notices at once.
_SILENT_SECONDS = 1800
_LOST = (
    "another process of this run ended or cannot be reached any more: its own output says why. "
    "The same command, started again on all, resumes the run"
)
_LAUNCHERS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX")
_watches: list[watch.Watch] = []  # One, once this process has met the others.
_ALONE = "--num_processes=1 lets each process train by itself"


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = 300.0,
) -> None:
    """Makes this process one of several, before JAX looks for devices.

    Without the first three arguments JAX asks SLURM, Open MPI, Kubernetes or Cloud TPU for them;
    where there is none of these, this process is alone.

    Args:
      coordinator: the "HOST:PORT" of process 0.
      num_processes: how many there are; 1 is this one alone, whatever launched it.
      process_id: which this is, from 0.
      timeout: seconds to wait for the others.

    Raises:
      UserError: the others are not found, or flags are wrong.
    """
    told = (coordinator, num_processes, process_id) != (None, None, None)
    if num_processes == 1 or (not told and _is_alone()):
        return
    if told:
        if coordinator is None or num_processes is None or process_id is None:
            raise UserError("--coordinator, --num_processes and --process_id belong together.")
        rendezvous.check(coordinator, num_processes, process_id)
        rendezvous.meet(coordinator, num_processes, process_id, timeout)
    # We handle signals ourselves: see hooks.Stop.
    jax.config.update("jax_enable_preemption_service", False)
    launched = told or any(name in os.environ for name in _LAUNCHERS)
    if launched:
        _if_aborted(f"the other processes did not come within {timeout:g} s; {_ALONE}.")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=round(timeout),
            heartbeat_timeout_seconds=_SILENT_SECONDS,
            shutdown_timeout_seconds=_SILENT_SECONDS,
        )
    except (ValueError, RuntimeError) as e:
        if launched:
            _if_aborted("")
        _check_that_alone(e, launched)
        return
    at_end.append(leave)
    _if_aborted(f"{_LOST}." if jax.process_count() > 1 else "")
    with explained():
        _hold_together(timeout)


def _hold_together(timeout: float) -> None:
    """Has each process notice when process 0 ends, and process 0 when any does."""
    count, state = jax.process_count(), jax_distributed.global_state
    if count == 1 or state.client is None:
        return
    if is_first():
        desk = watch.Desk()
        state.client.key_value_set("jaxmnist/desk", desk.name)
    else:
        name = state.client.blocking_key_value_get("jaxmnist/desk", round(timeout * 1000))
        host = (state.coordinator_address or "").rpartition(":")[0].strip("[]")
        try:
            others = [watch.call(host, name)]
        except OSError as e:
            raise UserError(
                f"process 0 cannot be reached at port {name.split()[0]} of {host} "
                f"({e.strerror or e}): processes speak to each other at any free port."
            ) from None
    state.client.wait_at_barrier("jaxmnist/met", round(timeout * 1000))
    if is_first():
        others = desk.accept(count - 1)
    _watches.append(watch.Watch(others, _end))
    largest(0)  # Now that all are here: on CPUs the first of JAX's collectives waits for 30 s.


def _end() -> None:
    """Ends this process, since another one has ended."""
    _if_aborted("")
    warn(f"error: {_LOST}.")
    STDOUT.flush()
    os._exit(1)


def _check_that_alone(e: Exception, launched: bool) -> None:
    """Raises UserError unless the error of JAX's search only means that this process is alone."""
    if isinstance(e, RuntimeError):
        if not launched and "before any JAX calls" in str(e):
            return  # A Python program that has computed already.
        reason = " ".join(f"{e} {e.__cause__ or ''}".split())
        raise UserError(f"the other processes cannot be found ({reason}); {_ALONE}.") from e
    if "coordinator_address" not in str(e):
        raise e
    if "OMPI_COMM_WORLD_RANK" in os.environ or "JOB_COMPLETION_INDEX" in os.environ:
        raise UserError(
            "this process was launched as one of several, but JAX cannot find the others: on "
            "Kubernetes install 'jaxmnist[k8s]', elsewhere pass --coordinator, --num_processes "
            f"and --process_id; {_ALONE}."
        ) from None


def _is_alone() -> bool:
    """Whether this process was launched as the only one, which JAX would not see."""
    env = os.environ
    if "1" in (env.get("SLURM_NTASKS"), env.get("OMPI_COMM_WORLD_SIZE")):
        return True  # JAX would give it one of its host's devices.
    return "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" not in env


@functools.cache
def _successor() -> subprocess.Popen:
    """A process that prints, when this one has ended, the last line that it was given."""
    script = 'while read -r line; do last=$line; done; [ -z "$last" ] || echo "error: $last" >&2'
    return subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )


def _if_aborted(words: str) -> None:
    """Sets what is said if JAX aborts this process, as it does when another one is lost."""
    with contextlib.suppress(OSError, ValueError):  # It may be closed.
        print(words, file=_successor().stdin, flush=True)


def leave(status: int, words: str = "") -> None:
    """Ends this process' part in the run, at its end.

    A process that failed says `words` and exits at once: the others notice, and end too.
    """
    if not jax.distributed.is_initialized():
        return
    try:
        for each in _watches:
            if status:
                each.ignore()
            else:
                each.done()
        _if_aborted("")
        with contextlib.suppress(OSError):
            _successor().communicate()
        if status:
            if threading.current_thread() is threading.main_thread():
                # A launcher repeats its signal to those that are left.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print(words, end="", file=STDERR, flush=True)
            STDOUT.flush()
            for each in _watches if is_first() else []:
                each.wait(watch.GRACE_SECONDS)  # JAX aborts them when process 0 ends.
    finally:
        if status:
            os._exit(status)


def is_first() -> bool:
    """Whether this is the one process that writes and prints."""
    return jax.process_index() == 0


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns in process 0, or the UserError that it raises there, in all."""
    if jax.process_count() == 1:
        return make()
    data = np.zeros(0, np.uint8)
    if is_first():
        try:
            made: tuple[T | None, UserError | None] = (make(), None)
        except UserError as e:
            made = (None, e)
        data = np.frombuffer(pickle.dumps(made), np.uint8)
    # For a transfer guard only jax.device_put is explicit; this is asked for too.
    with jax.transfer_guard("allow"):
        size = int(multihost_utils.broadcast_one_to_all(np.uint32(len(data))))
        if not is_first():
            data = np.zeros(size, np.uint8)
        value, error = pickle.loads(multihost_utils.broadcast_one_to_all(data).tobytes())
    if error is not None:
        raise error
    return value


def largest(value: int) -> int:
    """The largest of the processes' values, in each of them."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.int32(value)).max())


def check_same(text: str, what: str) -> None:
    """Raises UserError, in all processes, unless all have the same text."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    digests = multihost_utils.process_allgather(digest)
    others = [str(i) for i, other in enumerate(digests) if (other != digests[0]).any()]
    if others:
        raise UserError(
            f"{what} of process {', '.join(others)} is not that of process 0: give all the same "
            f"flags and files; {_ALONE}."
        )


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns what JAX raises when another process is lost into a UserError."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as e:
        # What XLA raises begins with a status; some of it comes as ValueError.
        if jax.process_count() == 1 or not re.match("[A-Z_]+: ", str(e)):
            raise
        raise UserError(f"{_LOST} (JAX says: {first_line(e)[:200]}).") from e
