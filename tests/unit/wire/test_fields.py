"""Field types: length-encoded integers at their corners, strings, and reading beyond the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.wire.outcome import refusal

from kingbus_node.wire.errors import ErrorCode, ProtocolError
from kingbus_node.wire.fields import FieldReader, lenenc_bytes, lenenc_int


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (250, "fa"),
        (251, "fcfb00"),
        (0xFFFF, "fcffff"),
        (0x10000, "fd000001"),
        (0xFFFFFF, "fdffffff"),
        (0x1000000, "fe0000000100000000"),
        ((1 << 64) - 1, "feffffffffffffffff"),
    ],
)
def test_length_encoded_integers_use_the_documented_widths(value: int, encoded: str) -> None:
    assert lenenc_int(value).hex() == encoded
    assert FieldReader(bytes.fromhex(encoded), "a packet").lenenc_int() == value


@given(st.integers(0, (1 << 64) - 1))
def test_every_length_encoded_integer_comes_back(value: int) -> None:
    reader = FieldReader(lenenc_int(value), "a packet")
    assert reader.lenenc_int() == value
    assert reader.remaining == 0


@pytest.mark.parametrize("first", [0xFB, 0xFF])
def test_null_and_err_markers_are_no_lengths(first: int) -> None:
    with pytest.raises(ProtocolError, match="where a length is due"):
        FieldReader(bytes((first, 1, 2, 3)), "a packet").lenenc_int()


def test_fields_come_off_in_order() -> None:
    reader = FieldReader(b"\x02\x01name\0" + lenenc_bytes(b"value") + b"rest", "a packet")
    assert reader.integer(2) == 0x0102
    assert reader.nul_terminated() == b"name"
    assert reader.lenenc_bytes() == b"value"
    assert reader.rest() == b"rest"
    assert reader.rest() == b""


@given(st.binary(max_size=40), st.sampled_from(["fixed", "integer", "lenenc_int", "lenenc_bytes", "nul_terminated"]))
def test_reading_arbitrary_bytes_gives_a_field_or_a_clear_error(data: bytes, what: str) -> None:
    reader = FieldReader(data, "the test's packet")
    arguments = [8] if what in ("fixed", "integer") else []
    assert refusal(lambda: getattr(reader, what)(*arguments)) in (None, ErrorCode.MALFORMED_PACKET)
