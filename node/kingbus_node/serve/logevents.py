"""Single events of the log, for people and for tools: SHOW BINLOG EVENTS, and MariaDB's BINLOG_GTID_POS.

Names and descriptions of events are those that the servers print (captured from MySQL 9.7.4 and MariaDB 10.11.19).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import numpy as np

from kingbus_node.binlog.constants import ChecksumAlgorithm, EventFlag, EventType, MariadbGtidFlag
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.event import (
    AnnotateRows,
    BinlogCheckpoint,
    FormatDescription,
    Gtid,
    GtidList,
    MariadbGtidEvent,
    PreviousGtids,
    Query,
    Rotate,
    Xid,
)
from kingbus_node.binlog.gtid import format_uuid
from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.serve.blockview import BlockView
from kingbus_node.serve.view import LogEvent
from kingbus_node.store.catalogue import FileInfo
from kingbus_node.store.errors import PositionInsideEventError
from kingbus_node.store.reader import LogReader

_BLOCK: Final = 256 * 1024
_MAX_DESCRIBED: Final = 64 * 1024
_HEADER: Final = struct.Struct("<IBIIIH")
_TABLE_ID: Final = 6
_FIRST: Final = 4
_NAMES: Final = {
    EventType.FORMAT_DESCRIPTION: "Format_desc",
    EventType.TRANSACTION_PAYLOAD: "Transaction_payload",
    EventType.GTID_TAGGED: "Gtid_tagged_log_event",
    EventType.MARIADB_GTID: "Gtid",
    EventType.GTID_LIST: "Gtid_list",
    EventType.WRITE_ROWS_V1: "Write_rows_v1",
    EventType.UPDATE_ROWS_V1: "Update_rows_v1",
    EventType.DELETE_ROWS_V1: "Delete_rows_v1",
    EventType.ROWS_QUERY: "Rows_query",
    EventType.XA_PREPARE: "XA_prepare",
}


_ROWS_FLAGS: Final = {0x01: "STMT_END_F", 0x10: "USE_SQL_FOREIGN_KEY_F"}
_DDL_XID: Final = 17  # Q_DDL_LOGGED_WITH_XID
_VARIABLE_SIZES: Final = {
    0: 4, 1: 8, 3: 4, 4: 6, 7: 2, 8: 2, 9: 8, 10: 4, 13: 3, 16: 1, _DDL_XID: 8, 18: 2, 19: 1, 20: 1,
}  # fmt: skip
"""Bytes of the status variables of a QUERY event that always have as many ("Query_event" of MySQL's documentation)."""
_STRINGS: Final = {2: (1, 1), 5: (1, 0), 6: (1, 0), 11: (2, 0)}
"""How many strings, each after its length, a variable has, and the bytes after them."""
_DATABASES: Final = 12
_TOO_MANY: Final = 254


def ddl_xid(variables: bytes) -> int | None:
    """The XID that a DDL statement was logged with; None when there is none, or not to be found."""
    at = 0
    while at < len(variables):
        code = variables[at]
        at += 1
        if code == _DDL_XID:
            return int.from_bytes(variables[at : at + 8], "little") if at + 8 <= len(variables) else None
        if code in _VARIABLE_SIZES:
            at += _VARIABLE_SIZES[code]
        elif code in _STRINGS:
            count, more = _STRINGS[code]
            for _ in range(count):
                at += 1 + (variables[at] if at < len(variables) else 0)
            at += more
        elif code == _DATABASES:
            count = variables[at] if at < len(variables) else 0
            at += 1
            for _ in range(0 if count == _TOO_MANY else count):
                end = variables.find(b"\0", at)
                at = len(variables) if end < 0 else end + 1
        else:
            return None
    return None


def file_checksum(reader: LogReader, info: FileInfo) -> bool:
    """Whether the events of a source file have checksums, as its FORMAT_DESCRIPTION says."""
    with closing(reader.cursor(info.start_index)) as cursor:
        block = cursor.read(65536)
    if block is None:
        return False
    return FormatDescription.parse(BlockView.of(block).event(0)).checksum is ChecksumAlgorithm.CRC32


def position_at(reader: LogReader, info: FileInfo, position: int) -> MariadbState:
    """The GTID position of MariaDB at a place in a source file. Errors: those of `LogReader.locate`."""
    reader.locate(info.id, position)
    before = reader.executed_at_file_start(info.id)
    state = before.copy() if isinstance(before, MariadbState) else MariadbState()
    checksum = file_checksum(reader, info)
    with closing(reader.cursor(info.start_index)) as cursor:
        while (block := cursor.read(_BLOCK)) is not None and block.file_id == info.id:
            view = BlockView.of(block)
            count = bisect_right(range(len(view)), position, key=view.end_position)
            rows = np.flatnonzero(view.types[:count] == EventType.MARIADB_GTID)
            if len(rows):
                state.apply_delta(view.mariadb_groups(rows, checksum).executed().encode())
            if count < len(view):
                break
    return state


def events_of(reader: LogReader, info: FileInfo, position: int, *, lenient: bool = False) -> Iterator[LogEvent]:
    """The events of one source file from `position` on. Errors: those of `LogReader.locate`, `CorruptLogError`.

    lenient: inside an event means from the next one on.
    """
    try:
        index, offset = reader.locate(info.id, position)
    except PositionInsideEventError:
        if not lenient:
            raise
        index, offset = reader.locate(info.id, _FIRST)  # the events before it are read, and left out
    checksum = file_checksum(reader, info)
    with closing(reader.cursor(index, offset)) as cursor:
        while (block := cursor.read(_BLOCK)) is not None and block.file_id == info.id:
            view = BlockView.of(block)
            for row in range(bisect_right(range(len(view)), position, key=view.end_position), len(view)):
                event = _event(view, row, info.name, checksum)
                if event.position >= position:
                    yield event


def _event(view: BlockView, row: int, file: str, checksum: bool) -> LogEvent:
    event = view.event(row)
    _, kind, server_id, size, _, _ = _HEADER.unpack_from(event)
    end = view.end_position(row)
    info = ""
    if size <= _MAX_DESCRIBED and len(event) == size:
        try:
            info = describe(kind, event, checksum)
        except BinlogError as problem:
            info = f"({problem})"
    return LogEvent(file, end - size, name_of(kind), server_id, end, info)


def name_of(kind: int) -> str:
    """The Event_type of SHOW BINLOG EVENTS."""
    try:
        known = EventType(kind)
    except ValueError:
        return "Unknown"
    return _NAMES.get(known, known.name.capitalize())


def describe(kind: int, event: bytes, checksum: bool) -> str:
    """The Info of SHOW BINLOG EVENTS. BinlogError if the event is damaged."""
    match kind:
        case EventType.FORMAT_DESCRIPTION:
            return f"Server ver: {FormatDescription.parse(event).server_version}, Binlog ver: 4"
        case EventType.ROTATE:
            rotate = Rotate.parse(event, checksum)
            return f"{rotate.name};pos={rotate.position}"
        case EventType.PREVIOUS_GTIDS:
            return PreviousGtids.parse(event, checksum).gtids.format(",\n")
        case EventType.GTID | EventType.GTID_TAGGED:
            gtid = Gtid.parse(event, checksum)
            tag = f":{gtid.tag}" if gtid.tag else ""
            return f"SET @@SESSION.GTID_NEXT= '{format_uuid(gtid.uuid)}{tag}:{gtid.number}'"
        case EventType.ANONYMOUS_GTID:
            return "SET @@SESSION.GTID_NEXT= 'ANONYMOUS'"
        case EventType.MARIADB_GTID:
            maria = MariadbGtidEvent.parse(event, checksum)
            return f"{'' if maria.flags & MariadbGtidFlag.STANDALONE else 'BEGIN '}GTID {maria.gtid}"
        case EventType.GTID_LIST:
            return f"[{GtidList.parse(event, checksum).state.to_json()}]"
        case EventType.BINLOG_CHECKPOINT:
            return BinlogCheckpoint.parse(event, checksum).name
        case EventType.QUERY | EventType.QUERY_COMPRESSED:
            query = Query.parse(event, checksum)
            statement = query.statement.decode("utf-8", "replace")
            plain = not query.schema or query.header.flags & EventFlag.SUPPRESS_USE
            xid = ddl_xid(query.status_variables)
            after = "" if xid is None else f" /* xid={xid} */"
            return f"{statement}{after}" if plain else f"use `{query.schema}`; {statement}{after}"
        case EventType.ANNOTATE_ROWS:
            return AnnotateRows.parse(event, checksum).statement.decode("utf-8", "replace")
        case EventType.XID:
            return f"COMMIT /* xid={Xid.parse(event, checksum).xid} */"
        case EventType.TABLE_MAP:
            return _table_map(event)
        case _ if "ROWS" in name_of(kind).upper() and kind != EventType.ROWS_QUERY:
            flags = int.from_bytes(event[_HEADER.size + _TABLE_ID : _HEADER.size + _TABLE_ID + 2], "little")
            table_id = int.from_bytes(event[_HEADER.size : _HEADER.size + _TABLE_ID], "little")
            set_ = [name for bit, name in _ROWS_FLAGS.items() if flags & bit]
            return f"table_id: {table_id}" + (f" flags: {' '.join(set_)}" if set_ else "")
        case _:
            return ""


def _table_map(event: bytes) -> str:
    """``table_id: 90 (schema.table)``. Post-header: table id of 6 bytes, flags u16; then two names: length u8, text,
    NUL.
    """
    at = _HEADER.size
    table_id = int.from_bytes(event[at : at + _TABLE_ID], "little")
    at += _TABLE_ID + 2
    names: list[str] = []
    for _ in range(2):
        length = event[at] if at < len(event) else 0
        names.append(event[at + 1 : at + 1 + length].decode("utf-8", "replace"))
        at += length + 2
    return f"table_id: {table_id} ({names[0]}.{names[1]})"
