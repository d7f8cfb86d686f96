"""Debezium's MySQL connector, in its embedded engine: it takes its snapshot from the source, where the tables are, and
then reads the changes from a node, as docs/clients.md says.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.compatibility import Note

from clients.conftest import Chains
from clients.programs import Order, debezium
from clients.reading import assert_equal, mark, reading
from clients.test_readers_of_change_data import source_name, write
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]


def connector(folder: Path, port: int, until: str, **more: str) -> Order:
    """The connector's properties, with offsets and the history of the schema in `folder`."""
    properties = {
        "name": "orders",
        "connector.class": "io.debezium.connector.mysql.MySqlConnector",
        "topic.prefix": "orders",
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": str(folder / "offsets"),
        "offset.flush.interval.ms": "0",
        "schema.history.internal": "io.debezium.storage.file.history.FileSchemaHistory",
        "schema.history.internal.file.filename": str(folder / "history"),
        "database.hostname": "127.0.0.1",
        "database.port": str(port),
        "database.user": REPLICATION_USER,
        "database.password": REPLICATION_PASSWORD,
        "database.server.id": "5454",
        "database.ssl.mode": "preferred",
        "table.include.list": "w.rows_,w.blobs",
        "heartbeat.interval.ms": "1000",
        "until": until,
    }
    return properties | {name.replace("_", "."): value for name, value in more.items()}


def test_the_snapshot_is_from_the_source_and_the_changes_are_from_a_node(
    chains: Chains, tmp_path: Path, works: Note
) -> None:
    chain, program = chains("mysql-9.7"), debezium()
    write(chain)
    mark(chain.workload, "in the snapshot")
    root = {"database_user": "root", "database_password": ""}
    with reading(program, connector(tmp_path, chain.source.port, "in the snapshot", **root), tmp_path) as running:
        read = running.finish()
    stored = (tmp_path / "offsets").read_bytes()
    assert b'"pos"' in stored
    assert b'"snapshot"' not in stored, "the snapshot is not complete: it would be taken again, at the node"
    write(chain)
    mark(chain.workload, "from a node")
    with reading(program, connector(tmp_path, chain.node.port, "from a node"), tmp_path, read) as running:
        read = running.finish()
        assert_equal(chain.source, read, gtids=False)
    assert read.gtids
    works(str(program), "snapshot from the source, changes from a node", source_name(chain))


def test_without_a_snapshot_it_learns_the_tables_from_the_log(chains: Chains, tmp_path: Path, works: Note) -> None:
    """The log goes back to the making of the tables."""
    chain, program = chains("mysql-9.7"), debezium()
    write(chain)
    mark(chain.workload, "without a snapshot")
    never = {"snapshot_mode": "never"}
    with reading(program, connector(tmp_path, chain.node.port, "without a snapshot", **never), tmp_path) as running:
        assert_equal(chain.source, running.finish(), gtids=False)
    works(str(program), "without snapshot", source_name(chain))


def test_it_reads_over_tls(chains: Chains, tmp_path: Path, works: Note) -> None:
    chain, program = chains("mysql-9.7"), debezium()
    write(chain)
    mark(chain.workload, "over TLS")
    tls = {"snapshot_mode": "never", "database_ssl_mode": "required"}
    with reading(program, connector(tmp_path, chain.node.port, "over TLS", **tls), tmp_path) as running:
        assert_equal(chain.source, running.finish(), gtids=False)
    works(str(program), "TLS", source_name(chain))
