"""A cluster in virtual time: nodes, their disks, the network between them, and a queue of what happens next.

Everything is decided by the seed; nothing looks at the real clock, at hashes of strings or at the order of a set. So
a seed is a whole story, and replays exactly.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kingbus_node.raft.api import ConsensusError
from kingbus_node.raft.configuration import Configuration, Member, MemberRole
from kingbus_node.raft.core import Raft
from kingbus_node.raft.leadership import Leadership
from kingbus_node.raft.messages import Append, Message
from kingbus_node.raft.settings import Settings

from .checks import Ledger, ViolationError
from .disk import Disk, Text
from .network import Network, Profile
from .source import Reader

MAX_STEPS = 100_000
"""Several times what any seed needs."""


@dataclass(slots=True)
class Rules:
    """The code under test. A mutation puts another class in the place of one of these.

    :param disk_class: the disks, which a mutation may make forget more than they should
    :param reader_class: the model of what a leader does with the source
    """

    raft_class: type[Raft] = Raft
    disk_class: type[Disk] = Disk
    reader_class: type[Reader] = Reader


@dataclass(slots=True)
class DiskProfile:
    """How long a sync takes, in seconds: usually, and how often a hundred times as long."""

    usual: float = 0.004
    slow: float = 0.01


@dataclass(slots=True)
class Node:
    """One running process."""

    address: str
    disk: Disk
    raft: Raft
    dice: random.Random
    clock_ahead: float
    checked_commit: int = 0
    paused_until: float = 0.0
    syncing: bool = False
    alive: bool = True
    armed: float = float("inf")
    peers: set[str] = field(default_factory=set)


def describe(message: Message) -> str:
    """A message in a line, without the bytes of entries."""
    if not isinstance(message, Append) or not message.entries:
        return str(message)
    first, last = message.entries[0], message.entries[-1]
    terms = f"{first.term} to {last.term}"
    return f"{message._replace(entries=())} with entries {first.index} to {last.index} of terms {terms}"


class World:
    """All of it.

    :param seed: decides everything that happens by chance
    :param size: how many first members
    """

    def __init__(
        self,
        seed: int | str,
        size: int,
        *,
        rules: Rules | None = None,
        settings: Settings | None = None,
        profile: Profile | None = None,
        disk_profile: DiskProfile | None = None,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.seed = seed
        self.now = 0.0
        self.dice = random.Random(f"world {seed}")
        self.rules = rules or Rules()
        self.settings = settings or Settings(append_bytes=300, window_bytes=2000)
        self.ledger = Ledger()
        self.network = Network(random.Random(f"network {seed}"), self.at, profile or Profile())
        self.disk_profile = disk_profile or DiskProfile()
        self.disks: dict[str, Disk] = {}
        self.nodes: dict[str, Node] = {}
        self.founders = Configuration.of(f"n{i}:1" for i in range(1, size + 1))
        self.schedule: list[str] = []
        self.steps = 0
        self.proposed = 0
        self.on_leader: Callable[[Node], None] = lambda _: None
        self._trace = trace
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._starts = 0
        for address in self.founders.voters:
            self.add_machine(address)
            self.start(address)

    # Time

    def at(self, time: float, call: Callable[[], None]) -> None:
        """Schedules `call`."""
        self._number += 1
        heapq.heappush(self._queue, (max(time, self.now), self._number, call))

    def after(self, delay: float, call: Callable[[], None]) -> None:
        """Schedules `call` in `delay` seconds."""
        self.at(self.now + delay, call)

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Lets time pass until `condition` holds now or after a step, for at most `seconds`; returns whether it did."""
        if condition():
            return True
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, call = heapq.heappop(self._queue)
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise ViolationError(
                    f"liveness: {MAX_STEPS} steps in {self.now:.1f} s of virtual time: the nodes talk without end"
                )
            call()
            if condition():
                return True
        self.now = end
        return False

    def note(self, text: str) -> None:
        """Writes a line into the schedule that a failing seed prints."""
        self.schedule.append(f"{self.now:9.4f}  {text}")
        self.trace(text)

    def trace(self, text: str) -> None:
        """Shows a step, when somebody wants to see every one."""
        if self._trace is not None:
            self._trace(f"{self.now:9.4f}  {text}")

    # Machines and processes

    def add_machine(self, address: str) -> None:
        """A new empty disk."""
        self.disks[address] = self.rules.disk_class(address, self.ledger, random.Random(f"disk {address} {self.seed}"))

    def start(self, address: str) -> None:
        """Starts a node on its disk."""
        self._starts += 1
        disk = self.disks[address]
        dice = random.Random(f"node {address} {self._starts} {self.seed}")
        ahead = dice.uniform(0, 1000)
        raft = self.rules.raft_class(address, disk, self.founders, self.settings, dice, self.now + ahead)
        node = Node(address, disk, raft, dice, ahead, checked_commit=disk.first_index - 1)
        self.nodes[address] = node
        self._after_step(node)
        for other in sorted(self.disks):
            if other != address:
                self._dial_later(address, other)

    def kill(self, address: str, *, power: bool) -> None:
        """The process dies (`kill -9`), or with the `power` its machine."""
        node = self.nodes.pop(address)
        node.alive = False
        node.disk.crash(power)
        for peer in sorted(node.peers):
            self.network.close(address, peer)
            # A dead process's system resets its connections; a dead machine's does nothing.
            self._notice_later(peer, address, self.dice.uniform(1, 4) if power else self.dice.uniform(0, 0.01))

    def wipe(self, address: str) -> None:
        """The disk of a node that does not run is replaced by an empty one."""
        self.disks[address].wipe()

    def pause(self, address: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        self.nodes[address].paused_until = self.now + seconds

    def jump(self, address: str, seconds: float) -> None:
        """The node's clock jumps ahead."""
        node = self.nodes[address]
        node.clock_ahead += seconds
        self._arm(node)

    def clock(self, node: Node) -> float:
        """The time, as the node's clock shows it."""
        return self.now + node.clock_ahead

    # Connections

    def cut(self, source: str, target: str, seconds: float) -> None:
        """Nothing arrives from `source` at `target` for a while. Connections too long without a word break."""
        self.network.hold(source, target, self.now + seconds)
        patience = self.dice.uniform(1.0, 4.0)
        if seconds > patience:
            self._notice_later(target, source, patience)

    def drop(self, a: str, b: str) -> None:
        """The connection breaks; each side notices in its own time."""
        for here, there in ((a, b), (b, a)):
            self._notice_later(here, there, self.dice.uniform(0, 0.3))

    def _notice_later(self, here: str, there: str, delay: float) -> None:
        epoch = self.network.epoch(here, there)
        self.after(delay, lambda: self._notice(here, there, epoch))

    def _notice(self, here: str, there: str, epoch: int | None) -> None:
        node = self.nodes.get(here)
        if node is None or self.network.epoch(here, there) != epoch:
            return
        if node.paused_until > self.now:
            self.at(node.paused_until, lambda: self._notice(here, there, epoch))
        elif there in node.peers:
            self._disconnected(node, there)
            self._dial_later(here, there)

    def _disconnected(self, node: Node, peer: str) -> None:
        node.peers.discard(peer)
        self.network.close(node.address, peer)
        self.trace(f"{node.address} lost its connection to {peer}")
        self._step(node, lambda: node.raft.disconnected(peer, self.clock(node)))

    def _dial_later(self, here: str, there: str) -> None:
        self.after(self.dice.uniform(0.001, 0.2), lambda: self._dial(here, there))

    def _dial(self, here: str, there: str) -> None:
        a, b = self.nodes.get(here), self.nodes.get(there)
        if a is None or there in a.peers:
            return
        unreachable = b is None or self.network.is_held(here, there) or self.network.is_held(there, here)
        if unreachable or max(a.paused_until, b.paused_until if b else 0) > self.now or b is None:
            self.after(self.dice.uniform(0.05, 0.4), lambda: self._dial(here, there))
            return
        for node, peer in ((a, there), (b, here)):
            if peer in node.peers:
                self._disconnected(node, peer)
        self.network.open(here, there)
        self.trace(f"{here} and {there} are connected")
        for node, peer in ((a, there), (b, here)):
            node.peers.add(peer)
        for node, peer in ((a, there), (b, here)):
            self._step(node, lambda n=node, p=peer: n.raft.connected(p, self.clock(n)))  # type: ignore[misc]

    # Steps

    def _step(self, node: Node, act: Callable[[], object]) -> None:
        act()
        self._after_step(node)

    def _after_step(self, node: Node) -> None:
        raft = node.raft
        for peer, message in raft.messages(self.clock(node)):
            self.network.send(node.address, peer, message, self.now, self._arrived)
        if raft.unsynced and not node.syncing:
            self._sync(node)
        new = raft.is_leader and raft.term not in self.ledger.leaders
        self.ledger.check(node, self.disks)
        if new:
            self.on_leader(node)
        node.disk.note_commit(raft.commit_index)
        self._arm(node)

    def _arrived(self, receiver: str, sender: str, message: Message) -> None:
        node = self.nodes.get(receiver)
        if node is None:
            return
        if node.paused_until > self.now:
            self.at(node.paused_until, lambda: self._arrived(receiver, sender, message))
        elif sender in node.peers:
            if self._trace is not None:
                self.trace(f"{sender} -> {receiver}: {describe(message)}")
            self._step(node, lambda: node.raft.step(sender, message, self.clock(node)))

    def _sync(self, node: Node) -> None:
        node.syncing = True
        node.raft.sync_started()
        ticket = node.disk.sync_started()
        profile = self.disk_profile
        seconds = self.dice.expovariate(1 / profile.usual) * (100 if self.dice.random() < profile.slow else 1)

        def finished() -> None:
            if not node.alive:
                return
            if node.paused_until > self.now:
                self.at(node.paused_until, finished)
                return
            node.disk.sync_finished(ticket)
            node.syncing = False
            self._step(node, lambda: node.raft.sync_finished(self.clock(node)))

        self.after(seconds, finished)

    def _arm(self, node: Node) -> None:
        when = node.raft.deadline - node.clock_ahead + 1e-6  # rounding must not wake it too early
        if when >= node.armed and node.armed > self.now:
            return
        node.armed = when

        def due() -> None:
            if not node.alive or node.armed != when:
                return
            if node.paused_until > self.now:
                node.armed = node.paused_until
                self.at(node.paused_until, due_again)
                return
            node.armed = float("-inf")
            self._step(node, lambda: node.raft.tick(self.clock(node)))

        def due_again() -> None:
            if node.alive:
                node.armed = float("-inf")
                self._step(node, lambda: node.raft.tick(self.clock(node)))

        self.at(when, due)

    # What clients and administrators do

    def leaders(self) -> list[Node]:
        """The nodes that believe to lead, the newest term first."""
        return sorted((n for n in self.nodes.values() if n.raft.is_leader), key=lambda n: -n.raft.term)

    def leader(self) -> Node | None:
        """The leader of the newest term, if there is one."""
        leaders = self.leaders()
        return leaders[0] if leaders else None

    def leadership(self) -> Leadership | None:
        """The leader's own account."""
        node = self.leader()
        return node.raft.leadership if node else None

    def propose(self, node: Node, size: int) -> int | None:
        """A client writes through `node`; returns the index, or None when it was refused."""
        self.proposed += 1
        return self.act(
            node, lambda: node.raft.propose([Text(b"p%d " % self.proposed + b"x" * size)], self.clock(node))
        )

    def propose_bytes(self, node: Node, data: bytes) -> int | None:
        """As ``propose``, of an entry that holds `data`."""
        return self.act(node, lambda: node.raft.propose([Text(data)], self.clock(node)))

    def act(self, node: Node, call: Callable[[], int | str]) -> int | None:
        """Has a node do something that it may refuse; returns an index, if that is what the call returned."""
        result: list[int | str] = []

        def attempt() -> None:
            try:
                result.append(call())
            except ConsensusError as refusal:
                self.trace(f"{node.address} refuses: {refusal}")

        if node.paused_until > self.now:
            return None
        self._step(node, attempt)
        return result[0] if result and isinstance(result[0], int) else None

    def join(self, node: Node, address: str, role: MemberRole = MemberRole.JOINING) -> int | None:
        """Asks a leader to take in a member."""
        raft = node.raft
        return self.act(
            node, lambda: raft.change(raft.configuration.with_member(Member(address, role)), self.clock(node))
        )

    def remove(self, node: Node, address: str) -> int | None:
        """Asks a leader to remove a member."""
        raft = node.raft
        return self.act(node, lambda: raft.change(raft.configuration.without(address), self.clock(node)))

    # The end

    def heal(self) -> None:
        """Ends every fault, and starts every node."""
        self.note("everything is repaired")
        self.network.heal()
        for address in sorted(self.disks):
            self.disks[address].full = False
            if address not in self.nodes:
                self.start(address)
        for node in self.nodes.values():
            node.paused_until = min(node.paused_until, self.now)

    def settled(self) -> bool:
        """Whether there is one leader, and every member holds what it holds, committed."""
        node = self.leader()
        if node is None or node.raft.leadership is None or node.raft.commit_index < node.disk.last_index:
            return False
        members = [m for m in node.raft.configuration.members if m.address in self.nodes]
        if any(m.role is MemberRole.JOINING for m in members) or node.raft.leadership.successor:
            return False
        goal = (node.disk.last_index, node.disk.term_at(node.disk.last_index))
        rafts = [self.nodes[m.address].raft for m in members]
        return all(
            (r.readable_index, r.storage.term_at(r.storage.last_index)) == goal
            and r.storage.last_index == goal[0]
            and r.formation.formed
            for r in rafts
            if r.role_of(r.address) is MemberRole.VOTER
        ) and all(r.readable_index == goal[0] for r in rafts)

    def settle(self, seconds: float = 60.0) -> None:
        """Waits for ``settled``.

        :raises ViolationError: it takes too long
        """
        if not self.run_until(self.settled, seconds):
            state = {n.address: self.describe(n) for n in self.nodes.values()}
            raise ViolationError(
                f"liveness: {seconds:g} s after everything was repaired the cluster is not one: {state}"
            )

    def describe(self, node: Node) -> str:
        """One line about a node."""
        raft = node.raft
        progress = f"last {node.disk.last_index} commit {raft.commit_index} readable {raft.readable_index}"
        return f"{raft.role.value} term {raft.term} {progress}"

    def members(self) -> Mapping[str, Member]:
        """The members as the newest leader sees them."""
        node = self.leader()
        return {m.address: m for m in node.raft.configuration.members} if node else {}
