"""Disks that hang, fail or are full, one of three: the cluster goes on without that node, and the node says why."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters.lab import Lab, Node, note, notes, soon, until

from kingbus_node.raft.api import ConsensusFailedError
from kingbus_node.store import durable

CALM = 6.0
"""Election timeout: no leader but for the disks' sake, however busy the machine is."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as lab:
        yield lab


class Disks:
    """fdatasync of segments, which a test can make hang or fail for one node."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = durable.fdatasync
        self._hanging: dict[Path, threading.Event] = {}
        self._failing: set[Path] = set()
        monkeypatch.setattr(durable, "fdatasync", self._sync)

    def hang(self, node: Node) -> threading.Event:
        """Until the event is set."""
        event = self._hanging[node.directory] = threading.Event()
        return event

    def fail(self, node: Node) -> None:
        self._failing.add(node.directory)

    def _sync(self, fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path.suffix == ".log":
            if event := self._hanging.get(path.parent):
                event.wait()
            if path.parent in self._failing:
                raise OSError(errno.EIO, "the disk is broken")
        self._real(fd)


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> Disks:
    return Disks(monkeypatch)


def test_a_leader_whose_disk_hangs_hands_over(lab: Lab, disks: Disks) -> None:
    lab.found(3, slow_sync=0.5, election_timeout=CALM)
    leader = lab.write("before")
    released = disks.hang(leader)
    try:
        leader.cluster.propose([note("while it hangs")])
        until(lambda: not leader.cluster.is_leader, "it hands over")
        new = lab.write("after")
        assert new is not leader
        told = re.search(r"disk has not finished a sync for ([\d.]+) s", leader.cluster.suspended or "")
        assert told
        assert float(told[1]) >= 0.5, "or its election timeout, which grows with round trips"
        assert leader.cluster.commit_index < new.cluster.commit_index, "it shows only what is on its own disk"
        until(lambda: leader.cluster.in_touch, "it follows the new leader")
    finally:
        released.set()
    until(lambda: leader.cluster.suspended is None, "it may lead again")
    lab.check_equal()
    assert notes(leader.log) == ["before", "while it hangs", "after"]


def test_a_follower_whose_disk_hangs_holds_nobody_up(lab: Lab, disks: Disks) -> None:
    nodes = lab.found(3, election_timeout=CALM)
    leader = lab.write("before")
    follower = next(node for node in nodes if node is not leader)
    released = disks.hang(follower)
    try:
        texts = [f"entry {number}" for number in range(20)]
        for text in texts:
            lab.write(text)
        assert leader.cluster.is_leader
        assert follower.log.durable_index < leader.cluster.commit_index
        assert follower.cluster.commit_index < leader.cluster.commit_index
    finally:
        released.set()
    lab.check_equal()


def test_a_node_whose_disk_fails_stops_and_the_others_go_on(lab: Lab, disks: Disks) -> None:
    lab.found(3, election_timeout=CALM)
    leader = lab.write("before")
    told: list[object] = []
    leader.cluster.add_leadership_listener(told.append)
    disks.fail(leader)
    leader.cluster.propose([note("on its way")])
    until(lambda: leader.cluster.failure is not None, "the failure is told")
    until(lambda: told[-1:] == [None], "and that it does not lead")
    assert not leader.cluster.in_touch
    with pytest.raises(ConsensusFailedError, match="the disk is broken"):
        leader.cluster.propose([note("too late")])
    others = [node for node in lab.up() if node is not leader]
    new = lab.leader(others)
    assert new.cluster.wait_committed(new.cluster.propose([note("after")]), soon())
    lab.check_equal(*others)


def test_a_leader_whose_disk_is_full_hands_over_and_may_lead_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.found(3, election_timeout=CALM)
    leader = lab.write("before")
    reason = "the disk is full: 5 bytes are free"
    journal = leader.cluster._journal
    monkeypatch.setattr(type(journal), "unwritable_reason", property(lambda self: reason if self is journal else None))
    monkeypatch.setattr(type(journal), "writable", property(lambda self: self is not journal))
    until(lambda: not leader.cluster.is_leader, "it hands over")
    new = lab.write("after")
    assert new is not leader
    assert leader.cluster.suspended == reason
    assert leader.log.last_index < new.log.last_index, "it takes nothing more"
    monkeypatch.undo()
    until(lambda: leader.cluster.suspended is None, "there is room again")
    lab.check_equal()


def test_one_node_alone_whose_disk_is_full_waits_until_there_is_room(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (node,) = lab.found(1)
    lab.write("before")
    journal = node.cluster._journal
    monkeypatch.setattr(type(journal), "unwritable_reason", property(lambda _: "full"))
    monkeypatch.setattr(type(journal), "writable", property(lambda _: False))
    until(lambda: not node.cluster.is_leader, "it stops leading")
    assert node.cluster.suspended == "full"
    assert node.cluster.failure is None
    monkeypatch.undo()
    lab.write("after")
    assert notes(node.log) == ["before", "after"]
