"""``kingbus demo``: a real source, a Kingbus node and a real replica on this machine, with rows flowing.

What happens, and what each part is to show:

1. Source and node start, rows begin to flow into the source, and the node holds them.
2. A replica is pointed at the node in the middle of the load, and catches up.
3. At half time the node is killed with SIGKILL and started again: nothing is lost, nothing comes twice, and nobody
   touches the replica.
4. At the end every table of source and replica is compared, and the node's GTID set with the source's.

Everything is in a temporary folder. However this ends, all processes are stopped.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

import pymysql
from rich.console import Console
from rich.text import Text

from kingbus_node.demo.compare import differences, table_sums
from kingbus_node.demo.instance import Server, ServerFailed
from kingbus_node.demo.node_process import NodeFailed, NodeProcess
from kingbus_node.demo.packages import PackageError
from kingbus_node.demo.replication import ReplicationBroken, Upstream, executed, replicate, status, wait_caught_up
from kingbus_node.demo.servers import ServerMissing, ensure
from kingbus_node.demo.view import Moment, View
from kingbus_node.demo.waiting import Timeout
from kingbus_node.demo.workload import Workload

__all__ = ["run"]

_SERVERS = {"mysql": "mysql-9.7", "mariadb": "mariadb-10.11"}
_CHECK_SECONDS = 15.0
_WATCH_SECONDS = 60.0
_REFRESH_SECONDS = 0.25
_START_SECONDS = 30.0
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
        self._node = NodeProcess(self._source, folder / "node")
        self._workload = Workload(self._source)
        self._seconds = seconds
        self._cleanup = cleanup
        self._replicating = False
        name = f"{binaries.release.flavor.value} {binaries.version}"
        self._view = View(
            console,
            f"{name} → Kingbus → {name}",
            (
                ("source", f"127.0.0.1:{self._source.port}"),
                ("kingbus", f"127.0.0.1:{self._node.port}"),
                ("replica", f"127.0.0.1:{self._replica.port}"),
            ),
        )

    def run(self) -> list[str]:
        """The differences at the end, a sentence each."""
        view = self._view
        for server in (self._source, self._replica):
            self._cleanup.enter_context(server)
        self._workload.prepare()
        self._cleanup.enter_context(self._node)
        view.event(f"source on port {self._source.port}, node on {self._node.port}, replica on {self._replica.port}")
        self._workload.start()
        self._cleanup.callback(self._workload.stop)
        with view.live():
            self._flow(until=self._seconds * 0.25)
            replicate(self._replica, Upstream(self._node.port))
            self._replicating = True
            view.event("the replica now replicates from the node")
            self._flow(until=self._seconds * 0.5)
            self._node.kill()
            view.event("the node was killed (SIGKILL)", "bold red")
            self._flow(until=self._seconds * 0.6)
            begun = time.monotonic()
            self._node.launch()
            self._flow(until=self._seconds * 0.6 + _START_SECONDS, stop_when=self._node.is_ready)
            self._node.start(timeout=1)  # which fails if it is still not ready
            view.event(f"the node is back, {time.monotonic() - begun:.1f} s after its start", "bold green")
            self._flow(until=max(self._seconds, self._workload.elapsed + self._seconds * 0.2))
        self._workload.stop()
        return self._compare()

    def _flow(self, *, until: float, stop_when: Callable[[], bool] = lambda: False) -> None:
        """Let rows flow until the workload has run for ``until`` seconds, or ``stop_when``, and show them."""
        while (elapsed := self._workload.elapsed) < until and not stop_when():
            self._workload.check()
            self._node.check()
            self._view.show(self._moment(elapsed))
            time.sleep(_REFRESH_SECONDS)

    def _moment(self, elapsed: float) -> Moment:
        try:
            node: str | None = self._node.executed() if self._node.running else None
        except OSError:
            node = None
        replica: str | None = ""
        behind = None
        if self._replicating:
            now = status(self._replica)
            if now is not None and now.broken:
                raise ReplicationBroken(f"{self._replica!r}: {now.broken}")
            replica = now.gtids.replace("\n", "") if now is not None else None
            pulse = self._pulse()
            behind = None if not pulse else time.time() - pulse
        return Moment(
            elapsed=elapsed,
            seconds=self._seconds,
            rows=self._workload.rows,
            rows_per_second=self._workload.rows / max(elapsed, 0.1),
            transactions=self._workload.transactions,
            source=executed(self._source),
            node=node,
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
        wanted, held = executed(self._source), self._node.executed()
        self._view.event(f"executed on the source: {wanted}\nheld by the node:       {held}")
        if wanted != held:
            found.append(f"the node holds {held or 'nothing'}, the source has executed {wanted}")
        self._node.stop()
        self._view.event("the node ended with code 0 after SIGTERM")
        return found


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
