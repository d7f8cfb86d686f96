"""Whether those who read move the heartbeats of a leader: ``make bench-heartbeats``.

A real node leads, and a second member, which does nothing else, notes when the leader's heartbeats come. How much later
than one heartbeat interval each came after the one before is measured with no reader; with hundreds that are connected,
and one that has stopped reading; and while all but that one read a long log as fast as they can. The last row serves
readers from threads of the core process itself, for comparison: what the design avoids (docs/architecture.md, "Threads
and processes").
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
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

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
from kingbus_node.store.reader import LogReader
from servers.chain import Chain
from servers.fixtures import Pool
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

    def __init__(self, directory: Path, port: int, leader: str) -> None:
        self._log = Log.open(directory)
        address = f"127.0.0.1:{port}"
        options = ClusterOptions(
            listen=Address("127.0.0.1", port),
            address=address,
            founders=(leader, address),
            priority=-1,
            election_timeout=ELECTION_TIMEOUT,
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

    def __init__(self, pool: Pool, folder: Path, megabytes: int) -> None:
        source = pool.server("mysql-9.7")
        workload = Workload(source).create()
        workload.blobs((1_000_000,) * megabytes)
        port = ReservedPort()
        self.node = NodeProcess(
            source,
            folder / "leader",
            settings={"raft": {"election_timeout": ELECTION_TIMEOUT}},
            place=Place(priority=10),
        )
        self.node.peers = (self.node.raft_address, f"127.0.0.1:{port.number}")
        self.node.launch()
        self.observer = Observer(folder / "observer", port.number, self.node.raft_address)
        wait_until(self._leads, _PATIENCE, "the node to lead", found=self.node.log_tail)
        wait_until(self.node.is_ready, _PATIENCE, "the node to serve", found=self.node.log_tail)
        Chain(pool, workload, self.node).wait_node()

    def _leads(self) -> bool:
        try:
            return self.node.status(local=True)["role"] == "leader"
        except OSError:
            return False

    def close(self) -> None:
        self.observer.close()
        self.node.kill()


@contextmanager
def readers(port: int, count: int, *, greedy: bool, plain: bool = False) -> Iterator[None]:
    """A process with so many readers, and one more that has stopped reading. `greedy`: they read all of the log, over
    and over; else they wait for what comes. `plain`: without a protocol, as `serve_in_core` serves.
    """
    flags = ["--greedy"] * greedy + ["--plain"] * plain
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


def _read(port: int, count: int, *, greedy: bool, plain: bool) -> None:
    """The process of `readers`."""
    begin = _begin_plain if plain else _begin_dump
    stuck = begin(port, greedy=True)
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            selector.register(begin(port, greedy=greedy), selectors.EVENT_READ)
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
                        selector.register(begin(port, greedy=True), selectors.EVENT_READ)


_kept: list[object] = []  # connections live as long as this process


def _begin_plain(port: int, *, greedy: bool) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"1" if greedy else b"0")
    return connection


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


@contextmanager
def served_in_core(stage: Stage) -> Iterator[int]:
    """In the place of the node, a process on its log whose threads serve; gives the port."""
    stage.node.kill()
    port = ReservedPort()
    command = [sys.executable, "-m", "servers.heartbeats", "--serve-in-core", str(stage.node.data / "log")]
    command += [str(port.number), *stage.node.peers]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_TESTS) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "leading\n":
                raise RuntimeError(f"the core could not begin: {process.wait(30)}")
            yield port.number
        finally:
            process.stdin.close()
            process.wait(60)


def _serve_in_core(directory: Path, port: int, peers: Sequence[str]) -> None:
    """The process of `served_in_core`: a consensus, and a thread for each reader, as in a worker."""
    sys.setswitchinterval(0.0005)  # as a node does
    log = Log.open(directory)
    address = peers[0]
    options = ClusterOptions(
        listen=Address("127.0.0.1", int(address.rpartition(":")[2])),
        address=address,
        founders=tuple(peers),
        priority=10,
        election_timeout=ELECTION_TIMEOUT,
        min_free_bytes=0,
    )
    cluster = Cluster(log, "node-1", options)
    wait_until(lambda: cluster.is_leader, _PATIENCE, "this node to lead")
    reader = LogReader(directory)

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # who read has gone
            if connection.recv(1) != b"1":
                connection.recv(1)  # until it is closed
                return
            with closing(reader.cursor(log.first_index)) as cursor:
                while (block := cursor.read(_READ)) is not None:
                    np.frombuffer(block.data, np.uint8)[3 + block.packets] = 0  # sequence numbers, as a worker does
                    connection.sendall(block.data)

    with socket.create_server(("127.0.0.1", port), backlog=1000) as listener:

        def accept() -> None:
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        print("leading", flush=True)
        sys.stdin.read()
        cluster.close()
        log.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--megabytes", type=int, default=64)
    for hidden, count in (("--read", 2), ("--serve-in-core", 4)):
        parser.add_argument(hidden, nargs=count, help=argparse.SUPPRESS)
    for flag in ("--greedy", "--plain"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    logging.getLogger("kingbus_node.raft").setLevel(logging.ERROR)  # that the other does not listen yet is no news here
    if chosen.read:
        _read(int(chosen.read[0]), int(chosen.read[1]), greedy=chosen.greedy, plain=chosen.plain)
        return
    if chosen.serve_in_core:
        directory, port, *peers = chosen.serve_in_core
        _serve_in_core(Path(directory), int(port), peers)
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
        print(f"{what:<56} {stage.observer.measure(seconds)}", flush=True)

    row("no reader")
    with readers(stage.node.port, count, greedy=False):
        row(f"{count} readers that wait, one stuck")
    with readers(stage.node.port, count, greedy=True):
        row(f"{count} readers that read all the time, one stuck")
    with served_in_core(stage) as port:
        wait_until(lambda: stage.observer.cluster.leader == "node-1", _PATIENCE, "the core to lead")
        row("no reader, served by the core process")
        with readers(port, count, greedy=True, plain=True):
            row(f"{count} readers that read all the time, served by the core process")


if __name__ == "__main__":
    main()
