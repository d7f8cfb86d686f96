"""A new replica is filled with a dump of the source, and then follows a node (docs/clients.md)."""

from __future__ import annotations

import subprocess

import pytest
from servers.compatibility import Note

from clients.conftest import Chains
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Server
from kingbus_node.demo.replication import replicate
from kingbus_node.demo.servers import Flavor

pytestmark = pytest.mark.thorough


def run(server: Server, program: str, *arguments: str, stdin: bytes = b"") -> bytes:
    path = str(server.binaries.binlog.parent / program)
    command = [path, "--no-defaults", "-h127.0.0.1", f"-P{server.port}", "-uroot", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


@pytest.mark.parametrize("by_gtid", [True, False], ids=["gtid", "file"])
@pytest.mark.parametrize("release", ["mysql-9.7", "mariadb-10.11", "mariadb-11.8"])
def test_a_replica_is_seeded_from_the_source(release: str, by_gtid: bool, chains: Chains, works: Note) -> None:
    """File names and positions are the source's own, so what the dump says holds for the node as well."""
    chain = chains(release)
    mysql = chain.source.flavor is Flavor.MYSQL
    chain.workload.everything()
    with chain.workload.in_background():
        if mysql:
            arguments = ["--source-data=1", "--set-gtid-purged=ON", "--ssl-mode=DISABLED"]
            dump = run(chain.source, "mysqldump", *arguments, "--single-transaction", "--routines", "--databases", "w")
        else:
            arguments = ["--master-data=1", "--skip-ssl", *(["--gtid"] if by_gtid else [])]
            dump = run(
                chain.source, "mariadb-dump", *arguments, "--single-transaction", "--routines", "--databases", "w"
            )
        assert b"CHANGE " in dump
        replica = chain.pool.server(release)
        upstream = chain.upstream
        if mysql:
            change = (
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_USER = '{}', SOURCE_PASSWORD = '{}',"
            )
            rest = " SOURCE_PORT = {}, GET_SOURCE_PUBLIC_KEY = 1, SOURCE_CONNECT_RETRY = 1"
        else:
            change = "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_USER = '{}', MASTER_PASSWORD = '{}',"
            rest = " MASTER_PORT = {}, MASTER_SSL_VERIFY_SERVER_CERT = 0, MASTER_CONNECT_RETRY = 1"
        replica.sql((change + rest).format(REPLICATION_USER, REPLICATION_PASSWORD, upstream.port))
        run(replica, "mysql" if mysql else "mariadb", "--ssl-mode=DISABLED" if mysql else "--skip-ssl", stdin=dump)
        if mysql and by_gtid:
            replicate(replica, upstream)
        else:
            replica.sql("START REPLICA" if mysql else "START SLAVE")
        chain.workload.everything()  # by file and position a replica of MariaDB knows of no GTIDs but those it has read
    chain.converge(replica)
    works(
        f"{'mysqldump' if mysql else 'mariadb-dump'} {chain.source.binaries.version.partition('-')[0]}",
        "seed from the source, then follow a node by " + ("GTID" if by_gtid else "file and position"),
        f"{'MySQL' if mysql else 'MariaDB'} {chain.source.binaries.version.partition('-')[0]}",
    )
    replica.stop()
