"""Semi-synchronous replication toward a replica: the prefix that its events carry, and its acknowledgements.

1. A replica asks for it with ``SET @rpl_semi_sync_replica = 1`` (or ``_slave``). From then on every event, invented
   ones included, has two bytes between the packet's status byte and itself: 0xef and a flag. EOF and ERR have none.
2. The flag is 1 where an acknowledgement is wanted. The replica then sends a packet with number 0: 0xef, the position
   u64 behind that event, the file's name. The next packet to it has number 1 again, whether or not it has answered yet.
3. The prefix counts when a packet is split: an event one byte below the limit takes two packets with it.

(Captured from MySQL 9.7.4 and MariaDB 10.11.19, which are alike in this.)

What a node has sent is committed, so nothing here waits: an acknowledgement says how far the replica has what was sent
on disk, and that is what it is used for. One is asked for at the last transaction of each block that is sent.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from kingbus_node.binlog.constants import MAX_PACKET, EventType
from kingbus_node.serve.channel import Channel
from kingbus_node.serve.outgoing import Bytes, Offsets, Outgoing, Stored
from kingbus_node.wire.errors import malformed

PREFIX: Final = b"\xef\x00"
_MAGIC: Final = 0xEF
_WANTED: Final = 1
_HEADER: Final = 4
_STATUS: Final = 1
_PREFIX_AT: Final = _HEADER + _STATUS
_SIZE_AT: Final = _PREFIX_AT + 9  # of the event's size, in a packet without prefix
_LONG: Final = MAX_PACKET - len(PREFIX)  # an event whose first packet is at least this long is split anew
_POSITION: Final = 8
_MAX_ACK: Final = 1 + _POSITION + 512

ENDS_TRANSACTION: Final = frozenset(
    (EventType.XID, EventType.QUERY, EventType.XA_PREPARE, EventType.TRANSACTION_PAYLOAD, EventType.QUERY_COMPRESSED)
)
"""Events with which a block may end in a transaction's end."""


class SemiSyncOutgoing(Outgoing):
    """Adds the prefix to everything that goes out."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self._left = 0  # bytes of the payload of the event that is being split anew that are still to come
        self._room = 0  # of these, how many go into the packet whose header went out last
        self._full = False  # that packet is as long as a packet can be
        self._asked = False  # for an acknowledgement, since the last flush
        self._last: tuple[Bytes, int] | None = None  # the last event: the buffer and where in it its packet is

    def event(self, event: bytes) -> None:
        self._last = None
        self.packet(b"\0" + PREFIX + event)

    def stored(self, stored: Stored, *, acknowledge: bool = False) -> None:
        firsts = stored.packets[np.isin(stored.packets, stored.events, assume_unique=True)]
        long = firsts[_lengths(stored.data, firsts) >= _LONG]
        for start, end in zip(stored.begins, stored.ends, strict=True):
            at = start
            if self._left:
                at = _next(firsts, start, end)
                self._split(stored, start, at)
            for cut in long[(long >= at) & (long < end)].tolist():
                self._short(stored, firsts, at, cut)
                at = _next(firsts, cut + 1, end)
                self._begin(stored, cut, at)
            self._short(stored, firsts, at, end)
        if acknowledge and self._last is not None:
            buffer, packet = self._last
            buffer[packet + _PREFIX_AT + 1] = _WANTED
            self._channel.sequence = 1
            self._asked = True

    def flush(self) -> bool:
        sent = super().flush()
        if self._asked:
            self._asked = False
            self._channel.restart_pieces()
        return sent

    def _short(self, stored: Stored, firsts: Offsets, start: int, end: int) -> None:
        """Bytes of events that take one packet each, with the prefix, too."""
        if start == end:
            return
        these = firsts[np.searchsorted(firsts, start) : np.searchsorted(firsts, end)] - start
        places = np.repeat(these + _PREFIX_AT, len(PREFIX))
        out = np.insert(stored.data[start:end], places, np.tile(np.frombuffer(PREFIX, np.uint8), len(these)))
        at = these + len(PREFIX) * np.arange(len(these))
        lengths = _lengths(out, at) + len(PREFIX)
        for byte in range(3):
            out[at + byte] = lengths >> 8 * byte & 0xFF
        self.number(out, at)
        self._last = (out, int(at[-1])) if len(at) else None
        self._pending.append(out.data)

    def _begin(self, stored: Stored, start: int, end: int) -> None:
        """An event that takes several packets with its prefix, as far as it is here."""
        size = int.from_bytes(stored.view[start + _SIZE_AT : start + _SIZE_AT + 4], "little")
        self._left, self._room = _STATUS + len(PREFIX) + size, 0
        self._payload(memoryview(b"\0" + PREFIX))
        self._split(stored, start, end, skip=_PREFIX_AT)

    def _split(self, stored: Stored, start: int, end: int, skip: int = 0) -> None:
        """Bytes of an event that is being split anew; the headers of its packets, as they were, are left out."""
        inside = stored.packets[(stored.packets >= start + (skip > 0)) & (stored.packets < end)]
        at = start + skip
        for header in inside.tolist():
            self._payload(stored.view[at:header])
            at = header + _HEADER
        self._payload(stored.view[at:end])

    def _payload(self, data: memoryview) -> None:
        self._last = None
        while len(data):
            if not self._room:
                self._header(min(self._left, MAX_PACKET))
            part = data[: self._room]
            self._pending.append(part)
            self._room -= len(part)
            self._left -= len(part)
            data = data[len(part) :]
            if not self._left and self._full:
                self._header(0)  # a full packet is followed by another one, if only an empty one

    def _header(self, length: int) -> None:
        self._pending.append(length.to_bytes(3, "little") + bytes((self._channel.sequence,)))
        self._channel.sequence = (self._channel.sequence + 1) & 0xFF
        self._room, self._full = length, length == MAX_PACKET


def _lengths(data: Bytes, packets: Offsets) -> Offsets:
    """The lengths in the headers of the packets."""
    low, middle, high = (data[packets + byte].astype(np.int64) for byte in range(3))
    return low | middle << 8 | high << 16


def _next(firsts: Offsets, start: int, end: int) -> int:
    """Where the first event begins from `start` on; `end` if none does before."""
    at = int(np.searchsorted(firsts, start))
    return min(int(firsts[at]), end) if at < len(firsts) else end


class Acknowledgements:
    """What a replica has acknowledged: how often, and how far. Fed with what it sends, as it comes."""

    def __init__(self) -> None:
        self.count = 0
        self.file = ""
        self.position = 0
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes. Raises `ProtocolError` for what is no acknowledgement."""
        self._data += data
        while len(self._data) >= _HEADER:
            length = int.from_bytes(self._data[:3], "little")
            if length > _MAX_ACK:
                raise malformed(f"a packet of {length} bytes where a semi-sync acknowledgement is due")
            if len(self._data) < _HEADER + length:
                return
            packet = bytes(self._data[_HEADER : _HEADER + length])
            del self._data[: _HEADER + length]
            self._take(packet)

    def _take(self, packet: bytes) -> None:
        if len(packet) == 1:
            return  # COM_QUIT; the end of the connection follows
        if len(packet) < 1 + _POSITION or packet[0] != _MAGIC:
            raise malformed("something else where a semi-sync acknowledgement is due")
        self.count += 1
        self.position = int.from_bytes(packet[1 : 1 + _POSITION], "little")
        self.file = packet[1 + _POSITION :].split(b"\0", 1)[0].decode("utf-8", "replace")
