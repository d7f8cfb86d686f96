"""Connections between nodes: who connects to whom, and what makes two connections a link.

A *link* is what Raft takes for the connection between two nodes: two TCP connections, one for short messages and one
for entries, so that a heartbeat never waits behind megabytes, neither in a queue nor for a lost packet. It comes up as
a whole and breaks as a whole.

Every node connects to every member, and a link that is there is enough for both. When two try at the same moment the
one with the smaller address has the right of way, and the other waits a moment before it tries at all. Otherwise a new
link from a node takes the place of the old one: whoever connects has none.

All that may wait (name servers, handshakes) happens in threads of its own: one for each member to connect to, one for
each connection that was accepted and has not said yet who it is; of these there is a limited number, and they have a
deadline. The loop gets links that are ready.
"""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from kingbus_node.config import Address
from kingbus_node.raft import handshake
from kingbus_node.raft.errors import ProtocolError, RaftError
from kingbus_node.raft.handshake import RefusedError, StrangerError
from kingbus_node.raft.hello import Hello, Purpose
from kingbus_node.raft.tls import PeerTls
from kingbus_node.util.backoff import Backoff

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 5.0
MAX_HANDSHAKES: Final = 64
MAX_LINKS: Final = 64
MAX_STREAMS: Final = 32
_STREAM_KIND: Final = "stream"
_RIGHT_OF_WAY: Final = 0.3
_YOUNG: Final = 1.0
_FIRST_RETRY: Final = 0.05
_SLOWEST_RETRY: Final = 1.0
_BUSY: Final = "a connection is being made the other way round"
_COMPLAINTS_PER_MINUTE: Final = 30

Greeting = Callable[[Purpose, int, str], Hello]
StreamHandler = Callable[[socket.socket, Hello], None]


@dataclass(frozen=True, slots=True)
class Connected:
    """A link: two connections to a peer, greeted and ready.

    :param peer: what the peer said of itself
    :param number: the link's
    """

    peer: Hello
    number: int
    control: socket.socket
    bulk: socket.socket

    def close(self) -> None:
        """Gives it up."""
        self.control.close()
        self.bulk.close()


@dataclass(slots=True)
class _Peer:
    """A node that is, or is to be, connected.

    :param link: the link that is up, None while there is none
    :param since: since when
    :param dialing: this node reached it, and is making a link
    """

    link: int | None = None
    since: float = 0.0
    dialing: bool = False
    wanted: bool = False
    thread: threading.Thread | None = None


@dataclass(slots=True)
class _Half:
    """The first connection of a link that a peer is making."""

    peer: Hello
    control: socket.socket
    deadline: float


class _BusyError(RaftError):
    """The other side has the right of way."""


class _Attempt:
    """Connections that are being made in one thread, and can be interrupted by another one."""

    def __init__(self) -> None:
        self._connections: list[socket.socket] = []
        self._interrupted = False

    def add(self, connection: socket.socket) -> None:
        self._connections.append(connection)
        if self._interrupted:
            raise ConnectionAbortedError("the transport was closed")

    def interrupt(self) -> None:
        self._interrupted = True
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not SSLSocket's, which changes its object

    def release(self) -> None:
        """What was made has another owner now."""
        self._connections.clear()

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


class Transport:
    """Makes links until it is closed. Any thread.

    :param listener: a listening socket, which belongs to the transport from now on
    :param address: this node's, as its peers know it
    :param greeting: makes this node's greeting for a purpose, a link and a receiver
    :param on_link: called in some thread with each new link, which belongs to the callee
    :param patience: seconds without an answer after which the system gives a connection up
    """

    def __init__(
        self,
        listener: socket.socket,
        address: str,
        greeting: Greeting,
        on_link: Callable[[Connected], None],
        *,
        tls: PeerTls | None,
        patience: float,
    ) -> None:
        self._listener = listener
        self._address = address
        self._greeting = greeting
        self._on_link = on_link
        self._tls = tls
        self._patience = patience
        self._changed = threading.Condition()
        self._peers: dict[str, _Peer] = {}
        self._halves: dict[int, _Half] = {}
        self._handlers: dict[str, StreamHandler] = {}
        self._streams = 0
        self._attempts: set[_Attempt] = set()
        self._threads: set[threading.Thread] = set()
        self._handshakes = threading.Semaphore(MAX_HANDSHAKES)
        self._closing = False
        self._complaints = _Complaints()
        self._acceptor = threading.Thread(target=self._accept, name="raft-accept", daemon=True)
        self._acceptor.start()

    # What the loop says

    def connect_to(self, addresses: Iterable[str]) -> None:
        """These, and no others, are to be connected to. Links that are up stay up."""
        wanted = set(addresses) - {self._address}
        with self._changed:
            for address, peer in self._peers.items():
                peer.wanted = address in wanted
            for address in wanted:
                peer = self._peers.setdefault(address, _Peer())
                peer.wanted = True
                if peer.thread is None and not self._closing:
                    name = f"raft-dial-{address}"
                    peer.thread = threading.Thread(target=self._dial, args=(address, peer), name=name, daemon=True)
                    peer.thread.start()
            self._changed.notify_all()

    def is_down(self, address: str, number: int) -> None:
        """That link is closed."""
        with self._changed:
            peer = self._peers.get(address)
            if peer is not None and peer.link == number:
                peer.link = None
                if not peer.wanted and peer.thread is None:
                    del self._peers[address]
                self._changed.notify_all()

    def tidy(self) -> None:
        """Gives up links that a peer began and did not finish in time. To be called now and then."""
        with self._changed:
            self._expire_halves(time.monotonic())

    def close(self) -> None:
        """Ends all that is not a link yet, the streams, and the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            for attempt in self._attempts:
                attempt.interrupt()
            halves, self._halves = self._halves, {}
            threads = [self._acceptor, *self._threads, *(p.thread for p in self._peers.values() if p.thread)]
        for half in halves.values():
            half.control.close()
        deadline = time.monotonic() + HANDSHAKE_SECONDS
        for thread in threads:
            # A thread that waits for a name server cannot be interrupted. It ends by itself, and touches nothing then.
            thread.join(max(0.0, deadline - time.monotonic()))
        self._listener.close()

    # Streams

    def serve_streams(self, kind: str, handler: StreamHandler) -> None:
        """Calls ``handler(socket, hello)``, in a thread of its own, for each connection made by ``open_stream`` of that
        `kind`. The socket is blocking without a deadline, and closed when the handler returns; an OSError ends it
        quietly. When the transport closes the socket is shut down, and the handler must end then.
        """
        with self._changed:
            self._handlers[kind] = handler

    @contextlib.contextmanager
    def open_stream(
        self, address: str, kind: str, deadline: float, info: Mapping[str, str] | None = None
    ) -> Iterator[socket.socket]:
        """A connection to the handler of that kind at a peer, which sees `info` in the greeting (`Hello.info`).

        :param deadline: for the greeting only; the socket is blocking then
        :raises OSError: the peer cannot be reached, or this transport was closed
        :raises RaftError: the peer refuses, or is not the one expected
        """
        with self._attempt() as attempt:
            request = {**(info or {}), _STREAM_KIND: kind}
            connection, _ = self._reach(attempt, address, address, Purpose.STREAM, 0, deadline, request)
            connection.settimeout(None)
            yield connection
            attempt.close()

    # Connecting

    def _dial(self, address: str, peer: _Peer) -> None:
        backoff = Backoff(_FIRST_RETRY, _SLOWEST_RETRY)
        trouble = ""
        wait = 0.0
        while self._is_to_be_dialed(peer, wait, yields=self._address > address):
            wait = backoff.next()
            try:
                link = self._connect(address, peer)
            except _BusyError:
                continue
            except (OSError, RaftError) as error:
                text = _told(error)
                level = logging.DEBUG if text == trouble or self._closing else logging.WARNING
                logger.log(level, "no connection to %s: %s", address, text)
                trouble = text
            else:
                backoff.reset()
                trouble = ""
                self._on_link(link)
            finally:
                with self._changed:
                    peer.dialing = False

    def _is_to_be_dialed(self, peer: _Peer, wait: float, *, yields: bool) -> bool:
        """Waits until there is something to do; False when there is not, for the time being."""

        def over() -> bool:
            return self._closing or not peer.wanted

        with self._changed:
            self._changed.wait_for(over, wait)
            while not over():
                if peer.link is not None:
                    self._changed.wait_for(lambda: over() or peer.link is None)
                elif not yields:
                    return True
                else:
                    pause = random.uniform(_RIGHT_OF_WAY / 2, _RIGHT_OF_WAY)
                    if not self._changed.wait_for(lambda: over() or peer.link is not None, pause):
                        return True
            peer.thread = None
            return False

    def _connect(self, address: str, peer: _Peer) -> Connected:
        """A new link to a peer."""
        deadline = time.monotonic() + HANDSHAKE_SECONDS
        number = secrets.randbits(63) | 1
        with self._attempt() as attempt:
            control, theirs = self._reach(attempt, address, address, Purpose.CONTROL, number, deadline, None, peer)
            ip, port = control.getpeername()[:2]
            where = str(Address(ip, port))  # the name may lead to another node by now
            bulk, again = self._reach(attempt, where, address, Purpose.BULK, number, deadline, None, peer)
            if again.incarnation != theirs.incarnation:
                raise ProtocolError("two nodes answer at that address")
            with self._changed:
                self._check_link(peer)
                peer.link, peer.since = number, time.monotonic()
                attempt.release()
            return _ready(theirs, number, control, bulk)

    def _reach(
        self,
        attempt: _Attempt,
        where: str,
        address: str,
        purpose: Purpose,
        number: int,
        deadline: float,
        info: Mapping[str, str] | None,
        peer: _Peer | None = None,
    ) -> tuple[socket.socket, Hello]:
        """A connection to the node `address`, which is at `where`, and what it says. OSError, RaftError."""
        connection = handshake.connect(where, min(deadline, time.monotonic() + handshake.CONNECT_SECONDS), attempt.add)
        handshake.tune(connection, self._patience)
        if peer is not None:
            with self._changed:
                self._check_link(peer)
                peer.dialing = True
        if self._tls is not None:
            connection = handshake.secure(connection, self._tls, deadline, server=False, opened=attempt.add)
        ours = self._greeting(purpose, number, address)
        if info is not None:
            ours = replace(ours, info=info)
        handshake.send(connection, ours, deadline)
        try:
            theirs = handshake.receive_hello(connection, deadline)
        except RefusedError as error:
            if str(error) == _BUSY:
                raise _BusyError(_BUSY) from error
            raise
        if theirs.sender != address:
            raise ProtocolError(f"there is {theirs.sender} at that address")
        handshake.check(ours, theirs, connection)
        return connection, theirs

    def _check_link(self, peer: _Peer) -> None:
        """The lock is held."""
        if self._closing:
            raise ConnectionAbortedError("the transport was closed")
        if peer.link is not None:
            raise _BusyError(_BUSY)

    # Accepting

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, where = self._listener.accept()
            except OSError as error:
                if not self._closing:  # too many open files, say: that passes
                    logger.error("cannot accept connections of peers: %s", error)
                    with self._changed:
                        self._changed.wait_for(lambda: self._closing, _SLOWEST_RETRY)
                continue
            if not self._handshakes.acquire(blocking=False):
                self._complaints.tell("closed a connection from %s: %d others are being greeted", where, MAX_HANDSHAKES)
                connection.close()
                continue
            name = f"raft-greet-{where[0]}"
            thread = threading.Thread(target=self._greet, args=(connection, where[0]), name=name, daemon=True)
            with self._changed:
                self._threads.add(thread)
            try:
                thread.start()
            except RuntimeError as error:  # the limit of threads is reached: that passes, too
                self._complaints.tell("closed a connection from %s: %s", where[0], error)
                with self._changed:
                    self._threads.discard(thread)
                self._handshakes.release()
                connection.close()

    def _greet(self, connection: socket.socket, where: str) -> None:
        greeted = False
        try:
            with self._attempt() as attempt:
                attempt.add(connection)
                deadline = time.monotonic() + HANDSHAKE_SECONDS
                handshake.tune(connection, self._patience)
                if self._tls is not None:
                    connection = handshake.secure(connection, self._tls, deadline, server=True, opened=attempt.add)
                theirs = handshake.receive_hello(connection, deadline)
                ours = self._greeting(theirs.purpose, theirs.link, theirs.sender)
                try:
                    handshake.check(ours, theirs, connection)
                    proceed = self._admit(connection, theirs, attempt)
                except RaftError as error:
                    handshake.refuse(connection, str(error), deadline)
                    raise
                try:
                    handshake.send(connection, ours, deadline)
                except OSError:
                    self._take_back(theirs)
                    raise
                self._handshakes.release()
                greeted = True
                proceed()
        except (StrangerError, _BusyError) as error:
            logger.debug("closed a connection from %s: %s", where, error)
        except (OSError, RaftError) as error:
            if not self._closing:
                self._complaints.tell("closed a connection from %s: %s", where, _told(error))
        finally:
            if not greeted:
                self._handshakes.release()
            with self._changed:
                self._threads.discard(threading.current_thread())

    def _admit(self, connection: socket.socket, theirs: Hello, attempt: _Attempt) -> Callable[[], None]:
        """What is to be done with an accepted connection once it was answered.

        :raises RaftError: why it is refused
        """
        with self._changed:
            if theirs.purpose is Purpose.STREAM:
                return self._admit_stream(connection, theirs)
            peer = self._peers.get(theirs.sender)
            if peer is None and len(self._peers) >= MAX_LINKS:
                raise RefusedError(f"{MAX_LINKS} nodes are connected, and {theirs.sender} is not a member")
            now = time.monotonic()
            young = peer is not None and peer.link is not None and now - peer.since < _YOUNG
            if peer is not None and self._address < theirs.sender and (peer.dialing or young):
                raise _BusyError(_BUSY)
            if theirs.purpose is Purpose.CONTROL:
                self._expire_halves(now)
                if len(self._halves) >= MAX_HANDSHAKES:
                    raise RefusedError("too many connections are being made")
                self._halves[theirs.link] = _Half(theirs, connection, now + HANDSHAKE_SECONDS)
                attempt.release()
                return lambda: None
            half = self._halves.pop(theirs.link, None)
            if half is None or half.peer.sender != theirs.sender:
                raise ProtocolError("the first connection of this link is gone")
            peer = self._peers.setdefault(theirs.sender, _Peer())
            peer.link, peer.since = theirs.link, now
            attempt.add(half.control)
            self._changed.notify_all()

        def proceed() -> None:
            attempt.release()
            self._on_link(_ready(half.peer, theirs.link, half.control, connection))

        return proceed

    def _take_back(self, theirs: Hello) -> None:
        """It was admitted, and could not be told so."""
        if theirs.purpose is not Purpose.STREAM:
            self.is_down(theirs.sender, theirs.link)
            return
        with self._changed:
            self._streams -= 1

    def _admit_stream(self, connection: socket.socket, theirs: Hello) -> Callable[[], None]:
        """The lock is held."""
        kind = theirs.info.get(_STREAM_KIND, "")
        handler = self._handlers.get(kind)
        if handler is None:
            raise RefusedError(f"this node serves no streams of kind {kind!r}")
        if self._streams >= MAX_STREAMS:
            raise RefusedError(f"this node serves {MAX_STREAMS} streams already")
        self._streams += 1

        def proceed() -> None:
            try:
                connection.settimeout(None)
                handler(connection, theirs)
            finally:
                connection.close()
                with self._changed:
                    self._streams -= 1

        return proceed

    def _expire_halves(self, now: float) -> None:
        """The lock is held."""
        for number in [number for number, half in self._halves.items() if half.deadline < now]:
            self._halves.pop(number).control.close()

    @contextlib.contextmanager
    def _attempt(self) -> Iterator[_Attempt]:
        attempt = _Attempt()
        with self._changed:
            if self._closing:
                attempt.interrupt()
            self._attempts.add(attempt)
        try:
            yield attempt
        except BaseException:
            attempt.close()
            raise
        finally:
            with self._changed:
                self._attempts.discard(attempt)


def _ready(peer: Hello, number: int, control: socket.socket, bulk: socket.socket) -> Connected:
    control.setblocking(False)
    bulk.setblocking(False)
    return Connected(peer, number, control, bulk)


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


class _Complaints:
    """Warnings about strangers, of which there may be any number: so many a minute, and how many more there were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._count = 0

    def tell(self, text: str, *values: object) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._since >= 60:
                if self._count > _COMPLAINTS_PER_MINUTE:
                    logger.warning("%d more such connections in a minute", self._count - _COMPLAINTS_PER_MINUTE)
                self._since, self._count = now, 0
            self._count += 1
            shown = self._count <= _COMPLAINTS_PER_MINUTE
        logger.log(logging.WARNING if shown else logging.DEBUG, text, *values)
