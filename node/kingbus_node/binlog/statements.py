"""What the statements of a block's QUERY events do to transactions.

Both flavours write a transaction's own statements (BEGIN, COMMIT, ...) as QUERY events, between the user's. Telling
them apart follows what the servers' own replicas do: MySQL's Transaction_boundary_parser, and MariaDB's
Query_log_event::peek_is_commit_rollback. Nearly all QUERY events are BEGIN or COMMIT or begin with a letter that none
of the others has, so they are judged by numpy; only the rest is looked at one by one.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

from kingbus_node.binlog.constants import CHECKSUM_LENGTH, HEADER_LENGTH, Buffer, EventType, Flavor
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.scan import Bools, Events, Ints, gather

STATEMENT: Final = 0
"""Any other statement: alone it is a transaction, between BEGIN and COMMIT a part of one."""
BEGIN: Final = 1
"""BEGIN, XA START, or (MySQL) a CREATE TABLE ... START TRANSACTION: the transaction goes on."""
COMMIT: Final = 2
"""COMMIT, ROLLBACK, or (MySQL) XA ROLLBACK: the transaction ends."""

QUERY_HEADER: Final = 13
"""Bytes of a QUERY event's post-header; then status variables, schema, a NUL, the statement."""

_QUERY: Final = int(EventType.QUERY)
_POST_HEADER = np.dtype(
    [("thread_id", "<u4"), ("seconds", "<u4"), ("schema", "u1"), ("error", "<u2"), ("status", "<u2")]
)
_FIVE = np.dtype([("text", "S5")])
_SIX = np.dtype([("text", "S6")])
_EIGHT = np.dtype([("text", "S8")])
_FIRST = np.dtype([("first", "u1")])
_COMPRESSED = np.dtype([("form", "u1"), ("size", "u1")])

_HEAD: Final = 64
"""How much of a statement's beginning and end decides."""
_ROLLBACK = re.compile(rb"ROLLBACK(?!\s+(WORK\s+)?TO\b)", re.IGNORECASE)
_XA_START = re.compile(rb"XA\s+(START|BEGIN)\b", re.IGNORECASE)
_XA_ROLLBACK = re.compile(rb"XA\s+ROLLBACK\b", re.IGNORECASE)
_CREATE = re.compile(rb"CREATE\b", re.IGNORECASE)
_START_TRANSACTION = re.compile(rb"\bSTART\s+TRANSACTION\s*\Z", re.IGNORECASE)


def statement_kinds(
    buf: Buffer, events: Events, rows: Ints, checksummed: Bools, flavor: Flavor
) -> npt.NDArray[np.uint8]:
    """STATEMENT, BEGIN or COMMIT for each of the QUERY and QUERY_COMPRESSED events `rows` of `events`.

    BinlogError if one is too short for its own lengths.
    """
    out = np.full(len(rows), STATEMENT, dtype=np.uint8)
    if not len(rows):
        return out
    start = events.start[rows]
    end = start + events.size[rows] - CHECKSUM_LENGTH * checksummed[rows]
    short = end - start < HEADER_LENGTH + QUERY_HEADER
    if short.any():
        raise BinlogError("expected a QUERY event with its post-header, found a shorter one", _first(start, short))
    post = gather(buf, start + HEADER_LENGTH, _POST_HEADER)
    at = start + (HEADER_LENGTH + QUERY_HEADER + 1) + post["status"] + post["schema"]
    length = end - at
    if (length < 0).any():
        raise BinlogError("expected a QUERY event with a statement, found its end before", _first(start, length < 0))
    plain = events.type[rows] == _QUERY
    _exact(buf, out, at, plain & (length == 5), _FIVE, b"BEGIN", BEGIN if flavor is Flavor.MYSQL else STATEMENT)
    _exact(buf, out, at, plain & (length == 6), _SIX, b"COMMIT", COMMIT)
    if flavor is Flavor.MARIADB:
        _exact(buf, out, at, plain & (length == 8), _EIGHT, b"ROLLBACK", COMMIT)
        for i in np.flatnonzero(~plain & (length > 2)).tolist():
            out[i] = _compressed_kind(memoryview(buf)[int(at[i]) : int(end[i])])
        return out
    undecided = (plain & (length >= 8)).nonzero()[0]
    if not len(undecided):
        return out
    letter = gather(buf, at[undecided], _FIRST)["first"] | 0x20
    for i in undecided[(letter == ord("r")) | (letter == ord("x")) | (letter == ord("c"))].tolist():
        low, high = int(at[i]), min(int(end[i]), len(buf))
        out[i] = _mysql_kind(bytes(buf[low : min(low + _HEAD, high)]), bytes(buf[max(low, high - _HEAD) : high]))
    return out


def _mysql_kind(head: bytes, tail: bytes) -> int:
    """Judge a MySQL statement by its first and last `_HEAD` bytes."""
    if _ROLLBACK.match(head) or _XA_ROLLBACK.match(head):
        return COMMIT
    if _XA_START.match(head) or (_CREATE.match(head) and _START_TRANSACTION.search(tail)):
        return BEGIN
    return STATEMENT


def _compressed_kind(statement: memoryview) -> int:
    """Judge a MariaDB compressed statement: 0x80 | bytes of length, the length (big endian), a zlib stream.

    MariaDB compresses statements of 10 bytes or more only, so this is a safeguard.
    """
    width = statement[0] & 7
    if int.from_bytes(statement[1 : 1 + width], "big") not in (len(b"COMMIT"), len(b"ROLLBACK")):
        return STATEMENT
    try:
        text = zlib.decompressobj().decompress(statement[1 + width :], 16)
    except zlib.error as error:
        raise BinlogError(f"expected a compressed statement, found {error}") from None
    return COMMIT if text in (b"COMMIT", b"ROLLBACK") else STATEMENT


def _exact(
    buf: Buffer,
    out: npt.NDArray[np.uint8],
    at: Ints,
    candidates: Bools,
    dtype: np.dtype[np.void],
    text: bytes,
    kind: int,
) -> None:
    """Set `kind` where a statement, one of `candidates`, which have its length, is `text`."""
    rows = candidates.nonzero()[0]
    if not len(rows):
        return
    out[rows[gather(buf, at[rows], dtype)["text"] == text]] = kind


def _first(start: Ints, wrong: Bools) -> int:
    return int(start[int(np.argmax(wrong))])
