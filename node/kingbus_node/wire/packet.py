"""Packets: a 3-byte little-endian length, a sequence byte, that many bytes of payload.

A payload of 16 MiB - 1 bytes or more is sent as several packets: each full one (length 0xffffff) says that another
follows, so the last one is shorter, and empty when the payload's length is a multiple of 0xffffff. Sequence numbers
count packets, wrap from 255 to 0, and start at 0 with every command. ("MySQL Packets" in the protocol's documentation.)
"""

from __future__ import annotations

from typing import Final

from kingbus_node.wire.errors import out_of_order, too_large

MAX_PACKET: Final = 0xFFFFFF
"""The most payload bytes that one packet can carry."""
HEADER: Final = 4


def frame(payload: bytes | bytearray | memoryview, sequence: int) -> tuple[list[bytes | memoryview], int]:
    """Frame `payload`. Returns the buffers to send (headers and uncopied slices), and the next sequence number."""
    view = memoryview(payload).cast("B")
    out: list[bytes | memoryview] = []
    at = 0
    while True:
        size = min(len(view) - at, MAX_PACKET)
        out.append(size.to_bytes(3, "little") + bytes((sequence,)))
        if size:
            out.append(view[at : at + size])
        sequence = (sequence + 1) & 0xFF
        at += size
        if size < MAX_PACKET:
            return out, sequence


class PacketAssembler:
    """Collects the bytes of one payload. Feed it at most `wanted` bytes at a time, until `feed` returns the payload.

    `limit`: the longest payload accepted, in bytes. It is checked against the announced lengths, before any data is
    taken, so that nothing bigger is ever held. `sequence`: the number that the first packet must have; afterwards the
    next one.
    """

    __slots__ = ("_body", "_expected", "_header", "_last", "limit", "sequence")

    def __init__(self, limit: int, sequence: int) -> None:
        self.limit = limit
        self.sequence = sequence
        self._header = bytearray()
        self._body = bytearray()
        self._expected = 0
        self._last = False

    @property
    def wanted(self) -> int:
        """How many bytes may be fed next (at least 1 until the payload is complete)."""
        if len(self._header) < HEADER:
            return HEADER - len(self._header)
        return self._expected - len(self._body)

    def feed(self, data: bytes) -> bytes | None:
        """Take `data`; the payload when it is complete, else None. Raises `ProtocolError` (1153 too large, 1156 out of
        order).
        """
        if len(data) > self.wanted:
            raise ValueError(f"{len(data)} bytes fed where {self.wanted} were wanted")
        if len(self._header) < HEADER:
            self._header += data
            if len(self._header) < HEADER:
                return None
            self._start_packet()
        else:
            self._body += data
        if len(self._body) < self._expected:
            return None
        if self._last:
            return bytes(self._body)
        self._header.clear()
        return None

    def _start_packet(self) -> None:
        size = int.from_bytes(self._header[:3], "little")
        if self._header[3] != self.sequence:
            raise out_of_order()
        self.sequence = (self.sequence + 1) & 0xFF
        self._expected += size
        self._last = size < MAX_PACKET
        if self._expected > self.limit:
            raise too_large()
