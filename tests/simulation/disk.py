"""A disk that forgets: what was not synced is lost with the power, and the last write may be torn.

It is a ``Storage`` for the Raft core, and knows by itself what is durable, by numbering writes: the core's own
account of that is what is being tested.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kingbus_node.raft.configuration import Configuration
from kingbus_node.raft.messages import Entry, Kind, size_of
from kingbus_node.raft.storage import HardState, Identity, Snapshot


class DiskWatcher(Protocol):
    """Who is told of every change, to check it."""

    def appended(self, disk: Disk, entry: Entry) -> None: ...
    def removed(self, disk: Disk, entry: Entry) -> None: ...
    def replaced(self, disk: Disk, snapshot: Snapshot) -> None: ...


@dataclass(frozen=True, slots=True)
class Text:
    """A proposal in the simulation: a few bytes that nobody else proposes."""

    data: bytes

    def seal(self, index: int, term: int) -> Entry:
        """As ``Proposal``."""
        return Entry(index, term, Kind.DATA, (self.data,), len(self.data))


def bytes_of(entry: Entry) -> bytes:
    """The entry's bytes in one piece."""
    return b"".join(bytes(part) for part in entry.parts)


def fold(state: int, entry: Entry) -> int:
    """What stands for the store's state: a checksum over all entries so far."""
    return zlib.crc32(b"%d %d %d " % (entry.index, entry.term, entry.kind) + bytes_of(entry), state)


class Disk:
    """One node's disk. It outlives the node's crashes."""

    def __init__(self, address: str, watcher: DiskWatcher, dice: random.Random) -> None:
        self.address = address
        self.full = False
        self.unlucky = False
        self._lost: dict[tuple[int, int], Entry] = {}
        self._watcher = watcher
        self._dice = dice
        self._begin()

    def _begin(self) -> None:
        self._writes = 0
        self._entries: list[tuple[int, Entry]] = []
        self.configured: list[int] = []
        self._base = Snapshot(0, 0, None, b"0")
        self._durable_writes = 0
        self._hard_state = HardState()
        self._identity = Identity(self._dice.getrandbits(63) | 1)
        self._noted_commit = 0
        self._commit_floor = 0

    # What happens to disks

    def crash(self, power: bool) -> None:
        """The process dies; with the `power`, so does what was not synced, but for a random part of it."""
        if power:
            durable = sum(number <= self._durable_writes for number, _ in self._entries)
            torn_at = durable if self.unlucky else self._dice.randint(durable, len(self._entries))
            self._cut(torn_at)
        self._durable_writes = self._writes  # opening the log syncs it
        self._commit_floor = min(self._dice.choice([0, self._noted_commit, self._noted_commit]), self.last_index)
        self._commit_floor = max(self._commit_floor, self._base.index)

    def _cut(self, at: int) -> None:
        del self._entries[at:]
        while self.configured and self.configured[-1] > self.last_index:
            self.configured.pop()

    def wipe(self) -> None:
        """The disk is lost, and an empty one takes its place."""
        self._lost |= {(e.index, e.term): e for number, e in self._entries if number <= self._durable_writes}
        self._begin()

    def sync_started(self) -> int:
        """A sync begins; returns its ticket."""
        return self._writes

    def sync_finished(self, ticket: int) -> None:
        """What was written before ``sync_started`` is durable now."""
        self._durable_writes = max(self._durable_writes, ticket)

    def note_commit(self, index: int) -> None:
        """What the log's owner publishes; it is written, but never synced."""
        self._noted_commit = max(self._noted_commit, index)

    def purge(self, upto: int) -> None:
        """Retention drops the entries up to `upto`, which are committed."""
        base = self._base
        configuration, state = base.configuration, int(base.state)
        count = upto - base.index
        for _, entry in self._entries[:count]:
            state = fold(state, entry)
            if entry.kind is Kind.CONFIGURATION:
                configuration = Configuration.decode(bytes_of(entry))
        self._base = Snapshot(upto, self._entries[count - 1][1].term, configuration, b"%d" % state)
        del self._entries[:count]
        self.configured = [index for index in self.configured if index > upto]

    def durable(self, index: int) -> Entry | None:
        """The entry at `index` if it would survive a power failure."""
        at = index - self._base.index - 1
        if not 0 <= at < len(self._entries):
            return None
        number, entry = self._entries[at]
        return entry if number <= self._durable_writes else None

    def was_durable(self, entry: Entry) -> bool:
        """Whether this disk, or one before it that was lost, could be counted on for `entry`."""
        held = self.durable(entry.index)
        if held is None or held.term != entry.term:
            held = self._lost.get((entry.index, entry.term))
        return held is not None and bytes_of(held) == bytes_of(entry)

    def entry(self, index: int) -> Entry | None:
        """The entry at `index`, durable or not."""
        at = index - self._base.index - 1
        return self._entries[at][1] if 0 <= at < len(self._entries) else None

    # Storage

    @property
    def first_index(self) -> int:
        return self._base.index + 1

    @property
    def last_index(self) -> int:
        return self._base.index + len(self._entries)

    @property
    def commit_floor(self) -> int:
        return self._commit_floor

    @property
    def writable(self) -> bool:
        return not self.full

    def term_at(self, index: int) -> int | None:
        at = index - self._base.index - 1
        if at == -1:
            return self._base.term
        return self._entries[at][1].term if 0 <= at < len(self._entries) else None

    def last_at_most(self, index: int, term: int) -> int:
        at = min(index, self.last_index)
        while at > self._base.index and self._entries[at - self._base.index - 1][1].term > term:
            at -= 1
        return max(at, self._base.index)

    def append(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            assert entry.index == self.last_index + 1, f"entry {entry.index} appended behind {self.last_index}"
            kept = Entry(entry.index, entry.term, entry.kind, (bytes_of(entry),), entry.size)
            self._writes += 1
            self._watcher.appended(self, kept)
            self._entries.append((self._writes, kept))
            if kept.kind is Kind.CONFIGURATION:
                self.configured.append(kept.index)

    def truncate_from(self, index: int) -> None:
        at = index - self._base.index - 1
        assert 0 <= at < len(self._entries), (
            f"truncation from {index} of a log from {self.first_index} to {self.last_index}"
        )
        for _, entry in self._entries[at:]:
            self._watcher.removed(self, entry)
        self._cut(at)

    def reset(self, snapshot: Snapshot) -> None:
        for _, entry in self._entries:
            if entry.index > snapshot.index:
                self._watcher.removed(self, entry)
        self._watcher.replaced(self, snapshot)
        self._cut(0)
        self._base = snapshot

    def snapshot(self) -> Snapshot:
        return self._base

    def read(self, index: int, max_bytes: int) -> Sequence[Entry]:
        at = index - self._base.index - 1
        out: list[Entry] = []
        size = 0
        for _, entry in self._entries[at:]:
            if out and size + entry.size > max_bytes:
                break
            out.append(entry)
            size += entry.size
        return out

    def seal_control(self, kind: Kind, body: bytes, index: int, term: int) -> Entry:
        return Entry(index, term, kind, (body,), size_of([body]))

    def control_body(self, entry: Entry) -> bytes:
        return bytes_of(entry)

    def configurations(self) -> Sequence[tuple[int, Configuration]]:
        found = [] if self._base.configuration is None else [(self._base.index, self._base.configuration)]
        for _, entry in self._entries:
            if entry.kind is Kind.CONFIGURATION:
                if found and entry.index <= self._commit_floor:
                    found.clear()
                found.append((entry.index, Configuration.decode(bytes_of(entry))))
        return found

    def hard_state(self) -> HardState:
        return self._hard_state

    def save_hard_state(self, state: HardState) -> None:
        self._hard_state = state

    def identity(self) -> Identity:
        return self._identity

    def save_identity(self, identity: Identity) -> None:
        self._identity = identity
