"""From received bytes to packets as they are stored.

Without semi-sync the bytes of a source's packets are, but for the sequence bytes, exactly what is stored, so they are
received straight into the buffer whose pieces become the payloads of log entries: nothing is copied on the way.

A `Framer` owns that buffer. Its user receives into `room()`, says how much came with `received()`, takes the new
packets with `frame()`, and says with `release()` which stretches of the buffer became entries; the rest is carried
over. Memory is bounded by what is not released, one packet, and one block.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

import numpy as np

from kingbus_node.binlog.checksum import crc_if_correct
from kingbus_node.binlog.constants import MAX_PACKET
from kingbus_node.binlog.scan import (
    CONTINUATION,
    EVENT_AT,
    OFFSET_MASK,
    PACKET_HEADER,
    Offsets,
    is_continued,
    packet_offsets,
)
from kingbus_node.source.errors import Disconnected, SourceEnd, SourceError, StreamError
from kingbus_node.source.semisync import PREFIX as SEMI_SYNC_PREFIX
from kingbus_node.source.semisync import PrefixStripper
from kingbus_node.util.crc import combine, crc32

BLOCK: Final = 10 << 20
"""Usual size of the buffer, in bytes: the biggest portion, and what was not finished before it."""
PORTION: Final = 4 << 20
"""Bytes to receive at once, at most, unless a packet is longer: as many small events as fit the processor's caches."""
BIG_PORTION: Final = 8 << 20
"""The same when events are big: a portion costs a millisecond of Python whatever its size."""
_EVENTS: Final = 40_000
"""Events in a portion, about, if they are not so small that `PORTION` holds more."""
SPARE: Final = 8
"""Buffers that are kept for later when they are not needed."""
ROOM: Final = 256 << 10
"""`Framer.room` offers at least this many bytes."""
SUM_FROM: Final = 16 << 10
"""Bytes of an event, on average, from which events are summed up as they come (`Framer.received`)."""
COPY_BELOW: Final = 128 << 10
"""Stretches shorter than this, taken together, are copied out of the buffer instead of giving the whole buffer away."""

_HEADER = Struct("<I")
_ERR: Final = 0xFF
_EOF: Final = 0xFE


@dataclass(frozen=True, slots=True)
class Frame:
    """Packets that have come since the last frame, one after the other in `Framer.buffer`, ending at `end`.

    `acks`: indices of packets whose event the source wants acknowledged (rising). `sound`: whether each packet is known
    to be an event that ends in its own correct CRC32.
    """

    packets: Offsets
    end: int
    acks: Sequence[int]
    sound: bool = False


class Buffers:
    """Makes buffers, and makes them again from memory that nobody looks at any more.

    Fresh memory costs a page fault for every 4 KiB, which at the speed of a source that catches up is a good part of
    all that a reader costs.
    """

    def __init__(self, size: int = BLOCK) -> None:
        """`size`: of a usual buffer, in bytes."""
        self.size = size
        self._free: list[mmap.mmap] = []

    def get(self, least: int) -> memoryview:
        """A buffer of at least `least` bytes, with anything in it."""
        if least > self.size:
            return np.empty(least, dtype=np.uint8).data
        memory = self._free.pop() if self._free else self._map()
        array = np.frombuffer(memory, dtype=np.uint8)
        # The array dies with the last view of it, in whatever thread that is.
        weakref.finalize(array, _keep, self._free, memory).atexit = False
        return array.data

    def _map(self) -> mmap.mmap:
        memory = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memory


def _keep(free: list[mmap.mmap], memory: mmap.mmap) -> None:
    if len(free) < SPARE:
        free.append(memory)


class Framer:
    """The receive buffer of one dump."""

    def __init__(self, *, semi_sync: bool, buffers: Buffers | None = None) -> None:
        self._buffers = buffers or Buffers()
        self.buffer = self._buffers.get(self._buffers.size)
        """Where the packets of frames lie. Replaced by `room` and `release`; offsets stay valid except as those say."""
        self._stripper = PrefixStripper() if semi_sync else None
        self._done = 0  # what lies before is finished packets
        self._raw = 0  # from here: bytes as received (behind `_done` by the stripper's unfinished packet)
        self._fill = 0
        self._continued = False
        self._sum: int | None = None  # CRC-32 of what was received from `_raw` on, while events are big
        self._before = EVENT_AT + (SEMI_SYNC_PREFIX if semi_sync else 0)
        self._end: SourceError | None = None
        self.portion = PORTION
        """Bytes that are worth receiving at once, by the size of the events that came last."""

    @property
    def done(self) -> int:
        """Where in the buffer the finished packets end."""
        return self._done

    @property
    def waiting(self) -> int:
        """Bytes received that are not part of a finished packet yet."""
        return self._fill - self._done

    def room(self) -> memoryview:
        """Where to receive to. At least as long as what is missing of the packet that is on its way."""
        wanted = self._fill + ROOM
        if self._fill - self._raw >= PACKET_HEADER:
            length = _HEADER.unpack_from(self.buffer, self._raw)[0] & MAX_PACKET
            wanted = max(wanted, self._raw + PACKET_HEADER + length)
        if wanted > len(self.buffer):
            grown = self._buffers.get(max(wanted + ROOM, self._buffers.size))
            grown[: self._fill] = self.buffer[: self._fill]
            self.buffer = grown
        return self.buffer[self._fill : self._fill + max(wanted - self._fill, self.portion)]

    def received(self, count: int) -> None:
        """`count` bytes were received into `room()`.

        They are in the processor's cache now. Big events are summed up here, where that takes a third of the time that
        it takes once the whole portion has come; with one sum for all of them, since lengths tell what it is to be.
        """
        if self._sum is not None:
            self._sum = crc32(self.buffer[self._fill : self._fill + count], self._sum)
        self._fill += count

    def frame(self) -> Frame:
        """The packets that are complete by now (perhaps none).

        `check_end` raises what comes behind them that is no event.
        """
        begin = self._done
        packets, end = packet_offsets(self.buffer, self._raw, self._fill, self._continued)
        if not len(packets):
            return Frame(packets, begin, ())
        cut = self._find_end(packets)
        if cut is not None:
            end = int(packets[cut]) & OFFSET_MASK
            packets = packets[:cut]
            self._fill = end
            if not len(packets):
                return Frame(packets, begin, ())
        sound = self._check_sum(packets, end)
        self._continued = is_continued(self.buffer, packets, self._continued)
        self.portion = min(BIG_PORTION, max(PORTION, (end - begin) // len(packets) * _EVENTS))
        acks: Sequence[int] = ()
        if self._stripper is None:
            self._done = self._raw = end
        else:
            write = self._done + self._stripper.pending
            packets, acks, written = self._stripper.strip(self.buffer, packets, end, write)
            self._move(end, written)
            self._done, self._raw = written - self._stripper.pending, written
        bytes_ = np.frombuffer(self.buffer, dtype=np.uint8)
        bytes_[(packets & np.uint32(OFFSET_MASK)).astype(np.int64) + 3] = 0  # sequence numbers
        return Frame(packets, self._done, acks, sound)

    def _check_sum(self, packets: Offsets, end: int) -> bool:
        """Whether `packets`, as received, are events that end in their own CRC32, as far as that is known: not if an
        event has several packets. Begins the sum of what is behind `end`, if it is worth it.
        """
        begun = self._sum
        self._sum = None
        if combine is None or (end - self._raw) // len(packets) < SUM_FROM:
            return False
        rest = self._sum = crc32(self.buffer[end : self._fill])
        if begun is None or int(packets.max()) >= CONTINUATION or is_continued(self.buffer, packets):
            return False
        at = packets.astype(np.int64)
        if int(np.diff(at, append=end).min()) <= self._before:
            return False
        expected = crc_if_correct(self.buffer, at, end, before=self._before)
        return combine(expected, rest, self._fill - end) == begun

    def check_end(self) -> None:
        """Raise what ended the stream, if anything did: `SourceEnd` for an ERR packet, `Disconnected` for EOF (a source
        that shuts down says it), `StreamError` for what is neither of those nor an event.
        """
        if self._end is not None:
            raise self._end

    def _move(self, source: int, target: int) -> None:
        """Close the gap between `target` and `source`, where bytes as received begin."""
        if source != target:
            self.buffer[target : target + self._fill - source] = self.buffer[source : self._fill]
            self._fill -= source - target

    def _find_end(self, packets: Offsets) -> int | None:
        """Index of the first packet that is not part of an event, with `_end` set to what it means."""
        first = np.flatnonzero(packets < CONTINUATION)
        status = packets[first].astype(np.int64) + PACKET_HEADER
        # The status "byte" of an empty packet may lie behind what was received, but nothing good begins with one.
        odd = np.frombuffer(self.buffer, dtype=np.uint8)[np.minimum(status, len(self.buffer) - 1)]
        if not odd.any():
            return None
        i = int(np.argmax(odd != 0))
        start = int(status[i])
        length = _HEADER.unpack_from(self.buffer, start - PACKET_HEADER)[0] & MAX_PACKET
        self._end = _meaning(bytes(self.buffer[start : start + min(length, 4096)]))
        return int(first[i])

    def drop(self, start: int, end: int) -> None:
        """Remove `buffer[start:end]`, whole finished packets: everything behind moves up by `end - start`."""
        self.buffer[start : start + self._fill - end] = self.buffer[end : self._fill]
        count = end - start
        self._done -= count
        self._raw -= count
        self._fill -= count

    def release(self, stretches: Sequence[tuple[int, int]], keep: int) -> list[memoryview]:
        """Hand out stretches of the buffer, `(start, end)` each, rising, for good.

        What lies before `keep` (at or behind the end of the last stretch) is forgotten: what was at `keep` is at 0
        afterwards. The views stay unchanged as long as anyone holds them.
        """
        total = sum(end - start for start, end in stretches)
        old = self.buffer
        if total < COPY_BELOW:
            taken = [memoryview(bytes(old[start:end])) for start, end in stretches]
            self.drop(0, keep)
            return taken
        taken = [old[start:end].toreadonly() for start, end in stretches]
        rest = self._fill - keep
        self.buffer = self._buffers.get(max(self._buffers.size, rest + ROOM))
        self.buffer[:rest] = old[keep : self._fill]
        self._done -= keep
        self._raw -= keep
        self._fill = rest
        return taken


def _meaning(payload: bytes) -> SourceError:
    """What a packet says that does not begin an event."""
    if payload[:1] == bytes([_ERR]) and len(payload) >= 3:
        code = int.from_bytes(payload[1:3], "little")
        text = payload[3:]
        state = "HY000"
        if text[:1] == b"#" and len(text) >= 6:
            state, text = text[1:6].decode("ascii", "replace"), text[6:]
        return SourceEnd(code, state, text.decode("utf-8", "replace"))
    if payload[:1] == bytes([_EOF]) and len(payload) <= 5:
        return Disconnected("the source ended the stream, as it does when it shuts down")
    if not payload:
        return StreamError("expected an event, found an empty packet")
    return StreamError(f"expected an event (status byte 0x00), found a packet that begins with 0x{payload[0]:02x}")
