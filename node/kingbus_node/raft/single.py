"""The consensus of a node that is alone: durable here is committed.

One writer thread takes everything that was proposed since its last round, appends it, syncs once and commits (group
commit): with a slow disk the groups grow, with a fast one or little load every entry gets its own fsync.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from kingbus_node.raft.api import CommitListener, ConsensusClosedError, ConsensusError, ConsensusFailedError
from kingbus_node.store.entry import Entry, Kind
from kingbus_node.store.log import Log

logger = logging.getLogger(__name__)

DEFAULT_IN_FLIGHT = 64 << 20
_GROUP_BYTES = 16 << 20  # one round takes no more, so that commits keep coming while the disk is behind


class SingleNode:
    """A `raft.api.Consensus` of one. Owns the writing side of the log while it is open."""

    def __init__(
        self,
        log: Log,
        name: str,
        *,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
        on_sync: Callable[[float], None] | None = None,
        on_commit: Callable[[float], None] | None = None,
    ) -> None:
        """Everything that is in the log counts as committed; a transaction that a crash cut is cancelled.

        Begins a new term, so that terms say which run of the node wrote an entry. For metrics, and called in the
        writer's thread: `on_sync` with the seconds that a sync took, `on_commit` with those from an entry being
        proposed to its commit.
        """
        self._log = log
        self._name = name
        self._max_in_flight = max_in_flight
        self._changed = threading.Condition()
        self._queue: deque[tuple[Entry, float]] = deque()  # with the time of the proposal
        self._on_sync = on_sync
        self._on_commit = on_commit
        self._in_flight = 0  # bytes of entries that are proposed and not committed
        self._listeners: list[CommitListener] = []
        self._failure: Exception | None = None
        self._closing = False
        self._term = max(log.hard_state.term, log.last_term) + 1
        log.set_hard_state(self._term, name)
        log.commit(log.last_index)
        first = [Entry(Kind.NOOP)]
        opened = log.tail_state.open_index
        if opened is not None:
            logger.info("cancelling the unfinished transaction that begins with entry %d", opened)
            first = [Entry(Kind.CANCEL)]
        log.append(first, self._term)
        log.sync()
        log.commit(log.last_index)
        self._proposed = self._committed = log.last_index
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def propose(self, entries: Sequence[Entry]) -> int:
        """See `raft.api.Consensus.propose`."""
        cost = sum(entry.cost for entry in entries)
        with self._changed:
            # A single proposal may be bigger than the limit: it then goes alone.
            while self._in_flight and self._in_flight + cost > self._max_in_flight:
                self._check()
                self._changed.wait()
            self._check()
            now = time.monotonic()
            self._queue.extend((entry, now) for entry in entries)
            self._in_flight += cost
            self._proposed += len(entries)
            self._changed.notify_all()
            return self._proposed

    @property
    def commit_index(self) -> int:
        """The last committed entry."""
        return self._committed

    @property
    def last_index(self) -> int:
        """The last proposed entry."""
        return self._proposed

    def wait_committed(self, index: int, deadline: float) -> bool:
        """See `raft.api.Consensus.wait_committed`."""
        with self._changed:
            while self._committed < index:
                if self._failure is not None or not self._thread.is_alive():
                    self._check()
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return True

    def add_commit_listener(self, listener: CommitListener) -> None:
        """See `raft.api.Consensus.add_commit_listener`."""
        with self._changed:
            self._listeners.append(listener)

    @property
    def failure(self) -> Exception | None:
        """Why nothing is committed any more."""
        return self._failure

    @property
    def is_leader(self) -> bool:
        """Always, unless the log failed."""
        return self._failure is None

    @property
    def term(self) -> int:
        """Rises with each start."""
        return self._term

    @property
    def leader(self) -> str | None:
        """This node."""
        return self._name if self._failure is None else None

    def close(self) -> None:
        """Commits what was proposed and stops the writer thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        with self._changed:
            self._changed.notify_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise ConsensusFailedError(f"nothing can be committed any more: {self._failure}") from self._failure
        if self._closing:
            raise ConsensusClosedError("the consensus was closed")

    def _run(self) -> None:
        try:
            while group := self._next_group():
                last = self._log.append([entry for entry, _ in group], self._term)
                begun = time.monotonic()
                self._log.sync()
                synced = time.monotonic()
                self._log.commit(last)
                cost = sum(entry.cost for entry, _ in group)
                with self._changed:
                    self._committed = last
                    self._in_flight -= cost
                    listeners = list(self._listeners)
                    self._changed.notify_all()
                for listener in listeners:
                    listener(last)
                self._observe(synced - begun, group)
        except Exception as error:
            logger.exception("the log writer stops")
            with self._changed:
                self._failure = error
                self._queue.clear()
                self._changed.notify_all()

    def _observe(self, sync_seconds: float, group: Sequence[tuple[Entry, float]]) -> None:
        if self._on_sync is not None:
            self._on_sync(sync_seconds)
        if self._on_commit is not None:
            now = time.monotonic()
            for _, proposed in group:
                self._on_commit(now - proposed)

    def _next_group(self) -> list[tuple[Entry, float]]:
        """Waits for proposals; nothing when the consensus is closed and all is done."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            group: list[tuple[Entry, float]] = []
            size = 0
            while self._queue and (not group or size + self._queue[0][0].cost <= _GROUP_BYTES):
                size += self._queue[0][0].cost
                group.append(self._queue.popleft())
            return group


__all__ = ["DEFAULT_IN_FLIGHT", "ConsensusError", "SingleNode"]
