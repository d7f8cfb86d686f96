"""Segments as files, from one node's log to another's: what may be copied, and how a copy becomes a log.

What may be copied are segments that are sealed and wholly committed: they never change again, and every node's log
holds the same entries. Their copies gather in the folder ``incoming`` of the log that lacks them. Each is verified as a
whole - header, every entry's checksums, indexes, terms, and that the segment behind begins with the state that this one
ends in - before it gets its name there, so whatever has a name is good after a crash, and half a file is gone on with.
When all are there, the folder is opened as a log of its own, which makes indexes and catalogue; then `Log.adopt` puts
it in the place of the log around it (`adoption`).

A copy counts as written to when the original was: retention by age goes by it, and would begin anew with each new disk.

Bytes move between nodes elsewhere; here are files only.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from kingbus_node.store.adoption import INCOMING
from kingbus_node.store.durable import FileHandle, fdatasync, fsync_directory, read_at, write_at
from kingbus_node.store.entry import Json
from kingbus_node.store.errors import CorruptLogError, FormatVersionError, LogFullError, PurgedError, StoreError
from kingbus_node.store.log import Log
from kingbus_node.store.recovery import verify_entries
from kingbus_node.store.segment import list_segments, log_path, read_header
from kingbus_node.store.segments import Segments, state_of
from kingbus_node.store.state import LogState

MENDING = "mending"
"""The folder for segments that take the place of damaged ones."""
_PART = ".part"


class CopyError(StoreError):
    """What was copied is not what was offered. It was removed; nothing else was changed."""


@dataclass(frozen=True, slots=True)
class SegmentOffer:
    """A segment that may be copied: its first and last entry, and the bytes of its ``.log``.

    age: whole seconds since it was written to, None if that is not known. The same segment has others elsewhere.
    """

    first_index: int
    last_index: int
    size: int
    age: int | None = field(default=None, compare=False)

    def to_json(self, *, age: bool = False) -> list[Json]:
        """For the wire; with its `age` for who knows what that is."""
        known = [self.age] if age and self.age is not None else []
        return [self.first_index, self.last_index, self.size, *known]

    @classmethod
    def from_json(cls, value: Json) -> SegmentOffer:
        """The inverse. ValueError."""
        match value:
            case [int(first), int(last), int(size)] if 0 < first <= last and size > 0:
                return cls(first, last, size)
            case [int(first), int(last), int(size), int(age)] if 0 < first <= last and size > 0 and 0 <= age < 1 << 32:
                return cls(first, last, size, age)
        raise ValueError(f"{value!r} offers no segment")


def offers(log: Log) -> list[SegmentOffer]:
    """What may be copied of a log: sealed, wholly committed segments without a gap, the oldest first."""
    commit_index, now = log.commit_index, time.time()
    return [
        SegmentOffer(file.first_index, file.last_index, file.size, max(0, int(now - file.modified)))
        for file in log.segment_files()
        if file.last_index is not None and file.last_index <= commit_index
    ]


class SegmentReader:
    """A segment that is being sent. It can be read to its end even when it is purged meanwhile. PurgedError."""

    def __init__(self, directory: Path, first_index: int) -> None:
        try:
            self._file = FileHandle(log_path(directory, first_index), os.O_RDONLY)
        except FileNotFoundError as error:
            raise PurgedError(f"the segment of entry {first_index} was purged") from error
        self.size = self._file.size()

    def read(self, offset: int, max_bytes: int) -> bytes:
        """Bytes from `offset` on; fewer than `max_bytes` only at the end."""
        return read_at(self._file.fd, max_bytes, offset)


@dataclass(frozen=True, slots=True)
class Staged:
    """A log that was copied whole, ready to be adopted: the folder, its first entry, its segments' first entries, and
    the state after its last entry.
    """

    directory: Path
    firsts: Sequence[int]
    state: LogState


class Intake:
    """The receiving side, for one thread: takes what was offered, segment by segment."""

    def __init__(self, log_directory: Path, wanted: Sequence[SegmentOffer], folder: str = INCOMING) -> None:
        """What an earlier attempt left in the folder is kept where it is of use. OSError; CopyError if the offers have
        a gap.
        """
        for one, following in pairwise(wanted):
            if following.first_index != one.last_index + 1:
                raise CopyError(f"entry {one.last_index + 1} is in no segment that was offered")
        self._begun = time.time()  # when the offers' ages were true
        self._directory = log_directory / folder
        self._wanted = {offer.first_index: offer for offer in wanted}
        self._part: FileHandle | None = None
        self._directory.mkdir(exist_ok=True)
        keep = {log_path(self._directory, first): offer for first, offer in self._wanted.items()}
        keep |= {path.with_suffix(_PART): offer for path, offer in keep.items()}
        for path in self._directory.iterdir():
            offer = keep.get(path)
            size = path.stat().st_size
            if offer is None or size > offer.size or (path.suffix != _PART and size != offer.size):
                path.unlink()
        fsync_directory(self._directory)

    @property
    def total_bytes(self) -> int:
        """Of all that was offered."""
        return sum(offer.size for offer in self._wanted.values())

    @property
    def done_bytes(self) -> int:
        """Of which so much is here."""
        return sum(path.stat().st_size for path in self._directory.iterdir() if path.suffix in (".log", _PART))

    def next(self) -> tuple[SegmentOffer, int] | None:
        """The segment that is needed next, and from which byte on; None when all are here."""
        held = set(list_segments(self._directory))
        for first, offer in sorted(self._wanted.items()):
            if first not in held:
                part = log_path(self._directory, first).with_suffix(_PART)
                return offer, part.stat().st_size if part.exists() else 0
        return None

    def write(self, offer: SegmentOffer, offset: int, data: bytes | memoryview) -> None:
        """Takes bytes of a segment. OSError."""
        path = log_path(self._directory, offer.first_index).with_suffix(_PART)
        if self._part is None or self._part.path != path:
            self._part = FileHandle(path, os.O_RDWR | os.O_CREAT)
        if offset + len(data) > offer.size:
            raise CopyError(f"more than the {offer.size} bytes of segment {offer.first_index} came")
        write_at(self._part.fd, [data], offset)

    def finish(self, offer: SegmentOffer) -> None:
        """A segment is complete: verifies it, and makes it durable. CopyError, with the segment removed; OSError."""
        path = log_path(self._directory, offer.first_index)
        part = path.with_suffix(_PART)
        self._part = None
        file = FileHandle(part, os.O_RDWR)
        try:
            self._verify(file, offer)
        except (CorruptLogError, FormatVersionError, CopyError) as error:
            part.unlink()
            raise CopyError(f"segment {offer.first_index} did not arrive whole: {error}") from error
        if offer.age is not None:
            written = self._begun - offer.age
            os.utime(file.fd, (written, written))
        fdatasync(file.fd)
        part.rename(path)
        fsync_directory(self._directory)

    def _verify(self, file: FileHandle, offer: SegmentOffer) -> None:
        header = read_header(file, offer.first_index)
        state_of(header, file.path)
        end, last, problem = verify_entries(file, header.data_start, offer.first_index - 1, file.size())
        if problem is not None or file.size() != offer.size or last != offer.last_index:
            raise CopyError(
                f"{problem or 'it ends'} at byte {end} of {offer.size}, behind entry {last} of {offer.last_index}"
            )

    def mend(self, log: Log) -> None:
        """All segments are here: each takes the place of the log's own. StoreError, OSError."""
        for first in list_segments(self._directory):
            log.replace_segment(first, log_path(self._directory, first))
        shutil.rmtree(self._directory)

    def complete(self, segment_bytes: int) -> Staged:
        """All segments are here: makes a log of them. CopyError, with everything removed, if they are none;
        LogFullError, with what was copied kept; OSError.
        """
        try:
            return self._complete(segment_bytes)
        except (CorruptLogError, FormatVersionError) as error:
            shutil.rmtree(self._directory)
            raise CopyError(f"the segments that were copied make no log: {error}") from error

    def _complete(self, segment_bytes: int) -> Staged:
        firsts = list_segments(self._directory)
        log = Log.open(self._directory, segment_bytes=segment_bytes)
        try:
            segments = Segments(self._directory, lambda: log.commit_index)
            for first in firsts[1:]:
                _commit(log, first - 1)
                if log.state.to_json() != segments.open(first).state_before().to_json():
                    path = log_path(self._directory, first)
                    raise CorruptLogError(path, 64, "it does not continue the segment before it")
            _commit(log, self._wanted[firsts[-1]].last_index)
            return Staged(self._directory, firsts, log.state.copy())
        finally:
            log.close()


def _commit(log: Log, index: int) -> None:
    """With all that follows from it: the log is adopted with its catalogue."""
    log.commit(index)
    if log.commit_index < index:
        raise LogFullError(f"there is no room in {log.directory} for what belongs to the segments that were copied")
