"""A binlog file comes out of the log as its source wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from unit.store.samples import started, write

from kingbus_node.admin.download import MAGIC, binlog
from kingbus_node.admin.views import Refused
from kingbus_node.store.entry import CONTINUATION, Entry, Kind
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader

MAX_PACKET = 0xFFFFFF


def bytes_of(entry: Entry) -> bytes:
    """The events of an entry, by the plainest way there is."""
    packets = entry.packets.tolist()
    starts = [packet & ~CONTINUATION for packet in packets]
    ends = [*starts[1:], len(entry.payload)]
    pieces = [
        bytes(entry.payload[start + (4 if packet & CONTINUATION else 5) : end])
        for packet, start, end in zip(packets, starts, ends, strict=True)
    ]
    return b"".join(pieces)


@contextmanager
def reading(log: Log) -> Iterator[LogReader]:
    reader = LogReader(log.directory)
    try:
        yield reader
    finally:
        reader.close()
        log.close()


def expected(log: Log, first: int, last: int) -> bytes:
    entries = (log.read(index) for index in range(first, last + 1))
    return b"".join(bytes_of(entry) for entry in entries if entry.kind == Kind.DATA)


def whole(reader: LogReader, name: str, position: int = 4) -> bytes:
    return b"".join(binlog(reader, name, position))


def test_files_begin_with_their_magic_and_end_where_the_next_begins(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=64 * 1024, transactions=300)
    write(log, source.end_of_file(), source.file(), *(source.transaction([5000]) for _ in range(50)))
    with reading(log) as reader:
        boundary = next(info.start_index for info in reader.files() if info.id == 2)
        assert whole(reader, "binlog.000001") == MAGIC + expected(log, 1, boundary - 1)
        assert whole(reader, "binlog.000002") == MAGIC + expected(log, boundary, log.last_index)


@pytest.mark.parametrize("size", [MAX_PACKET - 2, MAX_PACKET - 1, MAX_PACKET, 3 * MAX_PACKET])
def test_events_of_several_packets_come_out_in_one_piece(size: int, tmp_path: Path) -> None:
    log, source = started(tmp_path)
    write(log, source.transaction([79, size, 31]), source.transaction())
    with reading(log) as reader:
        content = whole(reader, "binlog.000001")
        assert content == MAGIC + expected(log, 1, log.last_index)
        assert len(content) == source.position


def test_from_a_position_on_the_files_head_comes_first(tmp_path: Path) -> None:
    log, source = started(tmp_path, transactions=10)
    with reading(log) as reader:
        content = whole(reader, "binlog.000001")
        head = content[: 4 + 123]
        at = source.position - 170 * 3
        assert whole(reader, "binlog.000001", at) == head + content[at:]
        assert whole(reader, "binlog.000001", source.position) == head
        for position in (at + 1, source.position + 1):
            with pytest.raises(Refused) as refused:
                binlog(reader, "binlog.000001", position)
            assert refused.value.status == 400


def test_what_is_cancelled_or_not_committed_is_not_in_it(tmp_path: Path) -> None:
    log, source = started(tmp_path, transactions=2)
    before = expected(log, 1, log.last_index)
    position, number = source.position, source.number
    write(log, source.fragment(first=True), source.fragment(), Entry(Kind.CANCEL))
    source.position, source.number = position, number
    begin = log.last_index + 1
    write(log, source.transaction())
    after = expected(log, begin, begin)
    log.append([source.transaction()], 1)
    with reading(log) as reader:
        assert whole(reader, "binlog.000001") == MAGIC + before + after


def test_a_file_that_is_written_meanwhile_ends_where_it_was_asked_for(tmp_path: Path) -> None:
    log, source = started(tmp_path, transactions=3)
    with reading(log) as reader:
        pieces = binlog(reader, "binlog.000001", 4)
        then = expected(log, 1, log.last_index)
        write(log, *(source.transaction() for _ in range(5)))
        assert b"".join(pieces) == MAGIC + then


def test_a_file_that_is_not_there_is_404(tmp_path: Path) -> None:
    log, _ = started(tmp_path)
    with reading(log) as reader, pytest.raises(Refused, match="there is no binlog file 'other'") as refused:
        binlog(reader, "other", 4)
    assert refused.value.status == 404
