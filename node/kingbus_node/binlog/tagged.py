"""The body of MySQL's GTID_TAGGED event (type 42, since 8.3, WL#15294), in the format of its serialization library.

A message is: format version, size of the message, number of the last field that may not be ignored, then fields in
ascending order, each a number and a value. All of these are variable-length integers: the first byte has n trailing one
bits (n < 8), the integer takes n + 1 bytes, little endian, and its value is what is above the n + 1 lowest bits; with
n = 8 eight bytes of value follow the first one. Signed integers have their sign in the lowest bit (value * 2, or
(-value - 1) * 2 + 1). A string is its length and its bytes. The uuid is sixteen unsigned integers, so bytes above 127
take two. Fields with a default may be missing. (libs/mysql/serialization/readme.md; captured from MySQL 9.7.4.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kingbus_node.binlog.constants import Buffer
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.gtid import MAX_NUMBER, Source, normalize_tag

_VERSION: Final = 1

_FLAGS, _UUID, _NUMBER, _TAG, _LAST_COMMITTED, _SEQUENCE_NUMBER = range(6)
_IMMEDIATE_TIMESTAMP, _ORIGINAL_TIMESTAMP, _LENGTH, _IMMEDIATE_VERSION, _ORIGINAL_VERSION, _TICKET = range(6, 12)
_HEAD: Final = 2
"""Bytes of version and size, if the size is below 128."""
_KEY_END: Final = 20
_SIGNED: Final = frozenset((_NUMBER, _LAST_COMMITTED, _SEQUENCE_NUMBER))


def read_varlen(view: memoryview, at: int) -> tuple[int, int]:
    """Read an unsigned variable-length integer. Returns (value, where it ends)."""
    if at >= len(view):
        raise BinlogError("expected a variable-length integer, found the end of the event", at)
    first = view[at]
    if not first & 1:
        return first >> 1, at + 1
    ones = ((~first & 0x1FF) & -(~first & 0x1FF)).bit_length() - 1
    end = at + ones + 1
    if end > len(view):
        raise BinlogError(f"expected a variable-length integer of {ones + 1} bytes, found the end of the event", at)
    if ones == 8:
        return int.from_bytes(view[at + 1 : end], "little"), end
    return int.from_bytes(view[at:end], "little") >> (ones + 1), end


@dataclass(frozen=True, slots=True)
class TaggedGtid:
    """The fields of a tagged GTID. Timestamps are in microseconds since 1970 UTC; 0 where a field is missing."""

    flags: int
    uuid: bytes
    number: int
    tag: str
    last_committed: int
    sequence_number: int
    immediate_commit_timestamp: int
    original_commit_timestamp: int
    transaction_length: int
    immediate_server_version: int
    original_server_version: int


def decode_tagged(body: Buffer) -> TaggedGtid:
    """Decode the body of a GTID_TAGGED event, without header and checksum."""
    return _decode(memoryview(body))[0]


def _decode(view: memoryview) -> tuple[TaggedGtid, dict[int, slice]]:
    """The fields, and where in `view` each of them is, its number included."""
    version, at = read_varlen(view, 0)
    if version != _VERSION:
        raise BinlogError(f"expected serialization format {_VERSION}, found {version}", 0)
    size, at = read_varlen(view, at)
    if size != len(view):
        raise BinlogError(f"expected a tagged GTID of {len(view)} bytes, found size field {size}", 1)
    required, at = read_varlen(view, at)
    numbers: dict[int, int] = {}
    places: dict[int, slice] = {}
    uuid: bytes | None = None
    tag = ""
    previous = -1
    while at < size:
        where = at
        field, at = read_varlen(view, at)
        if field <= previous:
            raise BinlogError(f"expected fields in ascending order, found {field} after {previous}", where)
        previous = field
        if field > _TICKET:
            if field <= required:
                raise BinlogError(
                    f"expected fields up to {_TICKET}, found field {field}, which may not be ignored", where
                )
            break  # of a newer version; those after it are newer still
        if field == _UUID:
            uuid, at = _read_uuid(view, at)
        elif field == _TAG:
            length, at = read_varlen(view, at)
            tag = normalize_tag(bytes(view[at : at + min(length, 64)]).decode("latin-1"))
            at += length
            if at > size:
                raise BinlogError(f"expected a tag of {length} bytes, found the end of the event", where)
        else:
            value, at = read_varlen(view, at)
            numbers[field] = (-(value >> 1) - 1 if value & 1 else value >> 1) if field in _SIGNED else value
        places[field] = slice(where, at)
    number = numbers.get(_NUMBER, 0)
    if uuid is None or not 1 <= number <= MAX_NUMBER:
        raise BinlogError(f"expected a uuid and a number in 1 .. 2**63 - 2 in a tagged GTID, found number {number}", 0)
    immediate = numbers.get(_IMMEDIATE_TIMESTAMP, 0)
    version_number = numbers.get(_IMMEDIATE_VERSION, 0)
    gtid = TaggedGtid(
        flags=numbers.get(_FLAGS, 0),
        uuid=uuid,
        number=number,
        tag=tag,
        last_committed=numbers.get(_LAST_COMMITTED, 0),
        sequence_number=numbers.get(_SEQUENCE_NUMBER, 0),
        immediate_commit_timestamp=immediate,
        original_commit_timestamp=numbers.get(_ORIGINAL_TIMESTAMP, immediate),
        transaction_length=numbers.get(_LENGTH, 0),
        immediate_server_version=version_number,
        original_server_version=numbers.get(_ORIGINAL_VERSION, version_number),
    )
    return gtid, places


class TaggedIdentities:
    """Reads only what identifies tagged GTIDs, and remembers what surrounded their numbers.

    Nearly all tagged GTIDs of a stream are of a few sources and differ in their numbers only, so most are read by
    comparing bytes, ten times as fast. Memory grows with the number of sources; meant for one block.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        # By the first bytes: all bytes before the number, those of the tag's field after it, and the source.
        self._known: dict[bytes, tuple[bytes, bytes, Source]] = {}

    def read(self, body: bytes) -> tuple[Source, int]:
        """((uuid, tag), number) of the body of a GTID_TAGGED event."""
        key = body[_HEAD:_KEY_END]
        known = self._known.get(key)
        if known is not None:
            prefix, tag, source = known
            at = _HEAD + len(prefix)
            if body.startswith(prefix, _HEAD) and body.startswith(_short_head(body)):
                doubled, at = read_varlen(memoryview(body), at)
                if body.startswith(tag, at) and not doubled & 1 and 1 <= doubled >> 1 <= MAX_NUMBER:
                    return source, doubled >> 1
        gtid, fields = _decode(memoryview(body))
        source = (gtid.uuid, gtid.tag)
        if _TAG in fields and body.startswith(_short_head(body)):
            number, tag_field = fields[_NUMBER], fields[_TAG]
            self._known[key] = (body[_HEAD : number.start + 1], body[tag_field.start : tag_field.stop], source)
        return source, gtid.number


def _short_head(body: bytes) -> bytes:
    """What a body begins with if its size takes one byte, as it does below 128."""
    return bytes((_VERSION << 1, len(body) << 1 & 0xFF)) if len(body) < 128 else b"\xff"


def _read_uuid(view: memoryview, at: int) -> tuple[bytes, int]:
    out = bytearray()
    for _ in range(16):
        value, end = read_varlen(view, at)
        if value > 0xFF:
            raise BinlogError(f"expected a byte of a uuid, found {value}", at)
        out.append(value)
        at = end
    return bytes(out), at
