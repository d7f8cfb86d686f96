"""Where a MariaDB dump begins that says so with @slave_connect_state: one GTID for each domain, the last one executed.

As MariaDB 10.11.19 was seen to do it (and as sql/sql_repl.cc has it):

1. For each domain, the log must have reached the replica's GTID: have executed it, or a higher one of the same server.
   Otherwise the replica is ahead, or has diverged. A domain that the log does not know is let through (another
   server's, perhaps); it is looked at again when something comes in it. With gtid_ignore_duplicates, a replica may be
   ahead.
2. The dump begins with the newest file before which nothing was executed that the replica lacks: each domain that was
   seen before the file must be in the replica's position, and not further back than there. If there is none, the files
   that the replica needs were purged.
3. A domain whose position is exactly the last GTID before that file is done with: nothing is left out in it.
4. START SLAVE UNTIL (@slave_until_gtid): domains whose end lies before that file, or before the replica's own position
   where the log has not reached that, are done with too.
"""

from __future__ import annotations

from kingbus_node.binlog.constants import FIRST_POSITION
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.executed import ExecutedSet
from kingbus_node.binlog.mariadb import MariadbGtid, MariadbState
from kingbus_node.serve.artificial import Artificial
from kingbus_node.serve.facts import SessionFacts
from kingbus_node.serve.mariadb_filter import MariadbFilter, Position, missing
from kingbus_node.serve.refusals import duplicate_domain, malformed_gtid_position, state_not_found
from kingbus_node.serve.start import MaybeLateError, Start
from kingbus_node.store.reader import LogReader


def start_by_gtid_position(
    reader: LogReader, facts: SessionFacts, artificial: Artificial, connect_state: str, *, annotate: bool
) -> Start:
    """Where to begin, and what to leave out. MySQLError, MaybeLateError."""
    start = parse_position(connect_state)
    asked_until = facts.text("slave_until_gtid")
    until = None if asked_until is None else parse_position(asked_until)
    executed = _state(reader.state().executed)
    check_start(start, until, executed, ignore_duplicates=bool(facts.number("slave_gtid_ignore_duplicates")))
    file = reader.newest_file_where(lambda before: holds_all(start, _state(before)))
    if file is None:
        raise state_not_found()
    forget_reached(start, until, _state(reader.executed_at_file_start(file.id)))
    filter_ = MariadbFilter(
        artificial,
        annotate=annotate,
        start=start,
        until=until,
        strict=bool(facts.number("slave_gtid_strict_mode")),
        capability=facts.number("mariadb_slave_capability") or 0,
        executed=lambda: _state(reader.state().executed),
    )
    return Start(file, FIRST_POSITION, filter_)


def _state(executed: ExecutedSet | None) -> MariadbState:
    return executed if isinstance(executed, MariadbState) else MariadbState()


def parse_position(text: str) -> Position:
    """A GTID position: GTIDs separated by commas, one for each domain."""
    position = Position()
    for item in text.split(",") if text.strip() else ():
        try:
            gtid = MariadbGtid.parse(item)
        except BinlogError:
            raise malformed_gtid_position() from None
        other = position.gtids.setdefault(gtid.domain, gtid)
        if other is not gtid:
            raise duplicate_domain(gtid, other)
    return position


def check_start(start: Position, until: Position | None, executed: MariadbState, *, ignore_duplicates: bool) -> None:
    """Rule 1, and the second half of rule 4."""
    for gtid in list(start.gtids.values()):
        refusal = missing(gtid, executed)
        if refusal is None:
            continue
        newest = executed.newest(gtid.domain)
        if newest is None:
            start.foreign.add(gtid.domain)
        elif newest.sequence >= gtid.sequence:
            if not _ends_before(gtid, until, executed):
                raise refusal
        elif not ignore_duplicates and not _ends_before(gtid, until, executed):
            raise MaybeLateError(refusal)


def _ends_before(gtid: MariadbGtid, until: Position | None, executed: MariadbState) -> bool:
    """Whether the client wants nothing behind what the log has in the domain of `gtid`, which it starts from."""
    if until is None:
        return False
    end = until.gtids.get(gtid.domain)
    if end is not None and not executed.has(end):
        return False
    until.gtids.pop(gtid.domain, None)
    return True


def holds_all(start: Position, before: MariadbState) -> bool:
    """Rule 2 for a file: whether a replica at `start` has everything that was executed `before` it."""
    for gtid in before:
        mine = start.gtids.get(gtid.domain)
        if mine is None:
            return False
        if mine.server == gtid.server and (
            mine.sequence < gtid.sequence or (mine.sequence == gtid.sequence and gtid != before.newest(gtid.domain))
        ):
            return False
    return True


def forget_reached(start: Position, until: Position | None, before: MariadbState) -> None:
    """Rule 3, and the first half of rule 4."""
    for gtid in before:
        if start.gtids.get(gtid.domain) == gtid:
            del start.gtids[gtid.domain]
        end = None if until is None else until.gtids.get(gtid.domain)
        if until is not None and end is not None and end.server == gtid.server and end.sequence <= gtid.sequence:
            del until.gtids[gtid.domain]
