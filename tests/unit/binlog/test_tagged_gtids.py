"""The body of a tagged GTID event, in the format of MySQL's serialization library."""

from __future__ import annotations

import pytest
from binlogs import make
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.gtid import MAX_NUMBER
from kingbus_node.binlog.tagged import TaggedIdentities, decode_tagged, read_varlen


def body(event: bytes) -> bytes:
    return event[19:-4]


# The examples of the library's documentation, and the ends of the range.
@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\x00", 0), (b"\xfe", 127), (b"\x01\x02", 128), (b"\xfb\xff\x07", 65535), (b"\x7f" + b"\xff" * 7, 2**56 - 1),
        (b"\xff" + bytes(7) + b"\x01", 2**56), (b"\xff" * 9, 2**64 - 1),
    ],
)  # fmt: skip
def test_integers_of_one_to_nine_bytes(data: bytes, value: int) -> None:
    assert read_varlen(memoryview(data + b"more"), 0) == (value, len(data))


@given(st.integers(0, 2**56 - 1))
def test_integers_are_as_short_as_they_can_be(value: int) -> None:
    data = make.varlen(value)
    assert read_varlen(memoryview(data), 0) == (value, len(data))
    assert len(data) == max(1, -(-value.bit_length() // 7))


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x03\x00", b"\xff" * 8])
def test_an_integer_that_is_cut_short_is_refused(data: bytes) -> None:
    with pytest.raises(BinlogError, match="expected a variable-length integer"):
        read_varlen(memoryview(data), 0)


LETTERS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=1)
TAGS = st.tuples(LETTERS, st.text("abcdefghijklmnopqrstuvwxyz_0123456789", max_size=31)).map("".join)


@given(st.binary(min_size=16, max_size=16), st.integers(1, MAX_NUMBER), TAGS)
def test_uuid_number_and_tag_are_read(uuid: bytes, number: int, tag: str) -> None:
    gtid = decode_tagged(body(make.Maker().tagged_gtid(number, tag, uuid)))
    assert (gtid.uuid, gtid.number, gtid.tag) == (uuid, number, tag)
    assert (gtid.flags, gtid.last_committed, gtid.sequence_number) == (1, 1, 2)


def message(fields: bytes, *, version: int = 1, required: int = 0, longer: int = 0) -> bytes:
    """A message of the serialization library, short enough that each of its head's integers is one byte."""
    return bytes((version << 1, (len(fields) + 3 + longer) << 1, required << 1)) + fields


UUID = b"\x02" + bytes(16)
NUMBER = b"\x04\x14"  # field 2: 5, signed
TAG = b"\x06\x02a"


def test_the_order_of_fields_and_their_defaults() -> None:
    gtid = decode_tagged(message(UUID + NUMBER + TAG))
    assert (gtid.uuid, gtid.number, gtid.tag, gtid.flags, gtid.transaction_length) == (bytes(16), 5, "a", 0, 0)
    assert decode_tagged(message(UUID + NUMBER)).tag == ""
    replicated = decode_tagged(message(UUID + NUMBER + b"\x0c\x0a\x0e\x06\x12\x08\x14\x04"))
    assert (replicated.immediate_commit_timestamp, replicated.original_commit_timestamp) == (5, 3)
    assert (replicated.immediate_server_version, replicated.original_server_version) == (4, 2)


def test_fields_of_a_newer_server_are_passed_over() -> None:
    assert decode_tagged(message(UUID + NUMBER + TAG + b"\x18\x02\x1a\x04")).number == 5


def test_unless_they_may_not_be() -> None:
    with pytest.raises(BinlogError, match="found field 12, which may not be ignored"):
        decode_tagged(message(UUID + NUMBER + TAG + b"\x18\x02", required=12))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (message(UUID + NUMBER, version=2), "expected serialization format 1, found 2"),
        (message(UUID + NUMBER, longer=1), "expected a tagged GTID of 22 bytes, found size field 23"),
        (message(NUMBER), "expected a uuid and a number"),
        (message(UUID), "expected a uuid and a number"),
        (message(UUID + b"\x04\x02"), "found number -1"),
        (message(NUMBER + UUID), "expected fields in ascending order, found 1 after 2"),
        (message(b"\x02" + b"\x01\x04" * 16 + NUMBER), "expected a byte of a uuid, found 256"),
        (message(UUID + NUMBER + b"\x06\x02-"), "expected a GTID tag"),
        (message(UUID + NUMBER + b"\x06\x42" + b"a" * 33), "expected a GTID tag"),
        (message(UUID + NUMBER + b"\x06\x08abc"), "expected a tag of 4 bytes, found the end"),
        (message(UUID + NUMBER + b"\x08"), "expected a variable-length integer, found the end"),
        (message(UUID + NUMBER + b"\x08\x03\x00"), "expected a variable-length integer of 3 bytes, found the end"),
    ],
)
def test_damage_is_refused(data: bytes, error: str) -> None:
    with pytest.raises(BinlogError, match=error):
        decode_tagged(data)


SOURCES = st.tuples(
    st.sampled_from([bytes(16), bytes(range(120, 136)), b"\x7f" * 16, b"\xff" * 16, bytes(15) + b"\x80"]),
    st.sampled_from(["a", "aa", "red", "x" * 32]),
)
NUMBERS = st.one_of(st.integers(1, 300), st.integers(1, MAX_NUMBER))


@given(st.lists(st.tuples(SOURCES, NUMBERS), max_size=30))
def test_identities_are_read_alike_from_first_and_later_events_of_a_source(
    gtids: list[tuple[tuple[bytes, str], int]],
) -> None:
    identities = TaggedIdentities()
    for (uuid, tag), number in gtids:
        data = body(make.Maker().tagged_gtid(number, tag, uuid))
        assert identities.read(data) == ((uuid, tag), number)


@given(st.lists(st.tuples(SOURCES, NUMBERS), min_size=1, max_size=5), st.data())
def test_what_was_read_before_does_not_hide_damage_before_the_tag(
    gtids: list[tuple[tuple[bytes, str], int]], draw: st.DataObject
) -> None:
    identities = TaggedIdentities()
    for (uuid, tag), number in gtids:
        data = bytearray(body(make.Maker().tagged_gtid(number, tag, uuid)))
        identities.read(bytes(data))
        data[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
        try:
            expected = decode_tagged(data)
        except BinlogError:
            continue
        assert identities.read(bytes(data)) == ((expected.uuid, expected.tag), expected.number)
