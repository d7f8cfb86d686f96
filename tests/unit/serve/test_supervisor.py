"""Real serve processes: connections reach them, they come back when they die, and they go when they are told to."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pymysql
import pytest
from binlogs.captured import events
from unit.serve.binlogs import Importer
from unit.serve.clients import PASSWORD, USERS, Client

from kingbus_node.binlog.constants import Flavor
from kingbus_node.serve.connections import ReplicaReport
from kingbus_node.serve.settings import ServeOptions, WorkerSettings
from kingbus_node.serve.supervisor import Supervisor
from kingbus_node.serve.tls import TlsError
from kingbus_node.serve.users import UsersError
from kingbus_node.store.errors import StoreError
from kingbus_node.store.log import Log

UUID = "11111111-2222-3333-4444-555555555555"
REPLICA = "aaaaaaaa-2222-3333-4444-555555555555"
SECONDS = 90.0


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition of other processes."""
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends, f"waited {SECONDS:g} s for {what}"
        select.select([], [], [], 0.01)


class Node:
    """A log with one captured file, and its supervisor."""

    def __init__(self, folder: Path) -> None:
        self.log = Log.open(folder / "log", segment_bytes=1 << 20)
        self._importer = Importer(
            self.log, Flavor.MYSQL, facts={"source": {"version": "9.7.4-2", "server_id": 1}, "cluster_uuid": UUID}
        )
        self._events = events("mysql-9.7.4-000001")
        self._importer.events("binlog.000001", self._events[:-1])
        (folder / "users.yaml").write_text(USERS)
        self.options = ServeOptions(
            folder / "log", folder / "keys", folder / "users.yaml", "127.0.0.1", 0, workers=2, server_id=101
        )
        self.supervisor = Supervisor(self.options, lambda: {"io_running": "Yes", "lag_seconds": None, "position": 7})

    def start(self) -> Node:
        self.supervisor.start()
        until(lambda: self.supervisor.workers_ready() == 2, "the workers")
        return self

    def stop(self) -> None:
        self.supervisor.stop()
        self.log.close()

    def grow(self) -> None:
        """The file's last event is committed."""
        self._importer.more(self._events[-1:])
        self.supervisor.wake()

    def connect(self, user: str = "repl") -> Client:
        return Client(self.supervisor.address[1], user, PASSWORD, tls=False)

    def dump(self, *, uuid: str = REPLICA, server_id: int = 2) -> Client:
        """A replica that has read all there is."""
        client = self.connect()
        client.query("SET @source_binlog_checksum = 'CRC32'" + (f", @replica_uuid = '{uuid}'" if uuid else ""))
        client.command(0x15, server_id.to_bytes(4, "little") + b"\x06my-own\0\0\x39\x30" + bytes(8))
        client.answer()
        client.command(0x12, b"\x04\0\0\0\0\0" + server_id.to_bytes(4, "little") + b"binlog.000001")
        for _ in range(1 + len(self._events[:-1])):  # an artificial ROTATE comes first
            assert client.answer()[0] == 0
        return client

    def replicas(self) -> list[ReplicaReport]:
        return self.supervisor.replicas()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    try:
        yield made.start()
    finally:
        made.stop()


def workers(parent: int | None = None) -> list[int]:
    """The serve processes that this process (or `parent`) has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has just ended
            if int(stat[1]) == (parent or os.getpid()) and stat[0] != "Z" and b"kingbus_node.serve.worker" in command:
                found.append(int(entry.name))
    return sorted(found)


def rows(client: Client, statement: str) -> list[tuple[object, ...]]:
    with client.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def ended(client: Client) -> bool:
    """The server has closed the connection (whatever it said before)."""
    client.sock.settimeout(SECONDS)
    try:
        while client.sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def test_connections_are_spread_over_the_workers_and_known_to_all(node: Node) -> None:
    clients = [node.connect() for _ in range(4)]
    until(lambda: len(rows(clients[0], "SHOW PROCESSLIST")) == 4, "all logins to be known")
    assert {client.id for client in clients} == {1, 2, 3, 4}
    assert {row[0] for row in rows(clients[3], "SHOW PROCESSLIST")} == {1, 2, 3, 4}
    for client in clients:
        client.close()
    until(lambda: node.supervisor.connections() == 0, "the connections to end")


def test_a_dump_streams_what_comes_and_is_reported(node: Node) -> None:
    replica = node.dump()
    until(lambda: [one.file for one in node.replicas()] == ["binlog.000001"], "a report")
    (report,) = node.replicas()
    assert (report.uuid, report.server_id, report.user, report.host) == (REPLICA, 2, "repl", "127.0.0.1")
    assert (report.registered, report.report_host, report.report_port) == (True, "my-own", 12345)
    before = report.position
    node.grow()
    assert replica.answer()[0] == 0
    until(lambda: node.replicas()[0].position > before, "the report of its progress")
    with node.connect() as other:
        assert rows(other, "SHOW REPLICAS") == [(2, "my-own", 12345, 101, REPLICA)]
    replica.close()
    until(lambda: node.replicas() == [], "the dump to end")


def test_the_same_replica_ends_its_older_dump_in_whichever_worker(node: Node) -> None:
    older = node.dump()
    for _ in range(3):
        newer = node.dump()
        code, text = older.last_words()
        assert code == 1236
        assert text.startswith("A replica with the same server_uuid/server_id as this replica has connected")
        older = newer
    until(lambda: node.supervisor.refusals() == {1236: 3}, "the refusals to be counted")
    until(lambda: len(node.replicas()) == 1, "the older ones to be gone")


def test_whatever_clients_say_of_themselves_the_processes_go_on(node: Node) -> None:
    """The core keeps no more of it than it shows, and passes on any number of rows."""
    before = workers()
    long = "ü" * 100_000
    replica = node.dump(uuid=long)
    until(node.replicas, "the dump's report")
    assert node.replicas()[0].uuid == long[:255]
    talkers = [node.connect() for _ in range(4)]
    for client in talkers:
        client.command(0x11, b"repl\0\0" + long.encode() + b"\0\x21\0caching_sha2_password\0")
    client = node.connect()
    until(lambda: len(rows(client, "SHOW PROCESSLIST")) == 6, "all to be known")
    assert [row[:2] for row in rows(client, "SHOW REPLICAS")] == [(2, "my-own")]
    assert workers() == before
    for one in (*talkers, replica, client):
        one.close()


def test_only_the_owner_and_an_administrator_may_kill_a_connection(node: Node) -> None:
    others = [node.connect() for _ in range(4)]  # in both workers
    mine = [node.connect("replica") for _ in range(4)]
    for number in [other.id for other in others]:
        with pytest.raises(pymysql.MySQLError, match=f"You are not owner of thread {number}"):
            mine[0].end(number)
    for one in mine[1:]:
        mine[0].end(one.id)
        assert ended(one)
    until(lambda: node.supervisor.connections() == 5, "only those to end")
    for other in others:
        assert rows(other, "SELECT 1") == [(1,)]


def test_kill_reaches_a_connection_in_another_worker(node: Node) -> None:
    one, two = node.connect(), node.connect()
    two.end(one.id)
    assert ended(one)
    with pytest.raises(pymysql.MySQLError, match="Unknown thread id: 4711"):
        two.end(4711)
    replica = node.dump()
    until(node.replicas, "the dump's report")
    assert node.supervisor.kill(replica.id)
    assert ended(replica)
    assert not node.supervisor.kill(4711)


def test_the_status_of_the_source_comes_from_the_core(node: Node) -> None:
    with node.connect() as client:
        (row,) = rows(client, "SHOW REPLICA STATUS")
    assert row[10] == "Yes"
    assert row[6] == 7


def test_a_question_that_gets_no_thread_is_refused_and_ends_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def no_more(thread: threading.Thread) -> None:
        if thread.name in ("source", "purge"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with node.connect() as client:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more)
            for statement in ("SHOW REPLICA STATUS", "PURGE BINARY LOGS TO 'binlog.000001'"):
                with pytest.raises(pymysql.MySQLError, match="can't start new thread"):
                    rows(client, statement)
        assert len(rows(client, "SHOW REPLICA STATUS")) == 1
    assert node.supervisor.alive


def test_a_source_of_which_nothing_can_be_told_is_no_source_that_is_not_there(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> dict[str, str | int | None]:
        raise StoreError("the log is closed")

    monkeypatch.setattr(node.supervisor, "_source_status", unknown)
    with node.connect() as client, pytest.raises(pymysql.MySQLError, match="the log is closed"):
        rows(client, "SHOW REPLICA STATUS")


def test_without_descriptors_a_worker_comes_back_later(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    made = socket.socketpair
    calls: list[float] = []

    def scarce(*arguments: int) -> tuple[socket.socket, socket.socket]:
        calls.append(time.monotonic())
        if len(calls) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return made(*arguments)

    monkeypatch.setattr(socket, "socketpair", scarce)
    os.kill(workers()[0], signal.SIGKILL)
    until(lambda: len(calls) == 3 and node.supervisor.workers_ready() == 2, "another worker")
    assert node.supervisor.alive


def test_without_descriptors_clients_wait_and_the_core_does_not_spin(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = socket.socket.accept
    failed: list[float] = []
    enough = threading.Event()

    def scarce(listener: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
        if listener is node.supervisor._listener and not enough.is_set():
            failed.append(time.monotonic())
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", scarce)
    with ThreadPoolExecutor() as pool:
        client = pool.submit(node.connect)
        until(lambda: len(failed) >= 3, "three attempts")
        enough.set()
        client.result(SECONDS).close()
    assert failed[2] - failed[0] > 1


def test_a_worker_that_dies_takes_only_its_own_connections_and_comes_back(node: Node) -> None:
    first, second = node.connect(), node.connect()
    before = workers()
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    until(lambda: node.supervisor.connections() == 1, "its connection to be gone")
    assert sorted([answers(first), answers(second)]) == [False, True]
    until(lambda: node.supervisor.workers_ready() == 2, "another worker")
    assert len(set(workers()) - set(before)) == 1
    node.connect().close()


def test_a_worker_without_descriptors_keeps_the_connections_that_it_has(node: Node) -> None:
    replicas = [node.dump(uuid=f"{REPLICA[:-1]}{number}") for number in range(2)]
    before = workers()
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in before}
    for pid, (_, hard) in limits.items():
        free = next(number for number in itertools.count() if not os.path.lexists(f"/proc/{pid}/fd/{number}"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            address = ("127.0.0.1", node.supervisor.address[1])
            client = stack.enter_context(socket.create_connection(address, timeout=SECONDS))
            assert not client.recv(1)
        until(lambda: node.supervisor.connections() == 2, "the connections to be gone")
    for pid, limit in limits.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    node.grow()
    assert [replica.answer()[0] for replica in replicas] == [0, 0]
    assert workers() == before
    node.connect().close()


def test_a_core_that_does_not_answer_is_not_taken_for_one_that_knows_of_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [node.connect() for _ in range(3)]
    take = Supervisor._take

    def deaf(supervisor: Supervisor, worker: object, message: dict[str, object]) -> None:
        if message["op"] != "ask":
            take(supervisor, worker, message)  # type: ignore[arg-type]

    monkeypatch.setattr(Supervisor, "_take", deaf)

    def told(client: Client, statement: str) -> str:
        with pytest.raises(pymysql.MySQLError) as refused:
            rows(client, statement)
        return str(refused.value)

    statements = ["SHOW PROCESSLIST", "SHOW REPLICAS", "KILL 4711"]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(told, clients, statements))
    late = "The node's core process did not answer within 10 s:"
    assert found == [
        f'(1105, "{late} {hint}")' for hint in ("try again", "try again", "the connection may still be ended")
    ]
    monkeypatch.setattr(Supervisor, "_take", take)
    assert len(rows(clients[0], "SHOW PROCESSLIST")) == 3


def answers(client: Client) -> bool:
    """The connection is alive."""
    try:
        return rows(client, "SELECT 1") == [(1,)]
    except pymysql.MySQLError:
        return False


def test_all_workers_may_die_and_clients_only_wait(node: Node) -> None:
    dying = workers()
    for pid in dying:
        os.kill(pid, signal.SIGKILL)
    # The supervisor buries them. It has others soon: whether none is ready may be looked at too late.
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in dying), "their end to be noticed")
    with node.connect() as client:
        assert rows(client, "SELECT 1") == [(1,)]


def test_a_node_that_stops_serving_ends_its_dumps_and_takes_no_new_ones(node: Node) -> None:
    replica = node.dump()
    node.supervisor.set_serving("no quorum")
    assert replica.last_words()[0] == 1053
    with pytest.raises(pymysql.MySQLError, match="no quorum"):
        node.connect()
    before = workers()
    os.kill(before[0], signal.SIGKILL)  # a new worker must know, too
    until(lambda: len(set(workers()) | set(before)) == 3, "another worker")
    until(lambda: node.supervisor.workers_ready() == 2, "it to be ready")
    for _ in range(4):
        with pytest.raises(pymysql.MySQLError, match="no quorum"):
            node.connect()
    node.supervisor.set_serving(None)
    until(lambda: connects(node), "the node to serve again")


def connects(node: Node) -> bool:
    try:
        node.connect().close()
    except pymysql.MySQLError:
        return False
    return True


def test_connections_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.supervisor = Supervisor(replace(node.options, max_connections=2))
    try:
        node.start()
        clients = [node.connect(), node.connect()]
        with pytest.raises(pymysql.MySQLError) as caught:
            node.connect()
        assert caught.value.args == (1040, "Too many connections")
        clients[0].close()
        until(lambda: connects(node), "room")
    finally:
        node.stop()


def test_stopping_ends_dumps_as_a_source_does_and_leaves_no_process(tmp_path: Path) -> None:
    node = Node(tmp_path).start()
    replica, idle = node.dump(), node.connect()
    node.stop()
    assert replica.answer()[0] == 0xFE
    assert ended(replica)
    assert ended(idle)
    assert workers() == []
    assert not node.supervisor.alive
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(node.supervisor.address)
    node.supervisor.stop()


def test_a_worker_that_does_not_listen_is_killed_at_the_end(tmp_path: Path) -> None:
    node = Node(tmp_path).start()
    stuck = workers()[0]
    os.kill(stuck, signal.SIGSTOP)
    node.supervisor.stop(0.5)
    assert workers() == []
    node.log.close()


def test_workers_die_with_the_core(tmp_path: Path) -> None:
    """Kill -9: nobody could tell them any more that the node has lost the quorum."""
    node = Node(tmp_path)
    script = f"""
import sys, time
from pathlib import Path
from kingbus_node.serve.settings import ServeOptions
from kingbus_node.serve.supervisor import Supervisor
o = {node.options.log_dir!r}, {node.options.keys_dir!r}, {node.options.users_file!r}
supervisor = Supervisor(ServeOptions(*map(Path, map(str, o)), "127.0.0.1", 0, 2, 101))
supervisor.start()
while supervisor.workers_ready() < 2:
    time.sleep(0.01)
print(supervisor.address[1], flush=True)
time.sleep(600)
""".replace("PosixPath", "str")
    core = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert core.stdout is not None
        port = int(core.stdout.readline())
        client = Client(port, "repl", PASSWORD)
        children = workers(core.pid)
        assert len(children) == 2
    finally:
        core.kill()
        core.wait()
        if core.stdout is not None:
            core.stdout.close()
    assert ended(client)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "the workers to end")
    node.log.close()


def test_no_secret_is_in_the_arguments_of_a_worker(node: Node) -> None:
    for pid in workers():
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert command.split(b"\0")[1:3] == [b"-m", b"kingbus_node.serve.worker"]
        assert PASSWORD.encode() not in command
    assert node.supervisor.alive


@pytest.mark.parametrize("tls", [False, True])
def test_mistakes_are_told_before_anything_is_started(tmp_path: Path, tls: bool) -> None:
    node = Node(tmp_path)
    node.log.close()
    if tls:
        (tmp_path / "bad.pem").write_text("nothing")
        bad = replace(node.options, tls_certificate=tmp_path / "bad.pem", tls_key=tmp_path / "bad.pem")
        with pytest.raises(TlsError):
            Supervisor(bad).start()
    else:
        (tmp_path / "users.yaml").write_text("- nonsense")
        with pytest.raises(UsersError):
            node.supervisor.start()
    assert workers() == []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (tmp_path / "users.yaml").write_text(USERS)
        with pytest.raises(OSError, match="in use"):
            Supervisor(replace(node.options, port=taken.getsockname()[1])).start()


def test_settings_survive_the_way_to_the_worker(tmp_path: Path) -> None:
    options = ServeOptions(
        tmp_path, tmp_path, tmp_path, "::", 3306, 2, 101, tls_certificate=Path("c"), tls_key=Path("k"), tls_require=True
    )
    settings = WorkerSettings(options, 5, 6, 3307, 12.5)
    assert WorkerSettings.decode(settings.encode()) == settings
