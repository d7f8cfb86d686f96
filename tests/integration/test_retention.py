"""Purged binlogs: the same files and GTIDs are gone as at a real server, and replicas are told in its words."""

from __future__ import annotations

import pymysql
import pytest
from pymysql.err import MySQLError as ClientError
from servers.chain import SOURCE, Chain
from servers.fixtures import Pool

from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Server, text
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.replication import Upstream, replicate, status
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until


def ask(node: NodeProcess, statement: str) -> list[list[str]]:
    """What the node answers, as text."""
    connection = pymysql.connect(host="127.0.0.1", port=node.port, user=REPLICATION_USER, password=REPLICATION_PASSWORD)
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return [[text(value) for value in row] for row in cursor.fetchall()]


def logs(node: NodeProcess) -> list[str]:
    return [row[0] for row in ask(node, "SHOW BINARY LOGS")]


def io_error(replica: Server) -> str:
    now = status(replica)
    return now.io_error if now else ""


def refusal(replica: Server) -> str:
    """What the replica was told when it was refused."""
    wait_until(lambda: "1236" in io_error(replica), 60, "error 1236", found=lambda: io_error(replica))
    return io_error(replica)


def three_files(chain: Chain) -> list[str]:
    for _ in range(2):
        chain.workload.small()
        chain.workload.flush_logs()
    chain.workload.small()
    chain.wait_node()
    return chain.source.binary_logs()


def test_a_purge_at_the_node_is_the_same_as_at_the_source(chain: Chain) -> None:
    files = three_files(chain)
    assert logs(chain.node) == files
    purge = f"PURGE BINARY LOGS TO '{files[-2]}'"
    ask(chain.node, purge)
    assert logs(chain.node) == files[-2:]

    def purged_at_source() -> bool:
        """MariaDB keeps a file for as long as an engine might need it to recover."""
        chain.source.sql(purge)
        return chain.source.binary_logs() == files[-2:]

    wait_until(purged_at_source, 60, "the source to purge", found=lambda: str(chain.source.binary_logs()))
    if chain.source.flavor is Flavor.MYSQL:
        gone = "SELECT @@GLOBAL.gtid_purged"
        assert ask(chain.node, gone)[0][0] == text(chain.source.value(gone)) != ""
    behind_node, behind_source = (chain.pool.server(SOURCE[chain.source.flavor]) for _ in range(2))
    replicate(behind_node, chain.upstream)
    replicate(behind_source, Upstream(chain.source.port))
    told = refusal(behind_node)
    assert told == refusal(behind_source)
    assert chain.source.flavor is Flavor.MARIADB or "the missing transactions are '" in told
    chain.node.stop()
    chain.node.start()
    assert logs(chain.node) == files[-2:]


def test_a_purge_before_now_leaves_the_file_that_is_written(chain: Chain) -> None:
    files = three_files(chain)
    ask(chain.node, "PURGE BINARY LOGS BEFORE '2001-01-01'")
    assert logs(chain.node) == files
    ask(chain.node, "PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY")
    assert logs(chain.node) == files[-1:]
    chain.workload.small()
    chain.wait_node()
    with pytest.raises(ClientError, match="Target log not found in binlog index") as caught:
        ask(chain.node, f"PURGE BINARY LOGS TO '{files[0]}'")
    assert caught.value.args[0] == 1373


def test_the_oldest_binlogs_go_by_themselves_and_connected_replicas_go_on(pool: Pool, flavor: Flavor) -> None:
    """Much is written, little is kept; the replica, which keeps up, never misses anything."""
    keep = {"max_bytes": 1 << 20, "max_age": None}
    settings = {"storage": {"min_free_bytes": 0, "segment_bytes": 128 << 10, "retention": keep}}
    chain = Chain.start(pool, flavor, settings=settings)
    replica = chain.replica()
    chain.converge(replica)  # nothing is kept for one that has not connected yet
    for _ in range(8):
        chain.workload.blobs((200_000, 300_000))
        chain.workload.flush_logs()
    chain.converge(replica)

    def stored() -> int:
        storage = chain.node.status()["storage"]
        assert isinstance(storage, dict)
        return int(storage["bytes"])

    wait_until(lambda: stored() <= 1 << 20, 60, "old binlogs to go", found=lambda: str(stored()))
    assert len(logs(chain.node)) < len(chain.source.binary_logs())
    chain.workload.small()
    chain.converge(replica)
    assert "1236" in refusal(chain.replica())
