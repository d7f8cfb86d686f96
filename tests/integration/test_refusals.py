"""What a node can not read, and what it can not serve, is refused clearly, and goes on once it has been put right."""

from __future__ import annotations

import pytest
from servers.chain import SOURCE, Chain
from servers.compatibility import Reads
from servers.fixtures import Pool
from servers.workload import Workload

from kingbus_node.demo.instance import Server
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.replication import FilePosition, replicate, status
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until


def source_of(node: NodeProcess) -> tuple[str, str]:
    """State and error of the source, from the node's status."""
    source = node.status()["source"]
    assert isinstance(source, dict)
    return str(source["state"]), str(source["error"])


def wait_refused(node: NodeProcess, because: str) -> None:
    def refused() -> bool:
        state, error = source_of(node)
        return state == "refused" and because in error

    wait_until(refused, 30, f"a refusal because of {because!r}", found=lambda: str(source_of(node)))


def wait_connected(node: NodeProcess) -> None:
    wait_until(lambda: source_of(node)[0] == "connected", 30, "the connection", found=lambda: str(source_of(node)))


def test_a_source_without_gtids_is_refused_until_it_has_them(pool: Pool, reads: Reads) -> None:
    source = pool.server("mysql-9.7", {"gtid-mode": "OFF_PERMISSIVE"})
    node = pool.node(source, ready=False)
    wait_refused(node, "gtid_mode = OFF_PERMISSIVE: expected ON")
    source.sql("SET GLOBAL gtid_mode = ON_PERMISSIVE", "SET GLOBAL gtid_mode = ON")
    wait_connected(node)
    reads(source, "gtid_mode not ON: refused until it is")


def test_a_wrong_password_is_refused_until_it_is_right(pool: Pool, flavor: Flavor, reads: Reads) -> None:
    source = pool.server(SOURCE[flavor])
    source.sql("ALTER USER repl@'%' IDENTIFIED BY 'another'")
    node = pool.node(source, ready=False)
    wait_refused(node, "Access denied for user 'repl'")
    assert "replication" not in source_of(node)[1].replace("replication user", "")
    source.sql("ALTER USER repl@'%' IDENTIFIED BY 'replication'")
    wait_connected(node)
    reads(source, "a wrong password: refused until it is right")


def test_a_missing_privilege_is_refused_until_it_is_granted(pool: Pool, flavor: Flavor) -> None:
    source = pool.server(SOURCE[flavor])
    source.sql("REVOKE REPLICATION SLAVE ON *.* FROM repl@'%'")
    node = pool.node(source, ready=False)
    wait_refused(node, "REPLICATION SLAVE")
    source.sql("GRANT REPLICATION SLAVE ON *.* TO repl@'%'")
    wait_connected(node)


def test_the_sources_own_server_id_is_refused(pool: Pool, flavor: Flavor) -> None:
    source = pool.server(SOURCE[flavor])
    node = pool.node(source, {"source": {"server_id": source.server_id}}, ready=False)
    wait_refused(node, f"has server_id {source.server_id}, and so has this cluster")


def test_a_source_without_a_binlog_is_refused(pool: Pool, flavor: Flavor) -> None:
    source = pool.server(SOURCE[flavor], {"log-bin": "OFF", "skip-log-bin": None})
    node = pool.node(source, ready=False)
    wait_refused(node, "expected log_bin to be ON")


def test_a_source_of_another_flavor_than_configured_is_refused(pool: Pool, flavor: Flavor) -> None:
    other = Flavor.MARIADB if flavor is Flavor.MYSQL else Flavor.MYSQL
    node = pool.node(pool.server(SOURCE[flavor]), {"source": {"flavor": str(other)}}, ready=False)
    wait_refused(node, f"but source.flavor is {other}")


def test_statement_format_is_warned_about_and_followed(pool: Pool, flavor: Flavor) -> None:
    chain = Chain.start(pool, flavor, options={"binlog-format": "MIXED"})
    assert "binlog_format = MIXED, expected ROW" in chain.node.log.read_text()
    chain.workload.small()
    chain.converge(chain.replica())


def test_a_source_that_purged_what_the_node_needs_is_refused(chain: Chain) -> None:
    chain.workload.everything()
    chain.wait_node()
    chain.node.stop()
    chain.workload.everything()
    chain.workload.flush_logs()
    last = chain.source.binary_logs()[-1]

    def purged() -> bool:
        """A file stays that MariaDB's recovery would need, or that a dump reads whose end the source has yet to see."""
        chain.source.sql(f"PURGE BINARY LOGS TO '{last}'")
        return chain.source.binary_logs() == [last]

    wait_until(purged, 60, f"all files before {last} to be purged")
    chain.node.start(ready=False)
    wait_refused(chain.node, "purged")


@pytest.mark.parametrize("rounds", [1, 3], ids=["has less", "has more"])
def test_a_source_that_was_reset_is_refused(rounds: int, chain: Chain) -> None:
    """It has other transactions under the same numbers: none of them may reach a replica."""
    chain.workload.everything()
    chain.source.sql("DROP DATABASE w")
    chain.wait_node()
    before = chain.node.executed()
    chain.node.stop()
    chain.source.sql("RESET BINARY LOGS AND GTIDS" if chain.source.flavor is Flavor.MYSQL else "RESET MASTER")
    anew = Workload(chain.source).create()
    for _ in range(rounds):
        anew.everything()
    chain.node.start(ready=False)
    wait_refused(chain.node, "reset")
    assert chain.node.executed() == before


def test_a_replica_that_needs_what_the_node_never_had_gets_error_1236(pool: Pool, flavor: Flavor) -> None:
    source = pool.server(SOURCE[flavor])
    workload = Workload(source).create()
    workload.everything()
    node = pool.node(source, {"source": {"start": "current"}})
    chain = Chain(pool, workload, node)
    workload.small()
    replica = chain.replica()
    expected = (
        "Cannot replicate because the source purged required binary logs"
        if flavor is Flavor.MYSQL
        else "Could not find GTID state requested by slave in any binlog files"
    )
    wait_until(lambda: io_error(replica) or None, 30, "an error")
    assert "1236" in io_error(replica)
    assert expected in io_error(replica)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (FilePosition("binlog.000009"), "Could not find first log file name in binary log index file"),
        (FilePosition("binlog.000001", 99_999_999), "position"),
        (FilePosition("binlog.000001", 300), "1236"),
    ],
)
def test_a_replica_that_asks_for_a_place_that_is_not_gets_error_1236(
    start: FilePosition, expected: str, chain: Chain
) -> None:
    replica = chain.pool.server(SOURCE[chain.source.flavor])
    replicate(replica, chain.upstream, start)
    wait_until(lambda: io_error(replica) or None, 30, "an error")
    assert "1236" in io_error(replica)
    assert expected in io_error(replica)


def io_error(replica: Server) -> str:
    now = status(replica)
    return now.io_error if now else ""
