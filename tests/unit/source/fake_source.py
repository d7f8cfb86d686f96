"""A server on loopback that speaks as much of the protocol as a replica needs, with an `Origin` behind it.

For what a real server cannot be made to do on demand: be silent, refuse, answer nonsense. One thread per connection.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable

from unit.source.origin import Origin, stream

from kingbus_node.binlog.constants import Flavor
from kingbus_node.config import Address
from kingbus_node.source.errors import SourceEnd

_GTID_POS = re.compile(r"binlog_gtid_pos\('(.*)',(\d+)\)")
_OK = b"\0\0\0\x02\0\0\0"
_EOF = b"\xfe\0\0\x02\0"
_CAPABILITIES = 0x000FA205  # protocol 4.1, long password, transactions, secure connection, plugin auth, multi results


class FakeSource:
    """See the module; a context manager. Everything in it may be changed while it runs.

    `variables`: answers to SELECT @@..., lower case without the @@GLOBAL part. `heartbeat`: seconds, None for none.
    `refusal`: (code, text) that every login gets. `mute`: say nothing at all, not even a greeting. `hold`: keep the
    dump open at its end. `acks`: what replicas acknowledged. `logins`, `commands`: what they sent.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.variables: dict[str, str | None] = {}
        self.heartbeat: float | None = 0.05
        self.refusal: tuple[int, str] | None = None
        self.mute = False
        self.hold = True
        self.semi_sync = False
        self.wanted: list[bytes] = []
        self.acks: list[bytes] = []
        self.logins: list[bytes] = []
        self.statements: list[str] = []
        self.commands: list[bytes] = []
        self.transform: Callable[[bytes], bytes] = lambda data: data
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._connections: list[socket.socket] = []

    @property
    def endpoint(self) -> Address:
        return Address("127.0.0.1", self._listener.getsockname()[1])

    def __enter__(self) -> FakeSource:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for sock in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(10)

    def cut(self) -> None:
        """Close all connections that there are: the next one of a quick replica is none of them."""
        for sock in tuple(self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), sock:
            if self.mute:
                self._closing.wait()
                return
            self._login(sock)
            while True:
                command = _read(sock)
                self.commands.append(command)
                if command[0] == 0x01:
                    return
                if command[0] == 0x03:
                    self._query(sock, command[1:].decode())
                elif command[0] in (0x12, 0x1E):
                    self._dump(sock, command)
                    return
                else:
                    _write(sock, 1, _OK)

    def _login(self, sock: socket.socket) -> None:
        version = b"9.7.4-2" if self.origin.flavor is Flavor.MYSQL else b"5.5.5-10.11.19-MariaDB-log"
        low, high = (_CAPABILITIES & 0xFFFF).to_bytes(2, "little"), (_CAPABILITIES >> 16).to_bytes(2, "little")
        greeting = (
            b"\x0a" + version + b"\0" + bytes(4) + b"12345678\0" + low + b"\x2d\x02\0" + high + b"\x15" + bytes(10)
        )
        _write(sock, 0, greeting + b"123456789012\0mysql_native_password\0")
        self.logins.append(_read(sock))
        if self.refusal is not None:
            code, text = self.refusal
            _write(sock, 2, b"\xff" + code.to_bytes(2, "little") + b"#28000" + text.encode())
            raise EOFError
        _write(sock, 2, _OK)

    def _query(self, sock: socket.socket, text: str) -> None:
        self.statements.append(text)
        lower = text.lower()
        if lower.startswith("set"):
            _write(sock, 1, _OK)
            return
        name = lower.removeprefix("select ").removeprefix("show variables like ").replace("@@global.", "").strip("@'")
        values = self._values() | self.variables
        if place := _GTID_POS.fullmatch(name):
            found = self.origin.gtid_position(place[1], int(place[2]))
            values[name] = None if found is None else str(found)
        if name not in values:
            _write(sock, 1, b"\xff\xa9\x04#HY000Unknown system variable '" + name.encode() + b"'")
            return
        row = [name, values[name]] if lower.startswith("show variables") else [values[name]]
        _write(sock, 1, bytes([len(row)]))
        for i in range(len(row)):
            column = b"".join(_string(part) for part in (b"def", b"", b"", b"", b"c", b"c"))
            _write(sock, 2 + i, column + b"\x0c\x2d\0\xff\0\0\0\xfd\0\0\0\0\0")
        _write(sock, 2 + len(row), _EOF)
        _write(sock, 3 + len(row), b"".join(b"\xfb" if v is None else _string(v.encode()) for v in row))
        _write(sock, 4 + len(row), _EOF)

    def _values(self) -> dict[str, str | None]:
        origin = self.origin
        facts = origin.facts()
        checksum = "CRC32" if origin.checksum else "NONE"
        semi_sync = str(int(self.semi_sync))
        return {
            "unix_timestamp()": str(int(time.time())),
            "server_id": str(origin.server_id),
            "log_bin": "1",
            "show binary logs": origin.files[0].name,  # of all that this tells, the first column of the first row
            "gtid_mode": "ON",
            "server_uuid": str(origin.server_uuid),
            "source_binlog_checksum": checksum,
            "master_binlog_checksum": checksum,
            "binlog_format": "ROW",
            "gtid_owned": str(origin.committing),
            "gtid_executed": str(facts.executed),
            "gtid_purged": str(facts.purged),
            "gtid_binlog_state": facts.executed.to_json(),
            "rpl_semi_sync_source_enabled": semi_sync,
            "rpl_semi_sync_master_enabled": semi_sync
            if origin.flavor is Flavor.MYSQL
            else "ON"
            if self.semi_sync
            else "OFF",
        }

    def _dump(self, sock: socket.socket, command: bytes) -> None:
        semi_sync = any("rpl_semi_sync" in text and text.startswith("SET") for text in self.statements)
        try:
            events = list(self.origin.dump(command))
        except SourceEnd as end:
            _write(sock, 1, b"\xff" + end.code.to_bytes(2, "little") + b"#HY000" + end.text.encode())
            return
        sock.sendall(self.transform(stream(events, semi_sync=semi_sync, wanted=self.wanted)))
        while self.hold and not self._closing.is_set():
            sock.settimeout(self.heartbeat or 0.05)
            try:
                self.acks.append(_read(sock))
            except TimeoutError:
                if self.heartbeat is not None:
                    file = self.origin.files[-1]
                    sock.sendall(stream([self.origin.heartbeat(file.name, file.end)], semi_sync=semi_sync))


def _string(data: bytes) -> bytes:
    return (bytes([len(data)]) if len(data) < 251 else b"\xfc" + len(data).to_bytes(2, "little")) + data


def _write(sock: socket.socket, sequence: int, payload: bytes) -> None:
    sock.sendall(len(payload).to_bytes(3, "little") + bytes([sequence]) + payload)


def _read(sock: socket.socket) -> bytes:
    head = _exactly(sock, 4)
    return _exactly(sock, int.from_bytes(head[:3], "little"))


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
