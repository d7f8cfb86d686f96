"""Arbitrary bytes give a BinlogError or a result: never another exception, a hang, or memory out of proportion.

Promise 9, bounded. `make fuzz` runs these for longer.
"""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable

import pytest
from binlogs import captured, make
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.binlog import event as decode
from kingbus_node.binlog.build import fix_format_description
from kingbus_node.binlog.checksum import BlockVerifier
from kingbus_node.binlog.constants import ChecksumAlgorithm, Flavor
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.binlog.scan import COMPLETE, Events, is_continued, packet_offsets
from kingbus_node.binlog.tagged import decode_tagged
from kingbus_node.binlog.transactions import TransactionTracker

pytestmark = pytest.mark.fuzz

TOKENS = ["3e11fa47-71ca-11e1-9e33-c80aa9429562", ":", ":1", ":5-9", "-", ",", "tag", "0", "9999999999999999999", " "]
REAL_EVENTS = [event for _, name in captured.FILES for event in captured.events(name)]

Parse = Callable[[bytes], object]
PARSERS: dict[str, Parse] = {
    "header": decode.EventHeader.parse,
    "format description": decode.FormatDescription.parse,
    "fixed format description": fix_format_description,
    "tagged gtid": decode_tagged,
    "gtid set": GtidSet.decode,
    "gtid list": MariadbState.decode,
} | {
    cls.__name__: lambda data, cls=cls: cls.parse(data, True)  # type: ignore[misc]
    for cls in (
        decode.Rotate, decode.Gtid, decode.PreviousGtids, decode.MariadbGtidEvent, decode.GtidList,
        decode.BinlogCheckpoint, decode.Query, decode.AnnotateRows, decode.Xid, decode.XaPrepare, decode.Heartbeat,
        decode.Incident, decode.TransactionPayload,
    )
}  # fmt: skip


@st.composite
def damaged_events(draw: st.DrawFn) -> bytes:
    """A real event with some bytes changed, taken away or added, and mostly a size field that fits again."""
    event = bytearray(draw(st.sampled_from(REAL_EVENTS)))
    for _ in range(draw(st.integers(0, 4))):
        event[draw(st.integers(0, len(event) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(event)))
        event[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    if draw(st.integers(0, 3)) and len(event) >= 13:
        event[9:13] = len(event).to_bytes(4, "little")
    return bytes(event)


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
@given(st.one_of(st.binary(max_size=300), damaged_events(), damaged_events().map(lambda event: event[19:])))
def test_arbitrary_bytes_are_no_event(parse: Parse, data: bytes) -> None:
    with contextlib.suppress(BinlogError):
        parse(data)


@given(st.text(max_size=200))
def test_arbitrary_text_is_no_gtid_set(text: str) -> None:
    with contextlib.suppress(BinlogError):
        GtidSet.parse(text)
    with contextlib.suppress(BinlogError):
        MariadbState.parse(text)


@given(st.lists(st.sampled_from(TOKENS)))
def test_nearly_right_text_is_read_as_what_it_prints_or_refused(parts: list[str]) -> None:
    with contextlib.suppress(BinlogError):
        gtids = GtidSet.parse("".join(parts))
        assert GtidSet.parse(str(gtids)) == gtids


def scan(data: bytearray, flavor: Flavor, cuts: list[int]) -> None:
    """The way of a block from the network to the log, in pieces."""
    tracker = TransactionTracker(flavor, ChecksumAlgorithm.CRC32)
    verifier = BlockVerifier()
    start, missing, continued = 0, COMPLETE, False
    for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        if end < start:
            continue
        packets, start = packet_offsets(data, start, end, continued)
        events = Events.gather(data, packets, missing)
        continued = is_continued(data, packets, continued)
        assert events.missing is not None
        missing = events.missing
        before = bytes(data)
        verifier.verify(data, packets)
        assert data == before
        found = tracker.feed(data, events)
        assert len(found.safe) == len(events)
        found.transaction_of()
        assert isinstance(found.delta(0, len(found)), bytes)


BLOCKS = st.one_of(
    st.binary(max_size=400).map(bytearray),
    st.lists(damaged_events(), max_size=12).map(make.stream),
    st.lists(st.sampled_from(REAL_EVENTS), max_size=12).map(make.stream),
)


@pytest.mark.parametrize("flavor", list(Flavor))
@given(BLOCKS, st.lists(st.integers(0, 4000), max_size=4))
def test_arbitrary_blocks_are_scanned_or_refused(flavor: Flavor, data: bytearray, cuts: list[int]) -> None:
    with contextlib.suppress(BinlogError):
        scan(data, flavor, cuts)


def test_lengths_that_lie_cost_no_memory() -> None:
    tracemalloc.start()
    try:
        for word in (2**32, 2**40, 2**55, 2**62, 2**64 - 1):
            number = word.to_bytes(8, "little")
            one = (1).to_bytes(8, "little")
            for data in (number, one + bytes(16) + number + bytes(160), number[:7] + b"\1" + bytes(100)):
                with pytest.raises(BinlogError):
                    GtidSet.decode(data)
        with pytest.raises(BinlogError):
            MariadbState.decode(b"\xff\xff\xff\x0f" + bytes(160))
        with pytest.raises(BinlogError):
            decode_tagged(b"\x02\xff" + b"\xff" * 100)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_compressed_statement_is_not_expanded_beyond_what_it_says() -> None:
    event = make.Maker().compressed_query(bytes(60 << 20))
    lying = bytearray(event)
    at = lying.index(b"\x84")
    lying[at + 1 : at + 5] = (1000).to_bytes(4, "big")
    tracemalloc.start()
    try:
        with pytest.raises(BinlogError, match="expected 1000 bytes of statement, found 1001"):
            decode.Query.parse(bytes(lying), True)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
