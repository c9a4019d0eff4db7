"""Processes meet at a port before JAX starts there, to say in a sentence who did not come."""

import contextlib
import os
import socket
import time

from jaxmnist.errors import UserError


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


def _readline(caller: socket.socket) -> str:
    return caller.makefile(encoding="utf-8", errors="replace").readline()


def _receive(port: int, num_processes: int, deadline: float, timeout: float) -> None:
    try:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        server = socket.create_server(
            ("", port), family=family, dualstack_ipv6=both, backlog=num_processes
        )
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
                count, process_id = map(int, _readline(caller).split())
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
                answer = _readline(caller).strip()
            if answer == "come":
                return
            if answer:
                raise UserError(answer)
        except OSError as e:
            reason = e.strerror or str(e)
        time.sleep(0.1)
    raise TimeoutError(reason)
