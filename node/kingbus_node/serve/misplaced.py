"""The refusal of a position inside an event.

A server reads an event's header wherever it is sent to, and complains about the length that it finds there. Which of
its complaints it is depends on the bytes at the position; people know them from the error log of their replica.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kingbus_node.binlog.constants import HEADER_LENGTH, MAX_PACKET, Flavor
from kingbus_node.binlog.scan import EVENT_AT, PACKET_HEADER
from kingbus_node.serve.refusals import Coordinates, bogus_event, oversized_event, truncated_event
from kingbus_node.store.catalogue import FileInfo
from kingbus_node.store.cursor import Cursor
from kingbus_node.store.reader import LogReader
from kingbus_node.wire.errors import MySQLError

_LONGEST: Final = 1 << 30
"""Longer events count as damaged (max_allowed_packet of the dump thread)."""
_BLOCK: Final = 1 << 20


def misplaced_position(
    reader: LogReader, file: FileInfo, event_start: int, position: int, at: Coordinates
) -> MySQLError:
    """The error for `position`, which is inside the event that begins at `event_start` of `file`."""
    mariadb = at.flavor is Flavor.MARIADB
    header = _bytes_at(reader, file, event_start, position)
    length = int.from_bytes(header[9:13], "little")
    at.last = position + HEADER_LENGTH
    if mariadb:
        at.before = position
    if len(header) < HEADER_LENGTH:
        at.last = position if mariadb else file.end_pos
        return truncated_event(at)
    if length > _LONGEST:
        return oversized_event(at)
    if length > HEADER_LENGTH and position + length > file.end_pos:
        if not mariadb:
            at.last = file.end_pos
        return truncated_event(at)
    return bogus_event(at)


def _bytes_at(reader: LogReader, file: FileInfo, event_start: int, position: int) -> bytes:
    """The bytes of the source file at `position`, as many as an event's header has; fewer at the end of the file."""
    cursor = reader.cursor(*reader.locate(file.id, event_start))
    out = bytearray()
    skip = position - event_start
    try:
        for piece in _unpacked(cursor, file.id):
            out += piece[skip : skip + HEADER_LENGTH - len(out)]
            skip = max(0, skip - len(piece))
            if len(out) == HEADER_LENGTH:
                break
    finally:
        cursor.close()
    return bytes(out)


def _unpacked(cursor: Cursor, file_id: int) -> Iterator[memoryview]:
    """What the packets of a file carry, without their headers and status bytes: the bytes of the source's file."""
    left = 0
    continued = False
    while (block := cursor.read(_BLOCK)) is not None and block.file_id == file_id:
        data = block.data
        at = 0
        while at < len(data):
            if not left:
                left = int.from_bytes(data[at : at + 3], "little")
                at += PACKET_HEADER
                status = 0 if continued else EVENT_AT - PACKET_HEADER
                continued = left == MAX_PACKET
                at += status
                left -= status
            taken = min(left, len(data) - at)
            yield data[at : at + taken]
            at += taken
            left -= taken
