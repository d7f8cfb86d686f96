"""MySQL 5.6 as a replica and as a source."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.compatibility import Note, Reads
from servers.fixtures import Pool
from servers.mysql56 import VERSION, Mysql56

from kingbus_node.demo.compare import differences
from kingbus_node.demo.instance import Server
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.waiting import wait_until

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]
NAME = f"MySQL {VERSION} replica"


def write(source: Server, start: int, *, rounds: int = 3) -> None:
    """Rows, changes, DDL and rotations that every version since 5.6 understands."""
    plain = [
        "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci",
        "SET SESSION collation_server = utf8mb4_general_ci",
    ]
    if not isinstance(source, Mysql56):
        plain.append("SET SESSION default_collation_for_utf8mb4 = utf8mb4_general_ci")
    for number in range(start, start + rounds):
        source.sql(
            *plain,
            "CREATE DATABASE IF NOT EXISTS old CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
            "USE old",
            "CREATE TABLE IF NOT EXISTS t (id INT PRIMARY KEY, t VARCHAR(50), d DATETIME(3), x DECIMAL(20, 5),"
            " b LONGBLOB) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
            f"INSERT INTO t VALUES ({number * 10}, 'ä€😀', NOW(3), 1.5, REPEAT('x', 100000)), ({number * 10 + 1}, NULL,"
            " NULL, -3, NULL)",
            "BEGIN",
            f"UPDATE t SET t = 'changed' WHERE id = {number * 10}",
            f"DELETE FROM t WHERE id = {number * 10 + 1}",
            "COMMIT",
            "FLUSH BINARY LOGS",
        )


def converge(source: Server, node: NodeProcess, replica: Mysql56) -> None:
    """The replica has what the source has written by now."""

    def reached() -> bool:
        problem = replica.problem()
        assert not problem, problem
        try:
            return not differences(source, replica)
        except AssertionError:
            raise
        except Exception:  # noqa: BLE001  (a table that is not there yet)
            return False

    wait_until(reached, 90, f"{replica!r} to be as {source!r}", found=lambda: f"{replica.problem()} {node.log_tail()}")


def readable_source(pool: Pool) -> Server:
    """A new server that writes what 5.6 can read: no new collations in the context of statements."""
    return pool.server(
        "mysql-9.7",
        {"character-set-server": "utf8mb4", "collation-server": "utf8mb4_general_ci", "binlog-row-metadata": "MINIMAL"},
    )


@pytest.mark.parametrize("gtid", [True, False], ids=["gtid", "file"])
def test_a_5_6_replica_of_a_new_source(gtid: bool, pool: Pool, tmp_path: Path, works: Note) -> None:
    source = readable_source(pool)
    node = pool.node(source)
    with Mysql56(tmp_path / "replica", server_id=56) as replica:
        replica.follow(node.port, gtid=gtid, file=source.binary_logs()[0])
        write(source, 1)
        converge(source, node, replica)
        node.kill()
        write(source, 10)
        node.start()
        converge(source, node, replica)
    works(NAME, "auto-position" if gtid else "file and position", "MySQL 9.7.4")


@pytest.mark.parametrize("gtid", [True, False], ids=["gtid", "file"])
def test_a_5_6_source_and_a_5_6_replica(gtid: bool, pool: Pool, tmp_path: Path, works: Note, reads: Reads) -> None:
    with Mysql56(tmp_path / "source", server_id=57) as source:
        node = pool.node(source)
        with Mysql56(tmp_path / "replica", server_id=56) as replica:
            replica.follow(node.port, gtid=gtid, file=source.binary_logs()[0])
            write(source, 1)
            converge(source, node, replica)
            source.kill()
            source.start()
            write(source, 10)
            converge(source, node, replica)
    works(NAME, "auto-position" if gtid else "file and position", f"MySQL {VERSION}")
    reads(source, "events as old servers write them, a kill under way")


def fate(source: Server, replica: Mysql56) -> str:
    """What becomes of the replica: "equal", or the error with which it stops."""
    found: list[str] = []

    def decided() -> bool:
        try:
            problem = replica.problem() or ("" if differences(source, replica) else "equal")
        except Exception as broken:  # noqa: BLE001  (a table that is not there yet, or a server that has crashed)
            problem = "" if replica.running else f"crashed: {broken}"
        found.append(problem)
        return bool(problem)

    wait_until(decided, 90, f"{replica!r} to be as {source!r}, or to stop", found=replica.log_tail)
    return found[-1]


@pytest.mark.parametrize("gtid", [True, False], ids=["gtid", "file"])
def test_tags_stop_a_5_6_replica_and_what_is_before_them_is_there(gtid: bool, pool: Pool, tmp_path: Path) -> None:
    """A real 9.7 cannot be compared with: it has no authentication plugin that 5.6 knows."""
    source = readable_source(pool)
    node = pool.node(source)
    with Mysql56(tmp_path / "replica", server_id=56) as replica:
        replica.follow(node.port, gtid=gtid, file=source.binary_logs()[0])
        write(source, 1)
        converge(source, node, replica)
        source.sql("SET gtid_next = 'AUTOMATIC:tag'", "INSERT INTO old.t (id) VALUES (1)")
        assert fate(source, replica).startswith("Relay log read failure: Could not parse relay log event entry")
        assert replica.sql("SELECT COUNT(*) FROM old.t WHERE id = 1") == [(0,)]
        source.sql("DELETE FROM old.t WHERE id = 1")
        assert differences(source, replica) == []
