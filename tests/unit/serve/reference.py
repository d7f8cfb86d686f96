"""How the servers themselves decide what to send, event by event: the plain form of what the filters do by the block.

MySQL: Binlog_sender::send_events and check_start_file (sql/rpl_binlog_sender.cc). MariaDB: send_event_to_slave,
check_slave_start_position, gtid_find_binlog_file and contains_all_slave_gtid (sql/sql_repl.cc). Written from their
behaviour, without regard for speed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from unit.serve.dumps import SERVER_ID

from kingbus_node.binlog.build import fix_format_description
from kingbus_node.binlog.constants import EventType
from kingbus_node.binlog.event import Gtid, MariadbGtidEvent
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbGtid, MariadbState
from kingbus_node.serve.artificial import Artificial

_T = EventType


@dataclass
class File:
    """A binlog file: its events have their positions and end in a CRC32; the first is its FORMAT_DESCRIPTION."""

    name: str
    events: list[bytes]


def _end(event: bytes) -> int:
    return int(struct.unpack_from("<I", event, 13)[0])


# -- MySQL


def _gtid(event: bytes) -> GtidSet | None:
    if event[4] not in (_T.GTID, _T.GTID_TAGGED):
        return None
    gtid = Gtid.parse(event, checksum=True)
    out = GtidSet()
    out.add(gtid.uuid, gtid.number, gtid.tag)
    return out


def mysql_start(files: Sequence[File], held: GtidSet) -> int:
    """The newest file before which `held` has everything."""
    before = GtidSet()
    start = 0
    for number, file in enumerate(files):
        if held >= before:
            start = number
        for event in file.events:
            before |= _gtid(event) or GtidSet()
    return start


def mysql_stream(files: Sequence[File], held: GtidSet, *, name: str = "", heartbeat_version: int = 1) -> list[bytes]:
    """The events of a non-blocking COM_BINLOG_DUMP_GTID."""
    artificial = Artificial(SERVER_ID, heartbeat_version, True)
    number = [file.name for file in files].index(name) if name else mysql_start(files, held)
    gtids = [gtid for event in files[number].events if (gtid := _gtid(event)) is not None]
    clears_created = not name and bool(gtids) and held >= gtids[0]
    out: list[bytes] = []
    for number_, file in enumerate(files[number:], number):
        artificial.file = file.name
        out += artificial.rotate(4), fix_format_description(file.events[0], zero_create_timestamp=clears_created)
        skipping, untold = False, 0
        for event in file.events[1:]:
            gtid = _gtid(event)
            if gtid is not None:
                skipping = held >= gtid
            elif event[4] == _T.ROTATE:
                skipping = False
            if skipping:
                untold = _end(event)
                continue
            if untold:
                out.append(artificial.heartbeat(untold))
                untold = 0
            out.append(event)
        if skipping and number_ == len(files) - 1:
            out.append(artificial.heartbeat(_end(file.events[-1])))
    return out


# -- MariaDB


def _mariadb_gtid(event: bytes) -> tuple[MariadbGtid, bool]:
    parsed = MariadbGtidEvent.parse(event, checksum=True)
    return parsed.gtid, parsed.standalone


@dataclass
class Refused(Exception):
    """The stream ends with an error about this GTID. sent: what came before."""

    why: str
    gtid: MariadbGtid | None = None
    sent: list[bytes] = field(default_factory=list)


@dataclass
class MariadbDump:
    """One dump by GTID position."""

    files: Sequence[File]
    start: dict[int, MariadbGtid]
    until: dict[int, MariadbGtid] | None = None
    strict: bool = False
    ignore_duplicates: bool = False
    annotate: bool = False
    foreign: set[int] = field(default_factory=set)

    def _executed(self, files: Sequence[File]) -> MariadbState:
        state = MariadbState()
        for file in files:
            for event in file.events:
                if event[4] == _T.MARIADB_GTID:
                    state.update(*_mariadb_gtid(event)[0])
        return state

    def _check(self) -> None:
        executed = self._executed(self.files)
        for domain, gtid in self.start.items():
            if executed.has(gtid):
                continue
            newest = executed.newest(domain)
            if newest is None:
                self.foreign.add(domain)
                continue
            if self.ignore_duplicates and newest.sequence < gtid.sequence:
                continue
            end = None if self.until is None else self.until.get(domain)
            if self.until is not None and (end is None or executed.has(end)):
                self.until.pop(domain, None)
                continue
            raise Refused("diverged" if newest.sequence >= gtid.sequence else "ahead", gtid)

    def _find(self) -> int:
        for number in reversed(range(len(self.files))):
            before = self._executed(self.files[:number])
            if self._contains_all(before):
                for gtid in before:
                    if self.start.get(gtid.domain) == gtid:
                        del self.start[gtid.domain]
                    end = None if self.until is None else self.until.get(gtid.domain)
                    if self.until is not None and end and end.server == gtid.server and end.sequence <= gtid.sequence:
                        del self.until[gtid.domain]
                return number
        raise Refused("purged")

    def _contains_all(self, before: MariadbState) -> bool:
        entries = list(before)
        for index, gtid in enumerate(entries):
            mine = self.start.get(gtid.domain)
            if mine is None:
                return False
            if mine.server == gtid.server and mine.sequence <= gtid.sequence:
                last = index + 1 == len(entries) or entries[index + 1].domain != gtid.domain
                if mine.sequence < gtid.sequence or not last:
                    return False
        return True

    def outcome(self) -> tuple[list[bytes], Refused | None]:
        """The events of the non-blocking dump, and the error that it ends in."""
        try:
            return self._stream(), None
        except Refused as refused:
            return refused.sent, refused

    def _stream(self) -> list[bytes]:
        self._check()
        number = self._find()
        artificial = Artificial(SERVER_ID, 1, True)
        out: list[bytes] = []
        passed = MariadbState()
        skip = "no"
        listing = False
        stopping = "standalone" if self.until == {} else "no"
        executed = self._executed(self.files)
        for file in self.files[number:]:
            artificial.file = file.name
            clears = not self.foreign.issuperset(self.start)
            out += artificial.rotate(4), fix_format_description(file.events[0], zero_create_timestamp=clears)
            for event in file.events[1:]:
                kind = event[4]
                if kind == _T.GTID_LIST and self.until is not None:
                    passed = MariadbState.decode(event[19:-4])
                if kind == _T.MARIADB_GTID and (self.start or self.until is not None):
                    gtid, alone = _mariadb_gtid(event)
                    passed.update(*gtid)
                    how = "standalone" if alone else "transaction"
                    mine = self.start.get(gtid.domain)
                    if mine is not None:
                        if gtid.domain in self.foreign:
                            if not executed.has(mine):
                                newest = executed.newest(mine.domain)
                                ahead = newest is None or newest.sequence < mine.sequence
                                raise Refused("ahead" if ahead else "diverged", mine, out)
                            self.foreign.discard(gtid.domain)
                        if gtid.server != mine.server or gtid.sequence <= mine.sequence:
                            skip = how
                        if gtid.server == mine.server and gtid.sequence >= mine.sequence:
                            if self.strict and gtid.sequence > mine.sequence:
                                raise Refused("hole", mine, out)
                            listing = True
                            del self.start[gtid.domain]
                    if self.until is not None:
                        end = self.until.get(gtid.domain)
                        if end is None:
                            skip = how
                        elif gtid.server == end.server and gtid.sequence >= end.sequence:
                            del self.until[gtid.domain]
                            if not self.until:
                                stopping = how
                            if gtid.sequence > end.sequence:
                                skip = how
                if skip != "no":
                    if _ends(kind, event, skip):
                        skip = "no"
                elif kind != _T.ANNOTATE_ROWS or self.annotate:
                    out.append(event)
                if listing and skip == "no":
                    out.append(artificial.gtid_list(passed, _end(event)))
                    listing = False
                if stopping != "no" and _ends(kind, event, stopping):
                    out.append(artificial.gtid_list(passed, _end(event), until_reached=True))
                    return out
        return out


def _ends(kind: int, event: bytes, how: str) -> bool:
    """Whether the event ends a group of this form."""
    if how == "standalone":
        return kind not in (_T.MARIADB_GTID, _T.INTVAR, _T.RAND, _T.USER_VAR, _T.TABLE_MAP, _T.ANNOTATE_ROWS)
    return kind in (_T.XID, _T.XA_PREPARE) or (kind == _T.QUERY and event[:-4].endswith((b"COMMIT", b"ROLLBACK")))
