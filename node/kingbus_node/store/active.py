"""The newest segment of a log, the one that is written to.

What a failed fsync leaves is decided here: if there was no room, the page cache may show what the disk does not have,
so whatever is not durable is written again before the next fsync. Any other error is the caller's, and the end.

The kernel tells of a failed write once for each open file (errseq_t): of two fsyncs at the same time one fails, and the
other succeeds without the bytes. So there is only ever one, and it knows how the one before it ended.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from kingbus_node.binlog.constants import Buffer
from kingbus_node.store import durable
from kingbus_node.store.durable import FileHandle, write_at, write_file
from kingbus_node.store.index import RECORD_SIZE, end_of, read_records, sealed_row
from kingbus_node.store.recovery import write_again
from kingbus_node.store.segment import SegmentHeader, index_path, log_path, read_header


class ActiveSegment:
    """See the module. `end` is where the next entry goes. `make_durable` is for any thread, also while another one
    writes; in all else the owner keeps threads apart.
    """

    def __init__(self, directory: Path, first_index: int, end: int | None = None) -> None:
        """Opens it; `end`: where its entries end, unless with the file."""
        self.first_index = first_index
        self.log = FileHandle(log_path(directory, first_index), os.O_RDWR)
        self.index = FileHandle(index_path(directory, first_index), os.O_RDWR)
        self.end = self.log.size() if end is None else end
        self._syncing = threading.Lock()
        self._write_again = False  # what is not durable, because a sync of it found no room
        self._failure: OSError | None = None  # of a sync, which must not be tried again

    @classmethod
    def create(cls, directory: Path, header: SegmentHeader) -> ActiveSegment:
        """Puts a segment in place, durably, or not at all if there is no room, and opens it.

        The index comes first: a segment that has its name has an index, too.
        """
        paths = log_path(directory, header.first_index), index_path(directory, header.first_index)
        try:
            FileHandle(paths[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            write_file(paths[0], header.encode())
        except OSError as error:
            if error.errno in durable.NO_SPACE:
                for path in paths:
                    path.unlink(missing_ok=True)
            raise
        return cls(directory, header.first_index)

    def write(self, buffers: Sequence[Buffer], rows: Sequence[tuple[int, ...]], end: int) -> None:
        """Puts entries, which end at byte `end`, behind the last one, and their records into the index."""
        write_at(self.log.fd, buffers, self.end)
        position = rows[0][0] - self.first_index
        write_at(self.index.fd, [b"".join(map(sealed_row, rows))], position * RECORD_SIZE)
        self.end = end

    def forget_interrupted(self) -> None:
        """Cuts off what an append wrote before it failed."""
        if self.log.size() > self.end:
            os.ftruncate(self.log.fd, self.end)

    def cut(self, index: int, offset: int) -> None:
        """Makes `index` the next entry, at byte `offset`, durably."""
        with self._syncing:
            self._check_usable()
            os.ftruncate(self.index.fd, (index - self.first_index) * RECORD_SIZE)
            os.ftruncate(self.log.fd, offset)
            try:
                durable.fdatasync(self.log.fd)
            except OSError as error:
                self._failure = error
                raise
        self.end = offset

    def make_durable(self, end: int, durable_index: int) -> None:
        """Syncs what lies before byte `end`, of which entries up to `durable_index` are durable already. OSError: with
        no room, call it again.
        """
        with self._syncing:
            self._check_usable()
            try:
                if self._write_again:
                    start, last = self._durable_end(durable_index)
                    write_again(self.log, start, end, last)
                    self._write_again = False
                else:
                    durable.fdatasync(self.log.fd)
            except OSError as error:
                if error.errno in durable.NO_SPACE:
                    self._write_again = True
                else:
                    self._failure = error
                raise

    def seal(self, durable_index: int) -> None:
        """Makes all of it durable, the index included: another segment follows."""
        self.make_durable(self.end, durable_index)
        durable.fdatasync(self.index.fd)

    def end_and_term_of(self, index: int) -> tuple[int, int]:
        """Where an entry of this segment ends, and its term."""
        record = read_records(self.index, index - self.first_index, 1)
        return end_of(record), int(record[0]["term"])

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise OSError(self._failure.errno, self._failure.strerror, str(self.log.path)) from self._failure

    def _durable_end(self, durable_index: int) -> tuple[int, int]:
        """Where what is durable ends, and with which entry."""
        if durable_index < self.first_index:
            return read_header(self.log, self.first_index).data_start, self.first_index - 1
        return self.end_and_term_of(durable_index)[0], durable_index
