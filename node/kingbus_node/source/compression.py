"""Compression toward the source: which, and how what comes is read.

It is agreed on in the handshake and begins with the first command; from then on all bytes of both directions are in the
pieces of `wire.compression`. A piece holds one event or hundreds, as the source flushes them, and is decompressed at
once into the buffer that the dump is read from: nothing here looks at events, and no more is held than one piece
compressed and one decompressed, of 16 MiB at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from kingbus_node.source.errors import Refused, StreamError
from kingbus_node.wire.capabilities import Capability
from kingbus_node.wire.compression import ZSTD_LEVEL, Algorithm, Compression
from kingbus_node.wire.errors import ProtocolError

UNCOMPRESSED: Final = "uncompressed"

FLAGS: Final = {Algorithm.ZLIB: Capability.COMPRESS, Algorithm.ZSTD: Capability.ZSTD_COMPRESSION}
"""The capability that offers, and chooses, each of them."""
LEVEL: Final = bytes((ZSTD_LEVEL,))
"""What who chooses zstd appends to its answer to the greeting: the level that the server shall use."""

_RECEIVE: Final = 256 << 10


def choose(allowed: Sequence[str], capabilities: int) -> Algorithm | None:
    """The first of `allowed` (names as of MySQL's SOURCE_COMPRESSION_ALGORITHMS) that the source offers; None: none.

    A source says only when it is asked that it insists on compression. Refused if it offers nothing that is allowed.
    """
    offered = [algorithm for algorithm, flag in FLAGS.items() if capabilities & flag]
    for name in allowed:
        if name == UNCOMPRESSED:
            return None
        if name in offered:
            return Algorithm(name)
    raise Refused(
        f"source.compression allows {', '.join(allowed)}, but the source offers "
        f"{' and '.join([*offered, UNCOMPRESSED])} only (MySQL: protocol_compression_algorithms; MariaDB has zlib)"
    )


class CompressedStream:
    """Both directions of one connection."""

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm = algorithm
        self._compression = Compression(algorithm)
        self._received = memoryview(bytearray(_RECEIVE))
        self._piece = memoryview(b"")

    def receive_into(self, room: memoryview, receive: Callable[[memoryview], int]) -> int:
        """As `receive` (bytes received into a buffer, 0 if there are none) does it, but decompressed.

        Fills `room` as far as what has come allows. StreamError for what is no compressed stream.
        """
        done = 0
        while done < len(room):
            if not self._piece:
                self._piece = memoryview(self._inflate())
            if not self._piece:
                # Bytes that are in the room already must be told before `receive` can say that it was the last.
                count = 0 if done else receive(self._received)
                if not count:
                    break
                self._piece = memoryview(self._inflate(bytes(self._received[:count])))
                continue
            count = min(len(room) - done, len(self._piece))
            room[done : done + count] = self._piece[:count]
            self._piece = self._piece[count:]
            done += count
        return done

    def command(self, data: bytes) -> bytes:
        """Packets to send, as pieces. The number of pieces begins anew, as for all that a client says by itself."""
        self._compression.number = 0
        return b"".join(self._compression.deflate((data,)))

    def _inflate(self, data: bytes = b"") -> bytes:
        try:
            return self._compression.inflate(data)
        except ProtocolError as error:
            raise StreamError(f"the source's compressed stream cannot be read: {error}") from error
