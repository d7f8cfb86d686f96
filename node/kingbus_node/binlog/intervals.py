"""Sets of integers held as intervals: what one source contributes to a GTID set.

Rules:

1. An interval is half open, [start, end), as in MySQL's binary form.
2. The set is one sorted list of its boundaries, start, end, start, end, ... without touching intervals. So a number is
   in the set if an odd number of boundaries is at or below it, and an operation on two sets is one walk over the
   boundaries of both.
3. Changing one place costs a binary search and a memmove; operations on whole sets are vectorised.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_Bools: TypeAlias = npt.NDArray[np.bool_]


class Intervals:
    """A set of integers in 0 .. 2**63 - 1, as disjoint half-open intervals in ascending order."""

    __slots__ = ("_array", "_bounds")

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        """`intervals`: (start, end) pairs, end excluded, in any order; they may overlap, and be empty."""
        self._bounds: list[int] = []
        self._array: npt.NDArray[np.int64] | None = None
        bounds = self._bounds
        for start, end in sorted(pair for pair in intervals if pair[0] < pair[1]):
            if bounds and start <= bounds[-1]:
                bounds[-1] = max(bounds[-1], end)
            else:
                bounds += (start, end)

    @classmethod
    def from_sorted(cls, bounds: list[int]) -> Intervals:
        """Take `bounds` (start, end, start, ...), which must be strictly ascending and of even length, as they are."""
        out = cls()
        out._bounds = bounds
        return out

    @classmethod
    def from_numbers(cls, numbers: npt.NDArray[np.int64]) -> Intervals:
        """The set of `numbers`, which may be in any order and repeat."""
        if not len(numbers):
            return cls()
        ascending = numbers if (np.diff(numbers) > 0).all() else np.unique(numbers)
        gaps = np.flatnonzero(np.diff(ascending) != 1) + 1
        starts = ascending[np.concatenate(([0], gaps))]
        ends = ascending[np.concatenate((gaps, [len(ascending)])) - 1] + 1
        return cls.from_sorted(np.stack((starts, ends), axis=1).ravel().tolist())

    def copy(self) -> Intervals:
        return Intervals.from_sorted(self._bounds.copy())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The intervals as (start, end), end excluded, ascending."""
        bounds = self._bounds
        return zip(bounds[::2], bounds[1::2], strict=True)

    def __len__(self) -> int:
        """How many intervals there are."""
        return len(self._bounds) // 2

    def __bool__(self) -> bool:
        return bool(self._bounds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervals) and self._bounds == other._bounds

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Intervals({list(self)!r})"

    def __contains__(self, number: int) -> bool:
        return bool(bisect_right(self._bounds, number) & 1)

    @property
    def count(self) -> int:
        """How many numbers are in the set."""
        return sum(self._bounds[1::2]) - sum(self._bounds[::2])

    @property
    def last(self) -> int | None:
        """The greatest number in the set."""
        return self._bounds[-1] - 1 if self._bounds else None

    def add(self, start: int, end: int) -> None:
        """Add the numbers of [start, end)."""
        bounds = self._bounds
        if start >= end:
            return
        self._array = None
        if bounds and start == bounds[-1]:  # the next transaction of the same source
            bounds[-1] = end
            return
        low, high = bisect_left(bounds, start), bisect_right(bounds, end)
        bounds[low:high] = ([] if low & 1 else [start]) + ([] if high & 1 else [end])

    def remove(self, start: int, end: int) -> None:
        """Take the numbers of [start, end) out."""
        if start >= end:
            return
        self._array = None
        low, high = bisect_left(self._bounds, start), bisect_right(self._bounds, end)
        self._bounds[low:high] = ([start] if low & 1 else []) + ([end] if high & 1 else [])

    def update(self, other: Intervals) -> None:
        """Add the numbers of `other`."""
        if len(other) <= 8:
            for start, end in other:
                self.add(start, end)
        else:
            self._bounds = (self | other).bounds().tolist()
            self._array = None

    def holds_range(self, start: int, end: int) -> bool:
        """Whether all numbers of [start, end) are in the set."""
        if start >= end:
            return True
        at = bisect_right(self._bounds, start)
        return bool(at & 1) and self._bounds[at] >= end

    def holds(self, numbers: npt.NDArray[np.int64]) -> _Bools:
        """For each number whether it is in the set."""
        return (np.searchsorted(self.bounds(), numbers, side="right") & 1).astype(np.bool_)

    def __ge__(self, other: Intervals) -> bool:
        """Whether all numbers of `other` are in this set."""
        return all(self.holds_range(start, end) for start, end in other)

    def overlaps(self, other: Intervals) -> bool:
        """Whether the sets have a number in common."""
        return bool(self & other)

    def __or__(self, other: Intervals) -> Intervals:
        return self._combine(other, np.logical_or)

    def __and__(self, other: Intervals) -> Intervals:
        return self._combine(other, np.logical_and)

    def __sub__(self, other: Intervals) -> Intervals:
        return self._combine(other, np.greater)

    def bounds(self) -> npt.NDArray[np.int64]:
        """start, end, start, end, ..., ascending. Not to be changed."""
        if self._array is None:
            self._array = np.array(self._bounds, dtype=np.int64)
        return self._array

    def _combine(self, other: Intervals, operation: Callable[[_Bools, _Bools], _Bools]) -> Intervals:
        """The set of numbers x for which operation(x in self, x in other); `operation`(False, False) must be False."""
        points = np.union1d(self.bounds(), other.bounds())
        inside = operation(self.holds(points), other.holds(points))
        # A point is a boundary of the result where being inside changes.
        changes = np.diff(inside, prepend=np.False_)
        return Intervals.from_sorted(points[changes].tolist())
