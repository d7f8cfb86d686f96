"""Connections to other nodes."""

from __future__ import annotations

import socket
import time

import pytest
from unit.source.sockets import without_ipv6

from kingbus_node.raft import handshake


def test_an_address_of_a_kind_that_the_kernel_lacks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        without_ipv6(monkeypatch, port)
        opened: list[socket.socket] = []
        with handshake.connect(f"node-2.example:{port}", time.monotonic() + 30, opened.append) as connection:
            assert connection.getpeername() == ("127.0.0.1", port)
        assert opened == [connection]
