"""The consensus of a cluster of one node: what it promises to the source reader above it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.store.samples import Source, executed

from kingbus_node.demo.alone import lead_alone
from kingbus_node.demo.waiting import wait_until
from kingbus_node.raft import cluster as clusters
from kingbus_node.raft.api import ClusterConsensus, ConsensusClosedError, ConsensusFailedError
from kingbus_node.raft.cluster import Cluster
from kingbus_node.raft.options import ClusterOptions
from kingbus_node.store import durable
from kingbus_node.store.errors import InvalidEntryError
from kingbus_node.store.log import Log


def soon() -> float:
    return time.monotonic() + 30


def in_touch(consensus: ClusterConsensus) -> None:
    """What its loop says of it counts for an election timeout: a loop that stood still has to say it again first."""
    wait_until(lambda: consensus.in_touch, 30, "it to be in touch with itself")


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
    consensus: ClusterConsensus = lead_alone(log)
    source = Source()
    begun = last = consensus.last_index
    for group in ([source.flavor(), source.file()], *([source.transaction()] for _ in range(50))):
        last = consensus.propose(group)
    assert last == consensus.last_index == begun + 52
    assert consensus.wait_committed(last, soon())
    assert (consensus.commit_index, log.durable_index, log.visible_index) == (last, last, last)
    assert (consensus.is_leader, consensus.leader, consensus.failure) == (True, "alone", None)
    in_touch(consensus)
    assert str(log.state.executed) == executed(50)
    consensus.close()


def test_nothing_is_committed_before_it_is_durable_and_one_fsync_serves_all_that_waited(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 2, with one disk."""
    consensus = lead_alone(log)
    source = Source()
    begun = consensus.commit_index
    disk = SlowDisk(monkeypatch)
    first = consensus.propose([source.flavor(), source.file()])
    assert disk.reached.acquire(timeout=30)
    last = first
    for _ in range(100):
        last = consensus.propose([source.transaction()])
    assert not consensus.wait_committed(first, time.monotonic() + 0.05)
    assert (consensus.commit_index, log.visible_index) == (begun, begun)
    disk.let.release()
    assert consensus.wait_committed(first, soon())
    assert disk.reached.acquire(timeout=30)
    assert consensus.commit_index < last
    disk.let.release()
    assert consensus.wait_committed(last, soon())
    assert disk.calls == 2
    monkeypatch.undo()
    consensus.close()


def test_listeners_hear_of_commits_when_readers_can_see_them(log: Log) -> None:
    consensus = lead_alone(log)
    heard: list[tuple[int, int]] = []
    consensus.add_commit_listener(lambda index: heard.append((index, log.visible_index)))
    source = Source()
    consensus.propose([source.flavor(), source.file()])
    last = consensus.propose([source.transaction()])
    assert consensus.wait_committed(last, soon())
    consensus.close()
    assert heard[-1] == (last, last)
    assert all(visible >= index for index, visible in heard)


def test_propose_waits_while_too_much_is_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 9: a slow disk slows the source down instead of filling the memory."""
    log = Log.open(tmp_path)
    consensus = Cluster(log, "alone", ClusterOptions(min_free_bytes=0, max_in_flight=10_000))
    wait_until(lambda: consensus.is_leader, 30, "the only member to lead")
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
    log.close()


def test_what_was_synced_but_not_noted_as_committed_counts_at_the_next_start(tmp_path: Path) -> None:
    log = Log.open(tmp_path)
    lead_alone(log).close()
    source = Source()
    log.append([source.flavor(), source.file(), source.transaction()], log.last_term)
    log.sync()
    last, committed = log.last_index, log.commit_index
    log.close()
    log = Log.open(tmp_path)
    assert log.commit_index == committed < last
    consensus = lead_alone(log)
    assert log.commit_index > last
    assert str(log.state.executed) == executed(1)
    consensus.close()
    log.close()


def test_a_disk_that_fails_is_told_to_all_who_propose_or_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log.open(tmp_path)
    consensus = Cluster(log, "alone", ClusterOptions(min_free_bytes=0, max_in_flight=10_000))
    wait_until(lambda: consensus.is_leader, 30, "the only member to lead")
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
    log.close()


def test_a_disk_that_fails_under_a_change_of_membership_ends_consensus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log.open(tmp_path)
    consensus = lead_alone(log)

    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwritev", failing)
    with pytest.raises(ConsensusFailedError, match="Input/output error"):
        consensus.add_member("b", "127.0.0.1:9", role="learner", deadline=soon())
    wait_until(lambda: consensus.failure is not None, 30, "the consensus to end")
    assert not consensus.is_leader
    monkeypatch.undo()
    consensus.close()
    log.close()


def test_an_entry_that_may_not_follow_is_refused_and_nothing_else_is_changed(log: Log) -> None:
    consensus = lead_alone(log)
    last = consensus.last_index
    with pytest.raises(InvalidEntryError, match="flavor"):
        consensus.propose([Source().file()])
    assert consensus.last_index == last
    source = Source()
    assert consensus.wait_committed(consensus.propose([source.flavor(), source.file()]), soon())
    consensus.close()


def test_closing_commits_what_was_proposed_and_refuses_the_rest(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "CLOSE_SECONDS", 60.0)  # however slow the disk is
    consensus = lead_alone(log)
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


def test_an_only_member_that_may_not_lead_is_in_touch_with_itself(log: Log) -> None:
    """What it holds is all that there is, so it may be served."""
    consensus = lead_alone(log)
    consensus.suspend("its disk is full")
    wait_until(lambda: not consensus.is_leader, 30, "it to step down")
    in_touch(consensus)
    consensus.suspend(None)
    wait_until(lambda: consensus.is_leader, 30, "it to lead again")
    consensus.close()
