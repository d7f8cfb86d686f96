"""A block of the log as a dump looks at it: where events begin and of which type they are, without a copy of anything.

Unlike `binlog.scan.Events`, which checks what comes from a source, this looks at bytes that were checked when they were
stored, and at pieces of events that are larger than a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kingbus_node.binlog.constants import MAX_PACKET
from kingbus_node.binlog.groups import MariadbGroups, MysqlGroups, mariadb_groups, mysql_groups
from kingbus_node.binlog.scan import EVENT_AT, PACKET_HEADER, Events
from kingbus_node.store.cursor import Block
from kingbus_node.store.entry import Flag

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_TYPE_AT = EVENT_AT + 4
_SIZE_AT = EVENT_AT + 9


@dataclass(frozen=True, slots=True)
class BlockView:
    """The events that begin in a block, one row to each.

    block: what `Cursor.read` gave. data: its bytes. packets: all of its packets. starts: the packets that begin an
    event. types: those events' types. Bytes before the first start belong to an event of an earlier block.
    """

    block: Block
    data: npt.NDArray[np.uint8]
    packets: Ints
    starts: Ints
    types: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, block: Block) -> BlockView:
        """Look at a block."""
        data = np.frombuffer(block.data, np.uint8)
        packets = block.packets
        starts = packets[~block.continuation] if block.continuation.any() else packets
        return cls(block, data, packets, starts, data[starts + _TYPE_AT])

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def ends_in_transaction(self) -> bool:
        """A transaction goes on behind the block."""
        return not self.block.complete or not self.block.records[-1]["flags"] & Flag.LAST

    def size(self, row: int) -> int:
        """The size of event `row`, however much of it is here."""
        start = int(self.starts[row])
        return int.from_bytes(self.block.data[start + _SIZE_AT : start + _SIZE_AT + 4], "little")

    def unfinished(self, before: int) -> int:
        """How many bytes of the last event, packet headers included, come behind the block; `before`: what this was
        for the block before.
        """
        if not len(self.starts):
            return before - len(self.data)
        start = int(self.starts[-1])
        payload = 1 + self.size(len(self) - 1)
        return start + payload + PACKET_HEADER * (payload // MAX_PACKET + 1) - len(self.data)

    def end_position(self, row: int) -> int:
        """Where event `row` ends in its source file.

        By the bytes before it in its entry: its own log_pos has 32 bits only, and is 0 within the transactions of a
        newer MariaDB.
        """
        start = int(self.starts[row])
        entry = int(np.searchsorted(self.block.bounds, start, side="right")) - 1
        base = int(self.block.bounds[entry])
        position = int(self.block.records[entry]["start_pos"]) if entry else self.block.position
        before, here = map(int, np.searchsorted(self.packets, (base, start)))
        around = PACKET_HEADER * (here - before) + row - int(np.searchsorted(self.starts, base))
        return position + start - base - around + self.size(row)

    def event(self, row: int) -> bytes:
        """Event `row`, which must be a short one."""
        start = int(self.starts[row])
        length = int.from_bytes(self.block.data[start : start + 3], "little")
        return bytes(self.block.data[start + EVENT_AT : start + PACKET_HEADER + length])

    def is_whole(self, row: int) -> bool:
        """Whether event `row` is in one packet, and all of it in this block."""
        start = int(self.starts[row])
        length = int.from_bytes(self.block.data[start : start + 3], "little")
        return length < MAX_PACKET and start + PACKET_HEADER + length <= len(self.block.data)

    def overwrite(self, row: int, event: bytes) -> None:
        """Put another event of the same size in the place of event `row`, which `is_whole`. `types` stays as it was."""
        start = int(self.starts[row]) + EVENT_AT
        self.block.data[start : start + len(event)] = event

    def mysql_groups(self, rows: Ints, checksum: bool) -> MysqlGroups:
        """The GTIDs of the events `rows`, which are GTID events of MySQL. `index` counts within `rows`."""
        events = self._events(rows)
        return mysql_groups(self.block.data, events, np.full(len(events), checksum))

    def mariadb_groups(self, rows: Ints, checksum: bool) -> MariadbGroups:
        """The GTIDs of the events `rows`, which are GTID events of MariaDB. `index` counts within `rows`."""
        events = self._events(rows)
        return mariadb_groups(self.block.data, events, np.full(len(events), checksum))

    def _events(self, rows: Ints) -> Events:
        return Events.gather(self.block.data, self.starts[rows].astype(np.uint32))

    def cut(self, keep: Bools, first: int, behind: int, *, carried: bool) -> tuple[Ints, Ints, Ints]:
        """What is left of the events `first` to ``behind - 1`` when only those with `keep` are sent, in order:
        (packets, starts of ranges of bytes, ends of these ranges).

        `carried`: with the bytes before the first event, if `first` is 0.
        """
        kept = np.concatenate(([carried and not first], keep[first:behind]))
        bounds = np.concatenate(([0], self.starts[first : behind + 1]))
        if behind == len(self):
            bounds = np.append(bounds, len(self.data))
        edge = np.diff(kept.astype(np.int8), prepend=0, append=0)
        starts, ends = bounds[np.flatnonzero(edge == 1)], bounds[np.flatnonzero(edge == -1)]
        if len(self.starts) == len(self.packets):
            packets = self.starts[first:behind][kept[1:]]
        else:
            begin, end = (0 if not first else int(bounds[1])), int(bounds[-1])
            these = self.packets[np.searchsorted(self.packets, begin) : np.searchsorted(self.packets, end)]
            packets = these[kept[np.searchsorted(self.starts[first:behind], these, side="right")]]
        nonempty = starts < ends
        return packets, starts[nonempty], ends[nonempty]
