"""Connections from the greeting to the end, with a real client library and with clients that break every rule."""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Iterator

import pymysql
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.serve.clients import PASSWORD, Client, Keys, RawClient, TestServer

from kingbus_node.serve import attempts
from kingbus_node.serve.channel import Channel
from kingbus_node.serve.facts import SessionFacts
from kingbus_node.serve.session import MAX_COMMAND, Timeouts
from kingbus_node.serve.view import LogFile
from kingbus_node.store.errors import PurgedError
from kingbus_node.wire.auth import native_response, sha2_response
from kingbus_node.wire.capabilities import Capability
from kingbus_node.wire.commands import DumpKind, DumpRequest, Registration
from kingbus_node.wire.errors import MySQLError, error

PLUGINS = ("caching_sha2_password", "mysql_native_password")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def server(keys: Keys) -> Iterator[TestServer]:
    with TestServer(keys) as running:
        yield running


def one(connection: Client, statement: str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
        assert row is not None
        return row[0]


def refusal(call: object) -> tuple[int, str]:
    with pytest.raises(pymysql.MySQLError) as caught:
        call()  # type: ignore[operator]
    code, text = caught.value.args
    return code, text


# -- login


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("mariadb", [False, True])
@pytest.mark.parametrize("user", ["repl", "native", "sha2", "stored"])
@pytest.mark.parametrize("default_auth", [None, *PLUGINS])
def test_every_way_to_prove_a_password_works(
    keys: Keys, tls: bool, mariadb: bool, user: str, default_auth: str | None
) -> None:
    with TestServer(keys, mariadb=mariadb) as server:
        for _ in range(2):  # the second time caching_sha2_password may be the fast one
            with server.connect(user, tls=tls, default_auth=default_auth) as connection:
                assert one(connection, "SELECT USER()") == f"{user}@127.0.0.1"
                assert bool(one(connection, "SELECT 1")) is True
        assert server.logins == [user, user]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("user", ["repl", "native", "sha2", "stored", "nobody"])
@pytest.mark.parametrize("default_auth", [None, *PLUGINS])
def test_a_wrong_password_is_refused_with_the_servers_text(
    server: TestServer, tls: bool, user: str, default_auth: str | None
) -> None:
    refused = refusal(lambda: server.connect(user, "wrong", tls=tls, default_auth=default_auth))
    assert refused == (1045, f"Access denied for user '{user}'@'127.0.0.1' (using password: YES)")
    assert server.logins == []


def test_no_password_is_refused_and_said_so(server: TestServer) -> None:
    refused = refusal(lambda: server.connect("repl", ""))
    assert refused == (1045, "Access denied for user 'repl'@'127.0.0.1' (using password: NO)")


@pytest.mark.parametrize("default_auth", [None, *PLUGINS])
def test_an_empty_password_works_where_it_is_set(server: TestServer, default_auth: str | None) -> None:
    with server.connect("empty", "", default_auth=default_auth) as connection:
        assert one(connection, "SELECT 1") == 1
    assert refusal(lambda: server.connect("empty", "x"))[0] == 1045


def test_wrong_passwords_are_logged_once_in_a_while(
    server: TestServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_LOG_SECONDS", 3600.0)  # no machine is as slow as that
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            refusal(lambda: server.connect("repl", "wrong"))
    said = [record for record in caplog.records if "Access denied" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.WARNING]
    assert "wrong" not in caplog.text


def test_who_leaves_when_a_password_is_doubted_has_guessed_one(
    keys: Keys, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What caching_sha2_password says to a wrong one is as good as the refusal that would follow."""
    monkeypatch.setattr(attempts, "_STEP", 0.2)
    took: dict[str, list[float]] = {"repl": [], "nobody": []}
    for user, seconds in took.items():
        with TestServer(keys) as server, caplog.at_level(logging.INFO):
            for _ in range(attempts.FREE + 1):
                with server.raw() as client:
                    started = time.monotonic()
                    guess(client, user)
                    seconds.append(time.monotonic() - started)
                until_ended(server)
    assert all(seconds[-1] >= 0.2 for seconds in took.values())
    said = [record.getMessage() for record in caplog.records if "Access denied" in record.getMessage()]
    text = "Access denied for user '{}'@'127.0.0.1' (using password: YES): it left before it was told"
    assert [line.partition(": ")[2] for line in said] == [text.format(user) for user in took]


def guess(client: RawClient, user: str) -> None:
    """A wrong password for caching_sha2_password, up to what is said to it first."""
    rest = client.greeting.split(b"\0", 1)[1]
    scramble = rest[4:12] + rest[31:43]
    flags = int(Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION | Capability.PLUGIN_AUTH)
    proof = sha2_response(b"wrong", scramble)
    client.send(
        struct.pack("<IIB23x", flags, 1 << 24, 45) + user.encode() + b"\0\x20" + proof + b"caching_sha2_password\0", 1
    )
    assert client.packet() == b"\x01\x04"


def until_ended(server: TestServer) -> None:
    """All connections have ended."""
    for thread in server.threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_long_name_makes_no_long_line_of_the_log(server: TestServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert refusal(lambda: server.connect("x" * 50_000, "wrong"))[0] == 1045
        until_ended(server)
    said = [record.getMessage() for record in caplog.records if "Access denied" in record.getMessage()]
    assert said
    assert max(map(len, said)) < 1000


def test_nothing_secret_is_logged(server: TestServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        server.connect("repl").close()
        refusal(lambda: server.connect("repl", "wrong-s3cret"))
    assert PASSWORD not in caplog.text
    assert "s3cret" not in caplog.text


def test_the_greeting_is_the_flavours(keys: Keys) -> None:
    with TestServer(keys) as mysql, mysql.connect() as connection:
        assert connection.version == "9.7.4-2"
    with TestServer(keys, mariadb=True) as mariadb, mariadb.connect() as connection:
        assert connection.version == "5.5.5-10.11.19-MariaDB-0+deb12u1-log"
        assert connection.offered & Capability.LONG_PASSWORD == 0


def test_tls_is_seen_by_sql(server: TestServer) -> None:
    with server.connect(tls=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'Ssl%'")
            status = dict(cursor.fetchall())
        assert status["Ssl_version"].startswith("TLSv1.")
        assert status["Ssl_cipher"]


def test_without_tls_on_offer_a_request_for_it_is_a_bad_handshake(keys: Keys) -> None:
    with TestServer(keys, tls=False) as server, server.raw() as client:
        client.send(struct.pack("<IIB23x", 0x99B8AA85, 1 << 24, 255), 1)
        assert client.packet() == b"\xff\x13\x04Bad handshake"
        assert client.ended


def test_tls_may_be_required(keys: Keys) -> None:
    with TestServer(keys, require_tls=True) as server:
        code, text = refusal(server.connect)
        assert code == 3159
        assert "insecure transport" in text
        server.connect(tls=True).close()


def test_a_user_may_have_to_use_tls(server: TestServer, caplog: pytest.LogCaptureFixture) -> None:
    """MySQL 9.7 says the same as to a wrong password (captured); why is for the log."""
    with server.connect("encrypted", tls=True) as connection:
        connection.ping(reconnect=False)
    with caplog.at_level(logging.WARNING):
        for password in (PASSWORD, "wrong"):
            with pytest.raises(pymysql.err.OperationalError) as refused:
                server.connect("encrypted", password)
            text = "Access denied for user 'encrypted'@'127.0.0.1' (using password: YES)"
            assert refused.value.args == (1045, text)
    assert "this user must use TLS" in caplog.text
    with server.connect() as connection, pytest.raises(pymysql.err.OperationalError):
        change_user(connection, "encrypted", PLUGINS[1])


def test_a_node_that_is_not_ready_says_so_instead_of_a_greeting(keys: Keys) -> None:
    """With ER_SERVER_SHUTDOWN, after which replicas try again."""
    with TestServer(keys, unready="no source has been reached yet") as server, server.raw() as client:
        assert client.greeting == b"\xff\x1d\x04Server shutdown in progress (no source has been reached yet)"
        assert client.ended


def test_a_client_that_stalls_in_the_login_is_told_and_cut(keys: Keys) -> None:
    timeouts = Timeouts(connect=3, idle=30, write=5)  # in which the greeting must come, too
    with TestServer(keys, timeouts=timeouts) as server, server.raw() as client:
        assert client.packet().endswith(b"Got timeout reading communication packets")
        assert client.ended


def test_an_idle_client_is_told_and_cut(keys: Keys) -> None:
    # PyMySQL says more after its login, for which it may take too long, and reads more than it gives out.
    timeouts = Timeouts(connect=60, idle=0.2, write=60)
    with TestServer(keys, timeouts=timeouts) as server, server.raw() as client:
        log_in(client)
        assert b"because of inactivity" in client.packet()
        assert client.ended
    with TestServer(keys) as server, server.raw() as client:
        log_in(client)
        started = time.monotonic()
        client.send(b"\x03SET wait_timeout = 1", 0)
        assert client.packet()[0] == 0
        assert b"because of inactivity" in client.packet()
        assert 0.5 < time.monotonic() - started < 30  # without the statement it is a minute


@pytest.mark.parametrize("seconds", [0, -1])
def test_the_shortest_wait_timeout_is_a_second(server: TestServer, seconds: int) -> None:
    with server.raw() as client:
        log_in(client)
        started = time.monotonic()
        client.send(b"\x03SET wait_timeout = %d" % seconds, 0)
        assert client.packet()[0] == 0
        assert b"because of inactivity" in client.packet()
        assert time.monotonic() - started > 0.5


# -- commands


def test_statements_may_fail_and_the_connection_stays(server: TestServer) -> None:
    with server.connect() as connection:
        for statement in ("FROBNICATE", "SELECT @@nope", "", "UPDATE t SET a=1"):
            refusal(lambda statement=statement: connection.query(statement))
            assert one(connection, "SELECT @@server_id") == 101


def test_trouble_with_the_log_is_the_statements_only(server: TestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def purged() -> Iterator[LogFile]:
        yield LogFile("binlog.000001", 400)
        raise PurgedError("source file 2 was purged")

    monkeypatch.setattr(server.view, "log_files", purged)
    with server.connect() as connection:
        assert refusal(lambda: connection.query("SHOW BINARY LOGS")) == (1105, "source file 2 was purged")
        assert one(connection, "SELECT 1") == 1


def test_simple_commands_are_answered(server: TestServer) -> None:
    with server.connect(database="information_schema") as connection:
        connection.ping(reconnect=False)
        assert one(connection, "SELECT DATABASE()") == "information_schema"
        connection.select_db("other")
        assert one(connection, "SELECT DATABASE()") == "other"
        connection.end(7)
        assert server.neighbours.killed == [7]
        assert refusal(lambda: connection.end(8)) == (1094, "Unknown thread id: 8")
        connection.command(0x09, b"")  # COM_STATISTICS
        assert connection.answer().startswith(b"Uptime: 3723  Threads: ")
        connection.command(0x0C, struct.pack("<I", 7))  # COM_PROCESS_KILL
        assert connection.answer()[0] == 0
        connection.command(0x1B, b"\x01\0")  # COM_SET_OPTION
        assert connection.answer()[0] == 0xFE


@pytest.mark.parametrize("command", [0x00, 0x04, 0x16, 0x19, 0x1D, 0x7F, 0xFF])
def test_an_unknown_command_gets_an_error_and_the_connection_stays(server: TestServer, command: int) -> None:
    with server.connect() as connection:
        connection.command(command, b"whatever")
        assert refusal(connection.answer) == (1047, "Unknown command")
        connection.ping(reconnect=False)


def test_a_reset_connection_has_forgotten_what_was_set(server: TestServer) -> None:
    with server.connect() as connection:
        connection.query("SET @x = 1, wait_timeout = 99")
        connection.command(0x1F, b"")
        connection.answer()
        assert one(connection, "SELECT @x") is None
        assert one(connection, "SELECT @@wait_timeout") == 28800


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_user_may_change(server: TestServer, plugin: str) -> None:
    with server.connect("sha2") as connection:
        connection.query("SET @x = 1")
        assert change_user(connection, "repl", plugin)[0] == 0
        assert one(connection, "SELECT USER()") == "repl@127.0.0.1"
        assert one(connection, "SELECT @x") is None


def test_a_refused_change_of_the_user_ends_the_connection(server: TestServer) -> None:
    connection = server.connect("sha2")
    assert refusal(lambda: change_user(connection, "nobody", "mysql_native_password"))[0] == 1045
    with pytest.raises(pymysql.OperationalError):
        connection.ping(reconnect=False)


def change_user(connection: Client, user: str, plugin: str) -> bytes:
    """COM_CHANGE_USER, which PyMySQL has no call for. Returns the last answer."""
    connection.command(0x11, user.encode() + b"\0\0db\0\x2d\0" + plugin.encode() + b"\0")
    while (answer := connection.answer())[0] in (0xFE, 0x01):
        if answer[0] == 0xFE:
            name, rest = answer[1:].split(b"\0", 1)
            respond = native_response if name == b"mysql_native_password" else sha2_response
            connection.reply(respond(PASSWORD.encode(), rest[:20]))
    return answer


def test_results_end_as_the_client_expects(server: TestServer) -> None:
    """Nothing is left over between two results."""
    with server.connect() as connection, connection.cursor() as cursor:
        for _ in range(3):
            cursor.execute("SHOW BINARY LOGS")
            assert len(cursor.fetchall()) == 2
            cursor.execute("SHOW VARIABLES")
            assert len(cursor.fetchall()) > 50


def test_deprecated_eof_is_left_out_when_it_is_agreed(server: TestServer) -> None:
    with server.raw() as client:
        log_in(client, extra=Capability.DEPRECATE_EOF | Capability.QUERY_ATTRIBUTES)
        client.send(b"\x03\0\x01SELECT 1", 0)
        assert client.packet() == b"\x01"
        assert client.packet().startswith(b"\x03def")
        assert client.packet() == b"\x011"
        assert client.packet() == bytes.fromhex("fe000002000000")


def test_the_status_flags_follow_autocommit(server: TestServer) -> None:
    with server.connect() as connection:  # PyMySQL has switched autocommit off
        connection.ping(reconnect=False)
        assert not connection.get_autocommit()
        connection.autocommit(True)
        assert connection.get_autocommit()


def test_the_process_list_tells_what_a_connection_does(server: TestServer) -> None:
    with server.connect() as connection:
        one(connection, "SELECT 1")
        ends = time.monotonic() + 60
        while (process := server.sessions[0].process()).command != "Sleep":
            assert time.monotonic() < ends
        assert (process.user, process.connection_id, process.info) == ("repl", 1, None)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (b"\x03USE `\xff\xc3\xa9`", "\ufffdé"),
        (b"\x03USE " + b"x" * 1000, "x" * 255),
        (b"\x02" + b"x" * (20 << 20), "x" * 255),
    ],
)
def test_the_process_list_is_told_whatever_a_client_calls_its_database(
    server: TestServer, command: bytes, shown: str
) -> None:
    """Nobody hides the list by a name that cannot be sent, or is longer than a client takes."""
    with server.connect() as odd, server.connect() as administrator:
        odd.command(command[0], command[1:])
        assert odd.answer()[0] == 0
        server.neighbours.connections = [session.process() for session in server.sessions]
        with administrator.cursor() as cursor:
            cursor.execute("SHOW PROCESSLIST")
            assert [row[3] for row in cursor.fetchall()] == [shown, None]
        assert one(odd, "SELECT DATABASE()") == shown


# -- dumps


def test_a_dump_gets_the_request_and_the_facts(server: TestServer) -> None:
    with server.connect() as connection:
        connection.query("SET @replica_uuid = 'AAAA', @source_binlog_checksum = 'NONE'")
        connection.command(0x15, bytes.fromhex("02000000093132372e302e302e310000b3840000000000000000"))
        connection.answer()
        connection.command(0x12, bytes.fromhex("c600000002000200000062696e6c6f672e303030303032"))
        assert connection.answer() == b"\0an event"
        assert connection.answer()[0] == 0xFE
        assert connection.sock.recv(1) == b""
    ((request, facts),) = server.dumps
    assert request == DumpRequest(DumpKind.FILE, 2, 2, "binlog.000002", 198)
    assert facts.replica_uuid == "aaaa"
    assert facts.registration == Registration(2, "127.0.0.1", "", 33971, 0, 0)
    assert facts.attributes["_client_name"] == "pymysql"


def test_a_refused_dump_is_told_and_ends_the_connection(keys: Keys) -> None:
    def refuse(request: DumpRequest, facts: SessionFacts, channel: Channel) -> None:
        channel.send_packet(b"\0one event")
        raise error(1236, f"Could not find {request.file} for {facts.user}")

    with TestServer(keys, dump=refuse) as server, server.connect() as connection:
        connection.command(0x1E, bytes.fromhex("020002000000000000000400000000000000080000000000000000000000"))
        assert connection.answer() == b"\0one event"
        assert refusal(connection.answer) == (1236, "Could not find  for repl")


@pytest.mark.parametrize(
    ("command", "arguments", "code", "text"),
    [
        (0x12, "0400000000000c000000", 1227, "REPLICATION SLAVE privilege(s)"),
        (0x1E, "00000c00000000000000" + "0400000000000000" + "08000000" + "00" * 8, 1227, "REPLICATION SLAVE"),
        (0x15, "0c000000" + "000000" + "0000" + "00000000" + "00000000", 1045, "'watcher'@'%' (using password: YES)"),
    ],
)
def test_who_may_not_replicate_is_told_and_stays(
    server: TestServer, command: int, arguments: str, code: int, text: str
) -> None:
    with server.connect("watcher") as connection:
        connection.command(command, bytes.fromhex(arguments))
        with pytest.raises(pymysql.err.OperationalError) as refused:
            connection.answer()
        assert refused.value.args[0] == code
        assert text in refused.value.args[1]
        connection.ping(reconnect=False)
        with connection.cursor() as cursor:
            cursor.execute("SHOW BINARY LOGS")
    assert server.dumps == []


def test_who_may_only_replicate_ends_its_own_connections_only(server: TestServer) -> None:
    """The fake neighbour 7 is repl's."""
    with server.connect("replica") as connection:
        connection.command(0x0C, struct.pack("<I", 7))
        with pytest.raises(pymysql.err.OperationalError, match="You are not owner of thread 7") as refused:
            connection.answer()
        assert refused.value.args[0] == 1095
        with pytest.raises(pymysql.err.OperationalError, match="Unknown thread id: 8"):
            connection.end(8)
        with pytest.raises(pymysql.err.OperationalError, match="SUPER or BINLOG_ADMIN"), connection.cursor() as cursor:
            cursor.execute("PURGE BINARY LOGS TO 'binlog.000002'")
    assert server.neighbours.killed == []
    assert server.neighbours.purges == []


def test_privileges_are_those_of_the_new_user_after_a_change(server: TestServer) -> None:
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW BINARY LOGS")
        change_user(connection, "replica", PLUGINS[1])
        with pytest.raises(pymysql.err.OperationalError, match="SUPER, REPLICATION CLIENT"):
            cursor.execute("SHOW BINARY LOGS")


def test_a_failure_of_ours_is_logged_told_and_ends_this_connection_only(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake")

    with TestServer(keys, dump=fail) as server, server.connect() as other, server.connect() as connection:
        connection.command(0x12, bytes.fromhex("0400000000000c000000"))
        assert refusal(connection.answer)[0] == 1105
        other.ping(reconnect=False)
    assert "RuntimeError: a mistake" in caplog.text


def test_abort_ends_a_dump(keys: Keys) -> None:
    entered = threading.Event()

    def endless(_: DumpRequest, __: SessionFacts, channel: Channel) -> None:
        entered.set()
        while True:
            channel.send_packet(b"\0" + bytes(100_000))

    with TestServer(keys, dump=endless) as server:
        connection = server.connect()
        connection.command(0x12, bytes.fromhex("0400000000000c000000"))
        assert entered.wait(60)
        server.sessions[0].abort()
        connection.close()


# -- clients that break the rules


def log_in(client: RawClient, extra: int = 0) -> None:
    """As an old client would, with mysql_native_password."""
    scramble = client.greeting.split(b"\0", 1)[1][4:12]
    rest = client.greeting.split(b"\0", 1)[1]
    scramble += rest[31:43]
    flags = int(Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION) | extra
    client.send(
        struct.pack("<IIB23x", flags, 1 << 24, 45) + b"repl\0\x14" + native_response(PASSWORD.encode(), scramble),
        1,
    )
    assert client.packet()[0] == 0


def test_a_client_of_before_plugins_logs_in(server: TestServer) -> None:
    with server.raw() as client:
        log_in(client)
        client.send(b"\x0e", 0)
        assert client.packet()[0] == 0


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"\x05\0\0\x01hello", b"Bad handshake"),
        (b"\x05\0\0\x09hello", b"Got packets out of order"),
        (b"\xff\xff\xff\x01", b"Got a packet bigger than 'max_allowed_packet' bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", b"Got packets out of order"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"Got packets out of order"),  # TLS without a request for it
    ],
)
def test_nonsense_instead_of_a_login_gets_a_clear_error(server: TestServer, data: bytes, answer: bytes) -> None:
    with server.raw() as client:
        client.sock.sendall(data)
        assert answer in client.packet()
        assert client.ended


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"\x01\0\0\x05\x0e", b"Got packets out of order"),
        (b"\x03\0\0\0\x1e\0\0", b"Malformed communication packet"),
        (b"\x03\0\0\0\x12\0\0", b"Malformed communication packet"),
        (b"\x02\0\0\0\x15\0", b"Malformed communication packet"),
        (b"\x02\0\0\0\x0c\0", b"Malformed communication packet"),
    ],
)
def test_nonsense_instead_of_a_command_gets_a_clear_error(server: TestServer, data: bytes, answer: bytes) -> None:
    with server.raw() as client:
        log_in(client)
        client.sock.sendall(data)
        assert answer in client.packet()
        assert client.ended


def test_a_command_beyond_all_bounds_is_refused_before_it_is_read(server: TestServer) -> None:
    with server.raw() as client:
        log_in(client)
        full = b"\xff\xff\xff"
        client.sock.sendall(full + b"\0" + bytes(0xFFFFFF))
        client.sock.sendall(full + b"\x01" + bytes(0xFFFFFF))
        client.sock.sendall(full + b"\x02")
        assert MAX_COMMAND < 3 * 0xFFFFFF
        assert b"Got a packet bigger than" in client.packet()


def test_an_empty_command_gets_an_error(server: TestServer) -> None:
    with server.raw() as client:
        log_in(client)
        client.send(b"", 0)
        assert b"Unknown command" in client.packet()
        client.send(b"\x0e", 0)
        assert client.packet()[0] == 0


def test_vanishing_clients_leave_nothing_behind(server: TestServer) -> None:
    for data in (b"", b"\x05", b"\x05\0\0\x01he"):
        with server.raw() as client:
            client.sock.sendall(data)
    with server.raw() as client:
        log_in(client)
    server.connect().close()


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=80), max_size=5), st.booleans(), st.booleans())
def test_arbitrary_packets_end_in_a_clear_way(keys: Keys, packets: list[bytes], logged_in: bool, framed: bool) -> None:
    # Who stops in the middle of a login or of a command is cut soon; the login that comes first here must succeed.
    timeouts = Timeouts(connect=10 if logged_in else 0.3, idle=0.3, write=2)
    with TestServer(keys, timeouts=timeouts) as server:
        try:
            with server.raw() as client:
                if logged_in:
                    log_in(client)
                for number, packet in enumerate(packets):
                    if framed:
                        client.send(packet, 0 if logged_in else 1 + number)
                    else:
                        client.sock.sendall(packet)
                while True:
                    client.packet()
        except (EOFError, OSError):
            pass
        assert server.logins[:1] == ["repl"] * logged_in
        server.become_patient()
        with server.connect() as after:
            after.ping(reconnect=False)


def test_errors_have_codes_of_mysql() -> None:
    assert isinstance(error(1045, "x"), MySQLError)


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_reads_on_too_late_gets_nothing_behind_half_an_event(keys: Keys, tls: bool) -> None:
    """An error behind it would be taken for the rest of the event."""
    event = b"\0" + b"e" * 99
    given_up = threading.Event()

    def stream(_: DumpRequest, __: SessionFacts, channel: Channel) -> None:
        try:
            while True:
                channel.send_packets([event] * 1000)
        finally:
            given_up.set()

    with TestServer(keys, dump=stream, timeouts=Timeouts(60, 60, 2)) as server, server.connect(tls=tls) as connection:
        connection.command(0x12, b"\x04\0\0\0\0\0\x02\0\0\0")
        assert given_up.wait(60)
        received = bytearray()
        while piece := connection.sock.recv(1 << 20):
            received += piece
        at, number = 0, 1
        while at < len(received):
            expected = b"\x64\0\0" + bytes((number & 0xFF,)) + event
            assert expected.startswith(received[at : at + len(expected)]), received[at : at + 200]
            at, number = at + len(expected), number + 1
