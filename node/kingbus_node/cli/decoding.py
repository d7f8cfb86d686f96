"""Binlog files, event by event, for people and programs.

Names and descriptions are those of SHOW BINLOG EVENTS; rows are decoded by mysql-replication, which is made for a live
connection: here it is given a packet and the little that it wants to know of a connection. It names columns where the
source writes binlog_row_metadata=FULL.
"""

from __future__ import annotations

import base64
import datetime
import inspect
import logging
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import click
from pymysql.protocol import MysqlPacket
from pymysqlreplication import event as library_events
from pymysqlreplication import row_event as library_rows
from pymysqlreplication.event import BinLogEvent
from pymysqlreplication.exceptions import MalformedBinLogEvent, TableMetadataUnavailableError
from pymysqlreplication.packet import BinLogPacketWrapper

from kingbus_node.binlog.constants import FIRST_POSITION, HEADER_LENGTH, ChecksumAlgorithm, EventType, Flavor
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.event import FormatDescription
from kingbus_node.cli.output import visible
from kingbus_node.serve.logevents import describe, name_of
from kingbus_node.store.entry import Json

Read = Callable[[int], bytes]

MAX_DECODED: Final = 64 << 20
"""Bytes of an event beyond which it is only named: a bigger one is passed over, not held in memory."""

HEADING: Final = f"{'POSITION':>10}  {'TIME (UTC)':<19}  {'TYPE':<24}  {'SERVER':>10}  {'END':>10}  INFO"

_MAGIC: Final = b"\xfebin"
_HEADER: Final = struct.Struct("<IBIIIH")
_PIECE: Final = 1 << 20
_ROWS: Final = frozenset(
    {
        EventType.WRITE_ROWS_V1, EventType.UPDATE_ROWS_V1, EventType.DELETE_ROWS_V1, EventType.WRITE_ROWS,
        EventType.UPDATE_ROWS, EventType.DELETE_ROWS, EventType.PARTIAL_UPDATE_ROWS,
    }
)  # fmt: skip


_LIBRARY_ERRORS: Final = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError,
    struct.error, MalformedBinLogEvent, TableMetadataUnavailableError,
)  # fmt: skip
"""What the library's parsing runs into where it does not know an event: that is said, and the next one is read."""


@dataclass(frozen=True, slots=True)
class DecodedEvent:
    """One event. Positions are in bytes of the file; `rows` as mysql-replication gives them, ready for JSON."""

    position: int
    timestamp: int
    type: str
    server_id: int
    size: int
    end: int
    flags: int
    info: str
    rows: list[Json] = field(default_factory=list)

    def line(self) -> str:
        """For people, under `HEADING`."""
        info = visible(self.info.replace("\n", " ").replace("\t", " "))
        rows = f" [{len(self.rows)} row{'' if len(self.rows) == 1 else 's'}]" if self.rows else ""
        columns = f"{self.position:>10}  {self._time():<19}  {self.type:<24}  {self.server_id:>10}  {self.end:>10}"
        return f"{columns}  {info}{rows}".rstrip()

    def as_json(self, *, rows: bool) -> dict[str, Json]:
        """For programs."""
        shown: dict[str, Json] = {
            "position": self.position,
            "end": self.end,
            "timestamp": self.timestamp,
            "type": self.type,
            "server_id": self.server_id,
            "size": self.size,
            "flags": self.flags,
            "info": self.info,
        }
        return shown | ({"rows": self.rows} if rows else {})

    def _time(self) -> str:
        moment = datetime.datetime.fromtimestamp(self.timestamp, datetime.UTC)
        return moment.strftime("%Y-%m-%d %H:%M:%S") if self.timestamp else "-"


def events(read: Read, start: int = FIRST_POSITION) -> Iterator[DecodedEvent]:
    """The events of a binlog file that `read` gives; `start`: where the event behind the first one is, if not next."""
    if _exactly(read, len(_MAGIC)) != _MAGIC:
        raise click.ClickException("expected a binlog file, found something else: is --admin a Kingbus node?")
    decoder = _Decoder()
    position = FIRST_POSITION
    while header := _exactly(read, HEADER_LENGTH, may_end=True):
        size = _HEADER.unpack(header)[3]
        if size < HEADER_LENGTH:
            raise click.ClickException(f"the event at {position} says that it has {size} bytes: the file is damaged")
        if size > MAX_DECODED:
            _pass_over(read, size - HEADER_LENGTH)
            event = header
        else:
            event = header + _exactly(read, size - HEADER_LENGTH)
        decoded = decoder.decode(event, position)
        if position != FIRST_POSITION or start == FIRST_POSITION:
            yield decoded
        position = max(decoded.end, start) if position == FIRST_POSITION else decoded.end


class _Connection:
    """What mysql-replication asks a connection about."""

    charset = "utf8mb4"

    def __init__(self, flavor: Flavor) -> None:
        self._flavor = flavor

    def _get_dbms(self) -> str:
        return self._flavor.value


class _Decoder:
    """The state that events leave behind for later ones: the format of the file, and the tables' columns."""

    _classes: Final = frozenset(
        found
        for module in (library_events, library_rows)
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, BinLogEvent)
    )

    def __init__(self) -> None:
        self._checksum = False
        self._lengths: tuple[int, ...] = ()
        self._version: tuple[int, ...] = (8, 0, 0)
        self._tables: dict[int, object] = {}
        self._connection = _Connection(Flavor.MYSQL)
        logging.getLogger("pymysqlreplication").disabled = True  # it warns about what it was not asked for

    def decode(self, event: bytes, position: int) -> DecodedEvent:
        """One event; only its header if it is too big."""
        timestamp, kind, server_id, size, log_pos, flags = _HEADER.unpack_from(event)
        running = position + size
        # log_pos is 32 bits wide, and MariaDB since 11.8 leaves it out within transactions.
        end = running + (log_pos - running + (1 << 31)) % (1 << 32) - (1 << 31) if log_pos else running
        info, rows = "", list[Json]()
        if len(event) < size:
            info = f"({size} bytes, not decoded)"
        else:
            try:
                self._learn(kind, event)
                info = describe(kind, event, self._checksum)
                if kind == EventType.TABLE_MAP:
                    self._library(event)
                elif kind in _ROWS:
                    info, rows = self._rows(event, info)
            except BinlogError as error:
                info = f"({error})"
        return DecodedEvent(end - size, timestamp, name_of(kind), server_id, size, end, flags, info, rows)

    def _learn(self, kind: int, event: bytes) -> None:
        if kind != EventType.FORMAT_DESCRIPTION:
            return
        found = FormatDescription.parse(event)
        self._checksum = found.checksum is ChecksumAlgorithm.CRC32
        self._lengths = tuple(found.post_header_lengths)
        numbers = found.server_version.split("-")[0].split(".")
        self._version = tuple(int(number) for number in numbers if number.isdecimal())
        self._connection = _Connection(found.flavor)
        self._tables = {}

    def _library(self, event: bytes) -> object:
        wrapper = BinLogPacketWrapper(
            MysqlPacket(b"\0" + event, "utf8mb4"),
            self._tables,
            self._connection,
            self._version,
            self._checksum,
            self._classes,
            None, None, None, None,  # all tables of all schemas
            False,
            True,  # a text that is not of its column's character set is no reason to stop
            False,
            True,
            False,
            post_header_lengths=self._lengths,
        )  # fmt: skip
        return wrapper.event

    def _rows(self, event: bytes, info: str) -> tuple[str, list[Json]]:
        try:
            found = self._library(event)
            if found is None:
                return f"{info} (of a table that was described before the first event shown)", []
            table = f"{getattr(found, 'schema', '?')}.{getattr(found, 'table', '?')}"
            rows: object = getattr(found, "rows", [])
        except _LIBRARY_ERRORS as error:
            return f"{info} (cannot be decoded: {error})", []
        return f"{info} ({table})", [_row(row) for row in rows] if isinstance(rows, list) else []


def _row(row: object) -> Json:
    """``{"values": …}``, or ``{"before_values": …, "after_values": …}`` for an update."""
    names = ("values", "before_values", "after_values")
    return {name: _plain(row[name]) for name in names if name in row} if isinstance(row, Mapping) else _plain(row)


def _plain(value: object) -> Json:
    """As JSON has it: bytes that are no text in base64, numbers that are no JSON numbers as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return "base64:" + base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {_text(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return str(value)


def _text(key: object) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def _exactly(read: Read, count: int, *, may_end: bool = False) -> bytes:
    """The next `count` bytes; b"" at the end if that may be here."""
    parts: list[bytes] = []
    missing = count
    while missing:
        piece = read(min(missing, _PIECE))
        if not piece:
            if may_end and missing == count:
                return b""
            raise click.ClickException("the file ends within an event: was the connection cut?")
        parts.append(piece)
        missing -= len(piece)
    return b"".join(parts)


def _pass_over(read: Read, count: int) -> None:
    while count:
        count -= len(_exactly(read, min(count, _PIECE)))
