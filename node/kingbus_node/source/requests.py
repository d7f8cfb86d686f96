"""The bytes of what a replica sends: the commands that begin a dump, and semi-sync acknowledgements.

Layouts as captured from replicas of MySQL 9.7.4 and MariaDB 10.11; all integers little-endian. `wire.commands` reads
the same commands from the other side.
"""

from __future__ import annotations

import struct

from kingbus_node.wire.commands import Command

SEMI_SYNC_MAGIC = 0xEF
"""First byte of a semi-sync prefix in an event's packet, and of an acknowledgement."""


def binlog_dump(file: str, position: int, flags: int, server_id: int) -> bytes:
    """COM_BINLOG_DUMP. `file` '' is the source's first file; `position` must fit 32 bits (ValueError)."""
    if not 4 <= position < 1 << 32:
        raise ValueError(f"expected a position from 4 to 2**32 - 1, found {position}")
    return struct.pack("<BIHI", Command.BINLOG_DUMP, position, flags, server_id) + file.encode()


def binlog_dump_gtid(file: str, position: int, flags: int, server_id: int, gtid_set: bytes) -> bytes:
    """COM_BINLOG_DUMP_GTID. `gtid_set`: the encoded set of what not to send.

    With `file` '' the source begins with the newest file before which there is nothing but GTIDs of the set. With a
    file it begins there, at `position` (64 bits), and leaves out the transactions of the set that follow (observed with
    MySQL 9.7.4; sql/rpl_binlog_sender.cc, Binlog_sender::check_start_file).
    """
    name = file.encode()
    head = struct.pack("<BHII", Command.BINLOG_DUMP_GTID, flags, server_id, len(name))
    return head + name + struct.pack("<QI", position, len(gtid_set)) + gtid_set


def register_slave(server_id: int, host: str, port: int) -> bytes:
    """COM_REGISTER_SLAVE: what SHOW REPLICAS at the source will show. User and password stay empty, as replicas do."""
    name = host.encode()[:60]
    head = struct.pack("<BIB", Command.REGISTER_SLAVE, server_id, len(name))
    return head + name + struct.pack("<BBHII", 0, 0, port, 0, 0)


def semi_sync_ack(file: str, position: int) -> bytes:
    """A whole packet (header included, sequence 0): everything up to `position` of `file` is safe here."""
    name = file.encode()
    return struct.pack("<I", 9 + len(name))[:3] + struct.pack("<BBQ", 0, SEMI_SYNC_MAGIC, position) + name
