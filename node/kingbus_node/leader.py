"""What only the leader does: it reads from the source, and writes down what all nodes have to agree on.

A *reign* is one leadership of this node, from the commit of its first entry (so that all that was ever committed is
known here) to its loss. The rules:

1. When it begins, a transaction that the leader before left open is cancelled, what the cluster has to know of itself
   is proposed once, and a reader of its own begins where the committed log ends. Simulation: ``leave-open``, seed 3;
   ``read-at-once``, seed 3.
2. When it ends, it is revoked at once, in Raft's own thread: nothing that its reader proposes is taken any more, not
   even if this node leads again a moment later (entries that were lost in between would leave a hole), and no commit
   is told to it (an index that it had proposed may be filled by another leader), so it acknowledges nothing that is not
   committed. Its thread is stopped a moment later. Simulation: ``read-on``, seed 10.
3. A reader is never used for a second reign: what it believed to be held is forgotten with it. There is never a second
   one in a reign before the first has ended: what that still proposes would come between.
4. What goes wrong in a reign is tried again, more and more slowly, as long as the reign lasts. It never ends the node.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from kingbus_node.config import Config, ConfigError
from kingbus_node.raft.api import (
    ConsensusClosedError,
    ConsensusError,
    Leadership,
    LeadershipListener,
    NotLeaderError,
)
from kingbus_node.source.checks import Replica
from kingbus_node.source.reader import SourceReader, SourceStatus
from kingbus_node.source.resume import ReadableLog
from kingbus_node.source.settings import FACT_SETTINGS, effective, ignored, is_seeded, is_stopped, seed
from kingbus_node.store.entry import Entry, Json, Kind, Meta
from kingbus_node.store.state import FACT_CLUSTER_UUID
from kingbus_node.util.backoff import Backoff

logger = logging.getLogger(__name__)

_FIRST_RETRY: Final = 0.1
_SLOWEST_RETRY: Final = 5.0
_LASTED: Final = 10.0
"""Seconds after which what went wrong before counts as over."""


class ClusterLike(Protocol):
    """What is needed of `raft.api.ClusterConsensus`."""

    def propose(self, entries: Sequence[Entry], *, term: int | None = None) -> int:
        """See `raft.api.ClusterConsensus.propose`."""

    @property
    def commit_index(self) -> int:
        """The last committed entry."""

    @property
    def last_index(self) -> int:
        """The last proposed entry."""

    def wait_committed(self, index: int, deadline: float) -> bool:
        """See `raft.api.Consensus.wait_committed`."""

    @property
    def leader(self) -> str | None:
        """The name of the leader, None while there is none."""

    def add_leadership_listener(self, listener: LeadershipListener) -> None:
        """See `raft.api.ClusterConsensus.add_leadership_listener`."""


class Reign:
    """The consensus as the reader of one leadership sees it: a `source.reader.Proposals`."""

    def __init__(self, consensus: ClusterLike, term: int) -> None:
        self._consensus = consensus
        self.term = term
        self._over = threading.Event()

    @property
    def over(self) -> bool:
        """Whether it was revoked."""
        return self._over.is_set()

    def revoke(self) -> None:
        """This leadership is lost."""
        self._over.set()

    def propose(self, entries: Sequence[Entry]) -> int:
        """See `raft.api.Consensus.propose`; NotLeaderError too when another leadership has begun."""
        self._check()
        return self._consensus.propose(entries, term=self.term)

    @property
    def commit_index(self) -> int:
        """The last committed entry."""
        return self._consensus.commit_index

    @property
    def last_index(self) -> int:
        """The last proposed entry."""
        return self._consensus.last_index

    def wait_committed(self, index: int, deadline: float) -> bool:
        """See `raft.api.Consensus.wait_committed`; NotLeaderError too when another leadership has begun."""
        self._check()
        committed = self._consensus.wait_committed(index, deadline)
        self._check()
        return committed

    def _check(self) -> None:
        if self.over:
            raise NotLeaderError(self._consensus.leader)


@dataclass(frozen=True, slots=True)
class _Totals:
    """Counted by the readers of earlier reigns."""

    events: int = 0
    bytes: int = 0
    transactions: int = 0
    connections: int = 0
    acks: int = 0

    def after(self, reader: SourceReader) -> _Totals:
        """With what `reader` has counted."""
        now = reader.status()
        return _Totals(
            self.events + now.events,
            self.bytes + now.bytes,
            self.transactions + now.transactions,
            self.connections + reader.connections,
            self.acks + now.acks,
        )


class LeaderWork:
    """Does the leader's work while this node leads. `start` once, `stop` once; the rest from any thread."""

    def __init__(self, config: Config, log: ReadableLog, consensus: ClusterLike) -> None:
        """`log`: the one that `consensus` writes. Nothing happens before `start`."""
        self._config = config
        self._log = log
        self._consensus = consensus
        self._changed = threading.Condition()
        self._reign: Reign | None = None  # the present one; written in Raft's thread
        self._closing = False
        self._reader_ended = False
        self._again = False
        self._due: set[int] = set()  # entries that change the settings of the source, and are not committed yet
        self._resting = False  # nothing is read, by command
        self._paused: Reign | None = None
        self._warned = False
        self._past = _Totals()
        self._reading: Reign | None = None  # whose reader `_reader` is
        self._reader = SourceReader(config.source, log, Reign(consensus, 0), Replica(config.source.server_id, ""))
        self._thread = threading.Thread(target=self._run, name="leader-work", daemon=True)

    def start(self) -> None:
        """From now on follow the leadership."""
        self._thread.start()
        self._consensus.add_leadership_listener(self._leadership_changed)

    def stop(self, timeout: float = 30.0) -> None:
        """Read no more. Whole transactions that were received are proposed before."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def leads(self) -> bool:
        """Whether this is the node whose work it is."""
        return self._reign is not None

    def reconsider(self, index: int) -> None:
        """Entry `index` changes the settings of the source: go by them as soon as it is committed, from a new
        connection on. Quick.
        """
        with self._changed:
            self._due.add(index)
        self._look_again(self._consensus.commit_index)

    def _look_again(self, committed: int) -> None:
        with self._changed:
            due = {index for index in self._due if index <= committed}
            if due:
                self._due -= due
                self._again = True
                self._changed.notify_all()

    def pause(self, timeout: float) -> bool:
        """Read no more until `resume`, or until this leadership ends; True when all that was read is committed.

        False when that takes more than `timeout` seconds: then it is read on. NotLeaderError.
        """
        reign = self._reign
        if reign is None:
            raise NotLeaderError(self._consensus.leader)
        deadline = time.monotonic() + timeout
        with self._changed:
            self._paused = reign
            self._again = True
            self._changed.notify_all()
            rests = self._changed.wait_for(lambda: self._resting or reign.over, timeout)
        if rests and reign.wait_committed(reign.last_index, deadline):
            return True
        self.resume()
        return False

    def resume(self) -> None:
        """Read again."""
        with self._changed:
            self._paused = None
            self._again = True
            self._changed.notify_all()

    def committed(self, index: int) -> None:
        """Entries up to `index` are committed. To be called in Raft's thread, where leadership changes are told too:
        a reader hears of commits of its own leadership only.
        """
        if self._due:
            self._look_again(index)
        reign = self._reign
        if reign is not None and reign is self._reading:
            self._reader.committed(index)

    def status(self) -> SourceStatus:
        """How it stands with the source; the totals are over all reigns."""
        with self._changed:  # or one reader might count twice
            reader, past = self._reader, self._past
        now = reader.status()
        return replace(
            now,
            events=past.events + now.events,
            bytes=past.bytes + now.bytes,
            transactions=past.transactions + now.transactions,
            reconnects=max(0, past.connections + reader.connections - 1),
            acks=past.acks + now.acks,
        )

    # In Raft's thread

    def _leadership_changed(self, leadership: Leadership | None) -> None:
        ready = leadership is not None and leadership.ready
        with self._changed:
            if self._reign is not None and (leadership is None or leadership.term != self._reign.term):
                self._reign.revoke()
                self._reign = None
                self._due.clear()
                self._changed.notify_all()
            if ready and leadership is not None and self._reign is None:
                self._reign = Reign(self._consensus, leadership.term)
                self._changed.notify_all()

    # The thread

    def _run(self) -> None:
        while (reign := self._next_reign()) is not None:
            backoff = Backoff(_FIRST_RETRY, _SLOWEST_RETRY)
            while not self._is_over(reign):
                begun = time.monotonic()
                try:
                    if self._work(reign):
                        continue
                except ConfigError as error:
                    logger.error("the source cannot be read: %s", error)
                except (NotLeaderError, ConsensusClosedError) as error:
                    logger.debug("the leader's work ends: %s", error)
                except ConsensusError as error:
                    logger.warning("the leader's work has to wait: %s", error)
                except Exception:
                    logger.exception("the leader's work failed in a way that should not be possible; trying again")
                if time.monotonic() - begun > _LASTED:
                    backoff.reset()
                self._pause(reign, backoff.next())

    def _next_reign(self) -> Reign | None:
        """The present one, or the next; None when all ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._reign is not None)
            return None if self._closing else self._reign

    def _is_over(self, reign: Reign) -> bool:
        with self._changed:
            return self._closing or reign.over

    def _pause(self, reign: Reign, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or reign.over, seconds)

    def _work(self, reign: Reign) -> bool:
        """Prepare and read, until the reign is over or the reader gives up. True: begin again at once."""
        with self._changed:
            self._again = self._reader_ended = self._resting = False
        self._cancel_open(reign)
        identity = self._agree(reign)
        facts = self._log.state.facts
        with self._changed:
            self._resting = is_stopped(facts) or self._paused is reign
            self._changed.notify_all()
        if self._resting:
            logger.info("the source is not read: it was stopped by command")
            self._wait(reign)
            return self._again
        settings = effective(self._config, facts)
        reader = SourceReader(settings, self._log, reign, identity, on_end=self._note_end)
        with self._changed:
            self._past = self._past.after(self._reader)
            self._reader, self._reading = reader, reign
        reader.start()
        try:
            self._wait(reign)
        finally:
            self._end(reader, reign)
        return self._again

    def _end(self, reader: SourceReader, reign: Reign) -> None:
        """Nobody else may read before it has ended: what it still proposes would come between, or twice."""
        while not reader.stop():
            logger.warning("the reader of the source does not end: the log takes nothing that it proposes")
            if self._is_over(reign):
                return  # nothing of it is taken any more

    def _wait(self, reign: Reign) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or reign.over or self._reader_ended or self._again)

    def _note_end(self) -> None:
        with self._changed:
            self._reader_ended = True
            self._changed.notify_all()

    def _cancel_open(self, reign: Reign) -> None:
        """All that other leaders wrote is committed here by now. What they left unfinished never will be finished."""
        opened = self._log.state.open_index
        if opened is not None:
            logger.info("cancelling the unfinished transaction that begins with entry %d", opened)
            self._settled(reign, Entry(Kind.CANCEL))

    def _agree(self, reign: Reign) -> Replica:
        """Propose what the log has to say about the cluster and does not yet; returns who we are for the source."""
        facts = self._log.state.facts
        if not self._warned:
            self._warned = True
            for sentence in ignored(self._config, facts):
                logger.warning("%s", sentence)
        missing: dict[str, Json] = {}
        if not isinstance(facts.get(FACT_CLUSTER_UUID), str):
            missing[FACT_CLUSTER_UUID] = str(uuid.uuid4())
        if not is_seeded(facts):
            missing[FACT_SETTINGS] = seed(self._config)
        if missing:
            self._settled(reign, Entry(Kind.STATE, meta=Meta(json=missing)))
        facts = self._log.state.facts
        settings = effective(self._config, facts)
        return Replica(settings.server_id, str(facts[FACT_CLUSTER_UUID]), port=self._config.serve.listen.port)

    def _settled(self, reign: Reign, entry: Entry) -> None:
        """Propose, and wait until it is committed."""
        index = reign.propose([entry])
        while not reign.wait_committed(index, time.monotonic() + 0.5):
            if self._is_over(reign):
                raise NotLeaderError(self._consensus.leader)
