"""Opening a log after anything: find the damage, tell a torn tail from damage in the middle, cut the one, refuse the
other.

What is relied on:

1. A segment is synced as a whole before the next one gets its name, so only the newest can have a torn tail.
2. In the newest one, everything up to the mark was durable (`marks`). Behind the mark an entry whose header or body
   does not check was being written, or had not reached the disk, when the machine stopped - and so had everything
   behind it, whatever of it reads well: unsynced pages reach the disk in any order. It is cut.
3. Unless an intact entry behind the bad one says that the bad one was durable when it was written (`Header.unsynced`):
   then the disk lost what it had promised to keep, and the log refuses to open.

What is behind the mark and kept is written once more and synced: after an fsync that failed, the page cache may show
bytes that the disk does not have, and which a later fsync would not write again.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kingbus_node.store.durable import FileHandle, fdatasync, fsync_directory, read_at, write_at
from kingbus_node.store.entry import HEADER_SIZE, MAGIC, parse_header
from kingbus_node.store.errors import CorruptLogError
from kingbus_node.store.index import RECORD_SIZE, end_of, intact, read_records
from kingbus_node.store.marks import Mark
from kingbus_node.store.segment import index_path, list_segments, log_path, read_header
from kingbus_node.store.segments import Segments, rebuild_index
from kingbus_node.util.crc import crc32

logger = logging.getLogger(__name__)

_MAGIC_BYTES = MAGIC.to_bytes(4, "little")
_BLOCK = 4 << 20


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the newest segment ends after recovery: byte `end`, behind entry `last_index`.

    `clean`: nothing was behind the mark, so the writer had come to an end of its work there, index included.
    """

    first_index: int
    end: int
    last_index: int
    clean: bool


def remove_leftovers(directory: Path) -> None:
    """Removes files that a crash left half made, and indexes without their segment."""
    segments = set(list_segments(directory))
    for path in sorted(directory.iterdir()):
        orphan = path.suffix == ".idx" and path.stem.isdigit() and int(path.stem) not in segments
        if orphan or path.suffix == ".tmp":
            path.unlink()


def recover_tail(directory: Path, mark: Mark | None) -> Tail:
    """Checks the newest segment from the last known-good point on, cuts a torn tail, and makes what remains durable."""
    firsts = list_segments(directory)
    newest = firsts[-1]
    path = log_path(directory, newest)
    file = FileHandle(path, os.O_RDWR)
    header = read_header(file, newest)
    size = file.size()
    start, last = header.data_start, newest - 1
    if mark is not None:
        if mark.segment > newest:
            raise CorruptLogError(log_path(directory, mark.segment), 0, "the segment is gone")
        if mark.segment == newest:
            if size < mark.offset:
                raise CorruptLogError(path, size, f"it ends here, but {mark.offset} bytes of it were durable")
            start, last = mark.offset, mark.index
    end, last, problem = verify_entries(file, start, last, size)
    if problem is not None:
        witness = _find_witness(file, end, last + 1, size)
        if witness is not None:
            raise CorruptLogError(
                path, end, f"{problem}; entry {witness}, which is intact, was written after it was durable"
            )
        logger.warning(
            "%s: cutting %d bytes of an unfinished write behind entry %d (%s)", path, size - end, last, problem
        )
        os.ftruncate(file.fd, end)
    _write_again(file, start, end)
    return Tail(newest, end, last, start == size)


def verify_entries(file: FileHandle, offset: int, last: int, size: int) -> tuple[int, int, str | None]:
    """Checks entries behind `last` from `offset` on: where the good ones end, the last of them, what is wrong there."""
    while offset < size:
        header = parse_header(read_at(file.fd, HEADER_SIZE, offset))
        if isinstance(header, str):
            return offset, last, header
        if header.index != last + 1:
            return offset, last, f"expected entry {last + 1}, found entry {header.index}"
        if offset + header.size > size:
            return offset, last, f"entry {header.index} is cut"
        crc, at = 0, offset + HEADER_SIZE
        while at < offset + header.size:
            block = read_at(file.fd, min(_BLOCK, offset + header.size - at), at)
            crc = crc32(block, crc)
            at += len(block)
        if crc != header.body_crc:
            return offset, last, f"the body of entry {header.index} does not match its checksum"
        offset, last = at, header.index
    return offset, last, None


def _find_witness(file: FileHandle, offset: int, bad: int, size: int) -> int | None:
    """An intact entry behind `offset` that says that entry `bad`, which is damaged, was durable before."""
    limit = bad + (size - offset) // HEADER_SIZE
    while offset < size:
        block = read_at(file.fd, min(_BLOCK, size - offset), offset)
        at = block.find(_MAGIC_BYTES)
        while at >= 0:
            candidate = read_at(file.fd, HEADER_SIZE, offset + at)
            header = parse_header(candidate)
            if (
                not isinstance(header, str)
                and bad < header.index <= limit
                and header.index - 1 - header.unsynced >= bad
            ):
                body_end = offset + at + header.size
                if body_end <= size and verify_entries(file, offset + at, header.index - 1, body_end)[2] is None:
                    return header.index
            at = block.find(_MAGIC_BYTES, at + 1)
        if offset + len(block) >= size:
            return None
        offset += len(block) - len(_MAGIC_BYTES) + 1
    return None


def write_again(file: FileHandle, start: int, end: int, last: int) -> None:
    """Writes the entries behind entry `last` once more, from byte `start` to `end`, and syncs them.

    OSError, also if the page cache does not have them any more.
    """
    stop, _, problem = verify_entries(file, start, last, end)
    if problem is not None:
        raise OSError(errno.EIO, f"lost at byte {stop} before it was durable: {problem}", str(file.path))
    _write_again(file, start, end)


def _write_again(file: FileHandle, start: int, end: int) -> None:
    offset = start
    while offset < end:
        block = read_at(file.fd, min(_BLOCK, end - offset), offset)
        write_at(file.fd, [block], offset)
        offset += len(block)
    fdatasync(file.fd)


def repair_indexes(segments: Segments, tail: Tail) -> None:
    """Writes the ``.idx`` of every segment that lacks records, and makes sure that the segments follow one another.

    Of an older segment's index, which was synced with its segment, only the size and the last record are looked at
    (`Segments.records` checks what it reads); the newest one's was not, so all of it is.
    """
    firsts = segments.firsts
    # Newest first: whether a transaction that is open at a segment's end was cancelled stands in the segments behind.
    for first, following in reversed(list(pairwise([*firsts, tail.last_index + 1]))):
        newest = first == tail.first_index
        if (tail.clean or not newest) and _complete(segments.directory, first, following - first, every=newest):
            continue
        path = index_path(segments.directory, first)
        if not newest and path.exists():
            logger.warning("%s does not fit its segment: making it again", path)
        elif not newest:
            logger.info("making %s, which is missing", path)
        file = FileHandle(index_path(segments.directory, first), os.O_RDWR | os.O_CREAT)
        segment = segments.open(first)
        records = rebuild_index(segments, segment)
        if len(records) != following - first:
            problem = f"it holds {len(records)} entries, expected {following - first}"
            raise CorruptLogError(segment.log.path, segment.log.size(), problem)
        write_at(file.fd, [records.tobytes()], 0)
        os.ftruncate(file.fd, RECORD_SIZE * len(records))
        fdatasync(file.fd)
    fsync_directory(segments.directory)


def _complete(directory: Path, first_index: int, count: int, *, every: bool) -> bool:
    """Whether a segment's index has `count` records, intact (the last one, or all), that end where the log does."""
    try:
        file = FileHandle(index_path(directory, first_index), os.O_RDONLY)
    except FileNotFoundError:
        return False
    if file.size() != count * RECORD_SIZE:
        return False
    if not count:
        return True
    looked_at = count if every else 1
    records = read_records(file, count - looked_at, looked_at)
    size = log_path(directory, first_index).stat().st_size
    return intact(records, first_index + count - looked_at) and end_of(records) == size
