"""Three nodes catch up with a real MySQL, beside ``mysqlbinlog --raw`` to the same disk in the same run.

The leader of three fresh nodes reads all of the source's binlog; measured is the time until all of it is committed,
which is fsynced on a majority. mysqlbinlog does not sync. Workloads are those of `bench.ingest`; each round begins
with an empty log. Memory is that of each process at most, with the log's three threads, Raft and the reader in it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.figures import figure, settle
from bench.ingest import _OPTIONS, WORKLOADS, end_of, tool_seconds
from bench.nodes import Nodes

from kingbus_node.demo.instance import Server
from kingbus_node.demo.servers import ensure

ROUNDS = 3
WANTED = {"small": 0.6, "rows": 0.5}
MEMORY = 200.0
"""MB that the core may take."""


@dataclass(frozen=True, slots=True)
class _Round:
    """Seconds that it took, processor seconds of each node and peak memory in bytes, the leader's first; events."""

    took: float
    processor: list[float]
    memory: list[int]
    events: int


def _catch_up(server: Server, folder: Path) -> _Round:
    last, end = end_of(server)
    nodes = Nodes(folder)
    try:
        settle()  # now that they run: a machine does not wait long before it takes memory back
        answer, processor = nodes.order("fetch", port=server.port, last=last, end=end)
        return _Round(answer["took"], processor, [memory for _, memory in nodes.tell()], answer["events"])
    finally:
        nodes.stop()


def report(workload: str, megabytes: int, directory: Path) -> None:
    """Measures and prints one workload."""
    with (
        tempfile.TemporaryDirectory(dir=directory) as work,
        Server(ensure("mysql-9.7"), Path(work) / "server", server_id=1, options=_OPTIONS) as server,
    ):
        WORKLOADS[workload](server, megabytes)
        size = sum(int(str(row["File_size"])) for row in server.table("SHOW BINARY LOGS"))
        tool, rounds = [], []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory(dir=work) as target:
                settle()
                tool.append(tool_seconds(server, Path(target))[:2])
            with tempfile.TemporaryDirectory(dir=work) as target:
                rounds.append(_catch_up(server, Path(target)))
    _tell(workload, size, min(tool), rounds)


def _tell(workload: str, size: int, tool: tuple[float, float], rounds: list[_Round]) -> None:
    best = min(rounds, key=lambda one: one.took)
    gigabytes = size / 1e9
    speed = size / 1e6 / best.took
    print(f"\ncatching up, {workload}, {size / 1e6:.0f} MB, three nodes, committed by a majority of disks")
    print(f"  three nodes     {speed:8.1f} MB/s {best.events / best.took / 1e6:10.2f} M events/s")
    print(f"  mysqlbinlog     {size / 1e6 / tool[0]:8.1f} MB/s, processor time {tool[1] / gigabytes:.1f} s a GB")
    each = ", ".join(f"{seconds / gigabytes:.1f}" for seconds in best.processor)
    print(f"  processor time  {each} s a GB on the leader and the followers, beside the source's")
    peak = max(memory for one in rounds for memory in one.memory) / 1e6
    print(f"  memory at most  {', '.join(f'{memory / 1e6:.0f}' for memory in best.memory)} MB, the leader first")
    name = f"catching up with {workload}, three nodes"
    figure(
        f"{name}, beside mysqlbinlog --raw", f"{speed:.0f} MB/s", tool[0] / best.took, WANTED[workload], "x", least=True
    )
    figure(f"{name}, memory of a core at most", f"{len(rounds)} rounds", peak, MEMORY, "MB", least=False)
