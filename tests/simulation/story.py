"""One seed: a cluster, trouble of every kind, repair, and the drills after it.

Trouble is drawn from the seed: how many nodes, how slow network and disks are, and which faults come when. After the
repair the cluster must become one again, and then show in a few drills what safety alone does not ask for: that a
node that was away does not depose the leader, that a leader without a majority steps down, that followers learn of
commits at once and that nothing is sent twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from operator import itemgetter

from kingbus_node.raft.configuration import Configuration, MemberRole
from kingbus_node.raft.settings import Settings

from .checks import ViolationError
from .network import Profile
from .source import Source
from .world import DiskProfile, Node, Rules, World

TROUBLE_SECONDS = 25.0
MAX_NODES = 7


class Story:
    """What happens in one seed.

    :raises ViolationError: from ``run``, when a promise is broken
    """

    def __init__(self, seed: int, rules: Rules | None = None, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.dice = random.Random(f"story {seed}")
        dice = self.dice
        size = dice.choice([1, 2, 3, 3, 3, 3, 3, 4, 5, 5])
        wide = dice.random() < 0.2
        profile = Profile(
            delay=(0.03, 0.08) if wide else (0.0002, dice.choice([0.001, 0.004, 0.02])),
            spike=dice.choice([0, 0.01, 0.05]),
        )
        disks = DiskProfile(usual=dice.choice([0.0005, 0.004, 0.02]), slow=dice.choice([0, 0.01, 0.05]))
        settings = Settings(
            election_timeout=dice.choice([1.0, 1.0, 0.3]),
            append_bytes=dice.choice([100, 300, 2000]),
            window_bytes=dice.choice([300, 2000, 20000]),
        )
        self.world = World(seed, size, rules=rules, settings=settings, profile=profile, disk_profile=disks, trace=trace)
        self.load = dice.choice([2, 10, 30])
        self.calm = dice.choice([0.2, 0.5, 1.5])
        self._machines = size
        self._wiped = False
        self._removed: set[str] = set()
        self._faults = self._choose_faults()
        self._hunted = dice.random() < 0.4
        self.world.on_leader = self._led
        self.source = Source(self.world, pace=0.05) if seed % 7 in (3, 5) else None

    def run(self) -> None:
        """Trouble, repair, drills."""
        world = self.world
        world.note(f"seed {self.seed}: {len(world.nodes)} nodes")
        try:
            world.run_until(lambda: world.leader() is not None, 20)
            self._write()
            self._trouble()
            world.run(TROUBLE_SECONDS)
            self._faults = []
            self._hunted = False
            self.load = 0
            if self.source is not None:
                self.source.running = False
            self._fast()
            world.heal()
            world.settle()
            world.run(5)  # until connections that are dead without knowing it have broken too
            world.settle()
            self._drill()
        except ViolationError:
            raise
        except Exception as error:
            raise ViolationError(f"crash: {type(error).__name__}: {error}") from error

    # Load and trouble

    def _write(self) -> None:
        if not self.load:
            return
        leaders = self.world.leaders()
        if leaders:
            node = self.dice.choice(leaders)
            for _ in range(self.dice.choice([1, 1, 5])):
                self.world.propose(node, self.dice.choice([0, 10, 10, 200]))
        self.world.after(self.dice.expovariate(self.load), self._write)

    def _choose_faults(self) -> list[Callable[[], None]]:
        """Every seed has its own mixture, so that some faults are rare in some and alone in others."""
        faults = [
            self._drop,
            self._one_way,
            self._isolate,
            self._split,
            self._kill,
            self._kill,
            self._power_failure,
            self._pause,
            self._jump,
            self._transfer,
            self._join,
            self._remove,
            self._purge,
            self._fill,
            self._wipe,
        ]
        chosen = [f for f in faults if self.dice.random() < 0.6]
        return chosen or [self._kill]

    def _trouble(self) -> None:
        if not self._faults:
            return
        self.dice.choice(self._faults)()
        self.world.after(self.dice.expovariate(1 / self.calm), self._trouble)

    def _led(self, leader: Node) -> None:
        if self.source is not None:
            self.source.read(leader)
        self._hunt(leader)

    def _hunt(self, leader: Node) -> None:
        """In some seeds, new leaders are struck while they take over: that is when Raft is at its most delicate."""
        if self._hunted and self.dice.random() < 0.7:
            self.world.after(
                self.dice.expovariate(1 / self.dice.choice([0.002, 0.02, 0.2])), lambda: self._strike(leader.address)
            )

    def _strike(self, address: str) -> None:
        if not self._hunted or address not in self.world.nodes:
            return
        others = [a for a in sorted(self.world.disks) if a != address]
        blow = self.dice.choice(["kill", "power", "isolate", "mute", "deafen", "pause"])
        seconds = self.dice.choice([0.1, 0.5, 2])
        if blow in ("kill", "power"):
            self._stop(address, power=blow == "power", seconds=seconds)
        elif blow == "pause":
            self.world.note(f"the new leader {address} is stopped for {seconds} s")
            self.world.pause(address, seconds)
        else:
            hit = [o for o in others if self.dice.random() < 0.7]
            self.world.note(f"the new leader {address} is struck ({blow}) towards {', '.join(hit)} for {seconds} s")
            for other in hit:
                if blow in ("mute", "isolate"):
                    self.world.cut(address, other, seconds)
                if blow in ("deafen", "isolate"):
                    self.world.cut(other, address, seconds)

    def _some(self) -> str | None:
        nodes = sorted(self.world.nodes)
        leader = self.world.leader()
        if leader is not None and self.dice.random() < 0.3:
            return leader.address
        return self.dice.choice(nodes) if nodes else None

    def _pair(self) -> tuple[str, str] | None:
        machines = sorted(self.world.disks)
        if len(machines) < 2:
            return None
        a = self._some() or self.dice.choice(machines)
        return a, self.dice.choice([m for m in machines if m != a])

    def _drop(self) -> None:
        if pair := self._pair():
            self.world.note(f"the connection between {pair[0]} and {pair[1]} breaks")
            self.world.drop(*pair)

    def _one_way(self) -> None:
        if pair := self._pair():
            seconds = self.dice.choice([0.05, 0.5, 2, 6])
            self.world.note(f"nothing arrives from {pair[0]} at {pair[1]} for {seconds} s")
            self.world.cut(*pair, seconds)

    def _isolate(self) -> None:
        if address := self._some():
            self._divide([address], self.dice.choice([0.5, 2, 6]))

    def _split(self) -> None:
        machines = sorted(self.world.disks)
        self.dice.shuffle(machines)
        self._divide(machines[: len(machines) // 2], self.dice.choice([0.5, 2, 6]))

    def _divide(self, side: list[str], seconds: float) -> None:
        self.world.note(f"{', '.join(sorted(side))} cannot speak to the others for {seconds} s")
        for a in sorted(self.world.disks):
            for b in sorted(self.world.disks):
                if a in side and b not in side:
                    self.world.cut(a, b, seconds)
                    self.world.cut(b, a, seconds)

    def _kill(self) -> None:
        if address := self._some():
            self._stop(address, power=False, seconds=self.dice.choice([0.01, 0.5, 3]))

    def _power_failure(self) -> None:
        seconds = self.dice.choice([0.01, 0.5, 3])
        everybody = self.dice.random() < 0.2
        victims = sorted(self.world.nodes) if everybody else [self._some()]
        for address in victims:
            if address is not None:
                self._stop(address, power=True, seconds=seconds)

    def _stop(self, address: str, *, power: bool, seconds: float) -> None:
        self.world.note(f"{address} {'loses power' if power else 'is killed'}, back in {seconds} s")
        self.world.kill(address, power=power)
        self.world.after(seconds, lambda: self._restart(address))

    def _restart(self, address: str) -> None:
        if address in self.world.disks and address not in self.world.nodes:
            self.world.note(f"{address} starts")
            self.world.start(address)

    def _pause(self) -> None:
        if address := self._some():
            seconds = self.dice.choice([0.3, 1.5, 4])
            self.world.note(f"{address} is stopped for {seconds} s")
            self.world.pause(address, seconds)

    def _jump(self) -> None:
        """One clock, or all of them: a host whose guests all slept."""
        address = self._some()
        if address is None:
            return
        seconds = self.dice.choice([0.3, 1.5, 30])
        everybody = self.dice.random() < 0.3
        self.world.note(f"the clock of {'everybody' if everybody else address} jumps by {seconds} s")
        for jumping in sorted(self.world.nodes) if everybody else [address]:
            self.world.jump(jumping, seconds)

    def _transfer(self) -> None:
        if leader := self.world.leader():
            target = self.dice.choice([None, *leader.raft.configuration.voters])
            self.world.note(f"{leader.address} is asked to hand over to {target or 'the best'}")
            raft = leader.raft
            self.world.act(leader, lambda: raft.transfer(target, self.world.clock(leader)))

    def _join(self) -> None:
        leader = self.world.leader()
        if leader is None or self._losing_a_disk():
            return
        outside = sorted(self.world.disks.keys() - {m.address for m in leader.raft.configuration.members})
        if outside and self.dice.random() < 0.7:
            address = self.dice.choice(outside)
        elif self._machines < MAX_NODES:
            self._machines += 1
            address = f"n{self._machines}:1"
            self.world.add_machine(address)
            self.world.start(address)
        else:
            return
        role = self.dice.choice([MemberRole.JOINING, MemberRole.JOINING, MemberRole.LEARNER])
        self.world.note(f"{leader.address} is asked to take in {address} as {role.name}")
        if self.world.join(leader, address, role) is not None:
            self._removed.discard(address)

    def _remove(self) -> None:
        leader = self.world.leader()
        if leader is None or len(leader.raft.configuration.voters) < 3 or self._losing_a_disk():
            return
        address = self.dice.choice([m.address for m in leader.raft.configuration.members])
        self.world.note(f"{leader.address} is asked to remove {address}")
        if self.world.remove(leader, address) is not None:
            self._removed.add(address)

    def _purge(self) -> None:
        if (address := self._some()) and (node := self.world.nodes.get(address)) is not None:
            first, last = node.disk.first_index, min(node.checked_commit, node.raft.readable_index)
            if last > first:
                upto = self.dice.randint(first, last)
                self.world.note(f"{address} purges up to entry {upto}")
                node.disk.purge(upto)

    def _fill(self) -> None:
        if (address := self._some()) and (node := self.world.nodes.get(address)) is not None:
            seconds = self.dice.choice([0.2, 2, 5])
            self.world.note(f"the disk of {address} is full for {seconds} s")
            node.disk.full = True
            node.raft.suspend("the disk is full", self.world.clock(node))
            self.world.after(seconds, lambda: self._room_again(node))

    def _room_again(self, node: Node) -> None:
        node.disk.full = False
        node.raft.suspend(None, self.world.clock(node))

    def _wipe(self) -> None:
        """At most one disk is lost at a time, and only one whose loss leaves a majority."""
        leader = self.world.leader()
        if leader is None or self._losing_a_disk() or not leader.raft.leadership or not leader.raft.leadership.ready:
            return
        configuration = leader.raft.configuration
        if len(configuration.voters) < 3 or leader.raft.configuration_index > leader.raft.commit_index:
            return
        if self._superseded(configuration):
            return
        victim = self.dice.choice([v for v in configuration.voters if v != leader.address])
        # A founder that was told of no others founds a cluster of its own again: that is what it was told.
        if victim in self.world.nodes and self.world.founders.voters != (victim,):
            self.world.note(f"{victim} loses its disk")
            self.world.kill(victim, power=True)
            self.world.wipe(victim)
            self.world.after(self.dice.choice([0.1, 2]), lambda: self._restart(victim))

    def _superseded(self, configuration: Configuration) -> bool:
        """Whether any disk holds another configuration behind this one, or one that is not committed.

        The leader may be one that was stopped, and has not heard that another one is about to remove a voter. A disk
        that is lost then is one of two, and nobody can make up for it.
        """
        held = [found[-1] for disk in self.world.disks.values() if (found := disk.configurations())]
        if not held:
            return False
        index, newest = max(held, key=itemgetter(0))
        return index > self.world.ledger.length or newest != configuration

    def _losing_a_disk(self) -> bool:
        """Whether a disk was lost and its node is not a voter again everywhere; until then none may take more away."""
        members = {v for n in self.world.nodes.values() for v in n.raft.configuration.voters} | set(
            self.world.founders.voters
        )
        blank = [a for a in members if a in self.world.disks and not self.world.disks[a].identity().formed]
        return bool(blank)

    # Drills

    def _drill(self) -> None:
        world = self.world
        self._drill_commit()
        voters = [a for a, m in world.members().items() if m.role is MemberRole.VOTER]
        if len(voters) >= 3:
            self._drill_return(voters)
            self._drill_lonely_leader(voters)
            world.settle()
            self._drill_transfer()
        world.settle()

    def _fast(self) -> None:
        self.world.network.profile = Profile(delay=(0.0002, 0.0005), spike=0)
        self.world.disk_profile = DiskProfile(usual=0.0005, slow=0)

    def _drill_commit(self) -> None:
        """Promise: followers learn of a commit at once, and no entry is sent twice when nothing goes wrong."""
        world = self.world
        leader = world.leader()
        assert leader is not None
        followers = [m for m in leader.raft.configuration.members if m.address != leader.address]
        world.network.sent_entries = 0
        count = 100
        last = 0
        for _ in range(count):
            index = world.propose(leader, 10)
            if index is None:
                raise ViolationError(f"liveness: the leader {leader.address} refuses a proposal while nothing is wrong")
            last = index
            world.run(0.0005)
        if not world.run_until(
            lambda: all(world.nodes[f.address].raft.readable_index >= last for f in followers), 0.03
        ):
            raise ViolationError(f"late: 30 ms after the last of {count} proposals not every follower has committed it")
        if world.network.sent_entries > count * len(followers):
            raise ViolationError(
                f"waste: {world.network.sent_entries} entries were sent for {count} to {len(followers)} followers"
            )

    def _drill_return(self, voters: list[str]) -> None:
        """Promise: a node that was cut off does not depose a healthy leader when it returns."""
        world, leader = self.world, self.world.leader()
        assert leader is not None
        term = leader.raft.term
        away = self.dice.choice([v for v in voters if v != leader.address])
        world.note(f"drill: {away} is cut off and comes back")
        for other in sorted(world.disks):
            if other != away:
                world.cut(away, other, 5)
                world.cut(other, away, 5)
        world.run(9)
        if leader.raft.term != term or not leader.raft.is_leader:
            raise ViolationError(
                f"disturbance: {away} was cut off and came back, and {leader.address} "
                f"does not lead in term {term} any more"
            )
        world.settle()

    def _drill_lonely_leader(self, voters: list[str]) -> None:
        """Promise: a leader without a majority steps down within about one election timeout, and the others elect
        one.
        """
        world, leader = self.world, self.world.leader()
        assert leader is not None
        world.note(f"drill: the leader {leader.address} is cut off")
        for other in sorted(world.disks):
            if other != leader.address:
                world.cut(leader.address, other, 6)
                world.cut(other, leader.address, 6)
        timeout = world.settings.election_timeout
        if not world.run_until(lambda: not leader.raft.is_leader, timeout + 2 * world.settings.heartbeat_interval):
            raise ViolationError(
                f"stale leader: {leader.address} leads without a majority for more than an election timeout"
            )
        if not world.run_until(lambda: any(n is not leader for n in world.leaders()), 5 * timeout):
            raise ViolationError(f"liveness: {len(voters) - 1} of {len(voters)} voters elect nobody in {5 * timeout} s")
        world.run(6)

    def _drill_transfer(self) -> None:
        """Promise: a planned transfer takes a few messages, not an election timeout."""
        world, leader = self.world, self.world.leader()
        assert leader is not None
        target = self.dice.choice([v for v in leader.raft.configuration.voters if v != leader.address])
        world.note(f"drill: {leader.address} hands over to {target}")
        world.act(leader, lambda: leader.raft.transfer(target, world.clock(leader)))
        if not world.run_until(lambda: (n := world.leader()) is not None and n.address == target, 0.1):
            raise ViolationError(f"liveness: {target} does not lead 0.1 s after it was asked to")
