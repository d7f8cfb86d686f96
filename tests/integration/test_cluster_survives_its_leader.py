"""A cluster of real processes loses its leader, by every way there is, while rows flow and replicas read.

After each story every node holds exactly what the source has executed, every replica's tables equal the source's with
no GTID of its own, and at the end the files of all nodes equal the source's byte for byte.
"""

from __future__ import annotations

import pytest
from servers.ensemble import Ensemble
from servers.fixtures import Pool

from kingbus_node.demo.instance import Server
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.replication import FilePosition, Upstream, replicate, status
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

ROUNDS = 3
# No election but when a leader is lost, and nobody who is cut off, on a busy machine. One that dies is missed at once.
SETTINGS = {"raft": {"election_timeout": "4s"}}


@pytest.fixture(scope="module", params=list(Flavor), ids=str)
def shared(request: pytest.FixtureRequest, module_pool: Pool) -> Ensemble:
    """A source and three nodes of each flavour for all stories."""
    return Ensemble.start(module_pool, Flavor(request.param), settings=SETTINGS)


@pytest.fixture(scope="module")
def replicas(shared: Ensemble) -> list[Server]:
    """One on each node."""
    return [shared.replica(node) for node in shared.cluster.nodes]


def test_the_leader_is_killed(shared: Ensemble, replicas: list[Server]) -> None:
    with shared.workload.in_background():
        for round_ in range(ROUNDS):
            shared.workload.random_transactions(seed=round_, count=20)
            leader = shared.leader
            leader.kill()
            shared.cluster.wait_leader(other_than=leader)
            shared.workload.everything()
            leader.start()
    shared.converge(*replicas)


def test_a_follower_is_killed(shared: Ensemble, replicas: list[Server]) -> None:
    with shared.workload.in_background():
        for round_ in range(2):
            follower = shared.follower
            follower.kill()
            shared.workload.random_transactions(seed=round_, count=40)
            follower.start()
    shared.converge(*replicas)


def test_all_nodes_are_killed_at_once(shared: Ensemble, replicas: list[Server]) -> None:
    with shared.workload.in_background():
        for round_ in range(2):
            shared.workload.random_transactions(seed=round_, count=20)
            shared.cluster.kill()
            shared.workload.small()
            shared.cluster.start()
    shared.converge(*replicas)


@pytest.mark.parametrize("all_processes", [True, False], ids=["all-processes", "core-only"])
def test_a_leader_hangs_and_comes_back(all_processes: bool, shared: Ensemble, replicas: list[Server]) -> None:
    with shared.workload.in_background():
        leader = shared.leader
        if all_processes:
            leader.pause()
        else:
            leader.pause_core()
        try:
            others = [node for node in shared.cluster.nodes if node is not leader]
            shared.cluster.wait_leader(among=others)
            shared.workload.random_transactions(seed=1, count=20)
        finally:
            leader.resume()
        shared.workload.random_transactions(seed=2, count=20)
    shared.converge(*replicas)


def test_the_leader_is_told_to_end(shared: Ensemble, replicas: list[Server]) -> None:
    """It hands over and ends with code 0."""
    with shared.workload.in_background():
        leader = shared.leader
        said_before = leader.log.stat().st_size
        leader.stop()
        assert b"handed the leadership over" in leader.log.read_bytes()[said_before:]
        shared.workload.random_transactions(seed=1, count=20)
        leader.start()
    shared.converge(*replicas)


def test_leadership_is_handed_over_and_replicas_notice_nothing(shared: Ensemble, replicas: list[Server]) -> None:
    shared.converge(*replicas)

    def one_each() -> list[list[object]] | None:
        """A node knows of a connection a moment after it is there, and of its end as well."""
        now = [connections(node) for node in shared.cluster.nodes]
        return now if [len(ids) for ids in now] == [1, 1, 1] else None

    connected = wait_until(
        one_each, 60, "a replica on each node", found=lambda: str([*map(connections, shared.cluster.nodes)])
    )
    leader = shared.leader
    with shared.workload.in_background():
        leader.order("POST", "/v1/leader/transfer", {})
        shared.cluster.wait_leader(other_than=leader)
        shared.workload.random_transactions(seed=1, count=20)
    shared.converge(*replicas)
    assert [connections(node) for node in shared.cluster.nodes] == connected


def connections(node: NodeProcess) -> list[object]:
    """The ids of the connections on which replicas read from a node."""
    replicas = node.status(local=True)["replicas"]
    assert isinstance(replicas, list)
    return sorted(replica["connection"] for replica in replicas)


def test_a_replica_moves_from_node_to_node_in_the_middle_of_its_work(shared: Ensemble, replicas: list[Server]) -> None:
    replica = replicas[0]
    with shared.workload.in_background():
        for round_ in range(2):
            for node in shared.cluster.nodes:
                shared.workload.random_transactions(seed=round_, count=5)
                replicate(replica, Upstream(node.port))
    shared.converge(*replicas)
    word = "REPLICA" if replica.flavor is Flavor.MYSQL else "SLAVE"
    for node in shared.cluster.nodes:  # the same places in the same files
        replica.sql(f"STOP {word}")
        reached = status(replica)
        assert reached is not None
        shared.workload.small()
        replicate(replica, Upstream(node.port), FilePosition(reached.executed_file, reached.executed_position))
        shared.converge(*replicas)


def test_the_files_of_all_nodes_equal_the_source(shared: Ensemble) -> None:
    shared.settle()
    shared.assert_files_equal()
