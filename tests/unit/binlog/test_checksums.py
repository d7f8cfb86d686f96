"""CRC32 of events: made, and verified for whole blocks in one pass."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from binlogs import captured, make
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.binlog.checksum import (
    BRIDGE,
    CORRECT,
    BlockVerifier,
    crc_if_correct,
    is_correct,
    verify_block,
    with_checksum,
)
from kingbus_node.binlog.constants import MAX_PACKET, ChecksumAlgorithm
from kingbus_node.binlog.scan import CONTINUATION, packet_offsets

SIZES = st.lists(st.integers(23, 400), min_size=1, max_size=40)


def sized_events(sizes: list[int], seed: int) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [make.Maker().event(30, random.bytes(size - 23)) for size in sizes]


@given(st.binary(max_size=200))
def test_an_event_followed_by_its_own_crc_always_has_the_same_crc(data: bytes) -> None:
    assert zlib.crc32(data + zlib.crc32(data).to_bytes(4, "little")) == CORRECT


def test_the_bridge_takes_the_register_back_to_its_start() -> None:
    assert zlib.crc32(BRIDGE, CORRECT) == 0
    assert len(BRIDGE) == 5


@pytest.mark.parametrize("name", ["mysql-9.7.4-000001", "mysql-9.7.4-000009", "mariadb-10.11.19-000001"])
def test_the_checksums_of_real_files_are_right(name: str) -> None:
    events = captured.events(name)
    assert all(is_correct(event) for event in events)
    block = make.block(events)
    before = bytes(block.data)
    assert verify_block(block.data, block.packets) is None
    assert block.data == before


@pytest.mark.parametrize("name", ["mysql-9.7.4-000003", "mariadb-10.11.19-000003"])
def test_a_format_description_has_a_right_checksum_even_if_it_says_that_events_have_none(name: str) -> None:
    assert is_correct(captured.events(name)[0])


@given(SIZES, st.integers(0, 2**31))
def test_right_blocks_pass_and_are_left_as_they_were(sizes: list[int], seed: int) -> None:
    block = make.block(sized_events(sizes, seed))
    before = bytes(block.data)
    assert verify_block(block.data, block.packets) is None
    assert block.data == before


@given(SIZES, st.integers(0, 2**31), st.data())
def test_any_changed_bits_are_found_in_the_first_event_that_has_them(
    sizes: list[int], seed: int, data: st.DataObject
) -> None:
    block = make.block(sized_events(sizes, seed))
    wrong = data.draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1, max_size=3))
    for row in wrong:
        at = int(block.events.start[row]) + data.draw(st.integers(0, sizes[row] - 1))
        block.data[at] ^= data.draw(st.integers(1, 255))
    before = bytes(block.data)
    assert verify_block(block.data, block.packets) == block.events.start[min(wrong)]
    assert block.data == before


@pytest.mark.parametrize("cut", range(7))
def test_events_of_several_packets_are_verified_packet_by_packet(cut: int) -> None:
    block = make.block(sized_events([40, MAX_PACKET - 1, 2 * MAX_PACKET - 1, 50], 1))
    assert len(block.packets) == 7
    verifier = BlockVerifier()
    assert verifier.verify(block.data, block.packets[:cut]) is None
    assert verifier.verify(block.data, block.packets[cut:]) is None


def test_damage_in_a_later_packet_of_an_event_is_found_with_its_last_packet() -> None:
    block = make.block(sized_events([2 * MAX_PACKET + 100, 50], 2))
    block.data[MAX_PACKET + 1000] ^= 1
    verifier = BlockVerifier()
    assert verifier.verify(block.data, block.packets[:2]) is None
    assert verifier.verify(block.data, block.packets[2:]) == int(block.packets[2]) - CONTINUATION


def test_damage_in_a_small_event_beside_a_big_one_is_found() -> None:
    block = make.block(sized_events([50, MAX_PACKET + 100, 60, 70], 3))
    block.data[int(block.events.start[2]) + 30] ^= 8
    assert verify_block(block.data, block.packets) == block.events.start[2]


def test_an_event_whose_beginning_was_not_seen_is_not_judged() -> None:
    block = make.block(sized_events([MAX_PACKET + 100, 50], 4))
    assert verify_block(block.data, block.packets[1:]) is None


def test_after_a_cut_connection_the_open_event_is_forgotten() -> None:
    block = make.block(sized_events([MAX_PACKET + 100, 50], 5))
    verifier = BlockVerifier()
    block.data[100] ^= 1
    assert verifier.verify(block.data, block.packets[:1]) is None
    verifier.reset()
    assert verifier.verify(block.data, block.packets[1:]) is None


def test_sequence_bytes_do_not_matter() -> None:
    block = make.block(sized_events([50] * 10, 6))
    for number, packet in enumerate(block.packets.tolist()):
        block.data[packet + 3] = number
    before = bytes(block.data)
    assert verify_block(block.data, block.packets) is None
    assert block.data == before


def test_a_block_in_memory_that_cannot_be_written_is_refused() -> None:
    data = bytes(make.stream(sized_events([50], 7)))
    packets, _ = packet_offsets(data, 0, len(data))
    with pytest.raises(ValueError, match="writable"):
        verify_block(memoryview(data), packets)


def test_packets_with_a_gap_are_a_mistake_of_the_caller() -> None:
    block = make.block(sized_events([50, 60, 70], 8))
    with pytest.raises(ValueError, match="adjacent"):
        verify_block(block.data, block.packets[[0, 2]])


def test_an_empty_block_is_right() -> None:
    assert verify_block(bytearray(), np.zeros(0, dtype=np.uint32)) is None


def test_a_made_checksum_is_right() -> None:
    assert is_correct(with_checksum(bytes(27)))
    assert not is_correct(bytes(27))
    assert not is_correct(b"\0\0\0\0")


def test_the_algorithm_numbers_are_those_of_the_servers() -> None:
    assert [int(algorithm) for algorithm in ChecksumAlgorithm] == [0, 1, 255]


@given(SIZES, st.integers(0, 2**31), st.integers(0, 500), st.binary(max_size=20))
def test_lengths_tell_the_sum_of_correct_events(sizes: list[int], seed: int, least: int, before: bytes) -> None:
    block = make.block(sized_events(sizes, seed))
    data, start = before + block.data, zlib.crc32(b"begun")
    at = block.packets.astype(np.int64) + len(before)
    found = crc_if_correct(data, at, len(data), start, least=least)
    assert found == zlib.crc32(block.data, start)


@given(SIZES, st.integers(0, 2**31), st.data())
def test_lengths_tell_another_sum_if_one_event_is_wrong(sizes: list[int], seed: int, draw: st.DataObject) -> None:
    events = sized_events(sizes, seed)
    block = make.block(events)
    at = block.packets.astype(np.int64)
    i = draw.draw(st.integers(0, len(events) - 1))
    wrong = int(at[i]) + 5 + draw.draw(st.integers(0, len(events[i]) - 1))
    block.data[wrong] ^= draw.draw(st.integers(1, 255))
    assert crc_if_correct(block.data, at, len(block.data)) != zlib.crc32(block.data)


def test_a_packet_without_room_for_an_event_has_no_sum() -> None:
    with pytest.raises(ValueError, match="at least 5 bytes, found one of 4"):
        crc_if_correct(b"\x01\0\0\0\0\0\0\0\0", np.array([0, 5]), 9)
