"""Dumps without a server around them: a log in a folder, a socket pair, a thread."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from unit.serve.binlogs import Importer

from kingbus_node.binlog.checksum import with_checksum
from kingbus_node.binlog.constants import FIRST_POSITION, Flavor
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.serve.channel import Channel, DisconnectedError
from kingbus_node.serve.dump import DumpSettings, run_dump
from kingbus_node.serve.facts import SessionFacts, UserValue
from kingbus_node.serve.registry import Dump, Registry
from kingbus_node.store.entry import Json
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader
from kingbus_node.wire.commands import DumpFlag, DumpKind, DumpRequest
from kingbus_node.wire.errors import MySQLError

SERVER_ID = 77
"""Of the node that serves."""
SECONDS = 30.0
CRC32: dict[str, UserValue] = {"source_binlog_checksum": b"CRC32"}
NONE: dict[str, UserValue] = {"master_binlog_checksum": b"NONE"}
CAPABLE: dict[str, UserValue] = {"master_binlog_checksum": b"CRC32", "mariadb_slave_capability": 4}

_FULL = 0xFFFFFF


def at(
    position: int = FIRST_POSITION, file: str = "", flags: int = DumpFlag.NON_BLOCK, server_id: int = 5
) -> DumpRequest:
    """COM_BINLOG_DUMP."""
    return DumpRequest(DumpKind.FILE, flags, server_id, file, position)


def beyond(
    held: GtidSet | str | bytes, flags: int = DumpFlag.NON_BLOCK, file: str = "", position: int = FIRST_POSITION
) -> DumpRequest:
    """COM_BINLOG_DUMP_GTID of a replica that has `held` (bytes: as they are)."""
    if isinstance(held, str):
        held = GtidSet.parse(held)
    return DumpRequest(DumpKind.GTID, flags, 5, file, position, held if isinstance(held, bytes) else held.encode())


def placed(events: Sequence[bytes], start: int = FIRST_POSITION, *, checksum: bool = True) -> list[bytes]:
    """Events with the positions that they have when they follow one another in a file, from `start` on."""
    out = []
    for event in events:
        start += len(event)
        moved = event[:13] + struct.pack("<I", start & 0xFFFFFFFF) + event[17:]
        out.append(with_checksum(moved[:-4]) if checksum else moved)
    return out


def names(count: int) -> list[str]:
    """File names."""
    return [f"binlog.{number:06}" for number in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a dump sent. events: without the status byte. sequences: of every packet. end: the last packet if it is no
    event. error: what run_dump raised for the client.
    """

    events: list[bytes]
    sequences: list[int]
    end: bytes | None
    error: MySQLError | None

    @property
    def types(self) -> list[int]:
        return [event[4] for event in self.events]

    @property
    def message(self) -> str:
        """The refusal's text."""
        assert self.error is not None, f"the dump was not refused: {len(self.events)} events, end {self.end!r}"
        return self.error.message


@dataclass
class Client:
    """The client's end of a dump that goes on."""

    sock: socket.socket
    registry: Registry
    thread: threading.Thread
    raised: list[BaseException] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)

    def packet(self) -> bytes | None:
        """The next payload, joined; None at the end of the stream."""
        payload = b""
        while True:
            header = self._exactly(4)
            if header is None:
                return None
            size = int.from_bytes(header[:3], "little")
            part = self._exactly(size)
            if part is None:
                return None
            self.sequences.append(header[3])
            payload += part
            if size < _FULL:
                return payload

    def event(self) -> bytes:
        """The next event."""
        payload = self.packet()
        assert payload is not None, f"the stream has ended: {self.raised}"
        assert payload[0] == 0, payload
        return payload[1:]

    def events(self, count: int) -> list[bytes]:
        """The next events."""
        return [self.event() for _ in range(count)]

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        self.sock.settimeout(seconds)
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(SECONDS)

    @property
    def dump(self) -> Dump:
        """How the node sees the stream."""
        (dump,) = self.registry.dumps()
        return dump

    def leave(self) -> None:
        """Close the connection, as a replica that is stopped does."""
        self.sock.close()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive(), "the dump goes on without a client"

    def ended(self) -> BaseException | None:
        """What the dump ended with, once it has."""
        self.thread.join(SECONDS)
        assert not self.thread.is_alive(), "the dump goes on"
        return self.raised[0] if self.raised else None

    def _exactly(self, size: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            got = self.sock.recv(min(size - len(parts), 1 << 20))
            if not got:
                return None
            parts += got
        return bytes(parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()


class Served:
    """A log that is filled from files and asked for dumps."""

    def __init__(
        self,
        folder: Path,
        flavor: Flavor,
        *,
        target: int = 1 << 20,
        segment_bytes: int = 1 << 27,
        facts: dict[str, Json] | None = None,
    ) -> None:
        """`target`: payload bytes of an entry."""
        self.flavor = flavor
        self.log = Log.open(folder, segment_bytes=segment_bytes)
        self.importer = Importer(self.log, flavor, target=target, facts=facts)
        self.reader = LogReader(folder)
        self.settings = DumpSettings(SERVER_ID, patience=0.0)
        self.registry = Registry(on_add=lambda _: None)
        self._connections = 0

    def close(self) -> None:
        self.reader.close()
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def with_block(self, size: int) -> Self:
        """Dumps from now on read so many bytes at a time."""
        self.settings = replace(self.settings, block_bytes=size)
        return self

    def start(self, request: DumpRequest, variables: dict[str, UserValue] | None = None) -> Client:
        """Begin a dump in a thread of its own."""
        ours, theirs = socket.socketpair()
        theirs.settimeout(SECONDS)
        self._connections += 1
        variables = (CRC32 if self.flavor is Flavor.MYSQL else CAPABLE) if variables is None else variables
        facts = SessionFacts(self._connections, user_variables=dict(variables))
        channel = Channel(ours, timeout=None)
        channel.sequence = 1
        client = Client(theirs, self.registry, threading.Thread())

        def run() -> None:
            try:
                run_dump(request, facts, channel, self.reader, self.settings, self.registry)
            except (MySQLError, DisconnectedError) as error:
                client.raised.append(error)
                if isinstance(error, MySQLError):
                    with contextlib.suppress(DisconnectedError):  # the client may leave before it is told
                        channel.send_packet(b"\xff" + struct.pack("<H", error.code))
            finally:
                channel.close()

        client.thread = threading.Thread(target=run, daemon=True)
        client.thread.start()
        return client

    def ask(self, request: DumpRequest, variables: dict[str, UserValue] | None = None) -> Answer:
        """A dump that ends by itself, to its end."""
        client = self.start(request, variables)
        events: list[bytes] = []
        end: bytes | None = None
        with client:
            while (payload := client.packet()) is not None:
                if payload[0] == 0:
                    events.append(payload[1:])
                else:
                    end = payload
            error = client.ended()
        assert error is None or isinstance(error, MySQLError), error
        return Answer(events, client.sequences, end, error)
