"""Whether those who read move the heartbeats of a leader: ``make bench-heartbeats``.

A real node leads, and a second member, which does nothing else, notes when the leader's heartbeats come. How much later
than one heartbeat interval each came after the one before is measured with no reader; with hundreds that are connected,
and one that has stopped reading; and while all but that one read a long log as fast as they can. Beside it stands the
processor time that the core and the serve processes took meanwhile.
"""

from __future__ import annotations

import argparse
import logging
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.config import Address
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, connect
from kingbus_node.demo.node_process import NodeProcess, Place
from kingbus_node.demo.ports import ReservedPort
from kingbus_node.demo.waiting import wait_until
from kingbus_node.raft.cluster import Cluster
from kingbus_node.raft.messages import Message
from kingbus_node.raft.options import ClusterOptions
from kingbus_node.store.log import Log
from servers.chain import Chain
from servers.fixtures import Pool
from servers.processes import children, processor_seconds
from servers.raw import gtid_command
from servers.workload import Workload

ELECTION_TIMEOUT = 4.0
"""Long enough that nobody else is elected on a busy machine; a heartbeat comes eight times as often."""
_PATIENCE = 120.0
_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class Lateness:
    """Of heartbeats, in seconds, sorted."""

    values: Sequence[float]

    def share(self, share: float) -> float:
        """So many are not later than this."""
        return self.values[min(len(self.values) - 1, int(len(self.values) * share))]

    def __str__(self) -> str:
        parts = (("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("at most", 1.0))
        told = ", ".join(f"{name} {self.share(share) * 1000:.1f} ms" for name, share in parts)
        return f"{told} of {len(self.values)}"


class Observer:
    """A member that notes when it hears from the leader. Owns its log; close it."""

    def __init__(self, directory: Path, port: int, leader: str, election_timeout: float) -> None:
        self._log = Log.open(directory)
        address = f"127.0.0.1:{port}"
        options = ClusterOptions(
            listen=Address("127.0.0.1", port),
            address=address,
            founders=(leader, address),
            priority=-1,
            election_timeout=election_timeout,
            min_free_bytes=0,
        )
        self.cluster = Cluster(self._log, "observer", options)
        self._times: list[float] = []
        raft = self.cluster._raft
        step = raft.step

        def noting(peer: str, message: Message, now: float) -> None:
            self._times.append(time.monotonic())
            step(peer, message, now)

        raft.step = noting  # type: ignore[method-assign]

    def measure(self, seconds: float) -> Lateness:
        """How late heartbeats come, for so long. Nothing is written meanwhile, so all that comes is heartbeats."""
        interval = self.cluster._raft.settings.heartbeat_interval
        self._times.clear()
        threading.Event().wait(seconds)
        times = list(self._times)
        gaps = (after - before for before, after in pairwise(times))
        late = sorted(max(0.0, gap - interval) for gap in gaps if gap > interval / 2)
        if len(late) < seconds / interval / 3:
            raise RuntimeError(f"only {len(late)} heartbeats in {seconds:g} s: the leader has lost its leadership")
        return Lateness(late)

    def close(self) -> None:
        self.cluster.close()
        self._log.close()


class Stage:
    """A node that leads and has a log of many megabytes, and its observer."""

    def __init__(self, pool: Pool, folder: Path, megabytes: int, *, election_timeout: float = ELECTION_TIMEOUT) -> None:
        source = pool.server("mysql-9.7")
        workload = Workload(source).create()
        workload.blobs((1_000_000,) * megabytes)
        port = ReservedPort()
        self.node = NodeProcess(
            source,
            folder / "leader",
            settings={"raft": {"election_timeout": election_timeout}},
            place=Place(priority=10),
        )
        self.node.peers = (self.node.raft_address, f"127.0.0.1:{port.number}")
        self.node.launch()
        self.observer = Observer(folder / "observer", port.number, self.node.raft_address, election_timeout)
        wait_until(self._leads, _PATIENCE, "the node to lead", found=self.node.log_tail)
        wait_until(self.node.is_ready, _PATIENCE, "the node to serve", found=self.node.log_tail)
        Chain(pool, workload, self.node).wait_node()

    def _leads(self) -> bool:
        try:
            return self.node.status(local=True)["role"] == "leader"
        except OSError:
            return False

    def processor_seconds(self) -> tuple[float, float]:
        """What the core has taken of a processor so far, and what the serve processes have."""
        pid = self.node.pid
        return processor_seconds(pid), sum(processor_seconds(child) for child in children(pid))

    def close(self) -> None:
        self.observer.close()
        self.node.kill()


@contextmanager
def readers(port: int, count: int, *, greedy: bool) -> Iterator[None]:
    """A process with so many readers, and one more that has stopped reading. `greedy`: they read all of the log, over
    and over; else they wait for what comes.
    """
    flags = ["--greedy"] * greedy
    command = [sys.executable, "-m", "servers.heartbeats", "--read", str(port), str(count), *flags]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_TESTS) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "reading\n":
                raise RuntimeError(f"the readers could not begin: {process.wait(30)}")
            yield
        finally:
            process.stdin.close()
            process.wait(60)


_TESTS = Path(__file__).parents[1]


def _read(port: int, count: int, *, greedy: bool) -> None:
    """The process of `readers`."""
    stuck = _begin_dump(port, greedy=True)
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            selector.register(_begin_dump(port, greedy=greedy), selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print("reading", flush=True)
        buffer = bytearray(_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    stuck.close()
                    return
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if not connection.recv_into(buffer):
                    selector.unregister(connection)
                    connection.close()
                    if greedy:
                        selector.register(_begin_dump(port, greedy=True), selectors.EVENT_READ)


_kept: list[object] = []  # connections live as long as this process


def _begin_dump(port: int, *, greedy: bool) -> socket.socket:
    """A dump from the beginning, or from the end."""
    connection = connect(port, user=REPLICATION_USER, password=REPLICATION_PASSWORD)
    _kept.append(connection)
    with connection.cursor() as cursor:
        cursor.execute("SET @source_binlog_checksum = @@global.binlog_checksum")
        cursor.execute("SELECT @@global.gtid_executed")
        ((executed,),) = cursor.fetchall()
    held = GtidSet() if greedy else GtidSet.parse(str(executed))
    command = bytearray(gtid_command(held.encode(), flags=0))
    command[3:7] = (10_000 + len(_kept)).to_bytes(4, "little")  # a server id of its own
    sock: socket.socket = connection._sock  # type: ignore[attr-defined]
    sock.settimeout(None)
    sock.sendall(len(command).to_bytes(3, "little") + b"\0" + command)
    return sock


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--greedy", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    logging.getLogger("kingbus_node.raft").setLevel(logging.ERROR)  # that the other does not listen yet is no news here
    if chosen.read:
        _read(int(chosen.read[0]), int(chosen.read[1]), greedy=chosen.greedy)
        return
    with tempfile.TemporaryDirectory(prefix="kingbus-heartbeats-") as folder:
        pool = Pool(Path(folder))
        stage = Stage(pool, Path(folder), chosen.megabytes)
        try:
            _compare(stage, chosen.readers, chosen.seconds)
        finally:
            stage.close()
            pool.close()


def _compare(stage: Stage, count: int, seconds: float) -> None:
    interval = ELECTION_TIMEOUT / 8
    print(f"heartbeats every {interval * 1000:.0f} ms, how much later than that they come")

    def row(what: str) -> None:
        before = stage.processor_seconds()
        late = stage.observer.measure(seconds)
        core, serving = (now - then for now, then in zip(stage.processor_seconds(), before, strict=True))
        print(f"{what:<50} {late}; core {core:.1f} s, serve processes {serving:.1f} s", flush=True)

    row("no reader")
    with readers(stage.node.port, count, greedy=False):
        row(f"{count} readers that wait, one stuck")
    with readers(stage.node.port, count, greedy=True):
        row(f"{count} readers that read all the time, one stuck")


if __name__ == "__main__":
    main()
