"""The interface between consensus and the rest of a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kingbus_node.store.entry import Entry

CommitListener = Callable[[int], None]


class ConsensusError(Exception):
    """The base of what a consensus raises."""


class NotLeaderError(ConsensusError):
    """This node may not propose. `leader` is the name of the node that may, None while there is none."""

    def __init__(self, leader: str | None) -> None:
        self.leader = leader
        super().__init__("this node is not the leader; " + ("there is none now" if leader is None else f"{leader} is"))


class ConsensusClosedError(ConsensusError):
    """The consensus was closed."""


class ConsensusFailedError(ConsensusError):
    """The log failed (`__cause__` says how): nothing more is committed here until the log is opened again."""


class Consensus(Protocol):
    """What commits entries. All methods may be called from any thread, except where it says otherwise."""

    def propose(self, entries: Sequence[Entry]) -> int:
        """Puts entries, in order, behind everything proposed before, and gives the index that the last of them will
        have.

        Returns before they are durable or committed. Blocks while too many bytes are in flight, so a slow disk or
        quorum slows the source down instead of filling the memory. Payloads must not change before they are committed.
        NotLeaderError, ConsensusClosedError, ConsensusFailedError; then none of the entries is taken. An entry that was
        taken can still be lost with the leadership: ask `wait_committed` or a listener before promising anything.
        """

    @property
    def commit_index(self) -> int:
        """The last committed entry."""

    @property
    def last_index(self) -> int:
        """The last proposed entry."""

    def wait_committed(self, index: int, deadline: float) -> bool:
        """Waits until entry `index` is committed; False when `deadline` (a `time.monotonic` value) comes first.

        NotLeaderError when this node has lost the leadership under which the entry was proposed, ConsensusClosedError,
        ConsensusFailedError.
        """

    def add_commit_listener(self, listener: CommitListener) -> None:
        """Calls ``listener(commit_index)`` after each advance, when readers can see it already.

        It is called in the consensus' own thread, must be quick, must not raise and must not wait for consensus.
        """

    @property
    def failure(self) -> Exception | None:
        """Why nothing is committed any more, None while all is well."""

    @property
    def is_leader(self) -> bool:
        """Whether `propose` works here."""

    @property
    def term(self) -> int:
        """Raft's current term."""

    @property
    def leader(self) -> str | None:
        """The name of the leader, None while there is none."""

    def close(self) -> None:
        """Commits what was proposed, if it can, and stops. The log stays open: it belongs to the caller."""
