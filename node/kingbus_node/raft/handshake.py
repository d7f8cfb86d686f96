"""The beginning of a connection between nodes, in a thread of its own with a deadline, so that nobody else waits for
it: TLS, then a greeting each way.

What comes from a stranger is looked at before anything is set aside for it, and ends the connection, nothing else.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable

from kingbus_node.config import Address
from kingbus_node.raft import hello
from kingbus_node.raft.errors import ProtocolError, RaftError
from kingbus_node.raft.hello import Hello, Refusal
from kingbus_node.raft.tls import PeerTls, check_certificate, peer_names

CONNECT_SECONDS = 3.0
KEEPALIVE_SECONDS = 5


class StrangerError(RaftError):
    """Who connected said nothing at all: a health check, or a scan of ports."""


class RefusedError(RaftError):
    """The peer refused the connection; the text is its reason."""


def connect(address: str, deadline: float, opened: Callable[[socket.socket], None]) -> socket.socket:
    """A TCP connection. The name is resolved anew each time: pods come back with another IP address.

    OSError; ProtocolError for an address that is none.

    :param opened: told of each socket before it connects, so that somebody can interrupt it and close it
    """
    try:
        place = Address.parse(address)
    except ValueError as error:
        raise ProtocolError(str(error)) from error
    problem: OSError | None = None
    for family, kind, protocol, _, where in socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM):
        try:
            connection = socket.socket(family, kind, protocol)
        except OSError as error:  # a kernel without IPv6, say, and a name that has both
            problem = error
            continue
        try:
            opened(connection)
            connection.settimeout(_left(deadline))
            connection.connect(where)
        except OSError as error:
            connection.close()
            problem = error
        else:
            return connection
    raise problem or OSError(f"{place.host} has no address")


def tune(connection: socket.socket, patience: float) -> None:
    """No delay for short messages, and an end for a connection to a host that is gone, after `patience` seconds."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience * 1000))


def secure(
    connection: socket.socket, tls: PeerTls, deadline: float, opened: Callable[[socket.socket], None], *, server: bool
) -> ssl.SSLSocket:
    """TLS on a connection, by a socket that takes its place; `opened` as in ``connect``. OSError."""
    context = tls.server() if server else tls.client()
    connection.settimeout(_left(deadline))
    secured = context.wrap_socket(connection, server_side=server, do_handshake_on_connect=False)
    opened(secured)
    secured.do_handshake()
    return secured


def receive(connection: socket.socket, deadline: float) -> Hello | Refusal:
    """The peer's greeting. OSError, ProtocolError, StrangerError."""
    preamble = _exactly(connection, hello.PREAMBLE_SIZE, deadline)
    if not preamble:
        raise StrangerError("it closed the connection without a word")
    return hello.decode(preamble, _exactly(connection, hello.body_length(preamble), deadline))


def receive_hello(connection: socket.socket, deadline: float) -> Hello:
    """As ``receive``. RefusedError."""
    greeting = receive(connection, deadline)
    if isinstance(greeting, Refusal):
        raise RefusedError(greeting.reason)
    return greeting


def send(connection: socket.socket, greeting: Hello | Refusal, deadline: float) -> None:
    """This side's greeting. OSError."""
    connection.settimeout(_left(deadline))
    connection.sendall(hello.encode(greeting))


def refuse(connection: socket.socket, reason: str, deadline: float) -> None:
    """Tells the peer why, if it still listens."""
    with contextlib.suppress(OSError):
        send(connection, Refusal(reason), deadline)


def check(ours: Hello, theirs: Hello, connection: socket.socket) -> None:
    """Whether `theirs` may speak with this node, to whom `ours` belongs.

    :raises ProtocolError: the text says why not, for both sides
    """
    hello.agree(ours, theirs)
    if theirs.receiver != ours.sender:
        raise ProtocolError(f"this node is {ours.sender}, not {theirs.receiver}: does a name lead to another node?")
    if theirs.sender == ours.sender:
        raise ProtocolError(f"{theirs.sender} is this node's own address: it is advertised by two nodes")
    if ours.cluster and theirs.cluster and ours.cluster != theirs.cluster:
        raise ProtocolError(
            f"{ours.sender} belongs to cluster {ours.cluster}, {theirs.sender} to cluster {theirs.cluster}"
        )
    if isinstance(connection, ssl.SSLSocket):
        check_certificate(peer_names(connection), theirs.sender)


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    """`size` bytes, or those before the peer closed."""
    data = b""
    while len(data) < size:
        connection.settimeout(_left(deadline))
        more = connection.recv(size - len(data))
        if not more:
            break
        data += more
    return data


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it took too long")
    return left
