"""Events made to measure. All end in a CRC32 unless the maker is told otherwise."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kingbus_node.binlog.build import make_event, packetize
from kingbus_node.binlog.constants import EventType
from kingbus_node.binlog.scan import Events, Offsets, packet_offsets

UUID = bytes(range(16))

GTID_FLAGS_STANDALONE = 1


def varlen(value: int) -> bytes:
    """An unsigned variable-length integer of MySQL's serialization library, of at most 56 bits."""
    width = max(1, -(-value.bit_length() // 7))
    return (value << width | (1 << width - 1) - 1).to_bytes(width, "little")


def signed_varlen(value: int) -> bytes:
    """The same for a signed integer that is not negative, of any size."""
    doubled = value << 1
    if doubled.bit_length() > 56:
        return b"\xff" + doubled.to_bytes(8, "little")
    return varlen(doubled)


@dataclass(frozen=True)
class Maker:
    """Makes events of one server."""

    server_id: int = 1
    checksum: bool = True

    def event(self, kind: int, body: bytes = b"", *, flags: int = 0, server_id: int | None = None) -> bytes:
        return make_event(
            EventType(kind),
            body,
            server_id=self.server_id if server_id is None else server_id,
            checksum=self.checksum,
            timestamp=1_700_000_000,
            log_pos=4711,
            flags=flags,
        )

    def format_description(self, version: str = "9.7.4", algorithm: int | None = None) -> bytes:
        algorithm = int(self.checksum) if algorithm is None else algorithm
        body = struct.pack("<H50sIB", 4, version.encode(), 0, 19) + bytes(42) + bytes((algorithm,))
        return make_event(EventType.FORMAT_DESCRIPTION, body, server_id=self.server_id, checksum=True, log_pos=127)

    def gtid(self, number: int, uuid: bytes = UUID) -> bytes:
        return self.event(EventType.GTID, struct.pack("<B16sqBQQ", 0, uuid, number, 2, 0, 1))

    def anonymous_gtid(self) -> bytes:
        return self.event(EventType.ANONYMOUS_GTID, struct.pack("<B16sqBQQ", 0, bytes(16), 0, 2, 0, 1))

    def tagged_gtid(self, number: int, tag: str, uuid: bytes = UUID, extra: bytes = b"") -> bytes:
        fields = b"\x00\x02" + b"\x02" + b"".join(varlen(byte) for byte in uuid) + b"\x04" + signed_varlen(number)
        fields += b"\x06" + varlen(len(tag)) + tag.encode() + b"\x08\x04\x0a\x08" + extra
        size = 1 + 1 + 1 + len(fields)
        return self.event(EventType.GTID_TAGGED, b"\x02" + varlen(size + (size > 127)) + b"\x00" + fields)

    def mariadb_gtid(self, domain: int, server_id: int, sequence: int, flags: int = 0) -> bytes:
        body = struct.pack("<QIB", sequence, domain, flags) + bytes(6)
        return self.event(EventType.MARIADB_GTID, body, server_id=server_id)

    def query(self, statement: bytes, schema: bytes = b"d", variables: bytes = b"v" * 7) -> bytes:
        body = struct.pack("<IIBHH", 1, 0, len(schema), 0, len(variables)) + variables + schema + b"\0" + statement
        return self.event(EventType.QUERY, body)

    def compressed_query(self, statement: bytes) -> bytes:
        length = len(statement)
        width = max(1, (length.bit_length() + 7) // 8)
        packed = bytes((0x80 | width,)) + length.to_bytes(width, "big") + zlib.compress(statement)
        return self.event(EventType.QUERY_COMPRESSED, struct.pack("<IIBHH", 1, 0, 1, 0, 0) + b"d\0" + packed)

    def xid(self) -> bytes:
        return self.event(EventType.XID, bytes(8))


@dataclass
class Block:
    """Events as packets in a buffer, and their headers."""

    data: bytearray
    packets: Offsets
    events: Events


def stream(events: Iterable[bytes]) -> bytearray:
    """Events as packets."""
    return bytearray(b"".join(packetize(event) for event in events))


def block(events: Iterable[bytes]) -> Block:
    """Events as packets, scanned."""
    data = stream(events)
    packets, end = packet_offsets(data, 0, len(data))
    assert end == len(data)
    return Block(data, packets, Events.gather(data, packets))


def blocks(events: list[bytes], cuts: Iterable[int]) -> list[Block]:
    """The same events in several blocks, cut before the given indices."""
    edges = sorted({0, len(events), *(cut % (len(events) + 1) for cut in cuts)})
    return [block(events[low:high]) for low, high in pairwise(edges)]


def rows(values: Iterable[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(list(values), dtype=np.int64)
