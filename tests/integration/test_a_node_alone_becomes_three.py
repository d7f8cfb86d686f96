"""A node alone becomes a cluster of three while rows flow: its replica keeps its connection, nothing of the beginning
of the log is needed any more, and the copies that the new nodes take are seen, and keep to their pace.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
from servers.ensemble import Ensemble
from servers.fixtures import Pool

from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

RATE = 1 << 18
BLOCK = 1 << 20
"""So much is sent at once, and then waited for as long as it should take, but for the last time."""
# No other leader, nobody who is cut off, on a busy machine: its replica would connect again, and rightly so.
RAFT: dict[str, object] = {"copy_rate": RATE, "election_timeout": "4s"}
STORAGE: dict[str, object] = {"segment_bytes": "1MiB", "min_free_bytes": 0}


@pytest.mark.timeout(600)
def test_a_node_alone_becomes_three_and_its_replica_notices_nothing(pool: Pool) -> None:
    ensemble = Ensemble.start(pool, Flavor.MYSQL, size=1, settings={"raft": RAFT, "storage": STORAGE})
    (first,) = ensemble.cluster.nodes
    replica = ensemble.replica(first)
    for _ in range(3):
        ensemble.workload.blobs((1_000_000, 1_000_000))
        ensemble.workload.flush_logs()
    ensemble.converge(replica)
    wait_until(lambda: purges(ensemble, first), 60, "a purge: a new node cannot be sent all that ever was")
    connection = wait_until(lambda: connections(first), 60, "the node to know its replica")
    with ExitStack() as joined:
        with ensemble.workload.in_background():
            for number in (2, 3):
                join(ensemble, number, joined)
        ensemble.converge(replica)
        assert connections(first) == connection, "the replica has connected again"


def join(ensemble: Ensemble, number: int, joined: ExitStack) -> None:
    """Adds a node, looks at its copy of the log, and waits until it votes. It lives as long as `joined` is open."""
    first = ensemble.cluster.nodes[0]
    name = f"node-{number}"
    settings = {"raft": {**RAFT, "join": True}, "storage": STORAGE}
    node = NodeProcess(ensemble.source, first.folder.parent / name, name=name, settings=settings)
    node.peers = (first.raft_address,)
    ensemble.cluster.nodes.append(node)
    joined.callback(node.kill)
    node.start(ready=False)  # before it is a member: so that the copy is seen from the beginning
    first.order("POST", "/v1/members", {"name": name, "address": f"127.0.0.1:{node.raft_port}"})

    def seen_from() -> tuple[float, dict[str, object]] | None:
        """With a moment at which no more was copied than it tells."""
        now = time.monotonic()
        seen = copying(node)
        return None if seen is None else (now, seen)

    begun, seen = wait_until(seen_from, 60, f"{name} to copy the log", found=node.log_tail)
    assert seen["peer"] == "node-1"
    copied, total = int(str(seen["done_bytes"])), int(str(seen["total_bytes"]))
    assert 0 < copied < total
    wait_until(lambda: copying(node) is None, 120, f"{name} to have copied the log", found=node.log_tail)
    assert time.monotonic() - begun > (total - copied - BLOCK) / RATE, "copying keeps to its pace"
    wait_until(lambda: votes(first, name), 120, f"{name} to vote", found=node.log_tail)


def copying(node: NodeProcess) -> dict[str, object] | None:
    """The copy that a node tells of, once it knows how much there is and some is here."""
    try:
        now = node.status(local=True)["copying"]
    except OSError:
        node.check()
        return None
    return now if isinstance(now, dict) and now["done_bytes"] else None


def votes(asked: NodeProcess, name: str) -> bool:
    members = asked.status(local=True)["members"]
    assert isinstance(members, list)
    return any(member["name"] == name and member["role"] == "follower" for member in members)


def purges(ensemble: Ensemble, node: NodeProcess) -> bool:
    """Asks until it is done: the node keeps what it does not know yet that the replica has got."""
    node.order("POST", "/v1/binlogs/purge", {"to": ensemble.source.binary_logs()[2]})
    gtid = node.status(local=True)["gtid"]
    return isinstance(gtid, dict) and bool(gtid["purged"])


def connections(node: NodeProcess) -> list[object]:
    replicas = node.status(local=True)["replicas"]
    assert isinstance(replicas, list)
    return sorted(replica["connection"] for replica in replicas)
