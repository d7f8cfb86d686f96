"""What a node answers to statements is what a real server answers: the columns by name, type and nullability, and,
where it can be the same at all, the rows; and the errors by number and words.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import pymysql
import pytest

from clients.conftest import Chains
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, connect

MYSQL, MARIADB = "mysql-9.7", "mariadb-10.11"

SAME = (
    "SHOW BINLOG EVENTS",
    "SHOW BINLOG EVENTS LIMIT 5",
    "SHOW BINLOG EVENTS LIMIT 2, 3",
    "SHOW BINLOG EVENTS LIMIT 3 OFFSET 2",
    "SHOW BINLOG EVENTS LIMIT 0",
    "SHOW BINLOG EVENTS IN '{file}'",
    "SHOW BINLOG EVENTS IN '{file}' FROM 4 LIMIT 1, 2",
    "SHOW BINLOG EVENTS IN '{file}' FROM 0 LIMIT 2",
    "SHOW BINLOG EVENTS IN '{file}' FROM 130",
    "SHOW BINLOG EVENTS IN '{file}' FROM 99999999",
    "SHOW BINLOG EVENTS IN 'nothing.000001'",
    "SHOW BINLOG EVENTS IN {file}",
    "SHOW BINLOG EVENTS FROM 4 LIMIT 2",
    "SHOW VARIABLES LIKE 'binlog_checksum'",
    "SHOW GLOBAL VARIABLES LIKE 'BINLOG\\_CHECKSUM'",
    "SHOW SESSION VARIABLES LIKE 'log_bi_'",
    "SHOW VARIABLES LIKE 'no_such_variable'",
    "SHOW GLOBAL VARIABLES WHERE Variable_name = 'binlog_checksum'",
    "SHOW VARIABLES WHERE variable_name IN ('log_bin', 'binlog_format')",
    "SHOW VARIABLES WHERE `Variable_name` LIKE 'binlog_check%' AND Value = 'CRC32'",
    "SHOW VARIABLES WHERE Variable_name = 'log_bin' OR Variable_name = \"binlog_format\"",
    "SHOW VARIABLES WHERE Variable_name = 'log_bin' AND Value <> 'OFF'",
    "SHOW VARIABLES WHERE NOT Variable_name LIKE '%' OR (Variable_name = 'log_bin' AND Value != 'x')",
    "SHOW VARIABLES WHERE Variable_name NOT LIKE '%a%' AND Variable_name NOT IN ('x') AND Variable_name = 'log_bin'",
    "SHOW VARIABLES WHERE nothing = 1",
    "SHOW VARIABLES LIKE log_bin",
    "SHOW STATUS LIKE 'no_such_variable'",
    "SHOW STATUS LIKE 'Compression%'",
    "SHOW WARNINGS",
    "SHOW ERRORS",
    "SHOW COUNT(*) WARNINGS",
    "SHOW COUNT(*) ERRORS",
    "SELECT nope; SHOW WARNINGS",
    "SELECT nope; SHOW ERRORS LIMIT 1",
    "SELECT nope; SHOW COUNT(*) ERRORS",
    "SELECT nope; SELECT @@error_count",
    "SELECT nope; SELECT 1; SHOW WARNINGS",
    "SELECT @@version AS v, @@binlog_checksum",
    "select @@GLOBAL.Log_Bin , @@session.autocommit, @@sql_log_bin",
    "SELECT @@log_bin x",
    "SELECT @@log_bin 'x y'",
    "SELECT @@`log_bin`",
    "SELECT @@global.nope",
    "SELECT @@nope",
    "SELECT @nothing",
    "SET @a = 1, @b = 'x', @c = 1.5, @d = NULL; SELECT @a, @b, @c, @d",
    "SET @a = @@global.binlog_checksum, @`a b` := 5; SELECT @A, @`a b`",
    "SET @a = -5; SELECT @a",
    "SELECT 1, 'text', 1.5, NULL, -1, TRUE, FALSE, 18446744073709551615",
    "SELECT VERSION(), version() AS v",
    "SELECT DATABASE()",
    "SELECT 1 FROM DUAL",
    'SELECT 1 AS `a`, 2 AS "b" LIMIT 1',
    "SELECT /* c */ 1 -- tail",
    "/*!40101 SET NAMES utf8mb4 */",
    "/* nothing */",
    "SET NAMES 'latin1'",
    "SET NAMES nonsense",
    "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci",
    "SET autocommit = 0; SELECT @@autocommit",
    "SET SESSION wait_timeout = 100; SELECT @@wait_timeout",
    "SET wait_timeout = 'x'",
    "SET nope = 5",
    "SET GLOBAL nope = 1",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "BEGIN",
    "COMMIT",
    "START TRANSACTION",
    "KILL 99999999",
    "KILL CONNECTION 99999999",
    "KILL QUERY 99999999",
    "KILL",
    "PURGE BINARY LOGS TO 'nothing'",
    "PURGE BINARY LOGS TO '{file}'",
    "PURGE BINARY LOGS",
    "PURGE BINARY LOGS BEFORE '2000-01-01 00:00:00'",
    "FROB",
    "SHOW NOTHING",
    "SELECT 1;",
    "SELECT * FROM mysql.nope",
)
"""Asked of both; statements before a semicolon only prepare for the last one, on the same connection."""

SAME_OF_MYSQL = (
    "SHOW BINARY LOGS",
    "SHOW BINARY LOG STATUS",
    "SHOW REPLICA STATUS FOR CHANNEL 'nothing'",
    "SHOW REPLICA 'x' STATUS",
    "SELECT @@GLOBAL.gtid_mode, @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged, @@gtid_next, @@global.gtid_owned",
    "SELECT @@global.log_replica_updates, @@binlog_row_image, @@binlog_row_metadata",
    "SELECT GTID_SUBSET('', ''), GTID_SUBTRACT('3e11fa47-71ca-11e1-9e33-c80aa9429562:1-3', '')",
    "SELECT GTID_SUBTRACT('3e11fa47-71ca-11e1-9e33-c80aa9429562:1-3', '3e11fa47-71ca-11e1-9e33-c80aa9429562:2')",
    "SHOW VARIABLES LIKE 'protocol_compression_algorithms'",
    "SELECT @@session.server_id",
)
SAME_OF_MARIADB = (
    "SHOW MASTER STATUS",
    "SHOW BINLOG STATUS",
    "SHOW SLAVE STATUS FOR CHANNEL 'x'",
    "SHOW SLAVE 'x' STATUS",
    "SHOW REPLICA 'x' STATUS",
    "SHOW SLAVE x STATUS",
    "SHOW SLAVE 'x' HOSTS",
    "SHOW SLAVE 'x' STATUS FOR CHANNEL 'x'",
    "SELECT @@GLOBAL.gtid_domain_id, @@gtid_binlog_pos, @@gtid_binlog_state, @@gtid_current_pos, @@gtid_slave_pos",
    "SELECT @@GLOBAL.gtid_mode",
    "SELECT @@GLOBAL.server_uuid",
    "SHOW STATUS LIKE 'binlog_snapshot_%'",
    "SELECT BINLOG_GTID_POS('{file}', 4)",
    "SELECT BINLOG_GTID_POS('{file}', '4')",
    "SELECT BINLOG_GTID_POS(NULL, 4)",
    "SELECT BINLOG_GTID_POS('{file}')",
)

COLUMNS = (
    "SHOW BINARY LOGS",
    "SHOW VARIABLES LIKE 'server_id'",
    "SHOW STATUS LIKE 'Uptime%'",
    "SHOW PROCESSLIST",
    "SHOW FULL PROCESSLIST",
    "SELECT UNIX_TIMESTAMP()",
    "SELECT USER(), CURRENT_USER(), CONNECTION_ID()",
    "SELECT @@GLOBAL.server_id, @@server_id AS x, @@version_comment, @@hostname, @@read_only, @@port",
    "SELECT @@max_allowed_packet, @@wait_timeout, @@sql_mode, @@time_zone, @@character_set_server",
    "SELECT @@collation_server, @@lower_case_table_names",
    "SELECT NOW()",
)
"""What is a server's own: the rows differ."""
COLUMNS_OF_MYSQL = (
    "SHOW REPLICAS",
    "SHOW REPLICA STATUS",
    "SHOW REPLICA STATUS FOR CHANNEL ''",
    "SELECT @@GLOBAL.server_uuid, @@global.super_read_only",
)
COLUMNS_OF_MARIADB = (
    "SHOW SLAVE HOSTS",
    "SHOW REPLICA HOSTS",
    "SHOW SLAVE STATUS",
    "SHOW SLAVE '' STATUS",
    "SHOW ALL SLAVES STATUS",
)


@dataclass(frozen=True, slots=True)
class Told:
    """An answer. columns: name, type, whether it may be NULL. error: number and text."""

    columns: list[tuple[str, int, bool]]
    rows: list[tuple[object, ...]]
    error: str = ""


def tell(port: int, user: str, password: str, statements: str) -> Told:
    told = Told([], [])
    with closing(connect(port, user=user, password=password)) as connection, connection.cursor() as cursor:
        for statement in statements.split("; "):
            try:
                cursor.execute(statement)
                rows = list(cursor.fetchall())
            except pymysql.MySQLError as refused:
                told = Told([], [], str(refused))
            else:
                columns = [(str(column[0]), int(column[1]), bool(column[6])) for column in cursor.description or ()]
                told = Told(columns, rows)
    return told


def both(chains: Chains, release: str, statement: str) -> tuple[Told, Told]:
    """The source's and the node's answer."""
    chain = chains(release)
    chain.wait_node()
    asked = statement.format(file=chain.source.binary_logs()[0])
    theirs = tell(chain.source.port, "root", "", asked)
    ours = tell(chain.node.port, REPLICATION_USER, REPLICATION_PASSWORD, asked)
    return theirs, ours


@pytest.mark.parametrize(
    ("release", "statement"),
    [(MYSQL, one) for one in SAME + SAME_OF_MYSQL] + [(MARIADB, one) for one in SAME + SAME_OF_MARIADB],
)
def test_the_answer_is_that_of_a_real_server(release: str, statement: str, chains: Chains) -> None:
    theirs, ours = both(chains, release, statement)
    assert ours == theirs


@pytest.mark.parametrize(
    ("release", "statement"),
    [(MYSQL, one) for one in COLUMNS + COLUMNS_OF_MYSQL] + [(MARIADB, one) for one in COLUMNS + COLUMNS_OF_MARIADB],
)
def test_the_columns_are_those_of_a_real_server(release: str, statement: str, chains: Chains) -> None:
    theirs, ours = both(chains, release, statement)
    assert not ours.error
    assert ours.columns == theirs.columns


@pytest.mark.parametrize(
    ("statement", "same"),
    [
        ("SHOW MASTER STATUS", "SHOW BINARY LOG STATUS"),
        ("show master logs", "SHOW BINARY LOGS"),
        ("SHOW SLAVE HOSTS", "SHOW REPLICAS"),
        ("Show Slave Status", "SHOW REPLICA STATUS"),
        ("purge master logs to '{file}'", "PURGE BINARY LOGS TO '{file}'"),
    ],
)
@pytest.mark.parametrize("release", [MYSQL, MARIADB])
def test_both_vocabularies_are_understood(release: str, statement: str, same: str, chains: Chains) -> None:
    chain = chains(release)
    chain.wait_node()
    file = chain.source.binary_logs()[0]
    user = (REPLICATION_USER, REPLICATION_PASSWORD)
    old, new = (tell(chain.node.port, *user, asked.format(file=file)) for asked in (statement, same))
    assert (old.error, new.error) == ("", "")
    assert [column[1:] for column in old.columns] == [column[1:] for column in new.columns]
