"""What users of fewer privileges may do on a node, and what they are told, is what a real server says to such users."""

from __future__ import annotations

import re
import ssl
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pymysql
import pytest
import yaml
from pymysql.connections import Connection
from pymysql.cursors import Cursor
from servers.chain import Chain
from servers.fixtures import Pool
from servers.raw import file_command
from servers.workload import Workload

from clients.test_answers_to_statements import tell
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, connect
from kingbus_node.demo.servers import Flavor

PASSWORD = "a password"
USERS = {
    "nothing_": [],
    "replica_": ["REPLICATION SLAVE"],
    "watching_": ["REPLICATION SLAVE", "REPLICATION CLIENT"],
    "purging_": ["BINLOG_ADMIN"],
    "admin_": ["REPLICATION SLAVE", "REPLICATION CLIENT", "PROCESS", "BINLOG_ADMIN", "CONNECTION_ADMIN"],
}
STATEMENTS = (
    "SHOW BINARY LOGS",
    "SHOW BINLOG EVENTS LIMIT 1",
    "SHOW PROCESSLIST",
    "SHOW VARIABLES LIKE 'server_id'",
    "SHOW WARNINGS",
    "SELECT @@server_id",
    "PURGE BINARY LOGS TO '{oldest}'",
    "PURGE BINARY LOGS BEFORE '2000-01-01 00:00:00'",
    "KILL {other}",
    "KILL 99999999",
    "SET GLOBAL TRANSACTION READ ONLY",
    "FLUSH LOGS",
    "FLUSH BINARY LOGS",
    "SHUTDOWN",
)
BY_FLAVOR = {
    Flavor.MYSQL: (
        "SHOW BINARY LOG STATUS", "SHOW REPLICAS", "SHOW REPLICA STATUS", "START REPLICA", "STOP REPLICA",
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'x'", "SET GLOBAL server_id = 5", "RESET REPLICA",
        "CLONE LOCAL DATA DIRECTORY = '/x'",
    ),
    Flavor.MARIADB: (
        "SHOW MASTER STATUS", "SHOW SLAVE HOSTS", "SHOW SLAVE STATUS", "START SLAVE", "STOP SLAVE",
        "CHANGE MASTER TO MASTER_HOST = 'x'", "RESET MASTER",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """A real server, and a node that has the same users."""

    chain: Chain

    def ports(self) -> tuple[int, int]:
        return self.chain.source.port, self.chain.node.port


@pytest.fixture(scope="module", params=list(Flavor), ids=str)
def pair(request: pytest.FixtureRequest, module_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    mysql = request.param is Flavor.MYSQL
    source = module_pool.server("mysql-9.7" if mysql else "mariadb-10.11")
    users: list[dict[str, object]] = [{"user": REPLICATION_USER, "password": REPLICATION_PASSWORD}]
    for user, privileges in USERS.items():
        users.append({"user": user, "password": PASSWORD, "privileges": privileges})
        source.sql(f"CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}'")
        for privilege in privileges:
            source.sql(f"GRANT {privilege if mysql else privilege.replace('_', ' ')} ON *.* TO {user}@'%'")
    users.append({"user": "encrypted_", "password": PASSWORD, "require_tls": True})
    source.sql(f"CREATE USER encrypted_@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL")
    file: Path = tmp_path_factory.mktemp("users") / "users.yaml"
    file.write_text(yaml.safe_dump(users))
    node = module_pool.node(source, {"serve": {"users_file": str(file)}})
    chain = Chain(module_pool, Workload(source).create(), node)
    chain.wait_node()
    return Pair(chain)


def outcome(connection: Connection[Cursor], statement: str) -> str:
    """OK, or the error, word for word but for numbers of connections."""
    with connection.cursor() as cursor:
        try:
            cursor.execute(statement)
            cursor.fetchall()
        except pymysql.MySQLError as refused:
            return str(refused)
    return "OK"


@pytest.mark.parametrize("user", list(USERS))
def test_every_statement_is_allowed_or_refused_as_on_a_real_server(user: str, pair: Pair) -> None:
    chain = pair.chain
    statements = [*STATEMENTS, *BY_FLAVOR[chain.source.flavor]]
    if user == "admin_":  # nobody has more privileges on a node, so what these would do cannot be compared
        statements = [one for one in statements if one.split()[0] in ("SHOW", "SELECT", "PURGE", "KILL")]
    oldest = chain.source.binary_logs()[0]
    found: list[dict[str, str]] = []
    for port in pair.ports():
        answers = {}
        with (
            closing(connect(port, user=REPLICATION_USER, password=REPLICATION_PASSWORD)) as other,
            closing(connect(port, user=user, password=PASSWORD)) as connection,
        ):
            for statement in statements:
                number = other.thread_id()  # type: ignore[no-untyped-call]
                said = outcome(connection, statement.format(oldest=oldest, other=number))
                answers[statement] = said.replace(f"thread {number}", "thread N")
            assert outcome(connection, "SELECT 1") == "OK"
        found.append(answers)
    theirs, ours = found
    if chain.source.flavor is Flavor.MARIADB and user == "admin_":
        # On MariaDB two more privileges are needed for these, which MySQL does not know.
        assert ours["SHOW SLAVE STATUS"].startswith("(1227")
        assert ours["SHOW SLAVE HOSTS"].startswith("(1227")
    different = {one: (ours[one], theirs[one]) for one in statements if ours[one] != theirs[one]}
    assert not different


GRANTS = (
    "SHOW GRANTS",
    "show grants for current_user",
    "SHOW GRANTS FOR CURRENT_USER()",
    "SHOW GRANTS FOR {user}",
    "SHOW GRANTS FOR '{user}'@'%'",
    "SHOW GRANTS FOR `{user}`@localhost",
    "SHOW GRANTS FOR '{user}'@",
    "SHOW GRANTS FOR '{user}' @ '%'",
    "SHOW GRANTS FOR root@localhost",
    "SHOW GRANTS FOR nobody_",
    "SHOW GRANTS FOR",
    "SHOW GRANTS LIKE 'x'",
)
_HASH = re.compile(r" IDENTIFIED BY PASSWORD '\*[0-9A-F]{40}'")


@pytest.mark.parametrize("user", list(USERS))
def test_a_user_is_told_its_grants_as_by_a_real_server(user: str, pair: Pair) -> None:
    """But for the password's hash, which MariaDB adds."""
    different = {}
    for statement in (one.format(user=user) for one in GRANTS):
        theirs, ours = (tell(port, user, PASSWORD, statement) for port in pair.ports())
        theirs.rows[:] = [(_HASH.sub("", str(row[0])),) for row in theirs.rows]
        if ours != theirs:
            different[statement] = (ours, theirs)
    assert not different


def processes(port: int, user: str) -> set[str]:
    with closing(connect(port, user=user, password=PASSWORD)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW PROCESSLIST")
        return {str(row[1]) for row in cursor.fetchall()}


def test_only_who_may_sees_the_connections_of_others(pair: Pair) -> None:
    port = pair.chain.node.port
    with closing(connect(port, user=REPLICATION_USER, password=REPLICATION_PASSWORD)):
        assert processes(port, "replica_") == {"replica_"}
        assert processes(port, "admin_") >= {REPLICATION_USER, "admin_"}


def dumped(port: int, user: str, file: str) -> tuple[str, bool]:
    """The answer to a dump and to the registration before it, and whether the connection is usable afterwards."""
    with closing(connect(port, user=user, password=PASSWORD)) as connection:
        execute, read = connection._execute_command, connection._read_packet  # type: ignore[attr-defined]
        answers = []
        register = (77).to_bytes(4, "little") + bytes(3) + bytes(2) + bytes(8)
        for command, arguments in ((0x15, register), (0x12, file_command(file)[1:])):
            execute(command, arguments)
            try:
                read()  # type: ignore[no-untyped-call]
                answers.append("OK")
            except pymysql.MySQLError as refused:
                answers.append(str(refused))
        return " | ".join(answers), outcome(connection, "SELECT 1") == "OK" if "1227" in answers[1] else True


def test_a_dump_without_the_privilege_is_refused_and_the_connection_stays(pair: Pair) -> None:
    file = pair.chain.source.binary_logs()[0]
    theirs, ours = (dumped(port, "nothing_", file) for port in pair.ports())
    assert theirs == ours
    assert "(1227" in ours[0]
    assert ours[1]


def login(port: int, password: str, *, tls: bool) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        pymysql.connect(
            host="127.0.0.1", port=port, user="encrypted_", password=password, connect_timeout=10,
            ssl=context if tls else None, ssl_disabled=not tls,
        ).close()  # fmt: skip
    except pymysql.MySQLError as refused:
        return str(refused)
    return "OK"


def test_a_user_that_must_use_tls_gets_the_servers_answer_without_it(pair: Pair) -> None:
    source, node = pair.ports()
    for password in (PASSWORD, "wrong"):
        assert login(node, password, tls=False) == login(source, password, tls=False)
    assert login(node, PASSWORD, tls=False).startswith("(1045")
    assert login(node, PASSWORD, tls=True) == "OK"
