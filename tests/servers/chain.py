"""The chain that most integration tests are about: a source, a node that reads from it, replicas of the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kingbus_node.demo.compare import differences
from kingbus_node.demo.instance import Options, Server, text
from kingbus_node.demo.node_process import NodeProcess, Settings
from kingbus_node.demo.replication import FilePosition, Upstream, executed, replicate, wait_caught_up
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until
from servers.workload import Workload

if TYPE_CHECKING:
    from servers.fixtures import Pool

SOURCE = {Flavor.MYSQL: "mysql-9.7", Flavor.MARIADB: "mariadb-10.11"}
_ENCRYPTION_HEADER = 512
"""Bytes of an encrypted file of MySQL that its positions do not count."""
REPLICAS = {Flavor.MYSQL: ("mysql-9.7",), Flavor.MARIADB: ("mariadb-10.11", "mariadb-11.8")}


@dataclass(frozen=True, slots=True)
class Chain:
    """A source with its workload, and a node; replicas are added by `replica`."""

    pool: Pool
    workload: Workload
    node: NodeProcess

    @classmethod
    def start(
        cls, pool: Pool, flavor: Flavor, *, options: Options | None = None, settings: Settings | None = None
    ) -> Chain:
        """A new source of the flavour's main release with the workload's tables, and a node that reads from it."""
        source = pool.server(SOURCE[flavor], options)
        return cls(pool, Workload(source).create(), pool.node(source, settings))

    @property
    def source(self) -> Server:
        return self.workload.source

    @property
    def upstream(self) -> Upstream:
        """What a replica of the node connects to."""
        return Upstream(self.node.port, host=self.node.place.host)

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases that replicas of this flavour are tested with."""
        return REPLICAS[self.source.flavor]

    def replica(self, start: FilePosition | None = None, release: str = "", options: Options | None = None) -> Server:
        """A new server that reads from the node, by GTID or from the file position `start`."""
        replica = self.pool.server(release or SOURCE[self.source.flavor], options)
        replicate(replica, self.upstream, start)
        return replica

    def holds(self, gtids: str) -> bool:
        """Whether the node's executed set is exactly `gtids`; False too while it does not answer."""
        try:
            return self.node.executed() == gtids
        except OSError:
            self.node.check()
            return False

    def at_end(self) -> bool:
        """Whether the node is where the source's last binlog file ends: a file may begin without any GTID.

        The node itself, not its leader. False too while it does not answer.
        """
        name, size, *more = self.source.sql("SHOW BINARY LOGS")[-1]
        end = int(text(size)) - (_ENCRYPTION_HEADER if more == ["Yes"] else 0)
        try:
            place = self.node.status(local=True)["source"]
        except OSError:
            self.node.check()
            return False
        return isinstance(place, dict) and (place["file"], place["position"]) == (text(name), end)

    def is_quiet(self) -> bool:
        """Whether the source writes nothing by itself any more: MariaDB writes a BINLOG_CHECKPOINT that names a new
        file into it, at its beginning or later, from a thread of its own.
        """
        if self.source.flavor is Flavor.MYSQL:
            return True
        file = text(self.source.sql("SHOW BINARY LOGS")[-1][0])
        events = self.source.sql(f"SHOW BINLOG EVENTS IN '{file}'")
        return any((text(event[2]), text(event[5])) == ("Binlog_checkpoint", file) for event in events)

    def wait_node(self, timeout: float = 90.0) -> None:
        """Wait until the node's executed set is exactly what the source has executed by now, in the same place.

        There it stays for as long as nobody writes to the source.
        """
        wait_until(self.is_quiet, timeout, f"{self.source!r} to write the checkpoint of its last file")
        target = executed(self.source)
        what = f"{self.node!r} to hold {target}"
        wait_until(lambda: self.holds(target), timeout, what, interval=0.05, found=self.node.executed)
        what = f"{self.node!r} to come to the end of the source's binlog"
        wait_until(self.at_end, timeout, what, interval=0.05, found=lambda: str(self.node.status(local=True)))

    def converge(self, *replicas: Server) -> None:
        """Node and replicas come to hold what the source has written by now; their tables equal the source's."""
        self.wait_node()
        for replica in replicas:
            wait_caught_up(self.source, replica, 90)
        for replica in replicas:
            assert differences(self.source, replica) == []
