"""Speed of ingest: one node's source reader and log, beside ``mysqlbinlog --raw`` to the same disk in the same run.

``python -m bench.ingest [--release mysql-9.7|mariadb-10.11] [--small MB] [--rows MB] [--folder DIR]``. A real server
is filled once per workload; then both read all of its binlog, each from the beginning, alternating. Ingest ends when
all is fsynced and committed; mysqlbinlog does not sync, so its files are synced behind it, and both times told. Without
TLS, as a replica's default is. Workloads:

small   transactions of 5 events of about 100 bytes, one row each
rows    transactions of one row of 200 kB
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import figure, settle
from bench.floor import floor_seconds

from kingbus_node.config import SourceSettings
from kingbus_node.demo.alone import lead_alone
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Options, Server
from kingbus_node.demo.servers import Flavor, ensure
from kingbus_node.demo.waiting import wait_until
from kingbus_node.raft.cluster import Cluster
from kingbus_node.source.checks import Replica
from kingbus_node.source.reader import SourceReader
from kingbus_node.store.log import Log

ROUNDS = 3
WANTED = 0.8
_UUID = "77777777-0000-11f1-9062-02fc00000001"
_OPTIONS: Options = {"max-binlog-size": "256M", "innodb-redo-log-capacity": "1G", "innodb-buffer-pool-size": "256M"}
_MARIADB_OPTIONS: Options = {"max-binlog-size": "256M", "innodb-log-file-size": "512M"}


@dataclass(frozen=True, slots=True)
class Result:
    """The best of the rounds. `bytes` and `events` of binlog; seconds each took, and seconds of processor time."""

    workload: str
    bytes: int
    events: int
    ingest: float
    tool: float
    durable: float
    floor: float
    ingest_processor: float
    tool_processor: float
    floor_processor: float

    @property
    def speed(self) -> float:
        """Of ingest, MB/s."""
        return self.bytes / 1e6 / self.ingest

    @property
    def ratio(self) -> float:
        """Speed of ingest as a multiple of the tool's."""
        return self.tool / self.ingest

    @property
    def durable_ratio(self) -> float:
        """The same, until the tool's files are as durable as the log is."""
        return self.durable / self.ingest

    def __str__(self) -> str:
        def speed(seconds: float) -> str:
            return f"{self.bytes / 1e6 / seconds:7.0f} MB/s {self.events / 1e6 / seconds:6.2f} M events/s"

        gigabytes = self.bytes / 1e9
        return (
            f"{self.workload:6} {speed(self.ingest)}   mysqlbinlog --raw {speed(self.tool)}   {self.ratio:5.2f} x\n"
            f"       with its files synced after it{speed(self.durable)}   {self.durable_ratio:5.2f} x\n"
            f"       processor time {self.ingest_processor / gigabytes:.1f} s a GB, mysqlbinlog "
            f"{self.tool_processor / gigabytes:.1f}, beside that of the server\n"
            f"       its bytes alone, received, summed up, written and synced: {speed(self.floor)}, "
            f"{self.floor_processor / gigabytes:.1f} s a GB"
        )


def fill_small(server: Server, megabytes: int) -> None:
    """Transactions of one small row, by a procedure."""
    server.sql(
        "CREATE DATABASE bench_small",
        "CREATE TABLE bench_small.t (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(100))",
        "CREATE PROCEDURE bench_small.fill(n INT) "
        "BEGIN WHILE n > 0 DO INSERT INTO bench_small.t (v) VALUES (REPEAT('x', 80)); SET n = n - 1; END WHILE; END",
        f"CALL bench_small.fill({megabytes * 1_000_000 // 400})",
        "FLUSH BINARY LOGS",
    )


def fill_rows(server: Server, megabytes: int) -> None:
    """Transactions of one row of 200 kB."""
    server.sql(
        "CREATE DATABASE bench_rows",
        "CREATE TABLE bench_rows.t (id INT PRIMARY KEY AUTO_INCREMENT, v LONGBLOB)",
        "CREATE PROCEDURE bench_rows.fill(n INT) "
        "BEGIN WHILE n > 0 DO INSERT INTO bench_rows.t (v) VALUES (REPEAT('x', 200000)); "
        "IF n % 500 = 0 THEN DELETE FROM bench_rows.t; END IF; SET n = n - 1; END WHILE; END",
        f"CALL bench_rows.fill({megabytes * 5})",
        "FLUSH BINARY LOGS",
    )


WORKLOADS = {"small": fill_small, "rows": fill_rows}


def tool_seconds(server: Server, folder: Path) -> tuple[float, float, float]:
    """Let the flavour's own tool fetch all files.

    Returns how long it took, how much processor time, and how long until the files are synced, too.
    """
    command = [
        str(server.binaries.binlog), "--no-defaults", "--raw", f"--result-file={folder}/", "--host=127.0.0.1",
        f"--port={server.port}", f"--user={REPLICATION_USER}", "--to-last-log", "--read-from-remote-server",
    ]  # fmt: skip
    mysql = server.flavor is Flavor.MYSQL
    command += ["--ssl-mode=DISABLED", "--get-server-public-key"] if mysql else ["--skip-ssl"]
    environment = {**os.environ, "MYSQL_PWD": REPLICATION_PASSWORD}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, server.binary_logs()[0]], env=environment, check=True)
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    durable = time.perf_counter() - start
    return took, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, durable


def source_settings(port: int, folder: Path) -> SourceSettings:
    """How to reach a server of ours; `folder` gets a file with the password."""
    password = folder / "password"
    password.write_text(REPLICATION_PASSWORD)
    return SourceSettings.model_validate(
        {
            "endpoints": [f"127.0.0.1:{port}"],
            "user": REPLICATION_USER,
            "password_file": password,
            "tls": {"mode": "disabled"},
        }
    )


def fetch(log: Log, node: Cluster, settings: SourceSettings, last: str, end: int) -> tuple[float, int]:
    """Let a reader of the leader `node` fetch all, up to position `end` of the file `last`.

    Returns the seconds until it is committed, and the number of events.
    """
    sys.setswitchinterval(0.0005)  # as a node does
    reader = SourceReader(settings, log, node, Replica(4242, _UUID))
    node.add_commit_listener(reader.committed)

    def all_is_here() -> bool:
        file, error = log.state.file, reader.status().error
        if error is not None:
            raise SystemExit(f"fetching failed: {error}")
        return file is not None and file.source_name == last and file.end_pos >= end

    start = time.perf_counter()
    reader.start()
    try:
        wait_until(all_is_here, 600, f"{last} up to {end} to be fetched", interval=0.005)
        return time.perf_counter() - start, reader.status().events
    finally:
        reader.stop()


def end_of(server: Server) -> tuple[str, int]:
    """The last file of a server's binlog, and how long it is."""
    last = server.table("SHOW BINARY LOGS")[-1]
    return str(last["Log_name"]), int(str(last["File_size"]))


def ingest_seconds(server: Server, folder: Path) -> tuple[float, float, int]:
    """Let a reader fetch all into a log: seconds until all is committed, processor time, number of events."""
    settings = source_settings(server.port, folder)
    log = Log.open(folder / "log")
    node = lead_alone(log)
    processor = time.process_time()
    try:
        took, events = fetch(log, node, settings, *end_of(server))
        return took, time.process_time() - processor, events
    finally:
        node.close()
        log.close()


def measure(workload: str, release: str, megabytes: int, folder: Path) -> Result:
    """Fill a server, read it by both ways."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        options = _OPTIONS if release.startswith("mysql") else _MARIADB_OPTIONS
        with Server(ensure(release), Path(work) / "server", server_id=1, options=options) as server:
            WORKLOADS[workload](server, megabytes)
            size = sum(int(str(row["File_size"])) for row in server.table("SHOW BINARY LOGS"))
            ingest: list[tuple[float, float]] = []
            tool: list[tuple[float, float, float]] = []
            floor: list[tuple[float, float]] = []
            events = 0
            for _ in range(ROUNDS):
                settle()
                with tempfile.TemporaryDirectory(dir=work) as target:
                    tool.append(tool_seconds(server, Path(target)))
                settle()
                with tempfile.TemporaryDirectory(dir=work) as target:
                    took, processor, events = ingest_seconds(server, Path(target))
                    ingest.append((took, processor))
                settle()
                with tempfile.TemporaryDirectory(dir=work) as target:
                    floor.append(floor_seconds(server, Path(target) / "file"))
    best = [min(values) for runs in (ingest, tool, floor) for values in zip(*runs, strict=True)]
    return Result(workload, size, events, best[0], best[2], best[4], best[5], best[1], best[3], best[6])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Speed of ingest beside mysqlbinlog --raw.")
    parser.add_argument("--release", default="mysql-9.7", help="the server to read from")
    parser.add_argument("--small", type=int, default=150, metavar="MB", help="binlog of small transactions, 0 for none")
    parser.add_argument("--rows", type=int, default=800, metavar="MB", help="binlog of big rows, 0 for none")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to put everything (default: the temporary one)"
    )
    options = parser.parse_args(arguments)
    for workload in WORKLOADS:
        megabytes: int = getattr(options, workload)
        if megabytes:
            result = measure(workload, options.release, megabytes, options.folder)
            print(result, flush=True)
            name = f"ingest of {workload}, one node, beside mysqlbinlog --raw"
            figure(name, f"{result.speed:.0f} MB/s", result.ratio, WANTED, "x", least=True)
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
