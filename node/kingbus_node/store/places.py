"""Where entries lie in their segment's file: of the newest ones from memory, of the others from the index.

The newest entries are what is committed next and sent to followers next. Finding them in the ``.idx`` took a quarter of
the interpreter's time (``docs/decisions/0015-long-entries-go-from-the-page-cache.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kingbus_node.store.entry import Header, Meta
from kingbus_node.store.index import end_of, entry_sizes
from kingbus_node.store.segments import Segment, Segments

_NOTED_ENTRIES = 1024  # of the newest entries that are remembered
_NOTED_META = 4096  # bytes of meta that one of them may have


class Place(NamedTuple):
    """Where an entry lies in its segment's file: `size` bytes from `offset` on."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    term: int
    kind: int
    offset: int
    size: int


class Noted(NamedTuple):
    """An entry that was appended not long ago: what a commit and its place need, without reading."""

    header: Header
    meta: Meta
    segment: int  # the first index of the segment that it is in
    offset: int


class Newest:
    """The newest entries of a log. Changed by the thread that appends; `find` and `places` are for any thread."""

    def __init__(self) -> None:
        self._noted: list[Noted | None] = [None] * _NOTED_ENTRIES  # by index modulo that

    def remember(self, noted: Sequence[Noted]) -> None:
        """These were appended."""
        for entry in noted:
            self._noted[entry.header.index % _NOTED_ENTRIES] = entry if entry.header.meta_len <= _NOTED_META else None

    def forget_from(self, index: int) -> None:
        """Entry `index` and those behind it are about to go."""
        self._noted = [None if noted is None or noted.header.index >= index else noted for noted in self._noted]

    def find(self, index: int) -> Noted | None:
        """An entry that is remembered: what is found is of that index, and was appended as a whole."""
        noted = self._noted[index % _NOTED_ENTRIES]
        return noted if noted is not None and noted.header.index == index else None

    def places(self, first: int, last: int, max_bytes: int) -> tuple[int, list[Place]] | None:
        """The segment of entry `first`, and places as `recorded_places` gives them; None if it is not remembered."""
        noted = self.find(first)
        if noted is None:
            return None
        segment, left, places = noted.segment, max_bytes, list[Place]()
        while noted is not None and noted.segment == segment and first <= last:
            header = noted.header
            left -= header.size
            if left < 0 and places:
                break
            places.append(Place(first, header.term, header.kind, noted.offset, header.size))
            first += 1
            noted = self.find(first)
        return segment, places


def recorded_places(segments: Segments, first: int, last: int, max_bytes: int) -> tuple[Segment, list[Place]]:
    """From the index: places of entries from `first` on, one behind the other in their segment: up to `last`,
    `max_bytes` and the segment's end, at least one. PurgedError.
    """
    segment, record = segments.record(first)
    records = segments.records(segment, first, min(last - first + 1, 4096), last)
    start = int(record[0]["offset"])
    count = int(np.searchsorted(records["offset"], np.uint64(start + max_bytes)))
    while count > 1 and end_of(records[:count]) - start > max_bytes:
        count -= 1
    records = records[: max(1, count)]
    columns = (records["index"], records["term"], records["kind"], records["offset"], entry_sizes(records))
    return segment, list(map(Place._make, zip(*(column.tolist() for column in columns), strict=True)))
