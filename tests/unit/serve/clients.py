"""A worker without its process: sessions in threads behind a real port, and clients for it."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pymysql
from pymysql.connections import Connection
from pymysql.cursors import Cursor
from unit.serve.fakes import FakeNeighbours, FakeView

from kingbus_node.serve.channel import Channel
from kingbus_node.serve.facts import SessionFacts
from kingbus_node.serve.keys import SERVER_CERTIFICATE, SERVER_KEY, RsaPair, ensure_keys
from kingbus_node.serve.session import Server, Session, Timeouts
from kingbus_node.serve.tls import TlsContext
from kingbus_node.serve.users import Users
from kingbus_node.wire.commands import DumpRequest

PASSWORD = "replpw"
# authentication_string of the password, as MySQL 9.7.4 stored it.
STORED = (
    "0x244124303041247E44552A72612515321C73795F4E19645E330118454D616153426E7949312E3533674E41335854583430644A7236587648"
    "696E6169446C554A43595A75552F"
)
USERS = f"""
- {{user: repl, password: {PASSWORD}}}
- {{user: native, password: {PASSWORD}, plugins: [mysql_native_password]}}
- {{user: sha2, password: {PASSWORD}, plugins: [caching_sha2_password]}}
- {{user: stored, auth_string: "{STORED}"}}
- {{user: empty, password: ""}}
- {{user: encrypted, password: {PASSWORD}, require_tls: true}}
- {{user: replica, password: {PASSWORD}, privileges: [REPLICATION SLAVE]}}
- {{user: watcher, password: {PASSWORD}, privileges: [REPLICATION CLIENT]}}
"""


# Nobody may run out of time by chance; a connection that says nothing ends by being aborted.
PATIENT = Timeouts(connect=60, idle=60, write=60)


class Keys:
    """Keys and certificate, made once for many tests."""

    def __init__(self, folder: Path) -> None:
        ensure_keys(folder, certificate=True)
        (folder / "users.yaml").write_text(USERS)
        self.folder = folder
        self.rsa = RsaPair(folder)
        self.tls = TlsContext(folder / SERVER_CERTIFICATE, folder / SERVER_KEY, None)


class TestServer:
    """Accepts, and serves each connection in a thread. `close` waits for all of them."""

    __test__ = False

    def __init__(
        self,
        keys: Keys,
        *,
        mariadb: bool = False,
        tls: bool = True,
        require_tls: bool = False,
        unready: str | None = None,
        timeouts: Timeouts | None = None,
        dump: Callable[[DumpRequest, SessionFacts, Channel], None] | None = None,
    ) -> None:
        self.view = FakeView.of_mariadb() if mariadb else FakeView()
        self.neighbours = FakeNeighbours()
        self.dumps: list[tuple[DumpRequest, SessionFacts]] = []
        self.logins: list[str] = []
        self.sessions: list[Session] = []
        self.threads: list[threading.Thread] = []
        self._server = Server(
            view=self.view,
            users=Users(keys.folder / "users.yaml"),
            rsa=keys.rsa,
            tls=keys.tls.get if tls else lambda: None,
            require_tls=require_tls,
            neighbours=self.neighbours,
            unready=lambda: unready,
            dump=dump or self._note_dump,
            timeouts=timeouts or PATIENT,
            on_login=lambda facts, _: self.logins.append(facts.user),
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def __enter__(self) -> TestServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(10)
        self._listener.close()
        for session in self.sessions:
            session.abort()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive(), "a connection does not end"

    def _accept(self) -> None:
        for number in itertools.count(1):
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return
            session = Session(sock, peer, number, self._server)
            self.sessions.append(session)
            thread = threading.Thread(target=session.run)
            self.threads.append(thread)
            thread.start()

    def _note_dump(self, request: DumpRequest, facts: SessionFacts, channel: Channel) -> None:
        self.dumps.append((request, facts))
        channel.send_packet(b"\0an event")
        channel.send_packet(b"\xfe\0\0\x02\0")

    def connect(
        self,
        user: str = "repl",
        password: str = PASSWORD,
        *,
        tls: bool = False,
        default_auth: str | None = None,
        database: str | None = None,
    ) -> Client:
        """Log in with PyMySQL. default_auth: the plugin that the client begins with whatever the greeting says."""
        return Client(self.port, user, password, tls=tls, default_auth=default_auth, database=database)

    def raw(self) -> RawClient:
        """A socket that has read the greeting."""
        return RawClient(socket.create_connection(("127.0.0.1", self.port), timeout=60))

    def become_patient(self) -> None:
        """Connections from now on have all the time that they need."""
        self._server = replace(self._server, timeouts=PATIENT)


if TYPE_CHECKING:
    _Connection = Connection[Cursor]
else:
    _Connection = Connection  # generic for type checkers only


class Client(_Connection):
    """PyMySQL, with a way to its commands and packets, which it keeps to itself (hence `Any`)."""

    def __init__(
        self,
        port: int,
        user: str,
        password: str,
        *,
        tls: bool = False,
        default_auth: str | None = None,
        database: str | None = None,
    ) -> None:
        self._untyped = cast("Any", self)
        super().__init__(
            host="127.0.0.1",
            port=port,
            user=user,
            password=password,
            database=database,
            ssl=client_context() if tls else None,
            ssl_disabled=not tls,
            connect_timeout=60,
            read_timeout=60,
            defer_connect=True,
        )
        if default_auth is not None:
            read_greeting = self._untyped._get_server_information

            def pretend() -> None:
                read_greeting()
                self._untyped._auth_plugin_name = default_auth

            self._untyped._get_server_information = pretend
        self.connect()

    @property
    def version(self) -> str:
        """The server's, as its greeting has it."""
        return str(self._untyped.server_version)

    @property
    def offered(self) -> int:
        """The server's capabilities."""
        return int(self._untyped.server_capabilities)

    @property
    def id(self) -> int:
        """The connection's id, as the greeting had it."""
        return int(self._untyped.thread_id())

    def last_words(self) -> tuple[int, str]:
        """Read what comes until the server sends an error, and return it."""
        try:
            while True:
                self.answer()
        except pymysql.MySQLError as problem:
            code, text = problem.args
            return code, text

    @property
    def sock(self) -> socket.socket:
        """The connection's socket."""
        sock = self._untyped._sock
        assert isinstance(sock, socket.socket)
        return sock

    def command(self, code: int, arguments: bytes = b"") -> None:
        """Send a command."""
        self._untyped._execute_command(code, arguments)

    def answer(self) -> bytes:
        """The payload of the next packet; raises for an ERR."""
        data = self._untyped._read_packet().get_all_data()
        assert isinstance(data, bytes)
        return data

    def reply(self, payload: bytes) -> None:
        """Go on with the packet sequence (authentication data)."""
        self._untyped.write_packet(payload)

    def end(self, connection_id: int) -> None:
        """KILL."""
        self._untyped.kill(connection_id)


class RawClient:
    """Sends what it is told, well-formed or not."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.greeting = self.packet()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def packet(self) -> bytes:
        """The payload of the next packet."""
        return self.exactly(int.from_bytes(self.exactly(4)[:3], "little"))

    def send(self, payload: bytes, sequence: int) -> None:
        self.sock.sendall(len(payload).to_bytes(3, "little") + bytes((sequence,)) + payload)

    @property
    def ended(self) -> bool:
        """The server has closed the connection."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


def client_context() -> ssl.SSLContext:
    """TLS without a look at the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
