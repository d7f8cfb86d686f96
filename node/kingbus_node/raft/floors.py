"""What the replicas that are connected to any node of the cluster still need, for the leader's retention.

The leader asks every member that it is connected to, when something is about to be purged; they answer with the oldest
entry that a replica of theirs still needs. A member that is not connected is out of touch with the cluster: it ends the
dumps of its replicas by itself. One that is connected and does not answer counts as needing everything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from kingbus_node.raft import asking
from kingbus_node.raft.api import MemberStatus

logger = logging.getLogger(__name__)

STREAM: Final = "replica-floors"
EVERYTHING: Final = 0
_SECONDS: Final = 5.0


class Peers(asking.Streams, Protocol):
    """What is needed of a ``Cluster``."""

    @property
    def address(self) -> str:
        """This node's."""

    def members(self) -> Sequence[MemberStatus]:
        """See `raft.api.ClusterConsensus.members`."""


class ReplicaFloors:
    """Call it for the oldest entry that the replicas of each node need. `own`: those of this node."""

    def __init__(self, peers: Peers, own: Callable[[], Iterable[int]]) -> None:
        self._peers = peers
        self._own = own
        asking.answer(peers, STREAM, lambda _: min(self._own(), default=None))

    def __call__(self) -> list[int]:
        """Waits some seconds at most for each other node."""
        found = list(self._own())
        for member in self._peers.members():
            if member.address != self._peers.address and member.reachable:
                found += self._ask(member)
        return found

    def _ask(self, member: MemberStatus) -> list[int]:
        try:
            answer = asking.ask(self._peers, member, STREAM, None, _SECONDS)
        except asking.UnansweredError as error:
            logger.info("what the replicas of %s need is not known, so nothing is purged: %s", member.name, error)
            return [EVERYTHING]
        return [answer] if isinstance(answer, int) else []
