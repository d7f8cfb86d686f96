"""The consensus of a cluster: `raft.api.ClusterConsensus` on real sockets, threads and disks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kingbus_node.raft.api import (
    CommitListener,
    ContactListener,
    LeadershipListener,
    MemberKind,
    MemberStatus,
)
from kingbus_node.raft.options import ClusterOptions
from kingbus_node.store.entry import Entry
from kingbus_node.store.log import Log


class Cluster:
    """A `raft.api.ClusterConsensus`. Owns the writing side of the log while it is open."""

    def __init__(
        self,
        log: Log,
        name: str,
        options: ClusterOptions,
        *,
        on_sync: Callable[[float], None] | None = None,
        on_commit: Callable[[float], None] | None = None,
    ) -> None:
        """Listens, connects to its peers and takes part, from the moment that it is made.

        For metrics, and called in threads of its own: `on_sync` with the seconds that a sync took, `on_commit` with
        those from an entry being proposed here to its commit. OSError: `options.listen` cannot be used; StoreError.
        """
        raise NotImplementedError

    name: str
    address: str
    commit_index: int
    last_index: int
    term: int
    leader: str | None
    leader_address: str | None
    is_leader: bool
    in_touch: bool
    contact: float
    suspended: str | None
    failure: Exception | None

    def propose(self, entries: Sequence[Entry]) -> int:
        """See `raft.api.Consensus.propose`."""
        raise NotImplementedError

    def wait_committed(self, index: int, deadline: float) -> bool:
        """See `raft.api.Consensus.wait_committed`."""
        raise NotImplementedError

    def add_commit_listener(self, listener: CommitListener) -> None:
        """See `raft.api.Consensus.add_commit_listener`."""
        raise NotImplementedError

    def add_leadership_listener(self, listener: LeadershipListener) -> None:
        """See `raft.api.ClusterConsensus.add_leadership_listener`."""
        raise NotImplementedError

    def add_contact_listener(self, listener: ContactListener) -> None:
        """See `raft.api.ClusterConsensus.add_contact_listener`."""
        raise NotImplementedError

    def suspend(self, reason: str | None) -> None:
        """See `raft.api.ClusterConsensus.suspend`."""
        raise NotImplementedError

    def members(self) -> list[MemberStatus]:
        """See `raft.api.ClusterConsensus.members`."""
        raise NotImplementedError

    def add_member(
        self, name: str, address: str, *, role: MemberKind = "voter", priority: int = 0, deadline: float
    ) -> None:
        """See `raft.api.ClusterConsensus.add_member`."""
        raise NotImplementedError

    def remove_member(self, name: str, deadline: float) -> None:
        """See `raft.api.ClusterConsensus.remove_member`."""
        raise NotImplementedError

    def transfer(self, name: str | None, deadline: float) -> str:
        """See `raft.api.ClusterConsensus.transfer`."""
        raise NotImplementedError

    def address_of(self, name: str) -> str | None:
        """See `raft.api.ClusterConsensus.address_of`."""
        raise NotImplementedError

    def info_of(self, name: str) -> Mapping[str, str]:
        """See `raft.api.ClusterConsensus.info_of`."""
        raise NotImplementedError

    def close(self) -> None:
        """See `raft.api.Consensus.close`."""
        raise NotImplementedError
