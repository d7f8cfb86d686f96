"""A connection to a source, until its dump begins: TCP, handshake, TLS, login and statements.

PyMySQL does the protocol; this module decides what it may do (which TLS, which compression, no password in clear),
turns its errors into ours, and is the only place that touches the inside of a PyMySQL connection: it lends it a socket,
puts compression, which PyMySQL does not know, between it and the socket, reads the answer to COM_REGISTER_SLAVE, and
takes the socket back for the dump.

The password is read from its file at each connect, so that a changed one is used without a restart. It is never part of
an error or a log line.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT

from kingbus_node.config import Address, SourceSettings, SourceTls
from kingbus_node.source.compression import FLAGS, LEVEL, CompressedStream, choose
from kingbus_node.source.errors import Disconnected, Refused, SourceError, Stopped
from kingbus_node.source.link import Link, Wakeup
from kingbus_node.wire.compression import Algorithm

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for TCP, and for each answer during handshake and login."""
QUERY_TIMEOUT: Final = 120.0
"""Seconds for the answer to a statement. MariaDB's BINLOG_GTID_POS reads a whole binlog file before it answers."""

_WRONG_COMPRESSION: Final = 3922
"""ER_WRONG_COMPRESSION_ALGORITHM_CLIENT."""
_FOR_ANOTHER: Final = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
_TLS_REQUEST: Final = 32
"""Bytes of a packet that asks for TLS: the beginning of the answer to the greeting, which is longer."""

Row = tuple[str | None, ...]

UNKNOWN_VARIABLE: Final = 1193
"""ER_UNKNOWN_SYSTEM_VARIABLE: a server that does not have what was asked about."""
NO_PRIVILEGE: Final = 1227
"""ER_SPECIFIC_ACCESS_DENIED_ERROR."""

_NEEDS_SOMEBODY: Final = frozenset(
    {
        1044,  # ER_DBACCESS_DENIED_ERROR
        1045,  # ER_ACCESS_DENIED_ERROR
        1129,  # ER_HOST_IS_BLOCKED
        1130,  # ER_HOST_NOT_PRIVILEGED
        NO_PRIVILEGE,
        1251,  # ER_NOT_SUPPORTED_AUTH_MODE
        1524,  # ER_PLUGIN_IS_NOT_LOADED
        1698,  # ER_ACCESS_DENIED_NO_PASSWORD_ERROR
        1820,  # ER_MUST_CHANGE_PASSWORD
        1862,  # ER_MUST_CHANGE_PASSWORD_LOGIN
        2026,  # CR_SSL_CONNECTION_ERROR
        2059,  # CR_AUTH_PLUGIN_CANNOT_LOAD
        3118,  # ER_ACCOUNT_HAS_BEEN_LOCKED
        3159,  # ER_SECURE_TRANSPORT_REQUIRED
        4151,  # MariaDB's ER_ACCOUNT_HAS_BEEN_LOCKED
    }
)


class QueryError(SourceError):
    """The server answered a statement with an error: `code` as MySQL numbers them."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} (error {code})")
        self.code = code
        self.text = text


class _NeverInClear:
    """In place of PyMySQL's plugins that would give the password away to whoever asks for it."""

    def __init__(self, _connection: object) -> None:
        pass

    def authenticate(self, _packet: object) -> None:
        raise Refused(
            "the source asks for the password in clear: expected an account with caching_sha2_password or "
            "mysql_native_password (check also who answers at this address)"
        )


class _Decompressed(io.RawIOBase):
    """What comes from a socket, as PyMySQL wants to read it."""

    def __init__(self, sock: socket.socket, stream: CompressedStream) -> None:
        self._socket = sock
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        try:
            return self._stream.receive_into(memoryview(buffer), self._socket.recv_into)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None


class _Client(Connection):
    """PyMySQL's connection, on a socket of ours. `stream`: set once what is sent and received is compressed."""

    _sock: socket.socket | None
    _rfile: io.BufferedReader | None
    _read_timeout: float | None
    _ssl_required: bool
    server_version: str
    server_capabilities: int

    def __init__(self, host: str, user: str, password: bytes, settings: SourceSettings) -> None:
        tls = self._tls = settings.tls
        context = tls_context(tls)
        self.stream: CompressedStream | None = None
        self._allowed_compression = settings.compression
        self._level: bytes | None = None
        super().__init__(
            host=host,
            user=user,
            password=password,
            ssl=context,
            ssl_disabled=context is None,
            autocommit=None,
            defer_connect=True,
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=CONNECT_TIMEOUT,
            write_timeout=CONNECT_TIMEOUT,
            program_name="kingbus",
            auth_plugin_map=dict.fromkeys(("mysql_clear_password", "mysql_old_password", "dialog"), _NeverInClear),
            conv={},  # values stay text
        )
        if tls.mode == "preferred":
            self._ssl_required = False
            self.client_flag &= ~CLIENT.SSL

    def allow_slow_answers(self) -> None:
        """After the login: statements may take their time."""
        self._read_timeout = QUERY_TIMEOUT

    @property
    def tls_version(self) -> str | None:
        """TLSv1.3 and the like, None without TLS."""
        return self._sock.version() if isinstance(self._sock, ssl.SSLSocket) else None

    def _request_authentication(self) -> None:
        """Log in; all that is said after the OK is compressed, if that was agreed on."""
        if self._tls.mode not in ("disabled", "preferred") and not self.server_capabilities & CLIENT.SSL:
            raise Refused(
                f"source.tls.mode is {self._tls.mode}, but {self.host} offers no TLS: give it a certificate "
                "(ssl_cert, ssl_key), or allow a connection that is not encrypted (source.tls.mode: preferred)"
            )
        algorithm = choose(self._allowed_compression, self.server_capabilities)
        if algorithm is not None:
            self.client_flag |= FLAGS[algorithm]
        self._level = LEVEL if algorithm is Algorithm.ZSTD else None
        super()._request_authentication()  # type: ignore[misc]
        sock, reader = self._sock, self._rfile
        if algorithm is not None and sock is not None and reader is not None:
            self.stream = CompressedStream(algorithm)
            self._rfile = io.BufferedReader(_Decompressed(sock, self.stream))
            reader.close()

    def write_packet(self, payload: bytes) -> None:
        """Send a packet of the login; the answer to the greeting, which follows the request for TLS, says the level."""
        if self._level is not None and len(payload) > _TLS_REQUEST:
            payload += self._level
            self._level = None
        super().write_packet(payload)

    def _write_bytes(self, data: bytes) -> None:
        super()._write_bytes(data if self.stream is None else self.stream.command(data))  # type: ignore[misc]

    def execute(self, command: bytes) -> None:
        """A command that is answered with OK."""
        self._execute_command(command[0], command[1:])  # type: ignore[attr-defined]
        self._read_packet()  # type: ignore[no-untyped-call]

    def detach(self) -> socket.socket:
        """Give the socket away; this object is then closed. Disconnected if the server has sent something unasked."""
        sock, reader = self._sock, self._rfile
        if sock is None or reader is None:
            raise Disconnected("the connection to the source is closed")
        sock.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            if reader.peek(1):
                raise Disconnected("the source sent something unasked, as it does when it shuts down")
        self._rfile = self._sock = None
        reader.close()
        return sock


class SourceConnection:
    """A logged-in connection.

    `greeting`: the version in the server's greeting. `tls`: the protocol, `compression`: the algorithm; None without.
    """

    def __init__(self, client: _Client, endpoint: Address) -> None:
        self._client = client
        self.endpoint = endpoint
        self.greeting = client.server_version
        self.tls = client.tls_version
        self.compression = None if client.stream is None else client.stream.algorithm

    @classmethod
    def open(
        cls,
        endpoint: Address,
        settings: SourceSettings,
        wakeup: Wakeup,
        opened: Callable[[socket.socket], None] | None = None,
    ) -> SourceConnection:
        """Connect and log in. Raises Disconnected, Refused, or Stopped when `wakeup` is set while TCP connects.

        `opened` is given the socket once TCP is connected; shutting it (or a duplicate) down ends every later wait.
        """
        user = read_user(settings)
        client = _Client(endpoint.host, user, read_password(settings.password_file), settings)
        sock = _dial(endpoint, wakeup)
        try:
            if opened is not None:
                opened(sock)
            client.connect(sock)
            client.allow_slow_answers()
        except pymysql.err.MySQLError as error:
            sock.close()
            raise _translated(error, f"cannot log in to {endpoint} as {user!r}") from error
        except BaseException as error:
            sock.close()
            if isinstance(error, Exception) and not isinstance(error, SourceError):
                raise Disconnected(f"{endpoint} does not speak the MySQL protocol: {error}") from error
            raise
        return cls(client, endpoint)

    def query(self, sql: str) -> Sequence[Row]:
        """Rows of text. QueryError if the server refuses, Disconnected if it is gone."""
        try:
            with self._client.cursor() as cursor:
                cursor.execute(sql)
                return tuple(tuple(None if value is None else str(value) for value in row) for row in cursor.fetchall())
        except pymysql.err.MySQLError as error:
            translated = _translated(error, "a statement failed")
            if isinstance(translated, Refused | QueryError) or not self._client.open:
                raise translated from error
            raise QueryError(_code(error), _text(error)) from error

    def execute(self, command: bytes) -> None:
        """A command that is answered with OK, such as COM_REGISTER_SLAVE."""
        try:
            self._client.execute(command)
        except pymysql.err.MySQLError as error:
            doing = "the source does not register us as a replica (has source.user the privilege REPLICATION SLAVE?)"
            raise _translated(error, doing) from error

    def start_dump(self, command: bytes, wakeup: Wakeup) -> Link:
        """Send the command that begins a dump; from here on the socket is the link's, and this connection is over."""
        link = Link(self._client.detach(), wakeup, self._client.stream)
        try:
            link.send(len(command).to_bytes(3, "little") + b"\0" + command)
        except BaseException:
            link.close()
            raise
        return link

    def close(self) -> None:
        """Leave, with COM_QUIT if the socket is still ours."""
        with contextlib.suppress(pymysql.err.Error):
            self._client.close()


def read_user(settings: SourceSettings) -> str:
    """The account: what ``user_file`` holds now, if there is one. Refused."""
    path = settings.user_file
    if path is None:
        return settings.user
    try:
        user = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"source.user_file {str(path)!r}: expected a file with the user's name ({error})") from error
    if not user:
        raise Refused(f"source.user_file {str(path)!r}: expected the user's name, found nothing")
    return user


def read_password(path: Path | None) -> bytes:
    """The file's bytes without the line end; no file, no password."""
    if path is None:
        return b""
    try:
        return path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise Refused(
            f"source.password_file {str(path)!r}: expected a file that can be read ({error.strerror})"
        ) from error


class _TlsSocket(ssl.SSLSocket):
    """Python before 3.12 leaves a socket open when the peer is gone already as TLS is to begin."""

    def getpeername(self) -> object:
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, "the connection ended before TLS began") from error


def tls_context(tls: SourceTls) -> ssl.SSLContext | None:
    """What `source.tls` means, as MySQL's ``--ssl-mode`` does; None: no TLS. Refused if a file cannot be used."""
    if tls.mode == "disabled":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _TlsSocket
    context.check_hostname = tls.mode == "verify-identity"
    context.verify_mode = ssl.CERT_REQUIRED if tls.mode.startswith("verify") else ssl.CERT_NONE
    # The certificates that MySQL makes for itself lack what Python 3.13 demands beyond RFC 5280's minimum.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        if tls.ca is not None:
            context.load_verify_locations(cafile=tls.ca)
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(str(path) for path in (tls.ca, tls.cert, tls.key) if path is not None)
        raise Refused(f"source.tls: expected certificates and keys in PEM form in {files}: {error}") from error
    return context


def _dial(endpoint: Address, wakeup: Wakeup) -> socket.socket:
    """A TCP connection to the first of the endpoint's addresses that answers (names are looked up each time)."""
    try:
        addresses = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Disconnected(f"cannot resolve the source's name {endpoint.host!r}: {error}") from error
    problem = "no address"
    for family, kind, protocol, _, address in addresses:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # a kernel without IPv6, say, and a name that has both
            problem = str(error)
            continue
        try:
            _connect(sock, address, wakeup)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock
        except OSError as error:
            sock.close()
            problem = str(error)
        except BaseException:
            sock.close()
            raise
    raise Disconnected(f"cannot connect to the source at {endpoint}: {problem}")


def _connect(sock: socket.socket, address: tuple[object, ...], wakeup: Wakeup) -> None:
    """As `socket.connect`, but `wakeup` ends it (Stopped, with the wake-up left set)."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.connect(address)
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    poll.register(wakeup, select.POLLIN)
    deadline = time.monotonic() + CONNECT_TIMEOUT
    while True:
        ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
        if sock.fileno() in ready:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            return
        if ready:
            raise Stopped("stopped while connecting")
        if time.monotonic() >= deadline:
            raise TimeoutError(f"no answer within {CONNECT_TIMEOUT:g} s")


def _code(error: pymysql.err.MySQLError) -> int:
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def _text(error: pymysql.err.MySQLError) -> str:
    return str(error.args[-1]) if error.args else type(error).__name__


def _translated(error: pymysql.err.MySQLError, what: str) -> SourceError:
    """PyMySQL's error as one of ours: whether trying again helps."""
    code, text = _code(error), _text(error)
    cause = getattr(error, "original_exception", None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        another = cause.verify_code in _FOR_ANOTHER
        help_ = "source.endpoints must name the source as it does" if another else "was it issued by source.tls.ca?"
        return Refused(f"{what}: its certificate does not pass: {cause.verify_message} ({help_})", code=code)
    if code == _WRONG_COMPRESSION:
        return Refused(
            f"{what}: {text} (error {code}): expected source.compression to name what it insists on "
            "(its protocol_compression_algorithms)",
            code=code,
        )
    if code in _NEEDS_SOMEBODY:
        return Refused(f"{what}: {text} (error {code})", code=code)
    return Disconnected(f"{what}: {text}" + (f" (error {code})" if code else ""))
