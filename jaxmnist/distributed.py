"""Several processes that train as one: how they meet, speak, and end when one of them is lost."""

import contextlib
import functools
import hashlib
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmnist.errors import UserError

T = TypeVar("T")

_LOST_SECONDS = 30  # Without a sign of life for as long, a process counts as lost.
_LOST = (
    "another process of this run ended or cannot be reached any more: its own output says why. "
    "The same command, started again on all, resumes the run"
)
_LAUNCHERS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX")
_ALONE = "--num_processes=1 lets each process train by itself"


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = 300.0,
) -> None:
    """Makes this process one of several, before JAX looks for devices.

    Args:
      coordinator: "HOST:PORT" of process 0.
      num_processes: how many there are; 1 is this one alone, whatever launched it.
      process_id: which this is, from 0. Without these three, JAX finds out from SLURM, Open MPI,
        Kubernetes or Cloud TPU, and where there is none of them this process is alone.
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
        _check(coordinator, num_processes, process_id)
        _meet(coordinator, num_processes, process_id, timeout)
    # A signal is ours to handle: see hooks.Checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    launched = told or any(name in os.environ for name in _LAUNCHERS)
    if launched:
        _bequeath(f"the other processes did not come within {timeout:g} s; {_ALONE}.")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=round(timeout),
            heartbeat_timeout_seconds=_LOST_SECONDS,
        )
    except ValueError as e:
        if launched:
            _bequeath("")
        if "coordinator_address" not in str(e):
            raise
        if "OMPI_COMM_WORLD_RANK" in os.environ or "JOB_COMPLETION_INDEX" in os.environ:
            raise UserError(
                "this process was launched as one of several, but JAX cannot find the others: on "
                "Kubernetes install 'jaxmnist[k8s]', elsewhere pass --coordinator, "
                f"--num_processes and --process_id; {_ALONE}."
            ) from None
        return  # No cluster.
    except RuntimeError as e:
        if launched:
            _bequeath("")
        if not launched and "before any JAX calls" in str(e):
            return  # Of a Python program that has computed already, and so is alone.
        reason = " ".join(f"{e} {e.__cause__ or ''}".split())
        raise UserError(f"the other processes cannot be found ({reason}); {_ALONE}.") from e
    _bequeath(f"{_LOST}." if jax.process_count() > 1 else "")


def _is_alone() -> bool:
    """Whether what JAX would find is one process, or no job of several."""
    env = os.environ
    if "1" in (env.get("SLURM_NTASKS"), env.get("OMPI_COMM_WORLD_SIZE")):
        return True  # With all devices of its host, where JAX would take one.
    return "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" not in env


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"--coordinator={coordinator} is no HOST:PORT.")
    if num_processes < 1:
        raise UserError(f"--num_processes={num_processes} is not allowed: it must be at least 1.")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id} is not allowed: it must be 0 to {num_processes - 1}, "
            f"since --num_processes={num_processes}."
        )


def _meet(coordinator: str, num_processes: int, process_id: int, timeout: float) -> None:
    """Returns once all are there; JAX's own way of telling that they are not is to abort."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    try:
        if process_id == 0:
            _receive(int(port), num_processes, deadline, timeout)
        else:
            _call((host.strip("[]"), int(port)), f"{num_processes} {process_id}\n", deadline)
    except TimeoutError as e:
        raise UserError(
            f"nobody answers at --coordinator={coordinator} after {timeout:g} s ({e}): is process "
            "0 started, and is that its address?"
        ) from None


def _receive(port: int, num_processes: int, deadline: float, timeout: float) -> None:
    try:
        server = socket.create_server(("", port), backlog=num_processes)
    except OSError as e:
        raise UserError(
            f"--coordinator: port {port} cannot be opened ({os.strerror(e.errno or 0)})."
        ) from None
    there: dict[int, socket.socket] = {}
    with server, contextlib.ExitStack() as cleanup:
        answer = "come"
        while answer == "come" and len(there) < num_processes - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                caller = cleanup.enter_context(server.accept()[0])
            except TimeoutError:
                absent = sorted(set(range(1, num_processes)) - set(there))
                answer = (
                    f"of {num_processes} processes, these did not come within {timeout:g} s: "
                    f"{', '.join(map(str, absent))}."
                )
                continue
            try:
                caller.settimeout(2)
                count, process_id = map(int, caller.makefile().readline().split())
            except (OSError, ValueError):
                continue  # Not one of ours.
            if count != num_processes:
                answer = f"--num_processes={count} in one process, {num_processes} in another."
            elif process_id in there or process_id == 0:
                answer = f"two processes have --process_id={process_id}."
            there[-len(there) - 1 if answer != "come" else process_id] = caller
        for caller in there.values():
            with contextlib.suppress(OSError):
                caller.sendall(f"{answer}\n".encode())
    if answer != "come":
        raise UserError(answer)


def _call(address: tuple[str, int], who: str, deadline: float) -> None:
    reason = "no time"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=min(left, 2)) as caller:
                caller.sendall(who.encode())
                # Process 0 has its own deadline, and tells who is missing.
                caller.settimeout(left + 5)
                answer = caller.makefile().readline().strip()
            if answer == "come":
                return
            if answer:
                raise UserError(answer)
        except OSError as e:
            reason = e.strerror or str(e)
        time.sleep(0.1)
    raise TimeoutError(reason)


@functools.cache
def _heir() -> subprocess.Popen:
    """A process that repeats the last line that it got, unless it is empty, when we have ended."""
    script = 'while read -r line; do last=$line; done; [ -z "$last" ] || echo "error: $last" >&2'
    return subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, text=True, start_new_session=True
    )


def _bequeath(words: str) -> None:
    """What is to be said if JAX aborts this process, as it does where another one is lost."""
    with contextlib.suppress(OSError):
        print(words, file=_heir().stdin, flush=True)


def leave(status: int, words: str = "") -> None:
    """At the end of the process: one that failed does not wait for the others, who miss it."""
    if not jax.distributed.is_initialized():
        return
    try:
        _bequeath("")
        with contextlib.suppress(OSError):
            _heir().communicate()
        if status:
            # A launcher repeats its signal to those that are left.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print(words, end="", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            if is_first():
                time.sleep(1)  # Others that fail alike are to end by themselves: JAX aborts them.
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
        raise UserError(f"{_LOST} (JAX says: {str(e).splitlines()[0][:200]}).") from e
