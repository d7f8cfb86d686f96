"""One entry of the log: a batch of events, ready for the wire, or a control record.

Layout, all little-endian; ``docs/format.md`` has every byte::

    header (80 bytes) | meta | packets: u32[packet_count] | payload

The payload is what a replica will receive: each event as MySQL packets (3-byte length, a sequence byte stored as 0, and
in an event's first packet a 0x00 before the event). `packets` holds the offset of each packet's header in the payload;
bit 31 (`CONTINUATION`) says that the packet goes on with the event of the packet before it, as the protocol splits
payloads of 0xffffff bytes and more. Entries are cut between packets, never inside one.

``body_crc`` (CRC-32 as in zlib, of everything behind the header) does not depend on index and term: a leader computes
it once, and every follower verifies and stores the same body. ``header_crc`` covers the rest of the header,
``body_crc`` included.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from kingbus_node.binlog.checksum import crc_if_correct
from kingbus_node.binlog.constants import Buffer
from kingbus_node.store.errors import InvalidEntryError
from kingbus_node.util.crc import combine, crc32

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
Packets: TypeAlias = npt.NDArray[np.uint32]

MAGIC = 0x6542424B  # "KBBe" as it stands in the file
HEADER_SIZE = 80
CONTINUATION = 0x8000_0000
OFFSET_MASK = 0x7FFF_FFFF
MAX_PAYLOAD = 64 << 20
_BIG_EVENT = 16 << 10  # bytes from which reading an event takes longer than working out its sum
MAX_META = 64 << 20
MAX_NAME = 235  # bytes of a file's name: two of them fit a catalogue record
NO_PACKETS: Packets = np.empty(0, np.uint32)

_HEADER = struct.Struct("<IIIBBHQQIIQQIIIIII")
_AFTER_CRC = struct.Struct("<IBBHQQIIQQIIIIII")
_FIELD = struct.Struct("<BI")
_U32 = struct.Struct("<I")
if _HEADER.size != HEADER_SIZE:
    raise AssertionError("the entry header is 80 bytes")


class Kind(IntEnum):
    """What an entry is for."""

    DATA = 1  # events
    NOOP = 2  # a new leader's first entry
    STATE = 3  # facts that all nodes must agree on (meta JSON, see `state.LogState`)
    CANCEL = 4  # the open fragments will never be completed: readers skip them
    PURGE = 5  # retention: what lies before is dropped (meta JSON)
    CONFIGURATION = 6  # who belongs to the cluster (meta MEMBERS), in consensus' own encoding


class Flag:
    """Bits of a DATA entry's flags. Whole transactions: FIRST and LAST; a fragment has one of them or none.

    Plain numbers rather than an IntFlag, whose operators cost more than folding an entry.
    """

    FIRST: Final = 0x01  # no transaction was open before this entry
    LAST: Final = 0x02  # no transaction is open after it
    FILE_START: Final = 0x04  # first entry of a source file: begins with its FORMAT_DESCRIPTION; `Meta.file` names it
    FILE_END: Final = 0x08  # the source closed the file: the entry ends with its ROTATE or STOP event
    CANCELLED: Final = 0x80  # only in index records, derived: a committed CANCEL covers the entry


WHOLE: Final = Flag.FIRST | Flag.LAST


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A source file's names: `name` is the one replicas see, `source_name` what the source itself calls it."""

    name: str
    source_name: str


class _Tag(IntEnum):
    PADDING = 0  # a single zero byte, without length
    GTIDS = 1
    FILE = 2
    JSON = 3
    MEMBERS = 4


@dataclass(frozen=True, slots=True)
class Meta:
    """What an entry says about its payload; enough to keep the state without reading payloads.

    `gtids` are the GTIDs of the transactions that *end* in this entry (a transaction counts when it is complete), in
    the flavour's binary delta form; `file` comes with FILE_START; `json` with control entries; `members` with
    CONFIGURATION.
    """

    gtids: bytes = b""
    file: SourceFile | None = None
    json: dict[str, Json] | None = None
    members: bytes = b""

    def encode(self) -> bytes:
        """Fields ``tag u8 | length u32 | bytes``, zero bytes up to a multiple of four, then the CRC-32 of all that.

        Nothing at all for nothing. The checksum is there because metas are read without their payloads, which
        ``body_crc`` needs; the multiple of four aligns the packet table.
        """
        parts: list[bytes] = []
        if self.gtids:
            parts += _FIELD.pack(_Tag.GTIDS, len(self.gtids)), self.gtids
        if self.file is not None:
            for name in (self.file.name, self.file.source_name):
                if not 0 < len(name.encode()) <= MAX_NAME:
                    raise InvalidEntryError(
                        f"a binlog file name has 1 to {MAX_NAME} bytes, this one has {len(name.encode())}"
                    )
            value = _json_bytes({"name": self.file.name, "source_name": self.file.source_name})
            parts += _FIELD.pack(_Tag.FILE, len(value)), value
        if self.json is not None:
            value = _json_bytes(self.json)
            parts += _FIELD.pack(_Tag.JSON, len(value)), value
        if self.members:
            parts += _FIELD.pack(_Tag.MEMBERS, len(self.members)), self.members
        if not parts:
            return b""
        encoded = b"".join(parts)
        encoded += bytes(-len(encoded) % 4)
        return encoded + _U32.pack(crc32(encoded))

    @classmethod
    def decode(cls, data: Buffer) -> Meta:
        """The inverse of `encode`; InvalidEntryError for anything else, unknown tags included."""
        if not data:
            return NO_META
        gtids = members = b""
        file: SourceFile | None = None
        facts: dict[str, Json] | None = None
        view = memoryview(data)
        at, end = 0, len(view) - _U32.size
        if end < 0 or crc32(view[:end]) != _U32.unpack_from(view, end)[0]:
            raise InvalidEntryError("the meta does not match its checksum")
        while at < end:
            tag = view[at]
            if tag == _Tag.PADDING:
                at += 1
                continue
            if at + _FIELD.size > end:
                raise InvalidEntryError(f"meta field at byte {at} is cut: {end - at} bytes left")
            start = at + _FIELD.size
            at = start + _U32.unpack_from(view, at + 1)[0]
            if at > end:
                raise InvalidEntryError(f"meta field {tag} needs {at - end} more bytes than the meta has")
            if tag == _Tag.GTIDS:
                gtids = bytes(view[start:at])
            elif tag == _Tag.FILE:
                names = _json_object(view[start:at])
                name, source_name = names.get("name"), names.get("source_name")
                if not isinstance(name, str) or not isinstance(source_name, str):
                    raise InvalidEntryError("meta FILE needs the strings name and source_name")
                file = SourceFile(name, source_name)
            elif tag == _Tag.JSON:
                facts = _json_object(view[start:at])
            elif tag == _Tag.MEMBERS:
                members = bytes(view[start:at])
            else:
                raise InvalidEntryError(f"unknown meta field {tag}: written by a newer release?")
        return cls(gtids, file, facts, members)


NO_META = Meta()


class Header(NamedTuple):
    """An entry's header, field by field in file order (without the magic number and its own checksum)."""

    body_crc: int
    kind: int
    flags: int
    reserved: int
    index: int  # type: ignore[assignment]  # position in the log, from 1; hides tuple.index, which nobody needs here
    term: int
    file_id: int  # source files are numbered from 1 in the order of the log; 0 for control entries
    timestamp: int  # of the last event, seconds since 1970 as the source wrote it
    start_pos: int  # where the payload begins in the source file, 64 bits wide unlike the events' own log_pos
    end_pos: int
    meta_len: int
    packet_count: int
    payload_len: int
    event_count: int
    transaction_count: int  # transactions that end in this entry
    unsynced: int  # how many entries right before this one the writer did not know to be durable when it wrote this one

    @property
    def body_len(self) -> int:
        """Bytes behind the header."""
        return self.meta_len + 4 * self.packet_count + self.payload_len

    @property
    def size(self) -> int:
        """Bytes of the whole entry."""
        return HEADER_SIZE + self.body_len

    def encode(self) -> bytes:
        """The 80 bytes."""
        rest = _AFTER_CRC.pack(*self)
        return _U32.pack(MAGIC) + _U32.pack(crc32(rest)) + rest


def parse_header(data: Buffer, offset: int = 0) -> Header | str:
    """The header at `offset`, or, in words, why there is none (a torn tail is normal: no exception)."""
    if len(data) - offset < HEADER_SIZE:
        return f"an entry header has {HEADER_SIZE} bytes, {max(0, len(data) - offset)} are left"
    magic, crc, *fields = _HEADER.unpack_from(data, offset)
    if magic != MAGIC:
        return f"expected the magic number {MAGIC:#010x}, found {magic:#010x}"
    actual = crc32(memoryview(data)[offset + 8 : offset + HEADER_SIZE])
    if crc != actual:
        return f"the header's checksum is {actual:#010x}, expected {crc:#010x}"
    header = Header(*fields)
    if header.meta_len > MAX_META or header.meta_len % 4 or header.payload_len > MAX_PAYLOAD:
        return f"impossible lengths: meta {header.meta_len}, payload {header.payload_len}"
    if 4 * header.packet_count > header.payload_len:
        return f"{header.packet_count} packets do not fit {header.payload_len} bytes"
    return header


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One entry, as proposed (index and term 0) or as read back. Positions and counts as in `Header`.

    `payload` may be any buffer; it is not copied, so it must not change until the entry is appended. `packets` holds
    uint32 offsets in the payload with `CONTINUATION` bits. `sound`: each packet is an event that was seen to end in its
    own correct CRC32, so big ones need not be read again to sum up the payload.
    """

    kind: Kind
    flags: int = 0
    file_id: int = 0
    timestamp: int = 0
    start_pos: int = 0
    end_pos: int = 0
    meta: Meta = NO_META
    packets: Packets = field(default_factory=lambda: NO_PACKETS)
    payload: Buffer = b""
    event_count: int = 0
    transaction_count: int = 0
    index: int = 0
    term: int = 0
    sound: bool = False

    @property
    def cost(self) -> int:
        """Roughly the bytes that the entry takes in memory and in the log, for limits on what is in flight."""
        return HEADER_SIZE + len(self.meta.gtids) + 4 * len(self.packets) + len(self.payload)


class Stored(NamedTuple):
    """An entry as it goes into the log: a body that is final, and a header whose place in the log may not be set yet.

    `body` are the bytes behind the header, in one or more buffers; ``header.body_crc`` is right for them, so nobody who
    passes this on has to compute it again.
    """

    header: Header
    meta: Meta
    body: tuple[Buffer, ...]

    def at(self, index: int, term: int) -> Stored:
        """The same entry at a place in the log."""
        return self._replace(header=self.header._replace(index=index, term=term))


def prepare(entry: Entry) -> Stored:
    """Encodes an entry and computes its body's checksum; index and term are the entry's own (0 for a proposal).

    The payload is not copied. InvalidEntryError when the packet table cannot belong to the payload.
    """
    _check_packets(entry)
    meta = entry.meta.encode()
    table = np.ascontiguousarray(entry.packets, "<u4").tobytes()
    if len(meta) > MAX_META or len(entry.payload) > MAX_PAYLOAD:
        raise InvalidEntryError(
            f"meta of {len(meta)} bytes, payload {len(entry.payload)}: at most {MAX_META} and {MAX_PAYLOAD} fit"
        )
    crc = crc32(table, crc32(meta))
    if entry.sound and combine is not None:
        crc = crc_if_correct(entry.payload, entry.packets.astype(np.int64), len(entry.payload), crc, least=_BIG_EVENT)
    else:
        crc = crc32(entry.payload, crc)
    header = Header(
        body_crc=crc,
        kind=entry.kind,
        flags=entry.flags,
        reserved=0,
        index=entry.index,
        term=entry.term,
        file_id=entry.file_id,
        timestamp=entry.timestamp,
        start_pos=entry.start_pos,
        end_pos=entry.end_pos,
        meta_len=len(meta),
        packet_count=len(entry.packets),
        payload_len=len(entry.payload),
        event_count=entry.event_count,
        transaction_count=entry.transaction_count,
        unsynced=0,
    )
    before = meta + table
    return Stored(header, entry.meta, tuple(part for part in (before, entry.payload) if len(part)))


def encode(entry: Entry, index: int, term: int, unsynced: int) -> tuple[Header, bytes]:
    """The header and the bytes that precede the payload: header, meta and packet table.

    InvalidEntryError when the packet table cannot belong to the payload.
    """
    stored = prepare(entry)
    header = stored.header._replace(index=index, term=term, unsynced=unsynced)
    before = header.meta_len + 4 * header.packet_count
    return header, header.encode() + bytes(stored.body[0] if before else b"")


def parse(data: Buffer, offset: int = 0) -> Stored:
    """The entry at `offset` in the form in which another log takes it; checksums are verified, the body is a view.

    InvalidEntryError if it is damaged.
    """
    header, view = _verified(data, offset)
    return Stored(header, Meta.decode(view[: header.meta_len]), (view,) if len(view) else ())


def decode(data: Buffer, offset: int = 0) -> tuple[Entry, Header]:
    """The entry at `offset`, checksums verified; its payload is a view of `data`. InvalidEntryError if damaged."""
    header, view = _verified(data, offset)
    return assemble(header, view), header


def _verified(data: Buffer, offset: int) -> tuple[Header, memoryview]:
    header = parse_header(data, offset)
    if isinstance(header, str):
        raise InvalidEntryError(header)
    view = memoryview(data)[offset + HEADER_SIZE : offset + header.size]
    if len(view) != header.body_len:
        raise InvalidEntryError(
            f"entry {header.index} is cut: {len(view)} of {header.body_len} bytes behind its header"
        )
    crc = crc32(view)
    if crc != header.body_crc:
        raise InvalidEntryError(
            f"the body of entry {header.index} has checksum {crc:#010x}, expected {header.body_crc:#010x}"
        )
    return header, view


def assemble(header: Header, body: memoryview) -> Entry:
    """An entry from its header and its verified body."""
    try:
        kind = Kind(header.kind)
    except ValueError:
        raise InvalidEntryError(
            f"entry {header.index} is of unknown kind {header.kind}: written by a newer release?"
        ) from None
    table = header.meta_len + 4 * header.packet_count
    return Entry(
        kind=kind,
        flags=header.flags,
        file_id=header.file_id,
        timestamp=header.timestamp,
        start_pos=header.start_pos,
        end_pos=header.end_pos,
        meta=Meta.decode(body[: header.meta_len]),
        packets=np.frombuffer(body, "<u4", header.packet_count, header.meta_len),
        payload=body[table:],
        event_count=header.event_count,
        transaction_count=header.transaction_count,
        index=header.index,
        term=header.term,
    )


def _check_packets(entry: Entry) -> None:
    packets, payload = entry.packets, entry.payload
    if not len(packets):
        if len(payload):
            raise InvalidEntryError(f"a payload of {len(payload)} bytes without packets")
        return
    last = int(packets[-1]) & OFFSET_MASK
    rising = True
    if len(packets) > 1:
        offsets = packets & OFFSET_MASK
        rising = bool((offsets[1:] > offsets[:-1]).all())
    if int(packets[0]) & OFFSET_MASK != 0 or last + 4 > len(payload) or not rising:
        raise InvalidEntryError("the packet table is not a list of rising offsets that begins at the payload's start")
    end = last + 4 + int.from_bytes(memoryview(payload)[last : last + 3], "little")
    if end != len(payload):
        raise InvalidEntryError(
            f"the last packet ends at byte {end} of a payload of {len(payload)} bytes: cut inside a packet?"
        )


def _json_bytes(value: dict[str, Json]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def _json_object(data: memoryview) -> dict[str, Json]:
    try:
        value = json.loads(bytes(data))
    except ValueError as error:
        raise InvalidEntryError(f"meta holds invalid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidEntryError(f"meta holds a JSON {type(value).__name__}, expected an object")
    return value
