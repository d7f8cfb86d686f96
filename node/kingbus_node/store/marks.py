"""Two small files beside the segments: how far the log is known to be durable, and Raft's term and vote.

``mark`` tells a torn tail from damage in the middle. After every fsync of the log the writer notes how far that fsync
reached, without an fsync of the note itself: when the note survives it is true, and when an older one survives, that
one is true as well. Two slots are written in turn, so a torn note leaves the one before it. Only when the log is cut
back is the note fsynced, *before* the cut: it must never claim more than there is.

``hardstate`` is replaced as a whole (temporary file, fsync, rename, fsync of the directory), so a vote is durable
before it is told.
"""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kingbus_node.store.durable import FileHandle, fdatasync, fsync_directory, read_at, write_at, write_file
from kingbus_node.store.errors import CorruptLogError
from kingbus_node.util.crc import crc32

MARK_NAME = "mark"
HARD_STATE_NAME = "hardstate"
_SLOT = struct.Struct("<IIQQQQQQ8x")  # magic, crc, sequence, segment, offset, index, term, commit index
_SLOT_MAGIC = 0x6D42424B  # "KBBm"
_SLOT_STRIDE = 4096  # each slot in a page of its own: one torn page cannot take both
_HARD = struct.Struct("<8sIIQI")  # magic, version, crc of what follows, term, length of the vote
_HARD_MAGIC = b"KINGBUSH"


class Mark(NamedTuple):
    """Everything up to entry `index` is durable: it ends at byte `offset` of segment `segment` and has term `term`.

    `commit_index` was committed when the note was made (and may be larger by now).
    """

    segment: int
    offset: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    term: int
    commit_index: int


class MarkFile:
    """The ``mark`` file, open for writing. Usable from any thread."""

    def __init__(self, directory: Path) -> None:
        path = directory / MARK_NAME
        created = not path.exists()
        self._file = FileHandle(path, os.O_RDWR | os.O_CREAT)
        if created:
            write_at(self._file.fd, [bytes(2 * _SLOT_STRIDE)], 0)  # so that a note never needs room
            fsync_directory(directory)
        self._lock = threading.Lock()
        self._sequence = 0
        self.mark: Mark | None = None
        for slot in range(2):
            found = _parse(read_at(self._file.fd, _SLOT.size, slot * _SLOT_STRIDE))
            if found is not None and found[0] > self._sequence:
                self._sequence, self.mark = found

    def write(self, mark: Mark, *, durable: bool = False) -> None:
        """Replaces the older slot; with `durable` also fsyncs it."""
        with self._lock:
            self._write(mark)
            if durable:
                fdatasync(self._file.fd)

    def note_commit(self, index: int) -> None:
        """Entries up to `index` are committed: noted as far as they are durable."""
        with self._lock:
            mark = self.mark
            if mark is not None and min(index, mark.index) > mark.commit_index:
                self._write(mark._replace(commit_index=min(index, mark.index)))

    def _write(self, mark: Mark) -> None:
        self._sequence += 1
        rest = _SLOT.pack(0, 0, self._sequence, mark.segment, mark.offset, mark.index, mark.term, mark.commit_index)[8:]
        slot = struct.pack("<II", _SLOT_MAGIC, crc32(rest)) + rest
        write_at(self._file.fd, [slot], self._sequence % 2 * _SLOT_STRIDE)
        self.mark = mark


def _parse(slot: bytes) -> tuple[int, Mark] | None:
    if len(slot) < _SLOT.size:
        return None
    magic, crc, sequence, *fields = _SLOT.unpack(slot)
    if magic != _SLOT_MAGIC or crc != crc32(slot[8:]):
        return None
    return sequence, Mark(*fields)


@dataclass(frozen=True, slots=True)
class HardState:
    """Raft's persistent state besides the log (Ongaro's dissertation, figure 3.1): the term, and our vote in it."""

    term: int = 0
    vote: str | None = None


def read_hard_state(directory: Path) -> HardState:
    """The stored term and vote; term 0 without a vote if there is no file. CorruptLogError if it is damaged."""
    path = directory / HARD_STATE_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return HardState()
    if len(data) < _HARD.size:
        raise CorruptLogError(path, 0, f"it has {len(data)} bytes, expected at least {_HARD.size}")
    magic, version, crc, term, length = _HARD.unpack_from(data)
    if magic != _HARD_MAGIC or version != 1 or crc32(data[16:]) != crc or len(data) != _HARD.size + length:
        raise CorruptLogError(path, 0, "term and vote do not match their checksum")
    return HardState(term, data[_HARD.size :].decode() or None)


def write_hard_state(directory: Path, state: HardState) -> None:
    """Replaces term and vote; durable when it returns."""
    vote = (state.vote or "").encode()
    rest = struct.pack("<QI", state.term, len(vote)) + vote
    write_file(directory / HARD_STATE_NAME, struct.pack("<8sII", _HARD_MAGIC, 1, crc32(rest)) + rest)
