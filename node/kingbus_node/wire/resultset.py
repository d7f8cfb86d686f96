"""Answers: OK, ERR and EOF packets, and result sets of the text protocol.

A result set is: the number of columns; a definition per column; EOF, unless DEPRECATE_EOF is agreed; a row per packet,
each value a length-encoded string or 0xfb for NULL; EOF, or, with DEPRECATE_EOF, an OK packet that starts with 0xfe.
Dumps end with the old EOF in any case ("Protocol::EOF_Packet"; captured). Column types are those of the real servers
(captured): clients convert by them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from kingbus_node.wire.capabilities import Capability, ServerStatus
from kingbus_node.wire.errors import MySQLError
from kingbus_node.wire.fields import lenenc_bytes, lenenc_int

BINARY_CHARSET: Final = 63
"""The charset of numbers and of bytes without a charset."""
_NULL: Final = b"\xfb"
_MAX_MESSAGE: Final = 512


class ColumnType(IntEnum):
    """Types in column definitions that a node sends."""

    LONG = 0x03
    DOUBLE = 0x05
    NULL = 0x06
    LONGLONG = 0x08
    DATETIME = 0x0C
    NEWDECIMAL = 0xF6
    MEDIUM_BLOB = 0xFA
    LONG_BLOB = 0xFB
    VAR_STRING = 0xFD


class ColumnFlag(IntFlag):
    """Flags in column definitions."""

    NOT_NULL = 0x0001
    UNSIGNED = 0x0020
    BINARY = 0x0080


Value = bytes | None
"""A value in a row: its text, or NULL."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column definition. charset: None means the connection's. length: the most bytes that a value may have."""

    name: bytes
    type: ColumnType
    length: int
    flags: int = 0
    decimals: int = 0
    charset: int | None = None

    def encode(self, connection_charset: int) -> bytes:
        """Protocol::ColumnDefinition41. Names of schema and table are empty: nothing here comes from a table."""
        charset = connection_charset if self.charset is None else self.charset
        return b"".join(
            (
                b"\x03def\0\0\0",
                lenenc_bytes(self.name),
                b"\0\x0c",
                struct.pack("<HIBHBxx", charset, self.length, self.type, self.flags, self.decimals),
            )
        )


def text_column(name: str, length: int = 1020, *, nullable: bool = False) -> Column:
    """A string (VAR_STRING) of at most `length` bytes."""
    return Column(name.encode(), ColumnType.VAR_STRING, length, 0 if nullable else ColumnFlag.NOT_NULL, 31)


def integer_column(
    name: str, length: int = 21, *, unsigned: bool = True, nullable: bool = False, wide: bool = True
) -> Column:
    """An integer: LONGLONG, or LONG when not `wide`."""
    flags = ColumnFlag.BINARY
    if unsigned:
        flags |= ColumnFlag.UNSIGNED
    if not nullable:
        flags |= ColumnFlag.NOT_NULL
    kind = ColumnType.LONGLONG if wide else ColumnType.LONG
    return Column(name.encode(), kind, length, flags, 0, BINARY_CHARSET)


@dataclass(frozen=True, slots=True)
class ResultSet:
    """Columns and rows. The rows may be made while they are sent: nothing holds them all."""

    columns: Sequence[Column]
    rows: Iterable[Sequence[Value]]


@dataclass(frozen=True, slots=True)
class Ok:
    """A statement without a result."""

    warnings: int = 0
    info: bytes = b""


def ok_packet(
    *, status: int = ServerStatus.AUTOCOMMIT, warnings: int = 0, info: bytes = b"", eof: bool = False
) -> bytes:
    """OK: no rows affected, no insert id. eof: the form that ends a result set under DEPRECATE_EOF."""
    return (b"\xfe" if eof else b"\x00") + b"\0\0" + struct.pack("<HH", status, warnings) + info


def eof_packet(*, status: int = ServerStatus.AUTOCOMMIT, warnings: int = 0) -> bytes:
    """EOF of before DEPRECATE_EOF; also what ends a dump."""
    return b"\xfe" + struct.pack("<HH", warnings, status)


def err_packet(error: MySQLError, *, sqlstate: bool = True) -> bytes:
    """ERR. sqlstate: False before the client has said that it speaks the protocol of 4.1. Texts are cut at 512 bytes,
    as in MySQL.
    """
    message = error.message.encode("utf-8", "replace")
    if len(message) > _MAX_MESSAGE:
        message = message[:_MAX_MESSAGE].decode("utf-8", "ignore").encode()
    state = b"#" + error.sqlstate.encode("ascii") if sqlstate else b""
    return b"\xff" + struct.pack("<H", error.code) + state + message


def row_packet(values: Sequence[Value]) -> bytes:
    """A row of the text protocol."""
    return b"".join(_NULL if value is None else lenenc_bytes(value) for value in values)


def result_set_packets(
    result: ResultSet,
    agreed: Capability,
    *,
    charset: int,
    status: int = ServerStatus.AUTOCOMMIT,
    warnings: int = 0,
) -> Iterator[bytes]:
    """The payloads of a result set, one after the other. charset: the connection's collation id, for text columns."""
    short = bool(agreed & Capability.DEPRECATE_EOF)
    yield lenenc_int(len(result.columns))
    for column in result.columns:
        yield column.encode(charset)
    if not short:
        yield eof_packet(status=status, warnings=warnings)
    for row in result.rows:
        yield row_packet(row)
    if short:
        yield ok_packet(status=status, warnings=warnings, eof=True)
    else:
        yield eof_packet(status=status, warnings=warnings)
