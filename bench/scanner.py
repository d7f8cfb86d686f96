"""Speed of the way of a block from packets to GTIDs. ``python -m bench.scanner``

For several kinds of stream, in blocks of 1 MiB: finding packets, gathering event headers, verifying checksums, finding
transaction boundaries, and encoding the GTIDs, each in nanoseconds of processor time an event, and all of it in events
and bytes a second.
"""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from kingbus_node.binlog.build import make_event, packetize
from kingbus_node.binlog.checksum import BlockVerifier
from kingbus_node.binlog.constants import ChecksumAlgorithm, EventType, Flavor
from kingbus_node.binlog.executed import executed_set
from kingbus_node.binlog.scan import Events, packet_offsets
from kingbus_node.binlog.transactions import TransactionTracker

BLOCK = 1 << 20
EVENTS = 200_000
UUID = bytes(range(0x70, 0x80))
STAGES = ("packets", "headers", "checksums", "boundaries", "GTIDs")


def event(kind: EventType, body: bytes, size: int = 100) -> bytes:
    """An event of `size` bytes, if its body is not longer."""
    return make_event(kind, body.ljust(size - 23, b"x"), server_id=1, checksum=True, timestamp=1, log_pos=4)


def query(statement: bytes) -> bytes:
    variables = bytes(100 - 23 - 13 - 1 - len(statement))
    body = struct.pack("<IIBHH", 1, 0, 0, 0, len(variables)) + variables + b"\0" + statement
    return event(EventType.QUERY, body)


def gtid(number: int) -> bytes:
    return event(EventType.GTID, struct.pack("<B16sqBQQ", 0, UUID, number, 2, number - 1, number), 79)


def tagged(number: int) -> bytes:
    fields = b"\0\2\2" + b"".join(struct.pack("<B", byte << 1) for byte in UUID[:16])
    fields += b"\4" + struct.pack("<Q", (number << 1) << 8 | 0x7F) + b"\6\6red"
    return make_event(
        EventType.GTID_TAGGED, b"\2" + bytes((len(fields) + 3 << 1,)) + b"\0" + fields, server_id=1, checksum=True
    )


def mysql_rows(head: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    """GTID, BEGIN, TABLE_MAP, WRITE_ROWS, XID."""
    rest = (query(b"BEGIN"), event(EventType.TABLE_MAP, b""), event(EventType.WRITE_ROWS, b"", size))
    for number in itertools.count(1):
        yield head(number)
        yield from rest
        yield event(EventType.XID, bytes(8), 31)


def mysql_ddl() -> Iterator[bytes]:
    for number in itertools.count(1):
        yield gtid(number)
        yield query(b"truncate table t")


def mariadb_rows() -> Iterator[bytes]:
    """GTID, ANNOTATE_ROWS, TABLE_MAP, WRITE_ROWS_V1, XID."""
    rest = (event(EventType.ANNOTATE_ROWS, b""), event(EventType.TABLE_MAP, b""), event(EventType.WRITE_ROWS_V1, b""))
    for number in itertools.count(1):
        yield event(EventType.MARIADB_GTID, struct.pack("<QIB", number, 0, 12), 42)
        yield from rest
        yield event(EventType.XID, bytes(8), 31)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one stream cost."""

    name: str
    events: int
    size: int
    """Bytes of packets."""
    seconds: tuple[float, ...]
    """Of each of STAGES."""

    @property
    def rate(self) -> float:
        """Events a second, through all stages."""
        return self.events / sum(self.seconds)


def measure(name: str, flavor: Flavor, stream: Iterable[bytes], events: int = EVENTS) -> Figures:
    """Scan the first `events` events of a stream, the best of three times."""
    data = bytearray(b"".join(packetize(event) for event in itertools.islice(stream, events)))
    best = min((_scan(data, flavor) for _ in range(3)), key=sum)
    return Figures(name, events, len(data), best)


def _scan(data: bytearray, flavor: Flavor) -> tuple[float, ...]:
    tracker = TransactionTracker(flavor, ChecksumAlgorithm.CRC32)
    verifier = BlockVerifier()
    executed = executed_set(flavor)
    seconds = [0.0] * len(STAGES)
    at = 0
    while at < len(data):
        times = [time.thread_time()]
        packets, at = packet_offsets(data, at, min(at + BLOCK, len(data)))
        times.append(time.thread_time())
        events = Events.gather(data, packets)
        times.append(time.thread_time())
        if verifier.verify(data, packets) is not None:
            raise AssertionError("a checksum is wrong")
        times.append(time.thread_time())
        found = tracker.feed(data, events)
        times.append(time.thread_time())
        executed.apply_delta(found.delta(0, len(found)))
        times.append(time.thread_time())
        for stage, (start, end) in enumerate(itertools.pairwise(times)):
            seconds[stage] += end - start
    return tuple(seconds)


def streams() -> list[Figures]:
    """All kinds of streams, measured."""
    return [
        measure("MySQL, rows", Flavor.MYSQL, mysql_rows(gtid, 100)),
        measure("MySQL, rows, tagged GTIDs", Flavor.MYSQL, mysql_rows(tagged, 100)),
        measure("MySQL, DDL", Flavor.MYSQL, mysql_ddl()),
        measure("MySQL, rows of 8 KiB", Flavor.MYSQL, mysql_rows(gtid, 8192), 40_000),
        measure("MariaDB, rows", Flavor.MARIADB, mariadb_rows()),
    ]


def main() -> None:
    print(f"{'':26}{'M events/s':>11}{'MB/s':>8}   ns an event: {', '.join(STAGES)}")
    for figures in streams():
        each = ", ".join(f"{second / figures.events * 1e9:.0f}" for second in figures.seconds)
        speed = figures.size / sum(figures.seconds) / 1e6
        print(f"{figures.name:26}{figures.rate / 1e6:11.2f}{speed:8.0f}   {each}")


if __name__ == "__main__":
    main()
