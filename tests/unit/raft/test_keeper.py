"""Retention on a node: what is purged, what is told of it, and what stays for replicas."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from unit.store.samples import UUID, Source, executed, started, write

from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.config import Retention, StorageSettings
from kingbus_node.raft.api import NotLeaderError
from kingbus_node.raft.keeper import Purged, PurgeUnfinishedError, RetentionKeeper, policy_of
from kingbus_node.store.entry import Entry
from kingbus_node.store.errors import PurgedError
from kingbus_node.store.log import Log
from kingbus_node.store.purging import Purger, UnknownLogError
from kingbus_node.store.reader import LogReader
from kingbus_node.store.retention import Decision, RetentionPolicy
from kingbus_node.store.segment import list_segments


class Alone:
    """The consensus of one: what is proposed is committed at once."""

    is_leader = True

    def __init__(self, log: Log) -> None:
        self.log = log
        self.committed = threading.Event()

    def propose(self, entries: list[Entry]) -> int:
        return write(self.log, *entries)

    def wait_committed(self, index: int, _deadline: float) -> bool:
        self.committed.set()
        return index <= self.log.commit_index


class Node:
    """A log of ten source files of ten transactions, about one segment each, and what keeps it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log, self.source = started(directory, segment_bytes=4096, transactions=10)
        for _ in range(9):
            write(self.log, self.source.end_of_file(), self.source.file())
            write(self.log, *(self.source.transaction() for _ in range(10)))
        self.consensus = Alone(self.log)
        self.floors: list[int] = []
        self.forced: list[Decision] = []

    def keeper(self, policy: RetentionPolicy, interval: float = 0.01) -> RetentionKeeper:
        return RetentionKeeper(
            self.log,
            self.consensus,
            policy,
            replica_floors=lambda: self.floors,
            on_forced=self.forced.append,
            interval=interval,
        )

    def files(self) -> list[str]:
        return [file.name for file in LogReader(self.directory).files()]

    def start_of(self, file_id: int) -> int:
        return LogReader(self.directory).file(file_id).start_index

    def close(self) -> None:
        self.log.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


def names(first: int, last: int = 10) -> list[str]:
    return [f"binlog.{number:06}" for number in range(first, last + 1)]


def test_the_oldest_files_go_with_their_segments_and_count_as_purged(node: Node) -> None:
    before = node.log.stats()
    decision = node.keeper(RetentionPolicy(max_bytes=before.bytes // 2)).run_once()
    after = node.log.stats()
    assert after.bytes <= before.bytes // 2
    assert after.segments == before.segments - decision.segments
    oldest = LogReader(node.directory).oldest_file()
    assert oldest is not None
    assert oldest.start_index == decision.cut
    assert node.files() == names(oldest.id)
    assert str(node.log.state.purged) == executed(10 * (oldest.id - 1))
    assert str(node.log.state.executed) == executed(100)
    assert list_segments(node.directory)[0] <= oldest.start_index
    assert node.keeper(RetentionPolicy(max_bytes=before.bytes // 2)).run_once() == Decision(None)


def test_old_files_go_by_when_they_were_written(node: Node) -> None:
    firsts = list_segments(node.directory)
    for first in firsts[:5]:
        os.utime(node.directory / f"{first:020}.log", (time.time() - 1000, time.time() - 1000))
    keeper = node.keeper(RetentionPolicy(max_age=900))
    decision = keeper.run_once()
    assert 0 < decision.segments <= 5
    assert list_segments(node.directory) == firsts[decision.segments :]
    assert (keeper.stats.purges, keeper.stats.segments, keeper.stats.forced) == (1, decision.segments, 0)


def test_the_thread_keeps_looking(node: Node) -> None:
    keeper = node.keeper(RetentionPolicy(max_bytes=1))
    keeper.start()
    assert node.consensus.committed.wait(60)
    keeper.stop()
    assert node.files() == names(10)


def test_a_keeper_that_was_never_started_stops(node: Node) -> None:
    node.keeper(RetentionPolicy()).stop()


def test_what_a_connected_replica_needs_stays(node: Node) -> None:
    node.floors = [node.start_of(7) - 1, node.start_of(9)]
    keeper = node.keeper(RetentionPolicy(max_bytes=1))
    decision = keeper.run_once()
    assert decision.held == node.floors[0]
    assert keeper.stats.held is True
    assert 1 < LogReader(node.directory).state().oldest_file <= 6
    LogReader(node.directory).cursor(node.floors[0]).close()
    node.floors = []
    assert keeper.run_once().held is None
    assert node.files() == names(10)


def test_low_space_takes_it_even_from_a_connected_replica(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node.floors = [5]
    keeper = node.keeper(RetentionPolicy(max_bytes=1, min_free_bytes=1000))
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1000, f_frsize=1))
    assert keeper.run_once().cut is None
    assert node.forced == []
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=999, f_frsize=1))
    assert keeper.run_once().forced == 5
    assert node.files() == names(10)
    assert [decision.forced for decision in node.forced] == [5]
    assert keeper.stats.forced == 1
    assert "purging what a connected replica still needs" in caplog.text
    with pytest.raises(PurgedError):
        LogReader(node.directory).cursor(5)


def test_a_purge_to_a_file_leaves_that_one_as_the_oldest(node: Node) -> None:
    keeper = node.keeper(RetentionPolicy())
    assert keeper.purge_to("binlog.000004") == Purged("binlog.000004", 3, 0)
    assert node.files() == names(4)
    assert str(node.log.state.purged) == executed(30)
    assert keeper.purge_to("binlog.000004") is None
    for name in ("binlog.000003", "binlog.000011", "x", ""):
        with pytest.raises(UnknownLogError):
            keeper.purge_to(name)
    assert keeper.purge_to("binlog.000010") == Purged("binlog.000010", 6, 0)
    assert node.files() == names(10)


def test_a_purge_to_a_file_spares_what_a_replica_reads(node: Node) -> None:
    keeper = node.keeper(RetentionPolicy(keep_for_replicas=False))
    node.floors = [node.start_of(3) + 2]
    assert keeper.purge_to("binlog.000006") == Purged("binlog.000003", 2, 3)
    assert node.files() == names(3)
    kept = keeper.purge_to("binlog.000006")
    assert kept == Purged("binlog.000003", 0, 3)
    assert kept.readers == 1
    assert keeper.purge_to("binlog.000003") is None


def test_a_purge_before_a_time_ends_with_the_first_file_that_is_not_older(node: Node) -> None:
    keeper = node.keeper(RetentionPolicy())
    stamp = 1_700_000_000
    assert keeper.purge_before(stamp + 10) is None
    assert keeper.purge_before(stamp + 11) == Purged("binlog.000002", 1, 0)
    assert keeper.purge_before(stamp + 31) == Purged("binlog.000004", 2, 0)
    assert keeper.purge_before(time.time()) == Purged("binlog.000010", 6, 0)
    assert keeper.purge_before(time.time()) is None


def test_purges_are_refused_where_the_cluster_is_not_led(node: Node) -> None:
    class Follower:
        is_leader = False

        def propose(self, _entries: list[Entry]) -> int:
            raise NotLeaderError("node-2")

        def wait_committed(self, _index: int, _deadline: float) -> bool:
            raise AssertionError

    keeper = RetentionKeeper(node.log, Follower(), RetentionPolicy(max_bytes=1))
    assert keeper.run_once() == Decision(None)
    with pytest.raises(NotLeaderError, match="node-2 is"):
        keeper.purge_to("binlog.000004")


def test_a_purge_that_no_majority_takes_is_reported_and_not_waited_for_when_stopping(node: Node) -> None:
    class Isolated:
        is_leader = True
        asked = threading.Event()

        def propose(self, _entries: list[Entry]) -> int:
            return 999

        def wait_committed(self, _index: int, _deadline: float) -> bool:
            self.asked.set()
            return False

    consensus = Isolated()
    keeper = RetentionKeeper(node.log, consensus, RetentionPolicy(max_bytes=1), interval=0.01)
    keeper.start()
    assert consensus.asked.wait(60)
    keeper.stop()
    with pytest.raises(PurgeUnfinishedError, match="not committed"):
        keeper.purge_to("binlog.000004")


def test_an_empty_log_has_nothing_to_purge(tmp_path: Path) -> None:
    log = Log.open(tmp_path)
    consensus = Alone(log)
    keeper = RetentionKeeper(log, consensus, RetentionPolicy(max_age=1e-9, max_bytes=0))
    assert keeper.run_once() == Decision(None)
    assert keeper.purge_before(time.time()) is None
    with pytest.raises(UnknownLogError):
        keeper.purge_to("binlog.000001")
    write(log, Source().flavor())
    assert keeper.run_once() == Decision(None)
    log.close()


def test_the_purged_set_is_exact_with_many_servers(tmp_path: Path) -> None:
    """The GTIDs of many servers, in turns: what the purged files held, no more and no less."""
    log, source = started(tmp_path, segment_bytes=4096)
    before: list[GtidSet] = [GtidSet()]
    total = GtidSet()
    for number in range(300):
        uuid = f"{number * 7 % 40:08x}{UUID[8:]}"
        gtids = GtidSet.parse(f"{uuid}:{number // 40 + 1}")
        entry = source.transaction()
        write(log, replace(entry, meta=replace(entry.meta, gtids=gtids.encode())))
        total = total | gtids
        if number % 20 == 19:
            write(log, source.end_of_file(), source.file())
            before.append(total.copy())
    consensus = Alone(log)
    keeper = RetentionKeeper(log, consensus, RetentionPolicy())
    for file_id in (2, 5, 11, 16):
        keeper.purge_to(f"binlog.{file_id:06}")
        assert log.state.purged == before[file_id - 1]
        assert LogReader(tmp_path).purged() == before[file_id - 1]
    log.close()
    log = Log.open(tmp_path)
    assert log.state.purged == before[15]
    log.close()


def test_what_was_looked_up_once_is_known_until_its_segment_is_gone(node: Node) -> None:
    purger = Purger(node.log)
    first = purger.survey()
    again = purger.survey()
    assert [one.file_start for one in first] == [one.file_start for one in again]
    assert [one.first_index for one in first] == list_segments(node.directory)
    order = purger.order(next(one.file_start for one in first[3:] if one.file_start))
    write(node.log, order.entry)
    left = purger.survey()
    assert [one.first_index for one in left] == list_segments(node.directory)
    assert len(left) < len(first)


def test_the_policy_is_the_configurations() -> None:
    keep = Retention(max_age=5.0, max_bytes=1 << 30, keep_for_replicas=False)
    settings = StorageSettings(retention=keep, min_free_bytes=77)
    assert policy_of(settings) == RetentionPolicy(5.0, 1 << 30, False, 77)
