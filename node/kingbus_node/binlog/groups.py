"""The GTIDs of a block of events, as numpy columns.

Each GTID event begins a group of events (a transaction). These tables hold what identifies the group, for all groups of
a block at once: to say which GTIDs the block holds, and to leave out those that a replica has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from kingbus_node.binlog.constants import CHECKSUM_LENGTH, HEADER_LENGTH, Buffer, EventType, MariadbGtidFlag
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.gtid import MAX_NUMBER, GtidSet, Source
from kingbus_node.binlog.mariadb import MariadbGtid, MariadbState
from kingbus_node.binlog.scan import Bools, Events, Ints, gather
from kingbus_node.binlog.tagged import TaggedIdentities

ANONYMOUS: Final = -1
"""Source code of a group without a GTID."""

_ASSIGNED, _ANONYMOUS, _TAGGED = 1, 2, 3
_MYSQL_KINDS: Final = np.zeros(256, dtype=np.uint8)
_MYSQL_KINDS[[EventType.GTID, EventType.ANONYMOUS_GTID, EventType.GTID_TAGGED]] = (_ASSIGNED, _ANONYMOUS, _TAGGED)
_MARIADB_KIND: Final = int(EventType.MARIADB_GTID)
_STANDALONE: Final = int(MariadbGtidFlag.STANDALONE)

_MYSQL_GTID = np.dtype([("flags", "u1"), ("uuid", "V16"), ("number", "<i8")])
_MARIADB_GTID = np.dtype([("sequence", "<u8"), ("domain", "<u4"), ("flags2", "u1")])


@dataclass(frozen=True, slots=True)
class MysqlGroups:
    """MySQL's groups, in the order of the block."""

    index: Ints
    """Row of the GTID event in the block's events; -1: in an earlier block."""
    source: Ints
    """Index into `sources`; `ANONYMOUS` if the group has no GTID."""
    number: Ints
    sources: tuple[Source, ...]

    def __len__(self) -> int:
        return len(self.index)

    def held_by(self, executed: GtidSet) -> Bools:
        """For each group whether its GTID is in `executed`. An anonymous one never is."""
        out = np.zeros(len(self), dtype=np.bool_)
        for code, (uuid, tag) in enumerate(self.sources):
            mine = self.source == code
            out[mine] = executed.holds(uuid, tag, self.number[mine])
        return out

    def take(self, rows: Ints) -> MysqlGroups:
        """Some of the groups."""
        return MysqlGroups(self.index[rows], self.source[rows], self.number[rows], self.sources)

    def executed(self) -> GtidSet:
        """The GTIDs of all groups, as a set."""
        out = GtidSet()
        for code, (uuid, tag) in enumerate(self.sources):
            numbers = self.number[self.source == code]
            if len(numbers):
                out.add_numbers(uuid, tag, numbers)
        return out

    def after(self, earlier: MysqlGroups) -> MysqlGroups:
        """This table with the groups of `earlier` before it, as groups of an earlier block."""
        known = {source: code for code, source in enumerate(self.sources)}
        for source in earlier.sources:
            known.setdefault(source, len(known))
        codes = np.array([*(known[source] for source in earlier.sources), ANONYMOUS], dtype=np.int64)
        return MysqlGroups(
            np.concatenate((np.full(len(earlier), -1, dtype=np.int64), self.index)),
            np.concatenate((codes[earlier.source], self.source)),
            np.concatenate((earlier.number, self.number)),
            tuple(known),
        )


@dataclass(frozen=True, slots=True)
class MariadbGroups:
    """MariaDB's groups, in the order of the block."""

    index: Ints
    """Row of the GTID event in the block's events; -1: in an earlier block."""
    domain: npt.NDArray[np.uint32]
    server: npt.NDArray[np.uint32]
    sequence: npt.NDArray[np.uint64]
    standalone: Bools
    """The group is one statement, without a COMMIT."""

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: Ints) -> MariadbGroups:
        """Some of the groups."""
        return MariadbGroups(
            self.index[rows], self.domain[rows], self.server[rows], self.sequence[rows], self.standalone[rows]
        )

    def executed(self) -> MariadbState:
        """The state that executing all groups in order leaves."""
        if not len(self):
            return MariadbState()
        # Only the last group of each server in each domain counts, and the order of those.
        key = (self.domain.astype(np.uint64) << np.uint64(32)) | self.server
        if (key == key[-1]).all():
            last = np.array([len(key) - 1])
        else:
            _, from_end = np.unique(key[::-1], return_index=True)
            last = np.sort(len(key) - 1 - from_end)
        columns = (self.domain[last].tolist(), self.server[last].tolist(), self.sequence[last].tolist())
        return MariadbState(MariadbGtid(*gtid) for gtid in zip(*columns, strict=True))

    def after(self, earlier: MariadbGroups) -> MariadbGroups:
        """This table with the groups of `earlier` before it, as groups of an earlier block."""
        return MariadbGroups(
            np.concatenate((np.full(len(earlier), -1, dtype=np.int64), self.index)),
            np.concatenate((earlier.domain, self.domain)),
            np.concatenate((earlier.server, self.server)),
            np.concatenate((earlier.sequence, self.sequence)),
            np.concatenate((earlier.standalone, self.standalone)),
        )


Groups: TypeAlias = MysqlGroups | MariadbGroups


def mysql_groups(buf: Buffer, events: Events, checksummed: Bools) -> MysqlGroups:
    """The groups that begin among `events`, which lie in `buf`. `checksummed`: which events end in a CRC32."""
    kinds = _MYSQL_KINDS[events.type]
    index = kinds.nonzero()[0]
    kinds = kinds[index]
    source = np.full(len(index), ANONYMOUS, dtype=np.int64)
    number = np.zeros(len(index), dtype=np.int64)
    known: dict[Source, int] = {}
    fixed = (kinds != _TAGGED).nonzero()[0]
    if len(fixed):
        rows = index[fixed]
        _check_size(events, checksummed, rows, _MYSQL_GTID.itemsize, "a GTID event")
        record = gather(buf, events.start[rows] + HEADER_LENGTH, _MYSQL_GTID)
        assigned = kinds[fixed] == _ASSIGNED
        _read_fixed(events.start[rows], fixed, record, assigned, source, number, known)
    tagged = (kinds == _TAGGED).nonzero()[0]
    if len(tagged):
        rows = index[tagged]
        _check_size(events, checksummed, rows, 0, "a tagged GTID event")
        start = events.start[rows] + HEADER_LENGTH
        end = start - HEADER_LENGTH + events.size[rows] - CHECKSUM_LENGTH * checksummed[rows]
        identities = TaggedIdentities()
        for row, low, high in zip(tagged.tolist(), start.tolist(), end.tolist(), strict=True):
            try:
                key, number[row] = identities.read(bytes(buf[low:high]))
            except BinlogError as error:
                raise BinlogError(f"tagged GTID: {error}", low) from None
            source[row] = known.setdefault(key, len(known))
    return MysqlGroups(index, source, number, tuple(known))


def _read_fixed(
    start: Ints,
    rows: Ints,
    record: npt.NDArray[np.void],
    assigned: Bools,
    source: Ints,
    number: Ints,
    known: dict[Source, int],
) -> None:
    """Fill in `source` and `number` at `rows` from GTID events without tag; `start`: where those are."""
    if not assigned.all():
        start, rows, record = start[assigned], rows[assigned], record[assigned]
    if not len(rows):
        return
    numbers = np.ascontiguousarray(record["number"])
    bad = (numbers < 1) | (numbers > MAX_NUMBER)
    if bad.any():
        i = int(np.argmax(bad))
        raise BinlogError(f"expected a GTID number in 1 .. 2**63 - 2, found {int(numbers[i])}", int(start[i]))
    number[rows] = numbers
    source[rows] = _codes(np.ascontiguousarray(record["uuid"]), known)


def mariadb_groups(buf: Buffer, events: Events, checksummed: Bools) -> MariadbGroups:
    """The groups that begin among `events`, which lie in `buf`. `checksummed`: which events end in a CRC32."""
    index = (events.type == _MARIADB_KIND).nonzero()[0]
    _check_size(events, checksummed, index, _MARIADB_GTID.itemsize, "a GTID event")
    record = gather(buf, events.start[index] + HEADER_LENGTH, _MARIADB_GTID)
    return MariadbGroups(
        index,
        np.ascontiguousarray(record["domain"]),
        events.server_id[index],
        np.ascontiguousarray(record["sequence"]),
        (record["flags2"] & _STANDALONE) != 0,
    )


def _codes(uuids: npt.NDArray[np.void], known: dict[Source, int]) -> Ints:
    """Number the distinct uuids in `known`; returns each row's number."""
    halves = uuids.view("<u8").reshape(-1, 2)
    if (halves == halves[0]).all():
        return np.full(len(uuids), known.setdefault((uuids[0].tobytes(), ""), len(known)), dtype=np.int64)
    distinct, inverse = np.unique(halves, axis=0, return_inverse=True)
    codes = [known.setdefault((row.tobytes(), ""), len(known)) for row in distinct]
    return np.array(codes, dtype=np.int64)[inverse.reshape(-1)]


def _check_size(events: Events, checksummed: Bools, rows: Ints, body: int, what: str) -> None:
    """BinlogError unless each of the events has at least `body` bytes between header and checksum."""
    if not len(rows):
        return
    held = events.size[rows].astype(np.int64) - HEADER_LENGTH - CHECKSUM_LENGTH * checksummed[rows]
    if (held < body).any():
        i = int(np.argmax(held < body))
        raise BinlogError(
            f"expected {what} with {body} bytes of body, found {int(held[i])}", int(events.start[rows[i]])
        )
