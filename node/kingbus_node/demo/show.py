"""``kingbus demo``: a real source, a cluster of three nodes and a real replica on this machine, with rows flowing.

What happens, and what each part is to show:

1. Source and cluster start, rows begin to flow into the source, and all nodes hold them.
2. A replica is pointed at a local port that leads to whichever node leads, in the middle of the load, and catches up.
3. At half time the leader is killed with SIGKILL: another node leads, the replica goes on there, nobody touches it. The
   killed node is started again and catches up.
4. At the end every table of source and replica is compared, and the GTID set of every node with the source's.

Everything is in a temporary folder. However this ends, all processes are stopped.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Literal

import pymysql
from rich.console import Console
from rich.text import Text

from kingbus_node.demo.cluster_process import ClusterProcess
from kingbus_node.demo.compare import differences, table_sums
from kingbus_node.demo.forwarder import Forwarder
from kingbus_node.demo.instance import Server, ServerFailed
from kingbus_node.demo.node_process import NodeFailed, NodeProcess
from kingbus_node.demo.packages import PackageError
from kingbus_node.demo.replication import ReplicationBroken, Upstream, executed, replicate, status, wait_caught_up
from kingbus_node.demo.servers import ServerMissing, ensure
from kingbus_node.demo.view import Moment, Party, View
from kingbus_node.demo.waiting import Timeout, wait_until
from kingbus_node.demo.workload import Workload

__all__ = ["run"]

_SERVERS = {"mysql": "mysql-9.7", "mariadb": "mariadb-10.11"}
_CHECK_SECONDS = 12.0
_WATCH_SECONDS = 60.0
_REFRESH_SECONDS = 0.25
_START_SECONDS = 90.0
_INTERRUPTED = 130

Failures = (ServerMissing, PackageError, ServerFailed, NodeFailed, ReplicationBroken, Timeout, pymysql.MySQLError)


def run(*, flavor: Literal["mysql", "mariadb"], check: bool, seconds: float | None) -> int:
    """Run the demonstration; the exit code is 0 only if source and replica are equal at the end.

    ``check``: nobody watches, so be short. ``seconds``: how long rows are written.
    """
    console = Console(highlight=False)
    seconds = seconds or (_CHECK_SECONDS if check else _WATCH_SECONDS)
    with _terminates_like_ctrl_c():
        try:
            with tempfile.TemporaryDirectory(prefix="kingbus-demo-") as folder, ExitStack() as cleanup:
                found = _Demo(console, _SERVERS[flavor], Path(folder), seconds, cleanup).run()
        except Failures as error:
            Console(stderr=True, highlight=False).print(
                Text(f"The demo failed: {error}", style="bold red"), soft_wrap=True
            )
            return 1
        except KeyboardInterrupt:
            console.print("Stopped; all processes are gone.")
            return _INTERRUPTED
    for difference in found:
        console.print(Text(f"DIFFERENT  {difference}", style="bold red"), soft_wrap=True)
    if found:
        return 1
    console.print(Text("Source and replica are equal.", style="bold green"))
    return 0


class _Demo:
    def __init__(self, console: Console, release: str, folder: Path, seconds: float, cleanup: ExitStack) -> None:
        self._console = console
        binaries = ensure(release, lambda text: console.print(Text(text, style="dim"), soft_wrap=True))
        self._source = Server(binaries, folder / "source", server_id=1)
        self._replica = Server(binaries, folder / "replica", server_id=2)
        self._cluster = ClusterProcess(self._source, folder)
        self._workload = Workload(self._source)
        self._seconds = seconds
        self._cleanup = cleanup
        self._replicating = False
        self._leader: NodeProcess | None = None
        name = f"{binaries.release.flavor.value} {binaries.version}"
        self._view = View(console, f"{name} → Kingbus → {name}")

    def run(self) -> list[str]:
        """The differences at the end, a sentence each."""
        view, cluster = self._view, self._cluster
        for server in (self._source, self._replica):
            self._cleanup.enter_context(server)
        self._workload.prepare()
        self._cleanup.enter_context(cluster)
        forwarder = Forwarder(self._leads_at)
        self._cleanup.callback(forwarder.close)
        nodes = ", ".join(f"{node.name} {node.port}" for node in cluster.nodes)
        view.event(
            f"ports: source {self._source.port}, {nodes}, replica {self._replica.port}, and {forwarder.port} leads to "
            "the leader"
        )
        view.event(f"{cluster.wait_leader().name} leads")
        self._workload.start()
        self._cleanup.callback(self._workload.stop)
        with view.live():
            self._flow(until=self._seconds * 0.25)
            replicate(self._replica, Upstream(forwarder.port))
            self._replicating = True
            view.event("the replica now replicates from the leader")
            self._flow(until=self._seconds * 0.5)
            killed = self._lose_leader()
            self._flow(until=self._seconds * 0.65)
            killed.launch()
            self._flow(until=self._seconds * 0.65 + _START_SECONDS, stop_when=killed.is_ready)
            killed.start(_START_SECONDS)  # which fails if it is still not ready
            view.event(f"{killed.name} is back and serves what it missed", "bold green")
            self._flow(until=max(self._seconds, self._workload.elapsed + self._seconds * 0.1))
        self._workload.stop()
        return self._compare()

    def _leads_at(self) -> int | None:
        """The port of the node that leads."""
        leader = self._cluster.leader()
        return None if leader is None else leader.port

    def _lose_leader(self) -> NodeProcess:
        """kill -9; tells how long it took until another node led, and until its replica had news."""
        leader = self._cluster.wait_leader()
        before = self._pulse() or 0.0
        leader.kill()
        begun, killed_at = time.monotonic(), time.time()
        self._view.event(f"{leader.name}, the leader, was killed (SIGKILL)", "bold red")
        new = self._cluster.wait_leader(other_than=leader)
        led = time.monotonic() - begun

        def has_news() -> bool:
            pulse = self._pulse() or 0.0
            return pulse > max(before, killed_at)

        wait_until(has_news, _START_SECONDS, "the replica to receive something new", interval=0.02)
        self._view.event(
            f"{new.name} leads since {led:.1f} s after that; the replica had the next transaction after "
            f"{time.monotonic() - begun:.1f} s",
            "bold green",
        )
        return leader

    def _flow(self, *, until: float, stop_when: Callable[[], bool] = lambda: False) -> None:
        """Let rows flow until the workload has run for ``until`` seconds, or ``stop_when``, and show them."""
        while (elapsed := self._workload.elapsed) < until and not stop_when():
            self._workload.check()
            self._cluster.check()
            self._view.show(self._moment(elapsed))
            time.sleep(_REFRESH_SECONDS)

    def _moment(self, elapsed: float) -> Moment:
        behind = None
        replica = Party("replica", self._replica.port, "", "")
        if self._replicating:
            now = status(self._replica)
            if now is not None and now.broken:
                raise ReplicationBroken(f"{self._replica!r}: {now.broken}")
            replica = Party("replica", self._replica.port, "", now.gtids.replace("\n", "") if now is not None else None)
            pulse = self._pulse()
            behind = None if not pulse else time.time() - pulse
        states = self._cluster.states()
        nodes = [
            Party(node.name, node.port, "", None)
            if (state := states[node.name]) is None
            else Party(node.name, node.port, state.role, state.executed)
            for node in self._cluster.nodes
        ]
        return Moment(
            elapsed=elapsed,
            seconds=self._seconds,
            rows=self._workload.rows,
            rows_per_second=self._workload.rows / max(elapsed, 0.1),
            transactions=self._workload.transactions,
            source=Party("source", self._source.port, "", executed(self._source)),
            nodes=nodes,
            replica=replica,
            behind=behind,
        )

    def _pulse(self) -> float | None:
        """The source's clock as the replica knows it."""
        if not self._replica.value("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'shop'"):
            return None
        value = self._replica.value("SELECT MAX(at) FROM shop.pulse")
        return float(value) if isinstance(value, float | int) else None

    def _compare(self) -> list[str]:
        load = self._workload
        self._view.event(f"{load.rows} rows in {load.transactions} transactions were written; waiting for the replica")
        wait_caught_up(self._source, self._replica)
        found = differences(self._source, self._replica)
        sums = table_sums(self._replica)
        rows = sum(table.rows for table in sums.values())
        self._view.event(f"{len(sums)} tables with {rows} rows compared by checksum")
        wanted = executed(self._source)
        self._view.event(f"executed on the source: {wanted}")
        for node in self._cluster.nodes:
            held = self._held(node, wanted)
            self._view.event(f"{f'held by {node.name}:':23} {held}")
            if wanted != held:
                found.append(f"{node.name} holds {held or 'nothing'}, the source has executed {wanted}")
        self._cluster.stop()
        self._view.event("all nodes ended with code 0 after SIGTERM")
        return found

    def _held(self, node: NodeProcess, wanted: str) -> str:
        """What a node holds, once it holds what it should, or after a while."""
        with suppress(Timeout):
            wait_until(lambda: node.executed() == wanted, _START_SECONDS, f"{node.name} to hold everything")
        return node.executed()


@contextmanager
def _terminates_like_ctrl_c() -> Iterator[None]:
    """While open, SIGTERM ends the demonstration in order as well."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
