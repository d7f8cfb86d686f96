"""What a dump tells others about how far its client is, and where it may end."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from binlogs.captured import events
from unit.serve.binlogs import Importer

from kingbus_node.binlog.build import packetize
from kingbus_node.binlog.constants import MAX_PACKET, EventType, Flavor
from kingbus_node.binlog.scan import CONTINUATION
from kingbus_node.serve.channel import Channel, DisconnectedError
from kingbus_node.serve.dump import DumpSettings, run_dump
from kingbus_node.serve.facts import SessionFacts
from kingbus_node.serve.registry import Dump, Registry, StopReason
from kingbus_node.store.entry import NO_META, WHOLE, Entry, Kind
from kingbus_node.store.errors import StoreError
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader
from kingbus_node.wire.commands import DumpKind, DumpRequest
from kingbus_node.wire.errors import ErrorCode, MySQLError, error
from kingbus_node.wire.resultset import err_packet

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

    def read_a_little(self) -> None:
        """Until the dump has not moved for a while: its client has taken a little, and takes no more."""
        taken = 0
        while taken < 200_000:
            taken += len(self.client.recv(16384))
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


def serve_in_thread(
    request: DumpRequest, reader: LogReader, registry: Registry
) -> tuple[threading.Thread, Channel, socket.socket]:
    """A dump that a client reads, or does not; the error that ends it is sent as a session sends it."""
    ours, client = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    channel = Channel(ours, timeout=None)
    facts = SessionFacts(1, user_variables={"source_binlog_checksum": b"CRC32"})

    def run() -> None:
        try:
            run_dump(request, facts, channel, reader, DumpSettings(server_id=9), registry)
        except DisconnectedError:
            pass
        except MySQLError as refusal:
            with contextlib.suppress(DisconnectedError):  # the client may leave before it is told
                channel.send_packet(err_packet(refusal))
        except StoreError as problem:
            with contextlib.suppress(DisconnectedError):
                channel.send_packet(err_packet(error(ErrorCode.UNKNOWN_ERROR, str(problem))))
        channel.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, channel, client


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
    thread, _, client = serve_in_thread(DumpRequest(DumpKind.FILE, 0, 2, "binlog.000001", 4), reader, registry)
    try:
        yield Stream(log, reader, registry, client)
    finally:
        client.close()
        thread.join(SECONDS)
        log.close()


def test_at_rest_it_is_where_the_log_ends_with_what_holds_no_events(stream: Stream) -> None:
    stream.drain()
    assert stream.dump.index == stream.log.last_index
    assert stream.dump.gtid_sent() == str(stream.log.state.executed)


def test_a_slow_client_has_what_was_sent_to_it(stream: Stream) -> None:
    stream.read_a_little()
    index = stream.dump.index
    assert index < stream.log.last_index
    assert stream.dump.gtid_sent() == str(stream.reader.executed_at(index))
    assert stream.dump.gtid_sent() == str(stream.reader.executed_at(index))


def test_what_was_purged_under_a_slow_client_cannot_be_told(stream: Stream) -> None:
    stream.read_a_little()
    dump = stream.dump  # if it stood still before it read on, the purge ends it
    entry = stream.log.purge_entry(FILES)
    stream.log.commit(stream.log.append([entry], 1))
    assert stream.log.first_index > dump.index + 1
    assert dump.gtid_sent() == ""


@contextlib.contextmanager
def streaming(folder: Path) -> Iterator[tuple[bytes, Registry, socket.socket, bytearray]]:
    """A dump in the middle of an event of 20 MB, zero bytes behind its header; its client, and what that has got."""
    log = Log.open(folder)
    importer = Importer(log, Flavor.MYSQL)
    importer.events("binlog.000001", events("mysql-9.7.4-000001")[:2])
    log.commit(log.last_index)
    state = log.state
    position = state.end_pos
    size = 20_000_000
    event = struct.pack("<IBIIIH", 1, EventType.ROWS_QUERY, 1, size, position + size, 0) + bytes(size - 19)
    payload = packetize(event)
    packets = np.array([0, MAX_PACKET + 4], np.uint32) | np.array([0, CONTINUATION], np.uint32)
    log.append(
        [Entry(Kind.DATA, WHOLE, state.file_id, 1, position, position + size, NO_META, packets, payload, 1, 0)], 1
    )
    log.sync()
    log.commit(log.last_index)
    registry = Registry()
    request = DumpRequest(DumpKind.FILE, 0, 2, "binlog.000001", position)
    thread, _, client = serve_in_thread(request, LogReader(folder), registry)
    received = bytearray(client.recv(300))
    ends = time.monotonic() + SECONDS
    while len(received) < 1 << 20:
        received += client.recv(1 << 16)
        until(True, "the event", ends)
    try:
        yield event, registry, client, received
    finally:
        client.close()
        thread.join(SECONDS)
        log.close()


def packets_of(received: bytearray) -> tuple[list[bytes], int]:
    """The payloads, the last one as far as it is there, and how many bytes there would have to be."""
    at = 0
    found: list[bytes] = []
    while at < len(received):
        length = int.from_bytes(received[at : at + 3], "little")
        found.append(bytes(received[at + 4 : at + 4 + length]))
        at += 4 + length
    return found, at


@pytest.mark.parametrize(
    ("reason", "last"),
    [(StopReason.DUPLICATE, b"\xff\xd4\x04#HY000"), (StopReason.SHUTDOWN, b"\xfe\0\0"), (StopReason.NOT_SERVING, None)],
)
def test_nothing_is_said_in_the_middle_of_an_event(tmp_path: Path, reason: StopReason, last: bytes | None) -> None:
    with streaming(tmp_path) as (event, registry, client, received):
        for dump in registry.dumps():
            dump.request_stop(reason)
        while data := client.recv(1 << 20):
            received += data
    found, whole = packets_of(received)
    if last is None:
        assert whole > len(received), "the event was sent to its end"
        assert not any(found[-1][24:])
    else:
        assert whole == len(received)
        assert b"".join(found[-3:-1])[1:] == event
        assert found[-1].startswith(last)


def test_a_disk_that_fails_in_the_middle_of_an_event_ends_the_connection_there(tmp_path: Path) -> None:
    """What is wrong would be taken for a part of the event."""
    with streaming(tmp_path) as (_, _, client, received):
        (segment,) = tmp_path.glob("*.log")
        os.truncate(segment, 10_000_000)
        while data := client.recv(1 << 20):
            received += data
    found, whole = packets_of(received)
    assert whole > len(received)
    assert not any(found[-1][24:])
