"""A TCP proxy on loopback that counts what the server sends and cuts the connection after a chosen byte.

After a cut the client has received exactly the bytes before it, and neither side hears of the other again.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

_BLOCK = 1 << 16


class CuttingProxy:
    """Forwards connections on `port` to `target_port`, which may change while it runs."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.connections = 0
        """How many were accepted so far."""
        self.cut_count = 0
        """How many were cut after their number of bytes so far."""
        self._lock = threading.Lock()
        self._cuts: Iterator[int] = iter(())
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name=f"proxy-{self.port}", daemon=True).start()

    def cut_after(self, cuts: Iterator[int]) -> None:
        """For each connection from now on, in order, after how many bytes from the server it is cut.

        When `cuts` is used up, connections live as long as their ends want.
        """
        with self._lock:
            self._cuts = cuts

    def cut_now(self) -> None:
        """Cut every connection that is open."""
        with self._lock:
            for connection in self._open:
                _shut(connection)

    def close(self) -> None:
        """Stop listening and cut what is open."""
        _shut(self._listener)  # ends the blocked accept(), which close() alone would not
        self._listener.close()
        self.cut_now()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                limit = next(self._cuts, None)
            threading.Thread(target=self._serve, args=(client, limit), daemon=True).start()

    def _serve(self, client: socket.socket, limit: int | None) -> None:
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port), timeout=10)
            except OSError:
                return  # the target is down: the client sees its connection closed
            with server:
                server.settimeout(None)
                with self._lock:
                    self._open |= {client, server}
                upward = threading.Thread(target=_copy, args=(client, server, None), daemon=True)
                upward.start()
                reached = _copy(server, client, limit)
                with self._lock:
                    self.cut_count += reached
                    self._open -= {client, server}
                _shut(server)
                _shut(client)
                upward.join()


def _copy(reader: socket.socket, writer: socket.socket, limit: int | None) -> bool:
    """Copy until either side ends (False) or `limit` bytes have passed (True)."""
    buffer = memoryview(bytearray(_BLOCK))
    left = limit
    try:
        while left is None or left > 0:
            count = reader.recv_into(buffer, _BLOCK if left is None else min(_BLOCK, left))
            if count == 0:
                break
            writer.sendall(buffer[:count])
            left = None if left is None else left - count
    except OSError:
        return False
    finally:
        _shut(writer)
    return left == 0


def _shut(connection: socket.socket) -> None:
    """End both directions; a connection that has ended already stays so."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
