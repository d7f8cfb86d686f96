"""Leaving out the groups that a MySQL replica has, by its GTID set.

As MySQL 9.7.4 was seen to do it:

1. A group is left out if its GTID is in the replica's set: everything from its GTID event to the event before the next
   GTID event or ROTATE. (So a STOP after a group that is left out is left out with it.)
2. Before the first event that is sent after something was left out, and where the log ends for now, a heartbeat tells
   the replica the position that it has reached; without it the replica's position would lag behind. Not where a file
   ends while a group is being left out: the ROTATE that comes next says where the replica is.
3. What is left out can take long; then heartbeats go out in between, every period.
4. In a GTID dump an anonymous transaction is an error.

The replica's set is asked for as long as it holds GTIDs that were not passed; a replica that got everything through
this dump's log has none left once it has caught up.
"""

from __future__ import annotations

import numpy as np

from kingbus_node.binlog.constants import EventType
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.serve.artificial import Artificial
from kingbus_node.serve.blockview import BlockView, Bools
from kingbus_node.serve.filters import Plan
from kingbus_node.serve.refusals import anonymous_transaction


class MysqlFilter:
    """The filter of a COM_BINLOG_DUMP_GTID."""

    def __init__(self, held: GtidSet, artificial: Artificial, *, clears_created: bool) -> None:
        """`held`: what the replica has that may come; it is used up. `clears_created`: see `Filter`; for all files."""
        self._held = held
        self._artificial = artificial
        self._clears_created = clears_created
        self._skipping = False  # the last event was left out
        self._reached = 0  # where it ends
        self._told = True  # the replica knows

    @property
    def done(self) -> bool:
        return False  # rule 4 holds to the end

    @property
    def clears_created(self) -> bool:
        return self._clears_created

    def start_file(self) -> None:
        self._skipping = False
        self._told = True

    def plan(self, view: BlockView) -> Plan | None:
        anonymous = view.types == EventType.ANONYMOUS_GTID
        if anonymous.any():
            row = int(np.argmax(anonymous))
            position = view.end_position(row - 1) if row else int(view.block.records[0]["start_pos"])
            plan = self._plan(view) or Plan(np.ones(len(view), np.bool_), True)
            plan.refusal = row, anonymous_transaction(self._artificial.file, position)
            return plan
        if not self._held and not self._skipping and self._told:
            return None
        return self._plan(view)

    def _plan(self, view: BlockView) -> Plan | None:
        begins = (view.types == EventType.GTID) | (view.types == EventType.GTID_TAGGED)
        rows = np.flatnonzero(begins | (view.types == EventType.ROTATE))
        skip = np.zeros(len(rows) + 1, np.bool_)
        skip[0] = self._skipping
        gtids = begins[rows]
        if self._held and gtids.any():
            groups = view.mysql_groups(rows[gtids], self._artificial.checksum)
            found = groups.held_by(self._held)
            if found.any():
                skip[1:][gtids] = found
                self._held -= groups.take(np.flatnonzero(found)).executed()
        if not skip.any() and self._told:
            return None
        # A row decides for the events up to the next row, skip[0] for those before the first.
        skipped = np.repeat(skip, np.diff(rows, prepend=0, append=len(view)))
        plan = Plan(~skipped, carried=not self._skipping)
        if len(view):
            self._tell(plan, view, skipped)
        return plan

    def _tell(self, plan: Plan, view: BlockView, skipped: Bools) -> None:
        """Put heartbeats where rule 2 wants them, and remember how the block ends."""
        if not self._told and not skipped[0]:
            plan.inserts.append((0, self._artificial.heartbeat(self._reached)))
        for row in (np.flatnonzero(skipped[:-1] & ~skipped[1:]) + 1).tolist():
            plan.inserts.append((row, self._artificial.heartbeat(view.end_position(row - 1))))
        self._skipping = bool(skipped[-1])
        self._told = not self._skipping
        if self._skipping:
            self._reached = view.end_position(len(view) - 1)

    def at_end(self) -> bytes | None:
        event = self._artificial.heartbeat(self._reached) if self._skipping else None
        # What comes next is looked at anew: a STOP, say, is in no group and is sent.
        self.start_file()
        return event

    def overdue(self) -> bytes | None:
        if self._told:
            return None
        self._told = True
        return self._artificial.heartbeat(self._reached)
