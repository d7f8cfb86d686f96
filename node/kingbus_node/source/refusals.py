"""What it means when a source ends a dump with an error.

Texts are matched because the number is 1236 (ER_MASTER_FATAL_ERROR_READING_BINLOG) for nearly everything. They are
those of MySQL 5.6 to 9.7 and of MariaDB 10.11 (captured, or from their errmsg files), in both vocabularies.
"""

from __future__ import annotations

import re
from typing import Final

from kingbus_node.source.errors import Disconnected, Diverged, PositionGone, Refused, SourceEnd, SourceError

FATAL_READING_BINLOG: Final = 1236

_COMES_BACK: Final = frozenset({1040, 1053, 1158, 1159, 1160, 1161, 1317, 1927, 2006, 2013, 4031})
"""Shutdown, killed, network errors, too many connections, timeouts: nothing that somebody has to mend."""

_MISSING = re.compile(r"the missing transactions are '([^']*)'")


def meaning_of(end: SourceEnd, *, by_position: bool, purged: str = "") -> SourceError:
    """The error as one that says what helps. `by_position`: the dump asked for a file and position of the log.

    `purged`: what is known to be missing if the source has purged it; MySQL says it, MariaDB does not.
    """
    text = end.text
    if end.code in _COMES_BACK:
        return Disconnected(f"the source ended the dump: {end}")
    if end.code != FATAL_READING_BINLOG:
        return Refused(f"the source refuses to send its binlog: {end}", code=end.code)
    if by_position:
        if "Could not find first log file name" in text:
            return PositionGone(f"the file in which the log ends is gone at the source: {end}")
        if any(part in text for part in ("position > file size", "impossible position")):
            return Diverged(
                "the source's file is shorter than what the log holds of it: it lost its newest transactions in a "
                f"crash, or was reset. It says: {end}",
                code=end.code,
            )
        if any(part in text for part in ("bogus data", "exceeded max_allowed_packet", "truncated in the middle")):
            return Diverged(
                "no event begins in the source's file where one does in the log: it is another file. Was the source "
                f"reset, or restored from a copy? It says: {end}",
                code=end.code,
            )
    if "more GTIDs than the" in text or "is not in the master's binlog" in text:
        return Diverged(f"the source does not have all that the log holds: {end}", code=end.code)
    if "purged" in text:
        found = _MISSING.search(text)
        missing = (found[1] if found else purged) or None
        known = f"missing are {missing}. " if missing else ""
        return Refused(
            f"the source has purged binary logs that are needed here: {known}It says: {end}",
            code=end.code,
            missing=missing,
        )
    if "same server_uuid/server_id" in text or "same server_id" in text or "same server_uuid" in text:
        return Refused(
            "another replica of the source uses this cluster's server_id or server_uuid: expected each to be unique "
            f"(source.server_id). The source says: {end}",
            code=end.code,
        )
    return Refused(f"the source cannot send its binlog: {end}", code=end.code)
