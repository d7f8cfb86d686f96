"""The log's one writer: append, sync, commit, cut, purge.

The order on the way of an entry is: append (bytes in the files, nothing promised) → sync (durable here) → commit (the
caller's consensus says so: state folded, cancelled entries marked, catalogue updated) → watermark published (readers
may see it). `append` and `sync` may run in different threads, so that one fsync covers all that was appended meanwhile;
`commit` may run in a third.

Two states are kept: `state` is folded over committed entries; a second one over all of them, which checks every entry
before it is written and is the snapshot in the header of the next segment.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kingbus_node.binlog.constants import Buffer
from kingbus_node.store import durable
from kingbus_node.store.active import ActiveSegment
from kingbus_node.store.adoption import begin_adoption, finish_adoption
from kingbus_node.store.catalogue import Catalogue, CatalogueReader
from kingbus_node.store.commits import Commits
from kingbus_node.store.durable import FileHandle, FileSlice, fsync_directory, read_at
from kingbus_node.store.entry import Entry, Kind, Meta, Stored, decode, parse, prepare
from kingbus_node.store.errors import (
    CorruptLogError,
    InvalidEntryError,
    LogClosedError,
    LogFailedError,
    LogFullError,
    LogLockedError,
    PurgedError,
    StoreError,
)
from kingbus_node.store.index import Records, end_of
from kingbus_node.store.marks import HardState, Mark, MarkFile, read_hard_state, write_hard_state
from kingbus_node.store.places import Newest, Noted, Place, recorded_places
from kingbus_node.store.recovery import recover_tail, remove_leftovers, repair_indexes
from kingbus_node.store.reset import begin_reset, finish_reset
from kingbus_node.store.segment import Located, SegmentFile, SegmentHeader, index_path, list_segments, log_path
from kingbus_node.store.segments import Segments, derive_record
from kingbus_node.store.state import LogState
from kingbus_node.store.watermark import Watermark

logger = logging.getLogger(__name__)

DEFAULT_SEGMENT_BYTES = 128 << 20
SEGMENT_ENTRIES = 32768  # bounds the work of folding a segment, when a slow source makes tiny entries
LOCK_NAME = "lock"
_TELL_SECONDS = 60.0  # between two messages about a full disk


@dataclass(frozen=True, slots=True)
class StoreStats:
    """For status and metrics: `bytes` of all segments, indexes included; `oldest_timestamp` is the source's, 0 without
    events, or if they cannot be read."""

    segments: int
    bytes: int
    free_bytes: int
    oldest_timestamp: int


class _Pending:
    """Entries of one append that are checked but not written yet."""

    def __init__(self, active: ActiveSegment) -> None:
        self.end = active.end
        self.buffers: list[Buffer] = []
        self.rows: list[tuple[int, ...]] = []
        self.noted: list[Noted] = []
        self.last_index = 0


class Log:
    """The log of one node. Made by `open`; all methods may be called from any thread."""

    def __init__(self, directory: Path, segment_bytes: int, lock: FileHandle) -> None:
        """Use `open`."""
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._lock_file = lock
        self._sync_lock = threading.Lock()  # these three are always taken in this order
        self._append_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self.mending = threading.Lock()
        """Held by who fetches a copy of a damaged segment, for as long as that takes: there is one folder for it."""
        self._failure: OSError | None = None
        self._refused = float("-inf")
        self._closed = False
        self._unreadable = ""
        self._newest = Newest()  # changed under the append lock
        self._hard_state = read_hard_state(directory)
        finish_adoption(directory)
        remove_leftovers(directory)
        finish_reset(directory)
        self._marks = MarkFile(directory)
        mark = self._marks.mark
        if not list_segments(directory):
            if mark is not None and mark.index > 0:
                raise CorruptLogError(
                    log_path(directory, mark.segment), 0, f"all segments are gone, up to entry {mark.index}"
                )
            ActiveSegment.create(directory, SegmentHeader(1, 0, LogState().to_json()))
        tail = recover_tail(directory, mark)
        self._commit_index = 0  # of which all that follows from it was done, unlike of the state's index
        self._segments = Segments(directory, lambda: self._commit_index)
        oldest = self._segments.oldest
        noted = 0 if mark is None else min(tail.last_index, mark.commit_index)
        self._commit_index = commit_index = max(oldest - 1, noted)
        repair_indexes(self._segments, tail)
        self._active = ActiveSegment(directory, tail.first_index, tail.end)
        self._last_index = self._durable_index = tail.last_index
        state = self._segments.state_at(commit_index)
        self._commits = Commits(directory, self._segments, state)
        self._visible_index = state.visible_index
        self._tail = state.copy() if commit_index == tail.last_index else self._segments.state_at(tail.last_index)
        self._watermark = Watermark.create(directory)
        self._write_mark(durably=True)
        self._drop_before(state.first_index)
        self._watermark.publish_first(self._segments.oldest)
        self._watermark.publish(state.visible_index, state.index)

    @classmethod
    def open(cls, directory: Path, *, segment_bytes: int = DEFAULT_SEGMENT_BYTES) -> Log:
        """Opens the log in a directory (made if missing), after repairing what a crash can leave.

        `commit_index` is then what is known to have been committed, which may be less than what was: with one node,
        everything that is there counts as committed and the caller says so. LogLockedError, CorruptLogError,
        FormatVersionError, OSError.
        """
        if segment_bytes < 4096:
            raise ValueError(f"segment_bytes is {segment_bytes}, expected at least 4096")
        if not directory.exists():
            directory.mkdir(parents=True)
            fsync_directory(directory.parent)
        lock = FileHandle(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise LogLockedError(f"another process has the log in {directory} open; stop it first") from None
        try:
            return cls(directory, segment_bytes, lock)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Syncs what was appended and lets go of the files. Does not raise for a log that failed before."""
        if self._closed:
            return
        with contextlib.suppress(LogFailedError, LogFullError):
            self.sync()
        with self._sync_lock, self._append_lock, self._commit_lock:
            self._closed = True
            if self._failure is None:
                with contextlib.suppress(OSError):
                    self._write_mark(durably=True)
            self._watermark.close()
            self._lock_file.close()

    # What there is

    @property
    def directory(self) -> Path:
        """Where the log's files are."""
        return self._directory

    @property
    def segment_bytes(self) -> int:
        """How long a segment may become."""
        return self._segment_bytes

    @property
    def first_index(self) -> int:
        """The oldest entry that is still here."""
        return self._segments.oldest

    @property
    def retained_index(self) -> int:
        """Where the oldest retained source file starts; what lies before goes with its segment, when that goes."""
        return max(self._commits.state.first_index, self._segments.oldest)

    @property
    def last_index(self) -> int:
        """The last entry appended; 0 for an empty log."""
        return self._last_index

    @property
    def last_term(self) -> int:
        """The term of the last entry; 0 for an empty log."""
        return self._tail.term

    @property
    def durable_index(self) -> int:
        """The last entry that an fsync here has covered."""
        return self._durable_index

    @property
    def commit_index(self) -> int:
        """The last committed entry."""
        return self._commit_index

    @property
    def visible_index(self) -> int:
        """The last committed entry after which no transaction is open."""
        return self._visible_index

    @property
    def failure(self) -> OSError | None:
        """What the disk said, once it failed; the log must be opened anew. A full disk is no failure: see
        `refused_at`.
        """
        return self._failure

    @property
    def refused_at(self) -> float:
        """When the disk had no room for a write the last time (`time.monotonic`); minus infinity for never."""
        return self._refused

    @property
    def state(self) -> LogState:
        """The sum of the committed entries. A copy that is shared by those who ask: look, do not change."""
        with self._commit_lock:
            return self._commits.snapshot()

    @property
    def tail_state(self) -> LogState:
        """The sum of all entries, committed or not: what the next entry has to follow. A copy."""
        with self._append_lock:
            return self._tail.copy()

    @property
    def hard_state(self) -> HardState:
        """Term and vote."""
        return self._hard_state

    def set_hard_state(self, term: int, vote: str | None) -> None:
        """Stores term and vote; durable when it returns. LogFullError, with the old ones in place; LogFailedError."""
        self._check_usable()
        state = HardState(term, vote)
        try:
            write_hard_state(self._directory, state)
        except OSError as error:
            raise self._refusal(error, "storing term and vote") from error
        self._hard_state = state

    def stats(self) -> StoreStats:
        """Sizes, for status and metrics."""
        disk = os.statvfs(self._directory)
        with self._commit_lock:
            first = self._commits.state.first_index
        oldest = self._oldest_timestamp(first)
        segments = self.segment_files()
        size = sum(segment.size + segment.index_size for segment in segments)
        return StoreStats(len(segments), size, disk.f_bavail * disk.f_frsize, oldest)

    def _oldest_timestamp(self, first: int) -> int:
        """Of the first event that has one, from entry `first` on; 0 for none. Damage is no reason to tell nothing of a
        node, least of all then.
        """
        try:
            for located, _ in self._segments.entries(max(first, self.first_index), min(first + 16, self.commit_index)):
                if located.header.timestamp:
                    return located.header.timestamp
        except PurgedError:
            pass  # this moment: there is another oldest one
        except (CorruptLogError, OSError) as error:
            if str(error) != self._unreadable:
                logger.warning("the oldest events cannot be read: %s", error)
            self._unreadable = str(error)
        return 0

    def segment_files(self) -> list[SegmentFile]:
        """The segments, the oldest first."""
        found: list[SegmentFile] = []
        firsts = self._segments.firsts
        for first, following in pairwise([*firsts, 0]):
            with contextlib.suppress(FileNotFoundError):  # purged this moment
                log, index = log_path(self._directory, first).stat(), index_path(self._directory, first).stat()
                last = following - 1 if following else None
                found.append(SegmentFile(first, last, log.st_size, index.st_size, log.st_mtime))
        return found

    # Reading

    def read(self, index: int) -> Entry:
        """One entry, committed or not, verified. PurgedError, CorruptLogError, StoreError if there is none."""
        self._check_usable()
        segment, record = self._segments.record(self._check_exists(index))
        offset = int(record[0]["offset"])
        data = read_at(segment.log.fd, end_of(record) - offset, offset)
        try:
            entry, _ = decode(data)
        except InvalidEntryError as error:
            raise CorruptLogError(segment.log.path, offset, str(error)) from error
        if entry.index != index:
            raise CorruptLogError(segment.log.path, offset, f"expected entry {index}, found entry {entry.index}")
        return entry

    def term_of(self, index: int) -> int:
        """The term of an entry, or of the one before the oldest. PurgedError for older ones."""
        oldest = self.first_index
        if index == oldest - 1:
            return self._segments.open(oldest).header().previous_term
        return int(self._segments.record(self._check_exists(index))[1][0]["term"])

    def entry_bytes(self, first: int, last: int, max_bytes: int) -> bytes:
        """Stored entries from `first` on, as `places` finds them. Checksums are not verified: whoever receives them
        does.
        """
        file, places = self.places(first, last, max_bytes)
        start = places[0].offset
        return bytes(FileSlice(file, start, places[-1].offset + places[-1].size - start))

    def places(self, first: int, last: int, max_bytes: int) -> tuple[FileHandle, list[Place]]:
        """Where entries from `first` on lie, one behind the other in the file: up to `last`, `max_bytes` and the
        segment's end, at least one.

        PurgedError, StoreError if there is no such entry, CorruptLogError if the file ends before.
        """
        self._check_exists(last)
        self._check_exists(first)
        newest = self._newest.places(first, last, max_bytes)
        if newest is None:
            segment, places = recorded_places(self._segments, first, last, max_bytes)
        else:
            segment, places = self._segments.open(newest[0]), newest[1]
        end = places[-1].offset + places[-1].size
        if segment.log.size() < end:
            raise CorruptLogError(segment.log.path, segment.log.size(), "the file ends inside an entry")
        return segment.log, places

    def records_from(self, index: int, last: int) -> Records:
        """Index records from entry `index` on, up to `last` and the segment's end, some thousand at most; at least one.

        PurgedError, StoreError if there is no such entry.
        """
        self._check_exists(last)
        segment, _ = self._segments.record(self._check_exists(index))
        return self._segments.records(segment, index, 4096, last)

    def state_at(self, index: int) -> LogState:
        """The sum of the entries up to `index`, from ``first_index - 1`` on. PurgedError, StoreError."""
        self._check_usable()
        if index > self._last_index:
            raise StoreError(f"there is no entry {index}: the last one is {self._last_index}")
        return self._segments.state_at(index)

    # Writing

    def append(self, entries: Iterable[Entry], term: int) -> int:
        """Writes entries behind the last one, all or none, and gives the new last index. They are not durable yet.

        InvalidEntryError if one may not follow, LogFullError if there is no room, LogFailedError if the disk fails.
        """
        return self._append((prepare(entry) for entry in entries), term)

    def append_encoded(self, data: Buffer) -> int:
        """Writes entries as `entry_bytes` of another node gave them: checksums verified, index and term kept.

        InvalidEntryError if one is damaged or may not follow; then none is written.
        """
        entries: list[Stored] = []
        at = 0
        while at < len(data):
            stored = parse(data, at)
            entries.append(stored)
            at += stored.header.size
        return self._append(entries, None)

    def append_stored(self, entries: Iterable[Stored]) -> int:
        """Writes entries whose place in the log is set, all or none, and gives the new last index.

        Their checksums are believed. Errors as `append`.
        """
        return self._append(entries, None)

    def _append(self, entries: Iterable[Stored], term: int | None) -> int:
        """With `term` the entries get their place here, else they have it already."""
        with self._append_lock:
            self._check_usable()
            before = self._last_index
            pending = _Pending(self._active)
            try:
                for stored in entries:
                    index = self._tail.index + 1
                    header = stored.header
                    if term is not None:
                        header = header._replace(index=index, term=term)
                    elif header.index != index:
                        raise InvalidEntryError(f"expected entry {index}, found entry {header.index}")
                    unsynced = index - 1 - self._durable_index
                    if header.unsynced != unsynced:
                        header = header._replace(unsynced=unsynced)
                    count = index - self._active.first_index
                    if count and (pending.end + header.size > self._segment_bytes or count >= SEGMENT_ENTRIES):
                        self._flush(pending)
                        self._roll()
                        pending = _Pending(self._active)
                    self._tail.fold(header, stored.meta)
                    located = Located(pending.end, header, b"")
                    pending.rows.append(derive_record(located, self._tail))
                    pending.buffers += (header.encode(), *stored.body)
                    pending.noted.append(Noted(header, stored.meta, self._active.first_index, pending.end))
                    pending.end = located.end
                    pending.last_index = index
                self._flush(pending)
            except OSError as error:
                if error.errno in durable.NO_SPACE:
                    self._undo(before + 1)
                else:
                    with contextlib.suppress(OSError):  # nobody is to see half an entry; opening again would cut it
                        self._active.forget_interrupted()
                raise self._refusal(error, "appending to the log") from error
            except BaseException:
                self._undo(before + 1)
                raise
            return self._last_index

    def _flush(self, pending: _Pending) -> None:
        if pending.rows:
            self._active.write(pending.buffers, pending.rows, pending.end)
            self._last_index = pending.last_index
            self._newest.remember(pending.noted)

    def _roll(self) -> None:
        """Ends the newest segment, synced as a whole, and begins the next."""
        self._active.seal(self._durable_index)
        self._durable_index = self._last_index
        first = self._last_index + 1
        header = SegmentHeader(first, self._tail.term, self._tail.to_json())
        self._active = ActiveSegment.create(self._directory, header)
        self._segments.add(first)

    def sync(self) -> int:
        """Makes durable what was appended before the call; gives the last durable index.

        LogFullError if there is no room for it: then call it again. LogFailedError.
        """
        with self._sync_lock:
            with self._append_lock:
                self._check_usable()
                target, active, end = self._last_index, self._active, self._active.end
                if target <= self._durable_index:
                    return self._durable_index
            try:
                active.make_durable(end, self._durable_index)
                with self._append_lock:
                    # Not more than what is still there: the tail may have been cut meanwhile.
                    self._durable_index = max(self._durable_index, min(target, self._last_index))
                    self._note(self._write_mark)
            except OSError as error:
                raise self._refusal(error, "syncing the log") from error
            return self._durable_index

    def commit(self, index: int) -> int:
        """Entries up to `index` are committed: folds them and lets readers see whole transactions. Gives
        `visible_index`.

        Never goes back; StoreError for an entry that is not here. If something that follows from the entries finds no
        room on the disk, readers see nothing new and `commit_index` stays: call it again.
        """
        with self._commit_lock:
            self._check_usable()
            if index <= self._commit_index:
                return self._visible_index
            if index > self._last_index:
                raise StoreError(f"entry {index} cannot be committed: the last one here is {self._last_index}")
            try:
                self._commits.fold(index, self._newest)
                if self._settle():
                    self._publish()
            except OSError as error:
                raise self._failed(error, "committing") from error
            return self._visible_index

    def _settle(self) -> bool:
        """Does what is due; False if there is no room for it."""
        try:
            self._commits.settle()
        except OSError as error:
            if error.errno not in durable.NO_SPACE:
                raise
            self._refusal(error, "committing")
            return False
        return True

    def _publish(self) -> None:
        state = self._commits.state
        self._watermark.publish(state.visible_index, state.index)
        self._commit_index, self._visible_index = state.index, state.visible_index
        self._note(lambda: self._marks.note_commit(state.index))
        if self._commits.purged:
            self._drop_before(state.first_index)
            self._commits.compact_catalogue()
            self._commits.purged = False

    def note_contact(self, nanoseconds: int) -> None:
        """Tells the readers' processes when this node was last level with a quorum (`time.monotonic_ns`)."""
        with self._commit_lock:
            if not self._closed:
                self._watermark.publish_contact(nanoseconds)

    def truncate_from(self, index: int) -> None:
        """Removes entry `index` and all behind it, durably. StoreError if any of them is committed."""
        with self._sync_lock, self._append_lock:
            self._check_usable()
            if index > self._last_index:
                return
            if index <= self._commits.state.index:
                raise StoreError(
                    f"entry {index} cannot be removed: everything up to {self._commits.state.index} is committed"
                )
            try:
                self._cut(index)
            except OSError as error:
                raise self._failed(error, "cutting the log") from error

    def _undo(self, index: int) -> None:
        try:
            self._cut(index)
        except OSError as error:
            raise self._failed(error, "taking back an append") from error

    def _cut(self, index: int) -> None:
        """Makes `index` the next entry to be appended. The append lock is held."""
        self._newest.forget_from(index)
        self._active.forget_interrupted()
        if index <= self._last_index:
            segment, record = self._segments.record(index)
            keep, offset = segment.first_index, int(record[0]["offset"])
            if self._durable_index >= index:
                self._durable_index = index - 1
                # The mark goes back first, durably: it must never claim more than there is.
                term = self.term_of(index - 1)
                self._marks.write(Mark(keep, offset, index - 1, term, min(self._commit_index, index - 1)), durable=True)
            dropped = [first for first in self._segments.firsts if first > keep]
            for first in reversed(dropped):
                self._unlink(first)
            self._segments.forget(keep)
            if dropped:
                fsync_directory(self._directory)
                self._active = ActiveSegment(self._directory, keep, offset)
            self._active.cut(index, offset)
            self._last_index = index - 1
        self._tail = self._segments.state_at(index - 1)

    def reset(self, state: LogState) -> None:
        """Puts `state`, which another node had after entry ``state.index``, in the place of the whole log, durably.

        Everything up to there counts as committed; entries follow from the next one on. Readers that are at older
        entries get PurgedError. StoreError if that entry is committed here already (then entries are to be sent), or if
        the next one does not begin the oldest retained source file: a log cannot begin inside a file.
        """
        with self._sync_lock, self._append_lock, self._commit_lock:
            self._check_usable()
            committed = self._commits.state.index
            if state.index <= committed:
                raise StoreError(f"the log cannot go back to entry {state.index}: {committed} is committed")
            if state.first_index != state.index + 1 or state.oldest_file != state.file_id + 1:
                raise StoreError(
                    f"the log cannot begin with entry {state.index + 1}: the oldest retained source file, number "
                    f"{state.oldest_file}, begins with entry {state.first_index}"
                )
            try:
                self._replace(state.copy())
            except OSError as error:
                raise self._failed(error, "replacing the log") from error

    def _replace(self, state: LogState) -> None:
        first = state.index + 1
        begin_reset(self._directory, SegmentHeader(first, state.term, state.to_json()))
        self._watermark.publish_change()
        self._watermark.publish_first(first)
        finish_reset(self._directory)
        self._watermark.publish_change()
        Catalogue.create(self._directory, state.file_id + 1, ())
        self._begin_anew(first, state)

    def _begin_anew(self, newest: int, state: LogState) -> None:
        """Other files are in place: the newest segment is `newest`, the state after the last entry `state`."""
        self._segments.forget_all()  # an entry that was never committed may have begun a segment of the same name
        self._newest.forget_from(0)
        self._marks = MarkFile(self._directory)
        self._active = ActiveSegment(self._directory, newest)
        self._last_index = self._durable_index = self._commit_index = state.index
        self._tail, self._visible_index = state.copy(), state.visible_index
        self._commits.begin_anew(state)
        self._write_mark(durably=True)
        self._watermark.publish(state.visible_index, state.index)

    def adopt(self, firsts: Sequence[int], state: LogState) -> None:
        """Puts the log in the folder ``incoming`` in the place of this one, durably: segments that begin with `firsts`,
        `state` after the last of their entries. See `transfer.Intake.complete`.

        All of it counts as committed. Readers that are at older entries get PurgedError. StoreError if this log is as
        long: then nothing that it holds may go.
        """
        with self._sync_lock, self._append_lock, self._commit_lock:
            self._check_usable()
            if state.index < self._last_index or state.index <= self._commits.state.index:
                raise StoreError(f"a log that ends with entry {state.index} cannot replace one with {self._last_index}")
            try:
                begin_adoption(self._directory, firsts)
                self._watermark.publish_change()
                self._watermark.publish_first(firsts[0])
                finish_adoption(self._directory)
                self._watermark.publish_change()
                self._begin_anew(firsts[-1], state.copy())
            except OSError as error:
                raise self._failed(error, "replacing the log") from error

    def replace_segment(self, first_index: int, copy: Path) -> None:
        """Puts an intact copy, which is durable, in the place of a damaged segment that is sealed and committed.

        Readers open it anew. StoreError if there is no such segment, or if it is not the same.
        """
        with self._append_lock, self._commit_lock:
            self._check_usable()
            following = self._segments.after(first_index) if first_index in self._segments.firsts else None
            if following is None or following - 1 > self._commit_index:
                raise StoreError(f"no segment that is sealed and committed begins with entry {first_index}")
            path = log_path(self._directory, first_index)
            damaged = path.stat()
            if copy.stat().st_size != damaged.st_size:
                raise StoreError(f"{path} is not as long as its copy: it holds other entries")
            try:
                os.utime(copy, ns=(damaged.st_atime_ns, damaged.st_mtime_ns))  # retention goes by it
                self._watermark.publish_change()
                copy.replace(path)
                fsync_directory(self._directory)
            except OSError as error:
                raise self._failed(error, "mending the log") from error
            finally:
                self._watermark.publish_change()
            self._segments.forget_all()
            logger.warning("%s was damaged: a copy has taken its place", path)

    # Retention

    def purge_entry(self, file_id: int) -> Entry:
        """The entry that, once committed, drops everything before source file `file_id`, on every node.

        Whole segments go, up to the one in which that file starts. PurgedError or StoreError if there is no such file.
        """
        state = self.state
        if state.file is None or not state.oldest_file <= file_id <= state.file_id:
            raise StoreError(f"there is no source file {file_id}: {state.oldest_file} to {state.file_id} are here")
        start = CatalogueReader(self._directory).get(file_id).start_index
        purged = self._segments.state_at(start - 1).executed
        if purged is None:
            raise StoreError("the flavor of the log is not known yet")
        return Entry(Kind.PURGE, meta=Meta(json={"first_index": start, "file_id": file_id, "purged": purged.to_json()}))

    def _drop_before(self, index: int) -> None:
        """Removes the segments that hold only entries before `index`. Readers that have one open keep reading it."""
        firsts = self._segments.firsts
        dropped = [first for first, following in pairwise(firsts) if following <= index]
        if not dropped:
            return
        self._watermark.publish_first(firsts[len(dropped)])
        for first in dropped:
            self._unlink(first)
        fsync_directory(self._directory)
        logger.info("dropped %d segments: the log begins with entry %d now", len(dropped), firsts[len(dropped)])

    # Inside

    def _unlink(self, first: int) -> None:
        self._segments.remove(first)
        log_path(self._directory, first).unlink()
        index_path(self._directory, first).unlink(missing_ok=True)

    def _write_mark(self, *, durably: bool = False) -> None:
        """Notes how far the log is durable. The append lock is held, or nobody else has the log yet."""
        index = self._durable_index
        active = self._active
        if index == self._last_index:
            offset, term = active.end, self._tail.term
        elif index >= active.first_index:
            offset, term = active.end_and_term_of(index)
        else:
            return  # the segment that was synced has been followed by another one since: that says as much
        commit_index = min(index, self._commit_index)
        self._marks.write(Mark(active.first_index, offset, index, term, commit_index), durable=durably)

    def _note(self, write: Callable[[], None]) -> None:
        """Writes the mark if there is room: an older one is true as well."""
        try:
            write()
        except OSError as error:
            if error.errno not in durable.NO_SPACE:
                raise
            self._refusal(error, "noting how far the log is durable")

    def _check_exists(self, index: int) -> int:
        if index < self.first_index:
            raise PurgedError(f"entry {index} was purged: the oldest retained is {self.first_index}")
        if index > self._last_index:
            raise StoreError(f"there is no entry {index}: the last one is {self._last_index}")
        return index

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise LogFailedError(
                f"the log cannot be used after a failure of its disk: {self._failure}"
            ) from self._failure
        if self._closed:
            raise LogClosedError("the log was closed")

    def _refusal(self, error: OSError, doing: str) -> StoreError:
        """What a system call's error means: a full disk, which passes, or the end of this object's use."""
        if error.errno not in durable.NO_SPACE:
            return self._failed(error, doing)
        now = time.monotonic()
        if now - self._refused > _TELL_SECONDS:
            logger.warning("%s in %s found no room: %s", doing, self._directory, error)
        self._refused = now
        return LogFullError(f"{doing} in {self._directory} found no room: {error}")

    def _failed(self, error: OSError, doing: str) -> LogFailedError:
        self._failure = error
        logger.error(
            "%s in %s failed: %s; the log takes nothing more until it is opened again", doing, self._directory, error
        )
        return LogFailedError(
            f"{doing} in {self._directory} failed: {error}; nothing more is written until the log is opened again"
        )
