"""Reading events in order, in blocks that can be sent as they are.

A block is a run of DATA entries of one source file, their payloads back to back in one buffer: the bytes that a replica
receives, but for the sequence bytes. Entries are read many at a time, payloads to one place and everything else to
another; offsets are gathered with numpy. The work per entry in Python is two slices.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kingbus_node.binlog.scan import PACKET_HEADER
from kingbus_node.store.entry import CONTINUATION, HEADER_SIZE, MAGIC, OFFSET_MASK, Flag, Kind
from kingbus_node.store.errors import CorruptLogError, LogClosedError, PurgedError
from kingbus_node.store.index import Records, entry_sizes
from kingbus_node.store.segments import Segment, Segments
from kingbus_node.store.watermark import Watermark

Offsets: TypeAlias = npt.NDArray[np.int64]

_RECORDS_AT_ONCE = 4096
_IOVECS = 1024
_KEPT = 65536  # bytes of a buffer that an idle cursor may keep
_SMALL = 4096  # bytes of an entry, on average, below which copying is cheaper than reading into many places
_Read: TypeAlias = tuple[memoryview, npt.NDArray[np.uint32]]  # payloads; headers, metas and packet tables


@dataclass(frozen=True, slots=True)
class Block:
    """Whole packets (see `Cursor.read` for the exception) of one source file, in order.

    `data` is a writable view of the cursor's buffer: overwrite sequence bytes in place; it is overwritten by the next
    read.
    """

    data: memoryview
    records: Records  # index records of the entries, in order
    bounds: Offsets  # n + 1 numbers: the bytes of entry k are data[bounds[k]:bounds[k + 1]]
    packets: Offsets  # offsets in `data` of the packet headers, rising
    continuation: npt.NDArray[np.bool_]  # for each packet: it goes on with the event of the packet before it
    payload_start: int  # where `data` begins in the first entry's payload: not 0 in later pieces of an entry
    position: int  # where the event bytes in `data` begin in the source file
    complete: bool  # `data` ends where the last entry ends

    @property
    def file_id(self) -> int:
        """The source file that all of it is from."""
        return int(self.records[0]["file_id"])

    @property
    def starts_file(self) -> bool:
        """`data` begins with the first byte of the source file: its FORMAT_DESCRIPTION event."""
        return bool(self.records[0]["flags"] & Flag.FILE_START) and self.payload_start == 0

    @property
    def last_index(self) -> int:
        """The last entry that `data` holds something of."""
        return int(self.records[-1]["index"])


class _Big:
    """An entry that is handed out in pieces."""

    def __init__(self, record: Records, table: npt.NDArray[np.uint32], data_offset: int, start: int) -> None:
        self.record = record
        self.offsets = (table & OFFSET_MASK).astype(np.int64)
        self.continuation = table >= CONTINUATION
        self.data_offset = data_offset  # of the payload in the .log
        self.length = int(record[0]["payload_len"])
        self.position = start


class _Ahead:
    """Index records that were read ahead, and what to know of them for every block: worked out once."""

    def __init__(self, records: Records) -> None:
        self.records = records
        uncancelled = records["flags"] & Flag.CANCELLED == 0
        events = (records["kind"] == Kind.DATA) & uncancelled & (records["payload_len"] > 0)
        self._events = np.flatnonzero(events)
        self._stops = np.flatnonzero(~events | (records["flags"] & Flag.FILE_START != 0))
        self._ends = np.cumsum(records["payload_len"], dtype=np.int64)

    def skipped(self, at: int) -> int:
        """How many records from `at` on hold no events."""
        found = int(np.searchsorted(self._events, at))
        return (int(self._events[found]) if found < len(self._events) else len(self.records)) - at

    def run(self, at: int, max_bytes: int) -> Records:
        """The records from `at` on, which has events, that make up a block."""
        found = int(np.searchsorted(self._stops, at, side="right"))
        end = int(self._stops[found]) if found < len(self._stops) else len(self.records)
        before = int(self._ends[at - 1]) if at else 0
        fits = int(np.searchsorted(self._ends, before + max_bytes, side="right"))
        return self.records[at : max(at + 1, min(end, fits))]


class Cursor:
    """A place in the log, for one thread. Made by `LogReader.cursor`.

    It keeps its segment's files open, so a purge does not disturb it before the end of that segment.
    """

    def __init__(self, segments: Segments, watermark: Watermark, index: int, payload_start: int) -> None:
        self._segments = segments
        self._watermark = watermark
        self._next = index
        self._skip = payload_start  # of the first entry's payload
        self._segment: Segment | None = None
        self._changes = watermark.changes
        self._ahead: _Ahead | None = None  # those before self._at are used up
        self._at = 0
        self._big: _Big | None = None
        self._buffer = np.empty(0, np.uint8)
        self._side = np.empty(0, np.uint8)
        self._closed = False

    @property
    def next_index(self) -> int:
        """The first entry of which the next `read` gives something, or a later one when that one holds no events."""
        return self._next

    def close(self) -> None:
        """Lets go of files and buffers."""
        self._closed = True
        self._segment = self._ahead = self._big = None
        self._buffer = self._side = np.empty(0, np.uint8)

    def relax(self) -> None:
        """Gives the buffers back until the next `read`; the last block is gone with them."""
        if len(self._buffer) > _KEPT:
            self._buffer = np.empty(0, np.uint8)
        if len(self._side) > _KEPT:
            self._side = np.empty(0, np.uint8)

    def read(self, max_bytes: int) -> Block | None:
        """The next events: up to `max_bytes` of whole entries; None at the end of what is visible.

        An entry bigger than `max_bytes` comes in pieces: cut between packets if one ends within `max_bytes`, else
        inside a packet, at least 64 KiB behind its start. PurgedError, CorruptLogError.
        """
        if max_bytes < 65536:
            raise ValueError(f"blocks of {max_bytes} bytes: expected at least 65536")
        if self._closed:
            raise LogClosedError("the cursor was closed")
        if self._big is None:
            run = self._next_run(max_bytes)
            if run is None:
                return None
            if self._skip or int(run[0]["payload_len"]) > max_bytes:
                self._big = self._begin_pieces(run[:1])
            else:
                return self._whole(run)
        return self._piece(self._big, max_bytes)

    def _next_run(self, max_bytes: int) -> Records | None:
        """Records of adjacent entries with events, of one source file, that fit; at least one. None at the end."""
        while True:
            ahead = self._ahead
            if ahead is None or self._at == len(ahead.records):
                ahead = self._read_ahead()
                if ahead is None:
                    return None
            skipped = ahead.skipped(self._at)
            if not skipped:
                return ahead.run(self._at, max_bytes)
            self._advance(skipped)

    def _advance(self, count: int) -> None:
        self._at += count
        self._next += count
        self._skip = 0

    def _read_ahead(self) -> _Ahead | None:
        """Reads ahead in the index, into the next segment where this one ends."""
        limit = self._watermark.visible_index
        if self._next > limit:
            return None
        if self._changes != self._watermark.changes:  # what the open segment holds behind may never have been committed
            self._segments.renew()
            self._segment, self._changes = None, self._watermark.changes
        segment = self._segment
        records = None if segment is None else self._segments.records(segment, self._next, _RECORDS_AT_ONCE, limit)
        if segment is None or records is None or not len(records):
            # There is no segment yet, or it has ended and entry _next begins the one behind it.
            segment = self._segment = self._open(self._next)
            records = self._segments.records(segment, self._next, _RECORDS_AT_ONCE, limit)
        if not len(records):
            raise CorruptLogError(segment.log.path, segment.log.size(), f"entry {self._next} is not in it")
        self._ahead, self._at = _Ahead(records), 0
        return self._ahead

    def _open(self, index: int) -> Segment:
        if index < self._watermark.first_index:
            raise PurgedError(f"entry {index} was purged: the oldest retained is {self._watermark.first_index}")
        return self._segments.find(index)

    def _whole(self, run: Records) -> Block:
        """Reads the entries of a run, payloads into the buffer, what precedes them into the side buffer."""
        segment = self._segment
        if segment is None:
            raise LogClosedError("the cursor was closed")
        payload = run["payload_len"].astype(np.int64)
        side = entry_sizes(run) - payload
        bounds = np.zeros(len(run) + 1, np.int64)
        side_bounds = np.zeros(len(run) + 1, np.int64)
        np.cumsum(payload, out=bounds[1:])
        np.cumsum(side, out=side_bounds[1:])
        offset, total = int(run[0]["offset"]), int(bounds[-1] + side_bounds[-1])
        if total < _SMALL * len(run):
            data, words = self._gather(segment, offset, total, bounds, side_bounds)
        else:
            data, words = self._spread(segment, offset, total, bounds, side_bounds)
        self._check_headers(segment, run, side_bounds[:-1] >> 2, words)
        counts = run["packet_count"].astype(np.int64)
        first = np.cumsum(counts) - counts
        where = np.repeat((side_bounds[1:] >> 2) - counts - first, counts) + np.arange(int(counts.sum()))
        table = words[where]
        packets = (table & OFFSET_MASK) + np.repeat(bounds[:-1], counts)
        self._advance(len(run))
        position = int(run[0]["start_pos"])
        return Block(data, run, bounds, packets, table >= CONTINUATION, 0, position, True)

    def _spread(self, segment: Segment, offset: int, total: int, bounds: Offsets, side_bounds: Offsets) -> _Read:
        """One ``preadv`` puts every part where it belongs: nothing is copied again, but each part costs half a µs."""
        ends, side_ends = bounds.tolist(), side_bounds.tolist()
        self._reserve(ends[-1], side_ends[-1])
        data, side = self._buffer.data, self._side.data
        vectors: list[memoryview] = []
        for k in range(len(ends) - 1):
            vectors += side[side_ends[k] : side_ends[k + 1]], data[ends[k] : ends[k + 1]]
        _scatter(segment, vectors, offset, total)
        return data[: ends[-1]], self._side[: side_ends[-1]].view("<u4")

    def _gather(self, segment: Segment, offset: int, total: int, bounds: Offsets, side_bounds: Offsets) -> _Read:
        """One read, then the parts copied together: for small entries three times as fast as spreading them."""
        self._reserve(total, 0)
        everything = self._buffer.data[:total]
        _scatter(segment, [everything], offset, total)
        heads = (bounds + side_bounds).tolist()  # where each entry begins, and where the last one ends
        payloads = (bounds[:-1] + side_bounds[1:]).tolist()
        side = b"".join(map(everything.__getitem__, map(slice, heads, payloads)))
        data = bytearray().join(map(everything.__getitem__, map(slice, payloads, heads[1:])))
        return memoryview(data), np.frombuffer(side, "<u4")

    def _check_headers(self, segment: Segment, run: Records, starts: Offsets, words: npt.NDArray[np.uint32]) -> None:
        """What was read are the entries that the index promised. Bodies are not checked: events have their own CRC."""
        wrong = (words[starts] != MAGIC) | (words[starts + 4] != (run["index"] & 0xFFFFFFFF))
        if wrong.any():
            at = int(np.argmax(wrong))
            offset = int(run[at]["offset"])
            raise CorruptLogError(segment.log.path, offset, f"expected the header of entry {int(run[at]['index'])}")

    def _begin_pieces(self, record: Records) -> _Big:
        segment = self._segment
        if segment is None:
            raise LogClosedError("the cursor was closed")
        row = record[0]
        length = HEADER_SIZE + int(row["meta_len"]) + 4 * int(row["packet_count"])
        self._reserve(0, length)
        offset = int(row["offset"])
        _scatter(segment, [self._side.data[:length]], offset, length)
        words = self._side[:length].view("<u4")
        self._check_headers(segment, record, np.zeros(1, np.int64), words)
        table = words[len(words) - int(row["packet_count"]) :].copy()
        return _Big(record, table, offset + length, self._skip)

    def _piece(self, big: _Big, max_bytes: int) -> Block:
        segment = self._segment
        if segment is None:
            raise LogClosedError("the cursor was closed")
        start = big.position
        end = min(start + max_bytes, big.length)
        first = int(np.searchsorted(big.offsets, start))
        behind = int(np.searchsorted(big.offsets, end))  # packets first … behind - 1 begin in this piece
        whole = end == big.length or (behind < len(big.offsets) and int(big.offsets[behind]) == end)
        if not whole and behind > first and int(big.offsets[behind - 1]) > start:
            behind -= 1  # the last of them is cut here: it begins the next piece instead
            end = int(big.offsets[behind])
        self._reserve(end - start, 0)
        data = self._buffer.data[: end - start]
        _scatter(segment, [data], big.data_offset + start, end - start)
        big.position = end
        complete = end == big.length
        if complete:
            self._big = None
            self._advance(1)
        bounds = np.array([0, end - start], np.int64)
        packets = big.offsets[first:behind] - start
        # What was before is more than the events: a header for each packet, and a 0x00 before each event.
        around = PACKET_HEADER * first + int(np.count_nonzero(~big.continuation[:first]))
        position = int(big.record[0]["start_pos"]) + start - around
        return Block(data, big.record, bounds, packets, big.continuation[first:behind], start, position, complete)

    def _reserve(self, data: int, side: int) -> None:
        if len(self._buffer) < data:
            self._buffer = np.empty(data, np.uint8)
        if len(self._side) < side:
            self._side = np.empty((side + 4095) // 4096 * 4096, np.uint8)


def _scatter(segment: Segment, vectors: list[memoryview], offset: int, total: int) -> None:
    """Fills the vectors from the ``.log``. CorruptLogError if it ends before."""
    end = offset + total
    for at in range(0, len(vectors), _IOVECS):
        part = vectors[at : at + _IOVECS]
        while part:
            got = os.preadv(segment.log.fd, part, offset)
            if not got:
                raise CorruptLogError(segment.log.path, offset, f"it ends here, {end - offset} bytes are missing")
            offset += got
            while part and got >= len(part[0]):
                got -= len(part.pop(0))
            if got:
                part[0] = part[0][got:]
