"""What a binlog is: packets, events, transactions and GTID sets of MySQL and MariaDB. No I/O.

Everything here takes bytes and gives values (or the other way round): no sockets, files, clocks or threads, and no
global state, so that every corner can be tested in microseconds. Only numpy and the standard library are imported.

The path of a block of bytes through this package, from the bottom up:

`scan`          cuts a buffer of packets into packets, and gathers the headers of the events in them into numpy columns
`checksum`      makes CRC32 footers, and verifies those of a whole block in one pass
`transactions`  says where transactions begin and end, and which GTIDs they carry
`gtid`          sets of MySQL GTIDs, with tags: text, both binary forms, algebra
`mariadb`       MariaDB's GTID positions and binlog state
`event`         decodes single events; `build` makes the few that a source invents (rotate, heartbeat, ...)

Input that breaks the format raises `errors.BinlogError`, which says what was expected, what was found, and where.
"""

from __future__ import annotations
