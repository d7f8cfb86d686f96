"""Whatever a source sends, the reader gives a clear error, and never wrong bytes to the log."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit.source.harness import FLAVORS, SEMI_SYNC, Harness, assert_holds
from unit.source.origin import Origin
from unit.source.test_resume import by, small

from kingbus_node.binlog.constants import Flavor
from kingbus_node.source import framing
from kingbus_node.source.errors import Disconnected, SourceError


def is_beginning(harness: Harness, origin: Origin) -> bool:
    """Whether the log holds nothing that the source does not have at the same place."""
    files = {file.name: file.bytes for file in origin.files}
    return all(files.get(name, b"").startswith(data) for name, data in harness.log.files().items())


@pytest.mark.fuzz
@SEMI_SYNC
@given(garbage=st.binary(max_size=600), after=st.integers(0, 2000), portion=st.integers(1, 400))
def test_garbage_after_any_byte_is_a_clear_error(semi_sync: bool, garbage: bytes, after: int, portion: int) -> None:
    origin, harness = small(Flavor.MYSQL), Harness(entry_bytes=400)
    error = harness.session(
        origin, semi_sync=semi_sync, portions=by(portion), damage=lambda data: data[:after] + garbage
    )
    assert isinstance(error, SourceError)
    assert str(error)
    assert is_beginning(harness, origin)
    assert isinstance(harness.session(origin, semi_sync=semi_sync), Disconnected)
    assert_holds(harness, origin)


@pytest.mark.fuzz
@FLAVORS
@example(
    changes=[(808, 1)], semi_sync=False, big=False, portion=3000
)  # the server version in a FORMAT_DESCRIPTION: one without checksums
@given(
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 255)), min_size=1, max_size=4),
    semi_sync=st.booleans(),
    big=st.booleans(),
    portion=st.integers(1, 1500),
)
def test_changed_bytes_never_reach_the_log(
    flavor: Flavor, changes: list[tuple[int, int]], semi_sync: bool, big: bool, portion: int
) -> None:
    def damage(data: bytes) -> bytes:
        changed = bytearray(data)
        for at, bits in changes:
            changed[at % len(changed)] ^= bits
        return bytes(changed)

    origin, harness = small(flavor), Harness(entry_bytes=400)
    # Events that count as big are summed up as they come, the others once a portion is here.
    with mock.patch.object(framing, "SUM_FROM", 1 if big else framing.SUM_FROM):
        assert isinstance(
            harness.session(origin, semi_sync=semi_sync, damage=damage, portions=by(portion)), SourceError
        )
        assert is_beginning(harness, origin)
        assert isinstance(harness.session(origin, portions=by(portion)), Disconnected)
    assert_holds(harness, origin)


@pytest.mark.fuzz
@FLAVORS
@given(
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 255)), min_size=1, max_size=4),
    semi_sync=st.booleans(),
)
def test_changed_bytes_without_checksums_are_at_worst_a_clear_error(
    flavor: Flavor, changes: list[tuple[int, int]], semi_sync: bool
) -> None:
    def damage(data: bytes) -> bytes:
        changed = bytearray(data)
        for at, bits in changes:
            changed[at % len(changed)] ^= bits
        return bytes(changed)

    origin = small(flavor, checksum=False)
    assert isinstance(Harness().session(origin, semi_sync=semi_sync, damage=damage), SourceError)


@pytest.mark.fuzz
@FLAVORS
@given(
    low=st.integers(0, 3000),
    count=st.integers(1, 300),
    again=st.booleans(),
)
def test_bytes_left_out_or_repeated_never_reach_the_log(flavor: Flavor, low: int, count: int, again: bool) -> None:
    def damage(data: bytes) -> bytes:
        return data[: low + count] + data[low:] if again else data[:low] + data[low + count :]

    origin, harness = small(flavor), Harness()
    assert isinstance(harness.session(origin, damage=damage), SourceError)
    assert is_beginning(harness, origin)
    assert isinstance(harness.session(origin), Disconnected)
    assert_holds(harness, origin)
