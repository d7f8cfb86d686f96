"""Copying a log segment by segment, and adopting the copy."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.store.kills import ends_before_kill
from unit.store.samples import CANCEL, NOOP, Source, examples, executed, started, write
from unit.store.test_recovery import abandon, no_space, scratch, served

from kingbus_node.store import catalogue as catalogue_module
from kingbus_node.store.errors import LogFullError, PurgedError, StoreError
from kingbus_node.store.log import Log
from kingbus_node.store.purging import Purger
from kingbus_node.store.reader import LogReader
from kingbus_node.store.retention import RetentionPolicy, decide
from kingbus_node.store.segment import SegmentHeader, list_segments, log_path
from kingbus_node.store.segments import Segments
from kingbus_node.store.state import LogState
from kingbus_node.store.transfer import MENDING, CopyError, Intake, SegmentOffer, SegmentReader, Staged, offers


def peer(directory: Path, *, purge: int = 0) -> tuple[Log, Source]:
    """A log of some segments and files, with a cancelled transaction across a segment's end."""
    log, source = started(directory, segment_bytes=4096, transactions=20)
    for _ in range(3):
        position, number = source.position, source.number
        write(log, source.fragment(first=True), *(source.fragment((700,)) for _ in range(8)), CANCEL, NOOP)
        source.position, source.number = position, number
        write(log, *(source.transaction() for _ in range(10)), source.end_of_file(), source.file())
    write(log, *(source.transaction() for _ in range(10)))
    if purge:
        write(log, log.purge_entry(purge))
    write(log, *(source.transaction() for _ in range(40)))
    return log, source


def copy(origin: Log, directory: Path, block: int = 1000) -> Staged:
    """Everything that is offered, as it would go over a network."""
    intake = Intake(directory, offers(origin))
    while (wanted := intake.next()) is not None:
        offer, offset = wanted
        reader = SegmentReader(origin.directory, offer.first_index)
        assert reader.size == offer.size
        while data := reader.read(offset, block):
            intake.write(offer, offset, data)
            offset += len(data)
        intake.finish(offer)
    assert intake.done_bytes == intake.total_bytes
    return intake.complete(4096)


def same_segments(one: Log, other: Log) -> None:
    for offer in offers(one):
        name = log_path(Path(), offer.first_index).name
        assert (one.directory / name).read_bytes() == (other.directory / name).read_bytes()


@pytest.mark.parametrize("purge", [0, 3])
def test_an_adopted_copy_is_the_log(tmp_path: Path, purge: int) -> None:
    origin, source = peer(tmp_path / "origin", purge=purge)
    log = Log.open(tmp_path / "new", segment_bytes=4096)
    reader = LogReader(tmp_path / "new")
    assert reader.state().index == 0
    log.set_hard_state(7, "me")
    staged = copy(origin, tmp_path / "new")
    assert log.last_index == 0
    log.adopt(staged.firsts, staged.state)
    same_segments(origin, log)
    last = offers(origin)[-1].last_index
    assert (log.first_index, log.last_index, log.commit_index, log.durable_index) == (origin.first_index, *[last] * 3)
    assert log.state == origin.state_at(last)
    assert log.hard_state.term == 7
    assert sorted(path.name for path in (tmp_path / "new").iterdir() if path.is_dir() or path.name == "adopt") == []
    log.append_encoded(origin.entry_bytes(last + 1, origin.last_index, 1 << 20))
    while log.last_index < origin.last_index:
        log.append_encoded(origin.entry_bytes(log.last_index + 1, origin.last_index, 1 << 20))
    log.sync()
    log.commit(log.last_index)
    assert log.state == origin.state
    assert list_segments(log.directory) == list_segments(origin.directory)
    assert served(log.directory) == served(origin.directory)
    assert str(reader.state().executed) == str(origin.state.executed)
    assert [file.name for file in reader.files()] == [file.name for file in LogReader(origin.directory).files()]
    assert str(reader.purged()) == str(origin.state.purged)
    log.close()
    log = Log.open(tmp_path / "new", segment_bytes=4096)
    assert log.state == origin.state
    write(log, source.transaction())
    log.close()
    origin.close()


def test_a_copy_whose_catalogue_finds_no_room_is_not_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, _ = peer(tmp_path / "origin")
    log = Log.open(tmp_path / "new", segment_bytes=4096)
    with monkeypatch.context() as patched:
        patched.setattr(catalogue_module, "write_at", no_space)
        with pytest.raises(LogFullError, match="no room"):
            copy(origin, tmp_path / "new")
    done = Intake(tmp_path / "new", offers(origin))
    assert done.next() is None  # nothing is to be fetched again
    staged = done.complete(4096)
    log.adopt(staged.firsts, staged.state)
    reader = LogReader(tmp_path / "new")
    assert [file.id for file in reader.files()] == [1, 2, 3, 4]
    log.close()
    origin.close()


def test_a_copy_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    origin, _ = peer(tmp_path / "origin")
    wanted = offers(origin)
    first, second = wanted[:2]
    intake = Intake(tmp_path, wanted)
    data = SegmentReader(origin.directory, first.first_index).read(0, first.size)
    intake.write(first, 0, data)
    intake.finish(first)
    part = SegmentReader(origin.directory, second.first_index).read(0, 700)
    intake.write(second, 0, part)
    intake = Intake(tmp_path, wanted)
    assert intake.next() == (second, 700)
    assert intake.done_bytes == first.size + 700
    # What is not offered any more is of no use.
    intake = Intake(tmp_path, wanted[1:])
    assert intake.next() == (second, 700)
    assert intake.done_bytes == 700
    origin.close()


@pytest.mark.parametrize("at", [5, 20, 300, 2000, -1])
def test_a_damaged_copy_is_noticed_and_fetched_again(tmp_path: Path, at: int) -> None:
    origin, _ = peer(tmp_path / "origin")
    wanted = offers(origin)
    intake = Intake(tmp_path, wanted)
    good = SegmentReader(origin.directory, wanted[0].first_index).read(0, wanted[0].size)
    bad = bytearray(good)
    bad[at] ^= 1
    intake.write(wanted[0], 0, bytes(bad))
    with pytest.raises(CopyError, match="did not arrive whole"):
        intake.finish(wanted[0])
    assert intake.next() == (wanted[0], 0)
    intake.write(wanted[0], 0, good[:-10])
    with pytest.raises(CopyError, match="did not arrive whole"):
        intake.finish(wanted[0])
    with pytest.raises(CopyError, match="more than"):
        intake.write(wanted[0], 10, good)
    origin.close()


def test_segments_of_different_logs_make_no_log(tmp_path: Path) -> None:
    origin, _ = peer(tmp_path / "origin")
    wanted = offers(origin)
    intake = Intake(tmp_path, wanted)
    for offer in wanted:
        intake.write(offer, 0, SegmentReader(origin.directory, offer.first_index).read(0, offer.size))
        intake.finish(offer)
    state = origin.state_at(wanted[1].first_index - 1)
    state.facts["another"] = "past"
    path = log_path(tmp_path / "incoming", wanted[1].first_index)
    header = SegmentHeader(wanted[1].first_index, 1, state.to_json()).encode()
    old = Segments(origin.directory, lambda: 0).open(wanted[1].first_index).header().data_start
    path.write_bytes(header + path.read_bytes()[old:])
    with pytest.raises(CopyError, match="does not continue the segment before it"):
        intake.complete(4096)
    assert not (tmp_path / "incoming").exists()
    with pytest.raises(CopyError, match="is in no segment"):
        Intake(tmp_path, [wanted[0], wanted[2]])
    origin.close()


def test_only_what_is_sealed_and_committed_is_offered(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=4096, transactions=5)
    assert offers(log) == []
    log.append([source.transaction() for _ in range(60)], 1)
    assert offers(log) == []
    firsts = list_segments(tmp_path)
    log.sync()
    log.commit(firsts[2])
    assert [offer.first_index for offer in offers(log)] == firsts[:2]
    assert offers(log)[0].last_index == firsts[1] - 1
    with pytest.raises(PurgedError):
        SegmentReader(tmp_path, 2)
    log.close()


def test_a_log_that_is_as_long_is_not_replaced(tmp_path: Path) -> None:
    origin, _ = peer(tmp_path / "origin")
    log, source = started(tmp_path / "new")
    write(log, *[NOOP] * origin.last_index)
    staged = copy(origin, tmp_path / "new")
    with pytest.raises(StoreError, match="cannot replace"):
        log.adopt(staged.firsts, staged.state)
    assert log.last_index > origin.last_index
    assert source.number == 0
    log.close()
    origin.close()


@pytest.mark.parametrize(
    "value", [None, [], [1, 2], [0, 1, 5], [3, 2, 5], [1, 2, 0], [1, 2, 3, -1], ["1", 2, 3], {"a": 1}]
)
def test_what_offers_nothing_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="offers no segment"):
        SegmentOffer.from_json(value)  # type: ignore[arg-type]
    assert SegmentOffer.from_json(SegmentOffer(1, 2, 3).to_json()) == SegmentOffer(1, 2, 3)


def test_ages_are_for_who_asks_for_them() -> None:
    offer = SegmentOffer(1, 2, 3, 4)
    assert SegmentOffer.from_json(offer.to_json(age=True)).age == 4
    assert offer.to_json() == SegmentOffer(1, 2, 3).to_json(age=True) == [1, 2, 3]
    assert offer == SegmentOffer(1, 2, 3)  # it is the same one on another node


def test_a_kill_at_any_system_call_of_an_adoption_leaves_one_log_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, _ = peer(tmp_path / "origin", purge=3)
    adopted: LogState | None = None
    kept = finished = 0
    number = 0
    while not finished:
        directory = tmp_path / str(number)
        log, source = started(directory, segment_bytes=4096, transactions=30)
        before = log.state.copy()
        staged = copy(origin, directory)
        adopted = staged.state
        adopt = partial(log.adopt, staged.firsts, staged.state)
        finished += ends_before_kill(adopt, number, monkeypatch, also=("replace",))
        abandon(log)
        log = Log.open(directory, segment_bytes=4096)
        log.commit(log.last_index)
        assert log.state in (before, adopted)
        kept += log.state == before
        assert not (directory / "adopt").exists()
        if log.state == adopted:
            same_segments(origin, log)
            assert not (directory / "incoming").exists()
        log.close()
        assert source.number == 30
        number += 1
    assert kept > 1
    assert number > kept + 5
    origin.close()


def test_a_copy_may_begin_with_the_end_of_a_cancelled_transaction(tmp_path: Path) -> None:
    origin, source = started(tmp_path / "origin", segment_bytes=4096)
    position, number = source.position, source.number
    parts = 1
    write(origin, source.fragment(first=True))
    while len(list_segments(origin.directory)) == 1:
        write(origin, source.fragment((700,)))
        parts += 1
    write(origin, CANCEL)
    source.position, source.number = position, number
    write(origin, source.end_of_file(), source.file())
    write(origin, origin.purge_entry(2))
    while len(offers(origin)) == 0:
        write(origin, source.transaction())
    assert parts > 1
    assert origin.first_index > 1
    log = Log.open(tmp_path / "new", segment_bytes=4096)
    staged = copy(origin, tmp_path / "new")
    log.adopt(staged.firsts, staged.state)
    same_segments(origin, log)
    assert log.state == origin.state_at(log.last_index)
    log.close()
    origin.close()


@pytest.mark.fuzz
@examples(10)
@given(st.data())
def test_any_log_can_be_copied_from_any_peer_in_any_pieces(data: st.DataObject) -> None:
    with scratch() as directory:
        origin, source = started(directory / "origin", segment_bytes=4096)
        for what in data.draw(st.lists(st.sampled_from("ttttttcfnbp"), min_size=20, max_size=60)):
            position, number = source.position, source.number
            match what:
                case "t":
                    write(origin, *(source.transaction((79, 100 + n, 31)) for n in range(5)), term=origin.last_term)
                case "b":
                    write(origin, source.transaction((6000,)), term=origin.last_term)
                case "c":
                    parts = source.fragment(first=True), source.fragment((1500,)), source.fragment()
                    write(origin, *parts, CANCEL, term=origin.last_term)
                    source.position, source.number = position, number
                case "f":
                    write(origin, source.end_of_file(), source.file(), term=origin.last_term)
                case "n":
                    write(origin, NOOP, term=origin.last_term + 1)
                case "p" if source.file_id > 1:
                    file_id = data.draw(st.integers(origin.state.oldest_file, source.file_id))
                    write(origin, origin.purge_entry(file_id), term=origin.last_term)
                case _:
                    pass
        if offers(origin):
            log = Log.open(directory / "new", segment_bytes=4096)
            staged = copy(origin, directory / "new", data.draw(st.sampled_from([100, 999, 4096, 1 << 20])))
            log.adopt(staged.firsts, staged.state)
            same_segments(origin, log)
            assert log.state == origin.state_at(log.last_index)
            while log.last_index < origin.last_index:
                log.append_encoded(origin.entry_bytes(log.last_index + 1, origin.last_index, 5000))
            log.sync()
            log.commit(log.last_index)
            assert log.state == origin.state
            assert served(log.directory) == served(origin.directory)
            log.close()
        origin.close()
        assert executed(source.number) == str(origin.state.executed)


def test_a_copied_log_is_as_old_as_the_original(tmp_path: Path) -> None:
    """Retention goes by when a segment was written to, and a leader on a new disk by that disk."""
    origin, _ = peer(tmp_path / "origin")
    for number, offer in enumerate(offers(origin)):
        written = 1_600_000_000 + 86_400 * number
        os.utime(log_path(origin.directory, offer.first_index), (written, written))
    log = Log.open(tmp_path / "new", segment_bytes=4096)
    staged = copy(origin, tmp_path / "new")
    log.adopt(staged.firsts, staged.state)
    copied = [file.modified for file in log.segment_files()]
    # The last one is opened as the newest of a log, and written again by that.
    for number, modified in enumerate(copied[:-1]):
        assert abs(modified - (1_600_000_000 + 86_400 * number)) < 3600
    assert len(copied) > 3
    log.close()
    origin.close()


def test_a_mended_segment_is_as_old_as_it_was(tmp_path: Path) -> None:
    """Retention goes by when a segment was written to: a copy that counts as new would hold all behind it as well."""
    log, source = started(tmp_path, segment_bytes=64 * 1024)
    for _ in range(6):
        write(log, source.file(), *(source.transaction([20_000]) for _ in range(3)))
    for old in list_segments(tmp_path)[:2]:
        os.utime(log_path(tmp_path, old), (1_600_000_000, 1_600_000_000))
    path = log_path(tmp_path, 1)
    first, content = offers(log)[0], path.read_bytes()
    policy = RetentionPolicy(max_age=86_400)
    before = decide(Purger(log).survey(1_600_100_000), policy, 1 << 40, ())
    assert before.segments == 1
    path.write_bytes(content[:100] + b"?" + content[101:])
    os.utime(path, (1_600_000_000, 1_600_000_000))
    intake = Intake(tmp_path, [first], MENDING)
    intake.write(first, 0, content)
    intake.finish(first)
    intake.mend(log)
    assert path.read_bytes() == content
    assert decide(Purger(log).survey(1_600_100_000), policy, 1 << 40, ()) == before
    log.close()
