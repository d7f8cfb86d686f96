"""Raft, as a machine without clocks, threads, sockets or disks of its own.

The rules, in the words of Ongaro's dissertation, and where they are kept:

1. A node votes once in a term, and only for a log at least as good as its own (3.4, 3.6.1): ``_on_vote``,
   ``_up_to_date``.
2. Term and vote are on disk before anybody learns of them (3.8): ``_enter_term``.
3. A follower deletes only entries that conflict with the leader's, never committed ones (3.5): ``_accept``,
   ``_unknown``.
4. It acknowledges only what is equal to the leader's log *and* on its disk (3.8, 10.2.1): ``_acknowledged``.
5. A leader commits only entries of its own term by counting, itself included only once its own disk has them (3.6.2):
   ``Leadership``.
6. A node that lost touch asks before it disturbs (9.6), and nobody helps to depose a leader that is in touch with him
   (4.2.3).
7. A leader that is not in touch with a majority steps down (6.2): ``Leadership.tick``.
8. A configuration is in effect from the moment that it is in the log (4.1): ``_configured``.
9. Answers count only in the term that they were given in: ``step``.

Whoever owns a ``Raft`` feeds it: ``step`` with a peer's message, ``tick`` when ``deadline`` has come, ``connected``
and ``disconnected``, ``propose`` and the changes of membership; and the background sync's ``sync_started`` and
``sync_finished``. After any of them it sends what ``messages`` returns and looks at ``commit_index``. Times are
seconds of a monotonic clock, passed in. The connection between two nodes must lose nothing without a
``disconnected``; it may be slow for any time, and short messages may overtake those with entries.

The corrections of pysyncobj 0.3.17 that made this module are listed, with what was measured, in
``docs/decisions/0010-own-raft-core.md``.
"""

from __future__ import annotations

import enum
import logging
import random
from collections.abc import Sequence

from kingbus_node.raft.api import NotLeaderError
from kingbus_node.raft.configuration import Configuration, MemberRole
from kingbus_node.raft.errors import ChangeRefusedError, DivergedError, ProtocolError
from kingbus_node.raft.formation import Formation
from kingbus_node.raft.leadership import Leadership
from kingbus_node.raft.messages import (
    Append,
    AppendReply,
    Entry,
    Form,
    FormReply,
    Install,
    Kind,
    Message,
    PreVote,
    PreVoteReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from kingbus_node.raft.settings import Settings
from kingbus_node.raft.storage import HardState, Proposal, Snapshot, Storage
from kingbus_node.store.errors import LogFullError

log = logging.getLogger(__name__)


class Role(enum.Enum):
    """What a node is in its term."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Raft:
    """One node of a cluster.

    :param address: this node's, as in the configuration
    :param storage: its disk
    :param founders: the first configuration, for a disk that holds none
    :param dice: where election timeouts get their randomness from
    :param now: the time, in seconds
    """

    leadership_class: type[Leadership] = Leadership
    formation_class: type[Formation] = Formation

    def __init__(
        self,
        address: str,
        storage: Storage,
        founders: Configuration,
        settings: Settings,
        dice: random.Random,
        now: float,
    ) -> None:
        self.address = address
        self.storage = storage
        self.settings = settings
        self.now = now
        self.role = Role.FOLLOWER
        self.leader: str | None = None
        self.leadership: Leadership | None = None
        state = storage.hard_state()
        self.term, self.vote = state.term, state.vote
        self.commit_index = storage.commit_floor
        self.durable_index = storage.last_index
        self.peers: set[str] = set()
        self.formation = self.formation_class(address, storage, founders)
        self.suspended: str | None = None
        self._dice = dice
        self._syncing: int | None = None
        self._configurations: list[tuple[int, Configuration]] = [(0, founders), *storage.configurations()]
        self._votes: dict[str, bool] = {}
        self._transferred = False
        self._received = self.commit_index
        self._reported = 0
        self._leader_clock = 0
        self._leader_commit = 0
        self._leader_contact = float("-inf")
        self._outbox: list[tuple[str, Message]] = []
        self._forget_old_configurations()
        self.formation.configured(self.configuration)
        self._election_deadline = now if self.configuration.voters == (address,) else self._draw_deadline()

    # What the owner looks at

    @property
    def configuration(self) -> Configuration:
        """The configuration in effect: the last one in the log, committed or not."""
        return self._configurations[-1][1]

    @property
    def configuration_index(self) -> int:
        """Where in the log it stands, 0 for the first one."""
        return self._configurations[-1][0]

    @property
    def is_leader(self) -> bool:
        """Whether this node believes to be the leader."""
        return self.leadership is not None

    @property
    def readable_index(self) -> int:
        """Up to here entries are committed, and on this node's disk too: safe to show to anybody."""
        return min(self.commit_index, self.durable_index)

    @property
    def known_commit_index(self) -> int:
        """The last entry that may be committed, as far as this node has heard: never below ``commit_index``. A new
        leader does not know until its first entry is committed.
        """
        if self.leadership is not None:
            return max(self.commit_index, self.leadership.noop_index)
        return max(self.commit_index, self._leader_commit)

    @property
    def deadline(self) -> float:
        """When ``tick`` should be called next, if nothing else happens. Any thread."""
        leadership = self.leadership
        return self._election_deadline if leadership is None else leadership.deadline

    @property
    def contact(self) -> float:
        """When this node was last part of a majority with a leader: the leader heard it, or it heard the leader.
        Minus infinity: not since it last changed sides. The only voter is its own majority, also while it may not lead.
        """
        if self.configuration.voters == (self.address,):
            return self.now
        if self.leadership is not None:
            return self.leadership.contact()
        return self._leader_contact if self.leader is not None else float("-inf")

    def in_touch(self) -> bool:
        """Whether this node was, within the last election timeout, part of a majority with a leader."""
        return self.now - self.contact <= self.settings.election_timeout

    # Inputs

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._advance(now)
        if self.leadership is not None:
            self.leadership.tick()
        elif self.now >= self._election_deadline:
            self._lost_leader()

    def step(self, peer: str, message: Message, now: float) -> None:
        """A message of `peer` arrived.

        The fault of a core whose replies carry no term (pysyncobj 0.3.17's ``next_node_idx``): what a follower
        acknowledged to a leader and then truncated is counted by that same node when it leads again. The rule (3.3):
        an answer of an older term is not one.

        Simulation: ``believe-old-answers``, plot old-answer.

        :raises ProtocolError: the peer broke the protocol
        :raises DivergedError: the logs contradict each other below the commit index
        """
        self._advance(now)
        if isinstance(message, Form):
            self._send(peer, self.formation.on_form(message))
        elif isinstance(message, FormReply):
            self.formation.on_reply(peer, message)
        elif isinstance(message, PreVote):
            self._on_pre_vote(peer, message)
        elif isinstance(message, Vote) and not message.transfer and self._has_leader():
            log.debug("%s asks for votes in term %d while %s leads", peer, message.term, self.leader)
        else:
            granted = isinstance(message, PreVoteReply) and message.granted
            if message.term > self.term and not granted:
                self._follow(message.term, None)
            if self._is_current(message):
                self._dispatch(peer, message)
            elif isinstance(message, Append | Install):
                self._reply(peer)  # tells a leader of the past that it is one
            elif isinstance(message, Vote):
                self._on_vote(peer, message)

    def connected(self, peer: str, now: float) -> None:
        """The connection to `peer` came up."""
        self._advance(now)
        self.peers.add(peer)
        if self.leadership is not None:
            self.leadership.connected(peer)
        elif self.role is not Role.FOLLOWER and self.configuration.is_voter(peer) and peer not in self._votes:
            self._ask_for_vote(peer)
        elif not self.formation.formed and peer in self.formation.founding:
            self._send(peer, self.formation.question())

    def disconnected(self, peer: str, now: float) -> None:
        """The connection to `peer` is gone, with what was under way on it."""
        self._advance(now)
        self.peers.discard(peer)
        if self.leadership is not None:
            self.leadership.disconnected(peer)
        elif peer == self.leader:
            # A process that dies closes its connections at once: no need to wait for the whole timeout. Others who
            # still hear the leader will not grant their pre-vote, so a broken cable disturbs nobody.
            self._leader_contact = float("-inf")
            hurry = now + self.settings.election_timeout * self._dice.uniform(0.05, 0.35)
            self._election_deadline = min(self._election_deadline, hurry)

    def sync_started(self) -> int:
        """The owner begins to make everything durable that ``storage`` has been given so far; returns how far that
        reaches.
        """
        self._syncing = self.storage.last_index
        return self._syncing

    def sync_finished(self, now: float) -> None:
        """What ``sync_started`` began is done: followers' answers that waited for it can go."""
        self._advance(now)
        reached, self._syncing = self._syncing, None
        if reached is None or reached <= self.durable_index:
            return
        self.durable_index = reached
        if self.leadership is not None:
            self.leadership.count()
        elif self.leader is not None and self._acknowledged() > self._reported:
            self._reply(self.leader)

    @property
    def unsynced(self) -> bool:
        """Whether there is something to make durable, and no sync under way."""
        return self._syncing is None and self.storage.last_index > self.durable_index

    def propose(self, proposals: Sequence[Proposal], now: float) -> int:
        """Appends `proposals` to the log and returns the index of the last one. Whether they get committed shows later.

        :raises NotLeaderError: another node leads, or nobody
        :raises ChangeRefusedError: the leader is handing over, or cannot write
        """
        self._advance(now)
        try:
            return self._leading().propose(proposals)
        except LogFullError as error:
            raise ChangeRefusedError(f"the leader cannot write: {error}") from error

    def change(self, wanted: Configuration, now: float) -> int:
        """Puts a new configuration into the log and returns its index. See ``Leadership.change``."""
        self._advance(now)
        try:
            return self._leading().change(wanted)
        except LogFullError as error:
            raise ChangeRefusedError(f"the leader cannot write: {error}") from error

    def transfer(self, target: str | None, now: float) -> str:
        """Begins to hand the leadership to `target`, or to the best voter; returns whom (``Leadership.transfer``)."""
        self._advance(now)
        return self._leading().transfer(target)

    def suspend(self, reason: str | None, now: float) -> None:
        """With a `reason` (a full disk), this node hands over and stands for no election until called with None."""
        self._advance(now)
        self.suspended = reason

    def messages(self, now: float) -> list[tuple[str, Message]]:
        """What is to be sent, in order; call it after any input. State that the messages reveal is durable by now."""
        self._advance(now)
        if self.leadership is not None:
            self.leadership.flush()
        out, self._outbox = self._outbox, []
        return out

    # Terms and elections

    def _enter_term(self, term: int, vote: str | None) -> None:
        """Takes over a term and a vote, on disk before anything is said in it.

        The fault (correction 5): pysyncobj 0.3.17 writes both into a mapped file that is not synced; after a power
        failure a node votes again in the same term, and two leaders share it. The rule: section 3.8.

        Simulation: ``forget-vote``, seed 6; ``vote-twice``, seed 83.
        """
        self.storage.save_hard_state(HardState(term, vote))
        if term != self.term:
            self._received, self._reported, self._leader_clock, self._leader_commit = self.commit_index, 0, 0, 0
        self.term, self.vote = term, vote

    def _follow(self, term: int, leader: str | None) -> None:
        if term > self.term:
            self._enter_term(term, None)
        if self.role is not Role.FOLLOWER:
            log.info("%s in term %d: %s -> follower", self.address, self.term, self.role.value)
            self._election_deadline = self._draw_deadline()
        self.role = Role.FOLLOWER
        self.leadership = None
        self.leader = leader

    def step_down(self) -> None:
        """Stops leading in this term."""
        self._follow(self.term, None)

    def _lost_leader(self) -> None:
        self._election_deadline = self._draw_deadline()
        if self.leader is not None:
            log.info("%s has not heard from the leader %s in time", self.address, self.leader)
        self.leader = None
        if not self.formation.formed:
            for peer in sorted(self.peers & set(self.formation.founding)):
                self._send(peer, self.formation.question())
        if self._may_stand():
            self._before_election()

    def _may_stand(self) -> bool:
        """Whether this node could lead: it votes, or did so before a configuration that may not be committed.

        The fault: a leader of two that was being removed is killed when only its own log says so. Its log is the
        longer one, so the other cannot be elected, and it does not stand itself: nobody leads ever again. The rule
        (section 4.2.2): a server that is not part of its latest configuration still starts elections, for it may be
        needed until that is committed; its own vote does not count then.

        Simulation: ``sit-out-when-removed``, plot removed-leader.
        """
        if not self.formation.formed or self.suspended is not None:
            return False
        *earlier, (index, latest) = self._configurations
        return latest.is_voter(self.address) or (
            index > self.commit_index and any(known.is_voter(self.address) for _, known in earlier)
        )

    def _before_election(self) -> None:
        """Asks whether an election could be won before starting one.

        The fault (correction 6): a node of pysyncobj 0.3.17 that was cut off comes back with a higher term and
        deposes a healthy leader. The rule: section 9.6 (Pre-Vote); a node grants it only when it has not heard from a
        leader for an election timeout.

        Simulation: ``stand-at-once``, seed 1.
        """
        self._campaign(Role.PRE_CANDIDATE)

    def _stand(self, transferred: bool) -> None:
        self._transferred = transferred
        self._enter_term(self.term + 1, self.address)
        self._campaign(Role.CANDIDATE)

    def _campaign(self, role: Role) -> None:
        self.role = role
        self.leader = None
        self._votes = {self.address: True}
        for peer in self.configuration.voters:
            if peer != self.address and peer in self.peers:
                self._ask_for_vote(peer)
        self._count_votes()

    def _ask_for_vote(self, peer: str) -> None:
        last = self.storage.last_index
        last_term = self._term_at(last)
        if self.role is Role.PRE_CANDIDATE:
            self._send(peer, PreVote(self.term + 1, last, last_term))
        else:
            self._send(peer, Vote(self.term, last, last_term, self._transferred))

    def _count_votes(self) -> None:
        voters = self.configuration.voters
        granted = sum(self._votes.get(v, False) for v in voters)
        refused = sum(not self._votes.get(v, True) for v in voters)
        if granted >= self.configuration.quorum:
            if self.role is Role.PRE_CANDIDATE:
                self._stand(transferred=False)
            else:
                self._lead()
        elif refused >= self.configuration.quorum:
            self._follow(self.term, None)

    def _lead(self) -> None:
        self.role = Role.LEADER
        self.leader = self.address
        log.info("%s leads in term %d", self.address, self.term)
        self.leadership = self.leadership_class(self)
        try:
            self.leadership.begin()
        except LogFullError as error:
            log.warning("%s cannot lead: %s", self.address, error)
            self.step_down()

    def _has_leader(self) -> bool:
        """Whether this node has no reason to help deposing the leader (section 4.2.3).

        Simulation: ``help-anybody``, seed 1.
        """
        if self.leadership is not None:
            return not self.leadership.quorum_lost()
        return self.now - self._leader_contact < self.settings.election_timeout

    def _up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as good as this node's (section 3.6.1).

        Simulation: ``vote-for-any-log``, seed 2.
        """
        mine = self.storage.last_index
        return (last_term, last_index) >= (self._term_at(mine), mine)

    def _on_pre_vote(self, peer: str, message: PreVote) -> None:
        granted = (
            message.term > self.term
            and self.formation.formed
            and not self._has_leader()
            and self._up_to_date(message.last_index, message.last_term)
        )
        self._send(peer, PreVoteReply(message.term if granted else self.term, granted))

    def _on_vote(self, peer: str, message: Vote) -> None:
        granted = (
            message.term == self.term
            and self.vote in (None, peer)
            and self.leader is None
            and self.formation.formed
            and self._up_to_date(message.last_index, message.last_term)
        )
        if granted:
            self._enter_term(self.term, peer)
            self._follow(self.term, None)
            self._election_deadline = self._draw_deadline()
        self._send(peer, VoteReply(self.term, granted))

    def _on_pre_vote_reply(self, peer: str, message: PreVoteReply) -> None:
        if self.role is Role.PRE_CANDIDATE and (message.term == self.term + 1 or not message.granted):
            self._votes[peer] = message.granted
            self._count_votes()

    def _on_vote_reply(self, peer: str, message: VoteReply) -> None:
        if self.role is Role.CANDIDATE:
            self._votes[peer] = message.granted
            self._count_votes()

    def _on_timeout_now(self, peer: str) -> None:
        """Stands for election at once: the leader wishes it, so nobody need be asked first (section 3.10).

        Simulation: ``ask-to-take-over``, seed 1.
        """
        if peer == self.leader and self._may_stand():
            self._stand(transferred=True)

    # Following

    def _on_append(self, peer: str, message: Append) -> None:
        self._heard(peer, message.clock)
        if not self._holds(message.prev_index, message.prev_term):
            self._reply(peer, rejected=message.prev_index, rejected_term=message.prev_term)
            return
        new = self._unknown(message.entries)
        if new and not self.storage.writable:
            self._reply(peer)
            return
        try:
            self._accept(new)
        except LogFullError:  # the end of the room comes without a warning when somebody else takes it
            self._reply(peer)
            return
        self._received = max(self._received, message.prev_index + len(message.entries))
        # The news of a commit may have overtaken the entries.
        self._leader_commit = max(self._leader_commit, message.commit)
        self._commit_to(min(self._leader_commit, self._received))
        is_news = not message.clock and not message.prev_index and not message.entries
        if not is_news and (not new or self.durable_index >= self._received):
            self._reply(peer)

    def _on_install(self, peer: str, message: Install) -> None:
        self._heard(peer, message.clock)
        if message.index > self.commit_index and self.storage.term_at(message.index) != message.entry_term:
            configuration = Configuration.decode(message.configuration)
            self.storage.reset(Snapshot(message.index, message.entry_term, configuration, message.state))
            self._replaced(message.index, message.index, configuration)
        self._received = max(self._received, message.index)
        self._commit_to(message.index)
        self._reply(peer)

    def _replaced(self, last_index: int, configured_at: int, configuration: Configuration) -> None:
        """The storage holds another log, durably."""
        self._syncing = None if self._syncing is None else last_index
        self.durable_index = last_index
        self._configurations = [(configured_at, configuration)]
        self.formation.configured(configuration)

    def adopted(self, configured_at: int, configuration: Configuration | None, now: float) -> None:
        """The owner has put a log into the storage, durably, which was copied from a member beside Raft and holds
        nothing but committed entries, and not fewer than the one before. This node does not lead.

        :param configured_at: which entry set the members, with what it set; 0 and None if they are still the first ones
        """
        self._advance(now)
        last = self.storage.last_index
        self._replaced(last, configured_at, configuration or self.formation.founders)
        self._received = max(self._received, last)
        self._commit_to(last)
        if self.leader is not None:
            self._reply(self.leader)

    def _heard(self, leader: str, clock: int) -> None:
        if self.leadership is not None:
            raise ProtocolError(f"{leader} and this node both lead in term {self.term}")
        if self.leader != leader:
            self._follow(self.term, leader)
            log.info("%s follows %s in term %d", self.address, leader, self.term)
        self.role = Role.FOLLOWER
        self._leader_clock = max(self._leader_clock, clock)
        self._leader_contact = self.now
        self._election_deadline = self._draw_deadline()

    def _holds(self, index: int, term: int) -> bool:
        """Whether the entry at `index` is the leader's. What is committed here is: every leader has it (section
        3.6.3).
        """
        if not index:
            return True  # heartbeats claim nothing; where a log begins is read from a file
        mine = self.storage.term_at(index)
        if index <= self.commit_index and mine is not None and mine != term:
            raise DivergedError(
                f"the leader {self.leader} holds entry {index} of term {term}, this node committed one of term {mine}"
            )
        return index <= self.commit_index or mine == term

    def _unknown(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The part of `entries` from the first one on that this node does not hold, or holds differently.

        The fault (correction 2): pysyncobj 0.3.17 deletes everything behind `prev_index` before it looks at what it
        was sent, also for heartbeats and late duplicates, and so entries that it has acknowledged. The rule (3.5):
        delete only from the first entry that conflicts.

        Simulation: ``truncate-what-matches``, seed 15.
        """
        for number, entry in enumerate(entries):
            if not self._holds(entry.index, entry.term):
                return entries[number:]
        return ()

    def _accept(self, new: Sequence[Entry]) -> None:
        if not new:
            return
        first = new[0].index
        if first <= self.storage.last_index:
            self._truncate_from(first)
        self.storage.append(new)
        self._configured(new)

    def _truncate_from(self, index: int) -> None:
        """Removes a conflicting tail, and with it what rested on it: configurations, and the promise of a sync under
        way.

        The fault of a core with background syncs: it takes the end of a sync to cover the entries that came in the
        place of removed ones meanwhile. The rule (3.5, 4.1): neither an entry nor a configuration outlives its removal.

        Simulation: ``sync-covers-replaced``, seed 15; ``keep-truncated-configuration``, seed 42.
        """
        if index <= self.commit_index:
            raise DivergedError(
                f"the leader {self.leader} holds another entry {index} than this node, where it is committed"
            )
        self.storage.truncate_from(index)
        self.durable_index = min(self.durable_index, index - 1)
        if self._syncing is not None:
            self._syncing = min(self._syncing, index - 1)
        while self.configuration_index >= index:
            self._configurations.pop()

    def _configured(self, entries: Sequence[Entry]) -> None:
        """Puts configurations among `entries` into effect.

        The fault of pysyncobj 0.3.17: after a restart a configuration counts again only once it is applied, so a node
        decides by an older one than the log holds. The rule (4.1): a server always uses the latest configuration in
        its log.

        Simulation: ``configure-when-committed``, seed 1.
        """
        for entry in entries:
            if entry.kind is Kind.CONFIGURATION:
                configuration = Configuration.decode(self.storage.control_body(entry))
                self._configurations.append((entry.index, configuration))
                self.formation.configured(configuration)

    def append_own(self, entries: Sequence[Entry]) -> None:
        """The leader's own entries go the same way as a follower's."""
        self.storage.append(entries)
        self._configured(entries)

    def _acknowledged(self) -> int:
        """How far the leader may count on this node: equal to the leader's log, and on disk.

        The fault (correction 4): pysyncobj 0.3.17 acknowledges what is in memory. After a power failure committed
        entries are gone from a majority. The rule (3.8): a server persists new entries before it acknowledges them.

        Simulation: ``acknowledge-unsynced``, seed 0.
        """
        return min(self._received, self.durable_index)

    def _reply(self, leader: str, rejected: int = 0, rejected_term: int = 0) -> None:
        hint = self.storage.last_at_most(rejected, rejected_term) if rejected else 0
        self._reported = self._acknowledged()
        identity = self.formation.identity
        reply = AppendReply(
            term=self.term,
            clock=self._leader_clock,
            match=self._reported,
            received=self._received,
            rejected=rejected,
            hint_index=hint,
            hint_term=self._term_at(hint) if hint else 0,
            incarnation=identity.incarnation,
            formed=identity.formed,
            full=not self.storage.writable,
        )
        self._send(leader, reply)

    def commit_own(self, index: int) -> None:
        """The leader found `index` on a majority of disks."""
        self._commit_to(index)

    def _commit_to(self, index: int) -> None:
        if index > self.commit_index:
            self.commit_index = index
            self._forget_old_configurations()

    def _forget_old_configurations(self) -> None:
        """Keeps the last committed one, to which a truncation may lead back, and those after it."""
        while len(self._configurations) > 1 and self._configurations[1][0] <= self.commit_index:
            self._configurations.pop(0)

    # Plumbing

    def _is_current(self, message: Message) -> bool:
        return isinstance(message, PreVoteReply) or getattr(message, "term", 0) == self.term

    def _dispatch(self, peer: str, message: Message) -> None:
        match message:
            case Append():
                self._on_append(peer, message)
            case AppendReply():
                if self.leadership is not None:
                    self.leadership.on_reply(peer, message)
            case Install():
                self._on_install(peer, message)
            case Vote():
                self._on_vote(peer, message)
            case VoteReply():
                self._on_vote_reply(peer, message)
            case PreVoteReply():
                self._on_pre_vote_reply(peer, message)
            case TimeoutNow():
                self._on_timeout_now(peer)
            case _:
                raise ProtocolError(f"{peer} sent a {type(message).__name__}, which is not expected here")

    def _send(self, peer: str, message: Message) -> None:
        if peer in self.peers:
            self._outbox.append((peer, message))

    send = _send

    def _leading(self) -> Leadership:
        if self.leadership is None:
            raise NotLeaderError(self.leader)
        return self.leadership

    def _term_at(self, index: int) -> int:
        term = self.storage.term_at(index)
        if term is None:
            return 0
        return term

    def _advance(self, now: float) -> None:
        self.now = max(self.now, now)

    def _draw_deadline(self) -> float:
        return self.now + self.settings.election_timeout * (1 + self._dice.random())

    def role_of(self, address: str) -> MemberRole | None:
        """The role of a member in the configuration in effect."""
        member = self.configuration.get(address)
        return member.role if member else None
