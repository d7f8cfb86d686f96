"""The events that a source invents are byte for byte those that real sources were captured sending."""

from __future__ import annotations

import pytest
from binlogs import captured, make
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.binlog.build import (
    fix_format_description,
    gtid_list_event,
    heartbeat_event,
    make_event,
    packetize,
    rotate_event,
)
from kingbus_node.binlog.checksum import is_correct
from kingbus_node.binlog.constants import MAX_PACKET, EventFlag, EventType
from kingbus_node.binlog.event import FormatDescription, GtidList, Heartbeat, Rotate
from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.binlog.scan import Events, packet_offsets

ROTATE = "0000000004010000002c000000000000002000040000000000000062696e6c6f672e303030303031e9d2ca6e"
HEARTBEAT_1 = "000000001b0b0000002400000061020000000062696e6c6f672e303030303032244ce075"
HEARTBEAT_2 = "0000000029010000002c000000ed0100000000010d62696e6c6f672e3030303030320203fced01009fddfdb6"


def test_rotate_of_mysql_9_7() -> None:
    assert rotate_event("binlog.000001", server_id=1, checksum=True).hex() == ROTATE


def test_rotate_without_checksum_for_a_client_that_knows_none() -> None:
    event = rotate_event("binlog.000001", server_id=1, checksum=False, position=2**40)
    assert len(event) == 40
    assert Rotate.parse(event, False).position == 2**40


def test_heartbeats_of_mariadb_and_mysql() -> None:
    assert heartbeat_event("binlog.000002", 609, server_id=11, version=1, checksum=True).hex() == HEARTBEAT_1
    assert heartbeat_event("binlog.000002", 493, server_id=1, version=2, checksum=True).hex() == HEARTBEAT_2
    with pytest.raises(ValueError, match="expected heartbeat version 1 or 2, found 3"):
        heartbeat_event("x", 4, server_id=1, version=3, checksum=True)


@given(st.integers(0, 2**64 - 1), st.text(min_size=1, max_size=60).filter(lambda t: t.isprintable()), st.booleans())
def test_heartbeats_carry_positions_beyond_four_gigabytes(position: int, name: str, checksum: bool) -> None:
    event = heartbeat_event(name, position, server_id=1, version=2, checksum=checksum)
    heartbeat = Heartbeat.parse(event, checksum)
    assert (heartbeat.name, heartbeat.position) == (name, position)
    old = Heartbeat.parse(heartbeat_event(name, position, server_id=1, version=1, checksum=checksum), checksum)
    assert (old.name, old.position) == (name, position % 2**32)


def test_gtid_list() -> None:
    state = MariadbState.parse("0-11-5,0-12-7,3-1-1")
    event = gtid_list_event(state, server_id=11, checksum=True, log_pos=613)
    parsed = GtidList.parse(event, True)
    assert (parsed.state, parsed.header.log_pos, parsed.header.flags) == (state, 613, EventFlag.ARTIFICIAL)
    assert is_correct(event)


def test_an_empty_gtid_list_is_as_long_as_a_real_one() -> None:
    real = next(event for event in captured.events("mariadb-10.11.19-000001") if event[4] == EventType.GTID_LIST)
    event = gtid_list_event(MariadbState(), server_id=11, checksum=True, log_pos=285)
    assert event[19:-4] == real[19:-4]


@pytest.mark.parametrize("name", [*captured.MYSQL, *captured.MARIADB])
def test_a_closed_file_begins_with_the_format_description_that_is_sent(name: str) -> None:
    event = captured.events(name)[0]
    assert fix_format_description(event) == event


def test_a_format_description_is_sent_as_not_in_use() -> None:
    closed = captured.events("mysql-9.7.4-000001")[0]
    in_use = bytearray(closed)
    in_use[17] |= EventFlag.BINLOG_IN_USE  # as the server does, without making a new checksum
    assert fix_format_description(in_use) == closed


def test_a_format_description_in_the_middle_of_a_file() -> None:
    original = captured.events("mysql-9.7.4-000001")[0]
    event = fix_format_description(original, zero_log_pos=True, zero_create_timestamp=True)
    parsed = FormatDescription.parse(event)
    assert (parsed.header.log_pos, parsed.create_timestamp) == (0, 0)
    assert is_correct(event)
    differing = [i for i, (a, b) in enumerate(zip(event, original, strict=True)) if a != b]
    assert set(differing) <= {*range(13, 17), *range(71, 75), *range(len(event) - 4, len(event))}


def test_a_format_description_without_checksums_gets_none() -> None:
    event = make.Maker(checksum=False).event(EventType.FORMAT_DESCRIPTION, b"\4\0" + b"5.5.62".ljust(50, b"\0") + bytes(4) + b"\x13" + bytes(27))  # fmt: skip  # noqa: E501
    assert fix_format_description(event) == event


@pytest.mark.parametrize("size", [23, 1000, MAX_PACKET - 2, MAX_PACKET - 1, MAX_PACKET, 2 * MAX_PACKET - 1])
def test_packets_of_an_event_join_to_the_event(size: int) -> None:
    event = make.Maker().event(30, bytes(size - 23))
    data = packetize(event)
    packets, end = packet_offsets(data, 0, len(data))
    assert (end, len(packets)) == (len(data), (size + 1) // MAX_PACKET + 1)
    assert Events.gather(data, packets).size.tolist() == [size]
    joined, at = b"", 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 3], "little")
        joined += data[at + 4 : at + 4 + length]
        at += 4 + length
    assert joined == b"\0" + event


def test_log_pos_is_kept_modulo_four_gigabytes() -> None:
    event = make_event(EventType.XID, bytes(8), server_id=1, checksum=True, log_pos=2**32 + 5)
    assert int.from_bytes(event[13:17], "little") == 5
