"""A model of a source: binlog files in memory, and the dumps that a server would make of them.

It follows the rules that were captured from MySQL 9.7.4 and MariaDB 10.11 (which dump begins where, what is artificial,
what is skipped, which errors), but not their handshake: `dump` takes a command's bytes and gives events.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kingbus_node.binlog.build import (
    fix_format_description,
    gtid_list_event,
    heartbeat_event,
    make_event,
    packetize,
    rotate_event,
)
from kingbus_node.binlog.constants import ChecksumAlgorithm, EventType, Flavor
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbGtid, MariadbState
from kingbus_node.source.checks import SourceFacts
from kingbus_node.source.errors import SourceEnd
from kingbus_node.wire.commands import Command, DumpKind, DumpRequest, parse_binlog_dump, parse_binlog_dump_gtid

UUID = uuid.UUID("3091a0af-e696-11f1-9062-02fc00000001")
OTHER_UUID = uuid.UUID("4091a0af-e696-11f1-9062-02fc00000002")
_VERSIONS = {Flavor.MYSQL: "9.7.4-2", Flavor.MARIADB: "10.11.19-MariaDB-0+deb12u1-log"}

Executed = GtidSet | MariadbState


@dataclass(frozen=True)
class Stored:
    """An event in a file. `group`: a number that the events of one transaction share, None outside of transactions."""

    start: int
    data: bytes
    group: int | None
    gtid: str = ""

    @property
    def end(self) -> int:
        return self.start + len(self.data)


@dataclass
class File:
    """A binlog file. `before`: what had been executed when it began."""

    name: str
    before: Executed
    events: list[Stored] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.events[-1].end if self.events else 4

    @property
    def bytes(self) -> bytes:
        return b"".join(event.data for event in self.events)


class Origin:
    """See the module. `clock` is the time of the next event, in seconds; each event takes one.

    `legacy_positions`: False for MariaDB since 11.4, whose events within transactions have log_pos 0, and which begins
    a dump by GTID where its index says, behind the head of the file. `wrap`: where the positions in events begin anew.
    """

    def __init__(
        self,
        flavor: Flavor,
        *,
        server_uuid: uuid.UUID = UUID,
        server_id: int = 1,
        checksum: bool = True,
        clock: int = 1_795_000_000,
        base: str = "binlog",
        executed: Executed | None = None,
        legacy_positions: bool = True,
        wrap: int = 1 << 32,
    ) -> None:
        self.flavor = flavor
        self.legacy_positions = legacy_positions
        self.wrap = wrap
        self.server_uuid = server_uuid
        self.server_id = server_id
        self.checksum = checksum
        self.clock = clock
        self.base = base
        self.executed: Executed = executed or (GtidSet() if flavor is Flavor.MYSQL else MariadbState())
        self.purged: Executed = self.executed.copy()
        self.committing = GtidSet()
        self.number = 0
        self.groups = 0
        self.files: list[File] = []
        self.new_file()

    # Writing

    def _event(self, kind: EventType, body: bytes, *, flags: int = 0, group: int | None = None, gtid: str = "") -> None:
        file = self.files[-1]
        size = 19 + len(body) + 4 * self.checksum
        self.clock += 1
        edge = group is None or kind in (EventType.GTID, EventType.MARIADB_GTID, EventType.XID)
        data = make_event(
            kind,
            body,
            server_id=self.server_id,
            checksum=self.checksum,
            timestamp=self.clock,
            log_pos=(file.end + size) % self.wrap if edge or self.legacy_positions else 0,
            flags=flags,
        )
        file.events.append(Stored(file.end, data, group, gtid))

    def new_file(self) -> None:
        """Begin the next file, whatever became of the last (as after a crash)."""
        self.number += 1
        self.clock += 1
        file = File(f"{self.base}.{self.number:06d}", self.executed.copy())
        self.files.append(file)
        version = _VERSIONS[self.flavor].encode().ljust(50, b"\0")
        body = struct.pack("<H", 4) + version + struct.pack("<IB", self.clock, 19) + bytes(42) + bytes([self.checksum])
        # It has a checksum whatever the algorithm (observed with MySQL 9.7.4 and binlog_checksum = NONE).
        data = make_event(
            EventType.FORMAT_DESCRIPTION,
            body,
            server_id=self.server_id,
            checksum=True,
            timestamp=self.clock,
            log_pos=4 + 19 + len(body) + 4,
        )
        file.events.append(Stored(4, data, None))
        if self.flavor is Flavor.MYSQL:
            self._event(EventType.PREVIOUS_GTIDS, self.executed.encode(), flags=0x80)
        else:
            self._event(EventType.GTID_LIST, self.executed.encode() + (b"" if self.executed else bytes(2)))
            self.checkpoint()

    def checkpoint(self) -> None:
        """An event outside of transactions (MariaDB)."""
        name = self.files[-1].name.encode()
        self._event(EventType.BINLOG_CHECKPOINT, struct.pack("<I", len(name)) + name)

    def rotate(self) -> None:
        """FLUSH LOGS."""
        self._event(EventType.ROTATE, struct.pack("<Q", 4) + f"{self.base}.{self.number + 1:06d}".encode())
        self.new_file()

    def restart(self) -> None:
        """A clean stop and start."""
        self._event(EventType.STOP, b"")
        self.new_file()

    def write(self, *rows: bytes, domain: int = 0, server_id: int | None = None) -> str:
        """A transaction with these row events; returns its GTID."""
        self.groups += 1
        group = self.groups
        if isinstance(self.executed, GtidSet):
            number = self.executed.only(self.server_uuid.bytes).count + 1
            gtid = f"{self.server_uuid}:{number}"
            self.executed.add(self.server_uuid.bytes, number)
            stamp = self.clock * 1_000_000 + 17
            head = b"\x01" + self.server_uuid.bytes + struct.pack("<QBQQ", number, 2, number - 1, number)
            self._event(
                EventType.GTID, head + stamp.to_bytes(7, "little") + b"\xfc\x00\x01" + b"\0" * 4, group=group, gtid=gtid
            )
            self._event(EventType.QUERY, bytes(8) + b"\0" + bytes(4) + b"\0BEGIN", group=group)
        else:
            server = server_id or self.server_id
            newest = self.executed.newest(domain)
            sequence = (newest.sequence if newest else 0) + 1
            self.executed.update(domain, server, sequence)
            gtid = str(MariadbGtid(domain, server, sequence))
            saved, self.server_id = self.server_id, server
            self._event(EventType.MARIADB_GTID, struct.pack("<QIB6x", sequence, domain, 12), group=group, gtid=gtid)
            self.server_id = saved
            self._event(EventType.ANNOTATE_ROWS, b"insert", group=group)
        for row in rows:
            self._event(EventType.TABLE_MAP, b"table", group=group)
            self._event(
                EventType.WRITE_ROWS if self.flavor is Flavor.MYSQL else EventType.WRITE_ROWS_V1, row, group=group
            )
        self._event(EventType.XID, struct.pack("<Q", group), group=group)
        return gtid

    def purge(self, files: int) -> None:
        """Forget the oldest files."""
        self.files = self.files[files:]
        self.purged = self.files[0].before.copy()

    def reset(self) -> None:
        """RESET BINARY LOGS AND GTIDS."""
        self.executed = GtidSet() if self.flavor is Flavor.MYSQL else MariadbState()
        self.purged = self.executed.copy()
        self.number = 0
        self.files = []
        self.new_file()

    def lose(self, events: int) -> None:
        """Lose the newest events of the last file (which must be whole transactions), as a crash without sync does."""
        file = self.files[-1]
        lost = file.events[-events:]
        file.events = file.events[:-events]
        if isinstance(self.executed, GtidSet):
            for event in lost:
                if event.gtid:
                    self.executed = self.executed - GtidSet.parse(event.gtid)
        self.new_file()

    # Telling

    def facts(self, *, semi_sync: bool = False) -> SourceFacts:
        """What the checks would find out."""
        return SourceFacts(
            flavor=self.flavor,
            version=_VERSIONS[self.flavor],
            server_id=self.server_id,
            server_uuid=str(self.server_uuid) if self.flavor is Flavor.MYSQL else "",
            checksum=ChecksumAlgorithm.CRC32 if self.checksum else ChecksumAlgorithm.NONE,
            semi_sync=semi_sync,
            clock_offset=0.0,
            executed=self.executed.copy(),
            purged=self.purged.copy(),
            committing=self.committing,
        )

    def gtid_position(self, name: str, position: int) -> MariadbState | None:
        """MariaDB's BINLOG_GTID_POS."""
        for file in self.files:
            if file.name == name and (position == 4 or any(event.end == position for event in file.events)):
                state = file.before.copy()
                assert isinstance(state, MariadbState)
                for event in file.events:
                    if event.gtid and event.start < position:
                        state.update(*MariadbGtid.parse(event.gtid))
                return state
        return None

    def dump(self, command: bytes, connect_state: str | None = None) -> Iterator[bytes]:
        """The events of a dump, artificial ones included. SourceEnd for what a server refuses."""
        if command[0] == Command.BINLOG_DUMP_GTID:
            request = parse_binlog_dump_gtid(command[1:])
        else:
            request = parse_binlog_dump(command[1:])
        if self.flavor is Flavor.MARIADB:
            return self._dump_mariadb(request, connect_state)
        return self._dump_mysql(request)

    def _find(self, name: str) -> int:
        for i, file in enumerate(self.files):
            if name in ("", file.name):
                return i
        raise SourceEnd(1236, "HY000", "Could not find first log file name in binary log index file")

    def _open(self, first: int, position: int, *, gtid: bool) -> Iterator[bytes]:
        file = self.files[first]
        if position > file.end:
            raise SourceEnd(1236, "HY000", "Client requested source to start replication from position > file size")
        yield rotate_event(file.name, server_id=self.server_id, checksum=self.checksum, position=position)
        middle = position > 4
        format_event = file.events[0].data
        yield fix_format_description(format_event, zero_log_pos=middle and not gtid, zero_create_timestamp=middle)
        if middle and position != file.end and all(event.start != position for event in file.events):
            raise SourceEnd(1236, "HY000", "bogus data in log event; the first event 'binlog.000002' at 300")

    def _dump_mysql(self, request: DumpRequest) -> Iterator[bytes]:
        exclude = GtidSet()
        first = 0
        if request.kind is DumpKind.GTID:
            exclude = GtidSet.decode(request.gtid_set)
        if request.file or request.kind is DumpKind.FILE:
            first = self._find(request.file)
        else:
            assert isinstance(self.purged, GtidSet)
            if not exclude >= self.purged:
                missing = self.purged - exclude
                text = f"purged required binary logs. ... and the missing transactions are '{missing}'"
                raise SourceEnd(1236, "HY000", text)
            assert isinstance(self.executed, GtidSet)
            if not self.executed >= exclude.only(self.server_uuid.bytes):
                raise SourceEnd(
                    1236, "HY000", "Replica has more GTIDs than the source has, using the source's SERVER_UUID."
                )
            first = max(
                i for i, file in enumerate(self.files) if isinstance(file.before, GtidSet) and exclude >= file.before
            )
        position = request.position
        yield from self._open(first, position, gtid=request.kind is DumpKind.GTID)
        for i, file in enumerate(self.files[first:]):
            if i:
                yield rotate_event(file.name, server_id=self.server_id, checksum=self.checksum)
                yield file.events[0].data
            skipped = 0
            excluded = None
            for event in file.events[1:]:
                if i == 0 and event.start < position:
                    continue
                if event.gtid and exclude >= GtidSet.parse(event.gtid):
                    excluded = event.group
                if event.group is not None and event.group == excluded:
                    skipped = event.end
                    continue
                if skipped:
                    yield self.heartbeat(file.name, skipped)
                    skipped = 0
                yield event.data
            if skipped:
                yield self.heartbeat(file.name, skipped)

    def heartbeat(self, name: str, position: int) -> bytes:
        """As a server of this flavour sends it."""
        version = 2 if self.flavor is Flavor.MYSQL else 1
        return heartbeat_event(name, position, server_id=self.server_id, version=version, checksum=self.checksum)

    def _dump_mariadb(self, request: DumpRequest, connect_state: str | None) -> Iterator[bytes]:
        if connect_state is None:
            first, position = self._find(request.file), request.position
            yield from self._open(first, position, gtid=False)
            for i, file in enumerate(self.files[first:]):
                if i:
                    yield rotate_event(file.name, server_id=self.server_id, checksum=self.checksum)
                    yield file.events[0].data
                yield from (event.data for event in file.events[1:] if i or event.start >= position)
            return
        wanted = MariadbState.parse(connect_state)
        assert isinstance(self.executed, MariadbState)
        for gtid in wanted:
            if not self.executed.has(gtid):
                text = (
                    f"Error: connecting slave requested to start from GTID {gtid}, which is not in the master's binlog"
                )
                raise SourceEnd(1236, "HY000", text)
        candidates = [i for i, file in enumerate(self.files) if self._begins_before(file, wanted)]
        if not candidates:
            raise SourceEnd(
                1236, "HY000", "Could not find GTID state requested by slave in any binlog files. ... purged."
            )
        first = candidates[-1]
        begin = 4 if self.legacy_positions else self.files[first].events[1].end
        yield from self._open(first, begin, gtid=False)
        left = {gtid for gtid in wanted if not _has(self.files[first].before, gtid)}
        waiting = bool(left)
        for i, file in enumerate(self.files[first:]):
            if i:
                yield rotate_event(file.name, server_id=self.server_id, checksum=self.checksum)
                yield file.events[0].data
            skipping: int | None = None
            for event in file.events[1:]:
                if i == 0 and event.start < begin:
                    continue
                if waiting and not left and event.group != skipping:
                    waiting = False
                    yield gtid_list_event(wanted, server_id=self.server_id, checksum=self.checksum, log_pos=event.start)
                if event.gtid:
                    gtid = MariadbGtid.parse(event.gtid)
                    if any(other.domain == gtid.domain for other in left):
                        skipping = event.group
                        left.discard(gtid)
                if event.group is not None and event.group == skipping:
                    continue
                yield event.data

    @staticmethod
    def _begins_before(file: File, wanted: MariadbState) -> bool:
        before = file.before
        assert isinstance(before, MariadbState)
        return all(wanted.has(gtid) for gtid in before)


def _has(state: Executed, gtid: MariadbGtid) -> bool:
    return isinstance(state, MariadbState) and state.has(gtid)


def stream(
    events: Sequence[bytes] | Iterator[bytes], *, semi_sync: bool = False, wanted: Sequence[bytes] = ()
) -> bytes:
    """The packets of a dump with rising sequence numbers. `wanted`: events to be acknowledged (semi-sync)."""
    out = bytearray()
    sequence = 1
    for event in events:
        raw = frame_with_prefix(event, event in wanted) if semi_sync else packetize(event)
        at = 0
        while at < len(raw):
            length = int.from_bytes(raw[at : at + 3], "little")
            out += raw[at : at + 3] + bytes([sequence % 256]) + raw[at + 4 : at + 4 + length]
            at += 4 + length
            sequence += 1
    return bytes(out)


def frame_with_prefix(event: bytes, wants_ack: bool) -> bytes:
    """As a semi-sync source frames it: status, 0xef, flag, event; split at 0xffffff bytes."""
    payload = b"\0\xef" + bytes([wants_ack]) + event
    out = bytearray()
    at = 0
    while True:
        piece = payload[at : at + 0xFFFFFF]
        out += len(piece).to_bytes(3, "little") + b"\0" + piece
        at += len(piece)
        if len(piece) < 0xFFFFFF:
            return bytes(out)
