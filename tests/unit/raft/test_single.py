"""The consensus of one node: what it promises to the source reader above it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.store.samples import Source, executed

from kingbus_node.raft.api import Consensus, ConsensusClosedError, ConsensusFailedError
from kingbus_node.raft.single import SingleNode
from kingbus_node.store import durable
from kingbus_node.store.entry import Kind
from kingbus_node.store.log import Log


def soon() -> float:
    return time.monotonic() + 30


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log.open(tmp_path)
    yield log
    log.close()


class SlowDisk:
    """fdatasync waits until it is let through, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.reached = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self._real = os.fdatasync
        monkeypatch.setattr(durable, "fdatasync", self._sync)

    def _sync(self, fd: int) -> None:
        self.calls += 1
        self.reached.release()
        assert self.let.acquire(timeout=30)
        self._real(fd)


def test_what_is_proposed_is_committed_in_order(log: Log) -> None:
    consensus: Consensus = SingleNode(log, "node-1")
    source = Source()
    last = 0
    for group in ([source.flavor(), source.file()], *([source.transaction()] for _ in range(50))):
        last = consensus.propose(group)
    assert last == consensus.last_index == 53
    assert consensus.wait_committed(last, soon())
    assert (consensus.commit_index, log.durable_index, log.visible_index) == (53, 53, 53)
    assert (consensus.is_leader, consensus.leader, consensus.term, consensus.failure) == (True, "node-1", 1, None)
    assert str(log.state.executed) == executed(50)
    consensus.close()


def test_nothing_is_committed_before_it_is_durable_and_one_fsync_serves_all_that_waited(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 2, with one disk."""
    consensus = SingleNode(log, "node-1")
    source = Source()
    disk = SlowDisk(monkeypatch)
    first = consensus.propose([source.flavor(), source.file()])
    assert disk.reached.acquire(timeout=30)
    last = first
    for _ in range(100):
        last = consensus.propose([source.transaction()])
    assert not consensus.wait_committed(first, time.monotonic() + 0.05)
    assert (consensus.commit_index, log.visible_index) == (1, 1)
    disk.let.release()
    assert consensus.wait_committed(first, soon())
    assert disk.reached.acquire(timeout=30)
    assert consensus.commit_index == first
    disk.let.release()
    assert consensus.wait_committed(last, soon())
    assert disk.calls == 2
    monkeypatch.undo()
    consensus.close()


def test_listeners_hear_of_commits_when_readers_can_see_them(log: Log) -> None:
    consensus = SingleNode(log, "node-1")
    heard: list[tuple[int, int]] = []
    consensus.add_commit_listener(lambda index: heard.append((index, log.visible_index)))
    source = Source()
    consensus.propose([source.flavor(), source.file()])
    last = consensus.propose([source.transaction()])
    consensus.close()
    assert heard[-1] == (last, last)
    assert all(visible >= index for index, visible in heard)


def test_propose_waits_while_too_much_is_in_flight(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 9: a slow disk slows the source down instead of filling the memory."""
    consensus = SingleNode(log, "node-1", max_in_flight=10_000)
    source = Source()
    assert consensus.wait_committed(consensus.propose([source.flavor(), source.file()]), soon())
    disk = SlowDisk(monkeypatch)
    first = consensus.propose([source.transaction((50_000,))])  # more than the limit, but alone
    assert disk.reached.acquire(timeout=30)
    done = threading.Event()

    def second() -> None:
        consensus.propose([source.transaction()])
        done.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not done.wait(0.1)
    assert consensus.commit_index == first - 1
    disk.let.release()
    assert done.wait(30)
    disk.let.release()
    thread.join()
    assert consensus.wait_committed(first + 1, soon())
    monkeypatch.undo()
    consensus.close()


def test_a_transaction_that_a_crash_cut_is_cancelled_at_the_next_start(tmp_path: Path) -> None:
    """Promise 4."""
    log = Log.open(tmp_path)
    consensus = SingleNode(log, "node-1")
    source = Source()
    consensus.propose([source.flavor(), source.file(), source.transaction()])
    position = source.position
    consensus.propose([source.fragment(first=True), source.fragment()])
    consensus.close()
    assert (log.commit_index, log.visible_index) == (6, 4)
    log.close()
    log = Log.open(tmp_path)
    consensus = SingleNode(log, "node-1")
    assert log.read(7).kind == Kind.CANCEL
    assert (consensus.term, log.visible_index, log.state.end_pos) == (2, 7, position)
    assert str(log.state.executed) == executed(1)
    source.position, source.number = position, 1
    assert consensus.wait_committed(consensus.propose([source.transaction()]), soon())
    assert str(log.state.executed) == executed(2)
    consensus.close()
    log.close()


def test_what_was_synced_but_not_noted_as_committed_counts_at_the_next_start(tmp_path: Path) -> None:
    log = Log.open(tmp_path)
    source = Source()
    log.append([source.flavor(), source.file(), source.transaction()], 1)
    log.sync()
    log.close()
    log = Log.open(tmp_path)
    assert log.commit_index == 0
    consensus = SingleNode(log, "node-1")
    assert log.state.index == 4
    assert str(log.state.executed) == executed(1)
    consensus.close()
    log.close()


def test_a_disk_that_fails_is_told_to_all_who_propose_or_wait(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    consensus = SingleNode(log, "node-1", max_in_flight=10_000)
    source = Source()
    assert consensus.wait_committed(consensus.propose([source.flavor(), source.file()]), soon())
    reached, let = threading.Event(), threading.Event()

    def failing(_fd: int) -> None:
        reached.set()
        assert let.wait(30)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "fdatasync", failing)
    index = consensus.propose([source.transaction((9_000,))])
    assert reached.wait(30)
    caught: list[Exception] = []

    def waiting() -> None:
        try:
            consensus.wait_committed(index, soon())
        except ConsensusFailedError as error:
            caught.append(error)

    def proposing() -> None:
        try:
            consensus.propose([source.transaction((9_000,))])
        except ConsensusFailedError as error:
            caught.append(error)

    threads = [threading.Thread(target=waiting), threading.Thread(target=proposing)]
    for thread in threads:
        thread.start()
    let.set()
    for thread in threads:
        thread.join(30)
    assert len(caught) == 2
    assert "Input/output error" in str(caught[0])
    assert (consensus.is_leader, consensus.leader) == (False, None)
    assert consensus.failure is not None
    assert log.visible_index == index - 1
    with pytest.raises(ConsensusFailedError):
        consensus.propose([source.transaction()])
    monkeypatch.undo()
    consensus.close()


def test_an_entry_that_may_not_follow_stops_the_node_rather_than_the_order(log: Log) -> None:
    consensus = SingleNode(log, "node-1")
    source = Source()
    index = consensus.propose([source.file()])  # without a flavor
    with pytest.raises(ConsensusFailedError, match="flavor"):
        consensus.wait_committed(index, soon())
    consensus.close()
    assert log.last_index == 1


def test_closing_commits_what_was_proposed_and_refuses_the_rest(log: Log) -> None:
    consensus = SingleNode(log, "node-1")
    source = Source()
    consensus.propose([source.flavor(), source.file()])
    last = consensus.propose([source.transaction() for _ in range(500)])
    consensus.close()
    consensus.close()
    assert log.commit_index == last
    assert consensus.wait_committed(last, soon())
    with pytest.raises(ConsensusClosedError):
        consensus.propose([source.transaction()])
    with pytest.raises(ConsensusClosedError):
        consensus.wait_committed(last + 1, soon())
