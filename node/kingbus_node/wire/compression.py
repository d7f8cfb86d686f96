"""The compressed protocol: the stream of packets, cut into pieces of its own, each compressed or not.

A piece is a 3-byte length of what follows the header, a sequence byte, the 3-byte length before compression (0: what
follows is not compressed), and the data. Pieces and packets have nothing to do with one another. Sequence bytes count
pieces, and start at 0 with every command. It begins after the OK that ends a login, in both directions. ("Compressed
Packet" in the protocol's documentation; the same for both flavours.)

zlib only: zstd, which newer clients of MySQL can do as well, is not in Python's own library.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

from kingbus_node.wire.errors import malformed
from kingbus_node.wire.packet import MAX_PACKET

_HEADER: Final = 7
_SHORT: Final = 50
"""Bytes below which it does not pay (MIN_COMPRESS_LENGTH of the servers)."""
_PIECE: Final = 256 * 1024
_LEVEL: Final = 1  # about half of the time of the servers' 6, for a tenth more bytes

Buffer = bytes | bytearray | memoryview


class Compression:
    """Both directions of one connection. `number`: what the next piece from us must carry."""

    __slots__ = ("_data", "number")

    def __init__(self) -> None:
        self.number = 0
        self._data = bytearray()

    def deflate(self, buffers: Iterable[Buffer]) -> list[bytes]:
        """The pieces that carry `buffers`. Holds one piece at a time besides them."""
        out: list[bytes] = []
        piece = bytearray()
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            while len(view):
                part = view[: _PIECE - len(piece)]
                piece += part
                view = view[len(part) :]
                if len(piece) == _PIECE:
                    out.append(self._piece(piece))
                    piece = bytearray()
        if piece:
            out.append(self._piece(piece))
        return out

    def _piece(self, data: bytearray) -> bytes:
        number, self.number = self.number, (self.number + 1) & 0xFF
        smaller = zlib.compress(data, _LEVEL) if len(data) >= _SHORT else b""
        if smaller and len(smaller) < len(data):
            return len(smaller).to_bytes(3, "little") + bytes((number,)) + len(data).to_bytes(3, "little") + smaller
        return len(data).to_bytes(3, "little") + bytes((number, 0, 0, 0)) + data

    def inflate(self, data: bytes) -> bytes:
        """Take what came, however it was cut; returns what it holds as far as whole pieces are here.

        An answer is numbered from there on. Raises `ProtocolError` for what is not a piece.
        """
        self._data += data
        out = bytearray()
        while len(self._data) >= _HEADER:
            length = int.from_bytes(self._data[:3], "little")
            if len(self._data) < _HEADER + length:
                break
            number, size = self._data[3], int.from_bytes(self._data[4:_HEADER], "little")
            self.number = (number + 1) & 0xFF
            body = bytes(self._data[_HEADER : _HEADER + length])
            del self._data[: _HEADER + length]
            out += _inflated(body, size) if size else body
        return bytes(out)

    def inflate_aside(self, data: bytes) -> bytes:
        """The same for what a replica says during a dump: it is no command, and the numbers of ours go on."""
        number = self.number
        try:
            out = self.inflate(data)
        finally:
            self.number = number
        return out


def _inflated(body: bytes, size: int) -> bytes:
    """`body` decompressed, which must give `size` bytes: no more than that is ever held."""
    machine = zlib.decompressobj()
    try:
        data = machine.decompress(body, size)
    except zlib.error as problem:
        raise malformed(f"a compressed packet cannot be decompressed: {problem}") from problem
    if len(data) != size or len(data) > MAX_PACKET or machine.unconsumed_tail or machine.unused_data:
        raise malformed(f"a compressed packet says that it holds {size} bytes, and holds something else")
    return data
