"""A client of the compressed protocol, which PyMySQL cannot speak: it logs in, says statements and begins a dump."""

from __future__ import annotations

import socket
import struct

from kingbus_node.wire.auth import native_response
from kingbus_node.wire.capabilities import Capability
from kingbus_node.wire.compression import ZSTD_LEVEL, Algorithm, Compression

_FLAGS = Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION | Capability.PLUGIN_AUTH
_NATIVE = b"mysql_native_password"


class CompressedClient:
    """Logs in with mysql_native_password."""

    def __init__(self, port: int, user: str, password: str, algorithm: Algorithm) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        try:
            self._log_in(user.encode(), password.encode(), algorithm)
        except BaseException:
            self.sock.close()
            raise
        self._compression = Compression(algorithm)
        self._data = bytearray()

    def _log_in(self, user: bytes, password: bytes, algorithm: Algorithm) -> None:
        rest = self._plain_packet().split(b"\0", 1)[1]
        flags, level = _FLAGS | Capability.COMPRESS, b""
        if algorithm is Algorithm.ZSTD:
            flags, level = _FLAGS | Capability.ZSTD_COMPRESSION, bytes((ZSTD_LEVEL,))
        proof = native_response(password, rest[4:12] + rest[31:43])
        head = struct.pack("<IIB23x", flags, 1 << 24, 45)
        self._send_plain(head + user + b"\0" + bytes((len(proof),)) + proof + _NATIVE + b"\0" + level, 1)
        answer = self._plain_packet()
        if answer[:1] == b"\xfe":  # the server's own plugin is another one
            self._send_plain(native_response(password, answer[1 + len(_NATIVE) + 1 :][:20]), 3)
            answer = self._plain_packet()
        assert answer[:1] == b"\0", answer

    def _send_plain(self, payload: bytes, sequence: int) -> None:
        self.sock.sendall(len(payload).to_bytes(3, "little") + bytes((sequence,)) + payload)

    def _plain_packet(self) -> bytes:
        return self._exactly(int.from_bytes(self._exactly(4)[:3], "little"))

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            assert piece, "the server has closed the connection"
            data += piece
        return bytes(data)

    def send(self, payload: bytes) -> None:
        """A command."""
        self._compression.number = 0
        for piece in self._compression.deflate([len(payload).to_bytes(3, "little") + b"\0" + payload]):
            self.sock.sendall(piece)

    def say(self, statement: str) -> None:
        """A statement that is answered with OK."""
        self.send(b"\x03" + statement.encode())
        while len(self._data) < 4 or len(self._data) < 4 + int.from_bytes(self._data[:3], "little"):
            self._data += self.read()
        assert self._data[4] == 0, bytes(self._data)
        self._data.clear()

    def read(self) -> bytes:
        """Some of what comes, as it was before it was compressed; b"" when what has come is not a whole piece yet."""
        received = self.sock.recv(1 << 18)
        assert received, "the server has closed the connection"
        out = bytearray()
        piece = self._compression.inflate(received)
        while piece:
            out += piece
            piece = self._compression.inflate()
        return bytes(out)

    def close(self) -> None:
        self.sock.close()
