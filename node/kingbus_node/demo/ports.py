"""Ports of loopback for servers that are yet to be started, and started again on the same port.

Whoever probes for a free port and closes the probe has lost it already when several test runs share a machine. So the
probe stays bound for as long as the port is wanted, without listening. On Linux a socket with SO_REUSEADDR may be bound
to a port, and listen on it, that other such sockets are bound to (socket(7), as long as none of them listens); one
without SO_REUSEADDR may not. Servers set it; a probe does only after it has bound.
"""

from __future__ import annotations

import os
import random
import socket
import weakref

__all__ = ["NoFreePort", "ReservedPort"]

_RANGE = range(10_000, 32_000)
_TRIES = 1_000


class NoFreePort(Exception):
    """Every port that was tried is taken."""


class ReservedPort:
    """A TCP port of 127.0.0.1, below the range of outgoing connections, that nobody else reserves while this lives."""

    def __init__(self) -> None:
        """NoFreePort when none is found."""
        for _ in range(_TRIES):
            number = random.choice(_RANGE)
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                probe.close()
                continue
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            weakref.finalize(self, os.close, probe.detach())
            self.number = number
            return
        raise NoFreePort(
            f"no free port between {_RANGE.start} and {_RANGE.stop - 1} on 127.0.0.1 in {_TRIES} tries: end some of "
            "the programs that listen there"
        )
