"""Processes meet at a port, or are told who did not come."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxmnist.devices import rendezvous
from jaxmnist.errors import UserError
from tests.devices.test_distributed import free_port


def test_all_go_on_once_all_are_there():
    address = f"localhost:{free_port()}"
    with ThreadPoolExecutor() as pool:
        meetings = [pool.submit(rendezvous.meet, address, 3, i, 60.0) for i in range(3)]
        assert [each.exception() for each in meetings] == [None] * 3


def test_who_does_not_come_is_named():
    with pytest.raises(UserError, match=r"of 3 processes, these did not come within 1 s: 1, 2\."):
        rendezvous.meet(f"localhost:{free_port()}", 3, 0, 1.0)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("localhost", 2, 0), "--coordinator=localhost is no HOST:PORT"),
        (("localhost:65536", 2, 0), "--coordinator=localhost:65536 is no HOST:PORT"),
        (("localhost:1", 0, 0), "--num_processes=0 is not allowed: it must be at least 1"),
        (("localhost:1", 2, -1), "--process_id=-1 is not allowed: it must be 0 to 1"),
    ],
)
def test_flags_that_cannot_be(flags, sentence):
    with pytest.raises(UserError, match=sentence):
        rendezvous.check(*flags)


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=r"port \d+ cannot be opened \(Address already in use"):
            rendezvous.meet(address, 2, 0, 1.0)


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ([(3, 1), (3, 1)], "two processes have --process_id=1."),
        ([(2, 1)], "--num_processes=2 in one process, 3 in another."),
    ],
)
def test_two_processes_of_one_number_and_two_numbers_of_processes(others, sentence):
    address = f"localhost:{free_port()}"
    with ThreadPoolExecutor() as pool:
        all_three = [(3, 0), *others]
        meetings = [pool.submit(rendezvous.meet, address, *each, 60.0) for each in all_three]
        assert [str(each.exception()) for each in meetings] == [sentence] * len(meetings)
