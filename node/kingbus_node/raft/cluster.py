"""The consensus of a cluster: `raft.api.ClusterConsensus` on real sockets, threads and disks.

`core` decides, `loop` drives it; here is what other threads hold on to: proposals and those who wait for them,
listeners, changes of the membership. A cluster of one is the same, and commits alone.

A *reign* is one leadership of this node. Bytes in flight and waiters belong to one; when it is lost, nobody can say of
what it had proposed and not committed whether it survives.
"""

from __future__ import annotations

import logging
import math
import random
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from kingbus_node.config import Address
from kingbus_node.raft.api import (
    CommitListener,
    ConsensusClosedError,
    ConsensusFailedError,
    ContactListener,
    CopyProgress,
    DeadlineError,
    Leadership,
    LeadershipListener,
    MemberKind,
    MemberStatus,
    NotLeaderError,
)
from kingbus_node.raft.configuration import Configuration, Member, MemberRole
from kingbus_node.raft.copying import STREAM, SegmentServer, mend
from kingbus_node.raft.core import Raft
from kingbus_node.raft.errors import ChangeRefusedError, RaftError
from kingbus_node.raft.hello import Hello, Purpose
from kingbus_node.raft.journal import Draft, Journal
from kingbus_node.raft.loop import Loop
from kingbus_node.raft.options import ClusterOptions
from kingbus_node.raft.settings import Settings
from kingbus_node.raft.storage import Identity
from kingbus_node.raft.tls import PeerTls
from kingbus_node.raft.transport import StreamHandler, Transport
from kingbus_node.store.entry import Entry
from kingbus_node.store.errors import InvalidEntryError, StoreError
from kingbus_node.store.log import Log
from kingbus_node.store.state import FACT_CLUSTER_UUID
from kingbus_node.store.transfer import CopyError

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""How long `Cluster.close` waits for what was proposed to be committed."""
_REMEMBERED_REIGNS = 8
_SENT_AT_ONCE = 64 << 10
"""Bytes of a proposal up to which its proposer sends it to the followers."""


@dataclass(frozen=True, slots=True)
class _Proposed:
    """A proposal that is not committed yet: its last index, its size, when it was made."""

    index: int
    cost: int
    count: int
    time: float


class Cluster:
    """A `raft.api.ClusterConsensus`. Owns the writing side of the log while it is open."""

    def __init__(
        self,
        log: Log,
        name: str,
        options: ClusterOptions,
        *,
        on_sync: Callable[[float], None] | None = None,
        on_commit: Callable[[float], None] | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        """Listens, connects to its peers and takes part, from the moment that it is made.

        For metrics, and called in threads of its own: `on_sync` with the seconds that a sync took, `on_commit` with
        those from an entry being proposed here to its commit. `listener`: a socket that listens already, in the place
        of ``options.listen``. OSError: that cannot be used; PeerTlsError; StoreError.
        """
        tls = PeerTls(options.tls) if options.tls is not None else None
        journal = Journal(log, min_free_bytes=options.min_free_bytes)
        listening = listener or _listen(options.listen)
        host, port = listening.getsockname()[:2]
        self.listens_at = Address(str(host), int(port))
        """Where peers really arrive, the port known."""
        self._log = log
        self._name = name
        self._address = options.address or str(self.listens_at)
        self._options = options
        self._on_commit = on_commit
        settings = Settings(options.election_timeout)
        settings.append_bytes, settings.window_bytes = options.append_bytes, options.window_bytes
        founders = _founders(journal.identity(), options.founders or (self._address,))
        dice = random.Random(secrets.randbits(64))
        raft = Raft(self._address, journal, founders, settings, dice, time.monotonic())
        self._raft = raft
        self._journal = journal

        self._state = threading.Condition()  # taken after the loop's lock, never before it
        self._commit_index = log.commit_index
        self._in_flight = 0
        self._proposals: deque[_Proposed] = deque()
        self._reign: int | None = None  # the term that this node leads in
        self._reigns = 0
        self._own_last = 0  # the last entry that this node put into the log in this reign
        self._lost: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED_REIGNS)  # first and last: may not survive
        self._version = 0  # changes with everything that a change of membership may wait for
        self._seen: tuple[object, ...] = ()
        self._successor: str | None = None
        self._leader: str | None = None
        self._elected = (0, "")  # the term and the address of the last leader that was heard of
        self._leader_changes = 0
        self._contact = -math.inf
        self._failure: Exception | None = None
        self._closing = self._closed = False

        self._notifying = threading.RLock()
        self._commit_listeners: list[CommitListener] = []
        self._leadership_listeners: list[LeadershipListener] = []
        self._contact_listeners: list[ContactListener] = []
        self._leaderships: deque[Leadership | None] = deque()  # not told yet
        self._last_leadership: Leadership | None = None
        self._told_leadership: Leadership | None = None
        self._told_contact = False

        self._loop = Loop(log, journal, raft, name, options, self, on_sync)
        self._transport = Transport(
            listening,
            self._address,
            self._greeting,
            self._loop.offer,
            tls=tls,
            patience=max(5.0, 3 * options.election_timeout),
        )
        self._segments = SegmentServer(log, options.copy_rate)
        self._transport.serve_streams(STREAM, self._segments.serve)
        self._loop.start(self._transport)

    # Proposals

    def propose(self, entries: Sequence[Entry], *, term: int | None = None) -> int:
        """See `raft.api.ClusterConsensus.propose`. InvalidEntryError for entries that may not follow."""
        drafts = [Draft(entry) for entry in entries]
        cost = sum(draft.size for draft in drafts)
        reign = self._reserve(cost)
        try:
            index, alone = self._propose(drafts, cost, term)
        except BaseException:
            with self._state:
                self._release(cost, reign)
            raise
        if alone and cost <= _SENT_AT_ONCE:
            self._loop.push()
        else:
            self._loop.wake()
        return index

    def _propose(self, drafts: Sequence[Draft], cost: int, term: int | None) -> tuple[int, bool]:
        """The index, and whether everything before it is committed: then nothing will come that it could wait for."""
        while True:
            with self._loop.lock:
                raft = self._raft
                if self._reign != (raft.term if raft.is_leader else None):
                    self.changed(raft)
                if not raft.is_leader or (term is not None and raft.term != term):
                    raise self._not_leader()
                now = time.monotonic()
                try:
                    index = raft.propose(drafts, now)
                except ChangeRefusedError:  # it hands over, or its disk is full: soon it leads no more, or goes on
                    with self._state:
                        version = self._version
                except InvalidEntryError:
                    raise
                except StoreError as error:
                    self._loop.fail(error)
                    raise ConsensusFailedError(f"nothing can be committed any more: {error}") from error
                else:
                    with self._state:
                        self._own_last = index
                        self._proposals.append(_Proposed(index, cost, len(drafts), now))
                    return index, index - len(drafts) <= raft.commit_index
            with self._state:
                self._state.wait_for(lambda v=version: self._version != v or self._is_over(), 1.0)  # type: ignore[misc]
                self._check()

    def _reserve(self, cost: int) -> int:
        """Waits for room; returns the number of the reign that it belongs to."""
        with self._state:
            # A single proposal may be bigger than the limit: it then goes alone.
            while self._in_flight and self._in_flight + cost > self._options.max_in_flight:
                self._check()
                self._state.wait()
            self._check()
            self._in_flight += cost
            return self._reigns

    def _release(self, cost: int, reign: int) -> None:
        if reign == self._reigns:
            self._in_flight -= cost
            self._state.notify_all()

    def _check(self) -> None:
        """The state's lock is held."""
        if self._failure is not None:
            raise ConsensusFailedError(f"nothing can be committed any more: {self._failure}") from self._failure
        if self._closing:
            raise ConsensusClosedError("the consensus was closed")
        if self._reign is None:
            raise self._not_leader()

    def _is_over(self) -> bool:
        return self._failure is not None or self._closing or self._reign is None

    def _not_leader(self) -> NotLeaderError:
        leader = self.leader
        return NotLeaderError(None if leader == self._name else leader)

    def wait_committed(self, index: int, deadline: float) -> bool:
        """See `raft.api.Consensus.wait_committed`."""
        with self._state:
            while True:
                if any(first <= index <= last for first, last in self._lost):
                    raise self._not_leader()
                if self._commit_index >= index:
                    return True
                if self._failure is not None:
                    raise ConsensusFailedError(f"nothing can be committed any more: {self._failure}") from self._failure
                if self._closed:
                    raise ConsensusClosedError("the consensus was closed")
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._state.wait(left)

    @property
    def commit_index(self) -> int:
        """The last committed entry that readers can see."""
        return self._commit_index

    @property
    def known_commit_index(self) -> int:
        """See `raft.api.ClusterConsensus.known_commit_index`."""
        with self._loop.lock:
            return self._raft.known_commit_index

    @property
    def last_index(self) -> int:
        """The last entry in the log of this node."""
        return self._journal.last_index

    # What the node is

    @property
    def name(self) -> str:
        """This node's."""
        return self._name

    @property
    def address(self) -> str:
        """What it advertises."""
        return self._address

    @property
    def failure(self) -> Exception | None:
        """Why nothing is committed any more."""
        return self._failure

    @property
    def is_leader(self) -> bool:
        """Whether `propose` works here."""
        return self._reign is not None

    @property
    def term(self) -> int:
        """Raft's current term."""
        return self._raft.term

    @property
    def leader(self) -> str | None:
        """The name of the leader."""
        address = self._leader
        return None if address is None else self._name_of(address)

    @property
    def leader_address(self) -> str | None:
        """The address of the leader."""
        return self._leader

    @property
    def leader_changes(self) -> int:
        """How many leaderships this node has heard of since it was started, its own included."""
        return self._leader_changes

    @property
    def in_touch(self) -> bool:
        """See `raft.api.ClusterConsensus.in_touch`."""
        return time.monotonic() - self._contact <= self._raft.settings.election_timeout

    @property
    def contact(self) -> float:
        """See `raft.api.ClusterConsensus.contact`."""
        return self._contact

    @property
    def suspended(self) -> str | None:
        """See `raft.api.ClusterConsensus.suspended`."""
        return self._raft.suspended

    def suspend(self, reason: str | None) -> None:
        """See `raft.api.ClusterConsensus.suspend`."""
        self._loop.suspend(reason)

    # Membership

    def members(self) -> list[MemberStatus]:
        """See `raft.api.ClusterConsensus.members`."""
        with self._loop.lock:
            return [self._status(member) for member in self._raft.configuration.members]

    def _status(self, member: Member) -> MemberStatus:
        raft, address = self._raft, member.address
        own = address == self._address
        link = self._loop.links.get(address)
        progress = raft.leadership.progress.get(address) if raft.leadership is not None else None
        traffic = self._loop.traffic(address)
        voter = member.role is MemberRole.VOTER
        return MemberStatus(
            name=self._name_of(address),
            address=address,
            role="learner" if not voter else "witness" if member.priority < 0 else "voter",
            joining=member.role is MemberRole.JOINING,
            priority=member.priority,
            leader=raft.leader == address,
            reachable=own or link is not None,
            match=raft.durable_index if own else progress.match if progress else None,
            term=raft.term if own else None,
            formed=raft.formation.formed if own else progress.formed if progress and progress.incarnation else None,
            round_trip=link.round_trip if link else None,
            contact=max(0.0, time.monotonic() - progress.contact) if progress else None,
            in_flight_bytes=progress.in_flight_bytes if progress else None,
            connections=traffic.connections,
            sent_bytes=traffic.sent,
            received_bytes=traffic.received,
        )

    def add_member(
        self, name: str, address: str, *, role: MemberKind = "voter", priority: int = 0, deadline: float
    ) -> None:
        """See `raft.api.ClusterConsensus.add_member`. ValueError for an address that is none."""
        address = str(Address.parse(address))
        if role == "witness":
            priority = min(priority, -1)
        member = Member(address, MemberRole.LEARNER if role == "learner" else MemberRole.JOINING, priority, name=name)

        def added(configuration: Configuration) -> Configuration:
            for known in configuration.members:
                if known.address == address or known.name == name:
                    raise _RefusedError(f"{known.name or known.address} ({known.address}) is a member already")
            return configuration.with_member(member)

        self._change(added, deadline)

    def remove_member(self, name: str, deadline: float) -> None:
        """See `raft.api.ClusterConsensus.remove_member`."""

        def removed(configuration: Configuration) -> Configuration:
            address = self._member_address(name)
            if address is None:
                raise _RefusedError(f"there is no member {name}: {self._told_members()} are")
            try:
                return configuration.without(address)
            except ChangeRefusedError as error:
                raise _RefusedError(str(error)) from error

        self._change(removed, deadline)

    def _change(self, make: Callable[[Configuration], Configuration], deadline: float) -> None:
        """Puts a configuration into effect, once the one before is committed, and waits for its commit."""
        index = 0
        while not index:
            refusal = None
            with self._loop.lock:
                raft = self._raft
                self.changed(raft)
                with self._state:
                    self._check()
                    version = self._version
                wanted = make(raft.configuration)
                try:
                    index = raft.change(wanted, time.monotonic())
                except ChangeRefusedError as error:
                    refusal = error
                else:
                    with self._state:
                        self._own_last = index
            if refusal is not None:
                self._await_version(version, deadline, refusal)
        self._loop.wake()
        if not self.wait_committed(index, deadline):
            raise DeadlineError("the change of membership was not committed in time; it may still be")

    def _await_version(self, version: int, deadline: float, refusal: ChangeRefusedError) -> None:
        """Waits until something is different from what it was at `version`."""
        with self._state:
            left = deadline - time.monotonic()
            if left <= 0 or not self._state.wait_for(lambda: self._version != version or self._is_over(), left):
                raise DeadlineError(f"the membership could not be changed in time: {refusal}") from refusal

    def transfer(self, name: str | None, deadline: float) -> str:
        """See `raft.api.ClusterConsensus.transfer`."""
        with self._loop.lock:
            raft = self._raft
            self.changed(raft)
            with self._state:
                self._check()
            target = None if name is None else self._member_address(name)
            if name is not None and target is None:
                raise ChangeRefusedError(f"there is no member {name}: {self._told_members()} are")
            chosen = raft.transfer(target, time.monotonic())
            reign = self._reign
            self.changed(raft)
        self._loop.wake()

        def settled() -> bool:
            if self._reign == reign:
                return self._successor is None
            return self._leader is not None or self._failure is not None or self._closed

        with self._state:
            if not self._state.wait_for(settled, max(0.0, deadline - time.monotonic())):
                raise DeadlineError(f"{self._name_of(chosen)} did not take over in time; it may still")
            if self._reign == reign or self._leader is None:
                raise ChangeRefusedError(f"{self._name_of(chosen)} did not take over")
            return self._name_of(self._leader)

    def address_of(self, name: str) -> str | None:
        """See `raft.api.ClusterConsensus.address_of`."""
        with self._loop.lock:
            return self._member_address(name)

    def info_of(self, name: str) -> Mapping[str, str]:
        """See `raft.api.ClusterConsensus.info_of`."""
        with self._loop.lock:
            address = self._member_address(name)
            if address == self._address:
                return self._options.info
            greeting = self._loop.greetings.get(address or "")
            return {} if greeting is None else greeting.info

    def _member_address(self, name: str) -> str | None:
        """The loop's lock is held."""
        members = self._raft.configuration.members
        found = [m.address for m in members if m.name == name or m.address == name]
        found += [m.address for m in members if self._name_of(m.address) == name]
        return found[0] if found else None

    def _name_of(self, address: str) -> str:
        if address == self._address:
            return self._name
        greeting = self._loop.greetings.get(address)
        if greeting is not None:
            return greeting.name
        member = self._raft.configuration.get(address)
        return member.name if member is not None and member.name else address

    def _told_members(self) -> str:
        return ", ".join(self._name_of(member.address) for member in self._raft.configuration.members)

    @property
    def copying(self) -> CopyProgress | None:
        """See `raft.api.ClusterConsensus.copying`."""
        return self._loop.copier.progress

    def mend(self, first_index: int) -> str:
        """Puts a copy from another member in the place of a damaged segment, sealed and committed, that begins with
        that entry; gives the member's name. Waits; not from a listener.

        CopyError if nobody has one; StoreError if there is no such segment here.
        """
        problems = []
        for member in self.members():
            if member.address == self.address or not member.reachable:
                continue
            try:
                mend(self._log, first_index, member.address, self.open_stream)
            except (CopyError, OSError, RaftError) as error:
                problems.append(f"{member.name}: {error}")
            else:
                self._journal.forget_reads()
                return member.name
        raise CopyError(f"nobody has an intact copy: {'; '.join(problems) or 'no other member is connected'}")

    # Streams beside Raft

    def serve_streams(self, kind: str, handler: StreamHandler) -> None:
        """See `Transport.serve_streams`."""
        self._transport.serve_streams(kind, handler)

    @contextmanager
    def open_stream(
        self, address: str, kind: str, deadline: float, info: Mapping[str, str] | None = None
    ) -> Iterator[socket.socket]:
        """See `Transport.open_stream`."""
        with self._transport.open_stream(address, kind, deadline, info) as connection:
            yield connection

    def _greeting(self, purpose: Purpose, link: int, receiver: str) -> Hello:
        cluster = self._log.state.facts.get(FACT_CLUSTER_UUID)
        return Hello(
            purpose=purpose,
            link=link,
            incarnation=self._raft.formation.identity.incarnation,
            sender=self._address,
            receiver=receiver,
            name=self._name,
            priority=self._options.priority,
            cluster=cluster if isinstance(cluster, str) else "",
            info=self._options.info,
        )

    # Listeners

    def add_commit_listener(self, listener: CommitListener) -> None:
        """See `raft.api.Consensus.add_commit_listener`."""
        with self._notifying:
            self._commit_listeners.append(listener)

    def add_leadership_listener(self, listener: LeadershipListener) -> None:
        """See `raft.api.ClusterConsensus.add_leadership_listener`."""
        with self._notifying:
            self._leadership_listeners.append(listener)
            listener(self._told_leadership)

    def add_contact_listener(self, listener: ContactListener) -> None:
        """See `raft.api.ClusterConsensus.add_contact_listener`."""
        with self._notifying:
            self._contact_listeners.append(listener)
            listener(self._told_contact)

    # The loop's observer

    def changed(self, raft: Raft) -> None:
        """See `loop.Observer.changed`. Proposals call it too: it must know of a new reign before they count in it."""
        leadership = raft.leadership
        reign = raft.term if leadership is not None else None
        ready = leadership is not None and self._commit_index >= leadership.noop_index
        successor = leadership.successor if leadership is not None else None
        heard = raft.term, raft.leader
        configured = raft.configuration_index, raft.configuration_index <= raft.commit_index
        seen = (reign, ready, heard, successor, raft.suspended, configured)
        self._contact = raft.contact
        if seen == self._seen:
            return
        with self._state:
            self._seen = seen
            self._version += 1
            self._leader, self._successor = raft.leader, successor
            if raft.leader is not None and (raft.term, raft.leader) != self._elected:
                self._elected = (raft.term, raft.leader)
                self._leader_changes += 1
            if reign != self._reign:
                self._change_reign(reign, raft)
            now = None if leadership is None else Leadership(raft.term, ready)
            if now != self._last_leadership:
                self._last_leadership = now
                self._leaderships.append(now)
            self._state.notify_all()

    def _change_reign(self, reign: int | None, raft: Raft) -> None:
        """The state's lock is held."""
        if self._reign is not None:
            first = max(self._commit_index, raft.commit_index) + 1
            if first <= self._own_last:
                self._lost.append((first, self._own_last))
            self._leaderships.append(None)
            self._last_leadership = None
            self._proposals.clear()
            self._in_flight = 0
            self._reigns += 1
        self._reign = reign
        self._own_last = 0
        if raft.leadership is not None:
            begin = raft.leadership.noop_index  # what this reign puts there is its own
            lost = [(first, min(last, begin - 1)) for first, last in self._lost if first < begin]
            self._lost = deque(lost, maxlen=_REMEMBERED_REIGNS)
            self._own_last = begin

    def committed(self, index: int) -> None:
        """See `loop.Observer.committed`."""
        done: list[_Proposed] = []
        with self._state:
            self._commit_index = index
            while self._proposals and self._proposals[0].index <= index:
                proposed = self._proposals.popleft()
                self._in_flight -= proposed.cost
                done.append(proposed)
            self._state.notify_all()
        with self._notifying:
            for listener in self._commit_listeners:
                listener(index)
        if self._on_commit is not None:
            now = time.monotonic()
            for proposed in done:
                for _ in range(proposed.count):
                    self._on_commit(now - proposed.time)

    def told(self) -> None:
        """See `loop.Observer.told`."""
        in_touch = self.in_touch
        if not self._leaderships and in_touch == self._told_contact:
            return
        with self._notifying:
            while self._leaderships:
                leadership = self._leaderships.popleft()
                if leadership != self._told_leadership:
                    self._told_leadership = leadership
                    for tell in self._leadership_listeners:
                        tell(leadership)
            if in_touch != self._told_contact:
                self._told_contact = in_touch
                for tell_contact in self._contact_listeners:
                    tell_contact(in_touch)

    def failed(self, error: Exception) -> None:
        """See `loop.Observer.failed`."""
        with self._state:
            self._failure = error
            self._abdicate()
        self.told()

    def _abdicate(self) -> None:
        """The state's lock is held; the loop has ended."""
        self._version += 1
        self._reign = self._leader = None
        self._contact = -math.inf
        if self._last_leadership is not None:
            self._last_leadership = None
            self._leaderships.append(None)
        self._state.notify_all()

    # The end

    def close(self) -> None:
        """See `raft.api.Consensus.close`."""
        with self._state:
            if self._closing:
                return
            self._closing = True
            self._state.notify_all()
            self._state.wait_for(
                lambda: self._failure is not None or self._reign is None or not self._proposals, CLOSE_SECONDS
            )
        self._segments.close()
        self._transport.close()
        self._loop.close()
        with self._state:
            self._closed = True
            self._abdicate()
        self.told()


class _RefusedError(ChangeRefusedError):
    """A change that will be refused tomorrow too."""


def _listen(address: Address) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"raft.listen {address} cannot be used: {error.strerror}") from error
    return listening


def _founders(identity: Identity, told: Sequence[str]) -> Configuration:
    """The first configuration: as the disk remembers it, if it took part in founding a cluster; else as it was told.

    Two nodes that are told different first members later on must not go by them. A cluster of one, which nobody else
    knows of, may change its address.
    """
    remembered = [address for address, _ in identity.founders]
    if len(remembered) <= 1:
        return Configuration.of(told)
    if set(remembered) != set(told):
        logger.warning(
            "this cluster was formed by %s: other first members (%s) are not looked at; the log knows the members",
            ", ".join(sorted(remembered)),
            ", ".join(sorted(told)),
        )
    return Configuration.of(remembered)
