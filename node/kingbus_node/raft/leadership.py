"""What a node does while it leads: replication, the commit rule, contact with a majority, membership, handing over.

A ``Leadership`` begins with an election and ends with the term: everything in it is forgotten then, on purpose
(section 3.3: nextIndex and matchIndex are reinitialised after an election). It has no life of its own; ``core.Raft``
calls it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kingbus_node.raft.configuration import Configuration, MemberRole
from kingbus_node.raft.errors import ChangeRefusedError, ProtocolError
from kingbus_node.raft.messages import Append, AppendReply, Install, Kind, TimeoutNow
from kingbus_node.raft.progress import Mode, Progress
from kingbus_node.raft.storage import Proposal
from kingbus_node.store.errors import PurgedError

if TYPE_CHECKING:
    from kingbus_node.raft.core import Raft

log = logging.getLogger(__name__)


class Leadership:
    """One node's reign in one term."""

    progress_class: type[Progress] = Progress

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._storage = raft.storage
        self.progress: dict[str, Progress] = {}
        self.noop_index = 0
        self.successor: str | None = None
        self._handover_deadline = 0.0
        self._handover_sent = False
        self._must_go = False
        self._next_heartbeat = raft.now + raft.settings.heartbeat_interval
        self._preferred: tuple[str, float] | None = None

    @property
    def ready(self) -> bool:
        """Whether an entry of this term is committed: from then on the leader knows all that is (section 6.4)."""
        return self._raft.commit_index >= self.noop_index

    @property
    def deadline(self) -> float:
        """When ``tick`` should be called next."""
        return self._next_heartbeat

    def begin(self) -> None:
        """The first act of a leader: an entry of its own term, by which older ones can be committed (section 6.4)."""
        self._follow_configuration()
        index = self._storage.last_index + 1
        self.noop_index = index
        self._append_control(Kind.NOOP, b"")
        self.count()

    # Contact with followers

    def connected(self, peer: str) -> None:
        """A connection to a member came up."""
        if progress := self.progress.get(peer):
            progress.connect(self._storage.last_index)

    def disconnected(self, peer: str) -> None:
        """A connection to a member is gone."""
        if progress := self.progress.get(peer):
            progress.disconnect()

    def on_reply(self, peer: str, reply: AppendReply) -> None:
        """A follower tells what it holds.

        :raises ProtocolError: it claims what this leader never sent
        """
        progress = self.progress.get(peer)
        if progress is None:
            return
        if reply.received > self._storage.last_index:
            raise ProtocolError(
                f"{peer} acknowledges entry {reply.received} of a log that ends at {self._storage.last_index}"
            )
        if progress.incarnation not in (0, reply.incarnation):
            progress.replaced(reply.incarnation)
        progress.incarnation = reply.incarnation
        progress.formed = reply.formed
        sent = reply.clock / 1e6
        if sent > progress.contact:
            progress.contact = sent
            progress.round_trip = self._raft.now - sent
        if progress.full and not reply.full:
            progress.connect(self._storage.last_index)
        progress.full = reply.full
        if reply.rejected:
            progress.reject(reply.rejected, self._storage.last_at_most(reply.hint_index, reply.hint_term) + 1)
        progress.acknowledge(reply.match, reply.received)
        self.count()

    def quorum_lost(self) -> bool:
        """Whether a majority was out of touch for an election timeout.

        The fault (correction 7): a leader of pysyncobj 0.3.17 goes on for 30 seconds (``leaderFallbackTimeout``)
        without a majority, and counts an answer by when it came, however long it was under way. The rule (section
        6.2): a leader steps down when an election timeout elapses without a successful round of heartbeats to a
           majority.

        Simulation: ``lead-alone``, seed 1.
        """
        return self._raft.now - self.contact() > self._raft.settings.election_timeout

    def contact(self) -> float:
        """The last time at which a majority had heard this leader: when it sent what they have answered."""
        configuration = self._raft.configuration
        return configuration.majority([self._contact(v) for v in configuration.voters])

    def _contact(self, voter: str) -> float:
        return self._raft.now if voter == self._raft.address else self.progress[voter].contact

    # Time

    def tick(self) -> None:
        """Time has passed: heartbeats, and what a leader looks after by itself."""
        raft = self._raft
        if raft.now < self._next_heartbeat:
            return
        if self.quorum_lost():
            log.warning(
                "%s was out of touch with a majority for %.3g s: steps down",
                raft.address,
                raft.settings.election_timeout,
            )
            raft.step_down()
            return
        self._next_heartbeat = raft.now + raft.settings.heartbeat_interval
        for progress in self._ordered():
            if progress.connected:
                progress.asked = False
                self._heartbeat(progress)
        self._hand_over()
        if raft.is_leader:
            self._tend_members()

    # The log

    def propose(self, proposals: Sequence[Proposal]) -> int:
        """Appends; see ``Raft.propose``."""
        self._check_writable()
        first, term = self._storage.last_index + 1, self._raft.term
        self._raft.append_own([p.seal(index, term) for index, p in enumerate(proposals, first)])
        return self._storage.last_index

    def count(self) -> None:
        """Commits what is on a majority of disks, if it is of this term.

        Entries of earlier terms are committed only together with one of this term (section 3.6.2, figure 3.7).
        """
        raft = self._raft
        index = int(raft.configuration.majority([self._match(v) for v in raft.configuration.voters]))
        if index > raft.commit_index and self._of_this_term(index):
            raft.commit_own(index)
            if not raft.configuration.is_voter(raft.address) and raft.commit_index >= raft.configuration_index:
                self._leave()

    def _of_this_term(self, index: int) -> bool:
        """Whether counting may commit `index` (section 3.6.2).

        Simulation: ``commit-older-terms``, plot older-term.
        """
        return self._storage.term_at(index) == self._raft.term

    def _match(self, voter: str) -> int:
        """How far `voter` holds this leader's log on its disk.

        The fault (correction 4): pysyncobj 0.3.17 counts the leader's own entries before they are on its disk. The
        rule (section 10.2.1): the leader may write in parallel with its followers, and counts itself once its own
        write is durable.

        Simulation: ``count-unsynced``, seed 0.
        """
        if voter == self._raft.address:
            return self._raft.durable_index
        progress = self.progress[voter]
        return progress.match if progress.formed else 0

    def flush(self) -> None:
        """Sends every follower what it has room for, and the news of commits at once."""
        for progress in self._ordered():
            if progress.connected:
                self._send_entries(progress)
                self._send_commit(progress)
        if self.successor is not None:
            self._send_timeout_now()

    def _send_entries(self, progress: Progress) -> None:
        """Sends what fits the window: memory is bounded however far a follower is behind (section 10.2.1, pipelining).

        Simulation: ``no-window``, seed 0.
        """
        raft, storage = self._raft, self._storage
        if progress.mode is Mode.PROBE and not progress.asked and not progress.full:
            prev_term = storage.term_at(progress.next - 1)
            if prev_term is None:
                self._send_snapshot(progress)
                return
            progress.asked = True
            raft.send(
                progress.address, Append(raft.term, self._clock(), progress.next - 1, prev_term, raft.commit_index)
            )
            progress.commit_sent = raft.commit_index
        while (
            progress.mode is Mode.REPLICATE
            and not progress.full
            and progress.next <= storage.last_index
            and progress.in_flight_bytes < raft.settings.window_bytes
        ):
            prev_term = storage.term_at(progress.next - 1)
            if prev_term is None:
                self._send_snapshot(progress)
                return
            try:
                entries = tuple(storage.read(progress.next, raft.settings.append_bytes))
            except PurgedError:
                self._send_snapshot(progress)
                return
            raft.send(
                progress.address,
                Append(raft.term, self._clock(), progress.next - 1, prev_term, raft.commit_index, entries),
            )
            progress.sent(entries[-1].index, sum(e.size for e in entries))

    def _send_snapshot(self, progress: Progress) -> None:
        """Sends the state before the oldest retained entry, from which on the log itself follows.

        The fault (correction 10): pysyncobj 0.3.17 ships a pickled copy of everything that was ever applied. Here the
        log is the store, so a snapshot is the small state alone (section 5: each server may discard a prefix of its
        log, with the state in its place).

        Simulation: ``no-snapshot``, seed 1.
        """
        raft = self._raft
        try:
            snapshot = self._storage.snapshot()
        except PurgedError as error:
            log.debug("%s gets the state with the next messages: %s", progress.address, error)
            return
        configuration = snapshot.configuration or raft.formation.founders
        progress.next = snapshot.index + 1
        progress.sent_snapshot()
        raft.send(
            progress.address,
            Install(raft.term, self._clock(), snapshot.index, snapshot.term, configuration.encode(), snapshot.state),
        )
        log.info("%s needs entries that are purged: sent it the state at entry %d", progress.address, snapshot.index)

    def _send_commit(self, progress: Progress) -> None:
        """Tells a follower of a commit without waiting for the next entries or heartbeat.

        The fault (correction 11): a follower of pysyncobj 0.3.17 learns of a commit with the next append, half a
        heartbeat later on average. The rule (section 3.5): commit as soon as known; the heartbeat is only the upper
        bound. Nobody waits for an answer to such news, which comes with every entry when they come one by one.

        Simulation: ``commit-with-heartbeat``, seed 1.
        """
        if progress.commit_sent < self._raft.commit_index:
            self._tell(progress, 0)

    def _heartbeat(self, progress: Progress) -> None:
        """Claims nothing about the log, so that it may overtake entries on their way."""
        self._tell(progress, self._clock())

    def _tell(self, progress: Progress, clock: int) -> None:
        raft = self._raft
        progress.commit_sent = raft.commit_index
        raft.send(progress.address, Append(raft.term, clock, 0, 0, raft.commit_index))

    # Membership (chapter 4)

    def change(self, wanted: Configuration) -> int:
        """Puts `wanted` into effect by an entry of the log; returns its index.

        :raises ChangeRefusedError: another change is not committed yet, nothing of this term is, or `wanted` moves more
            than one voter
        """
        self._check_writable()
        self._check_change(wanted)
        self._append_control(Kind.CONFIGURATION, wanted.encode())
        self._follow_configuration()
        self.count()
        return self._storage.last_index

    def _check_change(self, wanted: Configuration) -> None:
        """One voter at a time, one change at a time, and only once an entry of this term is committed.

        The last condition is not in the dissertation: without it two leaders in turn can each move one voter, and make
        majorities that do not meet (announced by Ongaro on the raft-dev list, July 2015).

        Simulation: ``change-any-time``, plot changes-at-once; ``change-before-commit``, plot two-changes.
        """
        raft = self._raft
        if not self.ready:
            raise ChangeRefusedError(
                "the leader is new and has not committed an entry of its own yet: try again in a moment"
            )
        if raft.configuration_index > raft.commit_index:
            raise ChangeRefusedError(
                f"the change of membership in entry {raft.configuration_index} is not committed yet"
            )
        moved = set(wanted.voters) ^ set(raft.configuration.voters)
        if len(moved) > 1:
            raise ChangeRefusedError(f"one voter at a time can be added or removed, not {', '.join(sorted(moved))}")
        if not wanted.voters:
            raise ChangeRefusedError("a cluster needs a voter")

    def _append_control(self, kind: Kind, body: bytes) -> None:
        raft = self._raft
        raft.append_own([self._storage.seal_control(kind, body, self._storage.last_index + 1, raft.term)])

    def _follow_configuration(self) -> None:
        raft = self._raft
        members = {m.address for m in raft.configuration.members} - {raft.address}
        for address in sorted(self.progress.keys() - members):
            del self.progress[address]
        for address in sorted(members - self.progress.keys()):
            progress = self.progress_class(address, next=self._storage.last_index + 1, contact=raft.now)
            self.progress[address] = progress
            if address in raft.peers:
                progress.connect(self._storage.last_index)

    def _tend_members(self) -> None:
        """Makes voters of learners that joined and caught up, and learners of voters whose disk does not belong.

        Three changes of membership, each committed before the next: a learner, a learner that may vote (its disk is
        named), a voter. With the first two in one, a leader that was deposed without knowing could let a disk vote
        that has forgotten what it promised to the new one; with the last two in one, a voter that has not heard of it
        refuses the vote that its leader needs to tell it.

        Simulation: ``leave-lost-disks``, seed 1.
        """
        raft = self._raft
        if (
            not self.ready
            or raft.configuration_index > raft.commit_index
            or self.successor
            or not self._storage.writable
        ):
            return
        for member in raft.configuration.members:
            progress = self.progress.get(member.address)
            if progress is None or not progress.incarnation or self._is_silent(progress):
                continue
            role, incarnation = member.role, member.incarnation
            if role is MemberRole.VOTER and not progress.formed:
                log.warning("%s has lost its disk: it is a learner until it has caught up", member.address)
                role, incarnation = MemberRole.JOINING, 0
            elif role is MemberRole.JOINING and incarnation != progress.incarnation:
                incarnation = progress.incarnation
            elif (
                role is MemberRole.JOINING
                and progress.formed
                and progress.caught_up(self._storage.last_index, raft.now, raft.settings.election_timeout)
            ):
                log.info("%s has caught up: it votes from now on", member.address)
                role = MemberRole.VOTER
            else:
                continue
            self.change(raft.configuration.with_role(member.address, role, incarnation))
            return

    def _is_silent(self, progress: Progress) -> bool:
        return not progress.connected or self._raft.now - progress.contact > self._raft.settings.election_timeout

    def _leave(self) -> None:
        """This node is not a member any more (section 4.2.2): the best voter need not wait for a timeout."""
        raft = self._raft
        self.flush()
        target = self._best_voter(at_once=True)
        if target is not None:
            raft.send(target, TimeoutNow(raft.term))
        raft.step_down()

    # Handing over (section 3.10)

    def transfer(self, target: str | None) -> str:
        """Stops taking proposals, waits for `target` to hold everything, and has it start an election.

        Given up after an election timeout, and this node leads on, unless it cannot write.

        :param target: a voter, or None for the best one
        :returns: the chosen one's address
        :raises ChangeRefusedError: there is nobody to hand over to
        """
        raft = self._raft
        chosen = target or self._best_voter()
        if chosen is None:
            raise ChangeRefusedError("no other voter is connected that could take over")
        if chosen == raft.address:
            raise ChangeRefusedError(f"{chosen} is the leader already")
        if not raft.configuration.is_voter(chosen):
            raise ChangeRefusedError(f"{chosen} is not a voter of the cluster")
        if self._is_silent(self.progress[chosen]):
            raise ChangeRefusedError(f"{chosen} is not connected to the leader")
        self.successor = chosen
        self._handover_deadline = raft.now + raft.settings.election_timeout
        # A refusal of the disk is believed for a moment only. When that has passed, there is not more room than before.
        self._must_go = not self._storage.writable
        self._handover_sent = False
        log.info("%s hands over to %s", raft.address, chosen)
        return chosen

    def _best_voter(self, *, at_once: bool = False) -> str | None:
        """Who holds most. A witness only if there is no other that was sent all that is committed: for what is under
        way to him can be waited for, unless he is to stand `at_once`.
        """
        raft, last = self._raft, self._storage.last_index
        candidates = [
            (
                member.priority >= 0
                and (p.match >= last if at_once else p.mode is Mode.REPLICATE and p.next > raft.commit_index),
                min(p.match, last),
                member.priority,
                p.address,
            )
            for member in raft.configuration.members
            if member.role is MemberRole.VOTER
            and (p := self.progress.get(member.address))
            and p.formed
            and not p.full
            and not self._is_silent(p)
        ]
        return max(candidates)[3] if candidates else None

    def _send_timeout_now(self) -> None:
        progress = self.progress.get(self.successor or "")
        if progress is not None and not self._handover_sent and progress.match == self._storage.last_index:
            self._handover_sent = True
            self._raft.send(progress.address, TimeoutNow(self._raft.term))

    def _hand_over(self) -> None:
        raft = self._raft
        if self.successor is not None and raft.now >= self._handover_deadline:
            log.warning("%s did not take over in time", self.successor)
            self.successor = None
            if raft.suspended is not None or self._must_go:
                raft.step_down()
                return
        if self.successor is None and raft.suspended is not None:
            if self._best_voter() is None:
                raft.step_down()
            else:
                self.transfer(None)
        elif self.successor is None and self.ready:
            self._drift()

    def _drift(self) -> None:
        """Hands over to a voter of higher priority that has kept up for a while."""
        raft = self._raft
        mine = raft.configuration.get(raft.address)
        better = [
            (m.priority, m.address)
            for m in raft.configuration.members
            if m.role is MemberRole.VOTER
            and mine is not None
            and m.priority > mine.priority
            and (p := self.progress[m.address]).formed
            and not p.full
            and not self._is_silent(p)
            and p.match >= raft.commit_index
        ]
        if not better:
            self._preferred = None
            return
        best = max(better)[1]
        if self._preferred is None or self._preferred[0] != best:
            self._preferred = (best, raft.now)
        elif raft.now - self._preferred[1] >= raft.settings.priority_patience * raft.settings.election_timeout:
            self._preferred = None
            self.transfer(best)

    # Plumbing

    def _check_writable(self) -> None:
        if self.successor is not None:
            raise ChangeRefusedError(f"the leader is handing over to {self.successor}: try again in a moment")
        if self._raft.suspended is not None or not self._storage.writable:
            raise ChangeRefusedError(f"the leader cannot write: {self._raft.suspended or 'its disk is full'}")

    def _ordered(self) -> list[Progress]:
        return [self.progress[address] for address in sorted(self.progress)]

    def _clock(self) -> int:
        return int(self._raft.now * 1e6)
