from __future__ import annotations

import gc
import random
import socket
from contextlib import closing, suppress

import pytest

from kingbus_node.demo import ports
from kingbus_node.demo.ports import NoFreePort, ReservedPort


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> range:
    """Only the ports of a short range may be reserved.

    It is where nobody looks for a free port: neither the system, for who binds to port 0 or connects, nor those who
    reserve one elsewhere.
    """
    for first in random.sample(range(5_000, ports._RANGE.start), 1_000):
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", first))
            break
    else:
        pytest.fail("a thousand ports are taken")
    found = range(first, first + 1)
    monkeypatch.setattr(ports, "_RANGE", found)
    return found


def test_a_reserved_port_is_not_reserved_again_until_it_is_let_go(few: range) -> None:
    reserved = ReservedPort()
    assert reserved.number == few[0]
    with pytest.raises(NoFreePort, match="end some of the programs"):
        ReservedPort()
    del reserved
    gc.collect()
    assert ReservedPort().number == few[0]


def test_a_port_that_somebody_listens_on_is_not_reserved(few: range) -> None:
    with socket.create_server(("127.0.0.1", few[0])), pytest.raises(NoFreePort):
        ReservedPort()


def test_a_server_listens_on_a_reserved_port_again_and_again() -> None:
    reserved = ReservedPort()
    address = "127.0.0.1", reserved.number
    for _ in range(2):
        with socket.create_server(address) as server, socket.create_connection(address) as client:
            accepted, _ = server.accept()
            with accepted:
                accepted.sendall(b"x")
            assert client.recv(1) == b"x"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
