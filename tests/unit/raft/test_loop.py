"""The loop's thread, where what happens to links meets what it has just been told of them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.store.samples import Source

from kingbus_node.demo.alone import lead_alone
from kingbus_node.demo.waiting import wait_until
from kingbus_node.raft.cluster import Cluster
from kingbus_node.raft.hello import Hello, Purpose
from kingbus_node.raft.loop import Loop
from kingbus_node.raft.transport import Connected
from kingbus_node.store.log import Log

PEER = "z:1"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    log = Log.open(tmp_path)
    cluster = lead_alone(log)
    yield cluster
    cluster.close()
    log.close()


class Peer:
    """One that connects, with the ends of its two connections."""

    def __init__(self, number: int) -> None:
        control, self.control = socket.socketpair()
        bulk, self.bulk = socket.socketpair()
        for one in (control, bulk):
            one.setblocking(False)
        hello = Hello(Purpose.CONTROL, number, incarnation=7, sender=PEER, receiver="alone", name="z")
        self.connected = Connected(hello, number, control, bulk)

    def close(self) -> None:
        self.control.close()
        self.bulk.close()


def linked(loop: Loop, number: int) -> bool:
    link = loop.links.get(PEER)
    return link is not None and link.number == number


def test_a_peer_may_lose_a_link_and_have_the_next_one_in_the_same_moment(cluster: Cluster) -> None:
    loop: Loop = cluster._loop
    first, second = Peer(1), Peer(2)
    try:
        loop.offer(first.connected)
        wait_until(lambda: linked(loop, 1), 30, "the first link")
        with loop.lock:  # holds the loop up in its round: it hears of both in the next one
            loop.wake()
            first.close()
            loop.offer(second.connected)
        wait_until(lambda: linked(loop, 2), 30, "the second link")
        source = Source()
        assert cluster.wait_committed(cluster.propose([source.flavor(), source.file()]), time.monotonic() + 30)
    finally:
        first.close()
        second.close()
