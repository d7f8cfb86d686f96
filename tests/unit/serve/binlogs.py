"""Logs filled from binlog files: what a source has on its disk becomes what a node has in its store."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kingbus_node.binlog.build import fix_format_description, packetize
from kingbus_node.binlog.constants import BINLOG_MAGIC, EventType, Flavor
from kingbus_node.binlog.scan import COMPLETE, CONTINUATION, EVENT_AT, Events, packet_offsets
from kingbus_node.binlog.transactions import TransactionTracker
from kingbus_node.store.entry import WHOLE, Entry, Flag, Json, Kind, Meta, SourceFile
from kingbus_node.store.log import Log


def events_of(data: bytes) -> Iterator[bytes]:
    """The events of a binlog file."""
    assert data[:4] == BINLOG_MAGIC
    at = 4
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at + 9)
        yield data[at : at + size]
        at += size


class Importer:
    """Makes entries of files, in order, and appends them to a log."""

    def __init__(
        self, log: Log, flavor: Flavor, *, target: int = 1 << 20, facts: dict[str, Json] | None = None
    ) -> None:
        """`target`: payload bytes of an entry; transactions that are bigger are fragmented."""
        self._log = log
        self._target = target
        self._tracker = TransactionTracker(flavor)
        self._file_id = 0
        self._name = ""
        self._position = 4
        log.append([Entry(Kind.STATE, meta=Meta(json={"flavor": str(flavor), **(facts or {})}))], 1)

    def file(self, path: Path) -> None:
        """Append a binlog file under its own name."""
        self.events(path.name, list(events_of(path.read_bytes())))

    def events(self, name: str, events: Sequence[bytes]) -> None:
        """Append a file that consists of these events, the first being its FORMAT_DESCRIPTION."""
        self._file_id += 1
        self._name, self._position = name, 4
        self.more([fix_format_description(events[0]), *events[1:]], start=True)

    def more(self, events: Sequence[bytes], *, start: bool = False) -> None:
        """Append events to the current file."""
        packed = [packetize(event) for event in events]
        buffer = b"".join(packed)
        packets, _ = packet_offsets(buffer, 0, len(buffer))
        table = Events.gather(buffer, packets, COMPLETE)
        bounds = self._tracker.feed(buffer, table)
        offsets = [*(table.start - EVENT_AT).tolist(), len(buffer)]
        begin, deltas = 0, 0
        flags = Flag.FILE_START if start else 0
        inside = False
        for row in range(len(events)):
            safe = bool(bounds.safe[row])
            last = row == len(events) - 1
            big = offsets[row + 1] - offsets[begin] >= self._target
            if not (last or big or (inside and safe)):
                continue
            ended = int(np.searchsorted(bounds.ends, row, side="right"))
            if not inside and not safe:
                # Cut at the last place where no transaction was open, if that is behind `begin`.
                whole = [r for r in range(begin, row) if bounds.safe[r]]
                if whole:
                    cut = whole[-1] + 1
                    ended_here = int(np.searchsorted(bounds.ends, cut - 1, side="right"))
                    self._append(
                        events, buffer, offsets, packets, begin, cut, flags | WHOLE, bounds.delta(deltas, ended_here)
                    )
                    begin, deltas, flags = cut, ended_here, 0
                    if not last and offsets[row + 1] - offsets[begin] < self._target:
                        continue
            kind = (0 if inside else Flag.FIRST) | (Flag.LAST if safe else 0)
            if last and events[row][4] in (EventType.ROTATE, EventType.STOP):
                flags |= Flag.FILE_END
            delta = bounds.delta(deltas, ended) if safe and ended > deltas else b""
            self._append(events, buffer, offsets, packets, begin, row + 1, flags | kind, delta)
            inside = not safe
            begin, deltas, flags = row + 1, ended, 0
        self._log.commit(self._log.last_index)

    def _append(
        self,
        events: Sequence[bytes],
        buffer: bytes,
        offsets: list[int],
        packets: np.ndarray[tuple[int], np.dtype[np.uint32]],
        first: int,
        behind: int,
        flags: int,
        delta: bytes,
    ) -> None:
        start, end = offsets[first], offsets[behind]
        place = packets & np.uint32(CONTINUATION - 1)
        mine = packets[(place >= start) & (place < end)] - np.uint32(start)
        length = sum(map(len, events[first:behind]))
        source = SourceFile(self._name, self._name) if flags & Flag.FILE_START else None
        (timestamp,) = struct.unpack_from("<I", events[behind - 1])
        entry = Entry(
            Kind.DATA, flags, self._file_id, timestamp, self._position, self._position + length,
            Meta(delta, source), mine, buffer[start:end], behind - first, int(bool(delta)),
        )  # fmt: skip
        self._position += length
        self._log.append([entry], 1)
