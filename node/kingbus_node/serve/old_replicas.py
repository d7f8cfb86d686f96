"""Stand-ins for events that an old replica of MariaDB, or a MySQL replica of it, would not understand.

A replica says what it can do with @mariadb_slave_capability (MariaDB since 5.3 and its tools do; nothing said is 0).
One that counts positions by what it receives must get an event of the same size where one is kept from it, so:

    ======================  =====================================================================
    capability below        what happens
    ======================  =====================================================================
    1 (ANNOTATE)            ANNOTATE_ROWS becomes a dummy
    2 (TOLERATE_HOLES)      nothing may be left out: what others are not sent becomes a dummy
    3 (BINLOG_CHECKPOINT)   BINLOG_CHECKPOINT is not sent
    4 (GTID)                GTID becomes BEGIN, or is not sent if the group has no COMMIT either;
                            GTID_LIST is not sent
    ======================  =====================================================================

Layouts as captured from MariaDB 10.11.19, and as in sql/log_event_server.cc (`dummy_event`, `begin_event`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from kingbus_node.binlog.checksum import with_checksum
from kingbus_node.binlog.constants import CHECKSUM_LENGTH, HEADER_LENGTH, EventFlag, EventType, MariadbGtidFlag
from kingbus_node.serve.blockview import BlockView, Bools


class Capability(IntEnum):
    """Values of @mariadb_slave_capability: a replica with one has those below, too."""

    ANNOTATE = 1
    TOLERATE_HOLES = 2
    BINLOG_CHECKPOINT = 3
    GTID = 4


_QUERY_FIXED: Final = 13  # thread id u32, execution time u32, length of schema u8, error u16, length of variables u16
_LEAST_QUERY: Final = HEADER_LENGTH + _QUERY_FIXED + 1  # with the zero byte behind the empty schema
_LEAST_USER_VARIABLE: Final = HEADER_LENGTH + 4 + 1 + 1  # length of name, a name of one byte, "is NULL"
_USER_VARIABLE: Final = b"!dummyvar"
_TIME_ZONE: Final = 5  # code of a status variable: its length u8, its text
_PLAIN_GTID: Final = HEADER_LENGTH + 19
_GROUP_COMMIT_GTID: Final = _PLAIN_GTID + 2
_GTID_FLAGS_AT: Final = HEADER_LENGTH + 12


@dataclass(frozen=True, slots=True)
class OldReplica:
    """What a replica of this capability gets instead. For capability 4 nothing changes."""

    capability: int

    def omitted(self, view: BlockView) -> Bools:
        """Which events of a block are not sent; the others are changed in place by `replace`."""
        kind = view.types
        hidden = np.zeros(len(kind), np.bool_)
        if self.capability < Capability.TOLERATE_HOLES:
            return hidden
        if self.capability < Capability.BINLOG_CHECKPOINT:
            hidden |= kind == EventType.BINLOG_CHECKPOINT
        hidden |= kind == EventType.GTID_LIST
        for row in np.flatnonzero(kind == EventType.MARIADB_GTID).tolist():
            hidden[row] = bool(view.event(row)[_GTID_FLAGS_AT] & MariadbGtidFlag.STANDALONE)
        return hidden

    def replace(self, view: BlockView, sent: Bools, *, annotate: bool, checksum: bool) -> int | None:
        """Overwrite, in the block's buffer, those of the events that are `sent` which take another form.

        `annotate`: the client asked for ANNOTATE_ROWS. `checksum`: events end in a CRC32. Returns the first event for
        which there is no other form (a GTID with the id of an XA transaction): the stream has to end before it.
        """
        replaced = [EventType.MARIADB_GTID]
        if self.capability < Capability.ANNOTATE and not annotate:
            replaced.append(EventType.ANNOTATE_ROWS)
        if self.capability < Capability.TOLERATE_HOLES:
            replaced += EventType.BINLOG_CHECKPOINT, EventType.GTID_LIST
        for row in np.flatnonzero(np.isin(view.types, replaced) & sent).tolist():
            if not view.is_whole(row):
                continue  # a statement longer than a block: its checksum is out of reach
            event = view.event(row)
            gtid = event[4] == EventType.MARIADB_GTID
            begins = gtid and not event[_GTID_FLAGS_AT] & MariadbGtidFlag.STANDALONE
            if begins and len(event) - CHECKSUM_LENGTH * checksum not in (_PLAIN_GTID, _GROUP_COMMIT_GTID):
                return int(row)
            view.overwrite(row, begin_event(event, checksum) if begins else dummy_event(event, checksum))
        return None


def dummy_event(event: bytes, checksum: bool) -> bytes:
    """An event of the same size that does nothing: a comment, or if it is too short for that a user variable."""
    size = len(event) - CHECKSUM_LENGTH * checksum
    if size <= _LEAST_QUERY:
        name = _USER_VARIABLE[: size - _LEAST_USER_VARIABLE + 1]
        body = struct.pack("<I", len(name)) + name + b"\1"
        return _instead(event, EventType.USER_VAR, body.ljust(size - HEADER_LENGTH, b"\0"), checksum)
    comment = f"# Dummy event replacing event type {event[4]} that slave cannot handle.".encode()
    length = size - _LEAST_QUERY
    body = bytes(_QUERY_FIXED) + b"\0" + comment[:length].ljust(length)
    return _instead(event, EventType.QUERY, body, checksum)


def begin_event(event: bytes, checksum: bool) -> bytes:
    """A BEGIN of the size of a GTID event, which has either of two sizes."""
    # An event with a commit id is longer; an empty time zone takes the room.
    longer = len(event) - CHECKSUM_LENGTH * checksum == _GROUP_COMMIT_GTID
    variables = bytes((_TIME_ZONE, 0)) if longer else b""
    body = bytes(_QUERY_FIXED - 2) + struct.pack("<H", len(variables)) + variables + b"\0BEGIN"
    return _instead(event, EventType.QUERY, body, checksum)


def _instead(event: bytes, kind: EventType, body: bytes, checksum: bool) -> bytes:
    """`event` with another type and body of the same size."""
    timestamp, _, server_id, size, log_pos, flags = struct.unpack_from("<IBIIIH", event)
    flags = flags & ~EventFlag.THREAD_SPECIFIC | EventFlag.SUPPRESS_USE
    out = struct.pack("<IBIIIH", timestamp, kind, server_id, size, log_pos, flags) + body
    return with_checksum(out) if checksum else out
