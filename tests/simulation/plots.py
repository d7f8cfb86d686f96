"""Directed stories: rare chains of events that a rule exists for, played out step by step.

Each plays with the real code without a violation, and with its rule switched off (``mutations``) with one.
"""

from __future__ import annotations

from collections.abc import Callable

from kingbus_node.raft.configuration import Member
from kingbus_node.raft.settings import Settings

from .network import Profile
from .world import DiskProfile, Node, Rules, World


class Stage(World):
    """A world whose director decides who leads and who hears whom: nobody's patience ends by itself."""

    def __init__(self, size: int, rules: Rules) -> None:
        super().__init__(
            "stage",
            size,
            rules=rules,
            settings=Settings(election_timeout=1000.0, heartbeats=8000, append_bytes=50, window_bytes=100_000),
            profile=Profile(delay=(0.001, 0.002), spike=0),
            disk_profile=DiskProfile(usual=0.0005, slow=0),
        )
        self.run(1.0)
        leader = self.elect(min(self.nodes))
        self.propose(leader, 5)
        self.settle()

    def hush(self, source: str, *targets: str) -> None:
        """Nothing arrives from `source` at `targets`, and nobody notices."""
        for target in targets:
            self.network.hold(source, target, self.now + 1000)

    def elect(self, address: str) -> Node:
        """Makes `address` the leader, with the votes of those whom it can reach."""
        node = self.nodes[address]
        for _ in range(3):  # the first attempt may only tell it the term
            for other in self.nodes.values():
                other.raft._leader_contact = float("-inf")
            node.raft._election_deadline = self.clock(node)
            self._arm(node)
            if self.run_until(lambda: node.raft.is_leader, 0.2):
                return node
        raise RuntimeError(f"the director could not make {address} the leader: {self.describe(node)}")

    def end(self) -> None:
        """From here on everything goes its way, and must end well."""
        self.settings.election_timeout, self.settings.heartbeats = 1.0, 8
        self.network.heal()
        for address in sorted(self.disks):
            if address not in self.nodes:
                self.start(address)
        for node in self.nodes.values():
            node.raft._election_deadline = min(node.raft._election_deadline, node.raft._draw_deadline())
            self._arm(node)
        self.settle()


def older_term(rules: Rules) -> None:
    """Figure 3.7 of the dissertation: an entry of an old term is on a majority, and still not committed."""
    stage = Stage(5, rules)
    n1, n2, n3, n4, n5 = sorted(stage.nodes)
    first = stage.nodes[n1]
    stage.hush(n1, n3, n4, n5)
    index = stage.propose(first, 60)
    assert index is not None
    stage.run_until(lambda: stage.disks[n2].durable(index) is not None, 0.5)
    stage.kill(n1, power=False)
    stage.run(0.05)
    fifth = stage.elect(n5)
    stage.hush(n5, n1, n2, n3, n4)
    stage.propose(fifth, 60)
    stage.run(0.02)
    stage.kill(n5, power=False)
    stage.run(0.02)  # the others notice, and nobody stands for election yet
    stage.network.heal()
    stage.start(n1)
    stage.run(0.3)
    first = stage.elect(n1)
    stage.hush(n1, n4)
    stage.run_until(lambda: stage.disks[n3].entry(index) is not None, 0.5)
    stage.hush(n1, n3)
    stage.run_until(lambda: first.raft.commit_index >= index, 0.2)
    stage.kill(n1, power=False)
    stage.run(0.02)  # the others notice, and nobody stands for election yet
    stage.network.heal()
    stage.start(n5)
    stage.run(0.3)
    stage.elect(n5)
    stage.end()


def old_answer(rules: Rules) -> None:
    """An acknowledgement is under way while its leader is deposed, loses what was acknowledged, and leads again."""
    stage = Stage(5, rules)
    n1, n2, n3, n4, n5 = sorted(stage.nodes)
    first = stage.nodes[n1]
    stage.hush(n1, n3, n4, n5)
    stage.hush(n2, n1)
    for _ in range(10):
        stage.propose(first, 10)
    stage.run(0.1)
    third = stage.elect(n3)
    stage.network.release(n1, n3)
    goal = third.disk.last_index
    stage.run_until(lambda: stage.nodes[n1].disk.last_index == stage.nodes[n2].disk.last_index == goal, 0.5)
    stage.kill(n3, power=False)
    stage.network.release(n1, n4)
    stage.network.release(n1, n5)
    stage.run(0.1)
    first = stage.elect(n1)
    stage.hush(n1, n2, n5)
    for _ in range(12):
        stage.propose(first, 10)
    stage.run(0.1)
    stage.network.release(n2, n1)
    stage.run(0.1)
    stage.end()


def two_changes(rules: Rules) -> None:
    """Two leaders in turn each move one voter, and their majorities do not meet."""
    stage = Stage(4, rules)
    n1, n2, n3, n4 = sorted(stage.nodes)
    first = stage.nodes[n1]
    stage.hush(n1, n2, n3, n4)
    stage.remove(first, n4)
    stage.run(0.05)
    second = stage.elect(n2)
    stage.hush(n2, n1, n3)
    stage.remove(second, n1)
    stage.run(0.1)
    stage.kill(n2, power=False)
    stage.run(0.02)  # the others notice, and nobody stands for election yet
    stage.network.heal()
    stage.run(0.05)
    stage.elect(n1)
    stage.end()


def changes_at_once(rules: Rules) -> None:
    """A leader that cannot reach its followers takes in two new voters, and has a majority with them."""
    stage = Stage(3, rules)
    n1, n2, n3 = sorted(stage.nodes)
    new = ["n4:1", "n5:1"]
    for address in new:
        stage.add_machine(address)
        stage.start(address)
    stage.run(0.5)
    first = stage.nodes[n1]
    stage.hush(n1, n2, n3)
    for address in new:
        member = Member(address, incarnation=stage.disks[address].identity().incarnation)
        stage.act(first, lambda m=member: _take_in(stage, first, m))  # type: ignore[misc]
    stage.run(0.1)
    stage.elect(n2)
    stage.end()


def _take_in(stage: Stage, leader: Node, member: Member) -> int:
    return leader.raft.change(leader.raft.configuration.with_member(member), stage.clock(leader))


def forgotten_memory(rules: Rules) -> None:
    """A follower tells of entries that it holds in memory, loses power, and is back before anybody notices."""
    stage = Stage(3, rules)
    n1, n2, _ = sorted(stage.nodes)
    first = stage.nodes[n1]
    stage.disk_profile = DiskProfile(usual=5.0, slow=0)
    for _ in range(5):
        stage.propose(first, 10)
    leadership = first.raft.leadership
    assert leadership is not None
    stage.run_until(lambda: leadership.progress[n2].received == first.disk.last_index, 1)
    stage.nodes[n2].disk.unlucky = True
    stage.kill(n2, power=True)
    stage.disk_profile = DiskProfile(usual=0.0005, slow=0)
    stage.end()


def removed_leader(rules: Rules) -> None:
    """A leader of two is removed, and killed when only its own log says so: nobody else can be elected, for that log
    is the longer one.
    """
    stage = Stage(2, rules)
    n1, n2 = sorted(stage.nodes)
    first = stage.nodes[n1]
    stage.hush(n1, n2)
    index = stage.remove(first, n1)
    assert index is not None
    stage.run_until(lambda: stage.disks[n1].durable(index) is not None, 0.5)
    stage.kill(n1, power=False)
    stage.end()


PLOTS: dict[str, Callable[[Rules], None]] = {
    "older-term": older_term,
    "old-answer": old_answer,
    "two-changes": two_changes,
    "changes-at-once": changes_at_once,
    "forgotten-memory": forgotten_memory,
    "removed-leader": removed_leader,
}
