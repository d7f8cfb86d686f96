"""What could be purged from a log, and the entries that do it: `retention` with the eyes and hands it needs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from kingbus_node.store.catalogue import CatalogueReader, FileInfo
from kingbus_node.store.entry import Entry
from kingbus_node.store.errors import StoreError
from kingbus_node.store.log import Log
from kingbus_node.store.retention import SegmentUse
from kingbus_node.store.state import LogState


class UnknownLogError(StoreError):
    """No retained source file has the name that was given."""


@dataclass(frozen=True, slots=True)
class Order:
    """A purge that was decided upon. oldest: the first source file to stay. entry: what makes it so, when committed.

    files: how many go. held: how many more would have gone if a connected replica did not need them. readers: how many
    replicas need the first of those, as far as that is known.
    """

    oldest: FileInfo
    entry: Entry
    files: int
    held: int = 0
    readers: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """Nothing goes, for replicas need even the oldest source file. held, readers: as in `Order`."""

    oldest: FileInfo
    held: int
    readers: int


class Purger:
    """For one thread."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._starts: dict[int, int | None] = {}  # by segment: `SegmentUse.file_start`, where it will not change

    def survey(self, now: float | None = None) -> list[SegmentUse]:
        """The segments as the policy sees them. `now`: Unix seconds, None for the clock's."""
        now = time.time() if now is None else now
        settled = self._log.commit_index  # up to there the catalogue has every file
        state, files = self._log.state, self._log.segment_files()
        known, self._starts = self._starts, {}
        found: list[SegmentUse] = []
        for file in files:
            first = file.first_index
            start = known[first] if first in known else self._file_start(state, first, file.last_index)
            if file.last_index is not None and file.last_index <= settled:
                self._starts[first] = start
            if first <= state.index or not found:
                found.append(SegmentUse(first, file.size + file.index_size, now - file.modified, start))
        return found

    def _file_start(self, state: LogState, first: int, last: int | None) -> int | None:
        catalogue, newest = self._catalogue(state)
        if newest < state.oldest_file:
            return None
        file = catalogue.starting_from(first, state.oldest_file, newest)
        return None if file is None or (last is not None and file.start_index > last) else file.start_index

    def order(self, index: int) -> Order:
        """What makes the source file that begins with entry `index` the oldest. StoreError if none does."""
        state, file = self._log.state, None
        catalogue, newest = self._catalogue(state)
        if state.oldest_file <= newest:
            file = catalogue.starting_from(index, state.oldest_file, newest)
        if file is None or file.start_index != index:
            raise StoreError(f"no source file begins with entry {index}")
        return self._order(state, file)

    def to_file(self, name: str, replicas: Iterable[int] = ()) -> Order | Held | None:
        """What makes the file of that name the oldest, or an older one that a replica still reads; None: it is.

        `replicas`: the oldest entry that each connected one still needs. UnknownLogError.
        """
        state, file = self._log.state, None
        if state.oldest_file <= state.file_id:
            known = CatalogueReader(self._log.directory).range(state.oldest_file, state.file_id)
            file = next((info for info in known if info.name == name), None)
        if file is None:
            raise UnknownLogError(f"there is no binlog {name}")
        return self._up_to(state, file.id, replicas)

    def before(self, timestamp: float, replicas: Iterable[int] = ()) -> Order | Held | None:
        """What purges the oldest files, as far as their last event is older than `timestamp` (Unix seconds); None: none
        is.
        """
        state, log = self._log.state, self._log
        catalogue, newest = self._catalogue(state)
        if state.oldest_file >= newest:
            return None
        for following in catalogue.range(state.oldest_file + 1, newest):
            last = following.start_index - 1
            if int(log.records_from(last, last)[0]["timestamp"]) >= timestamp:
                return self._up_to(state, following.id - 1, replicas)
        return self._up_to(state, newest, replicas)

    def _up_to(self, state: LogState, file_id: int, replicas: Iterable[int]) -> Order | Held | None:
        floors = sorted(replicas)
        wanted, readers = file_id, 0
        catalogue, newest = self._catalogue(state)
        if floors:
            behind = catalogue.starting_from(floors[0] + 1, state.oldest_file, newest)
            file_id = min(file_id, (newest if behind is None else behind.id - 1))
            readers = sum(behind is None or floor + 1 < behind.start_index for floor in floors)
        held = wanted - file_id
        if file_id > state.oldest_file:
            return self._order(state, catalogue.get(file_id), held, readers)
        return Held(catalogue.get(state.oldest_file), wanted - state.oldest_file, readers) if held else None

    def _catalogue(self, state: LogState) -> tuple[CatalogueReader, int]:
        """The source files, and the newest that is among them: on a full disk the state may know of a later one."""
        catalogue = CatalogueReader(self._log.directory)
        return catalogue, min(state.file_id, catalogue.last_id)

    def _order(self, state: LogState, file: FileInfo, held: int = 0, readers: int = 0) -> Order:
        return Order(file, self._log.purge_entry(file.id), file.id - state.oldest_file, held, readers)
