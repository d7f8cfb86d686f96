"""Read access to a log that this or another process writes: state, source files, positions, cursors.

Never looks behind the watermark's visible index, so it only ever shows committed, whole transactions.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kingbus_node.binlog.constants import FIRST_POSITION
from kingbus_node.binlog.executed import ExecutedSet, executed_set
from kingbus_node.binlog.scan import PACKET_HEADER
from kingbus_node.store.catalogue import CatalogueReader, FileInfo
from kingbus_node.store.cursor import Cursor
from kingbus_node.store.durable import read_at
from kingbus_node.store.entry import CONTINUATION, HEADER_SIZE, OFFSET_MASK, Flag, Json, Kind
from kingbus_node.store.errors import (
    CorruptLogError,
    LogClosedError,
    PositionInsideEventError,
    PositionPastEndError,
    PurgedError,
    UnknownFileError,
)
from kingbus_node.store.segments import Segments, fold_stored
from kingbus_node.store.state import LogState
from kingbus_node.store.watermark import Watermark

_NUMBER = re.compile(r"\d{1,18}\Z")
_CACHED_SETS = 16


class LogReader:
    """Usable from any thread; what it returns does not change afterwards."""

    def __init__(self, directory: Path, watermark: Watermark | None = None) -> None:
        """Opens the log in `directory` for reading, which `Log.open` must have opened for writing at least once."""
        self._directory = directory
        self._watermark = Watermark.open(directory) if watermark is None else watermark
        self._segments = Segments(directory, lambda: self.visible_index, lambda: self._watermark.changes)
        self._lock = threading.Lock()
        self._state = LogState()  # folded up to where somebody last looked
        self._snapshot: LogState | None = None
        self._sets: dict[int, ExecutedSet | None] = {}  # executed at the start of a file; the oldest use comes first
        self._closed = False

    def close(self) -> None:
        """Ends the use of this object. Cursors live on until they are closed themselves."""
        with self._lock:
            self._closed = True

    @property
    def visible_index(self) -> int:
        """The last entry that may be read; cheap, for polling."""
        return self._watermark.visible_index

    @property
    def contact(self) -> int:
        """When this node was last level with a quorum (`time.monotonic_ns`), 0 for never."""
        return self._watermark.contact

    def state(self) -> LogState:
        """The sum of the visible entries: executed set, facts, current file. Shared: look, do not change."""
        with self._lock:
            self._check_open()
            visible = self._watermark.visible_index
            if self._snapshot is None or self._snapshot.index < visible:
                self._fold_to(visible)
                self._snapshot = self._state.copy()
            return self._snapshot

    def facts(self) -> dict[str, Json]:
        """What STATE entries have said: see `state.LogState.facts`."""
        return self.state().facts

    def purged(self) -> ExecutedSet | None:
        """GTIDs that were executed before the oldest retained file; None while the flavour is not known."""
        return self.state().purged

    # Source files

    def files(self) -> Iterator[FileInfo]:
        """The retained source files, oldest first, up to the current one as far as it is visible."""
        return self._files(self.state())

    def oldest_file(self) -> FileInfo | None:
        """The oldest retained source file, None if there is none yet."""
        return next(self.files(), None)

    def current_file(self) -> FileInfo | None:
        """The newest source file as far as it is visible, None if there is none yet."""
        return _current(self.state())

    def file(self, file_id: int) -> FileInfo:
        """A source file by number. PurgedError if it is older than the retained ones, UnknownFileError if newer."""
        return self._file(self.state(), file_id)

    def next_file(self, file_id: int) -> FileInfo | None:
        """The file behind `file_id`; None if that is the current one. PurgedError if it was purged."""
        state = self.state()
        return None if file_id >= state.file_id else self._file(state, file_id + 1)

    def file_by_name(self, name: str) -> FileInfo | None:
        """A retained source file by the name that replicas see; None if there is none of that name."""
        state = self.state()
        guess = _guess(state, name)
        if state.oldest_file <= guess <= state.file_id and (found := self._file(state, guess)).name == name:
            return found
        return next((info for info in self._files(state) if info.name == name), None)

    # GTIDs

    def executed_at_file_start(self, file_id: int) -> ExecutedSet | None:
        """What was executed before a source file's first event: exactly what the files before it hold, and the purged
        base.

        Folded from the log, which is the truth for what *this log* holds; the file's own PREVIOUS_GTIDS or GTID_LIST,
        which was written by the source, can hold more (transactions that were never sent to us) and, after a change of
        the source, less. Shared: look, do not change. None while the flavour is not known.
        """
        info = self.file(file_id)
        with self._lock:
            self._check_open()
            if file_id in self._sets:
                self._sets[file_id] = self._sets.pop(file_id)
                return self._sets[file_id]
        executed = self._segments.state_at(info.start_index - 1).executed
        self._remember(file_id, executed)
        return executed

    def executed_at(self, index: int) -> ExecutedSet | None:
        """What was executed when entry `index` had been; None while the flavour is not known. PurgedError."""
        return self.state_after(index).executed

    def state_after(self, index: int, earlier: LogState | None = None) -> LogState:
        """The state after entry `index`, the caller's own. PurgedError.

        `earlier`: what this gave for an entry before, which is used up. Without it the state is folded from the
        beginning of the segment, a second's work where transactions are small; with it from there.
        """
        self._check_open()
        if index + 1 < self._watermark.first_index:
            raise PurgedError(f"entry {index} was purged: the oldest retained is {self._watermark.first_index}")
        segment = self._segments.find(index + 1)
        if earlier is None or not segment.first_index <= earlier.index + 1 <= index + 1:
            earlier = segment.state_before()
        self._segments.fold(earlier, index)
        return earlier

    def newest_file_where(self, accepts: Callable[[ExecutedSet], bool]) -> FileInfo | None:
        """The newest retained source file for which ``accepts(executed at its start)``; None if there is none.

        `accepts` must hold for every file before one for which it holds (a subset test against a replica's set does),
        so that few sets are needed: one per step of a binary search over the segments, then those of one segment.
        """
        state = self.state()
        if state.flavor is None or _current(state) is None:
            return None
        first = self._file(state, state.oldest_file)
        firsts = [f for f in self._segments.firsts if first.start_index < f <= state.index]
        low, high = 0, len(firsts)  # accepted at the start of segments before `low`, not from `high` on
        while low < high:
            middle = (low + high) // 2
            executed = self._segments.open(firsts[middle]).state_before().executed
            if executed is None or accepts(executed):
                low = middle + 1
            else:
                high = middle
        # All files that start before segment low - 1 are accepted; those in it are looked at one by one.
        begin = firsts[low - 1] if low else first.start_index
        end = firsts[low] - 1 if low < len(firsts) else state.index
        best = self._last_file_before(state, begin)
        folded = self._segments.state_at(begin - 1)
        for located, segment in self._segments.entries(begin, end):
            if located.header.kind == Kind.DATA and located.header.flags & Flag.FILE_START:
                if not accepts(executed_set(state.flavor) if folded.executed is None else folded.executed):
                    break
                best = self._file(state, located.header.file_id)
            fold_stored(folded, located, segment)
        return best

    # Positions

    def locate(self, file_id: int, position: int) -> tuple[int, int]:
        """The entry and the offset in its payload of the packet that begins with the event at `position` of a source
        file.

        At the file's end: the entry behind its last one, offset 0. Errors: PurgedError, UnknownFileError,
        PositionPastEndError, PositionInsideEventError.
        """
        state = self.state()
        info = self._file(state, file_id)
        if position > info.end_pos:
            raise PositionPastEndError(info.name, position, info.end_pos)
        following = None if file_id >= state.file_id else self._file(state, file_id + 1)
        behind = state.index + 1 if following is None else following.start_index
        if position == info.end_pos:
            return behind, 0
        if position < FIRST_POSITION:
            raise PositionInsideEventError(info.name, position, 0)
        index = self._entry_at(info.start_index, behind, position)
        starts, offsets = self._events_of(index)
        at = int(np.searchsorted(starts, position, side="right")) - 1
        if at >= 0 and int(starts[at]) == position:
            return index, int(offsets[at])
        while at < 0:  # the event around the position begins in an earlier entry: it has more than one packet
            index = self._entry_at(info.start_index, index, position)
            starts, _ = self._events_of(index)
            at = len(starts) - 1
        raise PositionInsideEventError(info.name, position, int(starts[at]))

    def cursor(self, index: int, payload_start: int = 0) -> Cursor:
        """A cursor from `payload_start` bytes into entry `index`'s payload on, as `locate` gives them. PurgedError."""
        self._check_open()
        if index < self._watermark.first_index:
            raise PurgedError(f"entry {index} was purged: the oldest retained is {self._watermark.first_index}")
        return Cursor(self._segments, self._watermark, index, payload_start)

    # Inside

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosedError("the reader was closed")

    def _fold_to(self, index: int) -> None:
        """Brings the state up to `index`: from where it is, or from the newest segment's snapshot if that is nearer."""
        newest = self._segments.find(index + 1)
        if newest.first_index - 1 > self._state.index:
            self._state = newest.state_before()
        self._segments.fold(self._state, index)

    def _remember(self, file_id: int, executed: ExecutedSet | None) -> None:
        with self._lock:
            while len(self._sets) >= _CACHED_SETS:
                del self._sets[next(iter(self._sets))]
            self._sets[file_id] = executed

    def _files(self, state: LogState) -> Iterator[FileInfo]:
        current = _current(state)
        if current is None:
            return
        if state.oldest_file < current.id:
            yield from CatalogueReader(self._directory).range(state.oldest_file, current.id - 1)
        yield current

    def _file(self, state: LogState, file_id: int) -> FileInfo:
        if 0 < file_id < state.oldest_file:
            raise PurgedError(f"source file {file_id} was purged: the oldest retained is {state.oldest_file}")
        current = _current(state)
        if current is None or not 0 < file_id <= current.id:
            raise UnknownFileError(f"there is no source file {file_id}: the newest is {state.file_id}")
        return current if file_id == current.id else CatalogueReader(self._directory).get(file_id)

    def _last_file_before(self, state: LogState, index: int) -> FileInfo | None:
        """The newest retained file that starts before entry `index`."""
        low, high = state.oldest_file, state.file_id + 1
        while low < high:
            middle = (low + high) // 2
            if self._file(state, middle).start_index < index:
                low = middle + 1
            else:
                high = middle
        return self._file(state, low - 1) if low > state.oldest_file else None

    def _entry_at(self, first: int, behind: int, position: int) -> int:
        """The last entry with events, of entries `first` to ``behind - 1``, that does not begin behind `position`."""
        low, high = first, behind
        while low < high:
            middle = (low + high) // 2
            if int(self._segments.record(middle)[1][0]["start_pos"]) <= position:
                low = middle + 1
            else:
                high = middle
        for index in range(low - 1, first - 1, -1):
            record = self._segments.record(index)[1][0]
            if record["kind"] == Kind.DATA and not record["flags"] & Flag.CANCELLED and record["payload_len"]:
                return index
        return first

    def _events_of(self, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The events that begin in an entry: their positions in the source file, and their packets' offsets in the
        payload.

        By the bytes before them: their own log_pos has 32 bits only, and none within the transactions of a newer
        MariaDB (binlog_legacy_event_pos).
        """
        segment, record = self._segments.record(index)
        row = record[0]
        table_at = int(row["offset"]) + HEADER_SIZE + int(row["meta_len"])
        count = int(row["packet_count"])
        table = np.frombuffer(read_at(segment.log.fd, 4 * count, table_at), np.uint8)
        if len(table) < 4 * count:
            raise CorruptLogError(segment.log.path, table_at, f"entry {index} is cut")
        packets = table.view("<u4")
        offsets, begins = (packets & OFFSET_MASK).astype(np.int64), packets < CONTINUATION
        events = np.flatnonzero(begins)
        # What is around events: a header for each packet, and a 0x00 before each event.
        positions = int(row["start_pos"]) + offsets[events] - PACKET_HEADER * events - np.arange(len(events))
        return positions, offsets[events]


def _current(state: LogState) -> FileInfo | None:
    """The file that the log is in; None before the first one, and while the log begins behind a purged one."""
    file = state.file
    if file is None or file.id < state.oldest_file:
        return None
    return FileInfo(file.id, file.name, file.source_name, file.start_index, file.end_pos, file.closed)


def _guess(state: LogState, name: str) -> int:
    """The file that `name` would be if files were numbered without gaps: names end in a number that rises by one."""
    file, suffix = state.file, _NUMBER.search(name)
    last = None if file is None else _NUMBER.search(file.name)
    return 0 if suffix is None or last is None else state.file_id - (int(last[0]) - int(suffix[0]))
