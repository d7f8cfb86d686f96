"""Takes the semi-sync prefixes out of a stream, so that its packets are as any replica would receive them.

With semi-sync on, a source puts two bytes between the status byte and each event: 0xef and a flag, 1 when it waits for
an acknowledgement of that event (captured from MySQL 9.7.4 and MariaDB 10.11, which are identical here). Small events
are compacted a block at a time. An event of 16 MiB and more was split into packets with its prefix counted, so without
the prefix each of its packets takes the first bytes of the next: it is split again, exactly as it would have been.

Everything happens in place: what is written never overtakes what is still to be read.
"""

from __future__ import annotations

from itertools import pairwise
from struct import Struct
from typing import Final

import numpy as np

from kingbus_node.binlog.constants import MAX_PACKET
from kingbus_node.binlog.scan import CONTINUATION, EVENT_AT, OFFSET_MASK, PACKET_HEADER, Ints, Offsets, packet_lengths
from kingbus_node.source.errors import StreamError
from kingbus_node.source.requests import SEMI_SYNC_MAGIC

PREFIX: Final = 2
"""Bytes between the status byte and the event."""
_MOVE_FROM: Final = 4096  # bytes of a packet, on average, from which it is moved by itself
_LEAST: Final = 1 + PREFIX + 13  # up to and including the event's size field
_SIZE = Struct("<I")
_SIZE_AT: Final = EVENT_AT + PREFIX + 9


class PrefixStripper:
    """Strips the prefixes of one connection's stream, block by block. State: the event that is being split again."""

    __slots__ = ("_ack", "_begun", "_first", "_left")

    def __init__(self) -> None:
        self._left = 0
        """Bytes of the event's payload (status byte included) that have not come yet."""
        self._begun = 0
        """Bytes at the end of the written region that are an unfinished packet: its header and what there is of it."""
        self._first = False
        """Whether that packet is the event's first."""
        self._ack = False

    @property
    def pending(self) -> int:
        """Bytes of an unfinished packet right behind what `strip` reported as finished."""
        return self._begun

    def strip(self, buf: memoryview, packets: Offsets, end: int, write: int) -> tuple[Offsets, list[int], int]:
        """Rewrite the raw `packets`, which end at `end`, to `buf[write:]`; `write` is at or before the first of them.

        Returns (packets, acks, written): the finished packets, the indices of those whose event wants an
        acknowledgement, and where the written bytes end (`pending` of them are not in a finished packet yet).
        """
        lengths = packet_lengths(buf, packets)
        at = (packets & np.uint32(OFFSET_MASK)).astype(np.int64)
        long = (packets >= CONTINUATION) | (lengths == MAX_PACKET)
        if not long.any():
            moved, flags = _compact(buf, at, lengths, end, write)
            return moved, [int(i) for i in np.flatnonzero(flags)], end - (int(at[0]) - write) - PREFIX * len(at)
        out: list[int] = []
        acks: list[int] = []
        low = 0
        while low < len(at):
            if long[low]:
                write = self._long(buf, int(packets[low]), int(lengths[low]), write, out, acks)
                low += 1
                continue
            ahead = np.flatnonzero(long[low:])
            high = low + int(ahead[0]) if len(ahead) else len(at)
            stop = int(at[high]) if high < len(at) else end
            moved, flags = _compact(buf, at[low:high], lengths[low:high], stop, write)
            acks += [len(out) + int(i) for i in np.flatnonzero(flags)]
            out += moved.tolist()
            write += stop - int(at[low]) - PREFIX * (high - low)
            low = high
        return np.array(out, dtype=np.uint32), acks, write

    def _long(self, buf: memoryview, packet: int, length: int, write: int, out: list[int], acks: list[int]) -> int:
        """One packet of an event that has several; returns where the written bytes end now."""
        at = packet & OFFSET_MASK
        read, stop = at + PACKET_HEADER, at + PACKET_HEADER + length
        if packet < CONTINUATION:
            _check_prefix(buf, at, length)
            self._left = 1 + _SIZE.unpack_from(buf, at + _SIZE_AT)[0]
            self._ack = buf[at + EVENT_AT + 1] == 1
            self._first = True
            if self._left < MAX_PACKET - PREFIX:
                raise StreamError(f"a packet of {length} bytes holds an event whose size field says {self._left - 1}")
            write = self._begin(buf, write)
            buf[write] = 0
            write += 1
            self._begun += 1
            self._left -= 1
            read = at + EVENT_AT + PREFIX
        if stop - read > self._left:
            raise StreamError(f"expected {self._left} more bytes of an event, found {stop - read}")
        while read < stop or (self._begun and self._begun == self._whole(buf, write)):
            if not self._begun:
                write = self._begin(buf, write)
            count = min(stop - read, self._whole(buf, write) - self._begun)
            if count and write != read:
                buf[write : write + count] = buf[read : read + count]
            read, write = read + count, write + count
            self._begun += count
            self._left -= count
            if self._begun == self._whole(buf, write):
                write = self._finish(buf, write, out, acks)
        return write

    def _begin(self, buf: memoryview, write: int) -> int:
        """Write the header of the event's next packet."""
        buf[write : write + PACKET_HEADER] = _SIZE.pack(min(self._left, MAX_PACKET))
        self._begun = PACKET_HEADER
        return write + PACKET_HEADER

    def _whole(self, buf: memoryview, write: int) -> int:
        """How many bytes the packet being written will have, its header included."""
        length: int = _SIZE.unpack_from(buf, write - self._begun)[0] & MAX_PACKET
        return PACKET_HEADER + length

    def _finish(self, buf: memoryview, write: int, out: list[int], acks: list[int]) -> int:
        """The packet is complete. A full one is always continued, by an empty one if need be."""
        start, full = write - self._begun, self._begun == PACKET_HEADER + MAX_PACKET
        if self._first:
            if self._ack:
                acks.append(len(out))
            out.append(start)
        else:
            out.append(start | CONTINUATION)
        self._begun, self._first = 0, False
        if full and not self._left:
            write = self._begin(buf, write)
        return write


def _compact(buf: memoryview, at: Ints, lengths: Ints, end: int, write: int) -> tuple[Offsets, Ints]:
    """Move one-packet events, from `at[0]` to `end`, to `write`, each without its prefix. Returns packets and flags."""
    raw = np.frombuffer(buf, dtype=np.uint8)
    if lengths.min() < _LEAST:
        i = int(np.argmin(lengths))
        raise StreamError(f"a semi-sync packet of {int(lengths[i])} bytes has no room for a prefix and an event header")
    flags = raw[at + EVENT_AT + 1]
    wrong = (raw[at + EVENT_AT] != SEMI_SYNC_MAGIC) | (flags > 1)
    if wrong.any():
        _check_prefix(buf, int(at[int(np.argmax(wrong))]), _LEAST)
    first = int(at[0])
    if end - first >= _MOVE_FROM * len(at):
        _move(buf, [*at.tolist(), end], write)
    else:
        keep = np.ones(end - first, dtype=np.bool_)
        keep[at - first + EVENT_AT] = False
        keep[at - first + EVENT_AT + 1] = False
        kept = raw[first:end][keep]
        raw[write : write + len(kept)] = kept
    moved = at - (first - write) - PREFIX * np.arange(len(at))
    shorter = lengths - PREFIX
    raw[moved] = shorter & 0xFF
    raw[moved + 1] = shorter >> 8 & 0xFF
    raw[moved + 2] = shorter >> 16
    return moved.astype(np.uint32), flags.astype(np.int64)


def _move(buf: memoryview, edges: list[int], write: int) -> None:
    """Move packets, each from one of `edges` to the next, to `write`, one by one, without their prefixes."""
    for start, stop in pairwise(edges):
        event = write + EVENT_AT
        buf[write:event] = buf[start : start + EVENT_AT]
        write = event + stop - start - EVENT_AT - PREFIX
        buf[event:write] = buf[start + EVENT_AT + PREFIX : stop]


def _check_prefix(buf: memoryview, at: int, length: int) -> None:
    if length < _LEAST:
        raise StreamError(f"a semi-sync packet of {length} bytes has no room for a prefix and an event header")
    magic, flag = buf[at + EVENT_AT], buf[at + EVENT_AT + 1]
    if magic != SEMI_SYNC_MAGIC or flag > 1:
        raise StreamError(
            f"expected a semi-sync prefix (0xef and 0 or 1) before an event, found 0x{magic:02x} 0x{flag:02x}"
        )
