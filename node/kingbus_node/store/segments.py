"""The segments of a directory, opened for reading: shared by the writer's own reads, the readers and recovery."""

from __future__ import annotations

import logging
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from kingbus_node.store.durable import FileHandle
from kingbus_node.store.entry import Flag, Kind, Meta
from kingbus_node.store.errors import (
    BeingReplacedError,
    CorruptLogError,
    InvalidEntryError,
    PurgedError,
    StoreError,
)
from kingbus_node.store.index import RECORD, RECORD_SIZE, Records, intact, read_records, seal
from kingbus_node.store.segment import Located, SegmentHeader, index_path, list_segments, log_path, read_header, walk
from kingbus_node.store.state import LogState

logger = logging.getLogger(__name__)

_CHUNK = 4096  # index records handled at once
_KEEP_OPEN = 4
_CHANGE_SECONDS = 10.0  # how long a log may take to be replaced by another
_CHANGE_LOOK = 0.001


def _never() -> int:
    return 0


class Segment:
    """One segment, opened for reading. Stays readable after a purge, for as long as somebody holds it."""

    __slots__ = ("first_index", "index", "log", "rebuilt", "rebuilt_to")

    def __init__(self, directory: Path, first_index: int) -> None:
        self.first_index = first_index
        self.log = FileHandle(log_path(directory, first_index), os.O_RDONLY)
        self.index = FileHandle(index_path(directory, first_index), os.O_RDONLY)
        self.rebuilt: Records | None = None  # when the .idx turned out to be damaged
        self.rebuilt_to = 0  # what was committed then: up to there the rebuilt records are final

    def header(self) -> SegmentHeader:
        """The header block, verified."""
        return read_header(self.log, self.first_index)

    def state_before(self) -> LogState:
        """The state before the segment's first entry."""
        return state_of(self.header(), self.log.path)


def state_of(header: SegmentHeader, path: Path) -> LogState:
    """The state in a segment's header."""
    try:
        state = LogState.from_json(header.snapshot)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CorruptLogError(path, 64, f"the snapshot in the header makes no sense: {error!r}") from error
    if state.index != header.first_index - 1:
        raise CorruptLogError(path, 64, f"the snapshot is of entry {state.index}, expected {header.first_index - 1}")
    return state


class Segments:
    """Which segments there are. Usable from any thread.

    `committed` tells the last entry that is known here to be committed: a CANCEL counts up to there. `changes`, for
    readers beside the writer, tells when another log has taken this one's place: see `Watermark.changes`.
    """

    def __init__(self, directory: Path, committed: Callable[[], int], changes: Callable[[], int] = _never) -> None:
        self.directory = directory
        self.committed = committed
        self._changes = changes
        self._seen_changes = changes()
        self._lock = threading.Lock()
        self._firsts = list_segments(directory)
        self._opened: dict[int, Segment] = {}  # the longest unused comes first

    @property
    def firsts(self) -> list[int]:
        """First indexes, rising."""
        with self._lock:
            return list(self._firsts)

    @property
    def oldest(self) -> int:
        """The first entry of the oldest segment; 1 while there is none."""
        with self._lock:
            return self._firsts[0] if self._firsts else 1

    @property
    def newest(self) -> int:
        """The first index of the newest segment; 0 while there is none."""
        with self._lock:
            return self._firsts[-1] if self._firsts else 0

    def renew(self) -> None:
        """Forgets what it knows if another log has taken this one's place; waits for that to be over.

        BeingReplacedError when it takes long, from everything that opens a segment.
        """
        changes = self._changes()
        if changes == self._seen_changes:
            return
        deadline = time.monotonic() + _CHANGE_SECONDS
        while changes % 2:
            if time.monotonic() > deadline:
                raise BeingReplacedError("another log takes the place of this one")
            time.sleep(_CHANGE_LOOK)
            changes = self._changes()
        firsts = list_segments(self.directory)
        with self._lock:
            self._firsts = firsts
            self._opened.clear()
            self._seen_changes = changes

    def forget_all(self) -> None:
        """Other files have taken the place of those that were here."""
        firsts = list_segments(self.directory)
        with self._lock:
            self._firsts = firsts
            self._opened.clear()

    def refresh(self) -> None:
        """Reads the directory again."""
        firsts = list_segments(self.directory)
        with self._lock:
            self._firsts = firsts
            for gone in self._opened.keys() - set(firsts):
                del self._opened[gone]

    def add(self, first_index: int) -> None:
        """A new newest segment."""
        with self._lock:
            self._firsts.append(first_index)

    def remove(self, first_index: int) -> None:
        """A segment that is about to be unlinked."""
        with self._lock:
            self._firsts.remove(first_index)
            self._opened.pop(first_index, None)

    def forget(self, first_index: int) -> None:
        """A segment was cut: what is known of its content is not true any more."""
        with self._lock:
            self._opened.pop(first_index, None)

    def containing(self, index: int) -> int:
        """First index of the segment that holds entry `index`, or would. PurgedError if it is older than all."""
        with self._lock:
            at = bisect_right(self._firsts, index)
            if at == 0:
                raise PurgedError(
                    f"entry {index} was purged: the oldest retained is {self._firsts[0] if self._firsts else 1}"
                )
            return self._firsts[at - 1]

    def after(self, first_index: int) -> int | None:
        """First index of the segment behind the one that begins at `first_index`; None if that is the newest."""
        with self._lock:
            at = bisect_right(self._firsts, first_index)
            return self._firsts[at] if at < len(self._firsts) else None

    def open(self, first_index: int) -> Segment:
        """A segment, open for reading. PurgedError if it is gone."""
        self.renew()
        with self._lock:
            segment = self._opened.pop(first_index, None)
            if segment is not None:
                self._opened[first_index] = segment
                return segment
        try:
            segment = Segment(self.directory, first_index)
        except FileNotFoundError as error:
            raise PurgedError(f"the segment of entry {first_index} was purged") from error
        with self._lock:
            while len(self._opened) >= _KEEP_OPEN:
                del self._opened[next(iter(self._opened))]
            self._opened[first_index] = segment
        return segment

    def find(self, index: int) -> Segment:
        """The segment that holds entry `index`, or would; looks at the directory when it may have a newer one."""
        self.renew()
        first = self.containing(index)
        newest = self.after(first) is None
        try:
            segment = self.open(first)
        except PurgedError:
            if not newest:
                raise
        else:
            if not newest or (index - first) * RECORD_SIZE < segment.index.size():
                return segment
        # What was the newest one when this object last looked may be followed by others now, or even be gone.
        self.refresh()
        return self.open(self.containing(index))

    def records(self, segment: Segment, index: int, count: int, limit: int) -> Records:
        """Up to `count` records from entry `index` of one segment, none behind entry `limit`: fewer only at the
        segment's end.

        A damaged ``.idx`` is noticed and replaced, in memory, by what the ``.log`` says.
        """
        count = min(count, limit - index + 1)
        if count <= 0:
            return np.empty(0, RECORD)
        if segment.rebuilt is None:
            found = read_records(segment.index, index - segment.first_index, count)
            if intact(found, index) and (len(found) == count or self._ends(segment, index + len(found))):
                return found
            if index < self.oldest:
                raise PurgedError(f"entry {index} was purged: the oldest retained is {self.oldest}")
            logger.warning(
                "%s is damaged: using the log itself; restarting the node writes it again", segment.index.path
            )
        rebuilt, start = segment.rebuilt, index - segment.first_index
        if rebuilt is None or segment.rebuilt_to < index + count - 1:
            segment.rebuilt_to = self.committed()
            rebuilt = segment.rebuilt = rebuild_index(self, segment)
        return rebuilt[start : start + count]

    def _ends(self, segment: Segment, index: int) -> bool:
        """Whether the segment ends before entry `index`: another one begins with it, or did before a purge."""
        if self.after(segment.first_index) is None:
            self.refresh()
        return self.after(segment.first_index) == index or segment.first_index < self.oldest

    def record(self, index: int) -> tuple[Segment, Records]:
        """The segment and the record (an array of one) of an entry that exists."""
        segment = self.find(index)
        found = self.records(segment, index, 1, index)
        if not len(found):
            raise StoreError(f"there is no entry {index}")
        return segment, found

    def entries(self, first: int, last: int) -> Iterator[tuple[Located, Segment]]:
        """Headers and metas of entries `first` to `last`, which must exist. CorruptLogError where one does not read."""
        index = first
        while index <= last:
            segment, record = self.record(index)
            following = self.after(segment.first_index)
            stop = last + 1 if following is None else min(following, last + 1)
            for located in walk(segment.log, int(record[0]["offset"]), index, segment.log.size()):
                if isinstance(located, str):
                    raise CorruptLogError(
                        segment.log.path, int(record[0]["offset"]), f"entry {index} or one behind it: {located}"
                    )
                yield located, segment
                index += 1
                if index == stop:
                    break
            if index < stop:
                raise CorruptLogError(segment.log.path, segment.log.size(), f"the file ends before entry {index}")

    def state_at(self, index: int) -> LogState:
        """The state after entry `index`, folded from the snapshot of the segment that holds the entry behind it."""
        segment = self.find(index + 1)
        state = segment.state_before()
        self.fold(state, index)
        return state

    def fold(self, state: LogState, index: int) -> None:
        """Brings a state up to entry `index`. CorruptLogError if an entry does not follow what it was folded from."""
        for located, segment in self.entries(state.index + 1, index):
            fold_stored(state, located, segment)


def fold_stored(state: LogState, located: Located, segment: Segment) -> Meta:
    """Folds an entry that is in the log, so it was in order once; gives its meta. CorruptLogError."""
    try:
        meta = Meta.decode(located.meta)
        state.fold(located.header, meta)
    except InvalidEntryError as error:
        raise CorruptLogError(segment.log.path, located.offset, str(error)) from error
    return meta


def derive_record(located: Located, state: LogState) -> tuple[int, ...]:
    """One index record, in field order; `state` is the state after the entry. The check word is left 0."""
    h = located.header
    position = (h.file_id, h.start_pos, h.end_pos, h.timestamp)
    if h.kind != Kind.DATA:
        position = (state.file_id, state.end_pos, state.end_pos, state.timestamp)
    file_id, start_pos, end_pos, timestamp = position
    flags = h.flags & ~Flag.CANCELLED
    lengths = (h.meta_len, h.packet_count, h.payload_len)
    return (h.index, h.term, located.offset, *lengths, file_id, start_pos, end_pos, timestamp, h.kind, flags, 0)


def mark_cancelled(records: Records, first: int, last: int, position: int) -> None:
    """Marks those of `records` that are of entries `first` to `last` as cancelled, in place."""
    if not len(records):
        return
    start = int(records[0]["index"])
    part = records[max(0, first - start) : max(0, last + 1 - start)]
    part["flags"] |= np.uint8(Flag.CANCELLED)
    part["start_pos"] = position
    part["end_pos"] = position
    seal(part)


def rebuild_index(segments: Segments, segment: Segment) -> Records:
    """The records of a segment's entries, derived again from the ``.log``, with the cancellations that are committed.

    Ends with the segment, or before the first entry that does not read when it is the newest one (it is being written).
    """
    header, limit = segment.header(), segments.committed()
    state = state_of(header, segment.log.path)
    following = segments.after(segment.first_index)
    chunks: list[Records] = []
    rows: list[tuple[int, ...]] = []
    cancels: list[tuple[int, int, int]] = []
    for located in walk(segment.log, header.data_start, segment.first_index, segment.log.size()):
        if isinstance(located, str):
            break
        before = (state.open_index, state.open_pos)
        fold_stored(state, located, segment)
        rows.append(derive_record(located, state))
        if located.header.kind == Kind.CANCEL and before[0] is not None and located.header.index <= limit:
            cancels.append((before[0], located.header.index, before[1]))
        if len(rows) == _CHUNK:
            chunks.append(np.array(rows, RECORD))
            rows.clear()
    chunks.append(np.array(rows, RECORD))
    records = seal(np.concatenate(chunks))
    if following is not None and state.index != following - 1:
        raise CorruptLogError(
            segment.log.path, segment.log.size(), f"it ends with entry {state.index}, expected {following - 1}"
        )
    if state.open_index is not None and state.index < limit:
        end = _cancel_of(segments, state, limit)
        if end is not None:
            cancels.append((state.open_index, end, state.open_pos))
    for first, last, position in cancels:
        mark_cancelled(records, first, last, position)
    return records


def _cancel_of(segments: Segments, state: LogState, limit: int) -> int | None:
    """The CANCEL, behind the state's entry and not behind `limit`, of the transaction that is open there."""
    for located, _ in segments.entries(state.index + 1, limit):
        if located.header.kind == Kind.CANCEL:
            return located.header.index
        if located.header.kind == Kind.DATA and located.header.flags & Flag.LAST:
            return None
    return None
