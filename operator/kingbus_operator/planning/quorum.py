"""What may be taken away without losing the quorum: the leader's view of the cluster.

Only a leader in touch with a majority knows who is a member, who votes, and who is there. Ongaro's dissertation,
section 3.3: a majority of the voters must be up for anything to be committed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kingbus_operator.planning.observed import MemberView, NodeView, PodView


@dataclass(frozen=True, slots=True)
class Quorum:
    """The cluster as its leader sees it."""

    leader: str
    term: int
    node: NodeView
    members: tuple[MemberView, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(member.name for member in self.members)

    @property
    def voters(self) -> frozenset[str]:
        return frozenset(member.name for member in self.members if member.role != "learner")

    @property
    def alive(self) -> frozenset[str]:
        """Voters that can acknowledge an entry now."""
        return frozenset(
            member.name
            for member in self.members
            if member.role != "learner" and (member.connected or member.name == self.leader)
        )

    @property
    def majority(self) -> int:
        return len(self.voters) // 2 + 1

    def can_lose(self, name: str) -> bool:
        """Whether a majority of the voters is left while this one is away, and it can come back to a leader.

        A voter that is away already takes nothing away. A cluster of one has no choice.
        """
        if name not in self.alive or len(self.voters) == 1:
            return True
        return len(self.alive - {name}) >= self.majority

    def can_remove(self, name: str) -> bool:
        """Whether the members that remain have a majority of their own."""
        rest = self.voters - {name}
        return len(self.alive & rest) >= len(rest) // 2 + 1


def quorum(pods: Iterable[PodView]) -> Quorum | None:
    """The view of the node that leads in the highest term, in touch with a majority; None when nobody says so."""
    leading = [
        (pod, pod.node)
        for pod in pods
        if pod.node is not None and pod.node.role == "leader" and pod.node.quorum and not pod.terminating
    ]
    if not leading:
        return None
    pod, node = max(leading, key=lambda found: found[1].term)
    return Quorum(pod.name, node.term, node, node.members)
