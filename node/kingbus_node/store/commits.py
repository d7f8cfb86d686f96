"""What follows from a commit: the state moves on, source files enter the catalogue, cancelled entries are marked.

All of it is derived from committed entries, so after a crash it is made again. Only what must be there before the mark
may say that an entry was committed is done first: recovery does not look again behind that mark. What finds no room on
the disk stays due, and until it is done nobody is told of the commit.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from kingbus_node.store import durable
from kingbus_node.store.catalogue import CATALOGUE_NAME, Catalogue, CatalogueReader, FileInfo, files_in
from kingbus_node.store.durable import FileHandle, write_at
from kingbus_node.store.entry import Header, Kind
from kingbus_node.store.errors import CorruptLogError
from kingbus_node.store.index import RECORD_SIZE
from kingbus_node.store.places import Newest
from kingbus_node.store.segments import Segments, fold_stored, mark_cancelled
from kingbus_node.store.state import CurrentFile, LogState

logger = logging.getLogger(__name__)


class Commits:
    """The committed part of a log: its `state`, and the files that follow from it. The owner keeps threads apart."""

    def __init__(self, directory: Path, segments: Segments, state: LogState) -> None:
        self.state = state
        self.purged = False
        """Whether entries that were committed end the use of segments, which the owner has not dropped yet."""
        self._directory = directory
        self._segments = segments
        self._snapshot: LogState | None = None
        self._due: list[Callable[[], None]] = []  # what follows from committed entries, and found no room yet
        self._catalogue = self._open_catalogue()

    def snapshot(self) -> LogState:
        """The state. A copy that is shared by those who ask: look, do not change."""
        if self._snapshot is None:
            self._snapshot = self.state.copy()
        return self._snapshot

    def fold(self, index: int, newest: Newest) -> None:
        """Entries up to `index` are committed. OSError."""
        self._snapshot, file_id = None, self.state.file_id
        while self.state.index < index and (noted := newest.find(self.state.index + 1)) is not None:
            self._fold(noted.header, partial(self.state.fold, noted.header, noted.meta))
        for located, segment in self._segments.entries(self.state.index + 1, index):
            self._fold(located.header, partial(fold_stored, self.state, located, segment))
        if self.state.file_id != file_id:
            # Before the mark says that this was committed: when opening, an intact record is believed.
            self._due.append(self._catalogue.sync)

    def settle(self) -> None:
        """Does what is due. OSError: with no room, call it again."""
        while self._due:
            self._due[0]()
            del self._due[0]

    def compact_catalogue(self) -> None:
        """Source files were purged. OSError."""
        try:
            self._catalogue = self._catalogue.compacted(self.state.oldest_file)
        except OSError as error:
            if error.errno not in durable.NO_SPACE:
                raise
            logger.warning("%s stays longer than it need be: %s", CATALOGUE_NAME, error)

    def begin_anew(self, state: LogState) -> None:
        """Another log is in the place of this one, with its catalogue."""
        self.state, self._snapshot, self.purged = state, None, False
        self._due.clear()
        self._catalogue = Catalogue(self._directory)

    def _fold(self, header: Header, fold: Callable[[], object]) -> None:
        state = self.state
        opened, position, file = state.open_index, state.open_pos, state.file
        fold()
        self.purged = self.purged or header.kind == Kind.PURGE
        if header.kind == Kind.CANCEL and opened is not None:
            self._due.append(partial(self._mark_cancelled, opened, header.index, position))
        if state.file is not None and state.file_id != (0 if file is None else file.id):
            both = [_info_of(one) for one in (file, state.file) if one is not None]
            self._due.append(partial(self._put_files, both))

    def _put_files(self, files: Sequence[FileInfo]) -> None:
        for info in files:
            self._catalogue.put(info)

    def _mark_cancelled(self, first: int, last: int, position: int) -> None:
        """Marks index records as cancelled, in all the segments that entries `first` to `last` are in.

        A log that was copied after a purge may hold the CANCEL and not all of what it cancels.
        """
        index = max(first, self._segments.oldest)
        while index <= last:
            segment = self._segments.open(self._segments.containing(index))
            following = self._segments.after(segment.first_index)
            stop = last if following is None else min(last, following - 1)
            records = self._segments.records(segment, index, min(4096, stop - index + 1), stop).copy()
            mark_cancelled(records, index, last, position)
            file = FileHandle(segment.index.path, os.O_RDWR)
            write_at(file.fd, [records.tobytes()], (index - segment.first_index) * RECORD_SIZE)
            durable.fdatasync(file.fd)  # before the mark says that the CANCEL was committed: then nobody looks again
            index += len(records)

    def _open_catalogue(self) -> Catalogue:
        """The catalogue of the committed files; made again from the index if it is missing or damaged."""
        state = self.state
        try:
            reader = CatalogueReader(self._directory)
            known = sum(1 for _ in reader.range(reader.first_id, state.file_id))
            if reader.first_id <= state.oldest_file and reader.first_id + known == state.file_id + 1:
                catalogue = Catalogue(self._directory)
                catalogue.cut(state.file_id)
                return catalogue
            logger.warning("the catalogue of source files lacks some: making it again")
        except FileNotFoundError:
            pass
        except CorruptLogError as error:
            logger.warning("making the catalogue of source files again: %s", error)
        return Catalogue.create(self._directory, *files_in(self._segments, state))


def _info_of(file: CurrentFile) -> FileInfo:
    return FileInfo(file.id, file.name, file.source_name, file.start_index, file.end_pos, file.closed)
