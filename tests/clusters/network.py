"""A network of this machine's own: every node is reached through a door, which can be shut or slowed down for each pair
of nodes and direction. Nothing but this process is needed for it; delays, lost packets and nodes that are processes
have namespaces (`sites`).

A door reads the greeting with which a connection begins, so it knows who comes; with TLS it does not, and then only
treats all alike. What a shut door does is what a broken network does: bytes stay where they are, nobody is told.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading

from kingbus_node.raft import hello

ANYBODY = "anybody"
_PIECE = 64 << 10
_PIECES = 64


class Network:
    """All doors. Close it at the end."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shut: set[tuple[str, str]] = set()
        self._rates: dict[tuple[str, str], float] = {}
        self._sockets: set[socket.socket] = set()
        self._listeners: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._targets: dict[str, tuple[str, int]] = {}
        self._closing = False

    def door(self) -> str:
        """A new address at which a node can be reached once it is behind it."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        self._listeners.append(listener)
        self._start(self._accept, listener, address)
        return address

    def behind(self, address: str, host: str, port: int) -> None:
        """The node of that door listens there."""
        self._targets[address] = (host, port)

    # What a test does

    def shut(self, source: str, target: str) -> None:
        """No byte goes from `source` to `target`."""
        with self._changed:
            self._shut.add((source, target))

    def part(self, *groups: list[str]) -> None:
        """Nobody of one group hears anybody of another."""
        for group in groups:
            for other in groups:
                if group is not other:
                    for source in group:
                        for target in other:
                            self.shut(source, target)

    def heal(self) -> None:
        """Every door is open, and fast."""
        with self._changed:
            self._shut.clear()
            self._rates.clear()
            self._changed.notify_all()

    def slow(self, source: str, target: str, bytes_per_second: float) -> None:
        """No more than that goes through each connection."""
        self._rates[source, target] = bytes_per_second

    def cut(self, address: str) -> None:
        """Breaks every connection through the door of `address`, as a reset does."""
        port = int(address.rpartition(":")[2])
        with self._changed:
            sockets = [s for s in self._sockets if s.fileno() >= 0 and s.getsockname()[1] == port]
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """The end of all connections and threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            sockets = [*self._listeners, *self._sockets]
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
        for one in sockets:
            one.close()

    # Inside

    def _start(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, address: str) -> None:
        while not self._closing:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._changed:
                self._sockets.add(connection)
            self._start(self._serve, connection, address)

    def _serve(self, inner: socket.socket, address: str) -> None:
        outer = socket.socket()
        with self._changed:
            self._sockets.add(outer)
        try:
            first, source = self._greeted(inner)
            self._wait(source, address)
            self._wait(address, source)
            outer.connect(self._targets[address])
            outer.sendall(first)
            for one in (inner, outer):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._pump, args=(outer, inner, address, source), daemon=True)
            back.start()
            self._pump(inner, outer, source, address)
            back.join()
        except (OSError, KeyError):
            pass
        finally:
            with self._changed:
                self._sockets -= {inner, outer}
            inner.close()
            outer.close()

    def _greeted(self, connection: socket.socket) -> tuple[bytes, str]:
        first = b""
        wanted = hello.PREAMBLE_SIZE
        while len(first) < wanted:
            data = connection.recv(wanted - len(first))
            if not data:
                raise ConnectionError
            first += data
            if not hello.MAGIC.startswith(first[: len(hello.MAGIC)]):
                return first, ANYBODY
            if len(first) == hello.PREAMBLE_SIZE:
                wanted += hello.body_length(first)
        greeting = hello.decode(first[: hello.PREAMBLE_SIZE], first[hello.PREAMBLE_SIZE :])
        return first, greeting.sender if isinstance(greeting, hello.Hello) else ANYBODY

    def _wait(self, source: str, target: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or (source, target) not in self._shut)
            if self._closing:
                raise ConnectionError

    def _pump(self, here: socket.socket, there: socket.socket, source: str, target: str) -> None:
        """Carries bytes one way, until either end is closed."""
        under_way: queue.Queue[bytes] = queue.Queue(_PIECES)
        sender = threading.Thread(target=self._deliver, args=(under_way, here, there, source, target), daemon=True)
        sender.start()
        data = b"-"
        while data:
            try:
                data = here.recv(_PIECE)
            except OSError:
                data = b""
            if rate := self._rates.get((source, target)):
                self._pass(len(data) / rate)
            under_way.put(data)
        sender.join()

    def _deliver(
        self,
        under_way: queue.Queue[bytes],
        here: socket.socket,
        there: socket.socket,
        source: str,
        target: str,
    ) -> None:
        data, broken = b"-", False
        while data:
            data = under_way.get()
            if broken:
                continue
            try:
                self._wait(source, target)
                if data:
                    there.sendall(data)
                else:
                    there.shutdown(socket.SHUT_WR)
            except OSError:
                broken = True
                with contextlib.suppress(OSError):
                    here.shutdown(socket.SHUT_RDWR)

    def _pass(self, seconds: float) -> None:
        """Lets time pass, unless it is all over."""
        if seconds > 0:
            with self._changed:
                self._changed.wait_for(lambda: self._closing, seconds)
