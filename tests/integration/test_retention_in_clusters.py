"""Retention in a cluster: the leader decides, all nodes purge the same, and replicas of every node are spared."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters.lab import Lab, Node, note, soon, until
from unit.store.samples import Source

from kingbus_node.raft import asking, floors
from kingbus_node.raft.api import ConsensusError
from kingbus_node.raft.floors import EVERYTHING, ReplicaFloors
from kingbus_node.raft.hello import Hello
from kingbus_node.raft.keeper import Purged, PurgeUnfinishedError, RetentionKeeper
from kingbus_node.raft.purges import STREAM, ClusterPurges
from kingbus_node.store.purging import UnknownLogError
from kingbus_node.store.reader import LogReader
from kingbus_node.store.retention import NOTHING, RetentionPolicy


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path, segment_bytes=32 << 10) as lab:
        yield lab


class Keepers:
    """A keeper on each node, and the places of the replicas of each."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.nodes = lab.found(3, election_timeout=6.0)  # no other leader, however busy the machine is
        self.replicas: dict[str, list[int]] = {node.name: [] for node in self.nodes}
        leader, source = lab.leader(), Source()
        entries = [source.flavor(), source.file()]
        for _ in range(8):
            entries += [source.transaction((79, 500, 31)) for _ in range(60)]
            entries += [source.end_of_file(), source.file()]
        assert leader.cluster.wait_committed(leader.cluster.propose(entries), soon())
        self.keepers = {node.name: self._keeper(node) for node in self.nodes}
        # A majority is enough for all that: here the third one is in touch as well, and all know whom to ask.
        lab.settle()
        until(lambda: all(node.cluster.leader == leader.name for node in self.nodes), "all follow the leader")

    def _keeper(self, node: Node) -> RetentionKeeper:
        ask = ReplicaFloors(node.cluster, lambda: self.replicas[node.name])
        return RetentionKeeper(node.log, node.cluster, RetentionPolicy(max_bytes=1), replica_floors=ask)

    def start_of(self, file_id: int) -> int:
        self.lab.settle()
        return LogReader(self.nodes[0].directory).file(file_id).start_index

    def oldest_files(self) -> list[tuple[str, str]]:
        self.lab.settle()
        views = [LogReader(node.directory) for node in self.nodes]
        return [(str(next(view.files()).name), str(view.purged())) for view in views]


def test_all_nodes_purge_the_same_and_only_the_leader_decides(lab: Lab) -> None:
    story = Keepers(lab)
    leader = lab.leader()
    for node in story.nodes:
        if node is not leader:
            assert story.keepers[node.name].run_once() == NOTHING
    story.keepers[leader.name].run_once()
    found = story.oldest_files()
    assert len(set(found)) == 1
    assert found[0][0] == "binlog.000009"
    assert len({node.log.first_index for node in story.nodes}) == 1
    lab.check_equal()


def test_a_purge_on_a_follower_is_done_by_the_leader_and_seen_where_it_was_asked_for(lab: Lab) -> None:
    story = Keepers(lab)
    leader = lab.leader()
    purges = {node.name: ClusterPurges(node.cluster, story.keepers[node.name]) for node in story.nodes}
    follower, other = (node for node in story.nodes if node is not leader)
    assert purges[follower.name].purge("binlog.000003", None) == Purged("binlog.000003", 2, 0)
    assert next(LogReader(follower.directory).files()).name == "binlog.000003"
    story.replicas[other.name] = [story.start_of(5)]
    assert purges[follower.name].purge("binlog.000008", None) == Purged("binlog.000005", 2, 3)
    kept = purges[follower.name].purge("binlog.000008", None)
    assert kept == Purged("binlog.000005", 0, 3)
    assert kept.readers == 1
    story.replicas[other.name] = []
    assert purges[follower.name].purge(None, 1.0) is None
    with pytest.raises(UnknownLogError, match=r"there is no binlog binlog\.000001"):
        purges[follower.name].purge("binlog.000001", None)
    with pytest.raises(UnknownLogError, match="a name of 600 characters"):
        purges[follower.name].purge("x" * 600, None)
    assert purges[leader.name].purge("binlog.000006", None) == Purged("binlog.000006", 1, 0)
    assert len(set(story.oldest_files())) == 1


def test_a_purge_is_seen_where_it_was_asked_for_although_other_entries_were_lost_there(lab: Lab) -> None:
    story = Keepers(lab)
    deposed = lab.leader()
    others = [node for node in story.nodes if node is not deposed]
    purges = {node.name: ClusterPurges(node.cluster, story.keepers[node.name]) for node in story.nodes}
    lab.network.part([deposed.address], [node.address for node in others])
    deposed.cluster.propose([note(f"nobody gets this {number}") for number in range(50)])
    leader = lab.leader(others)
    until(lambda: not deposed.cluster.is_leader, "the one who is cut off sees it")
    lab.network.heal()
    until(lambda: deposed.cluster.leader == leader.name, "it follows")
    lab.settle()
    assert purges[deposed.name].purge("binlog.000003", None) == Purged("binlog.000003", 2, 0)


def test_a_purge_that_cannot_reach_the_leader_says_so(lab: Lab) -> None:
    story = Keepers(lab)
    leader = lab.leader()
    follower, other = (node for node in story.nodes if node is not leader)
    purges = ClusterPurges(follower.cluster, story.keepers[follower.name])

    asking.answer(leader.cluster, STREAM, lambda _: {"error": "other", "text": "this node does not lead"})
    with pytest.raises(ConsensusError, match="this node does not lead"):
        purges.purge("binlog.000003", None)

    def nonsense(connection: socket.socket, _peer: Hello) -> None:
        connection.sendall(b"what?\n")

    leader.cluster.serve_streams(STREAM, nonsense)
    with pytest.raises(ConsensusError, match=r"cannot be read|does not answer any more"):
        purges.purge("binlog.000003", None)

    def dies(connection: socket.socket, _peer: Hello) -> None:
        """It may have done it, or not."""
        connection.recv(1 << 10)

    leader.cluster.serve_streams(STREAM, dies)
    with pytest.raises(PurgeUnfinishedError, match=r"may do it yet: .* has ended its answer"):
        purges.purge("binlog.000003", None)
    other.stop()
    leader.stop()  # the last, for without it the two others would elect one of them
    with pytest.raises(ConsensusError, match=r"cannot be asked|there is no leader now"):
        purges.purge("binlog.000003", None)
    assert next(LogReader(follower.directory).files()).name == "binlog.000001"


def test_what_a_replica_of_any_node_needs_stays(lab: Lab) -> None:
    story = Keepers(lab)
    leader = lab.leader()
    follower = next(node for node in story.nodes if node is not leader)
    story.replicas[follower.name] = [story.start_of(5), story.start_of(4) + 3]
    story.replicas[leader.name] = [story.start_of(7)]
    decision = story.keepers[leader.name].run_once()
    assert decision.held == story.start_of(4) + 3
    found = story.oldest_files()
    assert len(set(found)) == 1
    assert "binlog.000001" < found[0][0] <= "binlog.000004"
    follower.stop()  # and with it its replicas
    until(lambda: sum(member.reachable for member in leader.cluster.members()) == 2, "the leader knows that it is gone")
    assert story.keepers[leader.name].run_once().held == story.start_of(7)


def test_a_node_that_does_not_answer_counts_as_needing_everything(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(floors, "_SECONDS", 1.0)
    story = Keepers(lab)
    leader = lab.leader()
    follower = next(node for node in story.nodes if node is not leader)

    def hang(_connection: socket.socket, _peer: Hello) -> None:
        released.wait(60)

    follower.cluster.serve_streams(floors.STREAM, hang)
    try:
        assert EVERYTHING in ReplicaFloors(leader.cluster, list)()
        assert story.keepers[leader.name].run_once().cut is None
    finally:
        released.set()
