"""Readers of a log that is purged, or that another log takes the place of."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.store.samples import Source, executed, started, write

from kingbus_node.store.catalogue import CatalogueReader
from kingbus_node.store.errors import PurgedError, UnknownFileError
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader
from kingbus_node.store.state import LogState


def state_behind(directory: Path) -> LogState:
    """The state of a longer log of the same source, where its third file is about to begin."""
    log, source = started(directory, transactions=20)
    for _ in range(2):
        write(log, source.end_of_file(), source.file(), *(source.transaction() for _ in range(20)))
    file = LogReader(directory).file(3)
    state = log.state_at(file.start_index - 1)
    state.oldest_file, state.first_index = 3, file.start_index
    state.purged = None if state.executed is None else state.executed.copy()
    log.close()
    return state


def test_a_cursor_never_gives_what_the_replaced_log_held_uncommitted(tmp_path: Path) -> None:
    log, source = started(tmp_path / "here", transactions=3)
    reader = LogReader(tmp_path / "here")
    cursor = reader.cursor(1)
    block = cursor.read(1 << 20)
    assert block is not None
    assert block.last_index == 5
    log.append([source.transaction() for _ in range(5)], 1)  # of a leader that lost: entries 6 to 10
    log.sync()
    state = state_behind(tmp_path / "there")
    log.reset(state)
    assert reader.visible_index == state.index
    with pytest.raises(PurgedError):
        cursor.read(1 << 20)
    log.close()


def test_a_log_that_begins_behind_a_purged_file_has_no_current_file_until_one_begins(tmp_path: Path) -> None:
    log = Log.open(tmp_path / "here")
    reader = LogReader(tmp_path / "here")
    state = state_behind(tmp_path / "there")
    log.reset(state)
    assert str(reader.state().executed) == str(reader.purged()) == executed(40)
    assert reader.current_file() is None
    assert reader.oldest_file() is None
    assert list(reader.files()) == []
    assert reader.file_by_name("binlog.000002") is None
    assert reader.newest_file_where(lambda _: True) is None
    with pytest.raises(PurgedError):
        reader.file(2)
    with pytest.raises(UnknownFileError):
        reader.file(3)
    source = Source()
    source.file_id, source.number = 2, 40
    write(log, source.file(), source.transaction())
    assert [file.name for file in reader.files()] == ["binlog.000003"]
    assert str(reader.state().executed) == executed(41)
    log.close()


def test_the_catalogue_forgets_purged_files(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=64 << 10)
    for _ in range(2599):
        log.append([source.end_of_file(), source.file()], 1)
    write(log, source.transaction())
    before = (tmp_path / "files.cat").stat().st_size
    listing = LogReader(tmp_path).files()
    assert next(listing).id == 1
    write(log, log.purge_entry(1000))
    assert (tmp_path / "files.cat").stat().st_size == before
    write(log, log.purge_entry(2000))
    assert (tmp_path / "files.cat").stat().st_size == 512 * 602
    assert CatalogueReader(tmp_path).first_id == 2000
    assert [file.id for file in LogReader(tmp_path).files()] == list(range(2000, 2601))
    assert [file.id for file in listing] == list(range(2, 2601))  # it holds on to what it opened
    write(log, source.end_of_file(), source.file())
    files = list(LogReader(tmp_path).files())
    assert [file.id for file in files] == list(range(2000, 2602))
    assert files[-2].closed
    log.close()
    log = Log.open(tmp_path)
    assert list(LogReader(tmp_path).files()) == files
    log.close()
