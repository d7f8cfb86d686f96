"""MySQL's GTID sets: text as MySQL reads and prints it, both binary forms, algebra like that of sets."""

from __future__ import annotations

import time

import numpy as np
import pytest
from binlogs import captured
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.gtid import MAX_NUMBER, GtidSet, format_uuid, normalize_tag, parse_uuid

U = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
V = "00000000-0000-0000-0000-000000000001"

Member = tuple[str, str, int]

UUIDS = st.sampled_from([U, V, "ffffffff-ffff-ffff-ffff-ffffffffffff"])
TAGS = st.sampled_from(["", "a", "red", "_9"])
MEMBERS = st.sets(st.tuples(UUIDS, TAGS, st.integers(1, 30)), max_size=40)


def made(members: set[Member]) -> GtidSet:
    out = GtidSet()
    for uuid, tag, number in members:
        out.add(parse_uuid(uuid), number, tag)
    return out


def members_of(gtids: GtidSet) -> set[Member]:
    return {
        (format_uuid(uuid), tag, number)
        for (uuid, tag), intervals in gtids.sources()
        for start, end in intervals
        for number in range(start, end)
    }


# What MySQL 9.7.4 answers to SELECT GTID_SUBTRACT(text, '').
READ = [
    (f"{U.upper()}:1-3:5", f"{U}:1-3:5"),
    (f"{U}:5:1-3,{U}:4", f"{U}:1-5"),
    (f" {U} : 1 - 3 : 5 ", f"{U}:1-3:5"),
    (U, ""),
    (f"{U}:5-3", ""),
    (f"{U}:010", f"{U}:10"),
    (f"{U}:9223372036854775806", f"{U}:9223372036854775806"),
    (f"{U}:1-9223372036854775806", f"{U}:1-9223372036854775806"),
    (f"{U.replace('-', '')}:1", f"{U}:1"),
    (f"{{{U}}}:1", f"{U}:1"),
    (f",,{U}:1,,", f"{U}:1"),
    (f"{U}:tag:1-3", f"{U}:tag:1-3"),
    (f"{U}:1:tag:2:TAG:5:_b9:7", f"{U}:1:_b9:7:tag:2:5"),
    (f"{U}:tag", ""),
    (f"{U}:tag:tag2:1", f"{U}:tag2:1"),
    (f"{U}:1,{V}:5:zz:1:aa:3", f"{V}:5:aa:3:zz:1,{U}:1"),
    (f"{U}:{'a' * 32}:1", f"{U}:{'a' * 32}:1"),
    (f"{U}: tag : 1 - 3", f"{U}:tag:1-3"),
    (f"{U}:1-3:tag:\n5,\n{U}:9", f"{U}:1-3:9:tag:5"),
    ("", ""),
    ("  ", ""),
    (f"{U}:tag:1-3:5-7,{U}:5", f"{U}:5:tag:1-3:5-7"),
    (f"{U}:tag:1,{U}:7:tag:2", f"{U}:7:tag:1-2"),
    (f"{U}:1:1:1", f"{U}:1"),
]

# What it refuses, with ER_MALFORMED_GTID_SET_SPECIFICATION.
REFUSED = [
    f"{U}:", f"{U}:0", f"{U}:0x10", f"{U}:9223372036854775807", f"{U}:1:2tag:3", f"{U}:{'a' * 33}:1", f"+{U}:1",
    f"{U}:+1", f"{U}:-1", f"{U}:1-", f"{U}:1--3", f"{U}:1 2", "x", f"{U}:1;", f"{U}::1", f"{U}:1e3",
]  # fmt: skip


@pytest.mark.parametrize(("text", "printed"), READ)
def test_text_is_read_and_printed_as_mysql_does(text: str, printed: str) -> None:
    assert str(GtidSet.parse(text)) == printed


@pytest.mark.parametrize("text", [*REFUSED, f"{U}:1\u0661", "{" + U + ":1", f"{U}:1-99999999999999999999", f"{U}:é:1"])
def test_text_that_mysql_refuses_is_refused(text: str) -> None:
    with pytest.raises(BinlogError):
        GtidSet.parse(text)


def test_an_error_in_text_says_where_and_what() -> None:
    with pytest.raises(BinlogError, match=r"expected a number, an interval or a tag, found '7x' \(at offset 78\)"):
        GtidSet.parse(f"{V}:1-3,{V}:7x")
    with pytest.raises(BinlogError, match=r"expected a uuid like .*, found 'zz' \(at offset 41\)"):
        GtidSet.parse(f"{V}:1-3,zz:5")


def test_uuids_can_be_printed_on_lines_of_their_own_as_mysql_does_in_messages() -> None:
    assert GtidSet.parse(f"{U}:1,{V}:2").format(",\n") == f"{V}:2,\n{U}:1"


@given(MEMBERS)
def test_what_is_printed_is_read_back(members: set[Member]) -> None:
    gtids = made(members)
    assert members_of(gtids) == members
    assert GtidSet.parse(str(gtids)) == gtids
    assert GtidSet.from_json(gtids.to_json()) == gtids
    assert eval(repr(gtids), {"GtidSet": GtidSet}) == gtids


@given(MEMBERS)
def test_both_binary_forms_are_read_back(members: set[Member]) -> None:
    gtids = made(members)
    assert GtidSet.decode(gtids.encode()) == gtids
    assert GtidSet.decode(gtids.encode(tagged=True)) == gtids
    if not gtids.has_tags:
        assert gtids.encode() == gtids.encode(tagged=False)
        assert GtidSet.decode(gtids.encode(tagged=False)) == gtids


@given(MEMBERS, MEMBERS)
def test_algebra_is_that_of_sets(first: set[Member], second: set[Member]) -> None:
    left, right = made(first), made(second)
    assert members_of(left | right) == first | second
    assert members_of(left & right) == first & second
    assert members_of(left - right) == first - second
    assert (left >= right, left <= right, left.contains(right)) == (first >= second, first <= second, first >= second)
    assert left.overlaps(right) == bool(first & second)
    assert (left == right) == (first == second)
    assert (left.count, bool(left)) == (len(first), bool(first))
    assert (left, right) == (made(first), made(second))


@given(MEMBERS, MEMBERS)
def test_a_delta_adds_and_a_copy_is_independent(first: set[Member], second: set[Member]) -> None:
    gtids = made(first)
    copy = gtids.copy()
    gtids.apply_delta(made(second).encode())
    assert members_of(gtids) == first | second
    assert members_of(copy) == first


@given(MEMBERS, st.tuples(UUIDS, TAGS, st.integers(1, 31)))
def test_membership(members: set[Member], member: Member) -> None:
    gtids = made(members)
    uuid, tag, number = member
    assert gtids.has(parse_uuid(uuid), number, tag) == (member in members)
    found = gtids.holds(parse_uuid(uuid), tag, np.arange(1, 32))
    assert found.tolist() == [(uuid, tag, n) in members for n in range(1, 32)]
    assert members_of(gtids.only(parse_uuid(uuid))) == {m for m in members if m[0] == uuid}


def test_the_captured_dump_request_of_a_replica() -> None:
    data = bytes.fromhex(
        "01000000000000003091a0afe69611f1906202fc00000001010000000000000001000000000000000800000000000000"
    )
    gtids = GtidSet.decode(data)
    assert str(gtids) == "3091a0af-e696-11f1-9062-02fc00000001:1-7"
    assert gtids.encode() == data


def test_the_captured_previous_gtids_of_a_source_with_tags() -> None:
    data = captured.events("mysql-9.7.4-000009")[1][19:-4]
    gtids = GtidSet.decode(data)
    assert str(gtids) == (
        "23a6aca3-e6a8-11f1-9b45-02fc00000001:1-31:a_long_tag_name_of_32_characters:1:red:1-2,"
        "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:77:tag1:9223372036854775806"
    )
    assert gtids.encode() == data


def entry(*bounds: int, uuid: bytes = bytes(16), count: int | None = None) -> bytes:
    number = len(bounds) // 2 if count is None else count
    return uuid + b"".join(value.to_bytes(8, "little") for value in (number, *bounds))


ONE = (1).to_bytes(8, "little")
ONE_TAGGED = (1 << 56 | 1 << 8 | 1).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a GTID set of at least 8 bytes, found 0"),
        (ONE, "expected a uuid, found the end"),
        (ONE + bytes(16), "expected a number of intervals, found the end"),
        (ONE + entry(1, 5, count=2), "expected 2 intervals, found the end"),
        (ONE + entry(1, 5, count=2**62), "intervals, found the end"),
        (ONE + entry(1, 5) + b"x", "expected the end of a GTID set, found 1 more bytes"),
        (ONE + entry(0, 5), "expected GTID intervals in ascending order"),
        (ONE + entry(5, 5), "expected GTID intervals in ascending order"),
        (ONE + entry(1, 5, 5, 6), "expected GTID intervals in ascending order"),
        (ONE + entry(1, 2**63), "expected GTID intervals in ascending order"),
        ((2**55).to_bytes(8, "little"), "expected a uuid, found the end"),
        ((2 << 56).to_bytes(8, "little"), "expected a GTID set of format 0 or 1"),
        ((1 << 56).to_bytes(8, "little"), "expected a GTID set of format 0 or 1"),
        (ONE_TAGGED + bytes(16) + b"\x42" + bytes(60), "expected the length of a tag"),
        (ONE_TAGGED + bytes(16) + b"\x01" + bytes(60), "expected the length of a tag"),
        (ONE_TAGGED + bytes(16) + b"\x02-" + bytes(60), "expected a GTID tag"),
    ],
)  # fmt: skip
def test_malformed_binary_sets_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(BinlogError, match=message):
        GtidSet.decode(data)


def test_tags_have_no_untagged_form() -> None:
    with pytest.raises(ValueError, match="no untagged binary form"):
        GtidSet.parse(f"{U}:a:1").encode(tagged=False)


@pytest.mark.parametrize("number", [0, -1, MAX_NUMBER + 1])
def test_numbers_out_of_range_are_refused(number: int) -> None:
    with pytest.raises(BinlogError, match=r"expected GTID numbers in 1 \.\. 2\*\*63 - 2"):
        GtidSet().add(bytes(16), number)


def test_tags_are_kept_in_lower_case() -> None:
    assert normalize_tag("Red_1") == "red_1"
    gtids = GtidSet()
    gtids.add(parse_uuid(U), 1, "Red")
    gtids.add(parse_uuid(U), 2, "rED")
    assert str(gtids) == f"{U}:red:1-2"
    with pytest.raises(BinlogError, match="expected a GTID tag"):
        normalize_tag("1red")


def test_thousands_of_intervals_are_no_burden() -> None:
    uuid = parse_uuid(U)
    odd, even = GtidSet(), GtidSet()
    started = time.perf_counter()
    for number in range(1, 100_001, 2):
        odd.add(uuid, number)
        even.add(uuid, number + 1)
    assert (odd | even) == GtidSet.parse(f"{U}:1-100000")
    assert not odd.overlaps(even)
    assert (odd - even) == odd
    assert odd >= odd.copy()
    assert GtidSet.parse(str(odd)) == odd
    assert GtidSet.decode(odd.encode()) == odd
    even.apply_delta(odd.encode())
    assert even.count == 100_000
    # ~0.5 s here; a quadratic algorithm would take minutes
    assert time.perf_counter() - started < 20
