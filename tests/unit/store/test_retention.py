"""The retention policy: what goes, and what must stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.store.retention import NOTHING, Decision, RetentionPolicy, SegmentUse, decide

DAY = 86400.0


def segments(*parts: tuple[int, float, int | None]) -> list[SegmentUse]:
    """Of 100 entries each: bytes, age, and where the first file begins, counted within the segment."""
    return [
        SegmentUse(100 * number + 1, size, age, None if start is None else 100 * number + 1 + start)
        for number, (size, age, start) in enumerate(parts)
    ]


FIVE = segments((10, 50, 0), (10, 40, 30), (10, 30, 20), (10, 20, 10), (10, 0, 0))


def by_size(most: int, **more: bool | int) -> RetentionPolicy:
    return RetentionPolicy(max_bytes=most, **more)  # type: ignore[arg-type]


def test_without_limits_nothing_goes() -> None:
    assert decide(FIVE, RetentionPolicy(), 0, ()) == NOTHING


@pytest.mark.parametrize(
    ("most", "gone"), [(1000, 0), (50, 0), (49, 1), (40, 1), (39, 2), (30, 2), (11, 4), (10, 4), (0, 4)]
)
def test_the_oldest_go_until_the_rest_fits(most: int, gone: int) -> None:
    decision = decide(FIVE, by_size(most), 1 << 40, ())
    assert (decision.segments, decision.bytes) == (gone, 10 * gone)
    assert decision.cut == (FIVE[gone].file_start if gone else None)


def test_a_file_that_spans_segments_goes_whole_when_there_is_too_much() -> None:
    long = segments((10, 50, 0), (10, 40, None), (10, 30, None), (10, 20, 10), (10, 0, None))
    decision = decide(long, by_size(45), 1 << 40, ())
    assert (decision.cut, decision.segments) == (311, 3)
    assert decide(long, by_size(5), 1 << 40, ()).cut == 311


def test_a_file_that_spans_segments_stays_whole_when_some_of_it_is_young() -> None:
    long = segments((10, 50, 0), (10, 40, None), (10, 30, 10), (10, 20, 10), (10, 0, None))
    assert decide(long, RetentionPolicy(max_age=35), 1 << 40, ()) == NOTHING
    assert decide(long, RetentionPolicy(max_age=29), 1 << 40, ()).cut == 211


def test_a_file_that_begins_with_its_segment_frees_all_before_it() -> None:
    assert decide(FIVE, RetentionPolicy(max_age=1), 1 << 40, ()).cut == 401


def test_an_active_file_never_goes() -> None:
    alone = segments((1000, 10 * DAY, 0))
    assert decide(alone, RetentionPolicy(max_age=1, max_bytes=1), 0, ()) == NOTHING
    one_file = segments((1000, 10 * DAY, 0), (1000, 9 * DAY, None), (1000, 8 * DAY, None))
    assert decide(one_file, RetentionPolicy(max_age=1, max_bytes=1), 0, ()) == NOTHING


def test_nothing_goes_that_a_connected_replica_needs() -> None:
    # Segment 2 (entries 201 to 300) has its first file at 221: a replica at 220 needs the file before.
    assert decide(FIVE, by_size(10), 1 << 40, [500, 221, 400]) == Decision(
        221, "more than storage.retention.max_bytes (10 bytes)", 2, 20, held=221
    )
    assert decide(FIVE, by_size(10), 1 << 40, [220]).cut == 131
    assert decide(FIVE, by_size(10), 1 << 40, [5]) == Decision(None, held=5)
    assert decide(FIVE, by_size(49), 1 << 40, [131]) == Decision(
        131, "more than storage.retention.max_bytes (49 bytes)", 1, 10
    )


def test_replicas_do_not_count_when_the_configuration_says_so() -> None:
    assert decide(FIVE, by_size(10, keep_for_replicas=False), 1 << 40, [5]).cut == 401


def test_replicas_do_not_count_when_the_disk_is_low_on_space() -> None:
    policy = by_size(10, min_free_bytes=100)
    assert decide(FIVE, policy, 100, [5]) == Decision(None, held=5)
    decision = decide(FIVE, policy, 99, [5])
    assert (decision.cut, decision.forced, decision.held) == (401, 5, None)
    assert decide(FIVE, policy, 99, [401]).forced is None


def test_low_space_alone_condemns_nothing() -> None:
    assert decide(FIVE, RetentionPolicy(max_age=DAY, max_bytes=1 << 30, min_free_bytes=100), 0, ()) == NOTHING


def test_it_says_why() -> None:
    both = decide(FIVE, RetentionPolicy(max_age=25, max_bytes=45), 1 << 40, ())
    assert both.reason == "older than storage.retention.max_age (25 s)"
    more = decide(FIVE, RetentionPolicy(max_age=45, max_bytes=25), 1 << 40, ())
    assert more.reason == "more than storage.retention.max_bytes (25 bytes)"


@st.composite
def logs(draw: st.DrawFn) -> list[SegmentUse]:
    found, first = [], 1
    ages = sorted(draw(st.lists(st.integers(0, 50), min_size=1, max_size=8)), reverse=True)
    for age in ages:
        entries = draw(st.integers(1, 50))
        start = draw(st.none() | st.integers(first, first + entries - 1))
        found.append(SegmentUse(first, draw(st.integers(1, 30)), age, start))
        first += entries
    return found


@pytest.mark.fuzz
@given(
    logs(),
    st.builds(
        RetentionPolicy,
        st.none() | st.integers(1, 50).map(float),
        st.none() | st.integers(1, 100),
        st.booleans(),
        st.just(100),
    ),
    st.sampled_from([99, 100]),
    st.lists(st.integers(1, 400), max_size=3),
)
def test_whatever_there_is_the_rules_hold(
    log: list[SegmentUse], policy: RetentionPolicy, free: int, replicas: list[int]
) -> None:
    decision = decide(log, policy, free, replicas)
    starts = [segment.file_start for segment in log]
    floor = min(replicas, default=None) if policy.keep_for_replicas else None
    if decision.cut is None:
        gone = 0
    else:
        gone = starts.index(decision.cut)
        assert gone == decision.segments > 0
        assert decision.bytes == sum(segment.bytes for segment in log[:gone])
        if floor is not None and free >= policy.min_free_bytes:
            assert decision.cut <= floor
    left = sum(segment.bytes for segment in log[gone:])
    cuts = [number for number in range(1, len(log)) if starts[number] is not None]
    for number in cuts:
        start = starts[number]
        assert start is not None
        if number > gone and (floor is None or start <= floor or free < policy.min_free_bytes):
            # What is still there although it could go: neither too much nor too old.
            assert policy.max_bytes is None or left <= policy.max_bytes or number > max(cuts)
            assert policy.max_age is None or any(one.age <= policy.max_age for one in log[: number + 1])
    if gone:
        before = left + log[gone - 1].bytes
        too_old = policy.max_age is not None and all(one.age > policy.max_age for one in log[:gone])
        too_much = policy.max_bytes is not None and sum(one.bytes for one in log) > policy.max_bytes
        assert too_old or too_much
        assert before > left
