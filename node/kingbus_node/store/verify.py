"""Reading a whole log again, to find out whether the disk still holds what was written.

For every committed entry, in order:

1. The checksums: of the segment's header, of the entry's header and body, and the CRC32 of each event whose source file
   has them.
2. What entries say: they are numbered without gaps, and each may follow the one before (`state.LogState.fold`); the
   state in a segment's header is what the entries before it add up to.
3. GTIDs: none is there twice. What is missing in between (MySQL) is told as `gaps`: the source may have them as well.

What the disk cannot read at all (EIO) is damage like any other: it is what a dying disk says most often.

A log may be in use meanwhile: nothing behind what was committed at the start is looked at, and segments that are purged
are passed over. The work is a processor's and a disk's, so a node has it done in a process of its own::

    python -m kingbus_node.store.verify DIRECTORY

prints a JSON object in a line: ``{"checked": bytes, "total": bytes}`` now and then, then the `Report`.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from kingbus_node.binlog.checksum import BlockVerifier
from kingbus_node.binlog.constants import ChecksumAlgorithm, EventType
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.executed import ExecutedSet, executed_set
from kingbus_node.binlog.gtid import GtidSet, format_uuid
from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.binlog.scan import EVENT_AT, format_checksum
from kingbus_node.store.durable import FileHandle, read_at
from kingbus_node.store.entry import HEADER_SIZE, Flag, Kind, Meta
from kingbus_node.store.errors import CorruptLogError, FormatVersionError, InvalidEntryError
from kingbus_node.store.segment import Located, list_segments, log_path, read_header, walk
from kingbus_node.store.segments import state_of
from kingbus_node.store.state import LogState
from kingbus_node.store.watermark import Watermark
from kingbus_node.util.crc import crc32

Progress = Callable[[int, int], None]

MAX_DAMAGES: Final = 100
"""More than so many are not listed: the disk is broken."""
_STEP: Final = 32 << 20
_TYPE_AT: Final = EVENT_AT + 4


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not as it was written. `offset`: in the file. `entry`: its index, 0 if it is a file's head."""

    file: str
    offset: int
    entry: int
    problem: str


@dataclass(slots=True)
class Report:
    """What was found. `bytes`: of the files that were read. `gaps`: GTIDs between others that are not there."""

    segments: int = 0
    entries: int = 0
    transactions: int = 0
    bytes: int = 0
    gaps: str = ""
    damages: list[Damage] = field(default_factory=list)


def verify(directory: Path, progress: Progress | None = None) -> Report:
    """Reads the log in `directory`. `progress`: called with the bytes read and those that there are, now and then."""
    return _Verifier(directory, progress).run()


class _Verifier:
    def __init__(self, directory: Path, progress: Progress | None) -> None:
        self._directory = directory
        self._progress = progress
        self._report = Report()
        self._last = Watermark.open(directory).visible_index
        self._state: LogState | None = None  # after the entry that was read last; None behind damage
        self._final: LogState | None = None
        self._checksums = False  # the current source file's events have them
        self._events = BlockVerifier()
        self._total = 0
        self._told = 0

    def run(self) -> Report:
        segments = [first for first in list_segments(self._directory) if first <= self._last]
        paths = [log_path(self._directory, first) for first in segments]
        self._total = sum(path.stat().st_size for path in paths if path.exists())
        for first, path in zip(segments, paths, strict=True):
            try:
                file = FileHandle(path, os.O_RDONLY)
            except FileNotFoundError:
                self._state = None  # purged meanwhile
                continue
            try:
                self._segment(first, file)
            except OSError as error:
                self._unreadable(error, path, 0, 0, f"behind entry {self._index}")
                self._state = None
            if len(self._report.damages) >= MAX_DAMAGES:
                break
        if self._final is not None:
            self._report.gaps = _gaps(self._final)
        return self._report

    def _segment(self, first: int, file: FileHandle) -> None:
        self._report.segments += 1
        try:
            header = read_header(file, first)
            snapshot = state_of(header, file.path)
        except (CorruptLogError, FormatVersionError) as error:
            self._damage(file.path, 0, 0, str(error))
            self._state = None
            self._read(file.size())
            return
        before = self._state
        if before is not None and (before.index != snapshot.index or before.to_json() != snapshot.to_json()):
            self._damage(file.path, 64, 0, "the state in the header is not what the entries before it add up to")
        self._state = snapshot
        self._read(header.data_start)
        for located in walk(file, header.data_start, first, file.size()):
            if isinstance(located, str):
                self._damage(file.path, header.data_start, 0, f"behind entry {self._index}: {located}")
                self._state = None
                break
            if located.header.index > self._last:
                break
            self._entry(file, located)
            self._read(located.header.size)

    def _entry(self, file: FileHandle, located: Located) -> None:
        header = located.header
        self._report.entries += 1
        try:
            body = bytearray(read_at(file.fd, header.body_len, located.offset + HEADER_SIZE))
        except OSError as error:
            self._unreadable(error, file.path, located.offset, header.index, "the body")
            self._events.reset()
        else:
            self._body(file.path, located, body)
        state = self._state
        if state is None:
            return
        try:
            meta = Meta.decode(located.meta)
            again = _repeated(state, meta)
            state.fold(header, meta)
        except (InvalidEntryError, BinlogError) as error:
            self._damage(file.path, located.offset, header.index, str(error))
            self._state = None
            return
        self._final = state
        self._report.transactions += header.transaction_count
        if again:
            self._damage(file.path, located.offset, header.index, f"it holds GTIDs that were there before: {again}")

    def _body(self, path: Path, located: Located, body: bytearray) -> None:
        """What an entry holds behind its header."""
        header, actual = located.header, crc32(body)
        if len(body) < header.body_len or actual != header.body_crc:
            problem = f"the body's checksum is {actual:#010x}, expected {header.body_crc:#010x}"
            self._damage(path, located.offset, header.index, problem)
            self._events.reset()
        elif header.kind == Kind.DATA:
            self._data(path, located, body)
        elif header.kind == Kind.CANCEL:
            self._events.reset()

    def _data(self, path: Path, located: Located, body: bytearray) -> None:
        """The events of an intact entry."""
        header = located.header
        payload_at = header.meta_len + 4 * header.packet_count
        packets = np.frombuffer(bytes(body[header.meta_len : payload_at]), "<u4")
        payload = memoryview(body)[payload_at:]
        if header.flags & Flag.FIRST:
            self._events.reset()
        try:
            if header.flags & Flag.FILE_START:
                self._checksums = _has_checksums(payload)
            wrong = self._events.verify(payload, packets) if self._checksums else None
        except (BinlogError, ValueError) as error:
            self._damage(path, located.offset, header.index, f"its events cannot be told apart: {error}")
            return
        if wrong is not None:
            at = located.offset + HEADER_SIZE + payload_at + wrong
            self._damage(path, at, header.index, "an event's own checksum does not match")

    @property
    def _index(self) -> int:
        return 0 if self._state is None else self._state.index

    def _unreadable(self, error: OSError, path: Path, offset: int, entry: int, what: str) -> None:
        """The disk refused to read. Raises any other error again."""
        if error.errno != errno.EIO:
            raise error
        self._damage(path, offset, entry, f"{what} cannot be read: {error.strerror}")

    def _damage(self, path: Path, offset: int, entry: int, problem: str) -> None:
        if len(self._report.damages) < MAX_DAMAGES:
            self._report.damages.append(Damage(path.name, offset, entry, problem))

    def _read(self, count: int) -> None:
        self._report.bytes += count
        if self._progress is not None and self._report.bytes - self._told >= _STEP:
            self._told = self._report.bytes
            self._progress(self._told, self._total)


def _has_checksums(payload: memoryview) -> bool:
    """Whether the events of the source file that begins with `payload` have checksums, as its first event says."""
    if len(payload) <= _TYPE_AT or payload[_TYPE_AT] != EventType.FORMAT_DESCRIPTION:
        return False
    event = payload[EVENT_AT : EVENT_AT - 1 + int.from_bytes(payload[:3], "little")]
    return format_checksum(event) is ChecksumAlgorithm.CRC32


def _repeated(state: LogState, meta: Meta) -> str:
    """GTIDs of an entry that the state has already; '' for none."""
    if not meta.gtids or state.executed is None or state.flavor is None:
        return ""
    new: ExecutedSet = executed_set(state.flavor)
    new.apply_delta(meta.gtids)
    held = state.executed
    if isinstance(new, GtidSet) and isinstance(held, GtidSet):
        return str(new & held)
    if isinstance(new, MariadbState) and isinstance(held, MariadbState):
        return ",".join(str(gtid) for gtid in new if held.has(gtid))
    return ""


def _gaps(state: LogState) -> str:
    """Numbers between others of the same server and tag that are not executed. MariaDB's may be far apart: ''."""
    executed = state.executed
    if not isinstance(executed, GtidSet):
        return ""
    gaps: list[str] = []
    for (uuid, tag), intervals in executed.sources():
        pairs = list(intervals)
        for (_, end), (start, _) in itertools.pairwise(pairs):
            name = format_uuid(uuid) + (f":{tag}" if tag else "")
            gaps.append(f"{name}:{end}" + (f"-{start - 1}" if start - 1 > end else ""))
    return ",".join(gaps)


def main() -> None:
    """The entry point: see the module."""
    os.nice(10)  # serving and Raft come first

    def tell(checked: int, total: int) -> None:
        sys.stdout.write(json.dumps({"checked": checked, "total": total}) + "\n")
        sys.stdout.flush()

    report = verify(Path(sys.argv[1]), tell)
    sys.stdout.write(json.dumps(dataclasses.asdict(report)) + "\n")


if __name__ == "__main__":
    main()
