"""The thread that reads from a source, for ever.

One round: wait until all that was proposed is committed, ask the log where it ends, connect, check the source, ask for
a dump, and feed what comes through framing and batching to the log, until something ends it. Then wait a little, longer
each time, and begin again, with the next endpoint if there are several. Nothing that a source or a network does ends
the thread; `stop`, the loss of the leadership and a failed log do.

Semi-sync: an event that the source wants acknowledged is acknowledged when its entry is committed, never before
(whoever commits calls `committed`). One packet acknowledges everything up to a position.

Batches form by themselves: entries of the usual size go out as soon as they are full; less than that goes out when
there is nothing more to receive and the log has nothing to do. While the log is busy, what comes meanwhile is the next
batch.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Final, Protocol

from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.config import Address, SourceSettings
from kingbus_node.raft.api import ConsensusError, NotLeaderError
from kingbus_node.source.batch import TARGET, Batcher, Counters
from kingbus_node.source.checks import Replica, SourceFacts, gtid_position, introduce, set_connect_state
from kingbus_node.source.compression import UNCOMPRESSED
from kingbus_node.source.connection import SourceConnection
from kingbus_node.source.errors import (
    Disconnected,
    Diverged,
    PositionGone,
    Refused,
    SourceEnd,
    SourceError,
    Stopped,
    StreamError,
)
from kingbus_node.source.framing import Buffers, Framer
from kingbus_node.source.link import Link, Wakeup
from kingbus_node.source.outbox import Outbox
from kingbus_node.source.refusals import meaning_of
from kingbus_node.source.requests import semi_sync_ack
from kingbus_node.source.resume import FACT_SOURCE, Plan, ReadableLog, make_plan, purged_behind, source_fact
from kingbus_node.store.entry import Entry, Json, Kind, Meta
from kingbus_node.store.state import FACT_FLAVOR, FACT_PURGED, LogState
from kingbus_node.util.backoff import Backoff

logger = logging.getLogger(__name__)

BULK: Final = 256 << 10
"""Bytes at once that only a source sends that has more."""
LINGER: Final = 0.001
"""Seconds to wait for more of those."""
PATIENCE: Final = 0.05
"""Seconds to collect them, at most: a source that is not faster than a portion in that time is no bulk."""
HEARTBEAT: Final = 2.0
"""Seconds of silence after which the source is asked to send a heartbeat."""
MISSED_HEARTBEATS: Final = 4
"""A source that is silent for so many periods is gone, or the network is."""
FIRST_WORD: Final = 30.0
"""Seconds that a source may take to find the file to begin with."""
SEARCH: Final = 120.0
"""Seconds of silence that are fine while MariaDB reads past what it skips: it sends no heartbeats then."""


class SourceState(StrEnum):
    """How it stands with the source. Refused is connecting, but somebody will have to do something first."""

    CONNECTED = "connected"
    CONNECTING = "connecting"
    STOPPED = "stopped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A snapshot. `error`: what is wrong with each endpoint, None while connected. `missing`: GTIDs that a refusal is
    about. The state is refused if any endpoint refuses.

    `file`, `position`: in the source's names, how far was received. `lag_seconds`: age of the newest event while there
    is more to receive, 0 when all is here, seconds since the source was last heard of while it is not connected, None
    if it never was. The counters are totals since the reader was made.
    """

    state: SourceState
    error: str | None
    missing: str | None
    endpoint: Address
    version: str | None
    identity: str | None
    tls: str | None
    compression: str | None
    semi_sync: bool
    warnings: tuple[str, ...]
    file: str | None
    position: int | None
    lag_seconds: float | None
    events: int
    bytes: int
    transactions: int
    reconnects: int
    acks: int


@dataclass(frozen=True, slots=True)
class _Standing:
    """Of `SourceStatus` what belongs together: one object, for who reads it must not see half of a change."""

    state: SourceState
    error: str | None = None
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an endpoint is not read from, since the last connection to any."""

    state: SourceState
    text: str
    missing: str | None


class Proposals(Protocol):
    """What a reader needs of a consensus (`raft.api.Consensus`, under one leadership)."""

    def propose(self, entries: Sequence[Entry]) -> int:
        """See `raft.api.Consensus.propose`."""

    @property
    def commit_index(self) -> int:
        """The last committed entry."""

    @property
    def last_index(self) -> int:
        """The last proposed entry."""

    def wait_committed(self, index: int, deadline: float) -> bool:
        """See `raft.api.Consensus.wait_committed`."""


def _nothing() -> None:
    return


class SourceReader:
    """Reads from the source that `settings` name into the log, by proposing to `consensus`. See the module."""

    def __init__(
        self,
        settings: SourceSettings,
        log: ReadableLog,
        consensus: Proposals,
        replica: Replica,
        *,
        heartbeat: float = HEARTBEAT,
        entry_bytes: int = TARGET,
        on_end: Callable[[], None] = _nothing,
    ) -> None:
        """`log`: the one that `consensus` writes. `entry_bytes`: usual size of entries. Nothing happens before `start`.

        `on_end`: called in the thread when it ends, by `stop` or because nothing can be proposed any more.

        The owner must pass every advance of the commit index to `committed` (``consensus.add_commit_listener``).
        """
        self._settings = settings
        self._log = log
        self._consensus = consensus
        self._replica = replica
        self._heartbeat = heartbeat
        self._entry_bytes = entry_bytes
        self._on_end = on_end
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._stop_signal = Wakeup()
        self._notice = Wakeup()
        self._socket: socket.socket | None = None
        # What `status` tells; written by the thread.
        self._counters = Counters()
        self._standing = _Standing(SourceState.STOPPED)
        self._endpoint = settings.endpoints[0]
        self._facts: SourceFacts | None = None
        self._batcher: Batcher | None = None
        self._connections = 0
        self._acks = 0
        self._heard: float | None = None
        self._all_here = False
        # Inside the thread.
        self._failures: dict[Address, _Failure] = {}
        self._gone: tuple[str, int] | None = None
        self._commit_index = 0
        self._buffers = Buffers()

    # From other threads

    def start(self) -> None:
        """Begin to read. Nothing happens if it runs already."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._stopping.clear()
            self._stop_signal.clear()
            self._standing = replace(self._standing, state=SourceState.CONNECTING)
            self._thread = threading.Thread(target=self._run, name="source-reader", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 30.0) -> bool:
        """End the dump and the thread. False if it takes longer than `timeout`: the log does not take what is proposed.

        Whole transactions that were received are proposed before.
        """
        with self._lock:
            thread = self._thread
            self._stopping.set()
            self._stop_signal.set()
            self._notice.set()
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
        if thread is None:
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def committed(self, index: int) -> None:
        """Entries up to `index` are committed: what they hold may be acknowledged. Quick, for any thread."""
        self._commit_index = index
        self._notice.set()

    @property
    def connections(self) -> int:
        """How many dumps have begun."""
        return self._connections

    def status(self) -> SourceStatus:
        """How it goes. For any thread."""
        standing, facts, batcher, counters = self._standing, self._facts, self._batcher, self._counters
        file, position = batcher.place if batcher is not None else (None, None)
        connected = standing.state is SourceState.CONNECTED
        return SourceStatus(
            state=standing.state,
            error=standing.error,
            missing=standing.missing,
            endpoint=self._endpoint,
            version=None if facts is None else facts.version,
            identity=None if facts is None else facts.identity,
            tls=facts.tls if facts is not None and connected else None,
            compression=facts.compression if facts is not None and connected else None,
            semi_sync=facts is not None and connected and facts.semi_sync,
            warnings=() if facts is None else facts.warnings,
            file=file or None,
            position=position if file else None,
            lag_seconds=self._lag(connected),
            events=counters.events,
            bytes=counters.bytes,
            transactions=counters.transactions,
            reconnects=max(0, self._connections - 1),
            acks=self._acks,
        )

    def _lag(self, connected: bool) -> float | None:
        facts, heard = self._facts, self._heard
        if facts is None or heard is None:
            return None
        if not connected:
            return time.monotonic() - heard
        if self._all_here or not self._counters.timestamp:
            return 0.0
        return max(0.0, time.time() + facts.clock_offset - self._counters.timestamp)

    # The thread

    def _run(self) -> None:
        backoff = Backoff(self._settings.retry.initial, self._settings.retry.max)
        turn = 0
        error: str | None = None
        try:
            while not self._stopping.is_set():
                self._endpoint = self._settings.endpoints[turn]
                began, connections, transactions = time.monotonic(), self._connections, self._counters.transactions
                again = self._round()
                if again or self._stopping.is_set():
                    continue
                turn = (turn + 1) % len(self._settings.endpoints)
                if self._connections > connections:
                    lasted = time.monotonic() - began > self._settings.retry.max
                    if lasted or self._counters.transactions > transactions:
                        turn = 0
                        backoff.reset()
                if turn == 0:
                    self._stop_signal.wait(backoff.next())
        except NotLeaderError:
            logger.info("the source is not read by this node any more: it does not lead")
        except ConsensusError as problem:
            logger.info("the source is not read any more: %s", problem)
            error = str(problem)
        finally:
            self._standing = replace(self._standing, state=SourceState.STOPPED, error=error)
            self._on_end()

    def _round(self) -> bool:
        """One connection from its beginning to its end. True: try again at once. ConsensusError ends the thread."""
        try:
            self._session(self._endpoint)
        except Stopped:
            pass
        except PositionGone as error:
            logger.info("%s; going on by GTID", error)
            state = self._log.state
            self._gone = (self._facts.identity, state.file_id) if self._facts is not None else None
            return True
        except Refused as error:
            self._fail(SourceState.REFUSED, error, error.missing)
        except SourceError as error:
            self._fail(SourceState.CONNECTING, error, None)
        except ConsensusError:
            raise
        except Exception as error:
            logger.exception("reading from the source failed in a way that should not be possible")
            self._fail(SourceState.REFUSED, error, None)
        finally:
            with self._lock:
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None
        return False

    def _fail(self, state: SourceState, error: Exception, missing: str | None) -> None:
        if self._stopping.is_set():
            return
        failure = _Failure(state, str(error) or type(error).__name__, missing)
        if failure != self._failures.get(self._endpoint):
            level = logging.WARNING if state is SourceState.CONNECTING else logging.ERROR
            logger.log(level, "source %s: %s", self._endpoint, failure.text)
        self._failures[self._endpoint] = failure
        known = [(one, self._failures[one]) for one in self._settings.endpoints if one in self._failures]
        refused = [one for _, one in known if one.state is SourceState.REFUSED]
        self._standing = _Standing(
            SourceState.REFUSED if refused else state,
            "; ".join(f"{one}: {what.text}" if len(known) > 1 else what.text for one, what in known),
            next((one.missing for one in refused if one.missing), None),
        )

    def _session(self, endpoint: Address) -> None:
        """Ends with an exception, always."""
        self._settle()
        connection = SourceConnection.open(endpoint, self._settings, self._stop_signal, self._opened)
        link: Link | None = None
        try:
            known = self._log.state.flavor
            facts = introduce(connection, self._settings, self._replica, self._heartbeat, known)
            plan = self._plan(connection, facts)
            if plan.connect_state is not None:
                set_connect_state(connection, plan.connect_state)
            link = connection.start_dump(plan.command, self._notice)
            self._dump(link, facts, plan)
        finally:
            if link is not None:
                link.close()
            connection.close()

    def _opened(self, sock: socket.socket) -> None:
        with self._lock:
            self._socket = sock.dup()
            if self._stopping.is_set():
                raise Stopped("stopped while connecting")

    def _settle(self) -> None:
        """Everything proposed is committed and no transaction is open: only then the log can say where it ends."""
        self._wait_committed(self._consensus.last_index)
        if self._log.state.open_index is not None:
            self._wait_committed(self._consensus.propose([Entry(Kind.CANCEL)]))

    def _wait_committed(self, index: int) -> None:
        while not self._consensus.wait_committed(index, time.monotonic() + 0.5):
            if self._stopping.is_set():
                raise Stopped("stopped while waiting for the log")

    def _plan(self, connection: SourceConnection, facts: SourceFacts) -> Plan:
        for warning in facts.warnings:
            logger.warning("%s", warning)
        self._facts = facts
        return make_plan(
            self._log,
            facts,
            self._replica.server_id,
            self._settings.start,
            file_is_gone=self._gone == (facts.identity, self._log.state.file_id),
            gtid_position=partial(gtid_position, connection),
        )

    # The dump

    def _dump(self, link: Link, facts: SourceFacts, plan: Plan) -> None:
        state = self._log.state
        framer = Framer(semi_sync=facts.semi_sync, buffers=self._buffers)
        repeated = plan.held.overlap.chunks(self._log) if plan.held is not None and plan.position is not None else None
        file_id, served = (0, None) if state.file is None else (state.file.id, state.file.name)
        batcher = Batcher(
            framer,
            facts,
            plan,
            repeated,
            file_id=file_id,
            served=served,
            counters=self._counters,
            target=self._entry_bytes,
        )
        changes = _changes(state, facts, plan)
        self._batcher = batcher
        with Outbox(self._consensus, self._notice.set) as outbox:
            try:
                self._receive(link, framer, batcher, outbox, changes, searching=plan.connect_state is not None)
            except SourceEnd as end:
                self._pass_on(batcher, outbox, changes, everything=True)
                outbox.drain()
                by_position = _unconfirmed(plan, batcher)
                raise meaning_of(end, by_position=by_position, purged=_purged(state, facts, plan)) from end
            except StreamError as error:
                if plan.held is None or not _unconfirmed(plan, batcher):
                    raise
                raise Diverged(
                    f"no event begins at position {plan.position} of {plan.held.file.source_name} at the source, "
                    "where one does in the log: it is another file, or damaged. Was the source reset, or restored from "
                    f"a copy? ({error})"
                ) from error
            except (Disconnected, Stopped):
                # What came whole before the end is worth keeping: the source may not come back.
                self._pass_on(batcher, outbox, changes, everything=True)
                outbox.drain()
                raise

    def _receive(
        self, link: Link, framer: Framer, batcher: Batcher, outbox: Outbox, changes: dict[str, Json], *, searching: bool
    ) -> None:
        """Receive for ever. Ends with an exception, always. `searching`: the source skips, and is silent meanwhile."""
        self._heard = time.monotonic()
        patience = SEARCH if searching else FIRST_WORD
        while True:
            if self._stopping.is_set():
                raise Stopped("stopped")
            count = self._take(link, framer)
            if count:
                self._heard = time.monotonic()
                batcher.feed(framer.frame())
                if batcher.place[0]:
                    self._arrived(batcher)
                if batcher.steady or (batcher.place[0] and not searching):
                    patience = self._heartbeat * MISSED_HEARTBEATS
            self._all_here = count == 0
            outbox.check()
            self._pass_on(batcher, outbox, changes, everything=outbox.idle)
            self._acknowledge(link, batcher, outbox)
            framer.check_end()
            if count:
                continue
            silence = time.monotonic() - self._heard
            if silence >= patience:
                raise Disconnected(
                    f"nothing came from the source for {silence:.0f} s, although it was asked to send a heartbeat "
                    f"every {self._heartbeat:g} s: it hangs, or the network is cut"
                )
            link.wait(patience - silence)

    @staticmethod
    def _take(link: Link, framer: Framer) -> int:
        """Receive what is there, at most about a portion; returns how much that was.

        A source that we catch up with sends much faster than we read: handling each piece as it comes costs more than
        its bytes do, so what arrives in bulk is collected, for `LINGER` seconds at most without a byte, and `PATIENCE`
        in all: behind a burst may come a trickle that never ends.
        """
        total = 0
        portion = framer.portion
        ends: float | None = None
        while total < portion:
            try:
                count = link.receive_into(framer.room())
            except Disconnected:
                if total:  # first what came before the end; it will be told again
                    break
                raise
            if not count:
                if total < BULK:
                    break
                now = time.monotonic()
                ends = now + PATIENCE if ends is None else ends
                if now >= ends or not link.more(LINGER):
                    break
                continue
            framer.received(count)
            total += count
        return total

    def _arrived(self, batcher: Batcher) -> None:
        """The dump has begun."""
        if self._standing.state is SourceState.CONNECTED:
            return
        self._connections += 1
        self._failures.clear()
        self._standing = _Standing(SourceState.CONNECTED)
        facts = self._facts
        if facts is not None:
            logger.info(
                "source %s: connected to %s %s (%s), %s, %s, semi-sync %s, reading %s from %d",
                self._endpoint,
                facts.flavor,
                facts.version,
                facts.identity,
                facts.tls or "no TLS",
                facts.compression or UNCOMPRESSED,
                "on" if facts.semi_sync else "off",
                *batcher.place,
            )

    def _pass_on(self, batcher: Batcher, outbox: Outbox, changes: dict[str, Json], *, everything: bool) -> None:
        """Propose the entries that are made. `changes`: facts to be logged before the first of them; then emptied."""
        base = batcher.take_base()
        if base is not None:
            changes[FACT_PURGED] = base.to_json()
        if not batcher.ready and not (everything and batcher.waiting):
            return
        outgoing = batcher.collect(everything=everything)
        if not outgoing:
            return
        first = [Entry(Kind.STATE, meta=Meta(json=dict(changes)))] if changes else []
        changes.clear()
        outbox.put(first, outgoing)

    def _acknowledge(self, link: Link, batcher: Batcher, outbox: Outbox) -> None:
        """Acknowledge what is committed by now, or was long ago."""
        place = batcher.take_settled()
        place = outbox.committed(self._commit_index) or place
        if place is not None:
            link.send(semi_sync_ack(*place))
            self._acks += 1


def _unconfirmed(plan: Plan, batcher: Batcher) -> bool:
    """Whether a dump by position has brought nothing yet that shows that the source's file goes on there."""
    return plan.position is not None and not batcher.steady and batcher.place[1] <= plan.position


def _purged(state: LogState, facts: SourceFacts, plan: Plan) -> str:
    """What a MariaDB source no longer has, as far as it is needed here."""
    ours = state.executed if state.file is not None else plan.base
    if not isinstance(facts.purged, MariadbState):
        return ""
    return purged_behind(ours if isinstance(ours, MariadbState) else MariadbState(), facts.purged)


def _changes(state: LogState, facts: SourceFacts, plan: Plan) -> dict[str, Json]:
    """What the log does not know yet about its source."""
    changes: dict[str, Json] = {}
    if state.flavor is None:
        changes[FACT_FLAVOR] = facts.flavor.value
    fact = source_fact(facts, state)
    if state.facts.get(FACT_SOURCE) != fact:
        changes[FACT_SOURCE] = dict(fact)
    if plan.base is not None and not plan.base_in_file:
        changes[FACT_PURGED] = plan.base.to_json()
    return changes
