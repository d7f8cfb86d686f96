"""Interval sets behave like sets of integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.binlog.intervals import Intervals

PAIRS = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 6)).map(lambda p: (p[0], p[0] + p[1])), max_size=14)
NUMBERS = st.sets(st.integers(1, 66), max_size=40)


def numbers(intervals: Intervals) -> set[int]:
    return {number for start, end in intervals for number in range(start, end)}


def naive(pairs: list[tuple[int, int]]) -> set[int]:
    return {number for start, end in pairs for number in range(start, end)}


def assert_canonical(intervals: Intervals) -> None:
    bounds = intervals.bounds().tolist()
    assert bounds == sorted(set(bounds))
    assert len(bounds) == 2 * len(intervals)


@given(PAIRS)
def test_built_from_any_pairs_it_holds_their_numbers(pairs: list[tuple[int, int]]) -> None:
    intervals = Intervals(pairs)
    assert numbers(intervals) == naive(pairs)
    assert_canonical(intervals)
    assert intervals.count == len(naive(pairs))
    assert intervals.last == max(naive(pairs), default=None)
    assert bool(intervals) is bool(naive(pairs))


@given(st.lists(st.integers(1, 60), max_size=40))
def test_built_from_numbers_it_holds_them(values: list[int]) -> None:
    intervals = Intervals.from_numbers(np.array(values, dtype=np.int64))
    assert numbers(intervals) == set(values)
    assert_canonical(intervals)


@given(PAIRS, PAIRS, st.booleans())
def test_adding_and_removing_ranges_one_by_one(
    first: list[tuple[int, int]], second: list[tuple[int, int]], up: bool
) -> None:
    intervals = Intervals()
    expected: set[int] = set()
    for start, end in sorted(first) if up else first:
        intervals.add(start, end)
        expected |= set(range(start, end))
        assert_canonical(intervals)
    for start, end in second:
        intervals.remove(start, end)
        expected -= set(range(start, end))
        assert_canonical(intervals)
    assert numbers(intervals) == expected
    assert intervals == Intervals.from_numbers(np.array(sorted(expected), dtype=np.int64))


Operation = Callable[[Intervals, Intervals], Intervals]
SetOperation = Callable[[set[int], set[int]], set[int]]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda a, b: a | b, lambda a, b: a | b),
        (lambda a, b: a & b, lambda a, b: a & b),
        (lambda a, b: a - b, lambda a, b: a - b),
    ],
    ids=["union", "intersection", "difference"],
)
@given(PAIRS, PAIRS)
def test_algebra_is_that_of_sets(
    operation: Operation, expected: SetOperation, first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    left, right = Intervals(first), Intervals(second)
    result = operation(left, right)
    assert numbers(result) == expected(naive(first), naive(second))
    assert_canonical(result)
    assert (left, right) == (Intervals(first), Intervals(second))


@given(PAIRS, PAIRS)
def test_update_is_union_in_place(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    intervals = Intervals(first)
    assert intervals.holds(np.arange(70)).tolist() == [n in naive(first) for n in range(70)]
    intervals.update(Intervals(second))
    assert numbers(intervals) == naive(first) | naive(second)
    assert intervals.holds(np.arange(70)).tolist() == [n in naive(first) | naive(second) for n in range(70)]


@given(PAIRS, PAIRS)
def test_comparisons_are_those_of_sets(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    assert (Intervals(first) >= Intervals(second)) == (naive(first) >= naive(second))
    assert Intervals(first).overlaps(Intervals(second)) == bool(naive(first) & naive(second))
    assert (Intervals(first) == Intervals(second)) == (naive(first) == naive(second))


@given(PAIRS, st.integers(0, 70), st.integers(0, 8))
def test_membership_of_numbers_and_ranges(pairs: list[tuple[int, int]], start: int, length: int) -> None:
    intervals = Intervals(pairs)
    assert (start in intervals) == (start in naive(pairs))
    assert intervals.holds_range(start, start + length) == (set(range(start, start + length)) <= naive(pairs))


@given(PAIRS)
def test_a_copy_is_independent(pairs: list[tuple[int, int]]) -> None:
    intervals = Intervals(pairs)
    copy = intervals.copy()
    copy.add(1, 100)
    assert numbers(intervals) == naive(pairs)


def test_the_whole_range_of_mysql_fits() -> None:
    intervals = Intervals([(1, 2**63 - 1)])
    intervals.remove(5, 6)
    assert list(intervals) == [(1, 5), (6, 2**63 - 1)]
    assert intervals.last == 2**63 - 2
    assert (Intervals([(1, 2**63 - 1)]) - intervals) == Intervals([(5, 6)])
    assert intervals.holds(np.array([4, 5, 2**63 - 2])).tolist() == [True, False, True]
