"""With semi-sync on, a commit returns to the source's client only when the node has the transaction on disk."""

from __future__ import annotations

import threading

import pytest
from servers.chain import Chain
from servers.compatibility import Reads
from servers.fixtures import Pool
from servers.semi_sync import OPTIONS, variable, wait_for_node, wait_without_replicas

from kingbus_node.demo.replication import executed
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

ROUNDS = 5


@pytest.fixture
def synchronous(pool: Pool, flavor: Flavor) -> Chain:
    """A chain whose source waits for its node, once the node is there, for ever."""
    chain = Chain.start(pool, flavor, options=OPTIONS[flavor], settings={"source": {"semi_sync": True}})
    wait_for_node(chain.source)
    return chain


def test_every_commit_is_acknowledged(synchronous: Chain, reads: Reads) -> None:
    before = variable(synchronous.source, "no_tx")
    synchronous.workload.everything()
    synchronous.wait_node()
    assert variable(synchronous.source, "status") == "ON"
    assert variable(synchronous.source, "no_tx") == before
    assert int(variable(synchronous.source, "yes_tx")) > 0
    reads(synchronous.source, "semi-sync, waiting for the cluster for ever")


def test_what_a_client_saw_committed_survives_the_loss_of_source_and_node(synchronous: Chain) -> None:
    """Each round the node is killed the moment after a commit has returned, and started without the source."""
    for _ in range(ROUNDS):
        synchronous.workload.small(count=3)
        synchronous.node.kill()
        gtids = executed(synchronous.source)
        synchronous.source.kill()
        synchronous.node.start()
        assert synchronous.node.executed() == gtids
        synchronous.source.start()
        wait_for_node(synchronous.source)


def test_a_commit_waits_until_the_node_has_it(synchronous: Chain) -> None:
    source = synchronous.source
    wait_without_replicas(source)
    synchronous.node.kill()
    writer = threading.Thread(target=synchronous.workload.small, args=(1,))
    writer.start()
    sessions = f"rpl_semi_sync_{'source' if source.flavor is Flavor.MYSQL else 'master'}_wait_sessions"
    wait_until(lambda: source.sql(f"SHOW STATUS LIKE '{sessions}'")[0][1] == "1", 30, "a session that waits")
    assert writer.is_alive()
    synchronous.node.start()
    writer.join(30)
    assert not writer.is_alive()
    synchronous.wait_node()
