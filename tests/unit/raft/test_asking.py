"""Questions between nodes: answers of any size that there is, and what is known when there is none."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from kingbus_node.raft import asking
from kingbus_node.raft.api import MemberStatus
from kingbus_node.raft.hello import Hello, Purpose

LEADER = MemberStatus("node-1", "a:1", "voter", joining=False, priority=0, leader=True, reachable=True)
SECONDS = 60.0


class Pair:
    """Two nodes with nothing but a connection between them: what one asks the other serves in a thread."""

    def __init__(self) -> None:
        self.handler: Callable[[socket.socket, Hello], None] = lambda _, __: None
        self.failures: list[BaseException] = []

    def serve_streams(self, kind: str, handler: Callable[[socket.socket, Hello], None], /) -> None:
        assert kind == "weather"
        self.handler = handler

    @contextlib.contextmanager
    def open_stream(self, address: str, kind: str, deadline: float, /) -> Iterator[socket.socket]:
        assert (address, kind) == ("a:1", "weather")
        assert deadline
        asker, answerer = socket.socketpair()
        thread = threading.Thread(target=self._serve, args=(answerer,))
        thread.start()
        with asker:
            yield asker
        thread.join(SECONDS)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.handler(connection, Hello(Purpose.STREAM, 1, 1, "b:1", "a:1", "node-2"))
            except Exception as error:  # noqa: BLE001 - which would end the node
                self.failures.append(error)

    def ask(self, question: object) -> object:
        return asking.ask(self, LEADER, "weather", question, SECONDS)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    assert not made.failures


@pytest.mark.parametrize("size", [1, 16 << 10, 1 << 20])
def test_an_answer_may_be_long(pair: Pair, size: int) -> None:
    """The executed GTIDs of a cluster with many sources take more than some kilobytes."""
    asking.answer(pair, "weather", lambda question: [question, "x" * size])
    assert pair.ask("?") == ["?", "x" * size]


def test_who_ends_without_an_answer_may_have_done_what_was_asked(pair: Pair) -> None:
    def leave(connection: socket.socket, _: Hello) -> None:
        connection.recv(1000)

    pair.handler = leave
    with pytest.raises(asking.UnfinishedError, match="node-1"):
        pair.ask("?")


def test_half_an_answer_is_none(pair: Pair) -> None:
    def stammer(connection: socket.socket, _: Hello) -> None:
        connection.recv(1000)
        connection.sendall(b"[1, 2")

    pair.handler = stammer
    with pytest.raises(asking.UnfinishedError, match="node-1"):
        pair.ask("?")


@pytest.mark.parametrize("line", [b"[" * 16_000, b"{", b"\xff", b""])
def test_a_question_or_an_answer_that_makes_no_sense_ends_nothing(pair: Pair, line: bytes) -> None:
    asking.answer(pair, "weather", lambda _: 1)
    with pair.open_stream("a:1", "weather", 1.0) as connection:
        connection.sendall(line + b"\n")
        connection.settimeout(SECONDS)
        assert not connection.recv(1)

    def nonsense(connection: socket.socket, _: Hello) -> None:
        connection.recv(1000)
        connection.sendall(line + b"\n")

    pair.handler = nonsense
    with pytest.raises(asking.UnansweredError, match="node-1"):
        pair.ask("?")
