"""A local port that leads to whichever node leads, as the leader's Service does on Kubernetes.

A connection goes to the node that leads when it is made, and stays there until either end closes it: a node that does
not lead any more serves the same bytes, and one that died closes its connections by dying.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from kingbus_node.demo.waiting import Timeout, wait_until

__all__ = ["Forwarder"]

_BLOCK = 1 << 16
_PATIENCE = 15.0


class Forwarder:
    """Listens on ``port``; ``target`` gives the port of loopback to go to, None while there is none."""

    def __init__(self, target: Callable[[], int | None]) -> None:
        self._target = target
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="forwarder", daemon=True).start()

    def close(self) -> None:
        """Stop listening and cut what is open."""
        self._closing.set()
        _shut(self._listener)  # ends the blocked accept(), which close() alone would not
        self._listener.close()
        with self._lock:
            for connection in self._open:
                _shut(connection)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="forwarded", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = wait_until(self._reach, _PATIENCE, "a leader that answers", interval=0.05)
            except Timeout:
                return  # the client sees its connection closed, and comes again
            with server:
                with self._lock:
                    self._open |= {client, server}
                upward = threading.Thread(target=_copy, args=(client, server), name="forwarded-up", daemon=True)
                upward.start()
                _copy(server, client)
                upward.join()
                with self._lock:
                    self._open -= {client, server}

    def _reach(self) -> socket.socket | None:
        if self._closing.is_set():
            raise Timeout("the forwarder was closed")
        port = self._target()
        if port is None:
            return None
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError:
            return None


def _copy(reader: socket.socket, writer: socket.socket) -> None:
    """Copy until either side ends; then both know."""
    buffer = memoryview(bytearray(_BLOCK))
    with contextlib.suppress(OSError):  # either end may go at any time, which ends the other one
        reader.settimeout(None)
        while count := reader.recv_into(buffer):
            writer.sendall(buffer[:count])
    _shut(writer)
    _shut(reader)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        connection.shutdown(socket.SHUT_RDWR)
