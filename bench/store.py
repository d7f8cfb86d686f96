"""Speed of the store: append, commit and reading of blocks, at several entry sizes.

``python -m bench.store [directory]``. Reads come from the page cache, as they do for replicas that keep up. `disk` is
what the same bytes cost with plain writes and one fdatasync at the end, in the same run.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.store.entry import WHOLE, Entry, Flag, Kind, Meta, SourceFile
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader

UUID = "11111111-2222-3333-4444-555555555555"
BLOCK = 2 << 20


def make_entry(position: int, number: int, events: int, size: int) -> Entry:
    """One transaction of `events` events of `size` bytes each."""
    packet = struct.pack("<I", size + 1)[:3] + b"\0\0" + struct.pack("<IBIIIH", 1, 30, 1, size, position, 0)
    payload = packet.ljust(size + 5, b"x") * events
    gtids = GtidSet.parse(f"{UUID}:{number}").encode()
    packets = np.arange(events, dtype=np.uint32) * np.uint32(size + 5)
    end = position + events * size
    return Entry(Kind.DATA, WHOLE, 1, 1, position, end, Meta(gtids), packets, payload, events, 1)


def plain_writes(directory: Path, payload: bytes, count: int) -> float:
    """Seconds for the same bytes in one file, without a log."""
    path = directory / "plain"
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            file.write(payload)
        os.fdatasync(file.fileno())
    took = time.perf_counter() - start
    path.unlink()
    return took


def measure(directory: Path, name: str, events: int, size: int, total: int) -> None:
    """Writes `total` bytes as entries of `events` events and reads them back."""
    log = Log.open(directory / name)
    log.append([Entry(Kind.STATE, meta=Meta(json={"flavor": "mysql"}))], 1)
    first = make_entry(4, 1, 1, 100)
    names = SourceFile("binlog.000001", "binlog.000001")
    log.append(
        [
            Entry(
                Kind.DATA,
                WHOLE | Flag.FILE_START,
                1,
                1,
                4,
                first.end_pos,
                Meta(file=names),
                first.packets,
                first.payload,
            )
        ],
        1,
    )
    entry_bytes = events * (size + 5)
    count = total // entry_bytes
    per_append = max(1, (1 << 20) // entry_bytes)
    appending = committing = 0.0
    position, number = first.end_pos, 1
    while number <= count:
        group = []
        for _ in range(per_append):
            entry = make_entry(position, number, events, size)
            group.append(entry)
            position, number = entry.end_pos, number + 1
        start = time.perf_counter()
        last = log.append(group, 1)
        middle = time.perf_counter()
        log.commit(last)
        appending += middle - start
        committing += time.perf_counter() - middle
    start = time.perf_counter()
    log.sync()
    syncing = time.perf_counter() - start
    reader = LogReader(directory / name)
    got, best = 0, 1e9
    for _ in range(3):
        cursor, got = reader.cursor(1), 0
        start = time.perf_counter()
        while (block := cursor.read(BLOCK)) is not None:
            got += len(block.data)
        best = min(best, time.perf_counter() - start)
    start = time.perf_counter()
    log.close()
    log = Log.open(directory / name)
    opening = time.perf_counter() - start
    log.close()
    disk = plain_writes(directory, b"x" * (1 << 20), total >> 20)
    mb = total / 1e6
    print(
        f"{name:>12}: {entry_bytes:>10,} bytes  append {mb / appending:6.0f} MB/s ({count / appending:9,.0f}/s)"
        f"  commit {count / committing:9,.0f}/s  append+commit+sync {mb / (appending + committing + syncing):5.0f} MB/s"
        f" (disk {mb / disk:5.0f})  read {got / best / 1e6:6.0f} MB/s  open {opening * 1e3:5.0f} ms"
    )


def main() -> None:
    """Runs all sizes in a temporary directory, in the given one or where temporary files go."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as directory:
        for name, events, size, total in (
            ("tiny", 5, 100, 128 << 20),
            ("small", 5, 1000, 256 << 20),
            ("medium", 640, 100, 512 << 20),
            ("batch", 10_000, 100, 512 << 20),
            ("big", 1, (16 << 20) - 100, 512 << 20),
        ):
            measure(Path(directory), name, events, size, total)


if __name__ == "__main__":
    main()
