"""`kubectl drain`: the budget of disruptions keeps a quorum, and the cluster goes on elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.world import PATIENCE, Refused, Release, Stage, kubectl
from kingbus_operator.planning.observed import dig


@contextmanager
def drained(node: str) -> Iterator[None]:
    """Nothing but what belongs to the node runs on it."""
    try:
        kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=170s", timeout=PATIENCE)
        yield
    finally:
        kubectl("uncordon", node)


def test_a_node_is_drained(running: Stage, release: Release) -> None:
    leader = running.wait_settled(3)
    node = running.node_of(leader)

    with running.load(), running.counting() as pods:
        with drained(node):
            assert all(dig(pod, "spec", "nodeName") != node for pod in running.pods())
            running.wait_settled(3)
            running.catch_up()
        running.wait_settled(3)

    assert pods.fewest >= 2, "one pod at a time"
    running.wait(lambda: running.allowed_disruptions() == 1, "the budget to be whole again")
    release.scale(2)


def test_an_eviction_that_would_cost_the_quorum_is_refused(running: Stage) -> None:
    """One pod cannot run; so no other may be evicted."""
    leader = running.wait_settled(3)
    away, other = [pod for pod in running.pod_names() if pod != leader]
    nodes = [str(name) for name in kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split()]
    kubectl("cordon", *nodes)
    try:
        kubectl("delete", "pod", away, "-n", running.where)
        running.wait(lambda: running.allowed_disruptions() == 0, "the budget to be spent")

        for name in (other, leader):
            with pytest.raises(Refused, match="disruption budget"):
                running.evict(name)

        running.converges()
    finally:
        kubectl("uncordon", *nodes)
    running.wait_settled(3)
    running.wait(lambda: running.allowed_disruptions() == 1, "the budget to be whole again")
    running.evict(other)
    running.wait_settled(3)
    running.converges()
