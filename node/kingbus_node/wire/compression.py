"""The compressed protocol: the stream of packets, cut into pieces of its own, each compressed or not.

A piece is a 3-byte length of what follows the header, a sequence byte, the 3-byte length before compression (0: what
follows is not compressed), and the data. Pieces and packets have nothing to do with one another. Sequence bytes count
pieces, and start at 0 with every command. It begins after the OK that ends a login, in both directions. ("Compressed
Packet" in the protocol's documentation; the same for both flavours.)

Both sides of a connection use the same `Compression`: who sends commands sets `number` to 0 before each, who answers
them goes on from the number that came. zstd is MySQL's only; a piece of it is one frame.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from kingbus_node.wire.errors import malformed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_HEADER: Final = 7
_SHORT: Final = 50
"""Bytes below which it does not pay (MIN_COMPRESS_LENGTH of the servers)."""
_PIECE: Final = 256 * 1024
_ZLIB_LEVEL: Final = 1  # about half of the time of the servers' 6, for a tenth more bytes
ZSTD_LEVEL: Final = 3
"""The servers' default, for who does not say another one."""
ZSTD_LEVELS: Final = range(1, 23)
_ZSTD_OPTIONS: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 24}
"""No piece is longer than 16 MiB, so none needs a longer window: what asks for one is not given the memory."""

Buffer = bytes | bytearray | memoryview


class Algorithm(StrEnum):
    """How pieces are compressed; the names are those of protocol_compression_algorithms."""

    ZLIB = "zlib"
    ZSTD = "zstd"


UNCOMPRESSED: Final = "uncompressed"
"""In lists of what is allowed: a connection without the compressed protocol."""
ALLOWED: Final = (Algorithm.ZLIB, Algorithm.ZSTD, UNCOMPRESSED)
"""Everything, in the order in which the servers list it."""


class Compression:
    """Both directions of one connection. `number`: what the next piece from us must carry.

    level: for zstd, 1 to 22; zlib has one of its own.
    """

    __slots__ = ("_data", "algorithm", "level", "number")

    def __init__(self, algorithm: Algorithm = Algorithm.ZLIB, level: int = ZSTD_LEVEL) -> None:
        if level not in ZSTD_LEVELS:
            raise ValueError(f"expected a level of {ZSTD_LEVELS[0]} to {ZSTD_LEVELS[-1]}, found {level}")
        self.number = 0
        self.algorithm = algorithm
        self.level = level if algorithm is Algorithm.ZSTD else _ZLIB_LEVEL
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
        smaller = self._deflated(data) if len(data) >= _SHORT else b""
        if smaller and len(smaller) < len(data):
            return len(smaller).to_bytes(3, "little") + bytes((number,)) + len(data).to_bytes(3, "little") + smaller
        return len(data).to_bytes(3, "little") + bytes((number, 0, 0, 0)) + data

    def _deflated(self, data: bytearray) -> bytes:
        if self.algorithm is Algorithm.ZSTD:
            return zstd.compress(data, self.level)
        return zlib.compress(data, self.level)

    def inflate(self, data: bytes = b"") -> bytes:
        """Take what came, however it was cut; returns what the next piece holds, b"" when none is here as a whole.

        Call it again with nothing until it gives nothing, before more is taken: so no more than one piece (16 MiB) is
        ever held compressed, and one as it was. An answer is numbered from there on. Raises `ProtocolError` for what is
        not a piece.
        """
        self._data += data
        while len(self._data) >= _HEADER:
            length = int.from_bytes(self._data[:3], "little")
            if len(self._data) < _HEADER + length:
                break
            number, size = self._data[3], int.from_bytes(self._data[4:_HEADER], "little")
            self.number = (number + 1) & 0xFF
            body = bytes(self._data[_HEADER : _HEADER + length])
            del self._data[: _HEADER + length]
            if size:
                return _inflated(body, size, self.algorithm)
            if body:
                return body
        return b""

    def inflate_aside(self, data: bytes = b"") -> bytes:
        """The same for what a replica says during a dump: it is no command, and the numbers of ours go on."""
        number = self.number
        try:
            return self.inflate(data)
        finally:
            self.number = number


def _inflated(body: bytes, size: int, algorithm: Algorithm) -> bytes:
    """`body` decompressed, which must give `size` bytes: no more than that is ever held."""
    machine = zstd.ZstdDecompressor(None, _ZSTD_OPTIONS) if algorithm is Algorithm.ZSTD else zlib.decompressobj()
    try:
        data = machine.decompress(body, size)
    except (zlib.error, zstd.ZstdError) as problem:
        raise malformed(f"a compressed packet cannot be decompressed: {problem}") from problem
    if len(data) != size or not machine.eof or machine.unused_data:
        raise malformed(f"a compressed packet says that it holds {size} bytes, and holds something else")
    return data
