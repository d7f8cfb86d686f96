"""Received bytes become packets as they are stored, whatever the portions they come in, with and without semi-sync."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.source.harness import SEMI_SYNC
from unit.source.origin import frame_with_prefix, stream

from kingbus_node.binlog.build import make_event, packetize
from kingbus_node.binlog.constants import MAX_PACKET, EventType
from kingbus_node.binlog.scan import CONTINUATION, OFFSET_MASK
from kingbus_node.source.errors import Disconnected, SourceEnd, StreamError
from kingbus_node.source.framing import Buffers, Framer


def event(size: int, filler: int = 0x55) -> bytes:
    """An event of `size` bytes."""
    return make_event(EventType.WRITE_ROWS, bytes([filler]) * (size - 19), server_id=1, checksum=False)


def received(framer: Framer, data: bytes, portions: Iterator[int], *, release: bool = True) -> tuple[bytes, list[int]]:
    """All packets that come out, one after the other, and which of their events want to be acknowledged."""
    out = bytearray()
    acks: list[int] = []
    left = memoryview(data)
    count = 0
    while left:
        room = framer.room()
        size = min(len(room), len(left), next(portions))
        room[:size] = left[:size]
        left = left[size:]
        framer.received(size)
        frame = framer.frame()
        starts = [int(packet) & OFFSET_MASK for packet in frame.packets]
        for i, (start, end) in enumerate(zip(starts, [*starts[1:], frame.end], strict=False)):
            assert end == start + 4 + int.from_bytes(framer.buffer[start : start + 3], "little")
            if i in frame.acks:
                acks.append(count)
            count += int(frame.packets[i]) < CONTINUATION
        if starts:
            out += framer.buffer[starts[0] : frame.end]
        if release:
            framer.release([], framer.done)
    framer.check_end()
    return bytes(out), acks


def forever(portion: int) -> Iterator[int]:
    while True:
        yield portion


@SEMI_SYNC
@given(
    sizes=st.lists(st.integers(20, 500), max_size=40),
    portions=st.lists(st.integers(1, 700), min_size=1, max_size=10),
    wanted=st.sets(st.integers(0, 40)),
    release=st.booleans(),
)
def test_small_events_come_out_as_they_are_stored(
    semi_sync: bool, sizes: list[int], portions: list[int], wanted: set[int], release: bool
) -> None:
    events = [event(size, i) for i, size in enumerate(sizes)]
    data = stream(events, semi_sync=semi_sync, wanted=[events[i] for i in wanted if i < len(events)])
    framer = Framer(semi_sync=semi_sync, buffers=Buffers(4096))
    out, acks = received(framer, data, cycle(portions), release=release)
    assert out == b"".join(packetize(event) for event in events)
    assert acks == (sorted(i for i in wanted if i < len(events)) if semi_sync else [])
    assert framer.waiting == 0


@SEMI_SYNC
@pytest.mark.parametrize("extra", [-4, -3, -2, -1, 0, 1, 2, 3, MAX_PACKET - 1, MAX_PACKET, MAX_PACKET + 2])
@pytest.mark.parametrize("portion", [1 << 30, 5_000_011], ids=["at once", "in portions"])
def test_events_around_the_longest_packet_are_split_as_without_semi_sync(
    semi_sync: bool, extra: int, portion: int
) -> None:
    events = [event(40), event(MAX_PACKET - 1 + extra, 7), event(41), event(42)]
    data = stream(events, semi_sync=semi_sync, wanted=[events[1], events[3]])
    framer = Framer(semi_sync=semi_sync)
    out, acks = received(framer, data, forever(portion))
    assert out == b"".join(packetize(event) for event in events)
    assert acks == ([1, 3] if semi_sync else [])


def test_a_semi_sync_event_of_many_packets_is_split_again_exactly() -> None:
    events = [event(MAX_PACKET * 5 + 100, 3), event(50)]
    framer = Framer(semi_sync=True)
    out, _ = received(framer, stream(events, semi_sync=True), forever(3_000_017))
    assert out == b"".join(packetize(event) for event in events)


def test_memory_is_bounded_by_a_packet_and_a_block() -> None:
    framer = Framer(semi_sync=False)
    data = packetize(event(MAX_PACKET * 4))
    biggest = 0
    left = memoryview(data)
    while left:
        room = framer.room()
        size = min(len(room), len(left), 1 << 20)
        room[:size] = left[:size]
        left = left[size:]
        framer.received(size)
        framer.frame()
        framer.release([], framer.done)
        biggest = max(biggest, len(framer.buffer))
    assert biggest < MAX_PACKET + (4 << 20)


def checked(size: int, filler: int) -> bytes:
    """An event of `size` bytes that ends in its CRC32."""
    return make_event(EventType.WRITE_ROWS, bytes([filler]) * (size - 23), server_id=1, checksum=True)


def sound(framer: Framer, data: bytes) -> bool:
    """Whether `data`, received in some portions, is known to be events that are right."""
    left = memoryview(data)
    while left:
        room = framer.room()
        size = min(len(room), len(left), 20_000)
        room[:size], left = left[:size], left[size:]
        framer.received(size)
    return framer.frame().sound


BIG = [checked(17_000 + 1000 * i, i) for i in range(5)]


@SEMI_SYNC
def test_big_events_are_checked_as_they_come_from_the_second_frame_on(semi_sync: bool) -> None:
    framer = Framer(semi_sync=semi_sync)
    data = stream(BIG, semi_sync=semi_sync)
    half = len(data) - 5000  # the last event has come in part when the others are looked at
    assert [sound(framer, data), sound(framer, data[:half]), sound(framer, data[half:])] == [False, True, True]


@SEMI_SYNC
@pytest.mark.parametrize("portion", [7001, 1 << 30])
def test_big_events_come_out_as_they_are_stored(semi_sync: bool, portion: int) -> None:
    data = stream(BIG, semi_sync=semi_sync, wanted=[BIG[1], BIG[4]])
    out, acks = received(Framer(semi_sync=semi_sync, buffers=Buffers(4096)), data, forever(portion))
    assert out == b"".join(packetize(one) for one in BIG)
    assert acks == ([1, 4] if semi_sync else [])


@SEMI_SYNC
@pytest.mark.parametrize("at", [30, 17_000, 50_000, -1])
def test_a_big_event_with_a_wrong_byte_is_not_sound(semi_sync: bool, at: int) -> None:
    framer = Framer(semi_sync=semi_sync)
    data = bytearray(stream(BIG, semi_sync=semi_sync))
    sound(framer, bytes(data))
    data[at] ^= 1
    assert not sound(framer, bytes(data))


@SEMI_SYNC
def test_events_without_checksums_are_never_sound(semi_sync: bool) -> None:
    framer = Framer(semi_sync=semi_sync)
    data = stream([event(len(one)) for one in BIG], semi_sync=semi_sync)
    assert not any(sound(framer, data) for _ in range(3))


@SEMI_SYNC
def test_events_of_several_packets_and_what_comes_with_them_are_not_known_to_be_sound(semi_sync: bool) -> None:
    framer = Framer(semi_sync=semi_sync)
    data = stream(BIG, semi_sync=semi_sync)
    long = stream([*BIG, checked(MAX_PACKET + 5, 9)], semi_sync=semi_sync)
    assert [sound(framer, data), sound(framer, data), sound(framer, long), sound(framer, data)] == [
        False,
        True,
        False,
        True,
    ]


@SEMI_SYNC
def test_small_events_are_not_summed_as_they_come(semi_sync: bool) -> None:
    framer = Framer(semi_sync=semi_sync)
    data = stream([checked(100, i) for i in range(250)], semi_sync=semi_sync)
    assert not any(sound(framer, data) for _ in range(2))


def test_released_stretches_do_not_change_any_more() -> None:
    framer = Framer(semi_sync=False)
    events = [event(100_000, i) for i in range(10)]
    views: list[memoryview] = []
    for one in events * 3:
        received(framer, packetize(one), forever(1 << 20), release=False)
        if framer.done > 200_000:
            views += framer.release([(0, framer.done)], framer.done)
    assert b"".join(views) == b"".join(packetize(one) for one in events * 3)[: sum(map(len, views))]
    assert all(view.readonly for view in views)


def test_memory_that_nobody_looks_at_is_used_again_and_no_other() -> None:
    buffers = Buffers(8192)
    first = buffers.get(1)
    first[0] = 7
    view = first[:10]
    del first
    second = buffers.get(1)
    second[0] = 8
    assert view[0] == 7
    del view
    assert buffers.get(1)[0] == 7  # the memory of the first, as it was left


def test_an_error_packet_ends_the_stream_behind_the_events_before_it() -> None:
    framer = Framer(semi_sync=False)
    payload = b"\xff\xd4\x04#HY000Could not find"
    data = packetize(event(50)) + len(payload).to_bytes(3, "little") + b"\x02" + payload
    with pytest.raises(SourceEnd) as info:
        received(framer, data, forever(7))
    assert (info.value.code, info.value.sqlstate, info.value.text) == (1236, "HY000", "Could not find")


def test_eof_is_a_source_that_shuts_down() -> None:
    with pytest.raises(Disconnected):
        received(Framer(semi_sync=True), b"\x05\0\0\x01\xfe\0\0\x02\0", forever(100))


@pytest.mark.parametrize(
    "payload", [b"\x01abc" * 10, b"\xfe" * 30, b"\xff"], ids=["another status", "long EOF", "cut ERR"]
)
def test_what_is_neither_event_nor_end_is_refused(payload: bytes) -> None:
    data = len(payload).to_bytes(3, "little") + b"\x01" + payload
    with pytest.raises(StreamError):
        received(Framer(semi_sync=False), data, forever(1 << 20))


@pytest.mark.parametrize(
    "payload",
    [b"\0" + event(60), b"\0\xef\x02" + event(60), b"\0\xef", b"\0\xef\0"],
    ids=["no prefix", "another flag", "cut", "nothing behind"],
)
def test_a_semi_sync_stream_without_its_prefix_is_refused(payload: bytes) -> None:
    data = len(payload).to_bytes(3, "little") + b"\x01" + payload
    with pytest.raises(StreamError):
        received(Framer(semi_sync=True), data, forever(1 << 20))


def test_a_long_semi_sync_event_with_a_short_size_field_is_refused() -> None:
    lying = bytearray(frame_with_prefix(event(MAX_PACKET), wants_ack=False))
    lying[4 + 3 + 9 : 4 + 3 + 13] = (500).to_bytes(4, "little")
    with pytest.raises(StreamError):
        received(Framer(semi_sync=True), bytes(lying), forever(1 << 30))


def cycle(portions: Sequence[int]) -> Iterator[int]:
    while True:
        yield from portions
