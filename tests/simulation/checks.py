"""What must hold after every step, whatever happens: the promises, said as a ledger of everything that was ever
committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Protocol

from kingbus_node.raft.core import Raft
from kingbus_node.raft.leadership import Leadership
from kingbus_node.raft.messages import Entry, Kind
from kingbus_node.raft.storage import Snapshot

from .disk import Disk, bytes_of, fold
from .source import Transactions

MAX_ENTRY = 300
"""More bytes than any entry in the simulation has."""


class ViolationError(AssertionError):
    """A promise was broken."""


class Checked(Protocol):
    """A running node, as far as the checks look at it."""

    @property
    def address(self) -> str: ...
    @property
    def raft(self) -> Raft: ...
    @property
    def disk(self) -> Disk: ...

    checked_commit: int


class Ledger:
    """Remembers what was committed and who led, and compares everything with it."""

    def __init__(self) -> None:
        self.committed: list[tuple[int, bytes]] = []
        self.leaders: dict[int, str] = {}
        self._states: list[int] = [0]
        self._written: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._places: dict[bytes, int] = {}
        self._transactions = [Transactions()]

    @property
    def length(self) -> int:
        """The highest index that was ever committed."""
        return len(self.committed)

    @property
    def transactions(self) -> Transactions:
        """What all that was ever committed adds up to."""
        return self._transactions[-1]

    def transactions_at(self, index: int) -> Transactions:
        """The same, as it was at an entry."""
        return self._transactions[index]

    # Told by disks

    def appended(self, disk: Disk, entry: Entry) -> None:
        """Log matching (section 3.5): an index and a term stand for one entry and for everything before it."""
        before = disk.term_at(entry.index - 1)
        found = (-1 if before is None else before, bytes_of(entry))
        known = self._written.setdefault((entry.index, entry.term), found)
        if known != found:
            raise ViolationError(
                f"log matching: {disk.address} wrote {found} as entry {entry.index} term {entry.term}, others {known}"
            )

    def removed(self, disk: Disk, entry: Entry) -> None:
        """A committed entry is never deleted."""
        if entry.index <= self.length and self.committed[entry.index - 1] == (entry.term, bytes_of(entry)):
            raise ViolationError(f"committed entry {entry.index} was deleted by {disk.address}")

    def replaced(self, disk: Disk, snapshot: Snapshot) -> None:
        """A snapshot stands for committed entries and nothing else."""
        if snapshot.index > self.length:
            raise ViolationError(
                f"{disk.address} was given a state at {snapshot.index}, but only {self.length} entries are committed"
            )
        if int(snapshot.state) != self._states[snapshot.index]:
            raise ViolationError(
                f"{disk.address} was given a state at {snapshot.index} that the entries do not add up to"
            )

    # Asked after every step

    def check(self, node: Checked, disks: Mapping[str, Disk]) -> None:
        """Compares one node with what is known.

        :param disks: all disks by address
        """
        raft, disk = node.raft, node.disk
        if raft.leadership is not None:
            self._check_leader(raft, raft.leadership, disk)
        if raft.commit_index > node.checked_commit:
            self._check_commit(node, disks)
        latest = disk.configured[-1] if disk.configured else 0
        if latest != raft.configuration_index and not (latest == 0 and raft.configuration_index < disk.first_index):
            raise ViolationError(
                f"configuration: {node.address} goes by entry {raft.configuration_index}, the last one is {latest}"
            )
        readable = raft.readable_index
        if readable > disk.first_index - 1 and disk.durable(readable) is None:
            raise ViolationError(
                f"durability: {node.address} takes entry {readable} to be on its disk, where it is not"
            )

    def _check_leader(self, raft: Raft, leadership: Leadership, disk: Disk) -> None:
        for progress in leadership.progress.values():
            if progress.in_flight_bytes >= raft.settings.window_bytes + max(MAX_ENTRY, raft.settings.append_bytes):
                raise ViolationError(
                    f"unbounded: {progress.in_flight_bytes} bytes are on their way to {progress.address}"
                )
        first = self.leaders.setdefault(raft.term, raft.address)
        if first != raft.address:
            raise ViolationError(f"election safety: {first} and {raft.address} both lead in term {raft.term}")
        if self.committed:
            # A leader that was deposed without knowing may be behind: only with a newer term than his can that be.
            newest = self.committed[-1][0]
            if newest <= raft.term and disk.term_at(self.length) != newest:
                raise ViolationError(
                    f"leader completeness: {raft.address} leads in term {raft.term} without entry {self.length}"
                )

    def _check_commit(self, node: Checked, disks: Mapping[str, Disk]) -> None:
        raft = node.raft
        for index in range(node.checked_commit + 1, raft.commit_index + 1):
            entry = node.disk.entry(index)
            if entry is None:
                if index < node.disk.first_index:
                    continue
                raise ViolationError(f"{node.address} commits entry {index}, which it does not hold")
            found = (entry.term, bytes_of(entry))
            if index <= self.length:
                if self.committed[index - 1] != found:
                    raise ViolationError(
                        f"committed entry {index} was {self.committed[index - 1]}, on {node.address} it is {found}"
                    )
            else:
                self._first_commit(node, index, entry, disks)
        node.checked_commit = raft.commit_index

    def _first_commit(self, node: Checked, index: int, entry: Entry, disks: Mapping[str, Disk]) -> None:
        if index != self.length + 1:
            raise ViolationError(f"{node.address} commits entry {index} before entry {self.length + 1}")
        voters = node.raft.configuration.voters
        holders = [v for v in voters if disks[v].was_durable(entry)]
        if 2 * len(holders) <= len(voters):
            raise ViolationError(
                f"quorum before visibility: {node.address} commits entry {index}, "
                f"which is on the disks of {holders} out of {voters}"
            )
        data = bytes_of(entry)
        if entry.kind is Kind.DATA and self._places.setdefault(data, index) != index:
            raise ViolationError(f"exactly once: {data!r} is committed at {self._places[data]} and at {index}")
        sum_ = copy(self.transactions)
        if entry.kind is Kind.DATA and (wrong := sum_.add(data)) is not None:
            raise ViolationError(wrong)
        self._transactions.append(sum_)
        self.committed.append((entry.term, data))
        self._states.append(fold(self._states[-1], entry))
