"""The checksum is zlib's, whichever code computes it."""

from __future__ import annotations

import importlib
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.util import crc


def test_the_fast_code_is_what_a_node_uses() -> None:
    assert crc.crc32.__module__ == "isal.isal_zlib"


@given(st.binary(max_size=600), st.integers(0, 600), st.integers(0, 2**32 - 1))
def test_it_gives_what_zlib_gives_in_one_piece_or_two(data: bytes, cut: int, start: int) -> None:
    assert crc.crc32(data, start) == zlib.crc32(data, start)
    assert crc.crc32(memoryview(data)[cut:], crc.crc32(data[:cut])) == zlib.crc32(data)


@given(st.binary(max_size=600), st.integers(0, 600))
def test_the_sums_of_two_pieces_give_that_of_the_whole(data: bytes, cut: int) -> None:
    assert crc.combine is not None
    assert crc.combine(zlib.crc32(data[:cut]), zlib.crc32(data[cut:]), len(data[cut:])) == zlib.crc32(data)


@pytest.mark.parametrize("size", [65_536, 200_000, 16_777_215, 16_777_217])
def test_it_gives_what_zlib_gives_for_long_strings(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc.crc32(data) == zlib.crc32(data)
    assert crc.crc32(memoryview(data)[3:]) == zlib.crc32(data[3:])


def test_without_the_fast_code_zlib_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    try:
        assert importlib.reload(crc).crc32 is zlib.crc32
        assert crc.combine is None
    finally:
        monkeypatch.undo()
        importlib.reload(crc)
