"""Where a dump begins: from what the client asked for to a file, a position and a place in the log, or the refusal.

Four ways to ask: by file and position (either flavour), by GTID set (MySQL), by GTID position (MariaDB,
@slave_connect_state, which makes the server ignore file and position).
"""

from __future__ import annotations

from dataclasses import dataclass

from kingbus_node.binlog.constants import FIRST_POSITION, Flavor
from kingbus_node.serve.filters import Filter
from kingbus_node.serve.refusals import (
    impossible_position,
    position_before_first,
    position_past_end,
    unknown_file,
)
from kingbus_node.store.catalogue import FileInfo
from kingbus_node.store.reader import LogReader
from kingbus_node.wire.errors import MySQLError


class MaybeLateError(Exception):
    """What was asked for is not here. It may be on its way: this node may be behind the one that served the client
    before.

    `refusal`: what to answer if it does not come.
    """

    def __init__(self, refusal: MySQLError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Start:
    """Where a dump begins.

    file, position: of the first event that is looked at. filter: what is left out. resets: the dump is by file and
    position and begins within the file, so that the file's FORMAT_DESCRIPTION is sent without position and creation
    time.
    """

    file: FileInfo
    position: int
    filter: Filter | None = None
    resets: bool = False


def find_file(reader: LogReader, name: str) -> FileInfo:
    """The file of that name, the oldest for ''. MaybeLateError if there is none."""
    file = reader.file_by_name(name) if name else reader.oldest_file()
    if file is None:
        raise MaybeLateError(unknown_file())
    return file


def check_position(flavor: Flavor, file: FileInfo, requested: str, position: int) -> None:
    """Whether `position` is within the file. `requested`: the file's name as the client gave it."""
    mariadb = flavor is Flavor.MARIADB
    if position < FIRST_POSITION:
        raise impossible_position(requested, position) if mariadb else position_before_first()
    if position > file.end_pos:
        raise MaybeLateError(impossible_position(requested, position) if mariadb else position_past_end())


def start_at_position(
    reader: LogReader, flavor: Flavor, requested: str, position: int, filter_: Filter | None
) -> Start:
    """Begin at a file and position."""
    file = find_file(reader, requested)
    check_position(flavor, file, requested, position)
    return Start(file, position, filter_, resets=position > FIRST_POSITION)
