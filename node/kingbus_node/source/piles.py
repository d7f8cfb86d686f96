"""Stretches of packets on their way to become log entries: the bookkeeping of `batch`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kingbus_node.binlog.constants import Buffer, Flavor
from kingbus_node.binlog.executed import executed_set
from kingbus_node.binlog.scan import COMPLETE, OFFSET_MASK, PACKET_HEADER, Events, Ints, Offsets
from kingbus_node.source.framing import Frame
from kingbus_node.store.entry import NO_META, Entry, Kind, Meta, SourceFile


@dataclass(slots=True)
class Pile:
    """Adjacent packets in the framer's buffer, `buffer[start:end]`, that will be one entry or a part of one.

    `start_pos`, `end_pos`: the same in the source's file, `source_name`. `events`: that begin here; `transactions`:
    that end here, with their GTIDs in `deltas`. `timestamp`: of the last event. `ack`: the file position of the last
    event here that the source wants acknowledged. `file`: set if a source file begins here. `file_id`, `flags`: as in
    `Entry`. `sound`: as in `Frame`.
    """

    start: int
    end: int
    start_pos: int
    end_pos: int
    timestamp: int = 0
    events: int = 0
    transactions: int = 0
    packets: list[Offsets] = field(default_factory=list)
    deltas: list[bytes] = field(default_factory=list)
    ack: int | None = None
    file: SourceFile | None = None
    file_id: int = 0
    source_name: str = ""
    flags: int = 0
    sound: bool = False

    @property
    def size(self) -> int:
        """Bytes of packets."""
        return self.end - self.start

    def absorb(self, other: Pile) -> None:
        """Put `other`, which lies right behind, on top."""
        if other.start != self.end or other.start_pos != self.end_pos:
            raise AssertionError("piles must be adjacent")
        self.end, self.end_pos = other.end, other.end_pos
        self.timestamp = other.timestamp or self.timestamp
        self.events += other.events
        self.transactions += other.transactions
        self.packets += other.packets
        self.deltas += other.deltas
        self.ack = self.ack if other.ack is None else other.ack
        self.sound = self.sound and other.sound

    def moved(self, by: int) -> None:
        """The buffer's content moved down by `by` bytes."""
        self.start -= by
        self.end -= by
        self.packets = [packets - np.uint32(by) for packets in self.packets]

    def entry(self, payload: Buffer, flavor: Flavor) -> Entry:
        """The entry, with `payload` for the bytes."""
        packets = self.packets[0] if len(self.packets) == 1 else np.concatenate(self.packets)
        packets = packets - np.uint32(self.start)
        return Entry(
            kind=Kind.DATA,
            flags=self.flags,
            file_id=self.file_id,
            timestamp=self.timestamp,
            start_pos=self.start_pos,
            end_pos=self.end_pos,
            meta=Meta(gtids=_joined(self.deltas, flavor), file=self.file) if self.deltas or self.file else NO_META,
            packets=packets,
            payload=payload,
            event_count=self.events,
            transaction_count=self.transactions,
            sound=self.sound,
        )


def _joined(deltas: list[bytes], flavor: Flavor) -> bytes:
    if len(deltas) <= 1:
        return deltas[0] if deltas else b""
    total = executed_set(flavor)
    for delta in deltas:
        total.apply_delta(delta)
    return total.encode()


class Block:
    """One frame's events with all that is needed to cut them into piles.

    `missing`: what the last event still lacks after this frame (`COMPLETE`: nothing). `sound`: as in `Frame`.
    """

    __slots__ = ("_acks", "buffer", "end", "events", "missing", "packets", "sound")

    def __init__(self, buffer: memoryview, frame: Frame, events: Events) -> None:
        self.buffer = buffer
        self.sound = frame.sound
        self.packets = frame.packets
        self.end = frame.end
        self.events = events
        self.missing = COMPLETE if events.missing is None else events.missing
        self._acks: Sequence[int] = frame.acks

    def packet_of(self, event: int) -> int:
        """Index of the packet that event `event` begins in; for the event behind the last, the number of packets."""
        return int(self.events.packet[event]) if event < len(self.events) else len(self.packets)

    def start_of(self, event: int) -> int:
        """Where in the buffer that packet begins; for the event behind the last, where the frame ends."""
        packet = self.packet_of(event)
        return int(self.packets[packet]) & OFFSET_MASK if packet < len(self.packets) else self.end

    def ends(self, low: int, high: int) -> Ints:
        """Where in the buffer events `low` to `high - 1` end."""
        starts = self.events.start[low + 1 : high] - (PACKET_HEADER + 1)
        return np.append(starts, self.start_of(high))

    def is_cut(self, high: int) -> bool:
        """Whether the event before `high` goes on in the next frame."""
        return high == len(self.events) and self.missing != COMPLETE

    def acked(self, low_packet: int, high_packet: int) -> int | None:
        """The last of packets `low_packet` to `high_packet - 1` whose event wants an acknowledgement, None if none."""
        at = bisect_left(self._acks, high_packet)
        return self._acks[at - 1] if at and self._acks[at - 1] >= low_packet else None

    def pile(self, low: int, high: int, ends: Ints, delta: bytes = b"", transactions: int = 0) -> Pile:
        """Events `low` to `high - 1` as a pile. `ends`: where in the source's file each of them ends."""
        events = self.events
        begin, behind = self.packet_of(low), self.packet_of(high)
        end_pos, whole = int(ends[-1]), behind
        if self.is_cut(high):
            end_pos -= self.missing
            whole = self.packet_of(high - 1)  # an event that is not here to its end cannot be acknowledged yet
        acked = self.acked(begin, whole)
        ack = None if acked is None else int(ends[int(np.searchsorted(events.packet[low:high], acked))])
        return Pile(
            start=self.start_of(low),
            end=self.start_of(high),
            start_pos=int(ends[0]) - int(events.size[low]),
            end_pos=end_pos,
            timestamp=int(events.timestamp[high - 1]),
            events=high - low,
            transactions=transactions,
            packets=[self.packets[begin:behind]],
            deltas=[delta] if delta else [],
            ack=ack,
            sound=self.sound,
        )

    def slice(self, low: int, high: int) -> Events:
        """Events `low` to `high - 1` as a table."""
        events = self.events
        if low == 0 and high == len(events):
            return events
        rows = slice(low, high)
        return Events(
            events.start[rows],
            events.packet[rows],
            events.type[rows],
            events.timestamp[rows],
            events.server_id[rows],
            events.size[rows],
            events.log_pos[rows],
            events.flags[rows],
            events.missing if high == len(events) else COMPLETE,
        )

    def close_gap(self, event: int) -> int:
        """Account for the removal of event `event` from the buffer; returns the bytes that what is behind moved."""
        start, behind = self.start_of(event), self.start_of(event + 1)
        by = behind - start
        self.events.start[event + 1 :] -= by
        self.packets[self.packet_of(event + 1) :] -= np.uint32(by)
        self.end -= by
        return by
