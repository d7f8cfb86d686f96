"""Hundreds of replicas of different kinds on one node: all get everything soon, and the node stays small."""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pytest
from servers.chain import Chain
from servers.fixtures import Pool
from servers.processes import peak_memory
from servers.raw import file_command, gtid_command
from servers.workload import Workload

from clients.compatibility import Note
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, connect
from kingbus_node.demo.servers import Flavor

CLIENTS = 200
MARKER = b"the last row of the test"
MEMORY = 400 << 20
"""Bytes that each process of the node may have taken at most."""
SECONDS = 120.0
"""Until the slowest client has the last row; on an idle machine it takes well under one."""


@dataclass(slots=True)
class Client:
    """A dump; `tail`: the end of what came."""

    sock: socket.socket
    tail: bytes = b""
    received: int = 0

    def read(self) -> bool:
        """Take what has come; whether the marker was in it."""
        data = self.sock.recv(1 << 18)
        assert data, "the node has closed a dump"
        self.received += len(data)
        found = MARKER in self.tail + data
        self.tail = data[-len(MARKER) :]
        return found


def begin(chain: Chain, number: int, stack: ExitStack) -> Client:
    """A dump of one of several kinds: by file or GTID, with heartbeats, semi-sync or compression or without."""
    connection = connect(chain.node.port, user=REPLICATION_USER, password=REPLICATION_PASSWORD)
    stack.enter_context(closing(connection))
    with connection.cursor() as cursor:
        cursor.execute("SET @master_binlog_checksum = @@global.binlog_checksum, @mariadb_slave_capability = 4")
        if number % 2:
            cursor.execute("SET @master_heartbeat_period = 500000000")
        if number % 5 == 0:
            cursor.execute("SET @rpl_semi_sync_replica = 1, @rpl_semi_sync_slave = 1")
    if chain.source.flavor is Flavor.MYSQL and number % 3:
        command = gtid_command(GtidSet().encode(), flags=0)
    else:
        command = file_command(chain.source.binary_logs()[0], flags=0)
    at = 1 + 2 if command[0] == 0x1E else 1 + 4 + 2
    command = command[:at] + (5000 + number).to_bytes(4, "little") + command[at + 4 :]  # a server id of its own
    sock: socket.socket = connection._sock  # type: ignore[attr-defined]
    sock.sendall(len(command).to_bytes(3, "little") + b"\0" + command)
    sock.settimeout(60)
    return Client(sock)


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("release", ["mysql-9.7", "mariadb-10.11"])
def test_two_hundred_replicas_get_everything(release: str, pool: Pool, works: Note) -> None:
    source = pool.server(release)
    chain = Chain(pool, Workload(source).create(), pool.node(source))
    chain.workload.everything()
    chain.wait_node()
    replicas = [chain.replica(), chain.replica()]
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        clients = [begin(chain, number, stack) for number in range(CLIENTS)]
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client)
        chain.workload.everything()
        source.sql(f"INSERT INTO w.rows_ VALUES (-1, 0, '{MARKER.decode()}', NULL)")
        written = time.monotonic()
        waiting = set(map(id, clients))
        while waiting:
            assert time.monotonic() - written < SECONDS, f"{len(waiting)} clients wait for the last row"
            for key, _ in selector.select(1.0):
                if key.data.read():
                    waiting.discard(id(key.data))
        first = time.monotonic() - written
        source.sql(f"UPDATE w.rows_ SET t = '{MARKER.decode()}', n = 1 WHERE id = -1")
        written = time.monotonic()
        waiting = set(map(id, clients))
        while waiting:
            assert time.monotonic() - written < SECONDS, f"{len(waiting)} clients wait for the last change"
            for key, _ in selector.select(1.0):
                if key.data.read():
                    waiting.discard(id(key.data))
        live = time.monotonic() - written
        status = chain.node.status()["replicas"]
        assert isinstance(status, list)
        assert len(status) == CLIENTS + len(replicas)
        total = sum(client.received for client in clients)
    chain.converge(*replicas)
    memory = peak_memory(chain.node)
    assert max(memory.values()) < MEMORY, memory
    print(
        f"{CLIENTS} dumps: {total >> 20} MiB, all caught up {first:.2f} s after the last commit, one change to all in"
        f" {live * 1000:.0f} ms, memory {sorted(size >> 20 for size in memory.values())} MiB"
    )
    name = "MySQL" if source.flavor is Flavor.MYSQL else "MariaDB"
    works(f"{CLIENTS} dumps and 2 replicas on one node", "mixed", f"{name} {source.binaries.version.partition('-')[0]}")
