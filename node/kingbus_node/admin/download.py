"""A binlog file out of the log, as its source has it on disk: magic, FORMAT_DESCRIPTION, events, nothing else.

What is stored are packets: the bytes between events are taken out. Positions that the source never sent (it skipped
transactions that were held already) are not filled: the events follow each other, as in ``mysqlbinlog --raw``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

import numpy as np

from kingbus_node.admin.views import Refused
from kingbus_node.binlog.constants import FIRST_POSITION
from kingbus_node.binlog.scan import EVENT_AT, PACKET_HEADER
from kingbus_node.store.cursor import Block
from kingbus_node.store.errors import PositionInsideEventError, PositionPastEndError, PurgedError, UnknownFileError
from kingbus_node.store.reader import LogReader

MAGIC: Final = b"\xfebin"
"""How every binlog file begins."""

_PIECE: Final = 1 << 20
_FEW: Final = 64  # packets up to which slices are cheaper than a mask


def binlog(reader: LogReader, name: str, position: int) -> Iterator[bytes]:
    """The file `name` up to what is visible now, in pieces; from `position` on if that is behind the file's head.

    ``Refused`` at once: 404 for a file that is not there, 400 for a position at which no event begins.
    """
    visible = reader.visible_index
    file = reader.file_by_name(name)
    if file is None:
        raise Refused(HTTPStatus.NOT_FOUND, f"there is no binlog file {name!r}; GET /v1/binlogs lists them")
    try:
        index, offset = reader.locate(file.id, max(position, FIRST_POSITION))
    except (PositionInsideEventError, PositionPastEndError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
    except (PurgedError, UnknownFileError) as error:
        raise Refused(HTTPStatus.NOT_FOUND, f"binlog file {name!r} was purged a moment ago") from error
    return _pieces(reader, file.id, file.start_index, index, offset, visible)


def _pieces(reader: LogReader, file_id: int, start: int, index: int, offset: int, visible: int) -> Iterator[bytes]:
    yield MAGIC
    if (index, offset) != (start, 0):
        yield _first_event(reader, start)
    with contextlib.closing(reader.cursor(index, offset)) as cursor:
        while (block := cursor.read(_PIECE)) is not None and block.file_id == file_id:
            entries = int(np.searchsorted(block.records["index"], visible, side="right"))
            piece = events(block, int(block.bounds[entries]))
            if piece:
                yield piece
            if entries < len(block.records):
                return


def _first_event(reader: LogReader, start: int) -> bytes:
    """The FORMAT_DESCRIPTION event of the file that begins with entry `start`."""
    with contextlib.closing(reader.cursor(start)) as cursor:
        block = cursor.read(_PIECE)
    if block is None:
        return b""
    return events(block, int(block.packets[1]) if len(block.packets) > 1 else int(block.bounds[-1]))


def events(block: Block, end: int) -> bytes:
    """The first `end` bytes of a block without what is around events: packet headers, and the 0x00 before an event."""
    packets, continuation = block.packets, block.continuation
    count = int(np.searchsorted(packets, end))
    packets, continuation = packets[:count], continuation[:count]
    data = block.data[:end]
    if count <= _FEW:
        starts = [0, *(packets + np.where(continuation, PACKET_HEADER, EVENT_AT)).tolist()]
        return b"".join(data[a:b] for a, b in zip(starts, [*packets.tolist(), end], strict=True))
    keep = np.ones(end, np.bool_)
    for byte in range(PACKET_HEADER):
        keep[packets + byte] = False
    keep[packets[~continuation] + PACKET_HEADER] = False
    return np.frombuffer(data, np.uint8)[keep].tobytes()
