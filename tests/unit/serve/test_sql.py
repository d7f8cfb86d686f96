"""Statements and their answers: what replicas and tools of both flavours say (captured), and what DBAs may."""

from __future__ import annotations

import re
import time
from datetime import datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.serve.fakes import CLUSTER_UUID, SOURCE_UUID, FakeNeighbours, FakeView

from kingbus_node.serve.facts import SessionFacts
from kingbus_node.serve.sql import MAX_STATEMENT, SqlSession, like
from kingbus_node.serve.view import PurgeOutcome
from kingbus_node.wire.errors import ErrorCode, MySQLError
from kingbus_node.wire.resultset import ColumnType, Ok, ResultSet

CONNECTOR_J = (
    "auto_increment_increment character_set_client character_set_connection character_set_results "
    "character_set_server collation_server collation_connection init_connect interactive_timeout license "
    "lower_case_table_names max_allowed_packet net_write_timeout performance_schema sql_mode system_time_zone "
    "time_zone transaction_isolation wait_timeout"
)
WORDS = (
    "SELECT SET SHOW KILL USE PURGE @@ . global server_id @x = := , ( ) 'a' 1 -1 1.5 NULL LIKE WHERE Variable_name IN "
    "VARIABLES BINARY LOGS LOG STATUS REPLICA SLAVE ; AS FROM LIMIT DEFAULT NAMES utf8 version() /* */ /*! `q` %"
    " GRANTS FOR CURRENT_USER"
)


class Connection:
    """A session whose answers are easy to look at."""

    def __init__(self, *, mariadb: bool = False) -> None:
        self.facts = SessionFacts(42, host="127.0.0.1", port=5, user="repl")
        self.neighbours = FakeNeighbours()
        self.view = FakeView.of_mariadb() if mariadb else FakeView()
        self.sql = SqlSession(self.facts, self.view, self.neighbours)

    def ok(self, statement: str) -> None:
        assert isinstance(self.sql.execute(statement.encode()), Ok), statement

    def result(self, statement: str) -> ResultSet:
        answer = self.sql.execute(statement.encode())
        assert isinstance(answer, ResultSet), statement
        return ResultSet(answer.columns, [tuple(row) for row in answer.rows])

    def rows(self, statement: str) -> list[tuple[str | None, ...]]:
        return [
            tuple(None if value is None else value.decode() for value in row) for row in self.result(statement).rows
        ]

    def pairs(self, statement: str) -> dict[str | None, str | None]:
        return {row[0]: row[1] for row in self.rows(statement)}

    def row(self, statement: str) -> tuple[str | None, ...]:
        (row,) = self.rows(statement)
        return row

    def names(self, statement: str) -> list[str]:
        return [column.name.decode() for column in self.result(statement).columns]

    def types(self, statement: str) -> list[int]:
        return [column.type for column in self.result(statement).columns]

    def error(self, statement: str) -> MySQLError:
        with pytest.raises(MySQLError) as caught:
            self.sql.execute(statement.encode())
        return caught.value


@pytest.fixture
def mysql() -> Connection:
    return Connection()


@pytest.fixture
def mariadb() -> Connection:
    return Connection(mariadb=True)


# -- what replicas and tools say, in order


def test_a_mysql_9_7_replica_gets_its_answers(mysql: Connection) -> None:
    assert mysql.types("SELECT UNIX_TIMESTAMP()") == [ColumnType.LONGLONG]
    before = time.time()
    assert int(before) <= int(mysql.row("SELECT UNIX_TIMESTAMP()")[0] or 0) <= time.time()
    assert mysql.row("SELECT @@GLOBAL.SERVER_ID") == ("101",)
    assert mysql.types("SELECT @@GLOBAL.SERVER_ID") == [ColumnType.LONGLONG]
    mysql.ok("SET @master_heartbeat_period = 30000001024, @source_heartbeat_period = 30000001024")
    mysql.ok(
        "SET @master_binlog_checksum = @@global.binlog_checksum, @source_binlog_checksum = @@global.binlog_checksum"
    )
    assert mysql.row("SELECT @source_binlog_checksum") == ("CRC32",)
    assert mysql.types("SELECT @source_binlog_checksum") == [ColumnType.LONG_BLOB]
    assert mysql.row("SELECT @@GLOBAL.GTID_MODE") == ("ON",)
    assert mysql.types("SELECT @@GLOBAL.GTID_MODE") == [ColumnType.VAR_STRING]
    assert mysql.row("SELECT @@GLOBAL.SERVER_UUID") == (CLUSTER_UUID,)
    uuid = "AAAAAAAA-e696-11f1-83d2-02fc00000001"
    mysql.ok(f"SET @slave_uuid = '{uuid}', @replica_uuid = '{uuid}'")
    assert mysql.facts.replica_uuid == "aaaaaaaa-e696-11f1-83d2-02fc00000001"
    assert mysql.facts.number("source_heartbeat_period", "master_heartbeat_period") == 30000001024
    assert mysql.facts.text("source_binlog_checksum") == "CRC32"


def test_semi_sync_is_offered_in_both_vocabularies(mysql: Connection, mariadb: Connection) -> None:
    assert mysql.row("SELECT @@global.rpl_semi_sync_source_enabled") == ("1",)
    assert mysql.types("SELECT @@global.rpl_semi_sync_source_enabled") == [ColumnType.LONGLONG]
    mysql.ok("SET @rpl_semi_sync_replica = 1")
    assert mysql.facts.number("rpl_semi_sync_replica", "rpl_semi_sync_slave") == 1
    for client in (mysql, mariadb):
        found = client.rows("SHOW VARIABLES LIKE 'rpl_semi_sync_master_enabled'")
        assert found == [("rpl_semi_sync_master_enabled", "ON")]


def test_a_mysql_5_6_replica_gets_its_answers(mysql: Connection) -> None:
    assert mysql.rows("SHOW VARIABLES LIKE 'SERVER_ID'") == [("server_id", "101")]
    mysql.ok("SET @master_heartbeat_period= 1799999979520")
    mysql.ok("SET @master_binlog_checksum= @@global.binlog_checksum")
    assert mysql.row("SELECT @master_binlog_checksum") == ("CRC32",)
    assert mysql.rows("SHOW VARIABLES LIKE 'SERVER_UUID'") == [("server_uuid", CLUSTER_UUID)]
    mysql.ok("SET @slave_uuid= 'u'")


def test_a_mariadb_replica_gets_its_answers(mariadb: Connection) -> None:
    assert mariadb.row("SELECT UNIX_TIMESTAMP()")
    assert mariadb.names("SHOW VARIABLES LIKE 'SERVER_ID'") == ["Variable_name", "Value"]
    mariadb.ok("SET @master_heartbeat_period= 30000001024")
    mariadb.ok("SET @master_binlog_checksum= @@global.binlog_checksum")
    assert mariadb.row("SELECT @master_binlog_checksum") == ("CRC32",)
    mariadb.ok("SET @mariadb_slave_capability=4")
    assert mariadb.row("SELECT @@GLOBAL.gtid_domain_id") == ("0",)
    mariadb.ok("SET @slave_connect_state='0-11-7'")
    mariadb.ok("SET @slave_gtid_strict_mode=0")
    mariadb.ok("SET @slave_gtid_ignore_duplicates=0")
    assert mariadb.facts.text("slave_connect_state") == "0-11-7"
    assert mariadb.facts.number("mariadb_slave_capability") == 4


def test_a_mariadb_replica_learns_that_a_mysql_source_has_no_mysql_gtids_for_it(mariadb: Connection) -> None:
    assert mariadb.error("SELECT @@GLOBAL.GTID_MODE").message == "Unknown system variable 'GTID_MODE'"


def test_a_mariadb_replica_at_a_mysql_source_gets_an_error_that_it_tolerates(mysql: Connection) -> None:
    refused = mysql.error("SELECT binlog_gtid_pos('binlog.000001',4)")
    assert (refused.code, refused.sqlstate, refused.message) == (1046, "3D000", "No database selected")
    mysql.ok("USE t")
    assert mysql.error("SELECT binlog_gtid_pos('binlog.000001',4)").code == ErrorCode.SP_DOES_NOT_EXIST
    assert mysql.error("SELECT @@GLOBAL.gtid_domain_id").code == ErrorCode.UNKNOWN_SYSTEM_VARIABLE


@pytest.mark.parametrize("call", ["binlog_gtid_pos('binlog.000002',379)", "BINLOG_GTID_POS('binlog.000002', '379')"])
def test_a_mariadb_position_is_turned_into_a_gtid(mariadb: Connection, call: str) -> None:
    assert mariadb.row(f"SELECT {call}") == ("0-11-379",)
    assert mariadb.types(f"SELECT {call}") == [ColumnType.LONG_BLOB]
    assert mariadb.names(f"SELECT {call}") == [call]


def test_a_place_that_is_nowhere_has_no_gtid(mariadb: Connection) -> None:
    assert mariadb.row("SELECT BINLOG_GTID_POS('nowhere', 4)") == (None,)
    assert mariadb.row("SELECT BINLOG_GTID_POS('binlog.000002', NULL)") == (None,)
    assert mariadb.row("SELECT BINLOG_GTID_POS('binlog.000002', 'x')") == (None,)
    assert mariadb.error("SELECT BINLOG_GTID_POS('binlog.000002')").code == ErrorCode.WRONG_PARAMCOUNT


def test_mysqlbinlog_gets_its_answers(mysql: Connection) -> None:
    assert mysql.row("SELECT VERSION()") == ("9.7.4-2",)
    mysql.ok("SET @master_binlog_checksum = 'NONE', @source_binlog_checksum = 'NONE'")
    assert mysql.facts.text("source_binlog_checksum", "master_binlog_checksum") == "NONE"


def test_python_mysql_replication_gets_its_answers(mysql: Connection) -> None:
    mysql.ok("SET NAMES utf8")
    mysql.ok("SET AUTOCOMMIT = 0")
    assert not mysql.sql.autocommit
    assert mysql.rows("SHOW GLOBAL VARIABLES LIKE 'BINLOG_CHECKSUM'") == [("binlog_checksum", "CRC32")]
    mysql.ok("SET @master_heartbeat_period = 5000000000")
    assert mysql.rows("SHOW VARIABLES LIKE 'BINLOG_ROW_METADATA';") == [("binlog_row_metadata", "FULL")]
    assert mysql.row("SHOW BINARY LOG STATUS")[:2] == ("binlog.000002", "1592")


def test_the_command_line_clients_get_their_answers(mysql: Connection, mariadb: Connection) -> None:
    assert mysql.names("select @@version_comment limit 1") == ["@@version_comment"]
    refused = mysql.error("select $$")
    assert refused.code == ErrorCode.PARSE
    assert "near '$$' at line 1" in refused.message
    assert mariadb.error("select $$").code == ErrorCode.BAD_FIELD
    assert mysql.row("SELECT DATABASE(), USER() LIMIT 1") == (None, "repl@127.0.0.1")
    assert mysql.row("select current_user()") == ("repl@%",)


def test_dump_tools_get_answers_to_what_concerns_the_binlog(mysql: Connection, mariadb: Connection) -> None:
    for statement in (
        "/*!40100 SET @@SQL_MODE='' */",
        "/*!40103 SET TIME_ZONE='+00:00' */",
        "/*!80000 SET SESSION information_schema_stats_expiry=0 */",
        "SET SESSION NET_READ_TIMEOUT= 86400, SESSION NET_WRITE_TIMEOUT= 86400",
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION /*!40100 WITH CONSISTENT SNAPSHOT */",
        "UNLOCK TABLES",
        "SET SESSION character_set_results = 'binary'",
        "SET SQL_QUOTE_SHOW_CREATE=1",
    ):
        mysql.ok(statement)
    assert mysql.row("SELECT @@GLOBAL.GTID_EXECUTED") == (f"{SOURCE_UUID}:1-8",)
    mariadb.ok("/*M!100100 SET WAIT_TIMEOUT=DEFAULT */")
    assert mariadb.rows("SHOW STATUS LIKE 'binlog_snapshot_%'") == [
        ("Binlog_snapshot_file", "binlog.000002"),
        ("Binlog_snapshot_position", "1592"),
    ]


def test_a_driver_gets_all_that_it_asks_for_at_once(mysql: Connection) -> None:
    """Connector/J 9's first statement."""
    names = CONNECTOR_J.split()
    items = ", ".join(f"@@{'session.' if number == 0 else ''}{name} AS {name}" for number, name in enumerate(names))
    assert mysql.names(f"/* mysql-connector-j-9.0.0 */SELECT {items}") == names
    assert None not in mysql.row(f"SELECT {items}")


# -- SET and user variables


def test_user_variables_keep_their_types(mysql: Connection) -> None:
    mysql.ok("SET @a = 5, @B='xx', @c := @@global.server_id, @d=NULL, @e=1.5, @f=-3")
    assert mysql.row("SELECT @a, @b, @C, @d, @e, @f, @nope") == ("5", "xx", "101", None, "1.5", "-3", None)
    assert mysql.types("SELECT @a, @b, @e, @d") == [
        ColumnType.LONGLONG,
        ColumnType.LONG_BLOB,
        ColumnType.NEWDECIMAL,
        ColumnType.MEDIUM_BLOB,
    ]
    assert mysql.types("SELECT @nope") == [ColumnType.VAR_STRING]
    assert mysql.facts.user_variables["e"] == Decimal("1.5")


def test_names_of_user_variables_ignore_case_and_quotes(mysql: Connection) -> None:
    mysql.ok("SET @`Replica_UUID` = 'u'")
    assert mysql.row("SELECT @replica_uuid, @'REPLICA_UUID'") == ("u", "u")


def test_one_bad_assignment_undoes_the_whole_set(mysql: Connection) -> None:
    assert mysql.error("SET @a = 1, nope = 2").code == ErrorCode.UNKNOWN_SYSTEM_VARIABLE
    assert mysql.error("SET @a = 1, @b = @@nope").code == ErrorCode.UNKNOWN_SYSTEM_VARIABLE
    assert mysql.row("SELECT @a") == (None,)


def test_strings_come_back_byte_for_byte(mysql: Connection) -> None:
    mysql.sql.execute(b"SET @x = 'a\xff''b\\n\\\\'")
    answer = mysql.sql.execute(b"SELECT @x")
    assert isinstance(answer, ResultSet)
    assert next(iter(answer.rows))[0] == b"a\xff'b\n\\"


def test_the_memory_of_a_session_is_bounded(mysql: Connection) -> None:
    for number in range(4):
        mysql.ok(f"SET @v{number} = '{'x' * 1_000_000}'")
    assert mysql.error(f"SET @v5 = '{'x' * 1_000_000}'").code == ErrorCode.OUT_OF_RESOURCES
    many = Connection()
    many.ok("SET " + ", ".join(f"@v{number}=1" for number in range(256)))
    assert many.error("SET @one_more=1").code == ErrorCode.OUT_OF_RESOURCES


def test_a_collation_that_is_no_text_can_be_asked_for(mysql: Connection) -> None:
    assert isinstance(mysql.sql.execute(b"SET NAMES utf8mb4 COLLATE '\xff'"), Ok)
    assert mysql.row("SELECT @@collation_connection") == ("\ufffd",)


def test_a_statement_that_is_too_long_is_refused(mysql: Connection) -> None:
    assert mysql.error("SELECT '" + "x" * MAX_STATEMENT + "'").code == ErrorCode.NET_PACKET_TOO_LARGE


def test_session_variables_are_set_for_the_session_only(mysql: Connection) -> None:
    mysql.ok("SET wait_timeout=17, SESSION sql_mode = 'ANSI', @@session.time_zone='+00:00', @@autocommit=ON")
    assert mysql.row("SELECT @@wait_timeout, @@global.wait_timeout, @@sql_mode") == ("17", "28800", "ANSI")
    mysql.ok("SET wait_timeout=DEFAULT")
    assert mysql.row("SELECT @@wait_timeout") == ("28800",)
    mysql.sql.reset()
    assert mysql.row("SELECT @@sql_mode")[0] != "ANSI"


def test_a_number_that_is_out_of_bounds_becomes_the_nearest(mysql: Connection) -> None:
    mysql.ok(f"SET wait_timeout = 0, interactive_timeout = -5, net_buffer_length = -1, sql_select_limit = {10**30}")
    names = "@@wait_timeout, @@interactive_timeout, @@net_buffer_length, @@sql_select_limit"
    assert mysql.row(f"SELECT {names}") == ("1", "1", "0", "18446744073709551615")


def test_a_session_keeps_no_long_texts_in_system_variables(mysql: Connection) -> None:
    for name in ("sql_mode", "time_zone", "optimizer_switch"):
        refused = mysql.error(f"SET {name} = '{'x' * 100_000}'")
        assert (refused.code, refused.message) == (1231, f"Variable '{name}' can't be set to the value of '{'x' * 64}'")
        mysql.ok(f"SET {name} = '{'x' * 4096}'")


def test_a_set_with_a_mistake_sets_nothing(mysql: Connection) -> None:
    for mistake in ("wait_timeout = 'x'", "sql_notes = 'perhaps'", "@@global.sql_notes = 1"):
        assert mysql.error(f"SET autocommit = 0, @x = 1, {mistake}").code in (1227, 1231, 1232)
    assert mysql.row("SELECT @@autocommit, @x") == ("1", None)


@pytest.mark.parametrize(
    ("statement", "code", "text"),
    [
        ("SET @@global.server_id = 5", 1227, "SUPER or SYSTEM_VARIABLES_ADMIN"),
        ("SET GLOBAL wait_timeout = 5", 1227, "privilege"),
        ("SET server_id = 5", 1229, "Variable 'server_id' is a GLOBAL variable and should be set with SET GLOBAL"),
        ("SET nope = 3", 1193, "Unknown system variable 'nope'"),
        ("SET wait_timeout = 'x'", 1232, "Incorrect argument type to variable 'wait_timeout'"),
        ("SET autocommit = 'maybe'", 1231, "Variable 'autocommit' can't be set to the value of 'maybe'"),
        ("SELECT @@session.server_id", 1238, "Variable 'server_id' is a GLOBAL variable"),
        ("SELECT @@global.gtid_next", 1238, "Variable 'gtid_next' is a SESSION variable"),
        ("SET NAMES nope", 1115, "Unknown character set: 'nope'"),
        ("SET @x = DEFAULT", 1231, "has no DEFAULT"),
    ],
)
def test_what_may_not_be_set_is_refused_with_the_servers_error(
    mysql: Connection, statement: str, code: int, text: str
) -> None:
    refused = mysql.error(statement)
    assert refused.code == code
    assert text in refused.message


def test_a_subquery_for_a_value_is_taken(mysql: Connection) -> None:
    mysql.ok("SET @x = (SELECT 1)")
    assert mysql.row("SELECT @x") == ("1",)


# -- SELECT


def test_columns_are_named_as_written(mysql: Connection) -> None:
    statement = "select @@server_id, @@Global.server_uuid as x, version( ), 'abc', 5 `five six`, -7, 1.5 'd', NULL"
    assert mysql.names(statement) == [
        "@@server_id",
        "x",
        "version( )",
        "abc",
        "five six",
        "-7",
        "d",
        "NULL",
    ]
    assert mysql.row(statement) == ("101", CLUSTER_UUID, "9.7.4-2", "abc", "5", "-7", "1.5", None)


def test_adjacent_strings_are_one(mysql: Connection) -> None:
    assert mysql.row("SELECT 'a' 'b'") == ("ab",)


def test_from_dual_and_limit_0_are_understood(mysql: Connection) -> None:
    assert mysql.row("SELECT 1 FROM DUAL;") == ("1",)
    assert mysql.rows("SELECT 1 LIMIT 0") == []


@pytest.mark.parametrize(
    ("statement", "code", "state", "text"),
    [
        ("SELECT * FROM foo", 1046, "3D000", "No database selected"),
        ("SELECT a FROM t.foo", 1054, "42S22", "Unknown column 'a' in 'field list'"),
        ("SELECT 1 FROM t.foo", 1146, "42S02", "Table 't.foo' doesn't exist"),
        ("SELECT * FROM information_schema.files", 1109, "42S02", "Unknown table 'FILES' in information_schema"),
        ("SELECT nope", 1054, "42S22", "Unknown column 'nope' in 'field list'"),
        ("SELECT", 1064, "42000", "near '' at line 1"),
        (
            "FROBNICATE the thing",
            1064,
            "42000",
            "MySQL server version for the right syntax to use near 'FROBNICATE the thing'",
        ),
        ("", 1065, "42000", "Query was empty"),
        (" ; ", 1065, "42000", "Query was empty"),
        ("SELECT 1; SELECT 2", 1064, "42000", "near 'SELECT 2' at line 1"),
        ("UPDATE x SET y=1", 1290, "HY000", "--read-only option"),
        ("create table t (a int)", 1290, "HY000", "--read-only option"),
        ("STOP REPLICA", 1227, "42000", "privilege"),
        ("PURGE BINARY LOGS TO 'binlog.000009'", 1373, "HY000", "Target log not found in binlog index"),
        ("PURGE MASTER LOGS BEFORE 'soon'", 1210, "HY000", "Incorrect arguments to PURGE LOGS BEFORE"),
        ("PURGE MASTER LOGS BEFORE NULL", 1210, "HY000", "Incorrect arguments to PURGE LOGS BEFORE"),
        ("PURGE MASTER LOGS BEFORE NOW() - INTERVAL 1 FORTNIGHT", 1064, "42000", "FORTNIGHT"),
        ("SHOW NONSENSE", 1064, "42000", "near 'NONSENSE'"),
        ("SELECT VERSION(1)", 1582, "42000", "Incorrect parameter count in the call to native function 'VERSION'"),
    ],
)
def test_what_cannot_be_answered_gets_the_servers_error(
    mysql: Connection, statement: str, code: int, state: str, text: str
) -> None:
    refused = mysql.error(statement)
    assert (refused.code, refused.sqlstate) == (code, state)
    assert text in refused.message


def test_errors_name_the_product(mariadb: Connection) -> None:
    assert "MariaDB server version" in mariadb.error("FROBNICATE").message


# -- SHOW


@pytest.mark.parametrize("statement", ["SHOW BINARY LOGS", "show master logs", "Show Binary /* all */ Logs;"])
def test_binary_logs_are_listed_in_both_vocabularies(mysql: Connection, mariadb: Connection, statement: str) -> None:
    assert mysql.names(statement) == ["Log_name", "File_size", "Encrypted"]
    assert mysql.rows(statement) == [("binlog.000001", "400", "No"), ("binlog.000002", "1592", "No")]
    assert mariadb.names(statement) == ["Log_name", "File_size"]


@pytest.mark.parametrize("statement", ["SHOW BINARY LOG STATUS", "SHOW MASTER STATUS", "SHOW BINLOG STATUS"])
def test_the_binlog_status_is_shown_in_both_vocabularies(
    mysql: Connection, mariadb: Connection, statement: str
) -> None:
    assert mysql.names(statement) == ["File", "Position", "Binlog_Do_DB", "Binlog_Ignore_DB", "Executed_Gtid_Set"]
    assert mysql.row(statement) == ("binlog.000002", "1592", "", "", f"{SOURCE_UUID}:1-8")
    assert mariadb.row(statement) == ("binlog.000002", "1592", "", "")
    mysql.view.files.clear()
    assert mysql.rows(statement) == []


def test_replicas_are_shown_in_both_vocabularies(mysql: Connection, mariadb: Connection) -> None:
    uuid = "3473f1eb-e696-11f1-83d2-02fc00000001"
    assert mysql.names("SHOW REPLICAS") == ["Server_Id", "Host", "Port", "Source_Id", "Replica_UUID"]
    assert mysql.row("SHOW REPLICAS") == ("2", "127.0.0.1", "33971", "101", uuid)
    assert mysql.names("SHOW SLAVE HOSTS") == ["Server_id", "Host", "Port", "Master_id", "Slave_UUID"]
    assert mariadb.names("SHOW SLAVE HOSTS") == ["Server_id", "Host", "Port", "Master_id"]


def test_replica_status_is_shown_in_both_vocabularies(mysql: Connection, mariadb: Connection) -> None:
    assert mysql.rows("SHOW REPLICA STATUS") == []
    status: dict[str, str | int | None] = {"io_running": "Yes", "host": "db", "position": 5, "lag_seconds": None}
    mysql.neighbours.status = mariadb.neighbours.status = status
    shown = dict(zip(mysql.names("SHOW REPLICA STATUS"), mysql.row("SHOW REPLICA STATUS"), strict=True))
    assert len(shown) == 60
    assert (shown["Replica_IO_Running"], shown["Source_Host"], shown["Read_Source_Log_Pos"]) == ("Yes", "db", "5")
    assert shown["Seconds_Behind_Source"] is None
    old = dict(zip(mysql.names("SHOW SLAVE STATUS"), mysql.row("SHOW SLAVE STATUS"), strict=True))
    assert (old["Slave_IO_Running"], old["Master_Host"], old["Exec_Master_Log_Pos"]) == ("Yes", "db", "5")
    maria = dict(zip(mariadb.names("SHOW SLAVE STATUS"), mariadb.row("SHOW SLAVE STATUS"), strict=True))
    assert maria["Slave_SQL_Running"] == ""
    assert "Using_Gtid" in maria
    every = dict(zip(mariadb.names("SHOW ALL SLAVES STATUS"), mariadb.row("SHOW ALL SLAVES STATUS"), strict=True))
    assert every.items() >= maria.items()
    assert (every["Connection_name"], every["Slave_heartbeat_period"]) == ("", "0.000")


def test_there_is_one_channel_without_a_name(mysql: Connection, mariadb: Connection) -> None:
    assert mysql.rows("SHOW REPLICA STATUS FOR CHANNEL ''") == []
    assert mysql.error("SHOW REPLICA STATUS FOR CHANNEL 'x'").code == 3074
    assert mariadb.error("SHOW SLAVE STATUS FOR CHANNEL 'x'").code == 1617


def test_a_comment_is_a_statement_that_does_nothing(mysql: Connection) -> None:
    mysql.ok("/* nothing */")
    mysql.ok("-- nothing")


def test_the_counts_of_warnings_leave_them_where_they_are(mysql: Connection) -> None:
    mysql.error("SELECT nope")
    assert mysql.row("SELECT @@error_count, @@session.warning_count") == ("1", "1")
    assert mysql.row("SELECT @@error_count") == ("1",)
    mysql.rows("SELECT 1")
    assert mysql.row("SELECT @@error_count") == ("0",)


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("LIKE 'server%'", ["server_id", "server_uuid"]),
        ("LIKE 'SERVER\\_ID'", ["server_id"]),
        ("WHERE Variable_name = 'SERVER_ID'", ["server_id"]),
        ("WHERE variable_name IN ('server_id', 'port')", ["port", "server_id"]),
        ("WHERE (Variable_name = 'port' OR Variable_name LIKE 'server_i_') AND value <> '101'", ["port"]),
        ("WHERE `Variable_name` NOT LIKE '%' OR Value = '3306'", ["port"]),
        ("WHERE NOT Variable_name LIKE '%' OR NOT (Value <> '3306')", ["port"]),
        ("LIKE 'nope'", []),
    ],
)
def test_variables_are_filtered(mysql: Connection, condition: str, names: list[str]) -> None:
    assert [row[0] for row in mysql.rows(f"SHOW VARIABLES {condition}")] == names


def test_switches_are_on_and_off_in_show_and_numbers_in_select(mysql: Connection) -> None:
    assert mysql.rows("SHOW VARIABLES LIKE 'log_bin'") == [("log_bin", "ON")]
    assert mysql.row("SELECT @@log_bin, @@super_read_only") == ("1", "1")
    mysql.ok("SET autocommit=0")
    assert mysql.rows("SHOW SESSION VARIABLES LIKE 'autocommit'") == [("autocommit", "OFF")]
    assert mysql.rows("SHOW GLOBAL VARIABLES LIKE 'autocommit'") == [("autocommit", "ON")]


def test_gtid_variables_are_those_of_the_flavour(mysql: Connection, mariadb: Connection) -> None:
    assert mysql.pairs("SHOW GLOBAL VARIABLES LIKE 'gtid%'")["gtid_purged"] == f"{SOURCE_UUID}:1-2"
    maria = mariadb.pairs("SHOW GLOBAL VARIABLES LIKE 'gtid%'")
    assert (maria["gtid_binlog_pos"], maria["gtid_binlog_state"]) == ("0-11-10", "0-12-4,0-11-10")
    assert "gtid_mode" not in maria


def test_the_process_list_is_cut_unless_it_is_full(mysql: Connection, mariadb: Connection) -> None:
    assert len(mysql.row("SHOW PROCESSLIST")[7] or "") == 100
    assert len(mysql.row("SHOW FULL PROCESSLIST")[7] or "") == 200
    assert mariadb.names("SHOW PROCESSLIST")[-1] == "Progress"


def test_grants_are_those_of_the_login(mysql: Connection, mariadb: Connection) -> None:
    for client in (mysql, mariadb):
        client.facts.user = "re`pl"
        client.facts.require_tls = True
    assert mysql.names("SHOW GRANTS") == ["Grants for re`pl@%"]
    assert mysql.rows("SHOW GRANTS FOR CURRENT_USER") == [
        ("GRANT PROCESS, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `re``pl`@`%`",),
        ("GRANT BINLOG_ADMIN,CONNECTION_ADMIN ON *.* TO `re``pl`@`%`",),
    ]
    all_of_them = (
        "GRANT PROCESS, REPLICATION SLAVE, BINLOG MONITOR, CONNECTION ADMIN, BINLOG ADMIN, REPLICATION MASTER ADMIN, "
        "SLAVE MONITOR ON *.* TO `re``pl`@`%` REQUIRE SSL"
    )
    assert mariadb.rows("SHOW GRANTS FOR 're`pl'@'%'") == [(all_of_them,)]
    mysql.facts.privileges = mariadb.facts.privileges = frozenset()
    assert mysql.rows("SHOW GRANTS") == [("GRANT USAGE ON *.* TO `re``pl`@`%`",)]
    assert mariadb.rows("SHOW GRANTS") == [("GRANT USAGE ON *.* TO `re``pl`@`%` REQUIRE SSL",)]
    assert mysql.error("SHOW GRANTS FOR other").code == ErrorCode.TABLEACCESS_DENIED
    assert mariadb.error("SHOW GRANTS FOR other").code == ErrorCode.DBACCESS_DENIED
    assert mysql.error("SHOW GRANTS FOR `re``pl`@elsewhere").code == ErrorCode.NONEXISTING_GRANT


def test_events_are_shown(mysql: Connection) -> None:
    assert mysql.row("SHOW BINLOG EVENTS IN 'binlog.000001' FROM 4 LIMIT 0, 5")[:3] == (
        "binlog.000001",
        "4",
        "Format_desc",
    )
    assert mysql.rows("SHOW BINLOG EVENTS LIMIT 1, 5") == []


def test_warnings_tell_the_last_error_until_the_next_statement(mysql: Connection) -> None:
    assert mysql.rows("SHOW WARNINGS") == []
    mysql.error("SELECT @@nope")
    assert mysql.rows("SHOW WARNINGS LIMIT 10") == [("Error", "1193", "Unknown system variable 'nope'")]
    assert mysql.rows("SHOW ERRORS") == [("Error", "1193", "Unknown system variable 'nope'")]
    assert mysql.row("SHOW COUNT(*) WARNINGS") == ("1",)
    mysql.ok("SET @x=1")
    assert mysql.rows("SHOW WARNINGS") == []


@pytest.mark.parametrize(
    ("what", "order"),
    [
        ("TO 'binlog.000002'", ("binlog.000002", None)),
        ("BEFORE '2026-01-02 03:04:05'", (None, 1767323045.0)),
        ("BEFORE '2026-01-02'", (None, 1767312000.0)),
        ("BEFORE 20260102030405", (None, 1767323045.0)),
        ("BEFORE '2026-01-02 03:04:05.5' - INTERVAL 2 DAY", (None, 1767323045.5 - 2 * 86400)),
        ("BEFORE DATE_SUB('2026-01-02', INTERVAL '90' MINUTE)", (None, 1767312000.0 - 5400)),
        ("BEFORE DATE_ADD('2026-01-02', INTERVAL 1 WEEK) + INTERVAL 1 SECOND", (None, 1767312001.0 + 7 * 86400)),
    ],
)
def test_purges_are_passed_on(mysql: Connection, what: str, order: tuple[str | None, float | None]) -> None:
    mysql.ok(f"PURGE BINARY LOGS {what}")
    mysql.ok(f"purge master logs {what};")
    assert mysql.neighbours.purges == [order, order]


def test_what_a_replica_keeps_from_being_purged_is_a_warning_of_mysqls(mysql: Connection, mariadb: Connection) -> None:
    outcome = PurgeOutcome("binlog.000002", 1, 2, 3)
    mysql.neighbours.outcome = mariadb.neighbours.outcome = outcome
    answer = mysql.sql.execute(b"PURGE BINARY LOGS TO 'binlog.000004'")
    assert isinstance(answer, Ok)
    assert answer.warnings == 1
    text = "file ./binlog.000002 was not purged because it was being read by 3 thread(s), purged only 1 out of 3 files."
    assert mysql.rows("SHOW WARNINGS") == [("Warning", "1867", text)]
    assert mysql.rows("SHOW ERRORS") == []
    assert mysql.row("SHOW COUNT(*) WARNINGS") == ("1",)
    assert mysql.row("SELECT @@error_count, @@warning_count") == ("0", "1")
    mysql.neighbours.outcome = PurgeOutcome("binlog.000004", 3, 0, 1)
    mysql.ok("PURGE BINARY LOGS TO 'binlog.000004'")
    assert mysql.rows("SHOW WARNINGS") == []
    mariadb.ok("PURGE BINARY LOGS TO 'binlog.000004'")
    assert mariadb.rows("SHOW WARNINGS") == []


def test_a_purge_before_now_is_of_now(mysql: Connection) -> None:
    mysql.ok("PURGE BINARY LOGS BEFORE NOW() - INTERVAL 1 HOUR")
    ((_, before),) = mysql.neighbours.purges
    assert before is not None
    assert -10 < time.time() - 3600 - before < 600


@pytest.mark.parametrize(
    ("zone", "before", "expected"),
    [
        ("SYSTEM", "'2026-01-02 09:00:00'", "2026-01-02T09:00:00+00:00"),
        ("+09:00", "'2026-01-02 09:00:00'", "2026-01-02T00:00:00+00:00"),
        ("-3:30", "20260102090000", "2026-01-02T12:30:00+00:00"),
        ("Europe/Berlin", "'2026-07-02 09:00:00'", "2026-07-02T07:00:00+00:00"),
        ("Europe/Berlin", "'2026-01-02 09:00:00' - INTERVAL 1 HOUR", "2026-01-02T07:00:00+00:00"),
    ],
)
def test_a_purge_is_of_a_time_in_the_time_zone_of_the_session(
    mysql: Connection, zone: str, before: str, expected: str
) -> None:
    """Else it could take hours more than was meant."""
    mysql.ok(f"SET time_zone = '{zone}'")
    mysql.ok(f"PURGE BINARY LOGS BEFORE {before}")
    mysql.ok("PURGE BINARY LOGS BEFORE NOW()")
    (_, meant), (_, now) = mysql.neighbours.purges
    assert meant == datetime.fromisoformat(expected).timestamp()
    assert now is not None
    assert -10 < time.time() - now < 600


@pytest.mark.parametrize("zone", ["Nowhere/Else", "+99:00", "+15:00", "America", "../passwd", "x" * 4000, "a\\0b", "²"])
def test_no_purge_guesses_a_time_zone(mysql: Connection, zone: str) -> None:
    mysql.ok(f"SET time_zone = '{zone}'")
    refused = mysql.error("PURGE BINARY LOGS BEFORE '2026-01-02 09:00:00'")
    assert (refused.code, refused.message[:34]) == (1298, "Unknown or incorrect time zone: '" + zone[:1])
    assert mysql.neighbours.purges == []
    mysql.ok("PURGE BINARY LOGS TO 'binlog.000002'")


def test_kill_reaches_other_connections(mysql: Connection) -> None:
    mysql.ok("KILL 7")
    mysql.ok("KILL QUERY 7")
    assert mysql.neighbours.killed == [7, 7]
    refused = mysql.error("KILL 999999")
    assert (refused.code, refused.message) == (1094, "Unknown thread id: 999999")


# -- bounds


@pytest.mark.parametrize(
    ("text", "pattern", "matches"),
    [
        ("server_id", "SERVER_ID", True),
        ("server_id", "server%", True),
        ("server_id", "%id", True),
        ("server_id", "%r%d", True),
        ("server_id", "serverxid", False),
        ("server_id", "server\\_id", True),
        ("serverxid", "server\\_id", False),
        ("", "%", True),
        ("", "_", False),
        ("a%b", "a\\%b", True),
        ("axb", "a\\%b", False),
        ("abab", "%ab", True),
    ],
)
def test_like_is_sqls(text: str, pattern: str, matches: bool) -> None:
    assert like(text, pattern) is matches


@given(st.text("ab_%\\", max_size=8), st.text("ab", max_size=8))
def test_like_agrees_with_a_regular_expression(pattern: str, text: str) -> None:
    expression, at = "", 0
    while at < len(pattern):
        if pattern[at] == "\\" and at + 1 < len(pattern):
            at += 1
            expression += re.escape(pattern[at])
        else:
            expression += {"%": ".*", "_": "."}.get(pattern[at], re.escape(pattern[at]))
        at += 1
    assert like(text, pattern) == bool(re.fullmatch(expression, text))


def test_a_hostile_pattern_ends_soon() -> None:
    started = time.process_time()
    like("a" * 60, "%a" * 100_000 + "b")
    assert time.process_time() - started < 1


def test_deep_nesting_is_a_syntax_error(mysql: Connection) -> None:
    for statement in ("SELECT " + "(" * 5000, "SHOW VARIABLES WHERE " + "(" * 5000, "SELECT " + "f(" * 5000):
        assert mysql.error(statement).code in (ErrorCode.PARSE, ErrorCode.BAD_FIELD)


@given(st.lists(st.sampled_from(WORDS.split()), max_size=14), st.booleans())
def test_any_sequence_of_words_gets_an_answer_or_an_error(words: list[str], mariadb: bool) -> None:
    session = Connection(mariadb=mariadb).sql
    try:
        answer = session.execute(" ".join(words).encode())
        if isinstance(answer, ResultSet):
            assert all(len(row) == len(answer.columns) for row in answer.rows)
    except MySQLError as refused:
        code: int | None = refused.code
    else:
        code = None
    assert code is None or 1000 <= code < 2000


@given(st.binary(max_size=150))
def test_arbitrary_bytes_get_an_answer_or_an_error(data: bytes) -> None:
    try:
        Connection().sql.execute(data)
    except MySQLError as refused:
        code: int | None = refused.code
    else:
        code = None
    assert code is None or 1000 <= code < 2000


def test_sets_of_gtids_are_compared(mysql: Connection) -> None:
    """Debezium asks before it goes on where it was."""
    uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
    assert mysql.row(f"SELECT GTID_SUBTRACT('{uuid}:1-9', '{uuid}:1-5:7')") == (f"{uuid}:6:8-9",)
    assert mysql.row(f"SELECT GTID_SUBSET('{uuid}:2-3', '{uuid}:1-5'), GTID_SUBSET('{uuid}:9', '')") == ("1", "0")
    assert mysql.row("SELECT GTID_SUBSET(NULL, '')") == (None,)
    problem = mysql.error("SELECT GTID_SUBSET('nonsense', '')")
    assert (problem.code, problem.message) == (
        ErrorCode.MALFORMED_GTID_SET_SPECIFICATION, "Malformed GTID set specification 'nonsense'."
    )  # fmt: skip
    assert mysql.error("SELECT GTID_SUBSET('')").code == ErrorCode.WRONG_PARAMCOUNT
