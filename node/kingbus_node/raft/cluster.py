"""The consensus of a cluster: `raft.api.ClusterConsensus` on real sockets, threads and disks.

`core` decides, `loop` drives it; here is what other threads hold on to. What was proposed and who waits for it is
`reigns`, who is told is `listeners`, what is known of members is `roster`. A cluster of one is the same, and commits
alone.
"""

from __future__ import annotations

import logging
import math
import random
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from kingbus_node.config import Address
from kingbus_node.raft.api import (
    CommitListener,
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
from kingbus_node.raft.listeners import Listeners
from kingbus_node.raft.loop import Loop
from kingbus_node.raft.options import ClusterOptions
from kingbus_node.raft.reigns import Proposed, Reigns
from kingbus_node.raft.roster import Roster
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
_SENT_AT_ONCE = 64 << 10
"""Bytes of a proposal up to which its proposer sends it to the followers."""


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

        self._reigns = Reigns(log.commit_index, options.max_in_flight, self._not_leader)  # after the loop's lock
        self._listeners = Listeners()
        self._seen: tuple[object, ...] = ()
        self._successor: str | None = None
        self._leader: str | None = None
        self._elected = (0, "")  # the term and the address of the last leader that was heard of
        self._leader_changes = 0
        self._contact = -math.inf

        self._loop = Loop(log, journal, raft, name, options, self, on_sync)
        self._roster = Roster(raft, self._loop, name, options.info)
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
        reign = self._reigns.reserve(cost)
        try:
            index, alone = self._propose(drafts, cost, reign, term)
        except BaseException:
            self._reigns.release(cost, reign)
            raise
        if alone and cost <= _SENT_AT_ONCE:
            self._loop.push()
        else:
            self._loop.wake()
        return index

    def _propose(self, drafts: Sequence[Draft], cost: int, reign: int, term: int | None) -> tuple[int, bool]:
        """The index, and whether everything before it is committed: then nothing will come that it could wait for."""
        while True:
            with self._loop.lock:
                raft = self._raft
                if self._reigns.term != (raft.term if raft.is_leader else None):
                    self.changed(raft)
                if not raft.is_leader or (term is not None and raft.term != term):
                    raise self._not_leader()
                now = time.monotonic()
                try:
                    index = raft.propose(drafts, now)
                except ChangeRefusedError:  # it hands over, or its disk is full: soon it leads no more, or goes on
                    version = self._reigns.version
                except InvalidEntryError:
                    raise
                except StoreError as error:
                    raise self._failed(error) from error
                else:
                    self._reigns.proposed(Proposed(index, cost, len(drafts), now), reign)
                    return index, index - len(drafts) <= raft.commit_index
            self._reigns.wait_for_change(version, 1.0)
            with self._reigns.changed:
                self._reigns.check()

    def _failed(self, error: StoreError) -> ConsensusFailedError:
        """The log takes nothing more: this node shall not lead on."""
        self._loop.fail(error)
        return ConsensusFailedError(f"nothing can be committed any more: {error}")

    def _not_leader(self) -> NotLeaderError:
        leader = self.leader
        return NotLeaderError(None if leader == self._name else leader)

    def wait_committed(self, index: int, deadline: float) -> bool:
        """See `raft.api.Consensus.wait_committed`."""
        return self._reigns.wait_committed(index, deadline)

    def wait_readable(self, index: int, deadline: float) -> bool:
        """See `raft.api.ClusterConsensus.wait_readable`."""
        return self._reigns.wait_readable(index, deadline)

    @property
    def commit_index(self) -> int:
        """The last committed entry that readers can see."""
        return self._reigns.commit_index

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
        return self._reigns.failure

    @property
    def is_leader(self) -> bool:
        """Whether `propose` works here."""
        return self._reigns.term is not None

    @property
    def term(self) -> int:
        """Raft's current term."""
        return self._raft.term

    @property
    def leader(self) -> str | None:
        """The name of the leader."""
        address = self._leader
        return None if address is None else self._roster.name_of(address)

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
        return self._roster.members()

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
            address = self._roster.find(name)
            if address is None:
                raise _RefusedError(f"there is no member {name}: {self._roster.told()} are")
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
                with self._reigns.changed:
                    self._reigns.check()
                    version = self._reigns.version
                wanted = make(raft.configuration)
                try:
                    index = raft.change(wanted, time.monotonic())
                except ChangeRefusedError as error:
                    refusal = error
                except StoreError as error:
                    raise self._failed(error) from error
                else:
                    self._reigns.changing(index)
            if refusal is not None:
                self._await_version(version, deadline, refusal)
        self._loop.wake()
        if not self.wait_committed(index, deadline):
            raise DeadlineError("the change of membership was not committed in time; it may still be")

    def _await_version(self, version: int, deadline: float, refusal: ChangeRefusedError) -> None:
        """Waits until something is different from what it was at `version`."""
        left = deadline - time.monotonic()
        if left <= 0 or not self._reigns.wait_for_change(version, left):
            raise DeadlineError(f"the membership could not be changed in time: {refusal}") from refusal

    def transfer(self, name: str | None, deadline: float) -> str:
        """See `raft.api.ClusterConsensus.transfer`."""
        with self._loop.lock:
            raft = self._raft
            self.changed(raft)
            with self._reigns.changed:
                self._reigns.check()
            target = None if name is None else self._roster.find(name)
            if name is not None and target is None:
                raise ChangeRefusedError(f"there is no member {name}: {self._roster.told()} are")
            chosen = raft.transfer(target, time.monotonic())
            reign = self._reigns.term
            self.changed(raft)
        self._loop.wake()

        reigns, chosen_name = self._reigns, self._roster.name_of(chosen)

        def settled() -> bool:
            if reigns.term == reign:
                return self._successor is None
            return self._leader is not None or reigns.failure is not None or reigns.closed

        with reigns.changed:
            if not reigns.changed.wait_for(settled, max(0.0, deadline - time.monotonic())):
                raise DeadlineError(f"{chosen_name} did not take over in time; it may still")
            if reigns.term == reign or self._leader is None:
                raise ChangeRefusedError(f"{chosen_name} did not take over")
            return self._roster.name_of(self._leader)

    def address_of(self, name: str) -> str | None:
        """See `raft.api.ClusterConsensus.address_of`."""
        return self._roster.address_of(name)

    def info_of(self, name: str) -> Mapping[str, str]:
        """See `raft.api.ClusterConsensus.info_of`."""
        return self._roster.info_of(name)

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
        self._listeners.add_commit(listener)

    def add_leadership_listener(self, listener: LeadershipListener) -> None:
        """See `raft.api.ClusterConsensus.add_leadership_listener`."""
        self._listeners.add_leadership(listener)

    def add_contact_listener(self, listener: ContactListener) -> None:
        """See `raft.api.ClusterConsensus.add_contact_listener`."""
        self._listeners.add_contact(listener)

    # The loop's observer

    def changed(self, raft: Raft) -> None:
        """See `loop.Observer.changed`. Proposals call it too: it must know of a new reign before they count in it."""
        leadership = raft.leadership
        reign = raft.term if leadership is not None else None
        ready = leadership is not None and self._reigns.commit_index >= leadership.noop_index
        successor = leadership.successor if leadership is not None else None
        heard = raft.term, raft.leader
        configured = raft.configuration_index, raft.configuration_index <= raft.commit_index
        seen = (reign, ready, heard, successor, raft.suspended, configured)
        self._contact = raft.contact
        if seen == self._seen:
            return
        reigns = self._reigns
        with reigns.changed:
            self._seen = seen
            reigns.version += 1
            self._leader, self._successor = raft.leader, successor
            if raft.leader is not None and (raft.term, raft.leader) != self._elected:
                self._elected = (raft.term, raft.leader)
                self._leader_changes += 1
            if reign != reigns.term:
                if reigns.term is not None:
                    reigns.lose(raft.commit_index)
                    self._listeners.leads(None)
                if leadership is not None:
                    reigns.begin(raft.term, leadership.noop_index)
            self._listeners.leads(None if leadership is None else Leadership(raft.term, ready))
            reigns.changed.notify_all()

    def committed(self, index: int) -> None:
        """See `loop.Observer.committed`."""
        done = self._reigns.committed(index)
        self._listeners.committed(index)
        if self._on_commit is not None:
            now = time.monotonic()
            for proposal in done:
                for _ in range(proposal.count):
                    self._on_commit(now - proposal.time)

    def told(self) -> None:
        """See `loop.Observer.told`."""
        self._listeners.tell(self.in_touch)

    def failed(self, error: Exception) -> None:
        """See `loop.Observer.failed`."""
        with self._reigns.changed:
            self._reigns.failure = error
            self._abdicate()
        self.told()

    def _abdicate(self) -> None:
        """``changed`` of the reigns is held; the loop has ended."""
        self._reigns.version += 1
        self._reigns.term = self._leader = None
        self._contact = -math.inf
        self._listeners.leads(None)
        self._reigns.changed.notify_all()

    # The end

    def close(self) -> None:
        """See `raft.api.Consensus.close`."""
        reigns = self._reigns
        with reigns.changed:
            if reigns.closing:
                return
            reigns.closing = True
            reigns.changed.notify_all()
            reigns.changed.wait_for(lambda: reigns.settled, CLOSE_SECONDS)
        self._segments.close()
        self._transport.close()
        self._loop.close()
        with reigns.changed:
            reigns.closed = True
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
