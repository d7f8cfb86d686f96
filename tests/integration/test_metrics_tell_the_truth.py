"""Metrics of a real node under load, compared with what the source wrote and what its clients have counted."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from servers.chain import Chain
from servers.fixtures import Pool
from servers.processes import children, command_line
from servers.raw import gtid_command

from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, connect, text
from kingbus_node.demo.replication import executed
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

Samples = dict[tuple[str, str], float]

LOGIN = 300
"""The most that greeting, authentication and one SET are answered with, in bytes."""


class CountingReplica:
    """Asks for everything that it does not have, and counts the bytes that come; what they say does not matter."""

    def __init__(self, port: int, number: int, has: GtidSet) -> None:
        self.uuid = f"00000000-0000-0000-0000-{number:012d}"
        self.received = 0
        self._connection = connect(port, user=REPLICATION_USER, password=REPLICATION_PASSWORD)
        with self._connection.cursor() as cursor:
            cursor.execute(f"SET @replica_uuid = '{self.uuid}', @source_binlog_checksum = 'CRC32'")
        command = bytearray(gtid_command(has.encode(), flags=0))
        command[3:7] = (7000 + number).to_bytes(4, "little")  # without a server id it would be given what there is
        self._socket: socket.socket = self._connection._sock  # type: ignore[attr-defined]
        self._socket.sendall(len(command).to_bytes(3, "little") + b"\0" + command)
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        with contextlib.suppress(OSError):
            while got := self._socket.recv(1 << 16):
                self.received += len(got)

    @property
    def port(self) -> int:
        """Where it connects from."""
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()


@contextlib.contextmanager
def replicas(chain: Chain, *numbers: int) -> Iterator[list[CountingReplica]]:
    has = GtidSet.parse(text(chain.source.value("SELECT @@gtid_purged")))
    made: list[CountingReplica] = []
    try:
        for number in numbers:
            made.append(CountingReplica(chain.node.port, number, has))  # noqa: PERF401 - those made so far are closed when one fails
        yield made
    finally:
        for replica in made:
            replica.close()


def scrape(chain: Chain) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{chain.node.admin_port}/metrics", timeout=30) as response:
        exposition = response.read().decode()
    found: Samples = {}
    for family in text_string_to_metric_families(exposition):
        for one in family.samples:
            key = one.name, ",".join(f"{name}={value}" for name, value in sorted(one.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = one.value
    return found


def sent(samples: Samples) -> dict[str, float]:
    """By replica."""
    name = "kingbus_replica_sent_bytes_total"
    return {label.removeprefix("replica="): value for (found, label), value in samples.items() if found == name}


def is_sum_of(told: float | None, *clients: CountingReplica) -> bool:
    """Whether so many bytes are what these connections received, each with its login, which they did not count."""
    received = sum(one.received for one in clients)
    return told is not None and received < told <= received + LOGIN * len(clients)


def serve_processes(chain: Chain) -> list[int]:
    """The children of the node's core that serve."""
    return [pid for pid in children(chain.node.pid) if b"kingbus_node.serve.worker" in command_line(pid)]


def sockets(pid: int) -> Iterator[str]:
    """What the open files of a process are."""
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has been closed since
            yield str(file.readlink())


def process_that_serves(chain: Chain, replica: CountingReplica) -> int:
    """The one that holds the other end of its connection."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(address.split(":")[1], 16) for address in fields[1:3])
        if (local, remote) == (chain.node.port, replica.port):
            end = f"socket:[{fields[9]}]"
            for pid in serve_processes(chain):
                if end in sockets(pid):
                    return pid
    raise AssertionError(f"no serve process holds the connection from port {replica.port}")


def test_bytes_transactions_and_replicas_are_counted_right_over_several_processes(pool: Pool) -> None:
    chain = Chain.start(pool, Flavor.MYSQL, settings={"serve": {"workers": 2}})
    with replicas(chain, 1, 2, 3) as streaming:
        with chain.workload.in_background():
            for seed in range(4):
                chain.workload.random_transactions(seed, count=100)
            middle = scrape(chain)
        chain.wait_node()

        def agreed() -> Samples | None:
            now = scrape(chain)
            told = sent(now)
            right = [is_sum_of(told.get(one.uuid), one) for one in streaming]
            # The sum is asked for a moment after its parts.
            right.append(is_sum_of(now["kingbus_replicas_sent_bytes_total", ""], *streaming))
            return now if len(told) == 3 and all(right) else None

        now = wait_until(
            agreed,
            60,
            "sent and received bytes to be the same",
            found=lambda: f"{sent(scrape(chain))}; {[one.received for one in streaming]}",
        )
        assert now["kingbus_replicas", ""] == 3
        count = GtidSet.parse(executed(chain.source)).count
        purged = GtidSet.parse(text(chain.source.value("SELECT @@gtid_purged"))).count
        assert now["kingbus_source_transactions_total", ""] == count - purged
        files = chain.source.sql("SHOW BINARY LOGS")
        size = sum(int(text(row[1])) for row in files) - 4 * len(files)
        assert now["kingbus_source_bytes_total", ""] >= size - 1000
        assert now["kingbus_store_bytes", ""] > size
        assert now["kingbus_raft_commit_index", ""] == now["kingbus_raft_last_index", ""]
        assert now["kingbus_fsync_seconds_count", ""] == now["kingbus_fsync_seconds_bucket", "le=+Inf"] > 0
        for key, value in middle.items():
            if key[0].endswith(("_total", "_count", "_sum", "_bucket")):
                assert now[key] >= value, f"{key} has fallen"

        # A process dies: what it had sent is not forgotten, and whoever comes back goes on from there.
        total = now["kingbus_replicas_sent_bytes_total", ""]
        victim = process_that_serves(chain, streaming[0])
        os.kill(victim, signal.SIGKILL)

        def replaced() -> bool:
            now = serve_processes(chain)
            return len(now) == 2 and victim not in now

        wait_until(replaced, 60, "the serve process to be replaced")
        assert scrape(chain)["kingbus_replicas_sent_bytes_total", ""] >= total
        lost = streaming[0]
        wait_until(lambda: lost.uuid not in sent(scrape(chain)), 60, "its replicas to be gone")
        with replicas(chain, int(lost.uuid[-12:])) as back:

            def added() -> bool:
                return is_sum_of(sent(scrape(chain)).get(back[0].uuid), lost, back[0])

            wait_until(added, 60, "the replica's bytes to be added up", found=lambda: str(sent(scrape(chain))))

    def gone() -> Samples | None:
        now = scrape(chain)
        return now if now["kingbus_replicas", ""] == 0 else None

    after = wait_until(gone, 60, "the replicas to be gone")
    assert not [key for key in after if key[1].startswith("replica=")]
    assert after["kingbus_replicas_sent_bytes_total", ""] >= total
