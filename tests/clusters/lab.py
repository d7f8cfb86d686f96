"""Some nodes in this process, each with its log, its threads and its sockets, behind doors that a test can shut."""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kingbus_node.config import Address
from kingbus_node.raft.api import ConsensusError
from kingbus_node.raft.cluster import Cluster
from kingbus_node.raft.options import ClusterOptions
from kingbus_node.store.entry import Entry, Kind, Meta
from kingbus_node.store.log import Log

from .network import Network

PATIENCE = 120.0
"""Seconds that anything may take on a machine that does much else."""


def soon() -> float:
    """A deadline."""
    return time.monotonic() + PATIENCE


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for a condition that other threads bring about; polls, for it may be about anything."""
    deadline = soon()
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        pause.wait(0.005)


def note(text: str, size: int = 0) -> Entry:
    """An entry that says something: a fact that the next note replaces."""
    return Entry(Kind.STATE, meta=Meta(json={"note": text, "ballast": "x" * size}))


def contents(log: Log, last: int | None = None) -> list[bytes]:
    """All committed entries (up to `last`), without what each node notes for itself: how much it had not synced."""
    found, index = [], log.first_index
    last = log.commit_index if last is None else last
    while index <= last:
        data = log.entry_bytes(index, last, 4 << 20)
        at = 0
        while at < len(data):
            meta, packets, payload = struct.unpack_from("<III", data, at + 56)
            size = 80 + meta + 4 * packets + payload
            found.append(data[at + 8 : at + 76] + data[at + 80 : at + size])
            at += size
            index += 1
    return found


def notes(log: Log) -> list[str]:
    """What was noted, in order."""
    found = []
    for index in range(log.first_index, log.commit_index + 1):
        facts = log.read(index).meta.json
        if facts is not None and "note" in facts:
            found.append(str(facts["note"]))
    return found


class Node:
    """One node, which can be stopped and started again."""

    def __init__(self, lab: Lab, name: str, options: ClusterOptions) -> None:
        self.lab = lab
        self.name = name
        self.options = options
        self.address = options.address
        self.directory = lab.directory / name
        self.log: Log
        self.cluster: Cluster
        self.running = False

    def start(self) -> Node:
        """Opens the log and takes part."""
        self.log = Log.open(self.directory, segment_bytes=self.lab.segment_bytes)
        self.cluster = Cluster(self.log, self.name, self.options)
        self.lab.network.behind(self.address, "127.0.0.1", self.cluster.listens_at.port)
        self.running = True
        return self

    def stop(self) -> None:
        """Ends both."""
        if self.running:
            self.running = False
            self.cluster.close()
            self.log.close()

    @property
    def ready(self) -> bool:
        """Whether it leads, and knows everything."""
        return any(m.leader and m.address == self.address for m in self.cluster.members()) and (
            self.cluster.known_commit_index <= self.cluster.commit_index
        )


class Lab:
    """The nodes and the network."""

    def __init__(self, directory: Path, segment_bytes: int = 1 << 20) -> None:
        self.directory = directory
        self.segment_bytes = segment_bytes
        self.network = Network()
        self.nodes: dict[str, Node] = {}
        # Long enough that nobody is elected but when a test brings it about, however busy the machine is.
        self.options = ClusterOptions(listen=Address("127.0.0.1", 0), election_timeout=3.0, min_free_bytes=1 << 20)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            node.stop()
        self.network.close()

    def found(self, count: int, **changes: object) -> list[Node]:
        """That many first members, started."""
        addresses = [self.network.door() for _ in range(count)]
        return [self.add(address, addresses, **changes).start() for address in addresses]

    def add(self, address: str, founders: Sequence[str], **changes: object) -> Node:
        """A node that is not started yet."""
        name = f"node-{len(self.nodes) + 1}"
        options = replace(self.options, address=address, founders=tuple(founders), **changes)  # type: ignore[arg-type]
        node = self.nodes[address] = Node(self, name, options)
        return node

    def up(self) -> Iterator[Node]:
        """The nodes that run."""
        return (node for node in self.nodes.values() if node.running)

    def leader(self, among: Sequence[Node] | None = None) -> Node:
        """The node that leads, once one does."""
        found: list[Node] = []

        def leads() -> bool:
            nodes = [n for n in (among or list(self.up())) if n.running and n.cluster.is_leader and n.ready]
            found[:] = sorted(nodes, key=lambda n: -n.cluster.term)
            return bool(found)

        until(leads, "a leader")
        return found[0]

    def write(self, *texts: str, size: int = 0) -> Node:
        """Notes committed by whoever leads; gives that node. A note may be there twice if leaders changed meanwhile."""
        deadline = soon()
        while True:
            leader = self.leader()
            try:
                index = leader.cluster.propose([note(text, size) for text in texts])
                if leader.cluster.wait_committed(index, deadline):
                    return leader
            except ConsensusError:
                pass
            assert time.monotonic() < deadline, "nothing could be written"

    def settle(self, *nodes: Node) -> None:
        """Waits until these (or all) hold the same, committed."""
        members = list(nodes) or list(self.up())

        def same() -> bool:
            ends = {(n.log.last_index, n.log.last_term, n.cluster.commit_index) for n in members}
            return len(ends) == 1 and all(last == commit for last, _, commit in ends)

        until(same, f"the same in all logs: {[(n.name, n.log.last_index, n.cluster.commit_index) for n in members]}")

    def check_equal(self, *nodes: Node) -> None:
        """All logs (or these) hold the same bytes, each entry once."""
        members = nodes or tuple(self.up())
        self.settle(*members)
        last = min(node.log.commit_index for node in members)  # the leader may write down a name meanwhile
        logs = [contents(node.log, last) for node in members]
        assert len({zlib.crc32(b"".join(one)) for one in logs}) == 1, "the logs differ"
