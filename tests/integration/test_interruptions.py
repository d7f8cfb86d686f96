"""Restarts and crashes of source and node while rows flow: nothing is lost, nothing comes twice, bytes stay the same.

The node's executed set has to become exactly the source's, every file of the node has to equal the source's, and the
replica, which refuses a transaction that it has already or that does not fit its rows, has to converge.
"""

from __future__ import annotations

from servers.chain import Chain
from servers.files import assert_files_equal

ROUNDS = 3


def test_the_source_restarts(chain: Chain) -> None:
    replica = chain.replica()
    with chain.workload.in_background():
        for round_ in range(ROUNDS):
            chain.source.stop()
            chain.source.start()
            chain.workload.random_transactions(seed=round_, count=20)
    chain.converge(replica)
    assert_files_equal(chain)


def test_the_source_is_killed(chain: Chain) -> None:
    """Its current file then ends anywhere, without a ROTATE or STOP event."""
    replica = chain.replica()
    with chain.workload.in_background():
        for round_ in range(ROUNDS):
            chain.workload.random_transactions(seed=round_, count=20)
            chain.source.kill()
            chain.source.start()
    chain.converge(replica)
    assert_files_equal(chain)


def test_the_node_restarts(chain: Chain) -> None:
    replica = chain.replica()
    with chain.workload.in_background():
        for round_ in range(ROUNDS):
            chain.workload.random_transactions(seed=round_, count=20)
            chain.node.stop()
            chain.workload.everything()
            chain.node.start()
    chain.converge(replica)
    assert_files_equal(chain)


def test_the_node_is_killed(chain: Chain) -> None:
    replica = chain.replica()
    with chain.workload.in_background():
        for round_ in range(ROUNDS):
            chain.workload.random_transactions(seed=round_, count=50)
            chain.node.kill()
            chain.workload.everything()
            chain.node.start()
    chain.converge(replica)
    chain.converge(chain.replica())
    assert_files_equal(chain)


def test_the_node_is_killed_in_the_middle_of_a_huge_transaction(chain: Chain) -> None:
    replica = chain.replica()
    chain.workload.blobs((64 * 2**20,))
    chain.node.kill()
    chain.node.start()
    chain.workload.blobs((64 * 2**20, 1))
    chain.node.kill()
    chain.node.start()
    chain.converge(replica)
    assert_files_equal(chain)


def test_both_are_killed_at_once(chain: Chain) -> None:
    replica = chain.replica()
    with chain.workload.in_background():
        for round_ in range(ROUNDS):
            chain.workload.random_transactions(seed=round_, count=20)
            chain.source.kill()
            chain.node.kill()
            chain.node.start(ready=False)
            chain.source.start()
    chain.converge(replica)
    assert_files_equal(chain)


def test_the_source_is_away_for_a_while_and_replicas_go_on_with_what_there_is(chain: Chain) -> None:
    chain.workload.everything()
    chain.wait_node()
    gtids = chain.node.executed()
    chain.source.stop()
    late = chain.replica()
    chain.node.stop()
    chain.node.start()
    assert chain.node.executed() == gtids
    chain.source.start()
    chain.workload.small()
    chain.converge(late)
    assert_files_equal(chain)
