"""Where a GTID dump of MySQL begins (COM_BINLOG_DUMP_GTID).

As MySQL 9.7.4 was seen to do it:

1. If the command names a file, the dump begins there, and nothing of 2 to 4 happens.
2. A replica that has a GTID of the server's own uuid that the server does not have is refused: server and replica have
   diverged. Other servers' GTIDs are taken as they are.
3. A replica that lacks GTIDs that are only in purged files is refused.
4. The dump begins with the newest file before which everything is in the replica's set.
5. The position of the command counts too, in whatever file was found. Replicas send 4.
6. If the replica has the first GTID of the file found by 4, FORMAT_DESCRIPTION events are sent without their creation
   time, in that file and all that follow: it was connected before, and must keep its temporary tables.

Dump flag 0x4 (SKIP_TAGGED_GTIDS) needs nothing: by it, a replica tells a server that it takes for older than 8.3 that
it left the GTIDs with tags out of its set.
"""

from __future__ import annotations

import numpy as np

from kingbus_node.binlog.constants import ChecksumAlgorithm, EventType, Flavor
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.event import FormatDescription
from kingbus_node.binlog.gtid import GtidSet, parse_uuid
from kingbus_node.serve.artificial import Artificial
from kingbus_node.serve.blockview import BlockView
from kingbus_node.serve.mysql_filter import MysqlFilter
from kingbus_node.serve.refusals import malformed_gtid_set, purged, replica_ahead
from kingbus_node.serve.start import Start, check_position, find_file
from kingbus_node.store.catalogue import FileInfo
from kingbus_node.store.reader import LogReader
from kingbus_node.wire.commands import DumpRequest

_BLOCK = 65536


def start_by_gtid_set(reader: LogReader, request: DumpRequest, artificial: Artificial, server_uuid: str) -> Start:
    """Where to begin, and what to leave out. MySQLError, MaybeLateError.

    `server_uuid`: the one that this cluster shows to replicas, '' for none.
    """
    held = decode_set(request.gtid_set)
    if request.file:
        file = find_file(reader, request.file)
        clears_created = False
    else:
        check_ahead(reader, held, server_uuid)
        file = find_start(reader, held)
        first = first_gtid(reader, file)
        clears_created = bool(first) and held >= first
    check_position(Flavor.MYSQL, file, request.file, request.position)
    before = reader.executed_at_file_start(file.id)
    ahead = held - before if isinstance(before, GtidSet) else held
    return Start(file, request.position, MysqlFilter(ahead, artificial, clears_created=clears_created))


def decode_set(data: bytes) -> GtidSet:
    """The replica's set."""
    try:
        return GtidSet.decode(data)
    except BinlogError:
        raise malformed_gtid_set() from None


def check_ahead(reader: LogReader, held: GtidSet, server_uuid: str) -> None:
    """Rule 2."""
    if not server_uuid:
        return
    uuid = parse_uuid(server_uuid)
    executed = reader.state().executed
    if not isinstance(executed, GtidSet) or not executed.only(uuid) >= held.only(uuid):
        raise replica_ahead()


def find_start(reader: LogReader, held: GtidSet) -> FileInfo:
    """Rules 3 and 4."""
    gone = reader.purged()
    if isinstance(gone, GtidSet) and not held >= gone:
        raise purged(held, gone - held)
    file = reader.newest_file_where(lambda executed: isinstance(executed, GtidSet) and held >= executed)
    if file is None:
        # A purge came between the two looks.
        gone = reader.purged()
        raise purged(held, gone - held if isinstance(gone, GtidSet) else GtidSet())
    return file


def first_gtid(reader: LogReader, file: FileInfo) -> GtidSet:
    """The first GTID of a file, as a set of one; an empty set if the file has none yet."""
    cursor = reader.cursor(file.start_index)
    checksum = False
    try:
        while (block := cursor.read(_BLOCK)) is not None and block.file_id == file.id:
            view = BlockView.of(block)
            if block.starts_file:
                checksum = FormatDescription.parse(view.event(0)).checksum is ChecksumAlgorithm.CRC32
            rows = np.flatnonzero((view.types == EventType.GTID) | (view.types == EventType.GTID_TAGGED))
            if len(rows):
                return view.mysql_groups(rows[:1], checksum).executed()
    finally:
        cursor.close()
    return GtidSet()
