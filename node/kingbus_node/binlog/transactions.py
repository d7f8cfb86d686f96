"""Where transactions begin and end, in both flavours.

Rules (MySQL: Transaction_boundary_parser, libs/mysql/binlog/event/trx_boundary_parser.cpp; MariaDB: queue_event in
sql/slave.cc, Log_event::is_part_of_group; tried on MySQL 9.7.4 and MariaDB 10.11.19):

1. A transaction begins with its GTID event. It is executed when it ends, not before.
2. MySQL: if the first QUERY event after the GTID is BEGIN, XA START, or CREATE TABLE ... START TRANSACTION, the
   transaction goes on to an XID, an XA_PREPARE, or a QUERY that is COMMIT, ROLLBACK (but not ROLLBACK TO) or XA
   ROLLBACK. Any other first QUERY (DDL, XA COMMIT, ...) is the whole transaction, and so is a TRANSACTION_PAYLOAD.
3. MariaDB: the GTID event says which it is. STANDALONE: the transaction ends with the first event that is not a mere
   preparation (INTVAR, RAND, USER_VAR, TABLE_MAP, ANNOTATE_ROWS). Otherwise with an XID, an XA_PREPARE, or a QUERY that
   is COMMIT or ROLLBACK.
4. An INCIDENT ends the transaction that it is in.
5. FORMAT_DESCRIPTION, ROTATE and STOP are at the edge of a file. A transaction never crosses it: one that is open there
   was cut by a crash of its server, and is abandoned.
6. All other events belong to the open transaction, if there is one. Row data and the like outside of a transaction, an
   end without a beginning, or a GTID event within a transaction is a BinlogError.

A transaction without GTID event (GTID mode OFF, before MySQL 5.7) is followed like the others, from its BEGIN on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from kingbus_node.binlog.constants import Buffer, ChecksumAlgorithm, EventType, Flavor, type_name
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.groups import Groups, MariadbGroups, MysqlGroups, mariadb_groups, mysql_groups
from kingbus_node.binlog.scan import Bools, Events, Ints
from kingbus_node.binlog.statements import BEGIN, COMMIT, STATEMENT, statement_kinds

# What an event does. The first two do nothing to the state.
_OTHER, _PART, _ROWS, _STATEMENT, _BEGIN, _COMMIT, _XID, _PAYLOAD, _INCIDENT, _FILE, _GTID, _GROUP, _ALONE = range(13)

# The states: no transaction; after MySQL's GTID; in a transaction that has its own end; after MariaDB's lone GTID.
_NONE, _HEAD, _BODY, _SINGLE = range(4)

# What to do, in each state, with each class of event.
_STAY, _OPEN_HEAD, _OPEN_BODY, _OPEN_SINGLE, _TO_BODY, _END, _WHOLE, _ABANDON, _MISPLACED, _NESTED = range(10)


def _table() -> tuple[tuple[int, ...], ...]:
    actions = {
        #             NONE          HEAD      BODY      SINGLE
        _OTHER: (_STAY, _STAY, _STAY, _STAY),
        _PART: (_MISPLACED, _STAY, _STAY, _STAY),
        _ROWS: (_MISPLACED, _STAY, _STAY, _END),
        _STATEMENT: (_WHOLE, _END, _STAY, _END),
        _BEGIN: (_OPEN_BODY, _TO_BODY, _STAY, _END),
        _COMMIT: (_MISPLACED, _END, _END, _END),
        _XID: (_MISPLACED, _END, _END, _END),
        _PAYLOAD: (_MISPLACED, _END, _MISPLACED, _MISPLACED),
        _INCIDENT: (_STAY, _END, _END, _END),
        _FILE: (_STAY, _ABANDON, _ABANDON, _ABANDON),
        _GTID: (_OPEN_HEAD, _NESTED, _NESTED, _NESTED),
        _GROUP: (_OPEN_BODY, _NESTED, _NESTED, _NESTED),
        _ALONE: (_OPEN_SINGLE, _NESTED, _NESTED, _NESTED),
    }
    return tuple(tuple(actions[kind][state] for kind in range(13)) for state in range(4))


_ACTIONS: Final = _table()

_T = EventType
_CLASSES: Final[dict[int, tuple[EventType, ...]]] = {
    _PART: (
        _T.INTVAR, _T.RAND, _T.USER_VAR, _T.TABLE_MAP, _T.ANNOTATE_ROWS, _T.ROWS_QUERY, _T.VIEW_CHANGE,
        _T.APPEND_BLOCK, _T.DELETE_FILE, _T.BEGIN_LOAD_QUERY, _T.PARTIAL_ROW_DATA,
    ),
    _ROWS: (
        _T.PRE_GA_WRITE_ROWS, _T.PRE_GA_UPDATE_ROWS, _T.PRE_GA_DELETE_ROWS,
        _T.WRITE_ROWS_V1, _T.UPDATE_ROWS_V1, _T.DELETE_ROWS_V1, _T.WRITE_ROWS, _T.UPDATE_ROWS, _T.DELETE_ROWS,
        _T.PARTIAL_UPDATE_ROWS, _T.WRITE_ROWS_COMPRESSED_V1, _T.UPDATE_ROWS_COMPRESSED_V1,
        _T.DELETE_ROWS_COMPRESSED_V1, _T.WRITE_ROWS_COMPRESSED, _T.UPDATE_ROWS_COMPRESSED, _T.DELETE_ROWS_COMPRESSED,
        _T.EXECUTE_LOAD_QUERY,
    ),
    _STATEMENT: (_T.QUERY, _T.QUERY_COMPRESSED),
    _XID: (_T.XID, _T.XA_PREPARE),
    _PAYLOAD: (_T.TRANSACTION_PAYLOAD,),
    _INCIDENT: (_T.INCIDENT,),
    _FILE: (_T.FORMAT_DESCRIPTION, _T.START_V3, _T.ROTATE, _T.STOP),
    _GTID: (_T.GTID, _T.ANONYMOUS_GTID, _T.GTID_TAGGED),
    _GROUP: (_T.MARIADB_GTID,),
}  # fmt: skip


def _class_of_type() -> npt.NDArray[np.uint8]:
    out = np.full(256, _OTHER, dtype=np.uint8)
    for kind, types in _CLASSES.items():
        out[list(types)] = kind
    return out


_CLASS_OF_TYPE: Final = _class_of_type()
_CLASS_OF_STATEMENT: Final = np.zeros(3, dtype=np.uint8)
_CLASS_OF_STATEMENT[[STATEMENT, BEGIN, COMMIT]] = (_STATEMENT, _BEGIN, _COMMIT)


@dataclass(frozen=True, slots=True)
class Boundaries:
    """The transactions of one block of events. Indices are rows of the block's `Events`."""

    safe: Bools
    """For each event whether, once it is complete, no transaction is open."""
    starts: Ints
    """For each transaction that ends in this block its first event; -1 if that is in an earlier block."""
    ends: Ints
    """For each transaction that ends in this block its last event. Ascending."""
    open_start: int | None
    """First event (-1: in an earlier block) of the transaction that the block leaves open; None if there is none."""
    abandoned: Ints
    """Events at the edge of a file (rule 5) at which the transaction that was open was abandoned."""
    checksummed: Bools
    """For each event whether it ends in a CRC32."""
    groups: Groups
    """The GTIDs of the groups that begin in this block, after the one that was open at its beginning."""
    _group: Ints
    """For each transaction that ends in this block its row in `groups`; -1: it has no GTID event."""

    def __len__(self) -> int:
        """How many transactions end in this block."""
        return len(self.ends)

    def delta(self, first: int, last: int) -> bytes:
        """The GTIDs of transactions first .. last - 1, in the binary form that `ExecutedSet.apply_delta` takes."""
        rows = self._group[first:last]
        return self.groups.take(rows[rows >= 0]).executed().encode()

    def transaction_of(self) -> Ints:
        """For each event the number of its transaction: 0 .. len - 1 as in `ends`, len for the open one, else -1."""
        events = np.arange(len(self.safe))
        which = np.searchsorted(self.ends, events)
        first = np.append(self.starts, len(events) if self.open_start is None else self.open_start)
        return np.where(events >= first[which], which, -1)


class TransactionTracker:
    """Follows a stream of events, block by block. Its memory is one GTID."""

    __slots__ = ("_carried", "_state", "checksum", "flavor")

    def __init__(self, flavor: Flavor, checksum: ChecksumAlgorithm = ChecksumAlgorithm.UNDEFINED) -> None:
        """`checksum`: the algorithm in force until a FORMAT_DESCRIPTION event says otherwise."""
        self.flavor: Final = flavor
        self.checksum = checksum
        self._state = _NONE
        self._carried: Groups | None = None  # the group of the open transaction

    @property
    def open(self) -> bool:
        """Whether a transaction has begun that has not ended."""
        return self._state != _NONE

    def reset(self) -> None:
        """Forget the open transaction: the connection was cut."""
        self._state = _NONE
        self._carried = None

    def feed(self, buf: Buffer, events: Events) -> Boundaries:
        """Take the next block of events, which lie in `buf`. After a BinlogError the tracker is as before the call."""
        checksummed, checksum = events.checksummed(buf, self.checksum)
        groups: Groups
        if self.flavor is Flavor.MARIADB:
            groups = mariadb_groups(buf, events, checksummed)
        else:
            groups = mysql_groups(buf, events, checksummed)
        kinds = self._classify(buf, events, checksummed, groups)
        groups = _joined(self._carried, groups)
        walk = _Walk(self._state, -1 if self._state != _NONE else None)
        rows_end_it = self._state == _SINGLE or bool((kinds == _ALONE).any())
        significant = (kinds > (_PART if rows_end_it else _ROWS)).nonzero()[0]
        walk.run(significant.tolist(), kinds[significant].tolist(), events)
        starts = np.array(walk.starts, dtype=np.int64)
        ends = np.array(walk.ends, dtype=np.int64)
        inside = _inside(len(events), starts, ends, walk)
        misplaced = ~inside & ((kinds == _PART) | (kinds == _ROWS))
        if misplaced.any():
            raise _misplaced(events, int(np.argmax(misplaced)))
        self._state = walk.state
        self.checksum = checksum
        # A transaction's group is the one whose GTID event is its first event; `groups.index` ascends.
        row = np.searchsorted(groups.index, starts)
        known = row < len(groups)
        known[known] = groups.index[row[known]] == starts[known]
        if walk.open is None:
            self._carried = None
        else:
            self._carried = groups.take(np.flatnonzero(groups.index == walk.open))
        safe = ~inside
        safe[ends] = True
        return Boundaries(
            safe=safe,
            starts=starts,
            ends=ends,
            open_start=walk.open,
            abandoned=np.array(walk.abandoned, dtype=np.int64),
            checksummed=checksummed,
            groups=groups,
            _group=np.where(known, row, -1),
        )

    def _classify(self, buf: Buffer, events: Events, checksummed: Bools, groups: Groups) -> npt.NDArray[np.uint8]:
        kinds = _CLASS_OF_TYPE[events.type]
        foreign = kinds == (_GTID if self.flavor is Flavor.MARIADB else _GROUP)
        if foreign.any():
            i = int(np.argmax(foreign))
            name = type_name(int(events.type[i]))
            raise BinlogError(f"expected the events of a {self.flavor} server, found {name}", int(events.start[i]))
        queries = (kinds == _STATEMENT).nonzero()[0]
        kinds[queries] = _CLASS_OF_STATEMENT[statement_kinds(buf, events, queries, checksummed, self.flavor)]
        if isinstance(groups, MariadbGroups):
            kinds[groups.index[groups.standalone]] = _ALONE
        return kinds


class _Walk:
    """Walks over the events that matter, by the table of actions."""

    __slots__ = ("abandoned", "abandoned_starts", "ends", "open", "starts", "state")

    def __init__(self, state: int, start: int | None) -> None:
        self.state = state
        self.open = start
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.abandoned: list[int] = []
        self.abandoned_starts: list[int] = []

    def run(self, rows: list[int], kinds: list[int], events: Events) -> None:
        state, start = self.state, self.open
        started, ended = self.starts.append, self.ends.append
        for row, kind in zip(rows, kinds, strict=True):
            action = _ACTIONS[state][kind]
            if action == _STAY:
                pass
            elif action == _END:
                assert start is not None
                started(start)
                ended(row)
                state, start = _NONE, None
            elif action == _TO_BODY:
                state = _BODY
            elif action == _OPEN_HEAD:
                state, start = _HEAD, row
            elif action == _OPEN_BODY:
                state, start = _BODY, row
            elif action == _OPEN_SINGLE:
                state, start = _SINGLE, row
            elif action == _WHOLE:
                started(row)
                ended(row)
            elif action == _ABANDON:
                assert start is not None
                self.abandoned.append(row)
                self.abandoned_starts.append(start)
                state, start = _NONE, None
            elif action == _NESTED:
                raise BinlogError(
                    f"expected the end of the transaction that is open, found {type_name(int(events.type[row]))}",
                    int(events.start[row]),
                )
            else:
                raise _misplaced(events, row)
        self.state, self.open = state, start


def _misplaced(events: Events, row: int) -> BinlogError:
    name = type_name(int(events.type[row]))
    return BinlogError(f"expected {name} only within a transaction, found it elsewhere", int(events.start[row]))


def _joined(carried: Groups | None, groups: Groups) -> Groups:
    if isinstance(carried, MysqlGroups) and isinstance(groups, MysqlGroups):
        return groups.after(carried)
    if isinstance(carried, MariadbGroups) and isinstance(groups, MariadbGroups):
        return groups.after(carried)
    return groups


def _inside(count: int, starts: Ints, ends: Ints, walk: _Walk) -> Bools:
    """Which events belong to a transaction."""
    change = np.zeros(count + 1, dtype=np.int64)
    change[np.maximum(starts, 0)] += 1  # no event begins two transactions, none ends two
    change[ends + 1] -= 1
    for start, cut in zip(walk.abandoned_starts, walk.abandoned, strict=True):
        change[max(start, 0)] += 1
        change[cut] -= 1
    if walk.open is not None:
        change[max(walk.open, 0)] += 1
    return np.cumsum(change[:count]) > 0
