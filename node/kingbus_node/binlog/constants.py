"""Numbers of the binlog format: event types, flags, header layout, checksum algorithms.

Sources: MySQL's source documentation (libs/mysql/binlog/event/binlog_event.h), MariaDB's knowledge base ("Replication
Protocol"), and captures from MySQL 9.7.4 and MariaDB 10.11.19.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag, StrEnum
from typing import Final, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Anything that holds bytes, one byte to an item."""

HEADER_LENGTH: Final = 19
"""Bytes of an event's common header: timestamp u32, type u8, server_id u32, size u32, log_pos u32, flags u16 (LE)."""

CHECKSUM_LENGTH: Final = 4
"""Bytes of the CRC32 that ends an event when checksums are on (little endian, over everything before it)."""

BINLOG_MAGIC: Final = b"\xfebin"
"""The first four bytes of a binlog file. The first event follows at position 4."""

FIRST_POSITION: Final = 4

MAX_PACKET: Final = 0xFFFFFF
"""The longest packet payload. A packet of exactly this length is continued by the next one."""

MAX_EVENT: Final = 0xFFFFFFFF
"""The size field of the event header is a u32."""


class Flavor(StrEnum):
    """Whose GTIDs and whose event types a binlog uses."""

    MYSQL = "mysql"
    MARIADB = "mariadb"


class ChecksumAlgorithm(IntEnum):
    """`binlog_checksum`, as the FORMAT_DESCRIPTION event carries it (one byte before its own checksum)."""

    NONE = 0
    CRC32 = 1
    UNDEFINED = 255
    """The server is older than checksums (MySQL < 5.6.1, MariaDB < 5.3): no event has one."""


class EventFlag(IntFlag):
    """The header's flags."""

    BINLOG_IN_USE = 0x1
    """On a FORMAT_DESCRIPTION in a file: not closed cleanly (or still open). Cleared when it is sent."""
    THREAD_SPECIFIC = 0x4
    SUPPRESS_USE = 0x8
    ARTIFICIAL = 0x20
    """Made up by the sender; in no file."""
    RELAY_LOG = 0x40
    IGNORABLE = 0x80
    """A replica that does not know the type may skip the event."""
    NO_FILTER = 0x100
    MTS_ISOLATE = 0x200
    MARIADB_SKIP_REPLICATION = 0x8000


class EventType(IntEnum):
    """Event types of both flavours; they do not overlap. Gaps are types that no supported server writes."""

    UNKNOWN = 0
    START_V3 = 1
    QUERY = 2
    STOP = 3
    ROTATE = 4
    INTVAR = 5
    LOAD = 6
    SLAVE = 7
    CREATE_FILE = 8
    APPEND_BLOCK = 9
    EXEC_LOAD = 10
    DELETE_FILE = 11
    NEW_LOAD = 12
    RAND = 13
    USER_VAR = 14
    FORMAT_DESCRIPTION = 15
    XID = 16
    BEGIN_LOAD_QUERY = 17
    EXECUTE_LOAD_QUERY = 18
    TABLE_MAP = 19
    PRE_GA_WRITE_ROWS = 20
    PRE_GA_UPDATE_ROWS = 21
    PRE_GA_DELETE_ROWS = 22
    WRITE_ROWS_V1 = 23
    UPDATE_ROWS_V1 = 24
    DELETE_ROWS_V1 = 25
    INCIDENT = 26
    HEARTBEAT = 27
    IGNORABLE = 28
    ROWS_QUERY = 29
    WRITE_ROWS = 30
    UPDATE_ROWS = 31
    DELETE_ROWS = 32
    GTID = 33
    ANONYMOUS_GTID = 34
    PREVIOUS_GTIDS = 35
    TRANSACTION_CONTEXT = 36
    VIEW_CHANGE = 37
    XA_PREPARE = 38
    PARTIAL_UPDATE_ROWS = 39
    TRANSACTION_PAYLOAD = 40
    HEARTBEAT_V2 = 41
    GTID_TAGGED = 42

    ANNOTATE_ROWS = 160
    BINLOG_CHECKPOINT = 161
    MARIADB_GTID = 162
    GTID_LIST = 163
    START_ENCRYPTION = 164
    QUERY_COMPRESSED = 165
    WRITE_ROWS_COMPRESSED_V1 = 166
    UPDATE_ROWS_COMPRESSED_V1 = 167
    DELETE_ROWS_COMPRESSED_V1 = 168
    WRITE_ROWS_COMPRESSED = 169
    UPDATE_ROWS_COMPRESSED = 170
    DELETE_ROWS_COMPRESSED = 171
    PARTIAL_ROW_DATA = 172


class MariadbGtidFlag(IntFlag):
    """`flags2` of MariaDB's GTID event (sql/log_event.h, class Gtid_log_event)."""

    STANDALONE = 1
    """No terminating COMMIT or XID: the group is one statement (DDL and the like)."""
    GROUP_COMMIT_ID = 2
    TRANSACTIONAL = 4
    ALLOW_PARALLEL = 8
    WAITED = 16
    DDL = 32
    PREPARED_XA = 64
    COMPLETED_XA = 128


def type_name(event_type: int) -> str:
    """`"XID (16)"`, or `"type 99"` for one that this version does not know."""
    try:
        return f"{EventType(event_type).name} ({event_type})"
    except ValueError:
        return f"type {event_type}"
