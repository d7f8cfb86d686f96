"""The compressed protocol carries any stream of bytes, however it is cut, and believes no length."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.wire.compression import Compression
from kingbus_node.wire.errors import ProtocolError


@given(st.lists(st.binary(max_size=200) | st.sampled_from([b"a" * 300_000, bytes(40)]), max_size=5), st.integers(1, 99))
def test_what_goes_in_comes_out(buffers: list[bytes], cut: int) -> None:
    ours, theirs = Compression(), Compression()
    ours.number = 1
    wire = b"".join(ours.deflate(buffers))
    found = b"".join(theirs.inflate(wire[at : at + cut]) for at in range(0, len(wire), cut))
    assert found == b"".join(buffers)
    assert theirs.number == (ours.number if wire else 0)


def test_pieces_are_numbered_and_short_ones_are_not_compressed() -> None:
    ours = Compression()
    ours.number = 255
    first, second = ours.deflate([b"x" * (256 * 1024), b"y" * 10])
    assert (first[3], second[3]) == (255, 0)
    assert int.from_bytes(first[4:7], "little") == 256 * 1024
    assert second == b"\x0a\0\0\0\0\0\0" + b"y" * 10


def test_an_answer_is_numbered_after_the_question_but_acknowledgements_change_nothing() -> None:
    ours = Compression()
    assert ours.inflate(b"\x02\0\0\0\0\0\0ab") == b"ab"
    assert ours.number == 1
    ours.number = 77
    assert ours.inflate_aside(b"\x02\0\0\0\0\0\0ab") == b"ab"
    assert ours.number == 77


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (zlib.compress(bytes(1000)), 999),
        (zlib.compress(bytes(1000)), 1001),
        (zlib.compress(bytes(1000)) + b"more", 1000),
        (b"no zlib at all", 5),
        (zlib.compress(bytes(50_000_000)), 0xFFFFFF),
    ],
)
def test_a_length_that_is_wrong_is_refused(body: bytes, size: int) -> None:
    with pytest.raises(ProtocolError):
        Compression().inflate(len(body).to_bytes(3, "little") + b"\0" + size.to_bytes(3, "little") + body)
