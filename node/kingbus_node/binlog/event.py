"""Single events, decoded.

For the few events whose content matters one at a time: file starts, rotates, GTIDs, heartbeats, and what is shown to
people. Blocks of events are never decoded this way; see `scan` and `transactions`.

Each class is the content of one kind of event. `parse(event, checksum)` takes the whole event from its header on, and
whether it ends in a CRC32 (which is not verified, see `checksum.is_correct`); it raises BinlogError if the event is of
another type, or shorter or longer than its fields say. All integers are little endian. Layouts: MySQL's source
documentation, libs/mysql/binlog/event/*.h; MariaDB's knowledge base, "Replication Protocol"; checked with events
captured from MySQL 9.7.4 and MariaDB 10.11.19.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from struct import Struct
from typing import Final

from kingbus_node.binlog.constants import (
    CHECKSUM_LENGTH,
    HEADER_LENGTH,
    Buffer,
    ChecksumAlgorithm,
    EventFlag,
    EventType,
    Flavor,
    MariadbGtidFlag,
    type_name,
)
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.gtid import MAX_NUMBER, GtidSet
from kingbus_node.binlog.mariadb import MariadbGtid, MariadbState
from kingbus_node.binlog.scan import format_checksum
from kingbus_node.binlog.tagged import decode_tagged

_HEADER = Struct("<IBIIIH")
_FORMAT = Struct("<H50sIB")
_GTID = Struct("<B16sq")
_LOGICAL = Struct("<BQQ")
_MARIADB_GTID = Struct("<QIB")
_QUERY = Struct("<IIBHH")
_XID_DATA = Struct("<BIII")
_U16 = Struct("<H")
_U32 = Struct("<I")
_U64 = Struct("<Q")

_LOGICAL_TIMESTAMP: Final = 2
_MAX_STATEMENT: Final = 64 << 20
"""A compressed statement is not expanded beyond this many bytes."""


@dataclass(frozen=True, slots=True)
class EventHeader:
    """The common header."""

    timestamp: int
    """Seconds since 1970 UTC, at the start of the statement; 0 in artificial events."""
    type: int
    server_id: int
    """The server that wrote the event first."""
    size: int
    """Bytes of the whole event, this header and the checksum included."""
    log_pos: int
    """Position in the source's file where the next event begins, modulo 2**32; 0 if the event is in no file."""
    flags: int

    @classmethod
    def parse(cls, event: Buffer) -> EventHeader:
        if len(event) < HEADER_LENGTH:
            raise BinlogError(f"expected an event header of {HEADER_LENGTH} bytes, found {len(event)}", 0)
        return cls(*_HEADER.unpack_from(event))

    @property
    def artificial(self) -> bool:
        """Made up by the sender, in no file."""
        return bool(self.flags & EventFlag.ARTIFICIAL)


def _open(event: Buffer, checksum: bool, *types: EventType) -> tuple[EventHeader, _Body]:
    """The header and the body of an event of one of `types`."""
    header = EventHeader.parse(event)
    if header.type not in types:
        expected = " or ".join(kind.name for kind in types)
        raise BinlogError(f"expected an event of type {expected}, found {type_name(header.type)}", 4)
    if header.size != len(event):
        raise BinlogError(f"expected an event of {len(event)} bytes, found size field {header.size}", 9)
    end = len(event) - CHECKSUM_LENGTH * checksum
    if end < HEADER_LENGTH:
        raise BinlogError(f"expected a checksum after the header, found an event of {len(event)} bytes", HEADER_LENGTH)
    return header, _Body(memoryview(event)[:end], types[0].name)


class _Body:
    """Reads an event's fields one after the other."""

    __slots__ = ("_name", "at", "view")

    def __init__(self, view: memoryview, name: str) -> None:
        self.view = view
        self.at = HEADER_LENGTH
        self._name = name

    @property
    def left(self) -> int:
        return len(self.view) - self.at

    def skip(self, count: int, what: str) -> int:
        """Advance over `count` bytes; returns where they begin."""
        if count > self.left:
            raise BinlogError(f"{self._name}: expected {count} bytes of {what}, found {self.left}", self.at)
        start = self.at
        self.at += count
        return start

    def take(self, count: int, what: str) -> bytes:
        start = self.skip(count, what)
        return bytes(self.view[start : self.at])

    def rest(self) -> bytes:
        return self.take(self.left, "body")

    def unpack(self, struct: Struct, what: str) -> tuple[int, ...]:
        """Integers only."""
        return struct.unpack_from(self.view, self.skip(struct.size, what))

    def integer(self, struct: Struct, what: str) -> int:
        return self.unpack(struct, what)[0]

    def packed(self, what: str) -> int:
        """A length-encoded integer of the client protocol."""
        first = self.view[self.skip(1, what)]
        if first < 0xFB:
            return first
        width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first)
        if width is None:
            raise BinlogError(f"{self._name}: expected {what} as a length-encoded integer, found {first:#04x}", self.at)
        return int.from_bytes(self.take(width, what), "little")

    def finish(self) -> None:
        if self.left:
            raise BinlogError(f"{self._name}: expected the end of the event, found {self.left} more bytes", self.at)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class FormatDescription:
    """FORMAT_DESCRIPTION (15): the first event of a file."""

    header: EventHeader
    binlog_version: int
    server_version: str
    create_timestamp: int
    """When the server that wrote the file was started; 0 if the file was begun by a rotate."""
    header_length: int
    post_header_lengths: bytes
    """For each event type from 1 on the length of its post-header."""
    checksum: ChecksumAlgorithm
    """Of the events after this one. This one has a checksum unless it is UNDEFINED."""

    @classmethod
    def parse(cls, event: Buffer) -> FormatDescription:
        checksum = format_checksum(event)
        header, body = _open(event, checksum is not ChecksumAlgorithm.UNDEFINED, EventType.FORMAT_DESCRIPTION)
        binlog_version, version, created, length = _FORMAT.unpack_from(body.view, body.skip(_FORMAT.size, "header"))
        if binlog_version != 4:
            raise BinlogError(f"expected binlog version 4 (MySQL 5.0 and later), found {binlog_version}", HEADER_LENGTH)
        if length != HEADER_LENGTH:
            raise BinlogError(f"expected event headers of {HEADER_LENGTH} bytes, found {length}", body.at - 1)
        lengths = body.rest()
        if checksum is not ChecksumAlgorithm.UNDEFINED:
            lengths = lengths[:-1]
        return cls(
            header=header,
            binlog_version=binlog_version,
            server_version=_text(version.split(b"\0", 1)[0]),
            create_timestamp=created,
            header_length=length,
            post_header_lengths=lengths,
            checksum=checksum,
        )

    @property
    def flavor(self) -> Flavor:
        """MariaDB puts its name into the version."""
        return Flavor.MARIADB if "mariadb" in self.server_version.lower() else Flavor.MYSQL


@dataclass(frozen=True, slots=True)
class Rotate:
    """ROTATE (4): the next event is at `position` of the file `name`."""

    header: EventHeader
    position: int
    name: str

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> Rotate:
        header, body = _open(event, checksum, EventType.ROTATE)
        position = body.integer(_U64, "position")
        name = _text(body.rest())
        if not name:
            raise BinlogError("ROTATE: expected a file name, found none", body.at)
        return cls(header, position, name)


@dataclass(frozen=True, slots=True)
class Gtid:
    """GTID (33), ANONYMOUS_GTID (34), GTID_TAGGED (42): a MySQL transaction begins."""

    header: EventHeader
    uuid: bytes
    """16 bytes; zeros if anonymous."""
    number: int
    """0 if anonymous."""
    tag: str
    flags: int
    last_committed: int
    """Parallel replicas may apply this transaction once all up to this sequence number of the file are committed."""
    sequence_number: int
    """1, 2, ... in each file."""
    immediate_commit_timestamp: int
    """Microseconds since 1970 UTC of the commit on the source; 0 before MySQL 8.0."""
    original_commit_timestamp: int
    """The same on the server where the transaction came from."""
    transaction_length: int
    """Bytes of the transaction in the file, this event included; 0 if unknown."""

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> Gtid:
        header, body = _open(event, checksum, EventType.GTID, EventType.ANONYMOUS_GTID, EventType.GTID_TAGGED)
        if header.type == EventType.GTID_TAGGED:
            tagged = decode_tagged(body.view[HEADER_LENGTH:])
            return cls(
                header,
                tagged.uuid,
                tagged.number,
                tagged.tag,
                tagged.flags,
                tagged.last_committed,
                tagged.sequence_number,
                tagged.immediate_commit_timestamp,
                tagged.original_commit_timestamp,
                tagged.transaction_length,
            )
        flags, uuid, number = _GTID.unpack_from(body.view, body.skip(_GTID.size, "GTID"))
        if not (number == 0 if header.type == EventType.ANONYMOUS_GTID else 1 <= number <= MAX_NUMBER):
            raise BinlogError(f"expected a GTID number in 1 .. 2**63 - 2, 0 if anonymous, found {number}", body.at - 8)
        committed = sequence = immediate = original = length = 0
        if body.left >= _LOGICAL.size and body.view[body.at] == _LOGICAL_TIMESTAMP:
            _, committed, sequence = body.unpack(_LOGICAL, "logical timestamps")
            if body.left >= 7:
                immediate = original = int.from_bytes(body.take(7, "commit timestamp"), "little")
                if immediate >> 55:
                    immediate &= (1 << 55) - 1
                    original = int.from_bytes(body.take(7, "original commit timestamp"), "little")
                if body.left:
                    length = body.packed("transaction length")
        return cls(header, uuid, number, "", flags, committed, sequence, immediate, original, length)


@dataclass(frozen=True, slots=True)
class PreviousGtids:
    """PREVIOUS_GTIDS (35): what the source had executed when it began the file."""

    header: EventHeader
    gtids: GtidSet

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> PreviousGtids:
        header, body = _open(event, checksum, EventType.PREVIOUS_GTIDS)
        return cls(header, GtidSet.decode(body.rest()))


@dataclass(frozen=True, slots=True)
class MariadbGtidEvent:
    """MARIADB_GTID (162): a MariaDB transaction begins."""

    header: EventHeader
    gtid: MariadbGtid
    flags: MariadbGtidFlag
    commit_id: int | None
    """Transactions that were committed together on the source have the same."""

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> MariadbGtidEvent:
        header, body = _open(event, checksum, EventType.MARIADB_GTID)
        sequence, domain, flags = body.unpack(_MARIADB_GTID, "GTID")
        commit_id = body.integer(_U64, "commit id") if flags & MariadbGtidFlag.GROUP_COMMIT_ID else None
        return cls(header, MariadbGtid(domain, header.server_id, sequence), MariadbGtidFlag(flags), commit_id)

    @property
    def standalone(self) -> bool:
        """The transaction is one statement, without a COMMIT."""
        return bool(self.flags & MariadbGtidFlag.STANDALONE)


@dataclass(frozen=True, slots=True)
class GtidList:
    """GTID_LIST (163): the binlog state when MariaDB began the file, or (artificial) what a replica was sent past."""

    header: EventHeader
    state: MariadbState

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> GtidList:
        header, body = _open(event, checksum, EventType.GTID_LIST)
        count = body.integer(_U32, "number of GTIDs") & 0x0FFFFFFF
        body.at -= _U32.size
        # Two bytes follow an empty list (captured), as a dummy event of old replicas needs six bytes of body.
        return cls(header, MariadbState.decode(body.take(_U32.size + 16 * count, "GTIDs")))


@dataclass(frozen=True, slots=True)
class BinlogCheckpoint:
    """BINLOG_CHECKPOINT (161): MariaDB's recovery will need no file before `name`."""

    header: EventHeader
    name: str

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> BinlogCheckpoint:
        header, body = _open(event, checksum, EventType.BINLOG_CHECKPOINT)
        return cls(header, _text(body.take(body.integer(_U32, "length of a name"), "file name")))


@dataclass(frozen=True, slots=True)
class Query:
    """QUERY (2), and MariaDB's QUERY_COMPRESSED (165) expanded: a statement."""

    header: EventHeader
    thread_id: int
    seconds: int
    """How long it took."""
    error: int
    status_variables: bytes
    schema: str
    statement: bytes
    """In the character set that the status variables name."""

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> Query:
        header, body = _open(event, checksum, EventType.QUERY, EventType.QUERY_COMPRESSED)
        thread_id, seconds, schema, error, variables = body.unpack(_QUERY, "post-header")
        status_variables = body.take(variables, "status variables")
        name = _text(body.take(schema, "schema"))
        body.skip(1, "NUL after the schema")
        statement = body.rest()
        if header.type == EventType.QUERY_COMPRESSED:
            statement = _expand(statement)
        return cls(header, thread_id, seconds, error, status_variables, name, statement)


def _expand(packed: bytes) -> bytes:
    """A MariaDB compressed statement: 0x80 | bytes of length, the expanded length (big endian), a zlib stream."""
    width = packed[0] & 7 if packed else 0
    if not packed or packed[0] >> 3 != 0x10 or not 1 <= width <= 4 or len(packed) < 1 + width:
        raise BinlogError("QUERY_COMPRESSED: expected a zlib-compressed statement, found another form")
    length = int.from_bytes(packed[1 : 1 + width], "big")
    if length > _MAX_STATEMENT:
        raise BinlogError(f"QUERY_COMPRESSED: expected at most {_MAX_STATEMENT} bytes of statement, found {length}")
    try:
        statement = zlib.decompressobj().decompress(packed[1 + width :], length + 1)
    except zlib.error as error:
        raise BinlogError(f"QUERY_COMPRESSED: expected a zlib stream, found {error}") from None
    if len(statement) != length:
        raise BinlogError(f"QUERY_COMPRESSED: expected {length} bytes of statement, found {len(statement)}")
    return statement


@dataclass(frozen=True, slots=True)
class AnnotateRows:
    """ANNOTATE_ROWS (160): the statement that made MariaDB's rows after it."""

    header: EventHeader
    statement: bytes

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> AnnotateRows:
        header, body = _open(event, checksum, EventType.ANNOTATE_ROWS)
        return cls(header, body.rest())


@dataclass(frozen=True, slots=True)
class Xid:
    """XID (16): the commit of a transaction."""

    header: EventHeader
    xid: int

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> Xid:
        header, body = _open(event, checksum, EventType.XID)
        xid = body.integer(_U64, "xid")
        body.finish()
        return cls(header, xid)


@dataclass(frozen=True, slots=True)
class XaPrepare:
    """XA_PREPARE (38): the end of the first phase of an XA transaction, or of one with a single phase."""

    header: EventHeader
    one_phase: bool
    format_id: int
    gtrid: bytes
    bqual: bytes

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> XaPrepare:
        header, body = _open(event, checksum, EventType.XA_PREPARE)
        one_phase, format_id, gtrid, bqual = body.unpack(_XID_DATA, "XA identifier")
        identifier = cls(header, bool(one_phase), format_id, body.take(gtrid, "gtrid"), body.take(bqual, "bqual"))
        body.finish()
        return identifier


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """HEARTBEAT (27, 41): nothing after `position` of the file `name` yet."""

    header: EventHeader
    name: str
    position: int
    """64 bits in version 2 (type 41); modulo 2**32 in version 1."""

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> Heartbeat:
        header, body = _open(event, checksum, EventType.HEARTBEAT, EventType.HEARTBEAT_V2)
        if header.type == EventType.HEARTBEAT:
            return cls(header, _text(body.rest()), header.log_pos)
        name, position = "", header.log_pos
        for field, at, value in _fields(body):
            if field == 1:
                name = _text(value.rest())
            elif field == 2:
                position = value.packed("position")
                value.finish()
            else:
                raise BinlogError(f"HEARTBEAT_V2: expected field 1 or 2, found {field}", at)
        return cls(header, name, position)


def _fields(body: _Body) -> list[tuple[int, int, _Body]]:
    """Fields of number, length, value, closed by a number 0, as (number, offset, value)."""
    out: list[tuple[int, int, _Body]] = []
    while True:
        at = body.at
        field = body.packed("field number")
        if field == 0:
            return out
        length = body.packed("field length")
        start = body.skip(length, "field value")
        value = _Body(body.view[: body.at], "field")
        value.at = start
        out.append((field, at, value))


@dataclass(frozen=True, slots=True)
class Incident:
    """INCIDENT (26): the source lost events; a replica stops here."""

    header: EventHeader
    code: int
    message: str

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> Incident:
        header, body = _open(event, checksum, EventType.INCIDENT)
        code = body.integer(_U16, "incident number")
        length = body.take(1, "length of a message")[0]
        return cls(header, code, _text(body.take(length, "message")))


@dataclass(frozen=True, slots=True)
class TransactionPayload:
    """TRANSACTION_PAYLOAD (40): a transaction's events, compressed into one (the payload itself is not taken out)."""

    header: EventHeader
    compression: int
    """0: zstd, 255: none."""
    size: int
    uncompressed_size: int

    @classmethod
    def parse(cls, event: Buffer, checksum: bool) -> TransactionPayload:
        header, body = _open(event, checksum, EventType.TRANSACTION_PAYLOAD)
        values: dict[int, int] = {}
        for field, _, value in _fields(body):
            if field in (1, 2, 3):
                values[field] = value.packed("payload field")
        size = values.get(1, body.left)
        if size != body.left:
            raise BinlogError(f"TRANSACTION_PAYLOAD: expected {size} bytes of payload, found {body.left}", body.at)
        return cls(header, values.get(2, 255), size, values.get(3, size))
