"""Compression toward the source: what is chosen, and that what comes is read however it is cut, or refused."""

from __future__ import annotations

import contextlib
import itertools
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.source.compression import CompressedStream, choose
from kingbus_node.source.errors import Disconnected, Refused, StreamError
from kingbus_node.wire.capabilities import Capability
from kingbus_node.wire.compression import Algorithm, Compression

ZLIB, ZSTD = int(Capability.COMPRESS), int(Capability.ZSTD_COMPRESSION)
BOTH = pytest.mark.parametrize("algorithm", list(Algorithm))


def receiver(data: bytes, portions: Iterator[int]) -> Callable[[memoryview], int]:
    """A socket that gives so many bytes at a time, and is then closed."""
    left = memoryview(data)

    def receive(room: memoryview) -> int:
        nonlocal left
        if not left:
            raise Disconnected("the source closed the connection")
        count = min(len(room), len(left), next(portions))
        room[:count], left = left[:count], left[count:]
        return count

    return receive


def read(stream: CompressedStream, receive: Callable[[memoryview], int], room: int) -> bytes:
    """All that comes before the connection ends."""
    out, buffer = bytearray(), memoryview(bytearray(room))
    while True:
        try:
            count = stream.receive_into(buffer, receive)
        except Disconnected:
            return bytes(out)
        out += buffer[:count]


@pytest.mark.parametrize(
    ("allowed", "offered", "chosen"),
    [
        (["uncompressed"], ZLIB | ZSTD, None),
        (["zstd", "zlib", "uncompressed"], ZLIB | ZSTD, Algorithm.ZSTD),
        (["zstd", "zlib", "uncompressed"], ZLIB, Algorithm.ZLIB),
        (["zstd", "zlib", "uncompressed"], 0, None),
        (["zlib", "zstd"], ZLIB | ZSTD, Algorithm.ZLIB),
        (["uncompressed", "zlib"], ZLIB, None),
    ],
)
def test_the_first_that_is_offered_is_chosen(allowed: list[str], offered: int, chosen: Algorithm | None) -> None:
    assert choose(allowed, offered) is chosen


def test_nothing_that_is_allowed_is_a_refusal_that_names_both_sides() -> None:
    with pytest.raises(Refused, match="allows zstd, but the source offers zlib and uncompressed only"):
        choose(["zstd"], ZLIB)
    with pytest.raises(Refused, match="allows zstd, zlib, but the source offers uncompressed only"):
        choose(["zstd", "zlib"], 0)


@pytest.mark.fuzz
@BOTH
@given(
    buffers=st.lists(st.binary(max_size=300) | st.sampled_from([b"a" * 3_000, bytes(70)]), max_size=6),
    portions=st.lists(st.integers(1, 100), min_size=1, max_size=9),
    room=st.integers(1, 5000),
)
def test_what_was_compressed_comes_out_however_it_is_cut(
    algorithm: Algorithm, buffers: list[bytes], portions: list[int], room: int
) -> None:
    sent = b"".join(Compression(algorithm).deflate(buffers))
    found = read(CompressedStream(algorithm), receiver(sent, itertools.cycle(portions)), room)
    assert found == b"".join(buffers)


@pytest.mark.fuzz
@BOTH
@given(data=st.binary(max_size=200), at=st.integers(0, 3000), bits=st.integers(0, 255))
def test_what_is_no_compressed_stream_ends_with_a_clear_error_or_with_the_connection(
    algorithm: Algorithm, data: bytes, at: int, bits: int
) -> None:
    sent = bytearray(b"".join(Compression(algorithm).deflate([b"event" * 300, data, b"event" * 300])))
    sent[at % len(sent)] ^= bits
    for damaged in (bytes(sent), data, bytes(sent) + data):
        with contextlib.suppress(StreamError):
            read(CompressedStream(algorithm), receiver(damaged, itertools.repeat(100)), 1000)


@BOTH
def test_a_piece_that_is_damaged_is_an_error_that_says_so(algorithm: Algorithm) -> None:
    sent = bytearray(b"".join(Compression(algorithm).deflate([b"event" * 300])))
    sent[9] ^= 0xFF
    with pytest.raises(StreamError, match="compressed stream cannot be read"):
        read(CompressedStream(algorithm), receiver(bytes(sent), itertools.repeat(100)), 1000)


@BOTH
def test_a_stream_that_expands_a_thousandfold_takes_the_memory_of_two_pieces(algorithm: Algorithm) -> None:
    piece = b"".join(Compression(algorithm).deflate([bytes(256 << 10)]))
    stream, buffer = CompressedStream(algorithm), memoryview(bytearray(1 << 16))
    total, expected = 0, 400 * (256 << 10)
    receive = receiver(piece * 400, itertools.repeat(1 << 20))
    tracemalloc.start()
    try:
        while total < expected:
            total += stream.receive_into(buffer, receive)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == expected
    assert most < 4 << 20


def test_each_command_begins_a_new_count_of_pieces() -> None:
    stream = CompressedStream(Algorithm.ZLIB)
    for _ in range(3):
        assert stream.command(b"\x01\0\0\0\x0e")[:7] == bytes((5, 0, 0, 0, 0, 0, 0))
