"""Disks that refuse writes for want of room: no node dies, nothing is lost, and all goes on when there is room."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from clusters.lab import Lab, Node, note, notes, until

from kingbus_node.raft.api import ConsensusError

CALM = 6.0
"""Election timeout: no leader but for the disks' sake, however busy the machine is."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as lab:
        yield lab


class Room:
    """Takes the room away from the logs of some nodes, as the file system does: pwritev is short, then refuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pwritev, self._fdatasync = os.pwritev, os.fdatasync
        self._full: set[Path] = set()
        self._unsynced: set[Path] = set()
        self.refused = 0
        monkeypatch.setattr(os, "pwritev", self._write)
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def take(self, node: Node, *, syncs: bool = False) -> None:
        (self._unsynced if syncs else self._full).add(node.directory)

    def give(self, node: Node) -> None:
        self._full.discard(node.directory)
        self._unsynced.discard(node.directory)

    def _write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        if self._is_of(fd, self._full):
            self.refused += 1
            if offset < os.fstat(fd).st_size and len(buffers[0]) > 1:
                return os.pwrite(fd, memoryview(buffers[0])[: len(buffers[0]) // 2], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._pwritev(fd, buffers, offset)

    def _sync(self, fd: int) -> None:
        if self._is_of(fd, self._unsynced):
            self.refused += 1
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        self._fdatasync(fd)

    @staticmethod
    def _is_of(fd: int, directories: set[Path]) -> bool:
        return bool(directories) and Path(f"/proc/self/fd/{fd}").readlink().parent in directories


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    return Room(monkeypatch)


def test_a_leader_that_finds_no_room_hands_over_and_comes_back(lab: Lab, room: Room) -> None:
    lab.found(3, election_timeout=CALM)
    leader = lab.write("before")
    room.take(leader)
    try:
        new = lab.write("while it is full")
        assert new is not leader
        # It says so now and then: for a second after the disk has refused something.
        until(lambda: "is full" in str(leader.cluster.suspended), "it says why it does not lead")
        assert leader.cluster.failure is None
        assert room.refused > 0
    finally:
        room.give(leader)
    until(lambda: leader.cluster.suspended is None, "it may lead again")
    lab.write("after")
    lab.check_equal()
    assert notes(leader.log) == ["before", "while it is full", "after"]


def test_a_follower_that_finds_no_room_acknowledges_nothing_and_catches_up(lab: Lab, room: Room) -> None:
    nodes = lab.found(3, election_timeout=CALM)
    leader = lab.write("before")
    follower = next(node for node in nodes if node is not leader)
    room.take(follower)
    try:
        texts = [f"entry {number}" for number in range(20)]
        for text in texts:
            lab.write(text)
        until(lambda: room.refused > 0, "it was refused")
        assert follower.log.last_index < leader.log.last_index
        assert follower.cluster.failure is None
    finally:
        room.give(follower)
    lab.check_equal()
    assert notes(follower.log) == ["before", *texts]


def test_when_all_are_full_nobody_leads_until_there_is_room(lab: Lab, room: Room) -> None:
    """Also when the time for a handover is longer than a refusal of the disk is believed."""
    nodes = lab.found(3, election_timeout=CALM)
    leader = lab.write("before")
    for node in nodes:
        room.take(node)
    try:
        with pytest.raises(ConsensusError):  # once it has stepped down
            leader.cluster.propose([note("refused")])
        until(lambda: not any(node.cluster.is_leader for node in nodes), "nobody leads")
    finally:
        for node in nodes:
            room.give(node)
    lab.write("after")
    lab.check_equal()
    assert notes(leader.log) == ["before", "after"]
    assert [node.cluster.failure for node in nodes] == [None] * 3


@pytest.mark.parametrize("count", [1, 3])
def test_a_sync_that_finds_no_room_is_made_up_for(lab: Lab, room: Room, count: int) -> None:
    """The entries were taken, and are on their way: they are durable and shown once there is room."""
    lab.found(count, election_timeout=CALM)
    leader = lab.write("before")
    room.take(leader, syncs=True)
    try:
        index = leader.cluster.propose([note("on its way")])
        until(lambda: room.refused > 2, "the sync is tried again and again")
        assert leader.log.durable_index < index
        assert leader.cluster.failure is None
    finally:
        room.give(leader)
    until(lambda: leader.log.durable_index >= index, "it is durable")
    lab.write("after")
    lab.check_equal()
    assert notes(leader.log) == ["before", "on its way", "after"]


def fill(node: Node) -> None:
    """Proposes more than there is room for."""
    for _ in range(200):
        node.cluster.wait_committed(node.cluster.propose([note("more", 8000)]), 0)


def small_disk(directory: Path, size: int) -> bool:
    """A file system of its own of `size` bytes, if this user may mount one."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_a_node_alone_on_a_disk_that_fills_up_waits_for_room(tmp_path: Path, room: Room) -> None:
    """On a real small file system where one can be mounted; else the room is taken away by hand at the same size."""
    place = tmp_path / "disk"
    mounted = small_disk(place, 1 << 20)
    try:
        with Lab(place, segment_bytes=64 << 10) as lab:
            (node,) = lab.found(1, min_free_bytes=0)
            written = 60 if mounted else 100
            for number in range(written):
                lab.write(f"entry {number}", size=8000)
            if mounted:
                (place / "ballast").write_bytes(bytes(300 << 10))
            else:
                room.take(node)
            with pytest.raises(ConsensusError):
                fill(node)

            def stopped() -> bool:
                """A refusal is believed for a second. Then the node leads again, if its first entry finds room."""
                if node.cluster.suspended is None:
                    with contextlib.suppress(ConsensusError):
                        fill(node)
                return node.cluster.suspended is not None

            until(stopped, "it stops")
            assert node.cluster.failure is None
            (place / "ballast").unlink(missing_ok=True)
            room.give(node)
            until(lambda: node.cluster.suspended is None, "there is room")
            lab.write("after")
            found = notes(node.log)
            assert found[:written] == [f"entry {number}" for number in range(written)]
            assert set(found[written:-1]) <= {"more"}
            assert found[-1] == "after"
            executed = node.log.state
            node.stop()
            assert node.start().log.state.facts["note"] == executed.facts["note"]
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)
