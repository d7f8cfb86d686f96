"""What a dump tells others about how far its client is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from binlogs.captured import events
from unit.serve.binlogs import Importer

from kingbus_node.binlog.constants import Flavor
from kingbus_node.serve.channel import Channel, DisconnectedError
from kingbus_node.serve.dump import DumpSettings, run_dump
from kingbus_node.serve.facts import SessionFacts
from kingbus_node.serve.registry import Dump, Registry
from kingbus_node.store.entry import Entry, Kind
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader
from kingbus_node.wire.commands import DumpKind, DumpRequest

FILES = 40
SECONDS = 30.0


def until(condition: bool, what: str, ends: float) -> None:
    assert condition or time.monotonic() < ends, f"waited {SECONDS:g} s for {what}"
    time.sleep(0.005)


@dataclass
class Stream:
    """A dump of the whole log, in a thread, and its client's end of the connection."""

    log: Log
    reader: LogReader
    registry: Registry
    client: socket.socket

    @property
    def dump(self) -> Dump:
        ends = time.monotonic() + SECONDS
        while not self.registry.dumps():
            until(False, "the dump to begin", ends)
        return self.registry.dumps()[0]

    def wait_still(self) -> None:
        """Until the dump has not moved for a while: its client takes nothing, or it is at the end."""
        ends, seen, since = time.monotonic() + SECONDS, -1, 0.0
        while True:
            index = self.dump.index
            if index != seen:
                seen, since = index, time.monotonic()
            elif index > 1 and time.monotonic() - since > 0.3:
                return
            until(False, "the dump to stand still", ends)

    def drain(self) -> None:
        """Read until the dump is at the end of the log."""
        self.client.setblocking(False)
        ends = time.monotonic() + SECONDS
        while self.dump.index < self.log.commit_index:
            try:
                self.client.recv(1 << 20)
            except BlockingIOError:
                until(False, "the dump to come to the end", ends)


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    log = Log.open(tmp_path, segment_bytes=4096)
    importer = Importer(log, Flavor.MYSQL)
    for number in range(1, FILES + 1):
        importer.events(f"binlog.{number:06}", events("mysql-9.7.4-000001"))
    log.append([Entry(Kind.NOOP)], 1)
    log.sync()
    log.commit(log.last_index)
    reader, registry = LogReader(tmp_path), Registry()
    ours, client = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    facts = SessionFacts(1, user_variables={"source_binlog_checksum": b"CRC32"})
    channel = Channel(ours, timeout=None)
    request = DumpRequest(DumpKind.FILE, 0, 2, "binlog.000001", 4)

    def run() -> None:
        with pytest.raises(DisconnectedError):
            run_dump(request, facts, channel, reader, DumpSettings(server_id=9), registry)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield Stream(log, reader, registry, client)
    finally:
        client.close()
        thread.join(SECONDS)
        channel.close()
        log.close()


def test_at_rest_it_is_where_the_log_ends_with_what_holds_no_events(stream: Stream) -> None:
    stream.drain()
    assert stream.dump.index == stream.log.last_index
    assert stream.dump.gtid_sent() == str(stream.log.state.executed)


def test_a_slow_client_has_what_was_sent_to_it(stream: Stream) -> None:
    stream.wait_still()
    index = stream.dump.index
    assert index < stream.log.last_index
    assert stream.dump.gtid_sent() == str(stream.reader.executed_at(index))
    assert stream.dump.gtid_sent() == str(stream.reader.executed_at(index))


def test_what_was_purged_under_a_slow_client_cannot_be_told(stream: Stream) -> None:
    stream.wait_still()
    entry = stream.log.purge_entry(FILES)
    stream.log.commit(stream.log.append([entry], 1))
    assert stream.log.first_index > stream.dump.index + 1
    assert stream.dump.gtid_sent() == ""
