"""One connection, from the greeting to its end: handshake, TLS, login, commands.

It runs in a thread of its own on a blocking socket. What it says is decided in `wire` (bytes) and `sql` (answers); this
module moves packets between them. Errors that a statement causes leave the connection open; whatever breaks the
protocol ends it, with an error that says what was wrong. A dump takes the connection over and ends it.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from kingbus_node.serve.attempts import Attempts
from kingbus_node.serve.channel import Channel, DisconnectedError, PeerTimeoutError
from kingbus_node.serve.facts import MAX_TEXT, SessionFacts
from kingbus_node.serve.keys import RsaPair
from kingbus_node.serve.privileges import Privilege, check
from kingbus_node.serve.sql import Answer, SqlSession
from kingbus_node.serve.users import User, Users
from kingbus_node.serve.view import Neighbours, Process, ServerView
from kingbus_node.store.errors import StoreError
from kingbus_node.wire import capabilities
from kingbus_node.wire.auth import Login, Outcome, Plugin, Step, make_scramble
from kingbus_node.wire.capabilities import Capability, ServerStatus
from kingbus_node.wire.commands import (
    Command,
    DumpRequest,
    parse_binlog_dump,
    parse_binlog_dump_gtid,
    parse_process_kill,
    parse_query,
    parse_register_slave,
    parse_set_option,
)
from kingbus_node.wire.compression import UNCOMPRESSED, ZSTD_LEVELS, Algorithm, Compression
from kingbus_node.wire.errors import (
    ErrorCode,
    MySQLError,
    ProtocolError,
    access_denied,
    bad_handshake,
    error,
    sqlstate_of,
    unknown_command,
)
from kingbus_node.wire.handshake import (
    SCRAMBLE_LENGTH,
    Greeting,
    HandshakeResponse,
    TlsRequest,
    parse_change_user,
    parse_handshake,
)
from kingbus_node.wire.resultset import Ok, eof_packet, err_packet, ok_packet, result_set_packets

_log = logging.getLogger(__name__)

MAX_HANDSHAKE: Final = 64 * 1024
"""Bytes that a packet may have before the login: connect attributes may take up to 64 KiB in all."""
MAX_COMMAND: Final = 32 << 20
"""Bytes that a command may have: the encoded GTID set of a dump with a million intervals fits."""
_MYSQL_CHARSET: Final = 255  # utf8mb4_0900_ai_ci, as MySQL 9.7's greeting has it
_MARIADB_CHARSET: Final = 8  # latin1_swedish_ci, as MariaDB's has it; its clients then say what they use
_RESULT_CHUNK: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. connect: for the whole login. idle: between commands. write: that a client may take no data at all."""

    connect: float = 10.0
    idle: float = 28800.0
    write: float = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """What all connections of a worker share.

    tls: the context for a new connection, None when TLS is not offered. unready: why replicas cannot be served, None
    when they can: then connections are refused with ER_SERVER_SHUTDOWN, which makes a replica try again. dump: streams
    until the connection is to be closed; it raises MySQLError for a refusal.
    """

    view: ServerView
    users: Users
    rsa: RsaPair
    tls: Callable[[], ssl.SSLContext | None]
    require_tls: bool
    neighbours: Neighbours
    unready: Callable[[], str | None]
    dump: Callable[[DumpRequest, SessionFacts, Channel], None]
    timeouts: Timeouts
    on_login: Callable[[SessionFacts, str | None], None]
    attempts: Attempts = field(default_factory=Attempts)


class _QuitError(Exception):
    """The client has said goodbye, or been told what it did wrong."""


class Session:
    """A connection. `run` in its thread; `process` and `abort` from any."""

    def __init__(self, sock: socket.socket, peer: tuple[str, int], connection_id: int, server: Server) -> None:
        self.facts = SessionFacts(connection_id, host=peer[0], port=peer[1])
        self._server = server
        self._channel = Channel(sock, timeout=server.timeouts.connect)
        self._sql = SqlSession(self.facts, server.view, server.neighbours)
        self._agreed = Capability(0)
        self._charset = _MYSQL_CHARSET
        self._command = "Connect"
        self._info: str | None = None
        self._since = time.monotonic()
        self._scramble = b""
        self._greeted = False

    # -- for others

    def process(self) -> Process:
        """This connection for SHOW PROCESSLIST."""
        return Process(
            self.facts.connection_id,
            self.facts.user or "unauthenticated user",
            f"{self.facts.host}:{self.facts.port}",
            self._sql.database,
            self._command,
            int(time.monotonic() - self._since),
            _DUMP_STATE[self._server.view.mariadb] if self.facts.dumping else "",
            self._info,
        )

    def abort(self) -> None:
        """Cut the connection; `run` ends soon."""
        self._channel.abort()

    # -- life

    def run(self) -> None:
        """Serve the connection until it ends, then close it. Never raises for what the peer does."""
        told = False
        try:
            self._connect()
            self._commands()
        except _QuitError:
            pass
        except DisconnectedError as gone:
            _log.debug("connection %d from %s ended: %s", self.facts.connection_id, self._peer, gone)
        except PeerTimeoutError as stalled:
            _log.info("connection %d from %s: %s", self.facts.connection_id, self._peer, stalled)
            told = self._tell(self._timeout_error())
        except MySQLError as problem:
            level = logging.INFO if isinstance(problem, ProtocolError) or not self.facts.dumping else logging.WARNING
            if problem.code == ErrorCode.ACCESS_DENIED:
                level = logging.DEBUG  # it was logged, or left out, where it was found
            _log.log(level, "connection %d from %s refused: %s", self.facts.connection_id, self._peer, problem)
            told = self._tell(problem)
        except Exception:  # noqa: BLE001
            # Ours, not the peer's: it must not go unnoticed, nor take the other connections of the process with it.
            _log.exception("connection %d from %s failed", self.facts.connection_id, self._peer)
            told = self._tell(error(ErrorCode.UNKNOWN_ERROR, "Internal error: see the log of the node"))
        finally:
            if told:
                self._channel.close_after_error()
            else:
                self._channel.close()

    @property
    def _peer(self) -> str:
        user = f"{self.facts.user}@" if self.facts.user else ""
        return f"{user}{self.facts.host}:{self.facts.port}"

    def _timeout_error(self) -> MySQLError:
        if self._command == "Sleep":
            self._channel.sequence = 1
            return error(
                ErrorCode.CLIENT_INTERACTION_TIMEOUT,
                "The client was disconnected by the server because of inactivity. See wait_timeout and "
                "interactive_timeout for configuring this behavior.",
            )
        return error(ErrorCode.NET_READ_INTERRUPTED, "Got timeout reading communication packets")

    def _tell(self, problem: MySQLError) -> bool:
        """Send the last words; False when nobody listens any more."""
        self._channel.set_deadline(self._server.timeouts.connect)
        try:
            self._channel.send_packet(err_packet(problem, sqlstate=self._greeted))
        except (DisconnectedError, PeerTimeoutError):
            return False
        return True

    # -- handshake and login

    def _connect(self) -> None:
        self._channel.set_deadline(self._server.timeouts.connect)
        if (reason := self._server.unready()) is not None:
            raise error(ErrorCode.SERVER_SHUTDOWN, f"Server shutdown in progress ({reason})")
        view = self._server.view
        self._charset = _MARIADB_CHARSET if view.mariadb else _MYSQL_CHARSET
        context = self._server.tls()
        offered = capabilities.offered(
            mariadb=view.mariadb, tls=context is not None, compression=view.compression_algorithms
        )
        plugin = Plugin.NATIVE if view.mariadb else Plugin.CACHING_SHA2
        self._scramble = _new_scramble()
        greeting = Greeting(
            view.version, self.facts.connection_id, self._scramble, offered, plugin, view.mariadb, self._charset
        )
        self._channel.send_packet(greeting.encode())
        response = self._receive_response(offered)
        if isinstance(response, TlsRequest):
            if context is None:
                raise bad_handshake()
            self._channel.start_tls(context)
            self.facts.tls = self._channel.tls_version
            self.facts.tls_cipher = self._channel.tls_cipher
            response = self._receive_response(offered & ~Capability.SSL)
            if isinstance(response, TlsRequest):
                raise bad_handshake()
        self._greeted = True
        self._agreed = response.capabilities & offered
        self._charset = (response.charset & 0xFF) or self._charset
        self.facts.attributes = response.attributes
        self._sql.database = response.database
        if self._server.require_tls and not self.facts.tls:
            raise error(
                ErrorCode.SECURE_TRANSPORT_REQUIRED,
                "Connections using insecure transport are prohibited while --require_secure_transport=ON.",
            )
        compression = self._agreed_compression(response)
        self.facts.compression = "" if compression is None else str(compression.algorithm)
        self.facts.compression_level = 0 if compression is None else compression.level
        account = self._server.users.find(response.user)
        login = self._login(account, plugin)
        self._authenticate(login, login.begin(response.plugin, response.auth_data), response.user, account)
        self._channel.set_deadline(None)
        self._server.on_login(self.facts, self._sql.database)
        self._ok()
        if compression is not None:
            self._channel.start_compression(compression)

    def _agreed_compression(self, response: HandshakeResponse) -> Compression | None:
        """Of what both can do; zlib when that is both, as MySQL has it. None: uncompressed."""
        if self._agreed & Capability.COMPRESS:
            return Compression(Algorithm.ZLIB)
        if self._agreed & Capability.ZSTD_COMPRESSION:
            if response.zstd_level not in ZSTD_LEVELS:
                raise error(
                    ErrorCode.WRONG_COMPRESSION_LEVEL_CLIENT, "Invalid zstd compression level for algorithm 'zstd'."
                )
            return Compression(Algorithm.ZSTD, response.zstd_level)
        if UNCOMPRESSED not in self._server.view.compression_algorithms:
            raise error(
                ErrorCode.WRONG_COMPRESSION_ALGORITHM_CLIENT, f"Invalid compression algorithm '{UNCOMPRESSED}'."
            )
        return None

    def _receive_response(self, offered: Capability) -> TlsRequest | HandshakeResponse:
        return parse_handshake(self._channel.recv_packet(MAX_HANDSHAKE), offered)

    def _login(self, account: User | None, greeting_plugin: Plugin) -> Login:
        return Login(
            account,
            scramble=self._scramble,
            greeting_plugin=greeting_plugin,
            secure=bool(self.facts.tls),
            public_key=self._server.rsa.public_pem,
            decrypt=self._server.rsa.decrypt,
        )

    def _authenticate(self, login: Login, step: Step, user: str, account: User | None) -> None:
        """Go through the conversation to its end; returns when the client has proven who it is, and may come so."""
        named = user[:MAX_TEXT]  # in the log and in the answer: before the login a name may be long, and anybody's
        waited: float | None = None
        try:
            while True:
                if login.doubted and waited is None:
                    waited = self._server.attempts.delay(self.facts.host)
                    time.sleep(waited)  # see below: this is an answer to a guess, too
                self._channel.send_packets(step.packets)
                if step.outcome is not Outcome.CONTINUE:
                    break
                step = login.proceed(self._channel.recv_packet(MAX_HANDSHAKE))
        except (DisconnectedError, PeerTimeoutError, ProtocolError):
            if login.doubted:  # who has heard that does not have to wait for the end to know that the guess was wrong
                self._failed(access_denied(named, self.facts.host, using_password=True), "it left before it was told")
            raise
        unencrypted = account is not None and account.require_tls and not self.facts.tls
        if step.outcome is Outcome.ACCEPTED and account is not None and not unencrypted:
            self.facts.user = user
            self.facts.privileges = account.privileges
            self.facts.require_tls = account.require_tls
            self._server.attempts.succeeded(self.facts.host)
            return
        if step.outcome is Outcome.UNSUPPORTED:
            raise error(
                ErrorCode.NOT_SUPPORTED_AUTH_MODE,
                "Client does not support authentication protocol requested by server; consider upgrading MySQL client",
            )
        refusal = access_denied(named, self.facts.host, using_password=login.using_password)
        delay = self._failed(refusal, "this user must use TLS" if unencrypted else "")
        # The answer to a guess is worth waiting for; only this connection's thread waits.
        time.sleep(max(0.0, delay - (waited or 0.0)))
        raise refusal

    def _failed(self, refusal: MySQLError, why: str) -> float:
        """Count a wrong password, and log it, or not. Returns how many seconds its answer is to wait."""
        verdict = self._server.attempts.failed(self.facts.host)
        if verdict.log:
            more = f" ({verdict.unlogged} more from there were not logged)" if verdict.unlogged else ""
            if why:
                more = f": {why}{more}"
            _log.warning("connection %d: %s%s", self.facts.connection_id, refusal.message, more)
        return verdict.delay

    # -- commands

    @property
    def _status(self) -> int:
        return ServerStatus.AUTOCOMMIT if self._sql.autocommit else 0

    def _commands(self) -> None:
        while True:
            self._now("Sleep")
            idle = self._sql.variables.read("wait_timeout")
            self._channel.set_timeout(min(float(idle), self._server.timeouts.idle) if isinstance(idle, int) else None)
            payload = self._channel.recv_packet(MAX_COMMAND, new_command=True)
            self._channel.set_timeout(self._server.timeouts.write)
            try:
                self._carry_out(payload)
            except ProtocolError:
                raise
            except MySQLError as problem:
                if self.facts.dumping:
                    raise
                self._channel.send_packet(err_packet(problem))
            except StoreError as problem:
                if self.facts.dumping:
                    raise
                # A file was purged while it was listed, or the log is damaged: the statement's trouble only.
                _log.warning("connection %d: %s", self.facts.connection_id, problem)
                self._channel.send_packet(err_packet(error(ErrorCode.UNKNOWN_ERROR, str(problem))))

    def _now(self, command: str, info: str | None = None) -> None:
        self._command, self._info, self._since = command, info, time.monotonic()

    def _carry_out(self, payload: bytes) -> None:
        if not payload:
            raise unknown_command()
        arguments = payload[1:]
        match payload[0]:
            case Command.QUERY:
                self._query(arguments)
            case Command.PING | Command.DEBUG as command:
                self._channel.send_packet(
                    ok_packet(status=self._status) if command == Command.PING else eof_packet(status=self._status)
                )
            case Command.QUIT:
                raise _QuitError
            case Command.INIT_DB:
                self._sql.database = arguments.decode("utf-8", "replace")
                self._ok()
            case Command.STATISTICS:
                self._channel.send_packet(self._statistics())
            case Command.PROCESS_KILL:
                self._sql.kill(parse_process_kill(arguments))
                self._ok()
            case Command.SET_OPTION:
                parse_set_option(arguments)
                self._channel.send_packet(eof_packet(status=self._status))
            case Command.RESET_CONNECTION:
                self._reset()
                self._ok()
            case Command.CHANGE_USER:
                self._change_user(arguments)
            case Command.REGISTER_SLAVE:
                registration = parse_register_slave(arguments)
                if Privilege.REPLICATION_SLAVE not in self.facts.privileges:  # 1045 for this one (captured)
                    raise access_denied(self.facts.user, "%", using_password=True)
                self.facts.registration = registration
                self._ok()
            case Command.BINLOG_DUMP:
                self._dump(parse_binlog_dump(arguments))
            case Command.BINLOG_DUMP_GTID:
                self._dump(parse_binlog_dump_gtid(arguments))
            case _:
                raise unknown_command()

    def _ok(self) -> None:
        self._channel.send_packet(ok_packet(status=self._status))

    def _reset(self) -> None:
        self._sql.reset()
        self.facts.registration = None

    def _query(self, arguments: bytes) -> None:
        statement = parse_query(arguments, attributes=bool(self._agreed & Capability.QUERY_ATTRIBUTES))
        self._now("Query", statement[:1024].decode("utf-8", "replace"))
        self._send(self._sql.execute(statement))

    def _send(self, answer: Answer) -> None:
        if isinstance(answer, Ok):
            self._channel.send_packet(ok_packet(status=self._status, warnings=answer.warnings, info=answer.info))
            return
        packets = result_set_packets(answer, self._agreed, charset=self._charset, status=self._status)
        self._send_in_chunks(packets)

    def _send_in_chunks(self, packets: Iterable[bytes]) -> None:
        chunk: list[bytes] = []
        size = 0
        for packet in packets:
            chunk.append(packet)
            size += len(packet)
            if size >= _RESULT_CHUNK:
                self._channel.send_packets(chunk)
                chunk, size = [], 0
        self._channel.send_packets(chunk)

    def _statistics(self) -> bytes:
        """COM_STATISTICS: a text, as mysqladmin status prints it."""
        threads = len(self._server.neighbours.processes())
        return f"Uptime: {self._server.view.uptime()}  Threads: {threads}  Questions: 0".encode()

    def _change_user(self, arguments: bytes) -> None:
        request = parse_change_user(arguments, self._agreed)
        self._channel.set_deadline(self._server.timeouts.connect)
        plugin = Plugin.NATIVE if self._server.view.mariadb else Plugin.CACHING_SHA2
        if request.plugin is not None:
            self._scramble = _new_scramble()
        account = self._server.users.find(request.user)
        login = self._login(account, plugin)
        step = login.begin(request.plugin, request.auth_data, switch=request.plugin is not None)
        try:
            self._authenticate(login, step, request.user, account)
        except MySQLError as problem:
            # MySQL ends the connection when the new user is refused.
            raise ProtocolError(problem.code, problem.sqlstate, problem.message) from problem
        self._channel.set_deadline(None)
        self._reset()
        self._sql.database = request.database
        if request.attributes:
            self.facts.attributes = request.attributes
        self._server.on_login(self.facts, self._sql.database)
        self._ok()

    def _dump(self, request: DumpRequest) -> None:
        check(self.facts.privileges, "DUMP", mariadb=self._server.view.mariadb)
        self._now("Binlog Dump GTID" if request.gtid_set else "Binlog Dump")
        self.facts.dumping = True
        self._server.dump(request, self.facts, self._channel)
        raise _QuitError


_DUMP_STATE: Final = {
    False: "Source has sent all binlog to replica; waiting for more updates",
    True: "Master has sent all binlog to slave; waiting for more updates",
}


def _new_scramble() -> bytes:
    return make_scramble(os.urandom(SCRAMBLE_LENGTH))


def too_many_connections() -> bytes:
    """The payload that a connection beyond the limit gets instead of a greeting."""
    return err_packet(
        MySQLError(ErrorCode.CON_COUNT, sqlstate_of(ErrorCode.CON_COUNT), "Too many connections"), sqlstate=False
    )
