"""What the loop is made of: lanes that never block, a fair lock, timeouts that follow the round trip."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kingbus_node.raft.errors import ProtocolError
from kingbus_node.raft.frames import Framed, Ping, Pong
from kingbus_node.raft.hello import Hello, Purpose
from kingbus_node.raft.links import Lane, Link, LinkError
from kingbus_node.raft.loop import LONGEST_SCALING, Turnstile, election_timeout
from kingbus_node.raft.messages import Append, Entry, Install, Kind, TimeoutNow
from kingbus_node.raft.transport import Connected
from kingbus_node.store.durable import FileHandle, FileSlice


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    for one in (here, there):
        one.setblocking(False)
    yield here, there
    here.close()
    there.close()


def lane(connection: socket.socket, limit: int = 1 << 20) -> Lane:
    return Lane(connection, buffer=4096, limit=limit)


def drain(lane: Lane) -> list[Framed]:
    return list(lane.receive())


def test_a_lane_sends_in_order_whatever_the_connection_takes_at_a_time(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = lane(pair[0], limit=8 << 20), lane(pair[1])
    body = bytes(range(256)) * 4096
    for number in range(4):
        sender.queue([b"%d" % number, body])
    received = b""
    while sender.queued:
        sender.flush()
        assert sender.blocked == bool(sender.queued)
        while True:
            try:
                received += pair[1].recv(1 << 20)
            except BlockingIOError:
                break
    assert received == b"".join(b"%d" % number + body for number in range(4))
    assert sender.sent_bytes == len(received)
    assert drain(receiver) == []


def test_a_lane_that_takes_nothing_is_given_up(pair: tuple[socket.socket, socket.socket]) -> None:
    sender = lane(pair[0], limit=1000)
    sender.queue([b"x" * 1000])
    with pytest.raises(LinkError, match="1001 bytes wait"):
        sender.queue([b"y"])


def test_a_lane_says_that_the_peer_is_gone_after_all_that_it_said(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = Link(_connected(pair[0]), 1000, 0.0), lane(pair[1])
    sender.send(TimeoutNow(1))
    sender.control.flush()
    pair[0].close()
    assert drain(receiver) == [TimeoutNow(1)]
    with pytest.raises(LinkError, match="the peer closed the connection"):
        drain(receiver)


def test_a_lane_refuses_nonsense(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].send(b"\xff" * 100)
    with pytest.raises(ProtocolError):
        drain(lane(pair[1]))


def _connected(control: socket.socket, bulk: socket.socket | None = None) -> Connected:
    return Connected(Hello(Purpose.CONTROL, 1, 2, "b:1", "a:1", "b"), 1, control, bulk or control)


def test_entries_and_snapshots_do_not_hold_up_what_is_short(pair: tuple[socket.socket, socket.socket]) -> None:
    link = Link(_connected(*pair), 1 << 20, 0.0)
    link.send(Append(1, 0, 0, 0, 0, (Entry(1, 1, Kind.DATA, (b"x" * 1000,), 1000),)))
    link.send(Install(1, 0, 1, 1, b"", b"{}"))
    bulk = link.bulk.queued
    assert bulk > 1000
    assert link.control.queued == 0
    for message in (Append(1, 0, 0, 0, 7), TimeoutNow(1), Ping(1), Pong(1)):
        link.send(message)
    assert link.bulk.queued == bulk
    assert link.control.queued > 0


def test_the_round_trip_is_smoothed(pair: tuple[socket.socket, socket.socket]) -> None:
    link = Link(_connected(*pair), 1000, 0.0)
    link.measured(0.080)
    assert link.round_trip == 0.080
    link.measured(0.160)
    assert link.round_trip == pytest.approx(0.090)


@pytest.mark.parametrize(
    ("trips", "quorum", "to_leader", "seconds"),
    [
        ([0.0], 1, 0.0, 1.0),
        ([0.0, 0.001, 0.002], 2, 0.001, 1.0),
        ([0.0, 0.060, 0.150], 2, 0.0, 1.0),
        ([0.0, 0.150, 0.150], 2, 0.150, 1.5),
        ([0.0, 0.060, 0.150], 2, 0.150, 1.5),
        ([0.0, 0.060, 0.120, 0.150, 0.300], 3, 0.0, 1.2),
        ([0.0], 2, 0.0, 1.0),  # nobody else was heard yet
        ([0.0, 60.0, 60.0], 2, 60.0, LONGEST_SCALING * 1.0),
    ],
)
def test_election_timeouts_cover_ten_round_trips(
    trips: list[float], quorum: int, to_leader: float, seconds: float
) -> None:
    assert election_timeout(1.0, trips, quorum, to_leader) == pytest.approx(seconds)


def test_a_thread_that_takes_the_lock_again_and_again_keeps_nobody_out() -> None:
    lock = Turnstile()
    over = threading.Event()
    turns = [0, 0]

    def greedy() -> None:
        while not over.is_set():
            with lock:
                turns[0] += 1

    def patient() -> None:
        for _ in range(200):
            before = turns[0]
            with lock:
                turns[1] = max(turns[1], turns[0] - before)
        over.set()

    threads = [threading.Thread(target=greedy), threading.Thread(target=patient)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert over.is_set()


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_lane_sends_what_lies_in_a_file_between_what_does_not(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path, encrypted: bool
) -> None:
    content = np.random.default_rng(1).bytes(5_000_000)
    path = tmp_path / "file"
    path.write_bytes(content)
    file = FileHandle(path, os.O_RDONLY)
    sender = lane(pair[0], limit=16 << 20)
    sender._tls = encrypted  # bytes to be encrypted have to be read
    sender.queue([b"head", FileSlice(file, 10, 3_000_000), FileSlice(file, 3_000_010, 1_000_000)])
    sender.queue([b"middle", FileSlice(file, 0, 7), FileSlice(file, 8, 7), b"end"])
    assert sender.queued == 4_000_027
    received = b""
    while sender.queued:
        sender.flush()
        while True:
            try:
                received += pair[1].recv(1 << 20)
            except BlockingIOError:
                break
    assert received == b"head" + content[10:4_000_010] + b"middle" + content[:7] + content[8:15] + b"end"
    assert sender.sent_bytes == len(received)


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_lane_breaks_when_the_file_was_cut_meanwhile(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path, encrypted: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"short")
    sender = lane(pair[0])
    sender._tls = encrypted
    sender.queue([FileSlice(FileHandle(path, os.O_RDONLY), 3, 10)])
    with pytest.raises(OSError, match="too early"):
        sender.flush()
