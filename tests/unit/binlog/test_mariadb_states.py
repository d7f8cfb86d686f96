"""MariaDB's positions and binlog state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.binlog.constants import Flavor
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.executed import decode_executed, executed_from_json, executed_set
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbGtid, MariadbState

GTIDS = st.lists(
    st.builds(MariadbGtid, st.integers(0, 3), st.integers(1, 3), st.integers(0, 2**64 - 1)),
    max_size=20,
)


# As set in @@gtid_slave_pos of MariaDB 10.11.19, and printed by it.
@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("0-1-5,1-2-7", "0-1-5,1-2-7"),
        ("1-2-7,0-1-5", "0-1-5,1-2-7"),
        ("", ""),
        ("0-1-18446744073709551615", "0-1-18446744073709551615"),
        ("4294967295-4294967295-1", "4294967295-4294967295-1"),
        ("0-0-0", "0-0-0"),
        ("00-01-007", "0-1-7"),
        ("+0-1-5", "0-1-5"),
        ("0-1-5, 1-2-7", "0-1-5,1-2-7"),
        ("7-1-1,3-1-1,5-1-1,0-3-3,4000000000-1-1", "0-3-3,3-1-1,5-1-1,7-1-1,4000000000-1-1"),
    ],
)
def test_positions_are_read_and_printed_as_mariadb_does(text: str, printed: str) -> None:
    assert str(MariadbState.parse(text, position=True)) == printed


@pytest.mark.parametrize(
    "text",
    [
        "0-1-5,0-2-6", "0-1-5,", ",0-1-5", "0-1", "0-1-", "a", "0-1-18446744073709551616", "4294967296-1-1", "0 -1-5",
        "0-1-5;1-1-1", "0-1-5,,1-1-1", "0-1-\u0665", "-1-1-1", "0-1-" + "9" * 5000,
    ],
)  # fmt: skip
def test_what_mariadb_refuses_is_refused(text: str) -> None:
    with pytest.raises(BinlogError):
        MariadbState.parse(text, position=True)


def test_an_error_in_text_says_where_and_what() -> None:
    with pytest.raises(BinlogError, match=r"expected a MariaDB GTID .* like 0-1-5, found '1-x' \(at offset 6\)"):
        MariadbState.parse("0-1-5,1-x")
    with pytest.raises(BinlogError, match="found a second one of domain 0"):
        MariadbState.parse("0-1-5,0-2-6", position=True)


def test_a_binlog_state_has_the_newest_of_each_domain_last() -> None:
    state = MariadbState.parse("5-1-1,5-3-2,5-2-9,1-7-1,1-2-3,0-1-1")
    assert str(state) == "0-1-1,1-2-3,5-2-9"
    assert state.to_json() == "0-1-1,1-7-1,1-2-3,5-1-1,5-3-2,5-2-9"  # as @@gtid_binlog_state prints it
    assert state.newest(5) == MariadbGtid(5, 2, 9)
    assert state.newest(2) is None


@given(GTIDS)
def test_state_after_executing_transactions(gtids: list[MariadbGtid]) -> None:
    state = MariadbState(gtids)
    assert {(g.domain, g.server): g.sequence for g in state} == {(g.domain, g.server): g.sequence for g in gtids}
    assert state.position() == {g.domain: g for g in gtids}
    for gtid in gtids:
        last = state.last_sequence(gtid.domain, gtid.server)
        assert last is not None
        assert state.has(gtid) == (gtid.sequence <= last)
    assert not state.has(MariadbGtid(9, 9, 9))


@given(GTIDS)
def test_binary_form_and_text_keep_everything(gtids: list[MariadbGtid]) -> None:
    state = MariadbState(gtids)
    assert MariadbState.decode(state.encode()) == state
    assert MariadbState.from_json(state.to_json()) == state
    assert MariadbState.decode(state.encode()).position() == state.position()
    assert eval(repr(state), {"MariadbState": MariadbState}) == state


@given(GTIDS, GTIDS)
def test_a_delta_executes_its_gtids_and_a_copy_is_independent(
    first: list[MariadbGtid], second: list[MariadbGtid]
) -> None:
    state = MariadbState(first)
    copy = state.copy()
    state.apply_delta(MariadbState(second).encode())
    assert state == MariadbState(first + second)
    assert copy == MariadbState(first)


def test_the_captured_list_of_a_file_head() -> None:
    data = bytes.fromhex(
        "03000000070000000b000000010000000000000007000000630000000200000000000000000000000b0000002700000000000000"
    )
    state = MariadbState.decode(data)
    assert state.to_json() == "0-11-39,7-11-1,7-99-2"
    assert MariadbState.decode(b"\x03\0\0\x30" + data[4:]) == state  # the flags are in the upper bits of the count


def test_an_empty_list_may_be_padded_as_servers_do() -> None:
    assert MariadbState.decode(bytes(6)) == MariadbState.decode(bytes(4)) == MariadbState()


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\1\0\0\0", b"\1\0\0\0" + bytes(15), b"\0\0\0\0x", b"\xff" * 4])
def test_malformed_lists_are_refused(data: bytes) -> None:
    with pytest.raises(BinlogError):
        MariadbState.decode(data)


def test_both_flavors_have_the_same_interface_for_what_was_executed() -> None:
    mysql, mariadb = executed_set(Flavor.MYSQL), executed_set(Flavor.MARIADB)
    assert (mysql.flavor, mariadb.flavor) == (Flavor.MYSQL, Flavor.MARIADB)
    mysql.apply_delta(GtidSet.parse("00000000-0000-0000-0000-000000000001:1-3").encode())
    mariadb.apply_delta(MariadbState.parse("0-1-5,0-2-6").encode())
    for executed in (mysql, mariadb):
        assert executed
        assert executed_from_json(executed.flavor, executed.to_json()) == executed
        assert decode_executed(executed.flavor, executed.encode()) == executed
        assert executed.copy() == executed
