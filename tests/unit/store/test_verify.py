"""Reading a log again finds every kind of damage, and nothing in a log that is whole."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.store.samples import UUID, Source, started, write

from kingbus_node.store.durable import FileHandle
from kingbus_node.store.entry import Entry, Kind
from kingbus_node.store.segment import Located, list_segments, log_path, read_header, walk
from kingbus_node.store.verify import Report, verify


def filled(directory: Path, *, transactions: int = 200) -> Source:
    """A closed log of several segments."""
    log, source = started(directory, segment_bytes=64 * 1024, transactions=transactions)
    for _ in range(20):
        write(log, source.transaction([20_000]))
    log.close()
    return source


def files(directory: Path) -> list[Path]:
    return [log_path(directory, first) for first in list_segments(directory)]


def test_a_whole_log_has_nothing_to_complain_about(tmp_path: Path) -> None:
    filled(tmp_path)
    progress: list[tuple[int, int]] = []
    report = verify(tmp_path, lambda checked, total: progress.append((checked, total)))
    assert report.damages == []
    assert report.gaps == ""
    assert report.segments == len(files(tmp_path)) > 3
    assert report.transactions == 220
    assert report.bytes == sum(path.stat().st_size for path in files(tmp_path))


def test_fragments_and_cancelled_ones_are_no_damage(tmp_path: Path) -> None:
    log, source = started(tmp_path, transactions=3)
    write(log, source.fragment(first=True), source.fragment(), Entry(Kind.CANCEL))
    log.close()
    assert verify(tmp_path).damages == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    filled(directory)
    return directory


@given(st.data())
def test_any_changed_byte_is_found(whole: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files(whole)))
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    try:
        found = verify(whole)
    finally:
        path.write_bytes(content)
    assert found.damages
    assert found.damages[0].file == path.name


def test_the_damaged_entry_is_named_and_the_rest_is_read(whole: Path) -> None:
    path = files(whole)[1]
    content = path.read_bytes()
    changed = bytearray(content)
    changed[-1] ^= 1
    path.write_bytes(changed)
    try:
        found = verify(whole)
    finally:
        path.write_bytes(content)
    (damage,) = found.damages
    assert damage.entry == list_segments(whole)[2] - 1
    assert "checksum" in damage.problem
    assert found.transactions == 220


@pytest.mark.parametrize("sector", ["a header's", "a body's", "the file's head"])
def test_what_the_disk_cannot_read_is_damage_like_any_other(
    whole: Path, monkeypatch: pytest.MonkeyPatch, sector: str
) -> None:
    path, read = files(whole)[1], os.pread
    with closing(FileHandle(path, os.O_RDONLY)) as file:
        start = read_header(file, list_segments(whole)[1]).data_start
        entries = [one for one in walk(file, start, list_segments(whole)[1], file.size()) if isinstance(one, Located)]
    entry = next(
        one for one in entries[1:] if one.header.size > 20_000
    )  # longer than what is read of it to find the next
    bad = {"a header's": entry.offset, "a body's": entry.end - 1, "the file's head": 0}[sector]

    def pread(fd: int, size: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == path.stat().st_ino and offset <= bad < offset + size:
            raise OSError(errno.EIO, "Input/output error")
        return read(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    found = verify(whole)
    (damage,) = found.damages
    assert damage.file == path.name
    assert "Input/output error" in damage.problem
    assert found.segments == len(files(whole))
    if sector == "a body's":
        assert (damage.entry, damage.offset, found.transactions) == (entry.header.index, entry.offset, 220)


def test_another_error_of_the_disk_is_no_damage(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pread(_fd: int, _size: int, _offset: int) -> bytes:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(OSError, match="allocate"):
        verify(whole)


def test_gtids_that_are_there_twice_and_missing_ones_are_told(tmp_path: Path) -> None:
    log, source = started(tmp_path, transactions=3)
    source.number += 4
    write(log, source.transaction())
    source.number = 1
    write(log, source.transaction())
    log.close()
    found = verify(tmp_path)
    assert found.gaps == f"{UUID}:4-7"
    (damage,) = found.damages
    assert damage.problem == f"it holds GTIDs that were there before: {UUID}:2"


def test_a_log_may_be_written_meanwhile(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=64 * 1024, transactions=10)
    try:
        before = verify(tmp_path)
        write(log, *(source.transaction([30_000]) for _ in range(10)))
        log.append([source.transaction()], 1)  # not committed: nobody's business yet
        after = verify(tmp_path)
    finally:
        log.close()
    assert (before.damages, after.damages) == ([], [])
    assert (before.transactions, after.transactions) == (10, 20)


def test_as_a_process_it_prints_its_report(whole: Path) -> None:
    command = [sys.executable, "-m", "kingbus_node.store.verify", str(whole)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    report = json.loads(output.splitlines()[-1])
    assert set(report) == {field.name for field in dataclasses.fields(Report)}
    assert (report["transactions"], report["damages"]) == (220, [])
