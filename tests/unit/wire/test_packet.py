"""Framing: lengths, sequence numbers, payloads of more than one packet, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.wire.outcome import refusal

from kingbus_node.wire.errors import ErrorCode, ProtocolError
from kingbus_node.wire.packet import MAX_PACKET, PacketAssembler, frame


def assemble(data: bytes, *, limit: int = 1 << 30, sequence: int = 0) -> tuple[bytes, int]:
    """Feed `data` as a socket would: never more than wanted. Returns the payload and the next sequence number."""
    assembler = PacketAssembler(limit, sequence)
    at = 0
    while True:
        piece = data[at : at + assembler.wanted]
        assert piece, "the payload is not complete"
        at += len(piece)
        payload = assembler.feed(piece)
        if payload is not None:
            assert at == len(data), "bytes were left over"
            return payload, assembler.sequence


def framed(payload: bytes, sequence: int = 0) -> bytes:
    return b"".join(bytes(piece) for piece in frame(payload, sequence)[0])


def test_a_short_payload_is_one_packet() -> None:
    assert framed(b"abc", 7) == b"\x03\0\0\x07abc"


def test_an_empty_payload_is_an_empty_packet() -> None:
    assert framed(b"") == b"\0\0\0\0"
    assert assemble(b"\0\0\0\0") == (b"", 1)


@pytest.mark.parametrize("size", [MAX_PACKET - 1, MAX_PACKET, MAX_PACKET + 1, 2 * MAX_PACKET, 2 * MAX_PACKET + 5])
def test_a_payload_around_multiples_of_16_mib_comes_back_whole(size: int) -> None:
    payload = bytes(size)
    data = framed(payload, 254)
    assert len(data) == size + 4 * (size // MAX_PACKET + 1)
    assert assemble(data, sequence=254) == (payload, (254 + size // MAX_PACKET + 1) % 256)


def test_a_full_packet_is_followed_by_an_empty_one() -> None:
    pieces, following = frame(bytes(MAX_PACKET), 0)
    assert [len(bytes(piece)) for piece in pieces] == [4, MAX_PACKET, 4]
    assert bytes(pieces[2]) == b"\0\0\0\x01"
    assert following == 2


def test_sequence_numbers_wrap() -> None:
    assert frame(b"x", 255)[1] == 0


def test_a_wrong_sequence_number_is_refused() -> None:
    with pytest.raises(ProtocolError) as caught:
        assemble(b"\x01\0\0\x03x", sequence=2)
    assert caught.value.code == ErrorCode.NET_PACKETS_OUT_OF_ORDER


def test_a_packet_beyond_the_limit_is_refused_before_its_data_is_taken() -> None:
    assembler = PacketAssembler(100, 0)
    with pytest.raises(ProtocolError) as caught:
        assembler.feed(b"\x65\0\0\0")
    assert caught.value.code == ErrorCode.NET_PACKET_TOO_LARGE


def test_the_limit_counts_all_packets_of_a_payload() -> None:
    assembler = PacketAssembler(MAX_PACKET + 10, 0)
    assert assembler.feed(b"\xff\xff\xff\0") is None
    assert assembler.feed(bytes(MAX_PACKET)) is None
    with pytest.raises(ProtocolError):
        assembler.feed(b"\x0b\0\0\x01")


def test_feeding_more_than_wanted_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="wanted"):
        PacketAssembler(100, 0).feed(b"12345")


@pytest.mark.fuzz
@given(payload=st.binary(max_size=300), sequence=st.integers(0, 255), cuts=st.lists(st.integers(1, 50), max_size=40))
def test_bytes_may_arrive_in_any_pieces(payload: bytes, sequence: int, cuts: list[int]) -> None:
    data = framed(payload, sequence)
    assembler = PacketAssembler(1000, sequence)
    sizes = iter(cuts)
    at = 0
    while True:
        size = min(next(sizes, 50), assembler.wanted)
        found = assembler.feed(data[at : at + size])
        at += size
        if found is not None:
            break
    assert found == payload
    assert at == len(data)


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_a_payload_or_a_clear_error(data: bytes) -> None:
    def feed() -> None:
        assembler = PacketAssembler(64, 0)
        at = 0
        while at < len(data):
            piece = data[at : at + assembler.wanted]
            at += len(piece)
            if (payload := assembler.feed(piece)) is not None:
                assert len(payload) <= 64
                return

    assert refusal(feed) in (None, ErrorCode.NET_PACKET_TOO_LARGE, ErrorCode.NET_PACKETS_OUT_OF_ORDER)
