"""Speed of serving: one raw reader of a node, beside the same reader of the real source in the same run.

``python -m bench.serve [--release mysql-9.7|mariadb-10.11] [--small MB] [--rows MB] [--folder DIR]``. A real server is
filled once per workload and a node (its own processes, as in production) fetches its binlog; then both are asked for
all of it, alternating, by a client that only receives. Both send from the page cache. Both must send the same number of
bytes, so neither can leave something out. Workloads are those of `bench.ingest`. Modes:

file    by file and position, from the first file on
gtid    by an empty GTID set (MySQL), an empty position (MariaDB): nothing is left out
held    by what was executed half-way (MySQL): the reader has a random half of the GTIDs behind that already
plain   MariaDB without ANNOTATE_ROWS, as its replicas ask: one event in each transaction is left out
"""

from __future__ import annotations

import argparse
import random
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.figures import figure
from bench.ingest import _MARIADB_OPTIONS, _OPTIONS, WORKLOADS

from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Server, connect, text
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.replication import executed
from kingbus_node.demo.servers import Flavor, ensure
from kingbus_node.demo.waiting import wait_until
from kingbus_node.wire.commands import Command, DumpFlag

ROUNDS = 5
_BUFFER = 4 << 20
_CHECKSUM = "SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32'"
_CAPABILITY = "SET @mariadb_slave_capability = 4"


@dataclass(frozen=True, slots=True)
class Request:
    """A dump command (without the packet's header) and the statements before it."""

    mode: str
    command: bytes
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """The best of the rounds. `bytes` of packets; seconds that each of the two servers took to send them."""

    workload: str
    mode: str
    bytes: int
    node: float
    source: float

    @property
    def speed(self) -> float:
        """The node's, MB/s."""
        return self.bytes / 1e6 / self.node

    @property
    def ratio(self) -> float:
        """The node's speed as a multiple of the source's."""
        return self.source / self.node

    def __str__(self) -> str:
        node, source = (self.bytes / 1e6 / seconds for seconds in (self.node, self.source))
        return f"{self.workload:6} {self.mode:6} {node:7.0f} MB/s   source {source:7.0f} MB/s   {self.ratio:5.2f} x"


def file_command(flags: int = DumpFlag.NON_BLOCK) -> bytes:
    """COM_BINLOG_DUMP of everything, beginning with the oldest file."""
    return struct.pack("<BIHI", Command.BINLOG_DUMP, 4, flags, 0)


def gtid_command(held: GtidSet) -> bytes:
    """COM_BINLOG_DUMP_GTID for a replica that has `held`."""
    encoded = held.encode()
    return struct.pack("<BHIIQI", Command.BINLOG_DUMP_GTID, DumpFlag.NON_BLOCK, 0, 0, 4, len(encoded)) + encoded


def requests(server: Server) -> Iterator[Request]:
    """What is measured with this server."""
    if server.flavor is Flavor.MYSQL:
        yield Request("file", file_command(), (_CHECKSUM,))
        yield Request("gtid", gtid_command(GtidSet()), (_CHECKSUM,))
        yield Request("held", gtid_command(_half(GtidSet.parse(executed(server)))), (_CHECKSUM,))
        return
    statements = ("SET @master_binlog_checksum = 'CRC32'", _CAPABILITY)
    annotated = file_command(DumpFlag.NON_BLOCK | DumpFlag.MARIADB_ANNOTATE_ROWS)
    yield Request("file", annotated, statements)
    yield Request("gtid", annotated, (*statements, "SET @slave_connect_state = ''"))
    yield Request("plain", file_command(), statements)


def _half(everything: GtidSet) -> GtidSet:
    """The first half of the GTIDs, and of the others a half at random, in runs."""
    choose = random.Random(1)
    out = GtidSet()
    for (uuid, tag), intervals in everything.sources():
        last = intervals.last or 0
        out.add_range(uuid, 1, last // 2, tag)
        at = last // 2 + 1
        while at < last:
            length = choose.randint(1, 1000)
            if choose.random() < 0.5:
                out.add_range(uuid, at, min(at + length, last + 1), tag)
            at += length
    return out


def read(port: int, request: Request) -> tuple[int, float]:
    """Ask for a dump and take what comes. Returns (bytes, seconds)."""
    with closing(connect(port, user=REPLICATION_USER, password=REPLICATION_PASSWORD)) as connection:
        with connection.cursor() as cursor:
            for statement in request.statements:
                cursor.execute(statement)
        sock: socket.socket = connection._sock  # type: ignore[attr-defined]  # noqa: SLF001  # PyMySQL shows no other way
        buffer = memoryview(bytearray(_BUFFER))
        total = 0
        start = time.perf_counter()
        sock.sendall(len(request.command).to_bytes(3, "little") + b"\0" + request.command)
        while (got := sock.recv_into(buffer)) > 0:
            total += got
        return total, time.perf_counter() - start


def measure(workload: str, release: str, megabytes: int, folder: Path) -> Iterator[Result]:
    """Fill a server, let a node fetch it, read both."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        options = _OPTIONS if release.startswith("mysql") else _MARIADB_OPTIONS
        with Server(ensure(release), Path(work) / "server", server_id=1, options=options) as server:
            WORKLOADS[workload](server, megabytes)
            # The same server id, so that invented events are equal, too.
            with NodeProcess(server, Path(work) / "node", settings={"serve": {"server_id": 1}}) as node:
                wait_until(lambda: _holds_all(node, server), 600, "the node to fetch everything", found=node.log_tail)
                for request in requests(server):
                    yield _compare(workload, request, node.port, server.port)


def _holds_all(node: NodeProcess, server: Server) -> bool:
    source = node.status()["source"]
    last = server.table("SHOW BINARY LOGS")[-1]
    return isinstance(source, dict) and (source["file"], source["position"]) == (
        text(last["Log_name"]),
        int(text(last["File_size"])),
    )


def _compare(workload: str, request: Request, node: int, source: int) -> Result:
    times: dict[int, list[float]] = {node: [], source: []}
    sizes: dict[int, int] = {}
    for _ in range(ROUNDS):
        for port, seconds in times.items():
            sizes[port], took = read(port, request)
            seconds.append(took)
    if sizes[node] != sizes[source]:
        raise SystemExit(f"{workload} {request.mode}: {sizes[node]} bytes from the node, {sizes[source]} from it")
    return Result(workload, request.mode, sizes[node], min(times[node]), min(times[source]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Speed of serving one raw reader beside the source's.")
    parser.add_argument("--release", default="mysql-9.7", help="the server to compare with")
    parser.add_argument("--small", type=int, default=150, metavar="MB", help="binlog of small transactions, 0 for none")
    parser.add_argument("--rows", type=int, default=800, metavar="MB", help="binlog of big rows, 0 for none")
    parser.add_argument("--folder", type=Path, default=None, help="where to put everything")
    options = parser.parse_args(arguments)
    for workload in WORKLOADS:
        megabytes: int = getattr(options, workload)
        if megabytes:
            for result in measure(workload, options.release, megabytes, options.folder):
                print(result, flush=True)
                if workload == "small":
                    name = f"serving one raw reader, {workload} {result.mode}, beside the source"
                    figure(name, f"{result.speed:.0f} MB/s", result.ratio, 1.0, "x", least=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
