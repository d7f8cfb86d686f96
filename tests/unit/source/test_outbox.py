"""Proposals of a reader: in order, bulk beside it, and nothing lost on the way."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from kingbus_node.raft.api import NotLeaderError
from kingbus_node.source.batch import Outgoing
from kingbus_node.source.outbox import DEPTH, INLINE, Outbox
from kingbus_node.store.entry import Entry, Kind

PATIENCE = 60.0


class Consensus:
    """Takes proposals when it is told to, and notes who made them."""

    def __init__(self) -> None:
        self.commit_index = 0
        self.entries: list[Entry] = []
        self.threads: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.refusal: Exception | None = None

    @property
    def last_index(self) -> int:
        return len(self.entries)

    def propose(self, entries: Sequence[Entry]) -> int:
        assert self.open.wait(PATIENCE)
        if self.refusal is not None:
            raise self.refusal
        self.entries += entries
        self.threads.append(threading.current_thread().name)
        return len(self.entries)


def outgoing(size: int, position: int | None = None) -> Outgoing:
    entry = Entry(Kind.DATA, payload=bytes(size), timestamp=position or 0)
    return Outgoing(entry, None if position is None else ("file", position))


def test_small_proposals_are_made_at_once_and_bulk_by_another_thread() -> None:
    consensus = Consensus()
    me = threading.current_thread().name
    with Outbox(consensus, lambda: None) as outbox:
        outbox.put([], [outgoing(100)])
        assert consensus.threads == [me]
        outbox.put([Entry(Kind.STATE)], [outgoing(INLINE)])
        outbox.drain()
        assert consensus.threads == [me, "source-outbox"]
    assert [entry.kind for entry in consensus.entries] == [Kind.DATA, Kind.STATE, Kind.DATA]


def test_what_is_small_waits_behind_bulk() -> None:
    consensus = Consensus()
    consensus.open.clear()
    with Outbox(consensus, lambda: None) as outbox:
        outbox.put([], [outgoing(INLINE, 1)])
        for position in range(2, 9):
            outbox.put([], [outgoing(10, position)])
        assert not outbox.idle
        consensus.open.set()
    assert [entry.timestamp for entry in consensus.entries] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_its_end_waits_until_everything_is_proposed() -> None:
    consensus = Consensus()
    consensus.open.clear()
    with Outbox(consensus, lambda: None) as outbox:
        for _ in range(5):
            outbox.put([], [outgoing(INLINE)])
        threading.Timer(0.01, consensus.open.set).start()
    assert len(consensus.entries) == 5


def test_putting_in_waits_while_it_is_full() -> None:
    consensus = Consensus()
    consensus.open.clear()
    done = threading.Event()
    with Outbox(consensus, lambda: None) as outbox:

        def fill() -> None:
            for _ in range(4):
                outbox.put([], [outgoing(DEPTH // 3)])
            done.set()

        filler = threading.Thread(target=fill)
        filler.start()
        assert not done.wait(0.05)
        consensus.open.set()
        assert done.wait(PATIENCE)
        filler.join()
    assert len(consensus.entries) == 4


def test_places_may_be_acknowledged_once_their_entries_are_committed() -> None:
    consensus = Consensus()
    with Outbox(consensus, lambda: None) as outbox:
        outbox.put([Entry(Kind.STATE)], [outgoing(10, 100), outgoing(10, 200), outgoing(10)])
        outbox.put([], [outgoing(INLINE, 300)])
        outbox.drain()
        assert outbox.committed(2) is None
        assert outbox.committed(3) == ("file", 200)
        assert outbox.committed(4) is None
        assert outbox.committed(5) == ("file", 300)
        assert outbox.committed(9) is None


def test_it_wakes_when_all_is_proposed_although_the_commit_came_before() -> None:
    consensus = Consensus()
    woken = threading.Event()
    with Outbox(consensus, woken.set) as outbox:
        consensus.commit_index = 1  # before the outbox knows that entry 1 is its own
        outbox.put([], [outgoing(INLINE, 100)])
        assert woken.wait(PATIENCE)
        assert outbox.idle
        assert outbox.committed(1) == ("file", 100)


def test_what_fails_in_its_thread_is_raised_by_the_next_call_and_ends_it() -> None:
    consensus = Consensus()
    consensus.refusal = NotLeaderError("another")
    woken = threading.Event()
    with Outbox(consensus, woken.set) as outbox:
        outbox.put([], [outgoing(INLINE)])
        assert woken.wait(PATIENCE)
        for call in (outbox.check, outbox.drain, lambda: outbox.put([], [outgoing(1)])):
            with pytest.raises(NotLeaderError):
                call()
    assert consensus.entries == []
