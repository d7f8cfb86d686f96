"""Readers: blocks, source files, positions, GTID sets, following a writer."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.store.samples import CANCEL, MAX_PACKET, NOOP, UUID, Source, examples, executed, started, write

from kingbus_node.binlog.executed import ExecutedSet
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.store import cursor as cursor_module
from kingbus_node.store import log as log_module
from kingbus_node.store.cursor import Block
from kingbus_node.store.entry import CONTINUATION, NO_META, OFFSET_MASK, Entry, Flag
from kingbus_node.store.errors import (
    CorruptLogError,
    LogClosedError,
    PositionInsideEventError,
    PositionPastEndError,
    PurgedError,
    StoreError,
    UnknownFileError,
)
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader
from kingbus_node.store.segment import list_segments, log_path


@dataclass
class Story:
    """A log as a source, leaders and crashes make it, and what a reader has to get from it, kept naively."""

    log: Log
    source: Source = field(default_factory=Source)
    served: list[tuple[int, Entry]] = field(default_factory=list)  # index and entry
    ends: dict[int, int] = field(default_factory=dict)  # file: where it ends
    executed_at: dict[int, int] = field(default_factory=dict)  # file: transactions before it

    def tell(self, plan: list[tuple[str, int]]) -> None:
        self.put(self.source.flavor(), events=False)
        self.begin_file()
        for what, size in plan:
            if what == "file":
                if size % 2:
                    self.put(self.source.end_of_file())
                self.begin_file()
            elif what == "noop":
                self.put(NOOP, events=False)
            elif what == "transaction":
                self.put(self.source.transaction((30, 19 + size, 31)))
            else:
                self.long(what == "cancelled", size)

    def long(self, cancelled: bool, size: int) -> None:
        position, number = self.source.position, self.source.number
        parts = [self.source.fragment((25, 20 + size), first=True), self.source.fragment((30,))]
        if cancelled:
            for part in parts:
                self.put(part, events=False)
            self.put(NOOP, events=False)
            self.put(CANCEL, events=False)
            self.source.position, self.source.number = position, number
        else:
            for part in (*parts, self.source.fragment((40,), last=True)):
                self.put(part)
        self.ends[self.source.file_id] = self.source.position

    def begin_file(self) -> None:
        before = self.source.number
        self.put(self.source.file())
        self.executed_at[self.source.file_id] = before

    def put(self, entry: Entry, *, events: bool = True) -> None:
        index = write(self.log, entry)
        if events:
            self.served.append((index, entry))
            self.ends[entry.file_id] = entry.end_pos


def within(have: GtidSet, before: ExecutedSet) -> bool:
    assert isinstance(before, GtidSet)
    return have >= before


plans = st.lists(
    st.tuples(
        st.sampled_from(["transaction", "transaction", "transaction", "file", "noop", "long", "cancelled"]),
        st.sampled_from([0, 1, 17, 300, 5000, 70_000]),
    ),
    max_size=25,
)


@contextmanager
def told(plan: list[tuple[str, int]], segment_bytes: int) -> Iterator[tuple[Path, Story]]:
    directory = Path(tempfile.mkdtemp())
    story = Story(Log.open(directory, segment_bytes=segment_bytes))
    story.tell(plan)
    try:
        yield directory, story
    finally:
        story.log.close()
        shutil.rmtree(directory)


def check_block(block: Block) -> None:
    """A block's offsets agree with its bytes, and every packet header in it is whole."""
    data = bytes(block.data)
    assert block.bounds[0] == 0
    assert block.bounds[-1] == len(data)
    assert len(block.bounds) == len(block.records) + 1
    assert set(block.records["file_id"].tolist()) == {block.file_id}
    at = 0
    if block.payload_start and len(block.packets):
        at = int(block.packets[0])
    elif block.payload_start:
        at = len(data)
    for offset in block.packets.tolist():
        assert offset == at
        assert offset + 4 <= len(data)
        at += 4 + int.from_bytes(data[at : at + 3], "little")
    if block.complete:
        assert at == len(data)


@pytest.mark.fuzz
@examples(3)
@given(plans, st.sampled_from([4096, 20_000, 1 << 20]), st.sampled_from([65536, 66_000, 1 << 20]), st.booleans())
def test_a_cursor_gives_every_committed_event_once_in_order(
    plan: list[tuple[str, int]], segment_bytes: int, max_bytes: int, gather: bool
) -> None:
    with told(plan, segment_bytes) as (directory, story), pytest.MonkeyPatch.context() as patch:
        patch.setattr(cursor_module, "_SMALL", 1 << 30 if gather else 0)
        cursor = LogReader(directory).cursor(1)
        data = bytearray()
        packets: list[int] = []
        continuation: list[bool] = []
        indexes: list[int] = []
        starts = 0
        while (block := cursor.read(max_bytes)) is not None:
            assert len(block.data) <= max_bytes
            check_block(block)
            starts += block.starts_file
            assert block.starts_file == (block.payload_start == 0 and bool(block.records["flags"][0] & Flag.FILE_START))
            packets += (block.packets + len(data)).tolist()
            continuation += block.continuation.tolist()
            indexes += [n for n in block.records["index"].tolist() if n not in indexes[-1:]]
            data += block.data
            block.data[:1] = b"!"  # it may be written to
        assert bytes(data) == b"".join(bytes(entry.payload) for _, entry in story.served)
        assert indexes == [index for index, _ in story.served]
        assert starts == story.source.file_id
        expected: list[int] = []
        at = 0
        for _, entry in story.served:
            expected += (at + (entry.packets & OFFSET_MASK).astype(np.int64)).tolist()
            at += len(entry.payload)
        assert packets == expected
        assert continuation == [bool(p >= CONTINUATION) for _, entry in story.served for p in entry.packets]


@pytest.mark.fuzz
@examples(5)
@given(plans, st.sampled_from([4096, 1 << 20]))
def test_every_event_is_found_by_file_and_position(plan: list[tuple[str, int]], segment_bytes: int) -> None:
    with told(plan, segment_bytes) as (directory, story):
        reader = LogReader(directory)
        starts: dict[int, list[int]] = {}
        for index, entry in story.served:
            for packet in entry.packets.tolist():
                size = int.from_bytes(bytes(entry.payload[packet + 14 : packet + 18]), "little")
                end = int.from_bytes(bytes(entry.payload[packet + 18 : packet + 22]), "little")
                assert reader.locate(entry.file_id, end - size) == (index, packet)
                starts.setdefault(entry.file_id, []).append(end - size)
        for file_id, end in story.ends.items():
            index, offset = reader.locate(file_id, end)
            assert offset == 0
            following = reader.next_file(file_id)
            assert index == (story.log.last_index + 1 if following is None else following.start_index)
            with pytest.raises(PositionPastEndError):
                reader.locate(file_id, end + 1)
            for position in {4 + 1, end - 1, starts[file_id][-1] + 3}:
                with pytest.raises(PositionInsideEventError) as caught:
                    reader.locate(file_id, position)
                assert caught.value.event_start == max(s for s in starts[file_id] if s < position)


@pytest.mark.fuzz
@examples(5)
@given(plans, st.data())
def test_reading_from_a_position_gives_what_is_behind_it(plan: list[tuple[str, int]], data: st.DataObject) -> None:
    with told(plan, 4096) as (directory, story):
        reader = LogReader(directory)
        number = data.draw(st.integers(0, len(story.served) - 1))
        index, entry = story.served[number]
        packet = data.draw(st.sampled_from(entry.packets.tolist()))
        cursor = reader.cursor(index, packet)
        got = bytearray()
        first = True
        while (block := cursor.read(65536)) is not None:
            check_block(block)
            if first:
                assert (block.payload_start, block.starts_file) == (packet, packet == 0 and bool(entry.flags & 4))
            first = False
            got += block.data
        expected = b"".join(bytes(e.payload) for _, e in story.served[number:])
        assert bytes(got) == expected[packet:]


@pytest.mark.fuzz
@examples(5)
@given(plans, st.sampled_from([4096, 20_000]))
def test_files_and_their_executed_sets(plan: list[tuple[str, int]], segment_bytes: int) -> None:
    with told(plan, segment_bytes) as (directory, story):
        reader = LogReader(directory)
        files = list(reader.files())
        assert [info.id for info in files] == list(range(1, story.source.file_id + 1))
        assert {info.id: info.end_pos for info in files} == story.ends
        for info in files:
            assert reader.file(info.id) == info
            assert reader.file_by_name(info.name) == info
            assert str(reader.executed_at_file_start(info.id)) == executed(story.executed_at[info.id])
        for count in range(story.source.number + 1):
            have = GtidSet.parse(executed(count))
            found = reader.newest_file_where(partial(within, have))
            assert found is not None
            assert found.id == max(n for n, before in story.executed_at.items() if before <= count)
        assert reader.newest_file_where(lambda _: False) is None
        assert str(reader.state().executed) == executed(story.source.number)


def test_packets_of_a_big_event_come_in_pieces_that_split_no_header(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=1 << 20)
    sizes = (40, 0xFFFFFF - 1, 50)
    entry = source.transaction(sizes)
    write(log, entry, source.transaction())
    whole = bytes(entry.payload)
    for max_bytes in (65536, 1 << 20, (1 << 20) + 1, 0xFFFFFF + 4 + 45, 0xFFFFFF + 4 + 45 + 2):
        cursor = LogReader(tmp_path).cursor(3)
        data, packets, complete = bytearray(), [], []
        while len(data) < len(whole):
            block = cursor.read(max_bytes)
            assert block is not None
            assert len(block.data) <= max_bytes
            check_block(block)
            assert block.payload_start == len(data)
            before = (entry.packets & OFFSET_MASK) < len(data)
            starts = before & (entry.packets < CONTINUATION)
            assert block.position == entry.start_pos + len(data) - 4 * before.sum() - starts.sum()
            packets += (block.packets + len(data)).tolist()
            complete.append(block.complete)
            data += block.data
        assert bytes(data) == whole
        assert packets == (entry.packets & OFFSET_MASK).tolist()
        assert complete == [False] * (len(complete) - 1) + [True]
        assert cursor.next_index == 4
        assert cursor.read(max_bytes) is not None
        assert cursor.read(max_bytes) is None
    log.close()


def test_events_that_do_not_say_where_they_end_are_found(tmp_path: Path) -> None:
    """MariaDB since 11.8 leaves log_pos at 0 within transactions, of which an entry holds many."""
    log, source = started(tmp_path)
    sizes = (42, 60, 50, 31) * 6
    start, entry = source.position, source.transaction(sizes)
    payload = bytearray(entry.payload)
    for number, packet in enumerate(entry.packets.tolist()):
        if number % 4 in (1, 2):
            payload[packet + 18 : packet + 22] = bytes(4)
    write(log, replace(entry, payload=bytes(payload)))
    reader = LogReader(tmp_path)
    for size, packet in zip(sizes, entry.packets.tolist(), strict=True):
        assert reader.locate(1, start) == (3, packet)
        with pytest.raises(PositionInsideEventError) as caught:
            reader.locate(1, start + size - 1)
        assert caught.value.event_start == start
        start += size
    log.close()


def test_positions_beyond_4_gib_are_found(tmp_path: Path) -> None:
    log, source = started(tmp_path)
    source.position = (1 << 32) - 150
    entries = [source.transaction((79, 60, 31)), source.transaction((79, 60, 31))]
    write(log, *entries)
    reader = LogReader(tmp_path)
    assert reader.locate(1, (1 << 32) - 150) == (3, 0)
    assert reader.locate(1, (1 << 32) - 71) == (3, 84)
    assert reader.locate(1, (1 << 32) - 11) == (3, 149)
    assert reader.locate(1, (1 << 32) + 20) == (4, 0)
    assert reader.locate(1, (1 << 32) + 99) == (4, 84)
    with pytest.raises(PositionInsideEventError, match=f"{(1 << 32) - 11}"):
        reader.locate(1, 1 << 32)
    log.close()


def test_a_position_in_a_later_entry_of_an_event_tells_where_the_event_begins(tmp_path: Path) -> None:
    log, source = started(tmp_path)
    size = 2 * MAX_PACKET + 1000
    whole = source.transaction((79, size, 31))
    event_start = whole.start_pos + 79
    # As a source's reader cuts it: a packet to an entry, the last one with the end of the transaction.
    cuts = [0, 84, *(84 + n * (MAX_PACKET + 4) for n in (1, 2)), len(whole.payload)]
    numbers = [0, 1, 2, 3, len(whole.packets)]
    positions = [whole.start_pos, event_start, *(event_start + n * MAX_PACKET - 1 for n in (1, 2)), whole.end_pos]
    entries = []
    for k in range(4):
        last = k == 3
        entries.append(
            replace(
                whole,
                flags=(Flag.FIRST if k == 0 else 0) | (Flag.LAST if last else 0),
                start_pos=positions[k],
                end_pos=positions[k + 1],
                meta=whole.meta if last else NO_META,
                packets=whole.packets[numbers[k] : numbers[k + 1]] - np.uint32(cuts[k]),
                payload=memoryview(whole.payload)[cuts[k] : cuts[k + 1]],
                transaction_count=1 if last else 0,
            )
        )
    write(log, *entries)
    reader = LogReader(tmp_path)
    assert reader.locate(1, event_start) == (4, 0)
    for position in (
        event_start + 1,
        event_start + MAX_PACKET + 5,
        event_start + 2 * MAX_PACKET,
        event_start + size - 1,
    ):
        with pytest.raises(PositionInsideEventError) as inside:
            reader.locate(1, position)
        assert inside.value.event_start == event_start
    index, offset = reader.locate(1, event_start + size)
    assert (index, bytes(entries[3].payload[offset : offset + 3])) == (6, b"\x20\0\0")
    log.close()


def test_a_new_log_has_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LogReader(tmp_path)
    log = Log.open(tmp_path)
    reader = LogReader(tmp_path)
    assert reader.state().index == 0
    assert list(reader.files()) == []
    assert (reader.oldest_file(), reader.current_file(), reader.file_by_name("x.1")) == (None, None, None)
    assert reader.newest_file_where(lambda _: True) is None
    assert reader.purged() is None
    assert reader.cursor(1).read(1 << 20) is None
    with pytest.raises(UnknownFileError):
        reader.locate(1, 4)
    log.close()


def test_files_are_found_by_name_after_a_change_of_names(tmp_path: Path) -> None:
    log, source = started(tmp_path)
    names = ["binlog.000009", "mysql-bin.000010", "mysql-bin.000011", "plain", "mysql-bin.000012"]
    for name in names:
        write(log, source.end_of_file(), source.file(name))
    reader = LogReader(tmp_path)
    for number, name in enumerate(names, 2):
        info = reader.file_by_name(name)
        assert info is not None
        assert (info.id, info.name) == (number, name)
    assert reader.file_by_name("mysql-bin.000013") is None
    assert reader.file_by_name("mysql-bin.99999999999999999999") is None
    oldest = reader.oldest_file()
    assert oldest is not None
    assert oldest.name == "binlog.000001"
    assert reader.next_file(6) is None
    with pytest.raises(UnknownFileError):
        reader.file(7)
    with pytest.raises(UnknownFileError):
        reader.file(0)
    log.close()


def test_a_reader_follows_the_writer_into_new_segments(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=4096)
    reader = LogReader(tmp_path)
    cursor = reader.cursor(1)
    seen = 0
    for _ in range(60):
        write(log, source.transaction((200, 300)))
        while (block := cursor.read(1 << 20)) is not None:
            seen += int((block.records["flags"] & 4 == 0).sum())
        assert seen == source.number
        assert str(reader.state().executed) == executed(source.number)
    assert len(list_segments(tmp_path)) > 5
    log.close()


def test_uncommitted_entries_and_open_transactions_are_not_read(tmp_path: Path) -> None:
    log, source = started(tmp_path)
    cursor = LogReader(tmp_path).cursor(3)
    log.append([source.transaction()], 1)
    log.sync()
    assert cursor.read(1 << 20) is None
    log.commit(3)
    assert cursor.read(1 << 20) is not None
    write(log, source.fragment(first=True), source.fragment())
    assert cursor.read(1 << 20) is None
    write(log, source.fragment(last=True))
    block = cursor.read(1 << 20)
    assert block is not None
    assert block.records["index"].tolist() == [4, 5, 6]
    log.close()


def test_a_cursor_survives_a_purge_to_the_end_of_its_segment(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=4096, transactions=3)
    reader = LogReader(tmp_path)
    cursor, late = reader.cursor(1), reader.cursor(1)
    block = cursor.read(65536)
    assert block is not None
    write(log, *(source.transaction((200, 300)) for _ in range(40)), source.end_of_file(), source.file())
    first_segment = log_path(tmp_path, 1)
    write(log, log.purge_entry(2))
    assert not first_segment.exists()
    seen = block.last_index
    block = cursor.read(65536)
    assert block is not None
    assert (int(block.records["index"][0]), 5 < block.last_index < 20) == (seen + 1, True)
    with pytest.raises(PurgedError, match="was purged: the oldest retained is"):
        cursor.read(65536)
    with pytest.raises(PurgedError):
        late.read(65536)
    log.close()


def test_a_truncated_or_foreign_log_under_a_cursor_is_noticed(tmp_path: Path) -> None:
    log, source = started(tmp_path, transactions=5)
    content = log_path(tmp_path, 1).read_bytes()
    reader = LogReader(tmp_path)
    log_path(tmp_path, 1).write_bytes(content[:-100])
    with pytest.raises(CorruptLogError, match="it ends here"):
        reader.cursor(1).read(65536)
    log_path(tmp_path, 1).write_bytes(content[:700] + bytes(len(content) - 700))
    with pytest.raises(CorruptLogError, match="expected the header of entry"):
        reader.cursor(1).read(65536)
    assert source.number == 5
    log.close()


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    log, _ = started(tmp_path, transactions=1)
    reader = LogReader(tmp_path)
    cursor = reader.cursor(1)
    with pytest.raises(ValueError, match="at least 65536"):
        cursor.read(1000)
    cursor.close()
    with pytest.raises(LogClosedError):
        cursor.read(65536)
    reader.close()
    with pytest.raises(LogClosedError):
        reader.state()
    with pytest.raises(LogClosedError):
        reader.cursor(1)
    with pytest.raises(StoreError):
        log.read(99)
    log.close()


def test_the_state_that_was_handed_out_does_not_change(tmp_path: Path) -> None:
    log, source = started(tmp_path, transactions=1)
    reader = LogReader(tmp_path)
    state, again = reader.state(), reader.state()
    assert state is again
    write(log, source.transaction())
    assert str(state.executed) == executed(1)
    assert str(reader.state().executed) == executed(2)
    assert str(log.state.executed) == executed(2)
    log.close()


def test_executed_sets_are_exact_after_a_gap_and_a_second_uuid(tmp_path: Path) -> None:
    log, source = started(tmp_path, transactions=2)
    source.number = 9
    write(log, source.transaction(), source.end_of_file(), source.file(), source.transaction())
    reader = LogReader(tmp_path)
    assert str(reader.executed_at_file_start(2)) == f"{UUID}:1-2:10"
    assert str(reader.executed_at_file_start(1)) == ""
    assert str(reader.state().executed) == f"{UUID}:1-2:10-11"
    log.close()


def test_a_state_is_folded_on_from_an_earlier_one(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=4096)
    write(log, *(source.transaction() for _ in range(40)), source.end_of_file(), source.file(), source.transaction())
    assert len(list_segments(tmp_path)) > 2
    reader = LogReader(tmp_path)
    for step in (1, 3, 20):
        state = None
        for index in range(1, log.last_index + 1, step):
            state = reader.state_after(index, state)
            assert state.to_json() == reader.state_after(index).to_json()
            assert state.index == index
    assert reader.state_after(3, reader.state_after(9)).index == 3
    write(log, log.purge_entry(2))
    with pytest.raises(PurgedError):
        reader.state_after(3)
    log.close()


def test_many_threads_read_one_reader_while_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_ENTRIES", 50)
    log, source = started(tmp_path)
    reader = LogReader(tmp_path)
    total = 600
    grown = threading.Event()
    failures: list[BaseException] = []
    results: list[int] = []

    def follow(work: int) -> None:
        try:
            cursor, seen = reader.cursor(1), 0
            while seen < total:
                block = cursor.read(65536)
                if block is None:
                    grown.wait(1)
                    continue
                seen += int((block.records["flags"] & 4 == 0).sum())
                if work % 2:
                    assert reader.state().index >= block.last_index
                    assert reader.locate(1, int(block.records["start_pos"][0])) == (int(block.records["index"][0]), 0)
            results.append(seen)
        except BaseException as error:  # noqa: BLE001 - told to the test's thread
            failures.append(error)

    threads = [threading.Thread(target=follow, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(total // 6):
        write(log, *(source.transaction((100, 300)) for _ in range(6)))
        grown.set()
        grown.clear()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert results == [total] * 4
    log.close()
