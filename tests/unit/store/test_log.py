"""The writer: append, commit, roll, cut, purge."""

from __future__ import annotations

import errno
import gc
import os
from dataclasses import replace
from pathlib import Path

import pytest
from unit.store.samples import CANCEL, NOOP, executed, started, write

from kingbus_node.store import log as log_module
from kingbus_node.store.entry import HEADER_SIZE, Entry, Kind, Meta, encode
from kingbus_node.store.errors import (
    InvalidEntryError,
    LogClosedError,
    LogLockedError,
    PurgedError,
    StoreError,
)
from kingbus_node.store.log import Log
from kingbus_node.store.marks import HardState
from kingbus_node.store.places import Place
from kingbus_node.store.reader import LogReader
from kingbus_node.store.segment import list_segments, log_path


def content(log: Log) -> list[tuple[int, int, int, bytes]]:
    return [
        (entry.index, entry.term, entry.kind, bytes(entry.payload))
        for entry in map(log.read, range(log.first_index, log.last_index + 1))
    ]


def test_what_is_appended_reads_back_before_and_after_reopening(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=4096)
    entries = [source.transaction((79, 60 + n, 31)) for n in range(100)]
    assert log.append(entries[:50], 1) == 52
    assert log.append(entries[50:], 4) == 102
    assert (log.last_index, log.last_term, log.commit_index, log.durable_index >= 2) == (102, 4, 2, True)
    assert [bytes(log.read(3 + n).payload) for n in range(100)] == [entry.payload for entry in entries]
    assert [log.term_of(n) for n in (0, 1, 52, 53, 102)] == [0, 1, 1, 4, 4]
    before = content(log)
    log.sync()
    log.commit(102)
    assert len(list_segments(tmp_path)) > 5
    state = log.state
    log.close()
    log = Log.open(tmp_path)
    assert content(log) == before
    assert (log.last_index, log.commit_index, log.visible_index) == (102, 102, 102)
    assert log.state == state
    log.close()


def test_an_append_is_taken_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=4096, transactions=3)
    before, tail = content(log), log.tail_state
    good = [source.transaction() for _ in range(40)]
    with pytest.raises(InvalidEntryError):
        log.append([*good, good[0]], 1)
    assert content(log) == before
    assert log.tail_state == tail
    assert len(list_segments(tmp_path)) == 1
    assert log.append(good, 1) == log.last_index == 45
    log.close()
    log = Log.open(tmp_path)
    assert log.last_index == 45
    log.close()


def test_a_log_of_many_segments_is_one_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_ENTRIES", 10)
    log, source = started(tmp_path)
    write(log, *(source.transaction() for _ in range(95)))
    assert list_segments(tmp_path) == list(range(1, 98, 10))
    assert log.stats().segments == 10
    assert str(log.state.executed) == executed(95)
    log.close()


def test_commit_never_goes_back_and_never_beyond_the_log(tmp_path: Path) -> None:
    log, source = started(tmp_path)
    log.append([source.transaction(), source.transaction()], 1)
    assert log.commit(3) == 3
    assert log.commit(2) == 3
    with pytest.raises(StoreError, match="the last one here is 4"):
        log.commit(5)
    assert (log.commit_index, str(log.state.executed)) == (3, executed(1))
    log.close()


def test_only_whole_transactions_become_visible(tmp_path: Path) -> None:
    log, source = started(tmp_path, transactions=1)
    reader = LogReader(tmp_path)
    assert write(log, source.fragment(first=True), source.fragment()) == 5
    assert (log.commit_index, log.visible_index, reader.visible_index) == (5, 3, 3)
    write(log, source.fragment(last=True))
    assert (log.visible_index, reader.visible_index) == (6, 6)
    log.close()


def test_a_cancel_marks_fragments_in_all_segments_that_they_are_in(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=4096, transactions=2)
    start = source.position
    write(log, source.fragment(first=True), *(source.fragment((900,)) for _ in range(12)), NOOP, term=1)
    assert len(list_segments(tmp_path)) >= 3
    write(log, CANCEL, term=2)
    source.position, source.number = start, 2
    write(log, source.transaction(), term=2)

    def served() -> tuple[list[int], list[bytes]]:
        cursor, indexes, data = LogReader(tmp_path).cursor(1), [], []
        while (block := cursor.read(1 << 20)) is not None:
            indexes += block.records["index"].tolist()
            data.append(bytes(block.data))
        return indexes, data

    indexes, data = served()
    assert indexes == [2, 3, 4, log.last_index]
    reader = LogReader(tmp_path)
    assert reader.locate(1, start) == (log.last_index, 0)
    log.close()
    for index in tmp_path.glob("*.idx"):
        index.unlink()
    log = Log.open(tmp_path)
    assert served() == (indexes, data)
    assert LogReader(tmp_path).locate(1, start) == (log.last_index, 0)
    log.close()


def test_a_conflicting_tail_is_cut_across_segments(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=4096, transactions=5)
    keep, position, number = content(log), source.position, source.number
    log.append([source.transaction((500, 500)) for _ in range(30)], 1)
    log.sync()
    assert len(list_segments(tmp_path)) > 4
    log.truncate_from(100)
    assert log.last_index == 37
    log.truncate_from(8)
    assert (log.last_index, log.durable_index, content(log)) == (7, 7, keep)
    assert len(list_segments(tmp_path)) == 1
    source.position, source.number = position, number
    log.append([source.transaction((77, 77)) for _ in range(3)], 2)
    after = content(log)
    assert [entry[1] for entry in after[7:]] == [2, 2, 2]
    log.close()
    log = Log.open(tmp_path)
    assert content(log) == after
    log.close()


def test_cutting_to_a_segments_first_entry_keeps_the_segment(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=4096)
    log.append([source.transaction((500, 500)) for _ in range(10)], 1)
    first = list_segments(tmp_path)[-1]
    position = log.read(first).start_pos
    log.truncate_from(first)
    assert (log.last_index, log.tail_state.end_pos) == (first - 1, position)
    assert log.term_of(first - 1) == 1
    source.position, source.number = position, first - 3
    log.append([source.transaction()], 3)
    assert (log.last_index, log.term_of(first)) == (first, 3)
    log.close()
    log = Log.open(tmp_path)
    assert log.last_index == first
    log.close()


def test_a_cut_that_crashed_half_way_leaves_a_log_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, source = started(tmp_path, transactions=5)
    keep = content(log)
    log.append([source.transaction() for _ in range(5)], 1)
    log.sync()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "ftruncate", crash)
    with pytest.raises(KeyboardInterrupt):
        log.truncate_from(8)
    monkeypatch.undo()
    log._lock_file.close()
    log = Log.open(tmp_path)
    assert content(log)[:7] == keep
    log.close()


def test_committed_entries_cannot_be_cut(tmp_path: Path) -> None:
    log, _ = started(tmp_path, transactions=5)
    with pytest.raises(StoreError, match="up to 7 is committed"):
        log.truncate_from(7)
    assert log.last_index == 7
    log.close()


def test_entries_travel_as_they_are_stored(tmp_path: Path) -> None:
    leader, source = started(tmp_path / "leader", segment_bytes=8192)
    write(leader, *(source.transaction((79, 500, 31)) for _ in range(60)), NOOP, source.transaction((60_000,)))
    follower = Log.open(tmp_path / "follower", segment_bytes=4096)
    while follower.last_index < leader.last_index:
        first = follower.last_index + 1
        data = leader.entry_bytes(first, leader.last_index, 3000)
        assert len(data) <= 3000 or first == leader.last_index
        follower.append_encoded(data)
    follower.sync()
    follower.commit(follower.last_index)
    assert content(follower) == content(leader)
    assert follower.state == leader.state
    leader.close()
    follower.close()


def test_a_damaged_or_misplaced_entry_from_another_node_is_refused(tmp_path: Path) -> None:
    leader, _ = started(tmp_path / "leader", transactions=10)
    follower = Log.open(tmp_path / "follower")
    data = bytearray(leader.entry_bytes(1, 12, 1 << 20))
    data[-10] ^= 1
    with pytest.raises(InvalidEntryError, match="checksum"):
        follower.append_encoded(data)
    with pytest.raises(InvalidEntryError, match="expected entry 1, found entry 3"):
        follower.append_encoded(leader.entry_bytes(3, 12, 1 << 20))
    assert follower.last_index == 0
    leader.close()
    follower.close()


def test_a_purge_drops_whole_segments_up_to_the_oldest_retained_file(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=4096, transactions=30)
    for _ in range(3):
        write(log, source.end_of_file(), source.file(), *(source.transaction() for _ in range(30)))
    reader = LogReader(tmp_path)
    start = reader.file(3).start_index
    expected = reader.executed_at_file_start(3)
    size = log.stats().bytes
    write(log, log.purge_entry(3))
    assert log.first_index <= start
    assert [first for first in list_segments(tmp_path) if first < log.first_index] == []
    assert len([first for first in list_segments(tmp_path) if first <= start]) == 1
    assert log.stats().bytes < size
    assert (log.state.purged, log.state.oldest_file) == (expected, 3)
    assert [info.id for info in reader.files()] == [3, 4]
    assert str(reader.purged()) == executed(60)
    assert log.term_of(log.first_index - 1) == 1
    for gone in (lambda: log.read(1), lambda: log.term_of(1), lambda: reader.cursor(1), lambda: reader.locate(2, 4)):
        with pytest.raises(PurgedError):
            gone()
    with pytest.raises(StoreError, match="3 to 4"):
        log.purge_entry(2)
    state = log.state
    log.close()
    log = Log.open(tmp_path)
    assert log.state == state
    assert [info.id for info in LogReader(tmp_path).files()] == [3, 4]
    log.close()


def test_a_purge_that_crashed_half_way_is_finished_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, source = started(tmp_path, segment_bytes=4096, transactions=60)
    write(log, source.end_of_file(), source.file(), source.transaction())
    real = Path.unlink
    count = 0

    def unlink(path: Path, missing_ok: bool = False) -> None:
        nonlocal count
        count += 1
        if count > 3:
            raise KeyboardInterrupt
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        write(log, log.purge_entry(2))
    monkeypatch.undo()
    start = log.state.first_index
    log._lock_file.close()
    log = Log.open(tmp_path)
    assert len([first for first in list_segments(tmp_path) if first <= start]) == 1
    assert (log.state.oldest_file, str(log.state.purged)) == (2, executed(60))
    log.close()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    log, _ = started(tmp_path)
    with pytest.raises(LogLockedError):
        Log.open(tmp_path)
    log.close()
    log.close()
    with pytest.raises(LogClosedError):
        log.append([NOOP], 1)
    Log.open(tmp_path).close()


def test_term_and_vote_are_kept(tmp_path: Path) -> None:
    log = Log.open(tmp_path)
    assert log.hard_state == HardState(0, None)
    log.set_hard_state(4, "node-2:7401")
    log.close()
    log = Log.open(tmp_path)
    assert log.hard_state == HardState(4, "node-2:7401")
    log.close()


def test_an_entry_notes_how_many_before_it_were_not_durable_yet(tmp_path: Path) -> None:
    log, source = started(tmp_path)
    log.append([source.transaction(), source.transaction()], 1)
    log.append([source.transaction()], 1)
    log.sync()
    log.append([source.transaction()], 1)
    unsynced = [located.header.unsynced for located, _ in log._segments.entries(3, 6)]
    assert unsynced == [0, 1, 2, 0]
    log.close()


def test_memory_does_not_grow_with_entries_and_files(tmp_path: Path) -> None:
    import tracemalloc

    log, source = started(tmp_path, segment_bytes=1 << 20)

    def build() -> None:
        for _ in range(30):
            write(log, *(entry for _ in range(30) for entry in (source.transaction((30,)), source.file())))

    def traced() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        build()  # the newest entries are remembered, so many of them
        first = traced()
        build()
        second = traced()
    finally:
        tracemalloc.stop()
    assert second - first < 100_000
    reader = LogReader(tmp_path)
    assert sum(1 for _ in reader.files()) == 1801
    assert reader.state().file_id == 1801
    log.close()


def test_an_entry_too_big_is_refused(tmp_path: Path) -> None:
    log, source = started(tmp_path)
    entry = Entry(Kind.STATE, meta=Meta(json={"x": "y" * (64 << 20)}))
    with pytest.raises(InvalidEntryError, match="at most"):
        encode(entry, 1, 1, 0)
    with pytest.raises(InvalidEntryError):
        log.append([replace(source.transaction(), payload=bytes(65 << 20))], 1)
    log.close()


def test_the_newest_entries_are_found_without_reading_where_the_index_has_them(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=20_000)
    for size in (30, 3_000, 30, 9_000, 50, 5_000, 5_000, 30, 100):
        log.append([source.transaction((size,))], 1)
    log.append([Entry(Kind.NOOP)], 2)
    log.commit(log.last_index)

    def everything(log: Log) -> list[tuple[str, list[Place]]]:
        found = []
        for first in range(1, log.last_index + 1):
            for last in range(first, log.last_index + 1):
                for most in (1, 200, 4_000, 15_000, 1 << 20):
                    file, places = log.places(first, last, most)
                    found.append((file.path.name, places))
        return found

    remembered = everything(log)
    log.close()
    log = Log.open(tmp_path, segment_bytes=20_000)
    assert everything(log) == remembered
    log.close()


def test_what_was_cut_off_is_not_remembered(tmp_path: Path) -> None:
    log, source = started(tmp_path)
    log.append([source.transaction((100,)), source.transaction((200,))], 1)
    last = log.last_index
    log.truncate_from(last)
    log.append([Entry(Kind.NOOP)], 2)
    log.commit(last)
    file, places = log.places(last, last, 1 << 20)
    assert (places[0].term, places[0].kind, places[0].size) == (2, Kind.NOOP, HEADER_SIZE)
    assert places[0].offset + HEADER_SIZE == file.size()
    assert log.state.term == 2
    log.close()


@pytest.mark.parametrize("unreadable", [False, True], ids=["damaged", "unreadable"])
def test_a_log_whose_oldest_events_are_damaged_still_tells_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, unreadable: bool
) -> None:
    log, _ = started(tmp_path, transactions=3)
    path = log_path(tmp_path, 1)
    before = log.stats()
    assert before.oldest_timestamp == 1_700_000_000
    at = log.places(2, 2, 1)[1][0].offset + 20
    read = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == path.stat().st_ino and offset <= at < offset + size:
            raise OSError(errno.EIO, "Input/output error")
        return read(fd, size, offset)

    if unreadable:
        monkeypatch.setattr(os, "pread", pread)
    else:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"!")
    for _ in range(2):
        assert replace(log.stats(), free_bytes=0) == replace(before, free_bytes=0, oldest_timestamp=0)
    assert caplog.text.count("cannot be read") == 1
    monkeypatch.undo()
    log.close()
