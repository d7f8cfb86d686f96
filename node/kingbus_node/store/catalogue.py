"""``files.cat``: the source files, one record of 512 bytes each, so that 100,000 of them take no memory.

Derived from the log and written when a FILE_START commits. The last record is of the current file; where that one ends
is in the state, the record says so only once the next file has begun. Record n is of file ``first_id + n``.

::

    header (512 bytes): magic 8s | version u32 | crc u32 of the next field | first_id u64 | zero bytes
    record (512 bytes): crc u32 of the rest | id u32 | start_index u64 | end_pos u64 | flags u32 (1: closed by the
    source)
                        | name length u16 | source name length u16 | names, UTF-8 | zero bytes
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kingbus_node.store.durable import FileHandle, fdatasync, read_at, write_at, write_file
from kingbus_node.store.entry import MAX_NAME, Flag, Kind, Meta
from kingbus_node.store.errors import CorruptLogError
from kingbus_node.store.segments import Segments
from kingbus_node.store.state import LogState
from kingbus_node.util.crc import crc32

CATALOGUE_NAME = "files.cat"
RECORD_SIZE = 512
_MAGIC = b"KINGBUSF"
_HEADER = struct.Struct("<8sIIQ")
_RECORD = struct.Struct("<IIQQIHH")
_CLOSED = 1
_CHUNK = 256
_WORTH_COMPACTING = 1024
if _RECORD.size + 2 * MAX_NAME > RECORD_SIZE:
    raise AssertionError("two names fit a catalogue record")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One source file. `end_pos` is where its last event ends; `closed`: the source ended it with ROTATE or STOP.

    `name` is the one that replicas see, `source_name` the source's own; `start_index` is its first entry in the log.
    """

    id: int
    name: str
    source_name: str
    start_index: int
    end_pos: int
    closed: bool

    def encode(self) -> bytes:
        """The 512 bytes."""
        name, source_name = self.name.encode(), self.source_name.encode()
        flags = _CLOSED if self.closed else 0
        record = bytearray(RECORD_SIZE)
        _RECORD.pack_into(record, 0, 0, self.id, self.start_index, self.end_pos, flags, len(name), len(source_name))
        names = name + source_name
        record[_RECORD.size : _RECORD.size + len(names)] = names
        struct.pack_into("<I", record, 0, crc32(memoryview(record)[4:]))
        return bytes(record)

    @classmethod
    def decode(cls, data: bytes) -> FileInfo | None:
        """The inverse of `encode`; None if the record is damaged."""
        if len(data) != RECORD_SIZE:
            return None
        crc, file_id, start_index, end_pos, flags, name_len, source_len = _RECORD.unpack_from(data)
        if crc32(memoryview(data)[4:]) != crc:
            return None
        middle = _RECORD.size + name_len
        name, source_name = data[_RECORD.size : middle].decode(), data[middle : middle + source_len].decode()
        return cls(file_id, name, source_name, start_index, end_pos, bool(flags & _CLOSED))


class CatalogueReader:
    """Reads a catalogue, also while another process writes it. Opens the file anew for each object."""

    def __init__(self, directory: Path) -> None:
        self._file = FileHandle(directory / CATALOGUE_NAME, os.O_RDONLY)
        header = read_at(self._file.fd, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            raise CorruptLogError(self._file.path, 0, "the header is cut")
        magic, version, crc, self.first_id = _HEADER.unpack(header)
        if magic != _MAGIC or version != 1 or crc != crc32(header[16:]):
            raise CorruptLogError(self._file.path, 0, "the header is not a catalogue's")

    @property
    def last_id(self) -> int:
        """The newest file's number; ``first_id - 1`` if there is none."""
        return int(self.first_id) + (self._file.size() - RECORD_SIZE) // RECORD_SIZE - 1

    def get(self, file_id: int) -> FileInfo:
        """One file's record. KeyError if there is none, CorruptLogError if it is damaged."""
        for info in self.range(file_id, file_id):
            return info
        raise KeyError(file_id)

    def starting_from(self, index: int, first: int, last: int) -> FileInfo | None:
        """Of the files `first` to `last`, which are all here, the oldest that begins with entry `index` or later."""
        low, high = first, last + 1
        while low < high:
            middle = (low + high) // 2
            if self.get(middle).start_index < index:
                low = middle + 1
            else:
                high = middle
        return self.get(low) if low <= last else None

    def range(self, first: int, last: int) -> Iterator[FileInfo]:
        """Records of the files `first` to `last`, as far as there are any."""
        file_id = max(first, self.first_id)
        while file_id <= last:
            offset = RECORD_SIZE * (1 + file_id - self.first_id)
            data = read_at(self._file.fd, RECORD_SIZE * min(_CHUNK, last + 1 - file_id), offset)
            if len(data) < RECORD_SIZE:
                return
            for at in range(0, len(data) - RECORD_SIZE + 1, RECORD_SIZE):
                info = FileInfo.decode(data[at : at + RECORD_SIZE])
                if info is None or info.id != file_id:
                    raise CorruptLogError(
                        self._file.path, offset + at, f"the record of file {file_id} does not match its checksum"
                    )
                yield info
                file_id += 1


class Catalogue:
    """The writer's side."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = FileHandle(directory / CATALOGUE_NAME, os.O_RDWR)
        reader = CatalogueReader(directory)
        self.first_id = reader.first_id

    @classmethod
    def create(cls, directory: Path, first_id: int, files: Iterable[FileInfo]) -> Catalogue:
        """Replaces the catalogue by one of these files, numbered from `first_id` without gaps."""
        write_file(directory / CATALOGUE_NAME, _header_block(first_id))
        catalogue = cls(directory)
        for info in files:
            catalogue.put(info)
        catalogue.sync()
        return catalogue

    def put(self, info: FileInfo) -> None:
        """Adds or replaces a file's record. One that was purged before the catalogue began has none."""
        if info.id < self.first_id:
            return
        write_at(self._file.fd, [info.encode()], RECORD_SIZE * (1 + info.id - self.first_id))

    def compacted(self, oldest_id: int) -> Catalogue:
        """The catalogue without the files before `oldest_id`, once they take most of it: a new one, or this one."""
        dead = oldest_id - self.first_id
        live = self._file.size() // RECORD_SIZE - 1 - dead
        if dead < max(live, _WORTH_COMPACTING):
            return self
        path = self._directory / CATALOGUE_NAME
        data = read_at(self._file.fd, max(0, live) * RECORD_SIZE, RECORD_SIZE * (1 + dead))
        write_file(path, _header_block(oldest_id) + data)
        return Catalogue(self._directory)

    def cut(self, last_id: int) -> None:
        """Removes the records behind file `last_id`."""
        size = RECORD_SIZE * (1 + last_id + 1 - self.first_id)
        if self._file.size() > size:
            os.ftruncate(self._file.fd, size)

    def sync(self) -> None:
        """Makes it durable, which only saves work after a crash."""
        fdatasync(self._file.fd)


def _header_block(first_id: int) -> bytes:
    header = _HEADER.pack(_MAGIC, 1, crc32(struct.pack("<Q", first_id)), first_id)
    return header.ljust(RECORD_SIZE, b"\0")


def files_in(segments: Segments, state: LogState) -> tuple[int, Sequence[FileInfo]]:
    """The number of the first source file that starts in the segments left, and all of them up to the state's."""
    files: list[FileInfo] = []
    end_pos, closed = 0, False
    index = segments.oldest
    while index <= state.index:
        segment = segments.open(segments.containing(index))
        records = segments.records(segment, index, 4096, state.index)
        live = (records["kind"] == Kind.DATA) & (records["flags"] & Flag.CANCELLED == 0)
        for at in np.flatnonzero(live & (records["flags"] & (Flag.FILE_START | Flag.FILE_END) != 0)):
            record = records[at]
            if record["flags"] & Flag.FILE_START:
                if files:
                    end_pos = int(records[at - 1]["end_pos"]) if at else end_pos
                    files[-1] = replace(files[-1], end_pos=end_pos, closed=closed)
                located, _ = next(segments.entries(int(record["index"]), int(record["index"])))
                names = Meta.decode(located.meta).file
                if names is None:
                    raise CorruptLogError(segment.log.path, located.offset, "it starts a source file without naming it")
                file_id = int(record["file_id"])
                files.append(
                    FileInfo(
                        file_id, names.name, names.source_name, located.header.index, located.header.end_pos, False
                    )
                )
            closed = bool(record["flags"] & Flag.FILE_END)
        end_pos = int(records[-1]["end_pos"])
        index += len(records)
    return (files[0].id if files else state.file_id + 1), files
