"""A process that ended is noticed, and one that says nothing is not taken for such."""

import signal
import socket
import subprocess
import sys
import threading

import pytest

from jaxmnist.devices import watch

CALL = """
import sys
from jaxmnist.devices import watch
connection = watch.call(*sys.argv[1:])
sys.stdin.read()
"""


class Watched(watch.Watch):
    """A watch on the process at the other end of a connection, which remembers its loss."""

    def __init__(self, other):
        self.has_lost = threading.Event()
        super().__init__([other], self.has_lost.set)


@pytest.fixture
def desk():
    """A desk at which a stranger calls first."""
    desk = watch.Desk()
    with socket.create_connection(("localhost", int(desk.name.split()[0]))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n")
        yield desk


@pytest.fixture
def ends(desk):
    """The connection of process 0 and of another: its two ends."""
    with watch.call("localhost", desk.name) as other:
        (first,) = desk.accept(1)
        with first:
            yield first, other


def test_who_ends_is_lost(ends, monkeypatch):
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0)
    first = Watched(ends[0])
    ends[1].close()
    assert first.has_lost.wait(60)


def test_who_is_done_and_ends_is_not_lost(ends):
    first, second = map(Watched, ends)
    first.done()
    assert second.wait(60)
    assert not first.wait(0)
    second.done()
    ends[1].close()
    assert first.wait(60)


def test_who_fails_itself_is_not_told_of_others(ends, monkeypatch):
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0)
    first = Watched(ends[0])
    first.ignore()
    ends[1].close()
    assert first.wait(60)
    assert not first.has_lost.wait(1)


def test_who_is_stopped_is_waited_for_and_who_is_killed_is_not(desk, monkeypatch):
    """The kernel answers for a process that does not run, many times as often as may be missed."""
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0)
    for name in watch.KEEPALIVE:
        monkeypatch.setitem(watch.KEEPALIVE, name, 1)
    command = [sys.executable, "-c", CALL, "localhost", desk.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        (connection,) = desk.accept(1)
        other.send_signal(signal.SIGSTOP)
        with connection:
            first = Watched(connection)
            assert not first.has_lost.wait(5)
            other.kill()
            assert first.has_lost.wait(60)
