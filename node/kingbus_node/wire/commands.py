"""Commands: what a client sends once it is logged in.

The first byte of the payload is the command, the rest its arguments, little-endian. Parsing never looks at the data
that a command carries (statements, GTID sets): that is for whoever carries it out. Layouts: "Command Phase" of the
protocol's documentation; COM_REGISTER_SLAVE, COM_BINLOG_DUMP and COM_BINLOG_DUMP_GTID as captured from MySQL 9.7.4 and
MariaDB 10.11.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag, StrEnum
from typing import Final

from kingbus_node.wire.errors import malformed
from kingbus_node.wire.fields import FieldReader


class Command(IntEnum):
    """Command bytes that a node carries out; all others are answered with ER_UNKNOWN_COM_ERROR."""

    QUIT = 0x01
    INIT_DB = 0x02
    QUERY = 0x03
    STATISTICS = 0x09
    PROCESS_KILL = 0x0C
    DEBUG = 0x0D
    PING = 0x0E
    CHANGE_USER = 0x11
    BINLOG_DUMP = 0x12
    REGISTER_SLAVE = 0x15
    SET_OPTION = 0x1B
    BINLOG_DUMP_GTID = 0x1E
    RESET_CONNECTION = 0x1F


class DumpKind(StrEnum):
    """How a dump says where to begin."""

    FILE = "file"
    GTID = "gtid"


class DumpFlag(IntFlag):
    """Bits of a dump command's flags. Bit 1 means different things to the two flavours.

    python-mysql-replication also sets bit 2 in COM_BINLOG_DUMP_GTID (5.6's BINLOG_THROUGH_GTID, which has no effect on
    a server); only a MySQL replica that talks to a server older than 8.3 means SKIP_TAGGED_GTIDS by it.
    """

    NON_BLOCK = 0x01
    MYSQL_HEARTBEAT_V2 = 0x02
    MARIADB_ANNOTATE_ROWS = 0x02
    MYSQL_SKIP_TAGGED_GTIDS = 0x04


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """COM_BINLOG_DUMP or COM_BINLOG_DUMP_GTID.

    `flags`: the 16 bits as sent, see `DumpFlag`. `server_id`: the replica's; 0 asks for the end of the stream at the
    end of the log. `file`: up to the first NUL byte, '' for the first file ("replace" characters when it is not UTF-8:
    no file has such a name). `position`: bytes, 32 bits in a FILE dump, 64 in a GTID dump. `gtid_set`: the encoded set
    of a GTID dump, not decoded, b'' in a FILE dump.
    """

    kind: DumpKind
    flags: int
    server_id: int
    file: str
    position: int
    gtid_set: bytes = b""

    @property
    def non_block(self) -> bool:
        """The stream ends with EOF at the end of the log instead of waiting (flag, or server_id 0: captured)."""
        return bool(self.flags & DumpFlag.NON_BLOCK) or self.server_id == 0


@dataclass(frozen=True, slots=True)
class Registration:
    """COM_REGISTER_SLAVE: what SHOW REPLICAS shows. `host`, `user`: report_host, report_user (the password is dropped
    unread).
    """

    server_id: int
    host: str
    user: str
    port: int
    rank: int
    source_id: int


_GTID_DUMP: Final = struct.Struct("<HII")
_FILE_DUMP: Final = struct.Struct("<IHI")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_REGISTRATION_TAIL: Final = struct.Struct("<HII")


def _name(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def parse_binlog_dump(arguments: bytes) -> DumpRequest:
    """The arguments of COM_BINLOG_DUMP: position u32, flags u16, server_id u32, file name to the end of the packet."""
    if len(arguments) < _FILE_DUMP.size:
        raise malformed(
            f"COM_BINLOG_DUMP has {len(arguments)} bytes of arguments, at least {_FILE_DUMP.size} are needed"
        )
    position, flags, server_id = _FILE_DUMP.unpack_from(arguments)
    return DumpRequest(DumpKind.FILE, flags, server_id, _name(arguments[_FILE_DUMP.size :]), position)


def parse_binlog_dump_gtid(arguments: bytes) -> DumpRequest:
    """The arguments of COM_BINLOG_DUMP_GTID: flags u16, server_id u32, name length u32, name, position u64, data length
    u32, set.
    """
    fixed = _GTID_DUMP.size
    if len(arguments) < fixed:
        raise malformed(f"COM_BINLOG_DUMP_GTID has {len(arguments)} bytes of arguments, at least {fixed} are needed")
    flags, server_id, name_length = _GTID_DUMP.unpack_from(arguments)
    at = fixed + name_length
    if at + _U64.size + _U32.size > len(arguments):
        raise malformed(f"COM_BINLOG_DUMP_GTID announces a file name of {name_length} bytes in {len(arguments)}")
    name = _name(arguments[fixed:at])
    (position,) = _U64.unpack_from(arguments, at)
    (length,) = _U32.unpack_from(arguments, at + _U64.size)
    start = at + _U64.size + _U32.size
    if start + length > len(arguments):
        raise malformed(f"COM_BINLOG_DUMP_GTID announces a GTID set of {length} bytes, {len(arguments) - start} follow")
    return DumpRequest(DumpKind.GTID, flags, server_id, name, position, bytes(arguments[start : start + length]))


def parse_register_slave(arguments: bytes) -> Registration:
    """The arguments of COM_REGISTER_SLAVE: server_id u32, host, user, password (length byte each), port u16, rank u32,
    source u32.
    """
    if len(arguments) < _U32.size:
        raise malformed("COM_REGISTER_SLAVE without a server id")
    (server_id,) = _U32.unpack_from(arguments)
    at = _U32.size
    texts: list[str] = []
    for what in ("host", "user", "password"):
        end = at + 1 + (arguments[at] if at < len(arguments) else 0)
        if end > len(arguments):
            raise malformed(f"COM_REGISTER_SLAVE: its {what} reaches beyond the packet")
        texts.append(arguments[at + 1 : end].decode("utf-8", "replace"))
        at = end
    if at + _REGISTRATION_TAIL.size > len(arguments):
        raise malformed("COM_REGISTER_SLAVE ends before port, rank and source id")
    port, rank, source_id = _REGISTRATION_TAIL.unpack_from(arguments, at)
    return Registration(server_id, texts[0], texts[1], port, rank, source_id)


# Binary lengths of parameter types in query attributes ("Binary Protocol Value"): what is not here is a length-encoded
# string, or, for dates and times, a length byte and that many bytes.
_FIXED_PARAMETERS: Final = {0x01: 1, 0x02: 2, 0x0D: 2, 0x03: 4, 0x09: 4, 0x04: 4, 0x05: 8, 0x08: 8, 0x06: 0, 0xF4: 1}
_TEMPORAL_PARAMETERS: Final = frozenset((0x07, 0x0A, 0x0B, 0x0C))
_MAX_ATTRIBUTES: Final = 256


def split_command(payload: bytes) -> tuple[int, bytes]:
    """The command byte and its arguments. Raises `ProtocolError` for an empty packet."""
    if not payload:
        raise malformed("an empty packet where a command is due")
    return payload[0], payload[1:]


def parse_query(arguments: bytes, *, attributes: bool) -> bytes:
    """The statement of COM_QUERY. attributes: QUERY_ATTRIBUTES is agreed: parameters come first; they are skipped."""
    if not attributes:
        return arguments
    reader = FieldReader(arguments, "COM_QUERY")
    count = reader.lenenc_int()
    reader.lenenc_int()  # the number of parameter sets: always 1
    if count == 0:
        return reader.rest()
    if count > _MAX_ATTRIBUTES:
        raise malformed(f"COM_QUERY announces {count} query attributes")
    nulls = reader.fixed((count + 7) // 8)
    reader.integer(1)  # "new parameters bound": always 1
    types: list[int] = []
    for _ in range(count):
        types.append(reader.integer(2) & 0xFF)  # the high byte says "unsigned"
        reader.lenenc_bytes()  # its name
    for number, kind in enumerate(types):
        if nulls[number // 8] >> (number % 8) & 1:
            continue
        if kind in _FIXED_PARAMETERS:
            reader.fixed(_FIXED_PARAMETERS[kind])
        elif kind in _TEMPORAL_PARAMETERS:
            reader.fixed(reader.integer(1))
        else:
            reader.lenenc_bytes()
    return reader.rest()


def parse_process_kill(arguments: bytes) -> int:
    """The connection id of COM_PROCESS_KILL."""
    return FieldReader(arguments, "COM_PROCESS_KILL").integer(4)


def parse_set_option(arguments: bytes) -> int:
    """COM_SET_OPTION's option: 0 switches several statements per query on, 1 off."""
    return FieldReader(arguments, "COM_SET_OPTION").integer(2)
