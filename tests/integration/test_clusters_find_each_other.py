"""Links come up whoever calls first, and again when an address leads elsewhere."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from clusters.lab import soon, until

from kingbus_node.config import Address
from kingbus_node.demo.ports import ReservedPort
from kingbus_node.raft import handshake, hello, transport
from kingbus_node.raft.errors import RaftError
from kingbus_node.raft.hello import Hello, Purpose
from kingbus_node.raft.transport import MAX_HANDSHAKES, MAX_STREAMS, Connected, Transport


class End:
    """A transport, and the links that it made."""

    def __init__(self, address: str, incarnation: int, listener: socket.socket) -> None:
        self.address = address
        self.incarnation = incarnation
        self.links: list[Connected] = []
        self._lock = threading.Lock()
        self.transport = Transport(listener, address, self._greeting, self._came, tls=None, patience=5)

    def _greeting(self, purpose: Purpose, link: int, receiver: str) -> Hello:
        return Hello(purpose, link, self.incarnation, self.address, receiver, self.address)

    def _came(self, connected: Connected) -> None:
        with self._lock:
            self.links.append(connected)

    @property
    def current(self) -> Connected | None:
        """The newest link, if nobody has closed it."""
        with self._lock:
            if not self.links:
                return None
            newest = self.links[-1]
        return newest if _is_open(newest.control) and _is_open(newest.bulk) else None

    def drop_dead(self) -> None:
        """What a loop does with links that are gone."""
        with self._lock:
            links = list(self.links)
        for link in links:
            if link is not links[-1] or not (_is_open(link.control) and _is_open(link.bulk)):
                link.close()
                self.transport.is_down(link.peer.sender, link.number)

    def close(self) -> None:
        self.transport.close()
        for link in self.links:
            link.close()


def _is_open(connection: socket.socket) -> bool:
    if connection.fileno() < 0:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.fixture
def begin() -> Iterator[Callable[..., End]]:
    ends: list[End] = []

    def make(address: str = "", incarnation: int = 1) -> End:
        port = int(address.rpartition(":")[2] or 0)
        listener = socket.create_server(("127.0.0.1", port))
        end = End(address or f"127.0.0.1:{listener.getsockname()[1]}", incarnation, listener)
        ends.append(end)
        return end

    yield make
    for end in ends:
        end.close()


def joined(a: End, b: End) -> bool:
    """Whether both have the same link."""
    a.drop_dead()
    b.drop_dead()
    here, there = a.current, b.current
    return here is not None and there is not None and here.number == there.number


def test_two_who_call_at_the_same_moment_end_with_one_link(begin: Callable[..., End]) -> None:
    for _ in range(10):
        a, b = begin(incarnation=1), begin(incarnation=2)
        together = threading.Barrier(2)

        def call(end: End, other: End, together: threading.Barrier = together) -> None:
            together.wait()
            end.transport.connect_to([other.address])

        threads = [threading.Thread(target=call, args=pair) for pair in ((a, b), (b, a))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda a=a, b=b: joined(a, b), "one link")  # type: ignore[misc]
        assert a.links[-1].peer.sender == b.address
        a.close()
        b.close()


def test_one_side_is_enough(begin: Callable[..., End]) -> None:
    a, b = begin(), begin()
    max(a, b, key=lambda end: end.address).transport.connect_to([a.address, b.address])
    until(lambda: joined(a, b), "a link")


def test_who_starts_again_gets_a_new_link(begin: Callable[..., End]) -> None:
    port = ReservedPort()  # nobody else takes it meanwhile
    a, b = begin(), begin(f"127.0.0.1:{port.number}")
    a.transport.connect_to([b.address])
    until(lambda: joined(a, b), "a link")
    b.close()
    until(lambda: a.current is None, "the end of it is seen")
    a.drop_dead()
    again = begin(b.address, 2)
    until(lambda: joined(a, again), "a link again")
    assert a.links[-1].peer.incarnation == 2


def test_names_are_looked_up_for_every_connection(begin: Callable[..., End], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod comes back with another IP address under the same name."""
    name = "node-1.kingbus.test:7401"
    first, second, caller = begin(), begin(incarnation=2), begin()
    first.address = second.address = name
    first.transport._address = second.transport._address = name
    where = [first]
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: str, port: int, **options: int) -> object:
        if host != "node-1.kingbus.test":
            return real(host, port, **options)
        asked.append(host)
        return real("127.0.0.1", where[0].transport._listener.getsockname()[1], **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    caller.transport.connect_to([name])
    until(lambda: joined(caller, first), "a link to the first")
    where[0] = second
    first.close()
    until(lambda: caller.current is None, "the end of it is seen")
    caller.drop_dead()
    until(lambda: joined(caller, second), "a link to the second")
    assert len(asked) >= 2


def test_a_name_that_leads_to_another_node_is_noticed(begin: Callable[..., End]) -> None:
    a, b = begin(), begin()
    b.transport._address = b.address = "127.0.0.1:1"
    where = str(Address("127.0.0.1", b.transport._listener.getsockname()[1]))
    with pytest.raises(RaftError, match=r"this node is 127\.0\.0\.1:1, not"):  # noqa: SIM117
        with a.transport.open_stream(where, "any", soon()):
            pass


def test_a_name_that_cannot_be_looked_up_is_no_address_and_ends_no_thread(
    begin: Callable[..., End], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda what: crashed.append(str(what.exc_value)))
    address = "kingbus-0..nodes:7401"  # as it may stand in a log already
    begin().transport.connect_to([address])
    until(lambda: bool(crashed) or f"no connection to {address}" in caplog.text, "an attempt")
    assert not crashed


def serve_echo(end: End) -> None:
    end.transport.serve_streams("echo", lambda connection, _: connection.sendall(connection.recv(1)))


def assert_echoes(asks: End, asked: End) -> None:
    with asks.transport.open_stream(asked.address, "echo", soon()) as connection:
        connection.settimeout(60)
        connection.sendall(b"!")
        assert connection.recv(1) == b"!"


def test_a_stream_whose_caller_is_gone_before_the_answer_takes_no_place(
    begin: Callable[..., End], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, asks = begin(incarnation=1), begin(incarnation=2)
    serve_echo(asked)
    send = handshake.send

    def gone(*_: object) -> None:
        raise ConnectionResetError("connection reset by peer")

    port = int(asked.address.rpartition(":")[2])
    greeting = Hello(Purpose.STREAM, 0, 2, asks.address, asked.address, "asks", info={"stream": "echo"})
    monkeypatch.setattr(handshake, "send", gone)
    for _ in range(MAX_STREAMS):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(60)
            connection.sendall(hello.encode(greeting))
            assert connection.recv(1) == b""
    monkeypatch.setattr(handshake, "send", send)
    assert_echoes(asks, asked)


def test_a_connection_for_which_there_is_no_thread_is_closed_and_the_next_one_taken(
    begin: Callable[..., End], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, asks = begin(incarnation=1), begin(incarnation=2)
    serve_echo(asked)
    start, refused = threading.Thread.start, list[str]()

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("raft-greet") and len(refused) < MAX_HANDSHAKES:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    port = int(asked.address.rpartition(":")[2])
    for _ in range(MAX_HANDSHAKES):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(60)
            assert connection.recv(1) == b""
    assert_echoes(asks, asked)


def test_who_waits_for_name_servers_does_not_hold_up_the_end_once_for_each_member(
    begin: Callable[..., End], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = threading.Semaphore(0), threading.Event()

    def slow(*_: object, **__: object) -> list[object]:
        asked.release()
        answered.wait(120)
        raise socket.gaierror("no name server")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(transport, "HANDSHAKE_SECONDS", 1.0)
    end = begin()
    members = [f"kingbus-{number}.nodes:7401" for number in range(8)]
    end.transport.connect_to(members)
    for _ in members:
        assert asked.acquire(timeout=60)
    begun = time.monotonic()
    end.transport.close()
    took = time.monotonic() - begun
    answered.set()
    assert took < 4
