"""Packets and event headers are found in any block, however the stream is cut."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from binlogs import captured, make
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.binlog.build import packetize
from kingbus_node.binlog.constants import MAX_PACKET, ChecksumAlgorithm, Flavor
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.scan import (
    COMPLETE,
    CONTINUATION,
    OFFSET_MASK,
    Events,
    format_checksum,
    has_checksums,
    is_continued,
    packet_lengths,
    packet_offsets,
)

FULL = MAX_PACKET - 1
"""Bytes of the shortest event that needs a second packet."""


def big_event(size: int) -> bytes:
    return make.Maker().event(30, bytes(size - 23))


def naive_packets(data: bytes, start: int, end: int, continued: bool) -> tuple[list[int], int]:
    out = []
    while start + 4 <= end:
        length = int.from_bytes(data[start : start + 3], "little")
        if start + 4 + length > end:
            break
        out.append(start | (CONTINUATION if continued else 0))
        continued = length == MAX_PACKET
        start += 4 + length
    return out, start


@given(st.lists(st.integers(0, 300), max_size=30), st.integers(0, 50), st.integers(0, 50), st.booleans())
def test_the_same_packets_as_a_naive_walk_finds(sizes: list[int], ahead: int, cut: int, continued: bool) -> None:
    data = bytes(ahead) + b"".join(size.to_bytes(3, "little") + b"\7" + bytes(size) for size in sizes)
    end = max(ahead, len(data) - cut)
    offsets, following = packet_offsets(data, ahead, end, continued)
    assert (offsets.tolist(), following) == naive_packets(data, ahead, end, continued)


@pytest.mark.parametrize("name", [*captured.MYSQL, *captured.MARIADB])
def test_every_event_of_a_real_file_is_found(name: str) -> None:
    events = captured.events(name)
    table = make.block(events).events
    headers = [struct.unpack_from("<IBIIIH", event) for event in events]
    columns = (table.timestamp, table.type, table.server_id, table.size, table.log_pos, table.flags)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == headers
    assert table.missing == COMPLETE


@pytest.mark.parametrize("size", [FULL - 1, FULL, FULL + 1, 2 * MAX_PACKET - 2, 2 * MAX_PACKET - 1, 2 * MAX_PACKET])
def test_an_event_of_many_packets_is_one_event(size: int) -> None:
    small = make.Maker().xid()
    block = make.block([small, big_event(size), small])
    assert block.events.size.tolist() == [31, size, 31]
    continuations = (block.packets & np.uint32(CONTINUATION)) != 0
    assert continuations.tolist() == [False, False] + [True] * ((size + 1) // MAX_PACKET) + [False]
    assert block.events.missing == COMPLETE


@pytest.mark.parametrize("size", [FULL, FULL + 1, 2 * MAX_PACKET - 1])
def test_an_event_may_come_one_packet_at_a_time(size: int) -> None:
    data = make.stream([make.Maker().xid(), big_event(size), make.Maker().xid()])
    everything, _ = packet_offsets(data, 0, len(data))
    missing: int | None = COMPLETE
    continued = False
    sizes: list[int] = []
    at = 0
    for offset in everything:
        end = (int(offset) & OFFSET_MASK) + 4 + int(packet_lengths(data, np.array([offset], dtype=np.uint32))[0])
        packets, at = packet_offsets(data, at, end, continued)
        table = Events.gather(data, packets, missing)
        missing, continued = table.missing, is_continued(data, packets, continued)
        assert continued == (missing != COMPLETE)
        sizes += table.size.tolist()
    assert sizes == [31, size, 31]
    assert missing == COMPLETE


def test_where_the_first_packet_belongs_may_be_unknown() -> None:
    data = make.stream([big_event(MAX_PACKET + 50), make.Maker().xid()])
    packets, _ = packet_offsets(data, 0, len(data))
    table = Events.gather(data, packets[1:], missing=None)
    assert table.type.tolist() == [16]


def test_the_rest_of_an_event_must_have_the_size_that_its_header_said() -> None:
    data = make.stream([big_event(MAX_PACKET + 50), make.Maker().xid()])
    packets, _ = packet_offsets(data, 0, len(data))
    missing = Events.gather(data, packets[:1]).missing
    assert missing == 51
    with pytest.raises(BinlogError, match="expected 50 more bytes of an event that began earlier, found 51"):
        Events.gather(data, packets[1:], 50)
    with pytest.raises(BinlogError, match="expected 51 more bytes of an event that began earlier, found 0"):
        Events.gather(data, packets[2:], 51)
    with pytest.raises(BinlogError, match="expected the beginning of an event"):
        Events.gather(data, packets[1:], COMPLETE)


def test_a_size_field_that_does_not_fit_its_packet_is_refused_with_its_offset() -> None:
    data = make.stream([make.Maker().xid(), make.Maker().xid()])
    data[36 + 5 + 9] += 1
    packets, _ = packet_offsets(data, 0, len(data))
    with pytest.raises(
        BinlogError, match="expected an event of 31 bytes, as long as its packets, found size field 32"
    ) as e:
        Events.gather(data, packets)
    assert e.value.offset == 41


def test_an_error_packet_is_not_taken_for_an_event() -> None:
    data = bytearray(packetize(make.Maker().xid()))
    data[4] = 0xFF
    packets, _ = packet_offsets(data, 0, len(data))
    with pytest.raises(BinlogError, match="expected status byte 0x00 before an event, found 0xff"):
        Events.gather(data, packets)


@pytest.mark.parametrize("length", [0, 1, 19])
def test_a_packet_without_room_for_an_event_is_refused(length: int) -> None:
    data = length.to_bytes(3, "little") + b"\0" + bytes(length)
    packets, _ = packet_offsets(data, 0, len(data))
    with pytest.raises(BinlogError, match="expected an event of at least 19 bytes"):
        Events.gather(data, packets)


def test_type_zero_is_no_event() -> None:
    data = make.stream([make.Maker().event(0)])
    packets, _ = packet_offsets(data, 0, len(data))
    with pytest.raises(BinlogError, match="found type 0"):
        Events.gather(data, packets)


def test_nothing_is_a_block_too() -> None:
    packets, end = packet_offsets(b"", 0, 0)
    table = Events.gather(b"", packets)
    assert (len(packets), end, len(table), table.missing) == (0, 0, 0, COMPLETE)


def test_a_range_outside_of_the_buffer_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="expected 0 <= start <= end <= 3"):
        packet_offsets(b"abc", 0, 4)


def test_each_file_says_whether_its_events_have_checksums() -> None:
    maker, bare = make.Maker(), make.Maker(checksum=False)
    events = [
        maker.xid(), maker.format_description(), maker.xid(), maker.format_description(algorithm=0), bare.xid(),
    ]  # fmt: skip
    block = make.block(events)
    marks, algorithm = block.events.checksummed(block.data, ChecksumAlgorithm.CRC32)
    assert marks.tolist() == [True, True, True, True, False]
    assert algorithm is ChecksumAlgorithm.NONE


@pytest.mark.parametrize("name", ["mysql-9.7.4-000003", "mariadb-10.11.19-000003"])
def test_real_files_without_checksums_are_known_by_their_first_event(name: str) -> None:
    block = make.block(captured.events(name))
    marks, algorithm = block.events.checksummed(block.data, ChecksumAlgorithm.CRC32)
    assert algorithm is ChecksumAlgorithm.NONE
    assert marks.tolist() == [True] + [False] * (len(marks) - 1)


@pytest.mark.parametrize(
    ("version", "has"),
    [
        ("9.7.4-2", True), ("5.6.1", True), ("5.6.0-log", False), ("5.5.62", False), ("8.0.mysql_aurora.3.04", True),
        ("5.3.0-MariaDB", True), ("5.2.14-MariaDB", False), ("10.11.19-MariaDB-0+deb12u1-log", True),
    ],
)  # fmt: skip
def test_servers_older_than_checksums_are_known_by_their_version(version: str, has: bool) -> None:
    assert has_checksums(version) is has
    event = make.Maker().format_description(version)
    assert format_checksum(event) is (ChecksumAlgorithm.CRC32 if has else ChecksumAlgorithm.UNDEFINED)


def test_an_unknown_checksum_algorithm_is_refused() -> None:
    with pytest.raises(BinlogError, match=r"expected checksum algorithm 0 \(none\) or 1 \(CRC32\), found 2"):
        format_checksum(make.Maker().format_description(algorithm=2))


def test_flavors_are_the_words_of_the_configuration() -> None:
    assert [str(flavor) for flavor in Flavor] == ["mysql", "mariadb"]
