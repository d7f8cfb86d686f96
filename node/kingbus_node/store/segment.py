"""A segment's files: ``<20-digit first index>.log``, the truth, and ``.idx``, derived from it.

A ``.log`` begins with a header block, then come entries back to back up to the end of the file. The block carries a
snapshot of the state before the segment's first entry, so that any segment can be understood without those before it
(they may be purged). It is written to a temporary file and renamed into place: a segment whose header is bad is a
damaged one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kingbus_node.store.durable import FileHandle, read_at
from kingbus_node.store.entry import HEADER_SIZE, Header, Json, parse_header
from kingbus_node.store.errors import CorruptLogError, FormatVersionError
from kingbus_node.util.crc import crc32

MAGIC = b"KINGBUSL"
VERSION = 1
_FIXED = struct.Struct("<8sIIQQII24x")  # magic, version, crc, first index, term before it, block length, JSON length
_CRC_START = 16  # the checksum covers everything from the first index on
_READ_AHEAD = 16 << 10
MAX_BLOCK = 256 << 20


def log_path(directory: Path, first_index: int) -> Path:
    """The ``.log`` of the segment that begins with entry `first_index`."""
    return directory / f"{first_index:020d}.log"


def index_path(directory: Path, first_index: int) -> Path:
    """The ``.idx`` of the segment that begins with entry `first_index`."""
    return directory / f"{first_index:020d}.idx"


def list_segments(directory: Path) -> list[int]:
    """First indexes of the segments in a directory, rising."""
    paths = (path for path in directory.iterdir() if path.suffix == ".log" and len(path.stem) == 20)
    return sorted(int(path.stem) for path in paths if path.stem.isdigit())


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A segment on the disk. last_index: None for the newest one, which is being written.

    size, index_size: bytes of ``.log`` and ``.idx``. modified: when it was written to last, Unix seconds.
    """

    first_index: int
    last_index: int | None
    size: int
    index_size: int
    modified: float


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself. `previous_term` is the term of entry ``first_index - 1`` (Raft compares it)."""

    first_index: int
    previous_term: int
    snapshot: dict[str, Json]
    data_start: int = 0  # byte offset of the first entry; set when decoded

    def encode(self) -> bytes:
        """The header block: 64 fixed bytes and the snapshot as JSON, padded with zero bytes to a multiple of 64."""
        text = json.dumps(self.snapshot, separators=(",", ":"), sort_keys=True).encode()
        length = (_FIXED.size + len(text) + 63) // 64 * 64
        block = bytearray(length)
        _FIXED.pack_into(block, 0, MAGIC, VERSION, 0, self.first_index, self.previous_term, length, len(text))
        block[_FIXED.size : _FIXED.size + len(text)] = text
        struct.pack_into("<I", block, 12, crc32(memoryview(block)[_CRC_START:]))
        return bytes(block)


def read_header(file: FileHandle, first_index: int) -> SegmentHeader:
    """A segment's header block, checked against checksum and file name. CorruptLogError, FormatVersionError."""
    fixed = read_at(file.fd, _FIXED.size, 0)
    if len(fixed) < _FIXED.size or not fixed.startswith(MAGIC):
        raise CorruptLogError(file.path, 0, "the file does not begin with a segment header")
    _, version, crc, first, term, length, text_length = _FIXED.unpack(fixed)
    if version != VERSION:
        raise FormatVersionError(f"{file.path} has format version {version}, this release reads version {VERSION}")
    if not _FIXED.size + text_length <= length <= MAX_BLOCK:
        raise CorruptLogError(file.path, 0, f"impossible header lengths {length} and {text_length}")
    block = fixed + read_at(file.fd, length - _FIXED.size, _FIXED.size)
    if len(block) < length or crc32(memoryview(block)[_CRC_START:]) != crc:
        raise CorruptLogError(file.path, 0, "the segment header's checksum does not match")
    if first != first_index:
        raise CorruptLogError(file.path, 16, f"the header says first entry {first}, the file's name {first_index}")
    snapshot = json.loads(block[_FIXED.size : _FIXED.size + text_length])
    return SegmentHeader(first, term, snapshot, length)


@dataclass(frozen=True, slots=True)
class Located:
    """An entry's header and meta, and where the entry is in its segment's ``.log``."""

    offset: int
    header: Header
    meta: bytes

    @property
    def end(self) -> int:
        """Byte offset behind the entry."""
        return self.offset + self.header.size


def walk(file: FileHandle, offset: int, index: int, end: int) -> Iterator[Located | str]:
    """Entries from `offset` to `end`, the first of which must be `index`, by their headers: no payload is read.

    Ends silently at `end`; where no entry with the expected index fits before `end` it yields the reason and stops.
    """
    window, window_start = b"", 0
    while offset < end:
        at = offset - window_start
        if not 0 <= at <= len(window) - HEADER_SIZE:
            window, window_start, at = read_at(file.fd, min(_READ_AHEAD, end - offset), offset), offset, 0
        header = parse_header(window, at)
        if isinstance(header, str):
            yield header
            return
        if header.index != index:
            yield f"expected entry {index}, found entry {header.index}"
            return
        if offset + header.size > end:
            yield f"entry {index} needs {offset + header.size - end} bytes more than the file has"
            return
        at += HEADER_SIZE
        meta = window[at : at + header.meta_len]
        if len(meta) < header.meta_len:
            meta = read_at(file.fd, header.meta_len, offset + HEADER_SIZE)
        yield Located(offset, header, meta)
        offset += header.size
        index += 1
