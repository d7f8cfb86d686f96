"""Promise 4, whole transactions: where they begin and end, and which GTIDs they carry, however the stream is cut."""

from __future__ import annotations

import numpy as np
import pytest
from binlogs import captured, make
from binlogs.streams import Stream, executed, streams
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.binlog.constants import ChecksumAlgorithm, EventType, Flavor
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.executed import ExecutedSet, decode_executed, executed_set
from kingbus_node.binlog.groups import MariadbGroups, MysqlGroups, mariadb_groups, mysql_groups
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.transactions import Boundaries, TransactionTracker

M = make.Maker()
CUTS = st.lists(st.integers(0, 400), max_size=6)
FLAVORS = pytest.mark.parametrize("flavor", list(Flavor))


def fed(stream: Stream, cuts: list[int], tracker: TransactionTracker) -> list[tuple[int, make.Block, Boundaries]]:
    """Feed a stream in blocks. For each block: index of its first event, the block, what the tracker said."""
    out = []
    at = 0
    for block in make.blocks(stream.events, cuts):
        out.append((at, block, tracker.feed(block.data, block.events)))
        at += len(block.events)
    return out


def tracker_of(flavor: Flavor) -> TransactionTracker:
    return TransactionTracker(flavor, ChecksumAlgorithm.CRC32)


@FLAVORS
@given(st.data(), CUTS)
def test_boundaries_are_exact_however_the_stream_is_cut(flavor: Flavor, data: st.DataObject, cuts: list[int]) -> None:
    stream = data.draw(streams(flavor))
    tracker = tracker_of(flavor)
    ends: list[int] = []
    safe: list[bool] = []
    abandoned: list[int] = []
    for at, block, found in fed(stream, cuts, tracker):
        for first, last in zip(found.starts.tolist(), found.ends.tolist(), strict=True):
            expected = stream.transactions[len(ends)]
            assert expected == (at + first if first >= 0 else expected[0], at + last)
            assert (first >= 0) == (expected[0] >= at)
            ends.append(at + last)
        safe += found.safe.tolist()
        abandoned += (found.abandoned + at).tolist()
        assert len(found) == len(found.ends)
        assert (found.open_start is None) == bool(found.safe[-1] if len(block.events) else not tracker.open)
    assert ends == [last for _, last in stream.transactions]
    assert safe == stream.safe()
    assert abandoned == [boundary for _, boundary in stream.abandoned]
    assert not tracker.open


@FLAVORS
@given(st.data(), CUTS)
def test_the_deltas_hold_the_gtids_of_the_transactions_that_end(
    flavor: Flavor, data: st.DataObject, cuts: list[int]
) -> None:
    stream = data.draw(streams(flavor))
    total = executed_set(flavor)
    number = 0
    for _, _, found in fed(stream, cuts, tracker_of(flavor)):
        for k in range(len(found)):
            assert decode_executed(flavor, found.delta(k, k + 1)) == stream.deltas[number + k]
        low, high = sorted((data.draw(st.integers(0, len(found))), data.draw(st.integers(0, len(found)))))
        assert decode_executed(flavor, found.delta(low, high)) == union(
            flavor, stream.deltas[number + low : number + high]
        )
        total.apply_delta(found.delta(0, len(found)))
        number += len(found)
    assert total == executed(stream)


def union(flavor: Flavor, deltas: list[ExecutedSet]) -> ExecutedSet:
    out = executed_set(flavor)
    for delta in deltas:
        out.apply_delta(delta.encode())
    return out


@FLAVORS
@given(st.data(), CUTS)
def test_each_event_is_known_to_belong_to_its_transaction(flavor: Flavor, data: st.DataObject, cuts: list[int]) -> None:
    stream = data.draw(streams(flavor))
    owners = stream.owners()
    for first, boundary in stream.abandoned:
        owners[first:boundary] = [-2] * (boundary - first)
    number = 0
    for at, block, found in fed(stream, cuts, tracker_of(flavor)):
        for row, owner in enumerate(found.transaction_of().tolist()):
            expected = owners[at + row]
            if expected == -2:
                assert owner in (-1, len(found))
            elif expected == -1 or expected < number + len(found):
                assert owner == (expected - number if expected >= 0 else -1)
            else:
                assert owner == len(found)  # the open one
        number += len(found)
        assert len(found.transaction_of()) == len(block.events)


@FLAVORS
@given(st.data(), st.integers(0, 400))
def test_after_a_cut_connection_the_stream_goes_on_at_a_transaction(
    flavor: Flavor, data: st.DataObject, cut: int
) -> None:
    first, second = data.draw(streams(flavor)), data.draw(streams(flavor))
    tracker = tracker_of(flavor)
    kept = first.events[: cut % (len(first.events) + 1)]
    block = make.block(kept)
    tracker.feed(block.data, block.events)
    tracker.reset()
    assert not tracker.open
    block = make.block(second.events)
    found = tracker.feed(block.data, block.events)
    assert list(zip(found.starts.tolist(), found.ends.tolist(), strict=True)) == second.transactions


@FLAVORS
@given(st.data(), st.integers(0, 400))
def test_a_block_that_is_refused_leaves_the_tracker_as_it_was(flavor: Flavor, data: st.DataObject, cut: int) -> None:
    stream = data.draw(streams(flavor))
    at = cut % (len(stream.events) + 1)
    tracker = tracker_of(flavor)
    head, tail = make.block(stream.events[:at]), make.block(stream.events[at:])
    tracker.feed(head.data, head.events)
    damaged = make.block([M.format_description(algorithm=0), M.gtid(1), M.gtid(2), M.mariadb_gtid(0, 1, 1)])
    with pytest.raises(BinlogError):
        tracker.feed(damaged.data, damaged.events)
    found = tracker.feed(tail.data, tail.events)
    assert at + found.ends[-1] == stream.transactions[-1][1] if len(found) else True
    assert not tracker.open


# What SHOW BINLOG EVENTS of the servers shows for the captured files.
REAL = {
    "mysql-9.7.4-000001": [
        (2, 3), (4, 8), (9, 10), (11, 15), (16, 23), (24, 29), (30, 31), (32, 37), (38, 39), (40, 45), (46, 51),
        (52, 57), (58, 63), (64, 69), (70, 76), (77, 78), (79, 82), (83, 84), (85, 88), (89, 90), (91, 92), (93, 97),
        (98, 102), (103, 104), (105, 107), (108, 110),
    ],
    "mysql-9.7.4-000003": [(2, 6)],
    "mysql-9.7.4-000009": [(2, 6), (7, 8), (9, 10), (11, 15), (16, 20)],
    "mysql-9.7.4-000013": [(2, 6), (7, 11), (12, 13)],
    "mariadb-10.11.19-000001": [
        (3, 4), (5, 9), (10, 11), (12, 16), (17, 25), (26, 30), (31, 35), (36, 41), (42, 43), (44, 49), (50, 51),
        (52, 56), (57, 62), (63, 68), (69, 73), (74, 78), (79, 82), (83, 88), (89, 90), (91, 93), (94, 95), (96, 98),
        (99, 102), (103, 104), (105, 109), (110, 117), (118, 119), (120, 124), (125, 130), (131, 132), (133, 135),
        (136, 138), (139, 143), (144, 148), (149, 150), (151, 155), (156, 157), (158, 159), (160, 164), (165, 168),
        (169, 170),
    ],
    "mariadb-10.11.19-000003": [(4, 8)],
    "mariadb-10.11.19-000005": [(3, 7), (9, 10), (11, 15), (16, 20)],
}  # fmt: skip
EXECUTED = {
    "mysql-9.7.4-000001": (
        "23a6aca3-e6a8-11f1-9b45-02fc00000001:1-21:a_long_tag_name_of_32_characters:1:red:1-2,"
        "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:77:tag1:9223372036854775806"
    ),
    "mysql-9.7.4-000003": "23a6aca3-e6a8-11f1-9b45-02fc00000001:28",
    "mysql-9.7.4-000009": "",
    "mysql-9.7.4-000013": "23a6aca3-e6a8-11f1-9b45-02fc00000001:36-37:blue:1",
    "mariadb-10.11.19-000001": "0-11-39,7-99-2",
    "mariadb-10.11.19-000003": "0-11-46",
    "mariadb-10.11.19-000005": "0-11-52",
}


@pytest.mark.parametrize(("flavor", "name"), captured.FILES)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_transactions_of_real_files(flavor: Flavor, name: str, size: int) -> None:
    tracker = TransactionTracker(flavor)
    total = executed_set(flavor)
    found: list[tuple[int, int]] = []
    start, at = -1, 0
    for block in make.blocks(captured.events(name), list(range(0, 400, size))):
        result = tracker.feed(block.data, block.events)
        for first, last in zip(result.starts.tolist(), result.ends.tolist(), strict=True):
            found.append((start if first == -1 else at + first, at + last))
        if result.open_start is not None and result.open_start >= 0:
            start = at + result.open_start
        total.apply_delta(result.delta(0, len(result)))
        at += len(block.events)
    assert found == REAL[name]
    assert str(total) == EXECUTED[name]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([M.gtid(1), M.gtid(2)], r"expected the end of the transaction that is open, found GTID \(33\)"),
        ([M.gtid(1), M.query(b"BEGIN"), M.tagged_gtid(2, "a")], r"found GTID_TAGGED \(42\)"),
        ([M.xid()], r"expected XID \(16\) only within a transaction"),
        ([M.query(b"COMMIT")], r"expected QUERY \(2\) only within a transaction"),
        ([M.event(EventType.TABLE_MAP)], r"expected TABLE_MAP \(19\) only within a transaction"),
        ([M.gtid(1), M.query(b"x"), M.event(EventType.WRITE_ROWS)], r"expected WRITE_ROWS \(30\) only within"),
        ([M.event(EventType.TRANSACTION_PAYLOAD)], r"expected TRANSACTION_PAYLOAD \(40\) only within"),
        ([M.gtid(1), M.query(b"BEGIN"), M.event(EventType.TRANSACTION_PAYLOAD)], r"expected TRANSACTION_PAYLOAD"),
        ([M.mariadb_gtid(0, 1, 1)], r"expected the events of a mysql server, found MARIADB_GTID \(162\)"),
        ([M.event(EventType.GTID, bytes(24))], "expected a GTID event with 25 bytes of body, found 24"),
        ([M.event(EventType.GTID, bytes(25))], r"expected a GTID number in 1 \.\. 2\*\*63 - 2, found 0"),
        ([M.event(EventType.QUERY, bytes(12))], "expected a QUERY event with its post-header"),
        ([M.event(EventType.QUERY, b"\xff" * 13)], "expected a QUERY event with a statement"),
        ([M.event(EventType.GTID_TAGGED, b"\4")], "tagged GTID: expected serialization format 1, found 2"),
    ],
)  # fmt: skip
def test_what_no_server_writes_is_refused_with_the_offset(events: list[bytes], message: str) -> None:
    block = make.block([M.event(EventType.HEARTBEAT), *events])
    with pytest.raises(BinlogError, match=message) as caught:
        tracker_of(Flavor.MYSQL).feed(block.data, block.events)
    assert caught.value.offset is not None
    assert caught.value.offset >= int(block.events.start[1])


def test_mysql_events_in_a_mariadb_stream_are_refused() -> None:
    block = make.block([M.gtid(1)])
    with pytest.raises(BinlogError, match=r"expected the events of a mariadb server, found GTID \(33\)"):
        tracker_of(Flavor.MARIADB).feed(block.data, block.events)


def test_transactions_without_gtid_events_are_followed_too() -> None:
    events = [M.query(b"BEGIN"), M.event(EventType.TABLE_MAP), M.xid(), M.query(b"create table t(a int)")]
    block = make.block(events)
    found = tracker_of(Flavor.MYSQL).feed(block.data, block.events)
    assert (found.starts.tolist(), found.ends.tolist()) == ([0, 3], [2, 3])
    assert GtidSet.decode(found.delta(0, 2)) == GtidSet()


def test_events_without_checksums_are_told_by_the_file_that_they_are_in() -> None:
    bare = make.Maker(checksum=False)
    tracker = tracker_of(Flavor.MYSQL)
    block = make.block([M.format_description(algorithm=0), bare.gtid(1), bare.query(b"BEGIN"), bare.query(b"COMMIT")])
    found = tracker.feed(block.data, block.events)
    assert found.ends.tolist() == [3]
    assert found.checksummed.tolist() == [True, False, False, False]
    assert tracker.checksum is ChecksumAlgorithm.NONE


def test_a_huge_transaction_may_span_many_blocks() -> None:
    tracker = tracker_of(Flavor.MYSQL)
    for number, events in enumerate([[M.gtid(7), M.query(b"BEGIN")], *[[M.event(EventType.WRITE_ROWS)] * 50] * 20]):
        block = make.block(events)
        found = tracker.feed(block.data, block.events)
        assert (found.open_start, len(found), tracker.open) == (-1 if number else 0, 0, True)
    block = make.block([M.xid()])
    found = tracker.feed(block.data, block.events)
    assert (found.open_start, found.starts.tolist(), found.ends.tolist(), tracker.open) == (None, [-1], [0], False)
    assert str(GtidSet.decode(found.delta(0, 1))) == "00010203-0405-0607-0809-0a0b0c0d0e0f:7"


def test_groups_are_compared_with_what_a_replica_has() -> None:
    events = [M.gtid(5), M.query(b"x"), M.tagged_gtid(5, "red"), M.query(b"x"), M.gtid(6), M.query(b"x")]
    block = make.block([*events, M.anonymous_gtid(), M.query(b"x"), M.gtid(5, b"\xff" * 16), M.query(b"x")])
    checksummed = np.ones(len(block.events), dtype=np.bool_)
    groups = mysql_groups(block.data, block.events, checksummed)
    assert isinstance(groups, MysqlGroups)
    assert groups.index.tolist() == [0, 2, 4, 6, 8]
    replica = GtidSet()
    replica.add(make.UUID, 5)
    assert groups.held_by(replica).tolist() == [True, False, False, False, False]
    replica.add(make.UUID, 5, "red")
    replica.add(b"\xff" * 16, 5)
    assert groups.held_by(replica).tolist() == [True, True, False, False, True]


def test_mariadb_groups_have_domain_server_and_sequence() -> None:
    block = make.block([M.mariadb_gtid(3, 9, 2**64 - 1, 1), M.query(b"x"), M.mariadb_gtid(0, 1, 5, 8), M.xid()])
    groups = mariadb_groups(block.data, block.events, np.ones(4, dtype=np.bool_))
    assert isinstance(groups, MariadbGroups)
    assert (groups.index.tolist(), groups.domain.tolist(), groups.server.tolist()) == ([0, 2], [3, 0], [9, 1])
    assert (groups.sequence.tolist(), groups.standalone.tolist()) == ([2**64 - 1, 5], [True, False])
