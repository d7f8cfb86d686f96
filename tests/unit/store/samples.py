"""Entries as a source would make them: events of chosen sizes, packets, positions, GTIDs."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import settings

from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.store.entry import CONTINUATION, WHOLE, Entry, Flag, Kind, Meta, SourceFile
from kingbus_node.store.log import Log

UUID = "11111111-2222-3333-4444-555555555555"
MAX_PACKET = 0xFFFFFF


def event(position: int, size: int, fill: bytes = b"x") -> bytes:
    """An event of `size` bytes that begins at `position` of its file."""
    header = struct.pack("<IBIIIH", 1_700_000_000, 30, 1, size, (position + size) & 0xFFFFFFFF, 0)
    return header + fill * (size - len(header))


def packets_of(body: bytes) -> list[bytes]:
    """An event as MySQL packets, split as the protocol does."""
    payload = b"\0" + body
    pieces = [payload[at : at + MAX_PACKET] for at in range(0, len(payload) + 1, MAX_PACKET)]
    if len(pieces) > 1 and len(pieces[-2]) < MAX_PACKET:
        pieces.pop()
    return [struct.pack("<I", len(piece))[:3] + b"\0" + piece for piece in pieces]


class Source:
    """Makes the entries of one source: keeps file, position and transaction number."""

    def __init__(self) -> None:
        self.file_id = 0
        self.position = 4
        self.number = 0

    def flavor(self) -> Entry:
        """The STATE entry that every log begins with."""
        return Entry(Kind.STATE, meta=Meta(json={"flavor": "mysql", "source_version": "9.7.4"}))

    def file(self, name: str | None = None) -> Entry:
        """Begins the next file, with the events that head it."""
        self.file_id += 1
        self.position = 4
        name = f"binlog.{self.file_id:06}" if name is None else name
        return self._data([123, 71], WHOLE | Flag.FILE_START, file=SourceFile(name, name))

    def transaction(self, sizes: Sequence[int] = (79, 60, 31)) -> Entry:
        """A whole transaction."""
        self.number += 1
        return self._data(sizes, WHOLE, gtids=f"{UUID}:{self.number}")

    def fragment(self, sizes: Sequence[int] = (100, 200), *, first: bool = False, last: bool = False) -> Entry:
        """A part of a transaction."""
        if last:
            self.number += 1
        flags = (Flag.FIRST if first else 0) | (Flag.LAST if last else 0)
        return self._data(sizes, flags, gtids=f"{UUID}:{self.number}" if last else "")

    def end_of_file(self) -> Entry:
        """The ROTATE event that closes the file."""
        return self._data([48], WHOLE | Flag.FILE_END)

    def _data(self, sizes: Sequence[int], flags: int, *, gtids: str = "", file: SourceFile | None = None) -> Entry:
        start = self.position
        payload = bytearray()
        packets: list[int] = []
        for size in sizes:
            fill = bytes([97 + (self.position + size) % 26])
            for number, packet in enumerate(packets_of(event(self.position, size, fill))):
                packets.append(len(payload) | (CONTINUATION if number else 0))
                payload += packet
            self.position += size
        meta = Meta(GtidSet.parse(gtids).encode() if gtids else b"", file)
        table = np.array(packets, np.uint32)
        ended = 1 if gtids else 0
        stamp = 1_700_000_000 + self.number
        return Entry(
            Kind.DATA,
            flags,
            self.file_id,
            stamp,
            start,
            self.position,
            meta,
            table,
            bytes(payload),
            len(sizes),
            ended,
        )


CANCEL = Entry(Kind.CANCEL)
NOOP = Entry(Kind.NOOP)


def write(log: Log, *entries: Entry, term: int = 1) -> int:
    """Appends, syncs and commits."""
    last = log.append(entries, term)
    log.sync()
    log.commit(last)
    return last


def started(directory: Path, *, segment_bytes: int = 1 << 20, transactions: int = 0) -> tuple[Log, Source]:
    """A new log in its first source file, with so many transactions in it, one to an entry."""
    log, source = Log.open(directory, segment_bytes=segment_bytes), Source()
    write(log, source.flavor(), source.file(), *(source.transaction() for _ in range(transactions)))
    return log, source


def executed(last: int) -> str:
    """The set of the first `last` transactions, as text."""
    return "" if last == 0 else f"{UUID}:1" if last == 1 else f"{UUID}:1-{last}"


def examples(share: int) -> settings:
    """Fewer examples than the profile asks for, for property tests that make a whole log for each."""
    return settings(max_examples=max(1, settings().max_examples // share))
