"""A source, a cluster of nodes that read from it, and replicas of the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kingbus_node.demo.cluster_process import ClusterProcess
from kingbus_node.demo.compare import differences
from kingbus_node.demo.instance import Options, Server
from kingbus_node.demo.node_process import NodeProcess, Place, Settings
from kingbus_node.demo.replication import Upstream, executed, replicate, wait_caught_up
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until
from servers.chain import SOURCE, Chain
from servers.files import assert_files_equal
from servers.workload import Workload

if TYPE_CHECKING:
    from servers.fixtures import Pool


@dataclass(frozen=True, slots=True)
class Ensemble:
    """All of it; replicas are added by `replica`."""

    pool: Pool
    workload: Workload
    cluster: ClusterProcess

    @classmethod
    def start(
        cls,
        pool: Pool,
        flavor: Flavor,
        *,
        size: int = 3,
        options: Options | None = None,
        settings: Settings | None = None,
        places: Sequence[Place] = (),
    ) -> Ensemble:
        """A new source of the flavour's main release with the workload's tables, and a cluster that reads from it."""
        source = pool.server(SOURCE[flavor], options)
        return cls(pool, Workload(source).create(), pool.cluster(source, size, settings, places))

    @property
    def source(self) -> Server:
        return self.workload.source

    @property
    def leader(self) -> NodeProcess:
        """The node that leads, as soon as one does."""
        return self.cluster.wait_leader()

    @property
    def follower(self) -> NodeProcess:
        """One of those that follow."""
        return self.cluster.followers(self.leader)[0]

    def replica(self, node: NodeProcess, options: Options | None = None) -> Server:
        """A new server that reads from `node` by GTID."""
        replica = self.pool.server(SOURCE[self.source.flavor], options)
        replicate(replica, upstream(node))
        return replica

    def at(self, node: NodeProcess) -> Chain:
        """The chain through one of the nodes."""
        return Chain(self.pool, self.workload, node)

    def settle(self) -> None:
        """Wait until all nodes are up, and hold exactly what the source has executed by now, in the same place."""
        for node in self.cluster.nodes:
            node.launch()
        self.cluster.wait_ready()
        for node in self.cluster.nodes:
            self.at(node).wait_node()

    def converge(self, *replicas: Server) -> None:
        """All nodes and replicas come to hold what the source has written by now, and nothing else."""
        self.settle()
        for replica in replicas:
            wait_caught_up(self.source, replica, 90)
        for replica in replicas:
            assert differences(self.source, replica) == []
            if replica.flavor is Flavor.MYSQL:
                assert executed(replica) == executed(self.source), "promise 5: each GTID once, and none of its own"

    def assert_files_equal(self) -> None:
        """Promise 6: every node serves the same files as the source, byte for byte."""
        for node in self.cluster.nodes:
            assert_files_equal(self.at(node))

    def wait_held(self, gtids: str, *nodes: NodeProcess, timeout: float = 90.0) -> None:
        """Wait until nodes hold exactly `gtids`."""
        for node in nodes:
            chain = self.at(node)
            wait_until(
                lambda chain=chain: chain.holds(gtids),  # type: ignore[misc]
                timeout,
                f"{node!r} to hold {gtids}",
                interval=0.05,
                found=node.executed,
            )


def upstream(node: NodeProcess) -> Upstream:
    """What a replica of the node connects to."""
    return Upstream(node.port, host=node.place.host)
