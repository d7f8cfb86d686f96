"""Nodes without a log, or with one too old, copy segments from the leader as files, and join even after purges."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from clusters.lab import Lab, Node, soon, until
from unit.store.samples import Source

from kingbus_node.raft import copying
from kingbus_node.raft.api import CopyProgress
from kingbus_node.raft.copying import SegmentServer
from kingbus_node.store.entry import Entry
from kingbus_node.store.errors import StoreError
from kingbus_node.store.reader import LogReader
from kingbus_node.store.segment import log_path
from kingbus_node.store.transfer import CopyError, Intake, SegmentOffer, offers
from kingbus_node.store.verify import verify

SEGMENT = 32 << 10
CALM = 6.0
"""Election timeout: no other leader, however busy the machine is."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path, segment_bytes=SEGMENT) as lab:
        yield lab


class Story:
    """Three nodes whose log has many segments and source files."""

    def __init__(self, lab: Lab, **options: object) -> None:
        self.lab = lab
        self.source = Source()
        self.nodes = lab.found(3, copy_behind=10, election_timeout=CALM, **options)
        self.put([self.source.flavor(), self.source.file()])
        lab.settle()  # one that is late would have no log yet, and copy it
        self.files(8)

    @property
    def leader(self) -> Node:
        return self.lab.leader()

    def put(self, entries: list[Entry]) -> None:
        """The leader does not change in these stories."""
        leader = self.leader
        assert leader.cluster.wait_committed(leader.cluster.propose(entries), soon())

    def files(self, count: int) -> None:
        for _ in range(count):
            self.put([self.source.transaction((79, 500, 31)) for _ in range(60)])
            self.put([self.source.end_of_file(), self.source.file()])

    def purge(self, file_id: int) -> None:
        self.put([self.leader.log.purge_entry(file_id)])
        assert self.leader.log.first_index > 1

    def follower(self) -> Node:
        return next(node for node in self.nodes if node is not self.leader)

    def same_files(self, node: Node) -> None:
        """Everything that was copied, and the rest as entries: equal, also as files."""
        self.lab.check_equal()
        leader = self.leader
        # The leader may write down a name or a role at any moment. What came as entries has another note of what was
        # synced, and the same length.
        until(lambda: offers(node.log) == offers(leader.log), "segments of the same entries and the same lengths")
        until(lambda: node.log.state == leader.log.state, "the same state")
        views = [LogReader(one.directory) for one in (node, leader)]
        assert len({tuple(view.files()) for view in views}) == 1
        assert len({str(view.purged()) for view in views}) == 1
        assert node.cluster.copying is None
        assert not (node.directory / "incoming").exists()


def wipe(node: Node) -> None:
    node.stop()
    shutil.rmtree(node.directory)


def copies(caplog: pytest.LogCaptureFixture) -> int:
    return sum("bytes of the log from" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("purged", [0, 5])
def test_a_wiped_node_copies_the_log(lab: Lab, caplog: pytest.LogCaptureFixture, purged: int) -> None:
    caplog.set_level("INFO")
    story = Story(lab)
    if purged:
        story.purge(purged)
    node = story.follower()
    wipe(node)
    node.start()
    story.files(1)
    story.same_files(node)
    assert copies(caplog) == 1
    assert node.log.first_index == story.leader.log.first_index
    until(lambda: all(m.role == "voter" for m in story.leader.cluster.members()), "it votes again")
    node.stop()
    node.start()
    story.files(1)
    story.same_files(node)


def test_a_new_node_joins_after_purges(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    story = Story(lab)
    story.purge(6)
    address = lab.network.door()
    node = lab.add(address, [n.address for n in story.nodes], copy_behind=10, election_timeout=CALM).start()
    story.leader.cluster.add_member(node.name, address, deadline=soon())
    story.files(1)
    until(lambda: node.log.last_index > 0, "it has a log")
    story.same_files(node)
    assert copies(caplog) == 1


def test_a_node_that_was_away_for_longer_than_the_retention_copies_the_log(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    story = Story(lab)
    node = story.follower()
    lab.settle()
    node.stop()
    story.files(6)
    story.purge(13)
    node.start()
    story.files(1)
    story.same_files(node)
    assert copies(caplog) == 1


def test_an_interrupted_copy_goes_on_where_it_was(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(lab, copy_rate=30 << 10)  # it takes ten seconds, and is looked at after two
    monkeypatch.setattr(copying, "_BLOCK", 4096)
    node = story.follower()
    wipe(node)
    seen: list[CopyProgress] = []

    def under_way() -> bool:
        progress = node.cluster.copying
        if progress is not None and progress.done_bytes > 2 * SEGMENT:
            seen.append(progress)
        return bool(seen)

    node.start()
    until(under_way, "a part is copied")
    assert seen[0].done_bytes < seen[0].total_bytes
    assert seen[0].peer == story.leader.address
    assert node.cluster.suspended or node.log.last_index == 0
    node.stop()
    held = sorted((node.directory / "incoming").glob("*.log"))
    assert held
    stamps = [path.stat().st_mtime_ns for path in held]
    for other in story.nodes:
        other.cluster._segments._rate = 0
    node.start()
    story.same_files(node)
    assert [(node.directory / path.name).stat().st_mtime_ns for path in held] == stamps


def test_without_a_copy_the_log_comes_as_entries(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentServer, "serve", lambda *_: None)
    monkeypatch.setattr(copying, "_ATTEMPTS", 1)
    story = Story(lab)
    story.purge(5)
    node = story.follower()
    wipe(node)
    node.start()
    lab.settle()
    assert str(LogReader(node.directory).state().executed) == str(story.leader.log.state.executed)
    assert list(LogReader(node.directory).files()) == list(LogReader(story.leader.directory).files())
    assert (node.cluster.failure, node.cluster.copying) == (None, None)
    assert node.log.first_index == story.leader.log.retained_index, "it begins with the oldest source file itself"


def test_what_a_copy_has_left_does_not_stay_when_the_log_comes_as_entries(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(lab)
    story.purge(5)
    node = story.follower()
    wipe(node)
    whole, copied = copying._read, list[SegmentOffer]()

    def cut(
        connection: socket.socket, answers: BinaryIO, intake: Intake, offer: SegmentOffer, offset: int
    ) -> Iterator[int]:
        if copied:
            raise ConnectionResetError("the leader is gone")
        copied.append(offer)
        return whole(connection, answers, intake, offer, offset)

    monkeypatch.setattr(copying, "_read", cut)
    monkeypatch.setattr(copying, "_ATTEMPTS", 1)
    node.start()
    lab.settle()
    assert copied
    story.files(1)
    until(lambda: not (node.directory / "incoming").exists(), "what was copied is gone")
    story.files(1)
    lab.settle()
    assert str(LogReader(node.directory).state().executed) == str(story.leader.log.state.executed)


def test_a_small_log_is_not_copied(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    lab.found(3)
    for number in range(5):
        lab.write(f"entry {number}")
    lab.check_equal()
    assert "copying the log" not in caplog.text


def test_a_damaged_segment_is_mended_by_a_copy_from_a_peer(lab: Lab) -> None:
    """What `kingbus verify --repair` does: readers go on, with the right bytes."""
    story = Story(lab)
    lab.settle()
    node = story.follower()
    reader = LogReader(node.directory)
    offer = offers(node.log)[2]
    path = log_path(node.directory, offer.first_index)
    good = path.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(bad)
    damages = verify(node.directory).damages
    assert [damage.file for damage in damages] == [path.name]
    for other in story.nodes:
        if other is not node:  # one that is damaged itself is of no use
            theirs = log_path(other.directory, offer.first_index)
            with theirs.open("r+b") as file:
                file.write(bad)
            break
    until(lambda: all(m.reachable for m in node.cluster.members()), "it can ask both")
    assert node.cluster.mend(offer.first_index) in {one.name for one in story.nodes if one is not other}
    assert verify(node.directory).damages == []
    assert not (node.directory / "mending").exists()
    cursor = reader.cursor(offer.first_index)
    while cursor.next_index <= offer.last_index:
        assert cursor.read(1 << 20) is not None
    node.log.read(offer.last_index)
    with pytest.raises(StoreError, match="no segment that is sealed"):
        node.cluster.mend(offer.first_index + 1)
    with path.open("r+b") as file:
        file.write(bad)
    for one in story.nodes:
        if one is not node:
            one.stop()
    until(lambda: not any(m.reachable for m in node.cluster.members() if m.address != node.address), "alone")
    with pytest.raises(CopyError, match="no other member is connected"):
        node.cluster.mend(offer.first_index)
