"""Opening a log after a crash, a torn write, a failing disk, or damage."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.store.kills import ends_before_kill
from unit.store.samples import CANCEL, NOOP, Source, examples, executed, started, write

from kingbus_node.store import active as active_module
from kingbus_node.store import catalogue as catalogue_module
from kingbus_node.store import commits as commits_module
from kingbus_node.store import durable
from kingbus_node.store import log as log_module
from kingbus_node.store import marks as marks_module
from kingbus_node.store.entry import HEADER_SIZE
from kingbus_node.store.errors import CorruptLogError, FormatVersionError, LogFailedError, LogFullError
from kingbus_node.store.log import Log
from kingbus_node.store.marks import HardState
from kingbus_node.store.reader import LogReader
from kingbus_node.store.segment import index_path, list_segments, log_path


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for each example of a property test."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def abandon(log: Log) -> None:
    """Lets go of a log as a crash of the process does: nothing is synced or noted."""
    log._closed = True
    log._lock_file.close()


def boundaries(log: Log) -> list[int]:
    """Where the entries of the newest segment end in its file, the header block first."""
    segment = log._segments.open(log._segments.newest)
    ends = [segment.header().data_start]
    ends += [located.end for located, _ in log._segments.entries(segment.first_index, log.last_index)]
    return ends


def served(directory: Path) -> bytes:
    cursor, data = LogReader(directory).cursor(LogReader(directory)._watermark.first_index), bytearray()
    while (block := cursor.read(1 << 20)) is not None:
        data += block.data
    return bytes(data)


@pytest.mark.fuzz
@examples(3)
@given(st.data())
def test_a_torn_tail_is_cut_to_the_longest_durable_prefix(data: st.DataObject) -> None:
    """Any part of the unsynced region may be missing or hold anything at all after a crash of the machine."""
    with scratch() as directory:
        log, source = started(directory, transactions=data.draw(st.integers(0, 3)))
        synced = log.last_index
        log.append([source.transaction((30, 30 + n)) for n in range(data.draw(st.integers(1, 6)))], 1)
        ends = boundaries(log)
        path = log_path(directory, 1)
        abandon(log)
        content = bytearray(path.read_bytes())
        durable_end = ends[synced]
        keep = data.draw(st.integers(durable_end, len(content)))
        content = content[:keep]
        first_bad = keep
        for _ in range(data.draw(st.integers(0, 3))):
            if keep > durable_end:
                at = data.draw(st.integers(durable_end, keep - 1))
                size = data.draw(st.integers(1, keep - at))
                junk = data.draw(st.sampled_from([bytes(size), b"\xff" * size, content[:size]]))
                if content[at : at + size] != junk:
                    changed = next(n for n in range(size) if content[at + n] != junk[n])
                    first_bad = min(first_bad, at + changed)
                content[at : at + size] = junk
        path.write_bytes(content)
        expected = max(n for n, end in enumerate(ends) if end <= first_bad)
        log = Log.open(directory)
        assert log.last_index >= expected
        if log.last_index > expected:  # the junk put back what had been there
            assert bytes(content[: ends[log.last_index]]) == path.read_bytes()
        assert path.stat().st_size == ends[log.last_index]
        number = log.last_index - 2
        assert str(log.tail_state.executed) == executed(number)
        source = Source()
        source.file()
        source.file_id, source.position, source.number = 1, log.tail_state.end_pos, number
        write(log, source.transaction())
        log.close()
        log = Log.open(directory)
        assert str(log.state.executed) == executed(number + 1)
        log.close()


@pytest.mark.fuzz
@examples(3)
@given(st.data())
def test_damage_below_the_mark_is_never_cut(data: st.DataObject) -> None:
    """A byte that was durable changes: opening, or reading that entry, says so; nothing is lost in silence."""
    with scratch() as directory:
        log, _ = started(directory, transactions=5)
        ends = boundaries(log)
        before = [bytes(log.read(index).payload) for index in range(1, 8)]
        log.close()
        path = log_path(directory, 1)
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        bad = next(n for n, end in enumerate(ends) if at < end)
        try:
            log = Log.open(directory)
        except (CorruptLogError, FormatVersionError) as error:
            refused = str(error)
        else:
            refused = ""
        if refused:
            assert str(path) in refused
            return
        try:
            for index in range(1, 8):
                if index == bad:
                    with pytest.raises(CorruptLogError, match=path.name):
                        log.read(index)
                else:
                    assert bytes(log.read(index).payload) == before[index - 1]
        finally:
            log.close()


def test_a_file_shorter_than_its_durable_part_is_refused(tmp_path: Path) -> None:
    log, _ = started(tmp_path, transactions=5)
    log.close()
    path = log_path(tmp_path, 1)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CorruptLogError, match="were durable"):
        Log.open(tmp_path)


def test_damage_that_a_later_entry_proves_to_have_been_durable_is_refused(tmp_path: Path) -> None:
    """The mark was lost with the page cache, but the entries themselves say what had been synced before them."""
    log, source = started(tmp_path, transactions=3)
    write(log, source.transaction())
    ends = boundaries(log)
    log.append([source.transaction(), source.transaction()], 1)
    abandon(log)
    (tmp_path / "mark").unlink()
    path = log_path(tmp_path, 1)
    good = path.read_bytes()
    for index, witness in ((3, 6), (6, 7)):
        bad = bytearray(good)
        bad[ends[index] - 5] ^= 1
        path.write_bytes(bad)
        with pytest.raises(CorruptLogError, match=f"entry {witness}, which is intact") as caught:
            Log.open(tmp_path)
        assert caught.value.offset == ends[index - 1]
    bad = bytearray(good)
    bad[ends[6] + 100] ^= 1  # entry 7, which nobody says was durable
    path.write_bytes(bad)
    log = Log.open(tmp_path)
    assert log.last_index == 6
    log.close()


def test_a_missing_segment_is_refused(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=4096, transactions=60)
    log.close()
    firsts = list_segments(tmp_path)
    assert len(firsts) > 3
    for first in (firsts[1], firsts[-1]):
        copy = tmp_path.with_name(f"{tmp_path.name}-{first}")
        shutil.copytree(tmp_path, copy)
        log_path(copy, first).unlink()
        with pytest.raises(CorruptLogError):
            Log.open(copy)
    for first in firsts:
        log_path(tmp_path, first).unlink()
    with pytest.raises(CorruptLogError, match="all segments are gone"):
        Log.open(tmp_path)
    assert source.number == 60


def test_an_older_segment_that_was_cut_is_refused(tmp_path: Path) -> None:
    log, _ = started(tmp_path, segment_bytes=4096, transactions=60)
    log.close()
    path = log_path(tmp_path, list_segments(tmp_path)[1])
    os.truncate(path, path.stat().st_size - 10)
    with pytest.raises(CorruptLogError, match=path.name):
        Log.open(tmp_path)


def every_index(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.idx")}


@pytest.mark.parametrize("damage", ["missing", "short", "long", "odd", "behind"])
def test_the_index_is_made_again_from_the_log(tmp_path: Path, damage: str) -> None:
    log, source = started(tmp_path, segment_bytes=4096, transactions=10)
    position = source.position
    write(log, source.fragment(first=True), *(source.fragment((700,)) for _ in range(8)), CANCEL, NOOP)
    source.position = position
    write(log, *(source.transaction() for _ in range(10)))
    data, executed_before = served(tmp_path), str(log.state.executed)
    log.close()
    before = every_index(tmp_path)
    for first in list_segments(tmp_path):
        path = index_path(tmp_path, first)
        size = path.stat().st_size
        if damage == "missing":
            path.unlink()
        elif damage == "long":
            path.write_bytes(path.read_bytes() + bytes(64))
        else:
            os.truncate(path, {"short": 0, "odd": size - 1, "behind": size - 64}[damage])
    log = Log.open(tmp_path)
    assert every_index(tmp_path) == before
    assert served(tmp_path) == data
    assert str(log.state.executed) == executed_before
    log.close()


def test_a_damaged_record_is_noticed_by_readers_and_mended_from_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, source = started(tmp_path, segment_bytes=4096, transactions=30)
    write(log, source.fragment(first=True), source.fragment((3000,)), source.fragment((3000,)), CANCEL)
    data = served(tmp_path)
    for first in list_segments(tmp_path):
        path = index_path(tmp_path, first)
        content = bytearray(path.read_bytes())
        content[20::64] = b"\x77" * len(content[20::64])
        path.write_bytes(content)
    assert served(tmp_path) == data
    assert "is damaged: using the log itself" in caplog.text
    assert LogReader(tmp_path).locate(1, 4) == (2, 0)
    log.close()
    log = Log.open(tmp_path)
    assert served(tmp_path) == data
    log.close()


@pytest.mark.parametrize("damage", ["missing", "short", "garbled", "header", "stale"])
def test_the_catalogue_is_made_again_from_the_log(tmp_path: Path, damage: str) -> None:
    log, source = started(tmp_path, segment_bytes=4096, transactions=3)
    path = tmp_path / "files.cat"
    stale = path.read_bytes()
    for number in range(20):
        write(log, source.transaction(), NOOP)
        if number % 3:
            write(log, source.end_of_file(), NOOP)
        write(log, source.file(), source.transaction())
    files = list(LogReader(tmp_path).files())
    log.close()
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        os.truncate(path, len(content) - 512)
    elif damage == "stale":
        path.write_bytes(stale)
    else:
        content[{"garbled": 512 * 5 + 9, "header": 3}[damage]] ^= 1
        path.write_bytes(content)
    log = Log.open(tmp_path)
    assert list(LogReader(tmp_path).files()) == files
    assert [info.closed for info in files[:-1]] == [number % 3 > 0 for number in range(20)]
    log.close()


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    log, _ = started(tmp_path)
    log.close()
    (tmp_path / "00000000000000000003.log.tmp").write_bytes(b"half")
    (tmp_path / "00000000000000000003.idx").write_bytes(b"")
    Log.open(tmp_path).close()
    assert sorted(path.name for path in tmp_path.iterdir() if "0003" in path.name) == []


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def quota(*_: object) -> None:
    raise OSError(errno.EDQUOT, "Disk quota exceeded")


def io_error(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def short_write(fd: int, buffers: list[bytes], offset: int) -> int:
    """Half of the first buffer, then nothing more fits."""
    if os.fstat(fd).st_size > offset:
        no_space()
    first = bytes(memoryview(buffers[0])[: len(buffers[0]) // 2])
    written = os.pwrite(fd, first, offset)
    os.pwrite(fd, b"half an entry", offset + written)
    return written


@pytest.mark.parametrize("failing", [no_space, short_write])
def test_a_full_disk_refuses_entries_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: Callable[..., int]
) -> None:
    log, source = started(tmp_path, transactions=5)
    log.set_hard_state(2, "a")
    size = log_path(tmp_path, 1).stat().st_size
    position = source.position
    assert log.refused_at == float("-inf")
    monkeypatch.setattr(os, "pwritev", failing)
    for _ in range(2):
        with pytest.raises(LogFullError, match="No space left"):
            log.append([source.transaction() for _ in range(3)], 1)
        with pytest.raises(LogFullError):
            log.set_hard_state(3, None)
    monkeypatch.undo()
    assert (log.failure, log.last_index, log.hard_state) == (None, 7, HardState(2, "a"))
    assert log.refused_at > 0
    assert log_path(tmp_path, 1).stat().st_size == size
    source.position, source.number = position, 5
    write(log, source.transaction())
    log.close()
    log = Log.open(tmp_path)
    assert str(log.state.executed) == executed(6)
    log.close()


@pytest.mark.parametrize("failing", [no_space, quota])
def test_a_segment_that_finds_no_room_is_begun_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: Callable[..., None]
) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_ENTRIES", 6)
    for what in (durable, active_module):
        directory = tmp_path / what.__name__
        log, source = started(directory, transactions=4)
        position = source.position
        with monkeypatch.context() as patched:
            patched.setattr(what, "fsync_directory" if what is durable else "write_file", failing)
            with pytest.raises(LogFullError):
                log.append([source.transaction() for _ in range(3)], 1)
        assert (list_segments(directory), log.last_index) == ([1], 6)
        source.position, source.number = position, 4
        write(log, *(source.transaction() for _ in range(3)))
        log.close()
        log = Log.open(directory)
        assert (list_segments(directory), str(log.state.executed)) == ([1, 7], executed(7))
        log.close()


def test_a_sync_that_finds_no_room_writes_again_what_was_not_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the failure the page cache counts as clean: another fsync alone would do nothing."""
    log, source = started(tmp_path, transactions=2)
    synced = log_path(tmp_path, 1).stat().st_size
    log.append([source.transaction((300,))], 1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", no_space)
        for _ in range(2):
            with pytest.raises(LogFullError):
                log.sync()
    assert (log.durable_index, log.failure) == (4, None)
    log.append([source.transaction()], 1)
    end = log_path(tmp_path, 1).stat().st_size
    written: list[tuple[int, int]] = []
    real = os.pwritev

    def pwritev(fd: int, buffers: list[bytes], offset: int) -> int:
        if Path(f"/proc/self/fd/{fd}").readlink().suffix == ".log":
            written.append((offset, sum(map(len, buffers))))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    assert log.sync() == 6
    assert written == [(synced, end - synced)]
    log.commit(6)
    log.append([source.transaction()], 1)
    log.sync()
    assert len(written) == 2  # nothing again that is durable
    log.close()


@pytest.mark.parametrize("full", [True, False], ids=["full", "broken"])
def test_a_segment_is_not_ended_beside_a_sync_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """The kernel tells one of two fsyncs at the same time that a write failed; the other one succeeds."""
    monkeypatch.setattr(log_module, "SEGMENT_ENTRIES", 6)
    log, source = started(tmp_path, transactions=2)
    path = log_path(tmp_path, 1)
    synced = path.stat().st_size
    log.append([source.transaction(), source.transaction()], 1)
    inode = path.stat().st_ino
    begun, beside = threading.Event(), threading.Event()
    failed = list[bool]()
    written = list[int]()
    sync, write_vector = os.fdatasync, os.pwritev

    def fdatasync(fd: int) -> None:
        if os.fstat(fd).st_ino == inode and not failed:
            if begun.is_set():
                beside.set()
                return
            begun.set()
            beside.wait(1)  # nobody comes
            failed.append(True)
            no_space() if full else io_error()
        sync(fd)

    def pwritev(fd: int, buffers: list[bytes], offset: int) -> int:
        if os.fstat(fd).st_ino == inode:
            written.append(offset)
        return write_vector(fd, buffers, offset)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(os, "pwritev", pwritev)
    expected = LogFullError if full else LogFailedError
    with ThreadPoolExecutor(1) as pool:
        syncing = pool.submit(log.sync)
        assert begun.wait(60)
        entries = [source.transaction(), source.transaction()]
        if full:
            assert log.append(entries, 1) == 8  # the seventh begins another segment
        else:
            with pytest.raises(LogFailedError):
                log.append(entries, 1)
        with pytest.raises(expected):
            syncing.result()
    if full:
        assert synced in written  # what the disk may not have was written again before the next segment began
        assert log.durable_index == 6
    else:
        assert (log.durable_index, list_segments(tmp_path)) == (4, [1])
    log.close()


def test_what_the_cache_lost_after_a_sync_without_room_is_not_taken_for_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, source = started(tmp_path, transactions=2)
    synced = log_path(tmp_path, 1).stat().st_size
    log.append([source.transaction((300,))], 1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", no_space)
        with pytest.raises(LogFullError):
            log.sync()
    with log_path(tmp_path, 1).open("r+b") as file:
        file.seek(synced + 100)
        file.write(bytes(50))
    with pytest.raises(LogFailedError, match="before it was durable"):
        log.sync()
    assert log.durable_index == 4
    log.close()


@pytest.mark.parametrize("what", ["file", "cancel"])
def test_a_commit_that_finds_no_room_is_shown_once_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    log, source = started(tmp_path, transactions=2)
    position = source.position
    if what == "file":
        log.append([source.end_of_file(), source.file(), source.transaction()], 1)
    else:
        log.append([source.fragment(first=True), source.fragment(), CANCEL], 1)
        source.position, source.number = position, 2
        log.append([source.transaction()], 1)
    last = log.sync()
    with monkeypatch.context() as patched:
        patched.setattr(catalogue_module if what == "file" else commits_module, "write_at", no_space)
        for _ in range(2):
            assert log.commit(last) == 4
    assert (log.commit_index, log.visible_index, LogReader(tmp_path).visible_index) == (4, 4, 4)
    assert log.commit(last) == last
    reader = LogReader(tmp_path)
    assert (log.commit_index, reader.visible_index, str(reader.state().executed)) == (last, last, executed(3))
    assert [file.id for file in reader.files()] == ([1, 2] if what == "file" else [1])
    data = served(tmp_path)
    log.close()
    log = Log.open(tmp_path)
    assert served(tmp_path) == data
    log.close()


def test_a_mark_that_finds_no_room_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, source = started(tmp_path, transactions=2)
    log.append([source.transaction()], 1)
    with monkeypatch.context() as patched:
        patched.setattr(marks_module, "write_at", no_space)
        assert log.sync() == 5
        assert log.commit(5) == 5
    abandon(log)
    log = Log.open(tmp_path)
    assert log.last_index == 5
    log.close()


def test_an_fsync_that_failed_is_never_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, source = started(tmp_path, transactions=2)
    log.append([source.transaction()], 1)
    calls = []

    def failing(fd: int) -> None:
        calls.append(fd)
        io_error()

    monkeypatch.setattr(durable, "fdatasync", failing)
    with pytest.raises(LogFailedError, match="Input/output error") as caught:
        log.sync()
    assert isinstance(caught.value.__cause__, OSError)
    assert log.durable_index == 4
    with pytest.raises(LogFailedError):
        log.sync()
    log.close()
    assert len(calls) == 1


def test_what_a_failed_fsync_left_is_written_again_when_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync the cache may show bytes that the disk lacks, and that another fsync would skip."""
    log, source = started(tmp_path, transactions=2)
    synced = log_path(tmp_path, 1).stat().st_size
    log.append([source.transaction((300,))], 1)
    end = log_path(tmp_path, 1).stat().st_size
    abandon(log)
    written: list[tuple[int, int]] = []
    real = os.pwritev

    def pwritev(fd: int, buffers: list[bytes], offset: int) -> int:
        if Path(f"/proc/self/fd/{fd}").readlink().suffix == ".log":
            written.append((offset, sum(map(len, buffers))))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    log = Log.open(tmp_path)
    assert written == [(synced, end - synced)]
    assert log.durable_index == log.last_index == 5
    log.close()
    written.clear()
    Log.open(tmp_path).close()
    assert written == []


def test_opening_reads_payloads_only_behind_the_last_known_good_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, source = started(tmp_path, segment_bytes=32 << 20, transactions=2)
    write(log, *(source.transaction((1 << 20,)) for _ in range(50)))
    log.append([source.transaction((1 << 20,))], 1)
    abandon(log)
    read = 0
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        nonlocal read
        data = real(fd, size, offset)
        read += len(data)
        return data

    monkeypatch.setattr(os, "pread", pread)
    log = Log.open(tmp_path)
    assert log.last_index == 55
    assert read < 6 << 20  # one entry twice, and 16 KiB around each header in the newest segment
    log.close()


@pytest.mark.parametrize("scenario", ["append", "roll", "cancel", "truncate", "purge"])
def test_a_kill_at_any_system_call_leaves_what_was_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str
) -> None:
    """Runs a scenario again and again, killed at its first, second, third … system call, and opens what is left."""
    monkeypatch.setattr(log_module, "SEGMENT_ENTRIES", 6)

    def run(log: Log, source: Source) -> None:
        if scenario in ("append", "roll"):
            write(log, *(source.transaction() for _ in range(2 if scenario == "append" else 15)))
        elif scenario == "cancel":
            log.commit(write(log, source.fragment(first=True), *(source.fragment() for _ in range(9)), CANCEL))
        elif scenario == "truncate":
            log.append([source.transaction() for _ in range(15)], 1)
            log.sync()
            log.truncate_from(8)
        else:
            write(log, source.end_of_file(), source.file(), source.transaction(), source.end_of_file(), source.file())
            write(log, log.purge_entry(3))

    killed_at = 0
    while True:
        directory = tmp_path / str(killed_at)
        log, source = started(directory, transactions=5)
        durable_before = [bytes(log.read(index).payload) for index in range(1, 8)]
        finished = ends_before_kill(partial(run, log, source), killed_at, monkeypatch)
        abandon(log)
        log = Log.open(directory)
        assert log.last_index >= 7
        assert log.commit_index >= 7
        if log.first_index == 1:
            assert [bytes(log.read(index).payload) for index in range(1, 8)] == durable_before
        log.commit(log.last_index)
        assert log.state == log.tail_state
        if log.state.open_index is not None:
            write(log, CANCEL)
        source = Source()
        source.file_id, source.position = log.state.file_id, log.state.end_pos
        source.number = int(str(log.state.executed).rsplit("-", 1)[1])
        write(log, source.transaction())
        log.close()
        log = Log.open(directory)
        assert len(list(LogReader(directory).files())) == log.state.file_id - log.state.oldest_file + 1
        log.close()
        shutil.rmtree(directory)
        if finished:
            break
        killed_at += 1
    assert killed_at > 3


def _writer(directory: Path, pipe: Connection) -> None:
    """Appends for ever, and tells through the pipe what is durable."""
    log = Log.open(directory, segment_bytes=64 << 10)
    log.commit(log.last_index)
    source = Source()
    if log.state.file is None:
        write(log, source.flavor(), source.file())
    else:
        if log.state.open_index is not None:
            write(log, CANCEL)
        source.file_id, source.position = log.state.file_id, log.state.end_pos
        source.number = int(str(log.state.executed).rsplit("-", 1)[1])
        if log.state.file.closed:  # killed when a segment had ended between the end of a file and the next one's begin
            write(log, source.file())
    while True:
        group = [source.transaction((79, 200 + n)) for n in range(source.number % 7 + 1)]
        if source.number % 5 == 0:
            group += source.fragment(first=True), source.fragment((5000,)), source.fragment(last=True)
        if source.number % 11 == 0:
            group += source.end_of_file(), source.file()
        last = log.append(group, 1)
        log.sync()
        log.commit(last)
        pipe.send((last, source.number))


def test_a_writer_killed_again_and_again_loses_nothing_durable(tmp_path: Path) -> None:
    """Promises 4 and 5, at the level of the store."""
    context = multiprocessing.get_context("spawn")
    told = (0, 0)
    for round_number in range(6):
        here, there = context.Pipe()
        process = context.Process(target=_writer, args=(tmp_path, there))
        process.start()
        there.close()
        for _ in range(20 + 13 * round_number):
            assert here.poll(60)
            told = here.recv()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while here.poll():
            try:
                told = here.recv()
            except EOFError:
                break
        here.close()
        log = Log.open(tmp_path)
        assert log.last_index >= told[0]
        log.commit(log.last_index)
        number = int(str(log.state.executed).rsplit("-", 1)[1])
        assert str(log.state.executed) == executed(number)
        assert number >= told[1]
        position, file_id = 4, 1
        for index in range(1, log.last_index + 1):
            entry = log.read(index)
            if entry.kind == 1:
                if entry.file_id != file_id:
                    file_id, position = entry.file_id, 4
                if entry.start_pos != position:
                    assert log.read(index - 1).kind == 4  # a transaction that was cut was cancelled here
                position = entry.end_pos
        log.close()
        assert HEADER_SIZE == 80
