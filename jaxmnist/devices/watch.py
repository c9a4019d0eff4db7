"""Which processes of a run have ended: one that is slow has not, however long it says nothing."""

import contextlib
import secrets
import selectors
import socket
import threading
from collections.abc import Callable, Sequence

from jaxmnist.devices import rendezvous

# Time for the others to end by themselves: where all fail alike, each says why.
GRACE_SECONDS = 10
# A machine answers for its processes, also where they are stopped; one that does not is gone.
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_DONE = b"d"


class Desk:
    """Where the others call process 0.

    Attributes:
      name: the port, and a secret that tells a caller from a stranger.
    """

    def __init__(self):
        self._server = rendezvous.listen(0, backlog=4096)
        self._secret = secrets.token_hex(16)
        self.name = f"{self._server.getsockname()[1]} {self._secret}"

    def accept(self, count: int) -> list[socket.socket]:
        """The connections of `count` processes, which have called already."""
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
    """A thread that notices when another process ends before it has said that it is done.

    The kernel closes a process' connections when it ends, at once and whatever the load.

    Args:
      others: a connection to each of the other processes.
      lost: called GRACE_SECONDS after one of them was lost.
    """

    def __init__(self, others: Sequence[socket.socket], lost: Callable[[], None]):
        self._others, self._lost = others, lost
        self._ignores = threading.Event()
        for other in others:
            other.settimeout(None)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE.items():
                if hasattr(socket, name):
                    other.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def done(self) -> None:
        """Tells the others that this process has done its part, and may end."""
        for other in self._others:
            with contextlib.suppress(OSError):
                other.sendall(_DONE)

    def ignore(self) -> None:
        """From now on `lost` is not called, since this process is about to end itself."""
        self._ignores.set()

    def wait(self, seconds: int) -> bool:
        """Waits until all others have ended or are done; returns whether they have."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

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
                        timer = threading.Timer(GRACE_SECONDS, self._tell)
                        timer.daemon = True
                        timer.start()

    def _tell(self) -> None:
        if not self._ignores.is_set():
            self._lost()
