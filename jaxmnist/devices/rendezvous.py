"""Processes meet at a port before JAX starts there, to say in a sentence who did not come."""

import contextlib
import os
import socket
import time

from jaxmnist.errors import UserError

_COME = "come"  # The answer to all once all are there; any other answer is an error's message.


def listen(port: int, backlog: int) -> socket.socket:
    """A server at a port (0: any free one) of all addresses of this machine; raises OSError."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=backlog)


def check(coordinator: str, num_processes: int, process_id: int) -> None:
    """Raises UserError for flags that cannot be."""
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


def meet(coordinator: str, num_processes: int, process_id: int, timeout: float) -> None:
    """Returns once all processes are there, where JAX would abort those that wait in vain.

    Args:
      coordinator: the "HOST:PORT" of process 0, which listens there until all have called.
      num_processes: how many there are.
      process_id: which this is, from 0.
      timeout: seconds to wait for the others.

    Raises:
      UserError: some did not come, or have other flags.
    """
    deadline = time.monotonic() + timeout
    host, _, port = coordinator.rpartition(":")
    if process_id == 0:
        answer = _receive(int(port), num_processes, deadline, timeout)
    else:
        try:
            address = (host.strip("[]"), int(port))
            answer = _call(address, f"{num_processes} {process_id}\n", deadline)
        except TimeoutError as e:
            answer = (
                f"nobody answers at --coordinator={coordinator} after {timeout:g} s ({e}): is "
                "process 0 started, and is that its address?"
            )
    if answer != _COME:
        raise UserError(answer)


def _receive(port: int, num_processes: int, deadline: float, timeout: float) -> str:
    """Waits for the others to call; returns the answer that all of them got."""
    try:
        server = listen(port, num_processes)
    except OSError as e:
        return f"--coordinator: port {port} cannot be opened ({os.strerror(e.errno or 0)})."
    with server, contextlib.ExitStack() as cleanup:
        callers, met, answer = [], {0}, _COME
        while answer == _COME and len(met) < num_processes:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                caller = cleanup.enter_context(server.accept()[0])
            except TimeoutError:
                absent = ", ".join(str(i) for i in range(num_processes) if i not in met)
                answer = (
                    f"of {num_processes} processes, these did not come within {timeout:g} s: "
                    f"{absent}."
                )
                break
            try:
                caller.settimeout(2)
                count, process_id = map(int, _readline(caller).split())
            except (OSError, ValueError):
                continue  # Not one of ours.
            if count != num_processes:
                answer = f"--num_processes={count} in one process, {num_processes} in another."
            elif process_id in met:
                answer = f"two processes have --process_id={process_id}."
            callers.append(caller)
            met.add(process_id)
        for caller in callers:
            with contextlib.suppress(OSError):
                caller.sendall(f"{answer}\n".encode())
    return answer


def _call(address: tuple[str, int], who: str, deadline: float) -> str:
    """Process 0's answer; raises TimeoutError if there is none."""
    reason = "no time"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=min(left, 2)) as caller:
                caller.sendall(who.encode())
                # Process 0 has its own deadline, and tells who is missing.
                caller.settimeout(left + 5)
                if answer := _readline(caller).strip():
                    return answer
        except OSError as e:
            reason = e.strerror or str(e)
        time.sleep(0.1)
    raise TimeoutError(reason)


def _readline(caller: socket.socket) -> str:
    return caller.makefile(encoding="utf-8", errors="replace").readline()
