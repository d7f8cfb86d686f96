"""The events that a source invents, and the changes that it makes to a FORMAT_DESCRIPTION before it sends it.

All functions return a whole event, from its header on. `checksum`: end it in a CRC32. Layouts and values as captured
from MySQL 9.7.4 and MariaDB 10.11.19.
"""

from __future__ import annotations

from struct import Struct

from kingbus_node.binlog.checksum import with_checksum
from kingbus_node.binlog.constants import (
    CHECKSUM_LENGTH,
    FIRST_POSITION,
    HEADER_LENGTH,
    MAX_EVENT,
    MAX_PACKET,
    Buffer,
    ChecksumAlgorithm,
    EventFlag,
    EventType,
)
from kingbus_node.binlog.event import FormatDescription
from kingbus_node.binlog.mariadb import MariadbState

_HEADER = Struct("<IBIIIH")
_U64 = Struct("<Q")
_LOG_POS_AT = 13
_FLAGS_AT = 17
_CREATED_AT = HEADER_LENGTH + 52
_UNTIL_REACHED = 0x10  # bit 28 of a GTID list's number of GTIDs


def make_event(
    event_type: EventType,
    body: Buffer,
    *,
    server_id: int,
    checksum: bool,
    timestamp: int = 0,
    log_pos: int = 0,
    flags: int = 0,
) -> bytes:
    """An event with this body. `log_pos` is taken modulo 2**32, as servers do. ValueError if it gets too long."""
    size = HEADER_LENGTH + len(body) + CHECKSUM_LENGTH * checksum
    if size > MAX_EVENT:
        raise ValueError(f"expected an event of at most {MAX_EVENT} bytes, found {size}")
    event = _HEADER.pack(timestamp, event_type, server_id, size, log_pos & 0xFFFFFFFF, flags) + bytes(body)
    return with_checksum(event) if checksum else event


def rotate_event(name: str, *, server_id: int, checksum: bool, position: int = FIRST_POSITION) -> bytes:
    """The artificial ROTATE that tells a replica which file the next event is in, and at which position."""
    return make_event(
        EventType.ROTATE,
        _U64.pack(position) + name.encode(),
        server_id=server_id,
        checksum=checksum,
        flags=EventFlag.ARTIFICIAL,
    )


def heartbeat_event(name: str, position: int, *, server_id: int, version: int, checksum: bool) -> bytes:
    """A HEARTBEAT: there is nothing after `position` of the file `name` yet.

    `version` 2 (MySQL 8.0.26 and later, when the dump command's flag 0x2 asks for it) carries 64 bits of position.
    """
    if version == 1:
        return make_event(EventType.HEARTBEAT, name.encode(), server_id=server_id, checksum=checksum, log_pos=position)
    if version != 2:
        raise ValueError(f"expected heartbeat version 1 or 2, found {version}")
    raw = name.encode()
    number = _packed(position)
    body = b"\x01" + _packed(len(raw)) + raw + b"\x02" + _packed(len(number)) + number + b"\0"
    return make_event(EventType.HEARTBEAT_V2, body, server_id=server_id, checksum=checksum, log_pos=position)


def gtid_list_event(
    state: MariadbState, *, server_id: int, checksum: bool, log_pos: int, until_reached: bool = False
) -> bytes:
    """The artificial GTID_LIST that tells a MariaDB replica what it was sent past without seeing it.

    `until_reached`: the position that START SLAVE UNTIL named is reached, and nothing follows.
    """
    body = bytearray(state.encode())
    if until_reached:
        body[3] |= _UNTIL_REACHED
    if not state:
        body += bytes(2)  # servers make the body at least six bytes, room for the dummy event of an old replica
    return make_event(
        EventType.GTID_LIST,
        body,
        server_id=server_id,
        checksum=checksum,
        log_pos=log_pos,
        flags=EventFlag.ARTIFICIAL,
    )


def fix_format_description(event: Buffer, *, zero_log_pos: bool = False, zero_create_timestamp: bool = False) -> bytes:
    """A FORMAT_DESCRIPTION as it is sent: not "in use", with a new checksum.

    `zero_log_pos`: for a dump that begins in the middle of the file. `zero_create_timestamp`: do not let the replica
    believe that the source was restarted, which would make it drop its temporary tables.
    """
    has_checksum = FormatDescription.parse(event).checksum is not ChecksumAlgorithm.UNDEFINED
    out = bytearray(event)
    out[_FLAGS_AT] &= 0xFF ^ EventFlag.BINLOG_IN_USE
    if zero_log_pos:
        out[_LOG_POS_AT : _LOG_POS_AT + 4] = bytes(4)
    if zero_create_timestamp:
        out[_CREATED_AT : _CREATED_AT + 4] = bytes(4)
    return with_checksum(out[:-CHECKSUM_LENGTH]) if has_checksum else bytes(out)


def packetize(event: Buffer) -> bytes:
    """The packets that carry an event, as they are stored: sequence bytes 0, a status byte 0x00 before the event."""
    view = memoryview(event)
    out = bytearray()
    size = len(view) + 1
    at = 0
    while True:
        length = min(size - at, MAX_PACKET)
        out += length.to_bytes(3, "little") + b"\0"
        if at == 0:
            out += b"\0"
        out += view[max(at - 1, 0) : at + length - 1]
        at += length
        if length < MAX_PACKET:
            return bytes(out)


def _packed(value: int) -> bytes:
    """A length-encoded integer of the client protocol."""
    if value < 0xFB:
        return bytes((value,))
    for mark, width in ((0xFC, 2), (0xFD, 3), (0xFE, 8)):
        if value < 1 << 8 * width:
            return bytes((mark,)) + value.to_bytes(width, "little")
    raise ValueError(f"expected a value of at most 64 bits, found {value}")
