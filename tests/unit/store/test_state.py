"""What entries add up to."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from unit.store.samples import CANCEL, NOOP, UUID, Source, executed

from kingbus_node.binlog.constants import Flavor
from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.store.entry import WHOLE, Entry, Flag, Kind, Meta, encode
from kingbus_node.store.errors import InvalidEntryError
from kingbus_node.store.state import LogState


class Folded:
    """A state that entries are folded into; after each it goes through a snapshot and back, which changes nothing."""

    def __init__(self) -> None:
        self.state = LogState()

    def add(self, *entries: Entry, term: int = 1) -> LogState:
        for entry in entries:
            header, _ = encode(entry, self.state.index + 1, term, 0)
            self.state.fold(header, Meta.decode(entry.meta.encode()))
            again = LogState.from_json(json.loads(json.dumps(self.state.to_json())))
            assert again == self.state
            self.state = again
        return self.state

    def refuse(self, entry: Entry, match: str, term: int = 1) -> None:
        before = self.state.copy()
        with pytest.raises(InvalidEntryError, match=match):
            self.add(entry, term=term)
        assert self.state == before


def begun() -> tuple[Folded, Source]:
    folded, source = Folded(), Source()
    folded.add(source.flavor(), source.file())
    return folded, source


def test_a_transaction_counts_when_it_ends() -> None:
    folded, source = begun()
    state = folded.add(source.transaction(), source.transaction())
    assert str(state.executed) == executed(2)
    assert state.visible_index == state.index == 4
    state = folded.add(source.fragment(first=True), source.fragment())
    assert str(state.executed) == executed(2)
    assert (state.visible_index, state.open_index) == (4, 5)
    state = folded.add(NOOP)
    assert state.visible_index == 4
    state = folded.add(source.fragment(last=True))
    assert str(state.executed) == executed(3)
    assert state.visible_index == state.index == 8
    assert state.end_pos == source.position


def test_a_cancelled_transaction_was_never_there() -> None:
    folded, source = begun()
    before = folded.add(source.transaction()).copy()
    state = folded.add(source.fragment(first=True), source.fragment(), NOOP, CANCEL)
    assert state.visible_index == state.index == 7
    assert (state.executed, state.file, state.timestamp) == (before.executed, before.file, before.timestamp)
    source.position, source.number = before.end_pos, 1
    state = folded.add(source.transaction())
    assert str(state.executed) == executed(2)


def test_a_cancel_with_nothing_open_changes_nothing() -> None:
    folded, source = begun()
    before = folded.add(source.transaction()).copy()
    after = folded.add(CANCEL)
    assert after == replace(before, index=before.index + 1)


def test_files_follow_one_another() -> None:
    folded, source = begun()
    state = folded.add(source.transaction(), source.end_of_file())
    assert state.file is not None
    assert state.file.closed
    state = folded.add(source.file("other.000009"))
    assert state.file is not None
    assert (state.file.id, state.file.name, state.file.start_index, state.file.closed) == (2, "other.000009", 5, False)


def test_what_may_not_follow_is_refused_and_changes_nothing() -> None:
    folded, source = Folded(), Source()
    folded.refuse(source.file(), "flavor")
    source = Source()
    folded.add(source.flavor())
    folded.refuse(replace(source.file(), file_id=2), "file 2")
    source = Source()
    folded.refuse(replace(source.file(), meta=Meta()), "named")
    source = Source()
    folded.refuse(source.transaction(), "no file")
    folded.add(source.file())
    first = source.transaction()
    folded.add(first)
    folded.refuse(first, "the log is in file 1 at")
    folded.refuse(replace(source.transaction(), file_id=2), "of file 2")
    source.position = first.end_pos
    folded.refuse(source.fragment(), "none is open")
    source.position = first.end_pos
    folded.add(source.fragment(first=True))
    folded.refuse(source.transaction(), "still open")
    folded.refuse(replace(source.fragment(last=True), flags=0), "GTIDs of a transaction that does not end")
    folded.add(CANCEL)
    source.position = first.end_pos
    folded.refuse(replace(source.transaction(), flags=WHOLE | Flag.CANCELLED), "unknown flags")
    folded.refuse(replace(source.fragment(first=True), flags=Flag.FIRST | Flag.FILE_END), "cannot be a fragment")
    folded.refuse(replace(source.transaction(), end_pos=3), "before its start")
    source.position = first.end_pos
    folded.add(source.end_of_file())
    folded.refuse(source.transaction(), "closed")
    folded.add(NOOP, term=5)
    folded.refuse(NOOP, "term 4", term=4)


def test_an_entry_out_of_turn_or_of_a_newer_release_is_refused() -> None:
    state = LogState()
    header, _ = encode(NOOP, 2, 1, 0)
    with pytest.raises(InvalidEntryError, match="expected entry 1, found entry 2"):
        state.fold(header, Meta())
    with pytest.raises(InvalidEntryError, match="unknown kind 77"):
        state.fold(header._replace(index=1, kind=77), Meta())


def test_facts_are_merged_and_null_removes_one() -> None:
    folded, source = begun()
    state = folded.add(Entry(Kind.STATE, meta=Meta(json={"a": [1, {"b": None}], "source_version": None})))
    assert state.facts == {"flavor": "mysql", "a": [1, {"b": None}]}
    folded.refuse(Entry(Kind.STATE, meta=Meta(json={"flavor": "mariadb"})), "cannot become mariadb")
    folded.refuse(Entry(Kind.STATE, meta=Meta(json={"flavor": "oracle"})), "neither mysql nor mariadb")
    folded.refuse(Entry(Kind.STATE), "no JSON")
    folded.add(source.transaction())


def test_what_the_source_had_purged_counts_as_executed_and_purged() -> None:
    folded, source = Folded(), Source()
    folded.refuse(Entry(Kind.STATE, meta=Meta(json={"purged": f"{UUID}:1-9"})), "before the flavor")
    base = Entry(Kind.STATE, meta=Meta(json={"flavor": "mysql", "purged": f"{UUID}:1-9"}))
    state = folded.add(base)
    assert str(state.executed) == str(state.purged) == f"{UUID}:1-9"
    source.number = 9
    state = folded.add(source.file(), source.transaction())
    assert (str(state.executed), str(state.purged)) == (f"{UUID}:1-10", f"{UUID}:1-9")
    folded.refuse(Entry(Kind.STATE, meta=Meta(json={"purged": "nonsense"})), "no mysql GTID set")


def test_a_mariadb_log_keeps_the_whole_binlog_state() -> None:
    folded, source = Folded(), Source()
    base = MariadbState.parse("0-11-7,1-2-3")
    folded.add(Entry(Kind.STATE, meta=Meta(json={"flavor": "mariadb", "purged": base.to_json()})))
    entry = source.file()
    folded.add(entry)
    delta = MariadbState.parse("0-12-9").encode()
    entry = replace(source.transaction(), meta=Meta(gtids=delta))
    state = folded.add(entry)
    assert state.flavor is Flavor.MARIADB
    assert str(state.executed) == "0-12-9,1-2-3"
    assert str(state.purged) == "0-11-7,1-2-3"
    assert isinstance(state.executed, MariadbState)
    assert state.executed.last_sequence(0, 11) == 7
    older = MariadbState.parse("0-11-5,2-1-1")
    state = folded.add(Entry(Kind.STATE, meta=Meta(json={"purged": older.to_json()})))
    assert str(state.executed) == "0-12-9,1-2-3,2-1-1"
    assert isinstance(state.executed, MariadbState)
    assert state.executed.last_sequence(0, 11) == 7


def test_a_purge_moves_the_oldest_file_and_never_back() -> None:
    folded, source = begun()
    folded.add(source.transaction(), source.end_of_file(), source.file(), source.transaction())

    def purge(first: int, file_id: int, gtids: str) -> Entry:
        return Entry(Kind.PURGE, meta=Meta(json={"first_index": first, "file_id": file_id, "purged": gtids}))

    folded.refuse(purge(50, 2, ""), "not in the past")
    folded.refuse(purge(2, 3, ""), "not in the past")
    folded.refuse(Entry(Kind.PURGE, meta=Meta(json={})), "needs the numbers")
    state = folded.add(purge(5, 2, executed(1)))
    assert (state.oldest_file, state.first_index, str(state.purged)) == (2, 5, executed(1))
    state = folded.add(purge(2, 1, ""))
    assert (state.oldest_file, state.first_index, str(state.purged)) == (2, 5, executed(1))


def test_a_copy_does_not_change_with_its_original() -> None:
    folded, source = begun()
    copy = folded.add(source.transaction()).copy()
    folded.add(source.transaction(), Entry(Kind.STATE, meta=Meta(json={"x": 1})))
    assert str(copy.executed) == executed(1)
    assert "x" not in copy.facts


def test_the_last_configuration_is_kept() -> None:
    folded, source = begun()
    folded.add(Entry(Kind.CONFIGURATION, meta=Meta(members=b"\x01members")))
    folded.refuse(Entry(Kind.CONFIGURATION), "without naming the members")
    state = folded.add(source.transaction(), Entry(Kind.CONFIGURATION, meta=Meta(members=b"\x01others")), NOOP)
    assert (state.members, state.members_index) == (b"\x01others", 5)
    assert state.visible_index == state.index == 6
