"""What the Raft core asks of a disk, and the few durable values beside the log.

The core decides, storage obeys: it reads and writes when it is called, and calls nobody. ``journal`` implements it on
the log of ``store``; the simulator implements it on a disk that forgets, tears and hangs.

Three calls must be durable when they return, since what the node says next rests on them: ``save_hard_state``,
``save_identity`` and ``truncate_from`` (and ``reset``, which is both a truncation and a new beginning). ``append``
need not be: the owner of the core syncs in the background, and tells it so (``Raft.sync_started``,
``Raft.sync_finished``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kingbus_node.raft.configuration import Configuration
from kingbus_node.raft.messages import Entry, Kind


@dataclass(frozen=True, slots=True)
class HardState:
    """What a node may not forget, or it could vote twice in a term (section 3.8).

    :param term: the latest term that this node has seen
    :param vote: whom it voted for in that term, an address, or None
    """

    term: int = 0
    vote: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Which disk this is, and whether it may vote; see ``formation``.

    :param incarnation: a random number, made with the empty data directory
    :param formed: the disk belongs to a cluster
    :param founders: address and incarnation of every first member, when the cluster was formed by the first members
        together
    """

    incarnation: int
    formed: bool = False
    founders: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything up to an index, in place of the entries.

    :param index: the last entry that `state` includes
    :param term: its term
    :param configuration: the configuration in effect there, None when that was still the first one
    :param state: the store's own encoding
    """

    index: int
    term: int
    configuration: Configuration | None
    state: bytes


class Proposal(Protocol):
    """Something to be put into the log, before it has a place there."""

    def seal(self, index: int, term: int) -> Entry:
        """The entry that it becomes at `index`, in `term`."""
        ...


class Storage(Protocol):
    """The log, the hard state and the identity of one node."""

    @property
    def first_index(self) -> int:
        """The oldest entry that can be read; one above ``last_index`` when there is none."""
        ...

    @property
    def last_index(self) -> int:
        """The newest entry; without entries, that of the snapshot, or 0."""
        ...

    @property
    def commit_floor(self) -> int:
        """An index that was certainly committed when the storage was opened, 0 if none is known."""
        ...

    @property
    def writable(self) -> bool:
        """Whether there is room for more entries."""
        ...

    def term_at(self, index: int) -> int | None:
        """The term of an entry from ``first_index`` - 1 to ``last_index``, else None. That of index 0 is 0."""
        ...

    def last_at_most(self, index: int, term: int) -> int:
        """The greatest index up to `index` (and ``last_index``) whose entry's term is at most `term`; if that is not
        retained, one below ``first_index``."""
        ...

    def append(self, entries: Sequence[Entry]) -> None:
        """Puts `entries` behind ``last_index``, all or none. Not durable yet.

        :raises LogFullError: there is no room, although ``writable`` said so
        :raises OSError: the disk failed; the node must stop
        """
        ...

    def truncate_from(self, index: int) -> None:
        """Removes the entries from `index` on. Durable on return."""
        ...

    def reset(self, snapshot: Snapshot) -> None:
        """Replaces the whole log by a snapshot. Durable on return."""
        ...

    def snapshot(self) -> Snapshot:
        """The state at one below ``first_index``.

        :raises PurgedError: a purge was committed this moment; ask again
        """
        ...

    def read(self, index: int, max_bytes: int) -> Sequence[Entry]:
        """The entries from `index` on, at least one, and no more than `max_bytes` unless the first alone is larger.

        :raises PurgedError: a purge was committed this moment, and they are gone
        """
        ...

    def seal_control(self, kind: Kind, body: bytes, index: int, term: int) -> Entry:
        """An entry of Raft's own."""
        ...

    def control_body(self, entry: Entry) -> bytes:
        """The body of an entry made by ``seal_control``.

        :raises ProtocolError: the entry, which came from a peer, is not what its kind says
        """
        ...

    def configurations(self) -> Sequence[tuple[int, Configuration]]:
        """The configurations in the log with their indexes, oldest first: the last one up to ``commit_floor`` and all
        after it.
        """
        ...

    def hard_state(self) -> HardState:
        """What was saved last."""
        ...

    def save_hard_state(self, state: HardState) -> None:
        """Durable on return.

        :raises LogFullError: there is no room; the old one is still there
        """
        ...

    def identity(self) -> Identity:
        """What was saved last."""
        ...

    def save_identity(self, identity: Identity) -> None:
        """Durable on return."""
        ...
