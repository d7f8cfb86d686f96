"""Histograms and totals in Prometheus' sense, fed as things happen and read by the scrape.

Not prometheus_client's own, which add a series ``_created`` to each.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from prometheus_client.core import HistogramMetricFamily

FSYNC_BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
"""Seconds, from what memory and good flash take to a disk that hangs."""


class Histogram:
    """Counts of observations by size. Thread-safe; an observation costs a microsecond."""

    def __init__(self, bounds: Sequence[float] = FSYNC_BUCKETS) -> None:
        """`bounds`: the upper ends of the buckets, ascending; one without end follows them."""
        self._bounds = tuple(bounds)
        self._lock = threading.Lock()
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts `value` in its bucket (which includes its upper end)."""
        at = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[at] += 1
            self._sum += value

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        """What is scraped: buckets that count everything up to their end."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        buckets: list[tuple[str, float]] = []
        so_far = 0
        for bound, count in zip((*map(_printed, self._bounds), "+Inf"), counts, strict=True):
            so_far += count
            buckets.append((bound, so_far))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=total)


class Total:
    """A sum that only grows. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.value += count


def _printed(bound: float) -> str:
    return repr(bound)
