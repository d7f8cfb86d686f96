"""The replica side: reads the binlog of one real MySQL or MariaDB server, and proposes it to the log.

From the wire up:

`errors`      what can go wrong, told apart by what helps: trying again, or somebody doing something
`connection`  handshake, TLS, login and statements (by PyMySQL); the only place that touches PyMySQL's socket
`checks`      what is said to a source before the dump, what it must answer, and what its answers mean (`SourceFacts`)
`requests`    the bytes of the commands that begin a dump, and of a semi-sync acknowledgement
`link`        the raw socket of a dump: non-blocking reads, waits that another thread can interrupt
`framing`     received bytes -> packets as they are stored: whole packets, semi-sync prefixes removed
`positions`   which file, which 64-bit position: what is new, what repeats what the log holds, what must not be
`batch`       packets -> log entries, cut at transaction ends
`resume`      from what the log holds and what the source says: which dump to ask for, or why not
`reader`      the thread that does all this for ever, and tells how it goes

All but `connection`, `link` and `reader` are free of I/O.
"""

from __future__ import annotations
