"""A log with the consensus of a node that is alone, without the rest of a node: for tests and measurements."""

from __future__ import annotations

import threading

from kingbus_node.demo.waiting import Timeout
from kingbus_node.raft.api import Leadership
from kingbus_node.raft.cluster import Cluster
from kingbus_node.raft.options import ClusterOptions
from kingbus_node.store.log import Log

__all__ = ["lead_alone"]

_PATIENCE = 60.0


def lead_alone(log: Log) -> Cluster:
    """A cluster of one that leads already, so that proposals are taken at once. The caller closes it, then the log."""
    ready = threading.Event()

    def changed(leadership: Leadership | None) -> None:
        if leadership is not None and leadership.ready:
            ready.set()

    cluster = Cluster(log, "alone", ClusterOptions(min_free_bytes=0))
    cluster.add_leadership_listener(changed)
    if not ready.wait(_PATIENCE):
        cluster.close()
        raise Timeout(f"the only member of a cluster did not lead within {_PATIENCE:g} s")
    return cluster
