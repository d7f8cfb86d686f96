"""A node that is cut off from its cluster closes its dumps and refuses new ones until it is in touch again (promise 7).

The other nodes are stopped (SIGSTOP), so that they are silent without being known to be gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pymysql
import pytest
from servers.ensemble import Ensemble
from servers.fixtures import Pool

from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Server, connect
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.replication import Upstream, executed, replicate, status
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

SERVER_SHUTDOWN = 1053


@pytest.fixture(scope="module", params=list(Flavor), ids=str)
def shared(request: pytest.FixtureRequest, module_pool: Pool) -> Ensemble:
    """A source and three nodes of each flavour."""
    return Ensemble.start(module_pool, Flavor(request.param), settings={"raft": {"election_timeout": "500ms"}})


@contextmanager
def paused(*nodes: NodeProcess) -> Iterator[None]:
    """Nobody hears of them meanwhile."""
    try:
        for node in nodes:
            node.pause()
        yield
    finally:
        for node in nodes:
            node.resume()


def login_error(node: NodeProcess) -> int:
    """The error that a client is told, 0 for none."""
    try:
        connect(node.port, user=REPLICATION_USER, password=REPLICATION_PASSWORD).close()
    except pymysql.err.MySQLError as error:
        return int(error.args[0])
    return 0


def receives(replica: Server) -> bool:
    now = status(replica)
    return now is not None and now.io_running == "Yes"


def test_a_node_alone_is_not_ready_closes_its_dumps_and_serves_again(shared: Ensemble) -> None:
    node = shared.follower
    replica = shared.replica(node)
    shared.converge(replica)
    others = [one for one in shared.cluster.nodes if one is not node]
    with paused(*others):
        wait_until(lambda: "quorum" in node.reasons(), 60, "the node to say that it is not ready")
        wait_until(lambda: login_error(node) == SERVER_SHUTDOWN, 60, "logins to be refused with 1053")
        wait_until(lambda: not receives(replica), 60, "the replica to be told", found=lambda: str(status(replica)))
        now = status(replica)
        assert now is not None
        assert not now.broken, "it has to try again by itself"
    shared.workload.small()
    shared.converge(replica)
    wait_until(lambda: node.reasons() == "", 60, "the node to be ready", found=node.reasons)


def test_a_leader_alone_steps_down_and_acknowledges_nothing(shared: Ensemble) -> None:
    shared.settle()
    leader = shared.leader
    others = shared.cluster.followers(leader)
    held = leader.executed()
    with paused(*others):
        wait_until(lambda: leader.status(local=True)["role"] != "leader", 60, "the leader to step down")
        shared.workload.small(3)
        assert leader.executed() == held
        wait_until(lambda: "quorum" in leader.reasons(), 60, "the node to say that it is not ready")
    shared.settle()


def test_replicas_of_a_node_whose_core_hangs_are_sent_away_by_its_workers(shared: Ensemble) -> None:
    node = shared.follower
    replica = shared.replica(node)
    shared.converge(replica)
    node.pause_core()
    try:
        wait_until(lambda: not receives(replica), 60, "the replica to be told", found=lambda: str(status(replica)))
    finally:
        node.resume()
    shared.workload.small()
    shared.converge(replica)


def test_a_node_that_comes_back_serves_when_it_has_caught_up(shared: Ensemble) -> None:
    """Its replica is ahead of it, and has to be kept waiting instead of being told that it is wrong."""
    node = shared.follower
    replica = shared.replica(shared.leader)
    node.kill()
    shared.workload.blobs((8 << 20, 8 << 20))
    shared.workload.small()
    others = [one for one in shared.cluster.nodes if one is not node]
    shared.wait_held(executed(shared.source), *others)
    node.launch()
    replicate(replica, Upstream(node.port))
    shared.workload.small()
    shared.converge(replica)
