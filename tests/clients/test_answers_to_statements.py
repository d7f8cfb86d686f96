"""What a node answers to statements has the columns, by name and type, that a real server's answer has."""

from __future__ import annotations

from contextlib import closing

import pytest

from clients.conftest import Chains
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, connect

COMMON = (
    "SHOW BINARY LOGS",
    "SHOW BINLOG EVENTS LIMIT 5",
    "SHOW BINLOG EVENTS IN '{file}' FROM 4 LIMIT 1, 2",
    "SHOW VARIABLES LIKE 'server_id'",
    "SHOW GLOBAL VARIABLES WHERE Variable_name = 'server_id'",
    "SHOW STATUS LIKE 'Uptime'",
    "SHOW PROCESSLIST",
    "SHOW FULL PROCESSLIST",
    "SHOW WARNINGS",
    "SHOW COUNT(*) WARNINGS",
    "SHOW COUNT(*) ERRORS",
    "SELECT UNIX_TIMESTAMP()",
    "SELECT VERSION(), USER(), CURRENT_USER(), DATABASE(), CONNECTION_ID()",
    "SELECT @@GLOBAL.server_id, @@server_id AS x, @@version, @@version_comment, @@binlog_format, @@binlog_checksum",
    "SELECT @@log_bin, @@sql_log_bin, @@max_allowed_packet, @@wait_timeout, @@autocommit, @@hostname, @@read_only",
    "SELECT @@sql_mode, @@time_zone, @@character_set_server, @@collation_server, @@lower_case_table_names",
    "SELECT @nothing",
    "SELECT 1, 'text', 1.5, NULL",
    "SELECT NOW()",
)
MYSQL = (
    "SHOW BINARY LOG STATUS",
    "SHOW REPLICAS",
    "SHOW REPLICA STATUS",
    "SELECT @@GLOBAL.gtid_mode, @@GLOBAL.server_uuid, @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged, @@gtid_next",
    "SELECT @@global.super_read_only, @@global.log_replica_updates, @@binlog_row_image, @@binlog_row_metadata",
    "SELECT GTID_SUBSET('', ''), GTID_SUBTRACT('3e11fa47-71ca-11e1-9e33-c80aa9429562:1-3', '')",
)
MARIADB = (
    "SHOW MASTER STATUS",
    "SHOW MASTER LOGS",
    "SHOW SLAVE HOSTS",
    "SHOW SLAVE STATUS",
    "SELECT @@GLOBAL.gtid_domain_id, @@gtid_binlog_pos, @@gtid_binlog_state, @@gtid_current_pos, @@gtid_slave_pos",
    "SELECT BINLOG_GTID_POS('{file}', 4)",
)
CASES = [("mysql-9.7", one) for one in COMMON + MYSQL] + [("mariadb-10.11", one) for one in COMMON + MARIADB]


def described(port: int, user: str, password: str, statement: str) -> list[tuple[str, int]]:
    with closing(connect(port, user=user, password=password)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        cursor.fetchall()
        return [(str(column[0]), int(column[1])) for column in cursor.description or ()]


@pytest.mark.parametrize(("release", "statement"), CASES)
def test_the_columns_are_those_of_a_real_server(release: str, statement: str, chains: Chains) -> None:
    chain = chains(release)
    chain.wait_node()
    asked = statement.format(file=chain.source.binary_logs()[0])
    theirs = described(chain.source.port, "root", "", asked)
    ours = described(chain.node.port, REPLICATION_USER, REPLICATION_PASSWORD, asked)
    assert ours == theirs


@pytest.mark.parametrize(
    ("statement", "same"),
    [
        ("SHOW MASTER STATUS", "SHOW BINARY LOG STATUS"),
        ("show master logs", "SHOW BINARY LOGS"),
        ("SHOW SLAVE HOSTS", "SHOW REPLICAS"),
        ("Show Slave Status", "SHOW REPLICA STATUS"),
    ],
)
@pytest.mark.parametrize("release", ["mysql-9.7", "mariadb-10.11"])
def test_both_vocabularies_are_understood(release: str, statement: str, same: str, chains: Chains) -> None:
    chain = chains(release)
    chain.wait_node()
    user = (REPLICATION_USER, REPLICATION_PASSWORD)
    old, new = (described(chain.node.port, *user, asked) for asked in (statement, same))
    assert [kind for _, kind in old] == [kind for _, kind in new]
