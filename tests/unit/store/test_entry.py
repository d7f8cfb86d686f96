"""The bytes of an entry."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.store.samples import Source, packets_of

from kingbus_node.store.entry import (
    CONTINUATION,
    HEADER_SIZE,
    WHOLE,
    Entry,
    Flag,
    Kind,
    Meta,
    SourceFile,
    decode,
    encode,
    parse_header,
)
from kingbus_node.store.errors import InvalidEntryError


def encoded(entry: Entry, index: int = 7, term: int = 3, unsynced: int = 2) -> bytes:
    _, head = encode(entry, index, term, unsynced)
    return head + bytes(entry.payload)


def test_every_byte_of_an_entry_is_where_the_format_page_says() -> None:
    payload = b"\x03\0\0\0\0AB" + b"\x02\0\0\0\0C"
    entry = Entry(
        Kind.DATA,
        WHOLE | Flag.FILE_START,
        file_id=5,
        timestamp=0x01020304,
        start_pos=0x1_0000_0004,
        end_pos=0x1_0000_0007,
        meta=Meta(gtids=b"G", file=SourceFile("a.1", "b.1")),
        packets=np.array([0, 7], np.uint32),
        payload=payload,
        event_count=2,
        transaction_count=1,
    )
    file_json = b'{"name":"a.1","source_name":"b.1"}'
    meta = b"\x01\x01\0\0\0G" + b"\x02\x22\0\0\0" + file_json + b"\0\0\0"
    meta += struct.pack("<I", zlib.crc32(meta))
    body = meta + b"\0\0\0\0\x07\0\0\0" + payload
    rest = (
        struct.pack("<I", zlib.crc32(body))
        + b"\x01\x07\0\0"
        + struct.pack("<QQ", 7, 3)
        + b"\x05\0\0\0\x04\x03\x02\x01"
        + b"\x04\0\0\0\x01\0\0\0\x07\0\0\0\x01\0\0\0"
        + struct.pack("<IIII", len(meta), 2, len(payload), 2)
        + b"\x01\0\0\0\x02\0\0\0"
    )
    assert encoded(entry) == b"KBBe" + struct.pack("<I", zlib.crc32(rest)) + rest + body
    assert len(rest) + 8 == HEADER_SIZE


def test_the_body_checksum_does_not_depend_on_index_and_term() -> None:
    entry = Source().file()
    one, _ = encode(entry, 1, 1, 0)
    other, _ = encode(entry, 99, 8, 7)
    assert one.body_crc == other.body_crc


def test_an_entry_reads_back_as_it_was_written() -> None:
    source = Source()
    source.file()
    entry = source.transaction((79, 60, 31))
    read, header = decode(b"junk" + encoded(entry), 4)
    assert (read.index, read.term, header.unsynced) == (7, 3, 2)
    assert (read.kind, read.flags, read.file_id, read.timestamp) == (Kind.DATA, WHOLE, 1, entry.timestamp)
    assert (read.start_pos, read.end_pos) == (entry.start_pos, entry.end_pos)
    assert (read.event_count, read.transaction_count) == (3, 1)
    assert read.meta == entry.meta
    assert read.packets.tolist() == entry.packets.tolist()
    assert bytes(read.payload) == entry.payload


@pytest.mark.fuzz
@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    source = Source()
    source.file()
    good = encoded(source.transaction())
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidEntryError):
        decode(bytes(bad))


@pytest.mark.fuzz
@given(st.integers(0, 400))
def test_a_cut_entry_is_noticed(keep: int) -> None:
    source = Source()
    source.file()
    good = encoded(source.transaction((79, 60, 31)))
    if keep < len(good):
        with pytest.raises(InvalidEntryError):
            decode(good[:keep])


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_header(junk: bytes) -> None:
    assert isinstance(parse_header(junk), str)


names = st.text(min_size=1, max_size=58)  # at most four UTF-8 bytes each


@pytest.mark.fuzz
@given(
    st.binary(max_size=40),
    st.none() | st.builds(SourceFile, names, names),
    st.none() | st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=4),
)
def test_meta_reads_back_and_keeps_the_packet_table_aligned(
    gtids: bytes, file: SourceFile | None, facts: dict[str, int | str | None] | None
) -> None:
    meta = Meta(gtids, file, None if facts is None else dict(facts))
    data = meta.encode()
    assert len(data) % 4 == 0
    assert Meta.decode(data) == meta


@pytest.mark.fuzz
@given(st.binary(max_size=60))
def test_arbitrary_meta_is_refused_or_read_but_never_crashes(junk: bytes) -> None:
    try:
        Meta.decode(junk)
    except InvalidEntryError:
        return


@pytest.mark.parametrize(
    ("packets", "payload"),
    [
        ([], b"\x01\0\0\0\0"),
        ([1], b"\x01\0\0\0\0"),
        ([0, 0], b"\x01\0\0\0\0"),
        ([0], b"\x02\0\0\0\0"),
        ([0], b"\x01\0\0\0\0\0"),
        ([0, 5], b"\x01\0\0\0\0\x01\0\0"),
    ],
)
def test_a_packet_table_that_does_not_fit_its_payload_is_refused(packets: list[int], payload: bytes) -> None:
    entry = Entry(Kind.DATA, WHOLE, packets=np.array(packets, np.uint32), payload=payload)
    with pytest.raises(InvalidEntryError):
        encode(entry, 1, 1, 0)


def test_a_name_that_does_not_fit_the_catalogue_is_refused() -> None:
    with pytest.raises(InvalidEntryError, match="236"):
        Meta(file=SourceFile("n" * 236, "n")).encode()


def test_an_event_of_16_mib_is_split_and_marked() -> None:
    source = Source()
    source.file()
    entry = source.transaction((40, 0xFFFFFF - 1, 0x1000000))
    assert [len(p) - 4 for p in packets_of(b"e" * (0xFFFFFF - 1))] == [0xFFFFFF, 0]
    assert (entry.packets >= CONTINUATION).tolist() == [False, False, True, False, True]
    read, _ = decode(encoded(entry))
    assert read.payload == entry.payload
