"""Leaving out what a MariaDB replica has, or did not ask for.

As MariaDB 10.11.19 was seen to do it (and as sql/sql_repl.cc has it, `send_event_to_slave`):

1. The replica's position names one GTID for each domain. In each domain, groups are left out until that GTID has
   passed. Groups of other servers that come before it are left out too: they were executed before it.
2. When a domain's GTID has passed, an artificial GTID_LIST tells the replica so, with everything that this dump has
   passed until then, sent or not. It follows the group with that GTID; or, if the binlog does not have that GTID but a
   higher one of the same server, the GTID event with the higher one. The latter is an error if the replica is strict.
3. A domain that the server does not know at all may be another server's business: it is left alone, until something
   comes in it. Then the replica's GTID must be there.
4. START SLAVE UNTIL master_gtid_pos: groups behind that position are left out in each domain, and so are the domains
   that it does not name. When it is reached in all of its domains the stream ends, with a GTID_LIST that says so.
5. ANNOTATE_ROWS (the text of the statement) only goes to who asks for it, or cannot do with a hole in its place; a
   replica that is older than GTIDs gets stand-ins for what it would not understand (`old_replicas`).
6. FORMAT_DESCRIPTION events keep their creation time when the replica's position has been reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from kingbus_node.binlog.constants import EventType
from kingbus_node.binlog.event import GtidList
from kingbus_node.binlog.groups import MariadbGroups
from kingbus_node.binlog.mariadb import MariadbGtid, MariadbState
from kingbus_node.serve.artificial import Artificial
from kingbus_node.serve.blockview import BlockView, Bools, Ints
from kingbus_node.serve.filters import Plan
from kingbus_node.serve.old_replicas import Capability, OldReplica
from kingbus_node.serve.refusals import IRREPLACEABLE_GTID, diverged, hole, not_in_binlog
from kingbus_node.wire.errors import MySQLError

_OUTSIDE: Final = (
    EventType.ROTATE,
    EventType.STOP,
    EventType.FORMAT_DESCRIPTION,
    EventType.START_ENCRYPTION,
    EventType.GTID_LIST,
    EventType.BINLOG_CHECKPOINT,
)
"""Events that are in no group: they end the one before."""


@dataclass(slots=True)
class Position:
    """Where a replica starts (or is to stop): one GTID for each domain. `foreign`: domains that the server did not
    know.
    """

    gtids: dict[int, MariadbGtid] = field(default_factory=dict)
    foreign: set[int] = field(default_factory=set)

    @property
    def reached(self) -> bool:
        """Nothing more is to be left out, as far as is known."""
        return self.foreign.issuperset(self.gtids)


def missing(gtid: MariadbGtid, executed: MariadbState) -> MySQLError | None:
    """The error for a replica that starts at a GTID that the log, having executed `executed`, does not have."""
    if executed.has(gtid):
        return None
    newest = executed.newest(gtid.domain)
    return diverged(gtid) if newest is not None and newest.sequence >= gtid.sequence else not_in_binlog(gtid)


@dataclass(frozen=True, slots=True, order=True)
class _Due:
    """A GTID_LIST that is due on account of a group of the block (-1: the group that the block begins in).

    until: it ends the stream.
    """

    group: int
    until: bool = False


@dataclass(slots=True)
class _Groups:
    """The groups of a block. rows: the events that begin a group, or are in none. own: which of `rows` begin one.

    skip: for each group whether it is left out.
    """

    view: BlockView
    rows: Ints
    own: Bools
    gtids: MariadbGroups
    skip: Bools

    @classmethod
    def of(cls, view: BlockView, checksum: bool) -> _Groups:
        begins = view.types == EventType.MARIADB_GTID
        rows = np.flatnonzero(begins | np.isin(view.types, _OUTSIDE))
        own = begins[rows]
        gtids = view.mariadb_groups(rows[own], checksum)
        return cls(view, rows, own, gtids, np.zeros(len(gtids), np.bool_))

    def begin(self, group: int) -> int:
        """The row of the group's GTID event."""
        return int(self.rows[np.flatnonzero(self.own)[group]])

    def end(self, group: int) -> int | None:
        """The row behind the group's last event (-1: the group that the block begins in). None: it goes on."""
        following = 0 if group < 0 else int(np.searchsorted(self.rows, self.begin(group))) + 1
        if following < len(self.rows):
            return int(self.rows[following])
        return None if self.view.ends_in_transaction else len(self.view)

    def skipped(self, carried: bool) -> Bools:
        """For each event whether it is left out. `carried`: the group that the block begins in is."""
        decided = np.zeros(len(self.rows) + 1, np.bool_)
        decided[0] = carried
        decided[1:][self.own] = self.skip
        return np.repeat(decided, np.diff(self.rows, prepend=0, append=len(self.view)))


class MariadbFilter:
    """The filter of a MariaDB dump."""

    def __init__(
        self,
        artificial: Artificial,
        *,
        annotate: bool,
        start: Position | None = None,
        until: Position | None = None,
        strict: bool = False,
        capability: int = Capability.GTID,
        executed: Callable[[], MariadbState] = MariadbState,
    ) -> None:
        """`annotate`: rule 5. `start`: None for a dump by file and position. `executed`: what the log has now, for rule
        3.
        """
        self._artificial = artificial
        self._annotate = annotate
        self._omits_annotations = not annotate and capability >= Capability.TOLERATE_HOLES
        self._old = OldReplica(capability) if capability < Capability.GTID else None
        self._start = start if start is not None else Position()
        self._until = until
        self._met = until is not None and not until.gtids  # before anything was sent
        self._strict = strict
        self._executed = executed
        self._passed = MariadbState()  # by this dump, while there is a position to reach
        self._skipping = False  # the group that the last block ended in is left out
        self._due: list[_Due] = []  # when that group has ended
        self._end = 0  # where the last block ended

    @property
    def _at_work(self) -> bool:
        return bool(self._start.gtids) or self._until is not None or self._skipping or bool(self._due)

    @property
    def done(self) -> bool:
        return self._annotate and self._old is None and not self._at_work

    @property
    def clears_created(self) -> bool:
        return not self._start.reached

    def start_file(self) -> None:
        """Nothing: the events at the edges of a file are in no group."""

    def at_end(self) -> bytes | None:
        return None

    def overdue(self) -> bytes | None:
        return None

    def plan(self, view: BlockView) -> Plan | None:
        plan = self._plan(view)
        if self._old is not None:
            plan.keep &= ~self._old.omitted(view)
            row = self._old.replace(view, plan.keep, annotate=self._annotate, checksum=self._artificial.checksum)
            if row is not None:
                self._refuse(plan, row, IRREPLACEABLE_GTID)
        return None if plan.sends_all else plan

    def _plan(self, view: BlockView) -> Plan:
        keep = view.types != EventType.ANNOTATE_ROWS if self._omits_annotations else np.ones(len(view), np.bool_)
        if not self._at_work:
            return Plan(keep, carried=True)
        groups = _Groups.of(view, self._artificial.checksum)
        plan = Plan(keep, carried=not self._skipping)
        due = self._due
        due += self._reach_start(groups, plan)
        if self._until is not None:
            due += self._reach_until(groups, self._until)
        self._list(groups, due, plan)
        keep &= ~groups.skipped(self._skipping)
        if len(groups.rows):
            self._skipping = bool(groups.own[-1] and groups.skip[-1])
        self._skipping = self._skipping and view.ends_in_transaction
        if len(view):
            self._end = view.end_position(len(view) - 1)
        return plan

    def _reach_start(self, groups: _Groups, plan: Plan) -> list[_Due]:
        """Leave out what comes before the replica's position; returns what is due where it is reached."""
        out: list[_Due] = []
        gtids = groups.gtids
        for domain, gtid in list(self._start.gtids.items()):
            mine = np.flatnonzero(gtids.domain == domain)
            if not len(mine):
                continue
            if domain in self._start.foreign:
                refusal = missing(gtid, self._executed())
                if refusal is not None:
                    self._refuse(plan, groups.begin(int(mine[0])), refusal)
                    continue
                self._start.foreign.discard(domain)
            at = mine[(gtids.server[mine] == gtid.server) & (gtids.sequence[mine] >= gtid.sequence)]
            if not len(at):
                groups.skip[mine] = True
                continue
            first = int(at[0])
            exact = int(gtids.sequence[first]) == gtid.sequence
            groups.skip[mine[mine < first]] = True
            groups.skip[first] = exact
            if self._strict and not exact:
                self._refuse(plan, groups.begin(first), hole(gtid))
            out.append(_Due(first))
            del self._start.gtids[domain]
        return out

    def _refuse(self, plan: Plan, row: int, refusal: MySQLError | str) -> None:
        if plan.refusal is None or row < plan.refusal[0]:
            plan.refusal = row, refusal

    def _reach_until(self, groups: _Groups, until: Position) -> list[_Due]:
        """Leave out what the client does not want any more; returns what is due when it has all that it wants."""
        view, gtids = groups.view, groups.gtids
        for row in np.flatnonzero(view.types == EventType.GTID_LIST).tolist():
            self._passed = GtidList.parse(view.event(row), self._artificial.checksum).state
        wanted = np.zeros(len(gtids), np.bool_)
        last = -1
        for domain, gtid in list(until.gtids.items()):
            mine = np.flatnonzero(gtids.domain == domain)
            at = mine[(gtids.server[mine] == gtid.server) & (gtids.sequence[mine] >= gtid.sequence)]
            if not len(at):
                wanted[mine] = True
                continue
            first = int(at[0])
            wanted[mine[mine < first]] = True
            wanted[first] = int(gtids.sequence[first]) == gtid.sequence
            last = max(last, first)
            del until.gtids[domain]
        groups.skip |= ~wanted
        return [_Due(last, until=True)] if last >= 0 and not until.gtids else []

    def _list(self, groups: _Groups, due: list[_Due], plan: Plan) -> None:
        """Put the GTID_LISTs where they belong, those of a group that goes on aside."""
        self._due = []
        view = groups.view
        if self._met and len(view):
            # The client wants nothing at all: it gets the head of the file.
            plan.stop = min(2, len(view))
            plan.inserts.append((plan.stop, self._made(view, plan.stop, until_reached=True)))
            return
        upto = -1
        for one in sorted(due):
            self._pass(groups.gtids, upto + 1, one.group + 1)
            upto = one.group
            row = groups.end(one.group)
            if not one.until and one.group >= 0 and not groups.skip[one.group]:
                row = groups.begin(one.group) + 1  # rule 2: the group itself is sent
            if row is None:
                self._due.append(_Due(-1, one.until))
                continue
            plan.inserts.append((row, self._made(view, row, until_reached=one.until)))
            if one.until:
                plan.stop = row
        self._pass(groups.gtids, upto + 1, len(groups.gtids))

    def _made(self, view: BlockView, row: int, *, until_reached: bool) -> bytes:
        """The list that comes before event `row`."""
        position = view.end_position(row - 1) if row else self._end
        return self._artificial.gtid_list(self._passed, position, until_reached=until_reached)

    def _pass(self, gtids: MariadbGroups, first: int, behind: int) -> None:
        """Groups `first` to ``behind - 1`` have gone by."""
        for gtid in gtids.take(np.arange(first, behind)).executed():
            self._passed.update(*gtid)
