"""Which processes of a run have ended: a slow one has not, however long it says nothing."""

import contextlib
import secrets
import selectors
import socket
import threading
from collections.abc import Callable, Sequence

# Time for the others to end by themselves: where all fail alike, each says why.
GRACE_SECONDS = 10
# A machine answers for its processes, also where they are stopped; one that does not is gone.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_DONE = b"d"


class Desk:
    """Where the others call process 0.

    Attributes:
      name: the port, and a secret that tells a caller from a stranger.
    """

    def __init__(self):
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._server = socket.create_server(
            ("", 0), family=family, dualstack_ipv6=both, backlog=4096
        )
        self._secret = secrets.token_hex(16)
        self.name = f"{self._server.getsockname()[1]} {self._secret}"

    def accept(self, count: int) -> list[socket.socket]:
        """The connections of as many as have called already."""
        found: list[socket.socket] = []
        with self._server:
            while len(found) < count:
                caller = self._server.accept()[0]
                caller.settimeout(1)  # Ours has sent all that it has to send.
                said = b""
                with contextlib.suppress(OSError):
                    said = caller.recv(len(self._secret), socket.MSG_WAITALL)
                if secrets.compare_digest(said, self._secret.encode()):
                    found.append(caller)
                else:
                    caller.close()
        return found


def call(host: str, name: str) -> socket.socket:
    """A connection to process 0's desk; raises OSError."""
    port, secret = name.split()
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(secret.encode())
    return connection


class Watch:
    """Calls `lost` some seconds after one of the others has ended without `done`, in a thread.

    The kernel closes a process' connections when it ends, at once and whatever the load.

    Args:
      others: a connection to each.
      lost: what to do then.
    """

    def __init__(self, others: Sequence[socket.socket], lost: Callable[[], None]):
        self._others, self._lost = others, lost
        for other in others:
            other.settimeout(None)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                if hasattr(socket, name):
                    other.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def done(self) -> None:
        """Tells the others that this process has done its part, and may end."""
        for other in self._others:
            with contextlib.suppress(OSError):
                other.sendall(_DONE)

    def wait(self) -> None:
        """Returns once all others have ended or are done, or after GRACE_SECONDS."""
        self._thread.join(GRACE_SECONDS)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for other in self._others:
                selector.register(other, selectors.EVENT_READ, other)
            while selector.get_map():
                for key, _ in selector.select():
                    selector.unregister(key.fileobj)
                    said = b""
                    with contextlib.suppress(OSError):
                        said = key.data.recv(1)
                    if said != _DONE:
                        timer = threading.Timer(GRACE_SECONDS, self._lost)
                        timer.daemon = True
                        timer.start()
