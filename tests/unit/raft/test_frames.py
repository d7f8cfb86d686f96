"""Frames: what is sent arrives whatever the pieces; what is damaged or foreign is refused before it costs memory."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.raft.errors import ProtocolError
from kingbus_node.raft.frames import (
    FRAME_SIZE,
    MAX_HEAD,
    MAX_TAIL,
    Framed,
    FrameReader,
    Ping,
    Pong,
    decode_frame,
    encode_frame,
)
from kingbus_node.raft.messages import (
    MAX_NUMBER,
    Append,
    AppendReply,
    Entry,
    Form,
    FormReply,
    Install,
    Kind,
    PreVote,
    PreVoteReply,
    TimeoutNow,
    Vote,
    VoteReply,
)

NUMBERS = st.integers(0, MAX_NUMBER)
BYTES = st.binary(max_size=300)


@st.composite
def appends(draw: st.DrawFn) -> Append:
    """With entries of one or more buffers, terms that do not fall."""
    term = draw(st.integers(1, MAX_NUMBER))
    prev_index, prev_term = draw(st.integers(0, 2**40)), draw(st.integers(0, term))
    entries, before = [], prev_term
    for number in range(draw(st.integers(0, 5))):
        before = draw(st.integers(before, term))
        parts = tuple(draw(st.lists(BYTES, min_size=1, max_size=3)))
        kind = draw(st.sampled_from(Kind))
        entries.append(Entry(prev_index + 1 + number, before, kind, parts, sum(map(len, parts))))
    return Append(term, draw(NUMBERS), prev_index, prev_term, draw(NUMBERS), tuple(entries))


MESSAGES: st.SearchStrategy[Framed] = st.one_of(
    appends(),
    st.builds(Ping, NUMBERS),
    st.builds(Pong, NUMBERS),
    st.builds(PreVote, NUMBERS, NUMBERS, NUMBERS),
    st.builds(PreVoteReply, NUMBERS, st.booleans()),
    st.builds(Vote, NUMBERS, NUMBERS, NUMBERS, st.booleans()),
    st.builds(VoteReply, NUMBERS, st.booleans()),
    st.builds(AppendReply, *[NUMBERS] * 8, st.booleans(), st.booleans()),
    st.builds(Install, NUMBERS, NUMBERS, NUMBERS, NUMBERS, BYTES, BYTES),
    st.builds(TimeoutNow, NUMBERS),
    st.builds(Form, NUMBERS, BYTES),
    st.builds(FormReply, NUMBERS, st.booleans(), BYTES),
)


def plain(message: Framed) -> Framed:
    """With the bytes of entries in one piece each, to compare."""
    if not isinstance(message, Append):
        return message
    entries = tuple(
        Entry(e.index, e.term, e.kind, (b"".join(bytes(part) for part in e.parts),), e.size) for e in message.entries
    )
    return Append(message.term, message.clock, message.prev_index, message.prev_term, message.commit, entries)


def bytes_of(messages: Sequence[Framed]) -> bytes:
    return b"".join(bytes(part) for message in messages for part in encode_frame(message))


def read(reader: FrameReader, data: bytes, pieces: Sequence[int]) -> list[Framed]:
    """What comes out when `data` arrives in pieces of at most those sizes."""
    found: list[Framed] = []
    at = turn = 0
    while at < len(data):
        space = reader.space()
        count = min(len(space), pieces[turn % len(pieces)], len(data) - at)
        assert count > 0
        space[:count] = data[at : at + count]
        reader.received(count)
        at, turn = at + count, turn + 1
        while (message := reader.next()) is not None:
            found.append(plain(message))
    return found


@pytest.mark.fuzz
@given(st.lists(MESSAGES, max_size=8), st.integers(16, 200), st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_what_is_sent_arrives_whatever_the_pieces(messages: list[Framed], size: int, pieces: list[int]) -> None:
    assert read(FrameReader(size), bytes_of(messages), pieces) == [plain(message) for message in messages]


@pytest.mark.fuzz
@given(st.lists(MESSAGES, min_size=1, max_size=4), st.data())
def test_damaged_frames_are_refused_or_harmless(messages: list[Framed], data: st.DataObject) -> None:
    stream = bytearray(bytes_of(messages))
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ProtocolError):  # anything else would end the node
        read(FrameReader(64), bytes(stream), [50])


@pytest.mark.fuzz
@given(st.binary(min_size=1, max_size=200))
def test_heads_of_any_bytes_are_refused_or_harmless(head: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode_frame(memoryview(head), len(head))


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_streams_of_any_bytes_are_refused_or_harmless(stream: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read(FrameReader(32), stream, [7])


@pytest.mark.parametrize("lengths", [(0, 0), (MAX_HEAD + 1, 0), (1, MAX_TAIL + 1), (2**32 - 1, 2**32 - 1)])
def test_impossible_lengths_are_refused_at_once(lengths: tuple[int, int]) -> None:
    reader = FrameReader(64)
    with pytest.raises(ProtocolError, match="a frame of"):
        read(reader, struct.pack("<III", *lengths, 0), [FRAME_SIZE])


def test_memory_grows_with_what_arrives_not_with_what_is_announced() -> None:
    reader = FrameReader(4096)
    tracemalloc.start()
    try:
        read(reader, struct.pack("<III", MAX_HEAD, MAX_TAIL, 0) + b"x" * 100_000, [1000])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def big(size: int) -> Append:
    return Append(1, 0, 0, 0, 0, (Entry(1, 1, Kind.DATA, (b"x" * size,), size),))


def test_a_buffer_that_grew_is_kept_for_a_while_and_shrinks_again() -> None:
    reader = FrameReader(4096)
    assert len(read(reader, bytes_of([big(100_000), Ping(1)]), [4096])) == 2
    assert len(reader.space()) >= 100_000
    pings = [Ping(number) for number in range(300)]
    assert read(reader, bytes_of(pings), [len(bytes_of(pings[:1]))]) == pings
    assert len(reader.space()) == 4096


def test_a_buffer_that_grew_very_much_shrinks_at_once() -> None:
    reader = FrameReader(4096)
    assert len(read(reader, bytes_of([big(20 << 20), Ping(1)]), [1 << 20])) == 2
    assert len(reader.space()) == 4096


def test_entries_are_not_copied_on_their_way_out() -> None:
    body = bytearray(b"y" * 10_000)
    parts = encode_frame(Append(1, 0, 0, 0, 0, (Entry(1, 1, Kind.DATA, (b"head", body), 10_004),)))
    assert parts[-1] is body


def test_the_bytes_of_a_damaged_head_are_never_looked_at() -> None:
    stream = bytearray(bytes_of([TimeoutNow(7)]))
    stream[-1] ^= 1
    with pytest.raises(ProtocolError, match="checksum"):
        read(FrameReader(64), bytes(stream), [64])
