"""Proposing while receiving goes on: what a source sends in bulk is proposed by a thread of its own.

A proposal encodes entries and writes them to the log before it returns. For entries of some kilobytes that is quick,
and handing them to another thread would take longer; with megabytes a reader that catches up would spend half of its
time there, while the source waits. So small proposals are made by whoever puts them in, bulk by the outbox's thread.
The order is that of `put`, always.

What is in the outbox is bounded (`DEPTH`), besides what the consensus itself takes before it blocks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from kingbus_node.source.batch import Outgoing
from kingbus_node.store.entry import Entry

INLINE: Final = 256 << 10
"""Bytes of entries below which they are proposed at once."""
DEPTH: Final = 8 << 20
"""Bytes of entries that wait for the thread, at most, unless one batch is bigger."""


class Proposer(Protocol):
    """What an outbox needs of a consensus."""

    def propose(self, entries: Sequence[Entry]) -> int:
        """See `raft.api.Consensus.propose`."""

    @property
    def commit_index(self) -> int:
        """The last committed entry."""

    @property
    def last_index(self) -> int:
        """The last proposed entry."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Entries of one `put`; the place to acknowledge belongs to the entry `ahead` before the last."""

    entries: Sequence[Entry]
    cost: int
    ahead: int
    place: tuple[str, int] | None


class Outbox:
    """The proposals of one dump. A context manager: its end waits until all that was put in is proposed.

    One thread puts in; what fails in the outbox's thread is raised there, by the next call.
    """

    def __init__(self, consensus: Proposer, wake: Callable[[], None]) -> None:
        """`wake`: called in the outbox's thread when it has proposed something or failed to, so that what `idle`,
        `committed` and `check` say may have changed. Quick.
        """
        self._consensus = consensus
        self._wake = wake
        self._changed = threading.Condition()
        self._waiting: deque[_Batch] = deque()  # the first one stays in while it is proposed
        self._cost = 0
        self._failure: Exception | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self._last = consensus.last_index
        self._acks: deque[tuple[int, tuple[str, int]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    @property
    def idle(self) -> bool:
        """Whether all that was put in is committed."""
        return not self._waiting and self._consensus.commit_index >= self._last

    def put(self, first: Sequence[Entry], outgoing: Sequence[Outgoing]) -> None:
        """Propose `first`, then the entries of `outgoing`. Raises what `propose` does, now or with a later call."""
        entries = [*first, *(item.entry for item in outgoing)]
        # The last place is enough: acknowledging it acknowledges all before it.
        acks = ((ahead, item.ack) for ahead, item in enumerate(reversed(outgoing)) if item.ack is not None)
        batch = _Batch(entries, sum(entry.cost for entry in entries), *next(acks, (0, None)))
        self.check()
        if batch.cost < INLINE and not self._waiting:
            self._propose(batch)
            return
        with self._changed:
            self._changed.wait_for(lambda: self._failure or not self._cost or self._cost + batch.cost <= DEPTH)
            self._raise()
            self._waiting.append(batch)
            self._cost += batch.cost
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="source-outbox", daemon=True)
            self._thread.start()

    def check(self) -> None:
        """Raises what failed in the thread."""
        if self._failure is not None:
            self._raise()

    def drain(self) -> None:
        """Waits until all that was put in is proposed. Raises what failed in the thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or not self._waiting)
            self._raise()

    def committed(self, index: int) -> tuple[str, int] | None:
        """The last place (file, position) that may be acknowledged once entries up to `index` are committed.

        None if there is no new one.
        """
        place = None
        while self._acks and self._acks[0][0] <= index:
            _, place = self._acks.popleft()
        return place

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _propose(self, batch: _Batch) -> None:
        last = self._last = self._consensus.propose(batch.entries)
        if batch.place is not None:
            self._acks.append((last - batch.ahead, batch.place))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                batch = self._waiting[0]
            try:
                self._propose(batch)
            except Exception as error:  # noqa: BLE001 - raised again by the thread that puts in
                with self._changed:
                    self._failure = error
                    self._waiting.clear()
                    self._changed.notify_all()
                self._wake()
                return
            with self._changed:
                self._waiting.popleft()
                self._cost -= batch.cost
                self._changed.notify_all()
            self._wake()
