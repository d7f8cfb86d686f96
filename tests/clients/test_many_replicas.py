"""Hundreds of replicas of different kinds on one node: all get everything soon, and the node stays small."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pymysql
import pytest
from servers.chain import Chain
from servers.compatibility import Note
from servers.compressed import CompressedClient
from servers.fixtures import Pool
from servers.processes import peak_memory
from servers.raw import file_command, gtid_command
from servers.workload import Workload

from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until
from kingbus_node.wire.compression import Algorithm

CLIENTS = 200
MARKER = b"the last row of the test"
MEMORY = 400 << 20
"""Bytes that each process of the node may have taken at most."""
SECONDS = 120.0
"""Until the slowest client has the last row; on an idle machine it takes well under one."""


@dataclass(slots=True)
class Client:
    """A dump. kind: how it is sent. tail: the end of what came. received: bytes of the dump, before compression."""

    sock: socket.socket
    take: Callable[[], bytes]
    kind: str
    tail: bytes = b""
    received: int = 0

    def read(self) -> bool:
        """Take what has come; whether the marker was in it."""
        data = self.take()
        self.received += len(data)
        found = MARKER in self.tail + data
        self.tail = (self.tail + data)[-len(MARKER) :]
        return found


def begin(chain: Chain, number: int, stack: ExitStack) -> Client:
    """A dump of one of many kinds: by file or GTID, with heartbeats or without, semi-sync or not, plain, over TLS, or
    compressed with zlib or zstd.
    """
    mysql = chain.source.flavor is Flavor.MYSQL
    statements = ["SET @master_binlog_checksum = @@global.binlog_checksum, @mariadb_slave_capability = 4"]
    if number % 2:
        statements.append("SET @master_heartbeat_period = 500000000")
    if number % 5 == 0:
        statements.append("SET @rpl_semi_sync_replica = 1, @rpl_semi_sync_slave = 1")
    if mysql and number % 3:
        command = gtid_command(GtidSet().encode(), flags=0)
    else:
        command = file_command(chain.source.binary_logs()[0], flags=0)
    at = 1 + 2 if command[0] == 0x1E else 1 + 4 + 2
    command = command[:at] + (5000 + number).to_bytes(4, "little") + command[at + 4 :]  # a server id of its own
    kind = ("plain", "zlib", "plain", "zstd" if mysql else "zlib", "plain", "TLS", "plain")[number % 7]
    if kind in tuple(Algorithm):
        client = CompressedClient(chain.node.port, REPLICATION_USER, REPLICATION_PASSWORD, Algorithm(kind))
        stack.enter_context(closing(client))
        for statement in statements:
            client.say(statement)
        client.send(command)
        return Client(client.sock, client.read, kind)
    connection = pymysql.connect(
        host="127.0.0.1", port=chain.node.port, user=REPLICATION_USER, password=REPLICATION_PASSWORD,
        ssl=_unverified() if kind == "TLS" else None, ssl_disabled=kind != "TLS", connect_timeout=60,
    )  # fmt: skip
    stack.enter_context(closing(connection))
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    sock: socket.socket = connection._sock  # type: ignore[attr-defined]
    sock.settimeout(60)
    sock.sendall(len(command).to_bytes(3, "little") + b"\0" + command)
    return Client(sock, lambda: _received(sock), kind)


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _received(sock: socket.socket) -> bytes:
    """What has come; with TLS all of it, for what waits within OpenSSL wakes nobody."""
    data = sock.recv(1 << 18)
    assert data, "the node has closed a dump"
    while isinstance(sock, ssl.SSLSocket) and sock.pending():
        data += sock.recv(sock.pending())
    return data


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
        kinds = Counter(client.kind for client in clients)
        assert min(kinds.values()) >= CLIENTS // 7, kinds
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

        def all_shown() -> bool:
            status = chain.node.status()["replicas"]
            assert isinstance(status, list)
            return len(status) == CLIENTS + len(replicas)

        # The core hears of a dump while that is sending already.
        wait_until(all_shown, SECONDS, "all dumps in the node's status")
        total = sum(client.received for client in clients)
        by_kind = [[client.received for client in clients if client.kind == kind] for kind in kinds]
        assert min(map(min, by_kind)) > 0.5 * max(map(max, by_kind)), by_kind  # each has had all, however it came
    chain.converge(*replicas)
    memory = peak_memory(chain.node)
    assert max(memory.values()) < MEMORY, memory
    print(
        f"{CLIENTS} dumps: {total >> 20} MiB, all caught up {first:.2f} s after the last commit, one change to all in"
        f" {live * 1000:.0f} ms, memory {sorted(size >> 20 for size in memory.values())} MiB"
    )
    name = "MySQL" if source.flavor is Flavor.MYSQL else "MariaDB"
    mixed = "by GTID and file, semi-sync, heartbeats, TLS, compressed, plain"
    works(f"{CLIENTS} dumps and 2 replicas on one node", mixed, f"{name} {source.binaries.version.partition('-')[0]}")
