"""How long a replica waits when the leader is lost: killed, or told to hand over.

Three nodes and a real source and replica on this machine; the replica is connected to a node that survives. Measured
is the time from the loss to the moment when the replica has a row that the source wrote right after it. Also: what the
processes of a node use meanwhile, from proc(5).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.figures import figure

from kingbus_node.demo.cluster_process import ClusterProcess
from kingbus_node.demo.instance import Server
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.replication import Upstream, replicate, wait_caught_up
from kingbus_node.demo.servers import ensure
from kingbus_node.demo.waiting import wait_until

_POLL = 0.002
_PATIENCE = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of a node: seconds of processor time since their start, bytes resident."""

    cpu: float
    resident: int


def usage(node: NodeProcess) -> Usage:
    """What a node's processes, which are a session of their own, have used."""
    cpu, resident = 0.0, 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(") ")[2].split()
            status = (process / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
        if int(fields[3]) != node.pid:
            continue
        cpu += (int(fields[11]) + int(fields[12])) / _TICKS
        resident += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))
    return Usage(cpu, resident)


class Failover:
    """The cluster with its ends, running."""

    def __init__(self, source: Server, replica: Server, cluster: ClusterProcess) -> None:
        self._source = source
        self._replica = replica
        self._cluster = cluster
        self._row = 0
        source.sql("CREATE DATABASE f", "CREATE TABLE f.t (id INT PRIMARY KEY)")

    def measure(self, lose: Callable[[NodeProcess], None]) -> float:
        """Seconds from the loss of the leader to the next row at a replica of another node."""
        leader = self._cluster.wait_leader()
        replicate(self._replica, Upstream(self._cluster.followers(leader)[0].port))
        self._write()
        wait_caught_up(self._source, self._replica)
        with closing(self._replica.connect()) as connection, connection.cursor() as cursor:

            def arrived() -> bool:
                cursor.execute("SELECT COUNT(*) FROM f.t WHERE id = %s", (self._row,))
                ((count,),) = cursor.fetchall()
                return bool(count)

            begun = time.monotonic()
            lose(leader)
            self._write()
            wait_until(arrived, _PATIENCE, "the next row at the replica", interval=_POLL)
            took = time.monotonic() - begun
        leader.launch()
        self._cluster.wait_ready()
        return took

    def _write(self) -> None:
        self._row += 1
        self._source.sql(f"INSERT INTO f.t VALUES ({self._row})")


def hand_over(leader: NodeProcess) -> None:
    """To whom the leader chooses."""
    leader.order("POST", "/v1/leader/transfer", {})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    binaries = ensure("mysql-9.7")
    with tempfile.TemporaryDirectory(prefix="kingbus-failover-") as work:
        folder = Path(work)
        with (
            Server(binaries, folder / "source", server_id=1) as source,
            Server(binaries, folder / "replica", server_id=2) as replica,
            ClusterProcess(source, folder) as cluster,
        ):
            failover = Failover(source, replica, cluster)
            for name, lose, wanted in (("killed (SIGKILL)", NodeProcess.kill, 2.0), ("handed over", hand_over, 0.3)):
                times = sorted(failover.measure(lose) for _ in range(rounds))
                median = statistics.median(times)
                spread = f"{rounds} rounds, {times[0] * 1000:.0f} to {times[-1] * 1000:.0f} ms"
                figure(f"next row at a replica, leader {name}, median", spread, median, wanted, "s", least=False)
            before, begun = [usage(node) for node in cluster.nodes], time.monotonic()
            time.sleep(10.0)
            leader = cluster.wait_leader()
            for node, then in zip(cluster.nodes, before, strict=True):
                now = usage(node)
                role = "leader" if node is leader else "follower"
                share = (now.cpu - then.cpu) / (time.monotonic() - begun)
                sys.stdout.write(
                    f"{node.name} ({role}), idle: {share * 100:.1f} % of a processor, "
                    f"{now.resident / 2**20:.0f} MiB resident in all its processes\n"
                )


if __name__ == "__main__":
    main()
