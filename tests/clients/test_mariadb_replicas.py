"""MariaDB 10.11 and 11.8 as replicas, of MariaDB and of MySQL."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from servers.compatibility import Note
from servers.fixtures import Pool

from clients.conftest import Chains
from kingbus_node.demo.compare import differences
from kingbus_node.demo.instance import Options, Server, text
from kingbus_node.demo.replication import FilePosition, Upstream, replicate, status
from kingbus_node.demo.waiting import wait_until

SEMI_SYNC: Options = {"rpl-semi-sync-slave-enabled": "ON"}


def parallel(mode: str) -> Options:
    return {"slave-parallel-threads": 8, "slave-parallel-mode": mode}


@dataclass(frozen=True, slots=True)
class Mode:
    """How a replica is set up. change: appended to CHANGE MASTER; {ca} is the file of the node's CA."""

    name: str
    options: Options = field(default_factory=dict)
    change: str = ""
    start: FilePosition | None = None
    current_pos: bool = False
    quick: bool = False


MODES = (
    Mode("slave_pos, gtid_strict_mode", {"gtid-strict-mode": "ON"}),
    Mode("current_pos", current_pos=True),
    Mode("file and position", start=FilePosition()),
    Mode("semi-sync", SEMI_SYNC, quick=True),
    Mode("semi-sync, file and position", SEMI_SYNC, start=FilePosition()),
    Mode("parallel, optimistic", parallel("optimistic")),
    Mode("parallel, conservative", parallel("conservative")),
    Mode("parallel, aggressive", parallel("aggressive")),
    Mode("parallel, minimal", parallel("minimal")),
    Mode("slave_compressed_protocol", {"slave-compressed-protocol": "ON"}, quick=True),
    Mode("slave_compressed_protocol, semi-sync", {**SEMI_SYNC, "slave-compressed-protocol": "ON"}),
    Mode("TLS, the CA verified", change=", MASTER_SSL = 1, MASTER_SSL_CA = '{ca}', MASTER_SSL_VERIFY_SERVER_CERT = 1"),
)


def name_of(server: Server) -> str:
    """As in the table."""
    return f"MariaDB {server.binaries.version.partition('-')[0]}"


@pytest.mark.parametrize("release", ["mariadb-10.11", pytest.param("mariadb-11.8", marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    "mode", [pytest.param(mode, id=mode.name, marks=() if mode.quick else pytest.mark.thorough) for mode in MODES]
)
def test_a_replica_converges(mode: Mode, release: str, chains: Chains, works: Note) -> None:
    """The source writes in several domains, and as several servers."""
    chain = chains(release)
    replica = chain.pool.server(release, mode.options)
    ca = chain.node.data / "keys" / "ca.pem"
    change = mode.change.format(ca=ca)
    replicate(replica, chain.upstream, mode.start, options=change)
    if mode.current_pos:
        replica.sql("STOP SLAVE", "CHANGE MASTER TO MASTER_USE_GTID = current_pos", "START SLAVE")
    chain.workload.everything()
    chain.converge(replica)
    if SEMI_SYNC.items() <= mode.options.items():
        assert text(replica.sql("SHOW STATUS LIKE 'Rpl_semi_sync_slave_status'")[0][1]) == "ON"
        chain.workload.small()
        chain.converge(replica)

        def acknowledged() -> bool:
            replicas = chain.node.status()["replicas"]
            assert isinstance(replicas, list)
            return [one["acks"] > 1 for one in replicas if one["server_id"] == replica.server_id] == [True]

        wait_until(acknowledged, 30, "acknowledgements in the node's status")
    works(f"{name_of(replica)} replica", mode.name, name_of(chain.source))
    replica.stop()


@pytest.mark.thorough
@pytest.mark.parametrize("semi_sync", [False, True], ids=["asynchronous", "semi-sync"])
@pytest.mark.parametrize("release", ["mariadb-10.11", "mariadb-11.8"])
def test_a_mariadb_replica_of_a_mysql_source_by_file_and_position(
    release: str, semi_sync: bool, pool: Pool, works: Note
) -> None:
    """The source writes what MariaDB can read: no collations of MySQL's own in the context of statements."""
    source = pool.server("mysql-9.7", {"collation-server": "utf8mb4_general_ci"})
    node = pool.node(source)
    replica = pool.server(release, SEMI_SYNC if semi_sync else {})
    replicate(replica, Upstream(node.port), FilePosition(source.binary_logs()[0]))
    for number in range(3):
        source.sql(
            "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci",
            "SET SESSION collation_server = utf8mb4_general_ci, default_collation_for_utf8mb4 = utf8mb4_general_ci",
            "CREATE DATABASE IF NOT EXISTS m CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
            "USE m",
            "CREATE TABLE IF NOT EXISTS t (id INT PRIMARY KEY, t VARCHAR(50), x DECIMAL(20, 5), b LONGBLOB)"
            " CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
            f"INSERT INTO t VALUES ({number * 2}, 'ä€😀', 1.5, REPEAT('x', 100000)),"
            f" ({number * 2 + 1}, NULL, -3, NULL)",
            f"UPDATE t SET t = 'changed' WHERE id = {number * 2}",
            "FLUSH BINARY LOGS",
        )

    def reached() -> bool:
        now = status(replica)
        assert now is not None
        assert not now.broken, now.broken
        file, size = source.sql("SHOW BINARY LOGS")[-1][:2]
        return (now.executed_file, now.executed_position) == (text(file), size)

    wait_until(reached, 90, "the replica at the end of the source's binlog", found=lambda: repr(status(replica)))
    assert differences(source, replica) == []
    mode = "file and position" + (", semi-sync" if semi_sync else "")
    works(f"{name_of(replica)} replica", mode, f"MySQL {source.binaries.version.partition('-')[0]}")
