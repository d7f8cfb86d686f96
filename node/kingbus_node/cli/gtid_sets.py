"""Sums with GTID sets, as text in and text out. Needs numpy, so it is imported only by the commands that use it."""

from __future__ import annotations

from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbGtid, MariadbState


def subtract(a: str, b: str) -> str:
    """What is in `a` and not in `b`. MariaDB: the GTIDs of `a` that are ahead of `b`. ValueError."""
    left, right = _parsed(a), _parsed(b)
    if isinstance(left, GtidSet) and isinstance(right, GtidSet):
        return str(left - right)
    state, other = _as_state(left, a), _as_state(right, b)
    return ",".join(str(gtid) for gtid in state.position().values() if not _reaches(other, gtid))


def contains(a: str, b: str) -> bool:
    """Whether all of `b` is in `a`. ValueError."""
    left, right = _parsed(a), _parsed(b)
    if isinstance(left, GtidSet) and isinstance(right, GtidSet):
        return left >= right
    state, other = _as_state(left, a), _as_state(right, b)
    return all(_reaches(state, gtid) for gtid in other.position().values())


def _parsed(text: str) -> GtidSet | MariadbState:
    """A set of either flavour; the empty one is MySQL's."""
    try:
        return GtidSet.parse(text)
    except BinlogError as not_mysql:
        try:
            return MariadbState.parse("".join(text.split()))
        except BinlogError:
            raise ValueError(
                f"{text!r} is no GTID set: expected uuid:1-5,... (MySQL) or 0-1-5,... (MariaDB): {not_mysql}"
            ) from None


def _as_state(found: GtidSet | MariadbState, text: str) -> MariadbState:
    if isinstance(found, MariadbState):
        return found
    if not found:
        return MariadbState()
    raise ValueError(f"{text!r} is a set of MySQL, and the other one is MariaDB's")


def _reaches(state: MariadbState, gtid: MariadbGtid) -> bool:
    """Sequence numbers rise within a domain, whichever server writes (gtid_strict_mode)."""
    newest = state.newest(gtid.domain)
    return newest is not None and newest.sequence >= gtid.sequence
