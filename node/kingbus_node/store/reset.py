"""Putting a snapshot in the place of a whole log, so that a crash at any moment leaves the one or the other.

The header block of the log's new only segment is written as ``<first index>.reset``, durably. From then on the log is
the new one: what belongs to the old one is removed, and the file gets its final name. Opening a log finishes what a
crash interrupted. Term, vote and identity of the node are not part of its log, and stay.
"""

from __future__ import annotations

import os
from pathlib import Path

from kingbus_node.store.catalogue import CATALOGUE_NAME
from kingbus_node.store.durable import FileHandle, fsync_directory, write_file
from kingbus_node.store.marks import MARK_NAME
from kingbus_node.store.segment import SegmentHeader, index_path, list_segments, log_path, read_header

SUFFIX = ".reset"


def begin_reset(directory: Path, header: SegmentHeader) -> None:
    """Decides, durably, that the log is to begin with the segment of this header."""
    write_file(log_path(directory, header.first_index).with_suffix(SUFFIX), header.encode())


def finish_reset(directory: Path) -> bool:
    """Does what was decided; whether anything was. CorruptLogError, with nothing removed, if the header is damaged."""
    for path in directory.glob("*" + SUFFIX):
        first = int(path.stem)
        read_header(FileHandle(path, os.O_RDONLY), first)
        for old in list_segments(directory):
            log_path(directory, old).unlink()
            index_path(directory, old).unlink(missing_ok=True)
        for name in (MARK_NAME, CATALOGUE_NAME):
            (directory / name).unlink(missing_ok=True)
        fsync_directory(directory)  # before the new name: nothing of the old log may come back beside it
        FileHandle(index_path(directory, first), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        path.rename(log_path(directory, first))
        fsync_directory(directory)
        return True
    return False
