"""Binlog files as real servers wrote them, small ones, and their events as a replica receives them.

What is in them, all with CRC32 except the files numbered 3:

mysql-9.7.4-000001      DDL, InnoDB, MyISAM, savepoints, XA (committed, rolled back, one phase), CREATE TABLE ... AS
                        SELECT, statements (INTVAR, USER_VAR), compressed and empty transactions, tagged GTIDs
mysql-9.7.4-000009      anonymous GTIDs, partial JSON updates
mysql-9.7.4-000013      a tagged GTID, LOAD DATA as a statement; ends with STOP
mariadb-10.11.19-000001 the same kinds of things, several domains and servers, compressed events, two-phase ALTER
mariadb-10.11.19-000005 a BINLOG_CHECKPOINT between transactions, a procedure
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kingbus_node.binlog.build import packetize
from kingbus_node.binlog.constants import Flavor

_DATA = Path(__file__).parent / "data"

MYSQL = ("mysql-9.7.4-000001", "mysql-9.7.4-000003", "mysql-9.7.4-000009", "mysql-9.7.4-000013")
MARIADB = ("mariadb-10.11.19-000001", "mariadb-10.11.19-000003", "mariadb-10.11.19-000005")
FILES = tuple((Flavor.MYSQL, name) for name in MYSQL) + tuple((Flavor.MARIADB, name) for name in MARIADB)


def events(name: str) -> list[bytes]:
    """The events of a file, in order."""
    return list(split_file((_DATA / name).read_bytes()))


def split_file(data: bytes) -> Iterator[bytes]:
    """The events of a binlog file's content."""
    assert data[:4] == b"\xfebin", data[:4]
    at = 4
    while at < len(data):
        size = int.from_bytes(data[at + 9 : at + 13], "little")
        yield data[at : at + size]
        at += size


def packets(name: str) -> bytearray:
    """The events of a file as packets."""
    return bytearray(b"".join(packetize(event) for event in events(name)))
