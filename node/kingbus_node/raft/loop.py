"""The thread that owns the Raft core of a running node: it waits for sockets, disk and time, and tells the core.

It never waits for anything else. Names and handshakes are `transport`'s threads, fsync is `syncer`'s; what it does on
the disk itself goes to the page cache, but for term and vote, which must be durable before the next word is said.

A round takes what has arrived, short messages before entries, and the time; then readers are shown what is committed,
the core's messages go out, and a sync is asked for if one is due. Proposals come from other threads, which use the core
under ``lock`` and wake the loop: all that came meanwhile goes out in one round.

Waking a thread costs more than what it then does for a small entry. So two things are done where they happen, and not
here, in the loop's thread: a proposal that is alone is sent by its proposer (``push``), and what rests on a sync is
told to the core, and a follower's answer sent, by the thread that synced. Who sends holds ``_sending``, which is taken
before ``lock`` and is what the queues of all links belong to: so messages leave in the order in which the core made
them. Links come, go and are read from here alone.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Protocol

from kingbus_node.raft.copying import Copier
from kingbus_node.raft.core import Raft
from kingbus_node.raft.errors import ChangeRefusedError, ProtocolError, RaftError
from kingbus_node.raft.frames import MAX_TAIL, Framed, Ping, Pong
from kingbus_node.raft.hello import Hello
from kingbus_node.raft.journal import Journal
from kingbus_node.raft.links import Lane, Link, LinkError
from kingbus_node.raft.messages import Message
from kingbus_node.raft.options import ClusterOptions
from kingbus_node.raft.syncer import Syncer
from kingbus_node.raft.transport import Connected, Transport
from kingbus_node.store.errors import LogFailedError, LogFullError, StoreError
from kingbus_node.store.log import Log

logger = logging.getLogger(__name__)

ROUND_TRIPS: Final = 10
"""Round trips to a majority that fit an election timeout at least: a vote takes one, a lost packet a few."""
LONGEST_SCALING: Final = 20
"""Times the configured election timeout that it grows at most."""
_BEATS: Final = 8
_CHECK_SECONDS: Final = 0.5
_SILENCE: Final = 3.0
_COMMIT_SLICE: Final = 512
_BEATS_OF_LINKS: Final = (Ping, Pong)


class Turnstile:
    """A lock that is given in the order of asking, so that no thread that takes it again and again keeps others out."""

    def __init__(self) -> None:
        self._next = threading.Lock()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._next:
            self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()


class Observer(Protocol):
    """Who is told what became of the core. All in the loop's thread."""

    def changed(self, raft: Raft) -> None:
        """Something may have changed. ``Loop.lock`` is held: quick."""

    def committed(self, index: int) -> None:
        """Readers can see entries up to `index`."""

    def told(self) -> None:
        """After ``changed``, without the lock."""

    def failed(self, error: Exception) -> None:
        """The loop has ended."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """With one peer, over all its links: how many there were, and bytes."""

    connections: int = 0
    sent: int = 0
    received: int = 0

    def after(self, link: Link) -> Traffic:
        """With what went over `link`."""
        sent = sum(lane.sent_bytes for lane in link.lanes)
        received = sum(lane.received_bytes for lane in link.lanes)
        return Traffic(self.connections + 1, self.sent + sent, self.received + received)


class Loop:
    """See the module. ``start`` once, ``close`` once.

    :param name: this node's name for people, for the configuration
    :param on_sync: for metrics: seconds that a sync took
    """

    def __init__(
        self,
        log: Log,
        journal: Journal,
        raft: Raft,
        name: str,
        options: ClusterOptions,
        observer: Observer,
        on_sync: Callable[[float], None] | None,
    ) -> None:
        self.lock = Turnstile()
        self.raft = raft
        self.links: dict[str, Link] = {}
        self.greetings: dict[str, Hello] = {}
        """What every node that was ever connected said of itself, by address."""
        self._asked_to_suspend: str | None = None
        self._log = log
        self._journal = journal
        self._name = name
        self._options = options
        self._observer = observer
        self._on_sync = on_sync
        self._syncer: Syncer
        self.copier: Copier
        self._transport: Transport
        self._poll = select.epoll()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._event, select.EPOLLIN)
        self._waking = threading.Lock()
        self._awake = False
        self._arrivals: deque[Connected] = deque()
        self._traffic: dict[str, Traffic] = {}
        self._lanes: dict[int, tuple[Link, Lane]] = {}  # by file descriptor
        self._unread: set[tuple[Link, Lane]] = set()
        self._sending = threading.Lock()
        self._filled: set[Lane] = set()  # these have something to send, and take it
        self._broken: deque[tuple[Link, Exception]] = deque()
        self._closing = False
        self._ended = False
        self._trouble: Exception | None = None
        self._committed = log.commit_index
        self._sync_begun: float | None = None
        self._looked = time.monotonic()
        self._next_beat = self._next_check = self._looked
        self._beat_interval = min(1.0, options.election_timeout / _BEATS)
        self._peers_of: object = None
        self._reign: int | None = None  # the term that this node led in, in the round before
        self._thread = threading.Thread(target=self._run, name="raft", daemon=True)

    def start(self, transport: Transport) -> None:
        """Begins."""
        self._transport = transport
        self.copier = Copier(
            self._log, self._journal, transport.open_stream, self.wake, behind=self._options.copy_behind
        )
        self._syncer = Syncer(self._log, self._synced, self.fail, self._on_sync)
        self._thread.start()

    def wake(self) -> None:
        """There is something to do. Any thread."""
        with self._waking:
            if not self._awake:
                self._awake = True
                os.eventfd_write(self._event, 1)

    def push(self) -> None:
        """Sends what the core has to say, in this thread if no other one is sending. Any thread; without ``lock``."""
        if not self._sending.acquire(blocking=False):
            self.wake()
            return
        try:
            self._send()
        except Exception as error:
            logger.exception("what is to be sent to other nodes cannot be sent: %s", error)
            self.fail(error)
        finally:
            self._sending.release()
        if self._broken:
            self.wake()

    def offer(self, connected: Connected) -> None:
        """A new link. Any thread."""
        self._arrivals.append(connected)
        self.wake()
        if self._ended:
            self._turn_away()

    def suspend(self, reason: str | None) -> None:
        """See ``Cluster.suspend``. Any thread."""
        self._asked_to_suspend = reason
        self._next_check = self._next_beat = 0.0
        self.wake()

    def fail(self, error: Exception) -> None:
        """Something that the core needs has failed in another thread."""
        self._trouble = error
        self.wake()

    def close(self) -> None:
        """Ends the thread, and everything that it owns."""
        self._closing = True
        self.wake()
        self._thread.join()
        self.copier.close()
        self._syncer.close()
        self._turn_away()
        self._poll.close()
        with self._waking:
            self._awake = True  # for ever
            os.close(self._event)

    def traffic(self, address: str) -> Traffic:
        """See `Traffic`. ``lock`` is held."""
        traffic = self._traffic.get(address, Traffic())
        link = self.links.get(address)
        return traffic if link is None else traffic.after(link)

    # The thread

    def _run(self) -> None:
        try:
            while not self._closing:
                self._round()
                if self._trouble is not None:
                    raise self._trouble
        except Exception as error:
            logger.exception("consensus stops: %s", error)
            self._observer.failed(error)
        finally:
            self._ended = True
            for link in list(self.links.values()):
                self._forget(link)
            self._turn_away()

    def _round(self) -> None:
        ready = self._poll.poll(self._patience())
        now = time.monotonic()
        self._excuse(now)
        while self._arrivals:
            self._adopt(self._arrivals.popleft(), now)
        self._take(ready, now)
        if self.copier.ended:
            self._end_copy()
        if now >= self.raft.deadline:
            self._tick()
        if now >= self._next_beat:
            self._beat(now)
        self._tell_of_loss()
        leads = self.raft.is_leader
        if leads:
            self._commit()  # whoever proposed waits for it, nobody for the news
        with self._sending:
            self._send()
        if not leads:
            self._commit()  # the leader waits for the sync that has begun
        while self._broken:
            link, error = self._broken.popleft()
            if self.links.get(link.address) is link:
                self._drop(link, error)
        with self.lock:
            self._follow_membership()
            self._observer.changed(self.raft)
        self._observer.told()

    def _tell_of_loss(self) -> None:
        """That this node leads no more is told before anything else is committed: at an index that it had proposed,
        that may be another leader's entry.
        """
        reign = self.raft.term if self.raft.is_leader else None
        if self._reign is not None and reign != self._reign:
            with self.lock:
                self._observer.changed(self.raft)
            self._observer.told()
        self._reign = reign

    def _tick(self) -> None:
        with self.lock:
            try:
                self.raft.tick(time.monotonic())
            except LogFullError as error:
                logger.debug("no election: %s", error)

    def _patience(self) -> float:
        if self._unread or self._committed < self.raft.readable_index:
            return 0.0
        return max(0.0, min(self.raft.deadline, self._next_beat) - time.monotonic())

    def _excuse(self, now: float) -> None:
        """Nobody was silent while we did not listen, because this process was stopped or its machine was."""
        pause = now - self._looked
        if pause > self._beat_interval * 4:
            for link in self.links.values():
                link.heard += pause
        self._looked = now

    # What arrives

    def _adopt(self, connected: Connected, now: float) -> None:
        address = connected.peer.sender
        if address in self.links:
            self._drop(self.links[address], LinkError("it has connected again"))
        link = Link(connected, self._options.window_bytes + MAX_TAIL, now)
        for lane in link.lanes:
            self._lanes[lane.number] = link, lane
            self._poll.register(lane.number, select.EPOLLIN)
        with self.lock:
            self.links[address] = link
            self.greetings[address] = connected.peer
            self.raft.connected(address, now)
        logger.info("connected to %s (%s)", connected.peer.name, address)

    def _take(self, ready: Sequence[tuple[int, int]], now: float) -> None:
        urgent: list[tuple[Link, Lane]] = []
        patient: list[tuple[Link, Lane]] = []
        for number, events in ready:
            if number == self._event:
                with self._waking:
                    os.eventfd_read(self._event)
                    self._awake = False  # before we look at what there is to do
                continue
            known = self._lanes.get(number)
            if known is None:
                continue  # dropped in this round, for a newer link with the same peer
            link, lane = known
            if events & select.EPOLLOUT:
                with self._sending:
                    lane.blocked = False
                    self._filled.add(lane)
            if events & ~select.EPOLLOUT:
                self._unread.discard((link, lane))
                (urgent if lane is link.control else patient).append((link, lane))
        for link, lane in self._unread:
            (urgent if lane is link.control else patient).append((link, lane))
        self._unread.clear()
        for link, lane in urgent + patient:
            if self.links.get(link.address) is link:
                self._receive(link, lane, now)

    def _receive(self, link: Link, lane: Lane, now: float) -> None:
        link.heard = now
        messages = lane.receive()
        while True:
            try:
                message = next(messages, None)
            except (OSError, RaftError) as error:
                self._drop(link, error)
                return
            if message is None:
                break
            if isinstance(message, _BEATS_OF_LINKS):
                self._beaten(link, message)
                continue
            try:
                self._step(link, message)
            except (ProtocolError, LogFullError) as error:  # without room for a vote there is none: nothing was said
                self._drop(link, error)
                return
        if lane.unread:
            self._unread.add((link, lane))

    def _step(self, link: Link, message: Message) -> None:
        with self.lock:
            if not self.copier.keeps(link.address, message):
                self.raft.step(link.address, message, time.monotonic())

    def _end_copy(self) -> None:
        """A copy of the log is here, or is not to be had: then what was kept back goes to the core."""
        staged, kept = self.copier.result()
        with self.lock:
            if staged is not None and self.raft.leadership is None:
                try:
                    members = self._journal.adopt(staged)
                except LogFailedError:
                    raise
                except StoreError as error:
                    logger.warning("the copy of the log is of no use: %s", error)
                else:
                    self.raft.adopted(*members, time.monotonic())
                    return
        if kept is not None and (link := self.links.get(kept[0])) is not None:
            try:
                with self.lock:
                    self.raft.step(*kept, time.monotonic())
            except (ProtocolError, LogFullError) as error:
                self._drop(link, error)

    def _beaten(self, link: Link, beat: Ping | Pong) -> None:
        if isinstance(beat, Ping):
            with self._sending:
                self._queue(link.address, Pong(beat.clock))
        else:
            link.measured(max(0.0, time.monotonic() - beat.clock / 1e6))

    def _drop(self, link: Link, why: Exception) -> None:
        severe = isinstance(why, ProtocolError)
        told = str(why) or type(why).__name__
        logger.log(
            logging.WARNING if severe else logging.INFO,
            "closed the connection to %s (%s): %s",
            link.peer.name,
            link.address,
            told,
        )
        self._forget(link)
        with self.lock:
            self.raft.disconnected(link.address, time.monotonic())
        self.wake()

    def _forget(self, link: Link) -> None:
        with self._sending:  # and nobody sends on it any more
            for lane in link.lanes:
                self._poll.unregister(lane.number)
                self._unread.discard((link, lane))
                self._filled.discard(lane)
                del self._lanes[lane.number]
            with self.lock:
                self._traffic[link.address] = self.traffic(link.address)
                del self.links[link.address]
            link.close()
        self._transport.is_down(link.address, link.number)

    def _turn_away(self) -> None:
        while self._arrivals:
            connected = self._arrivals.popleft()
            connected.close()
            self._transport.is_down(connected.peer.sender, connected.number)

    # What goes out

    def _send(self) -> None:
        """``_sending`` is held, and ``lock`` is not. A sync that is due begins when the messages are on their way."""
        with self.lock:
            now = time.monotonic()
            begins = self._sync_begins(now)
            messages = self.raft.messages(now)
        for address, message in messages:
            self._queue(address, message)
        while self._filled:
            self._flush(self._filled.pop())
        if begins:
            self._syncer.request()

    def _queue(self, address: str, message: Framed) -> None:
        """``_sending`` is held."""
        link = self.links.get(address)
        if link is None:
            return
        try:
            lane = link.send(message)
        except LinkError as error:
            self._broken.append((link, error))
        else:
            if not lane.blocked:
                self._filled.add(lane)

    def _flush(self, lane: Lane) -> None:
        """``_sending`` is held."""
        try:
            lane.flush()
        except OSError as error:
            self._broken.append((self._lanes[lane.number][0], error))
            return
        if lane.blocked != lane.awaited:
            lane.awaited = lane.blocked
            self._poll.modify(lane.number, select.EPOLLIN | select.EPOLLOUT if lane.blocked else select.EPOLLIN)

    # The disk

    def _sync_begins(self, now: float) -> bool:
        """Whether the syncer is to be asked for a sync. ``lock`` is held."""
        if not self.raft.unsynced:
            return False
        self.raft.sync_started()
        self._sync_begun = now
        return True

    def _synced(self) -> bool:
        """In the syncer's thread: a sync is done. Whether there is to be another one at once.

        A leader's next one is for the loop to ask for: it covers what is proposed until then, and fewer syncs cost
        less.
        """
        with self.lock:
            raft, now = self.raft, time.monotonic()
            committed = raft.commit_index
            self._sync_begun = None
            raft.sync_finished(now)
            leads = raft.is_leader
            again = not leads and self._sync_begins(now)
            news = raft.commit_index != committed or raft.readable_index > self._committed or raft.unsynced
        if not leads:
            self.push()  # the answer that had to wait for the sync
        if news:
            self.wake()
        return again

    def _commit(self) -> None:
        """Lets readers see what is committed, a part at a time: heartbeats do not wait for a long log.

        Without the lock, for it touches nothing that proposals do.
        """
        target = self.raft.readable_index
        if target <= self._committed <= self._log.commit_index:
            return
        begin = max(self._committed, self._log.commit_index)  # a snapshot is committed by itself
        self._committed = min(target, begin + _COMMIT_SLICE)
        self._journal.commit(self._committed)
        self._observer.committed(self._committed)

    # Time

    def _beat(self, now: float) -> None:
        self._next_beat = now + self._beat_interval
        silence = max(_SILENCE, 3 * self.raft.settings.election_timeout)
        for link in list(self.links.values()):
            if now - link.heard > silence:
                self._drop(link, LinkError(f"it was silent for {now - link.heard:.1f} s"))
            else:
                with self._sending:
                    self._queue(link.address, Ping(int(now * 1e6)))
        check = now >= self._next_check
        if check:
            self._next_check = now + _CHECK_SECONDS
            self._transport.tidy()
        with self.lock:
            self._scale()
            if check:
                self._check_disk(now)
                self._tell_names(now)

    def _scale(self) -> None:
        """Election timeouts grow with the round trip that they have to cover: that to a majority, and to the leader."""
        raft = self.raft
        trips = {a: link.round_trip for a, link in self.links.items() if link.round_trip is not None}
        trips[raft.address] = 0.0
        voters = [trips[v] for v in raft.configuration.voters if v in trips]
        raft.settings.election_timeout = election_timeout(
            self._options.election_timeout, voters, raft.configuration.quorum, trips.get(raft.leader or "", 0.0)
        )

    def _check_disk(self, now: float) -> None:
        """A node whose disk is full or hangs does not lead, until that is over."""
        raft = self.raft
        reason = self._asked_to_suspend
        if reason is None:
            reason = self._journal.unwritable_reason
        begun = self._sync_begun
        if reason is None and begun is not None and len(raft.configuration.voters) > 1:
            limit = max(self._options.slow_sync, raft.settings.election_timeout)
            if now - begun > limit:
                reason = f"its disk has not finished a sync for {limit:g} s"
        if (reason is None) != (raft.suspended is None):
            logger.warning("this node %s", f"does not lead: {reason}" if reason else "may lead again")
        if reason != raft.suspended:
            raft.suspend(reason, now)

    def _tell_names(self, now: float) -> None:
        """The leader writes down what members are called and which priority they have, as they say themselves.

        A witness stays one as long as its own configuration does not give it a priority. The only member of a cluster
        is not written down, so that it may still change its address.
        """
        raft = self.raft
        leadership = raft.leadership
        members = raft.configuration.members
        if leadership is None or not leadership.ready or raft.configuration_index > raft.commit_index:
            return
        if len(members) == 1 and not raft.configuration_index:
            return
        wanted = raft.configuration
        for member in members:
            name, priority = member.name, member.priority
            if member.address == raft.address:
                name, told = self._name, self._options.priority
            elif member.address in self.greetings:
                name, told = self.greetings[member.address].name, self.greetings[member.address].priority
            else:
                continue
            if told or priority > 0:
                priority = told
            wanted = wanted.with_member(replace(member, name=name, priority=priority))
        if wanted != raft.configuration:
            try:
                raft.change(wanted, now)
            except ChangeRefusedError as error:
                logger.debug("what members are called is not written down now: %s", error)

    def _follow_membership(self) -> None:
        raft = self.raft
        known = (raft.configuration, raft.formation.formed)
        if self._peers_of != known:
            self._peers_of = known
            peers = {member.address for member in raft.configuration.members}
            self._transport.connect_to(peers if raft.formation.formed else peers | set(raft.formation.founding))


def election_timeout(base: float, round_trips: Iterable[float], quorum: int, to_leader: float) -> float:
    """Seconds: at least `base`, and `ROUND_TRIPS` of the round trip to a majority (0 for the node itself) or to the
    leader, whichever is longer. Round trips that are not known do not count.
    """
    nearest = sorted(round_trips)[:quorum]
    needed = max([to_leader, *nearest[-1:]])
    return min(max(base, ROUND_TRIPS * needed), base * LONGEST_SCALING)
