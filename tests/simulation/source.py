"""A source whose connections are cut inside transactions, and the reader that each leader has of it.

The source has an endless row of transactions, each of one or more parts, which are an entry each. The reader is a
model of `kingbus_node.leader`: it begins when its leader is ready, cancels what an earlier one left open, goes on
behind the last whole transaction of the committed log, and ends with its leadership. What comes of it is checked by the
ledger: whole transactions, each once, in the source's order.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .world import Node, World

_LOOK_AGAIN = 0.01


def part(number: int, at: int, parts: int, written: int) -> bytes:
    """The entry of part `at` (from 1 on) of a transaction; `written` makes it unlike any other entry."""
    return b"t %d %d %d %d" % (number, at, parts, written)


def cancel(written: int) -> bytes:
    """The entry that says: what is open will never be finished."""
    return b"c %d" % written


class Transactions:
    """What the committed entries add up to.

    :ivar done: the last whole transaction
    :ivar open: how many parts of the next one are there
    """

    def __init__(self) -> None:
        self.done = self.open = self.cancelled = 0

    def add(self, data: bytes) -> str | None:
        """Takes what was committed next; says what is wrong with it."""
        kind, *numbers = data.split(b" ")
        if kind == b"c":
            if not self.open:
                return f"half transactions: transaction {self.done} is whole, and then something is cancelled"
            self.open, self.cancelled = 0, self.cancelled + 1
        elif kind == b"t":
            number, at, parts = map(int, numbers[:3])
            if at == 1 and self.open:
                return f"half transactions: {number} begins while {self.done + 1} is open"
            if number != self.done + 1:
                return f"exactly once: transaction {number} is committed after {self.done}"
            if at != self.open + 1:
                return f"half transactions: part {at} of transaction {number} follows part {self.open}"
            self.open = 0 if at == parts else at
            self.done += at == parts
        return None


class Source:
    """The source, and how often its connections are cut.

    :param pace: seconds between two parts, on average
    """

    def __init__(self, world: World, pace: float) -> None:
        self.world = world
        self.pace = pace
        self.running = True
        self.dice = random.Random(f"source {world.seed}")
        self._written = 0

    def parts(self, number: int) -> int:
        """How many a transaction has: the same whoever reads it."""
        return random.Random(f"source {self.world.seed} {number}").choice([1, 1, 2, 5])

    def read(self, leader: Node) -> None:
        """A new leader: it gets a reader of its own."""
        self.world.rules.reader_class(self, leader, leader.raft.term).look()

    def written(self) -> int:
        """A number that no other entry has."""
        self._written += 1
        return self._written


class Reader:
    """Of one leadership. The rules of `kingbus_node.leader` are methods, so that a mutation can break one."""

    def __init__(self, source: Source, node: Node, term: int) -> None:
        self.source = source
        self.node = node
        self.term = term
        self._next: tuple[int, int] | None = None  # a transaction, and the part that comes next

    def look(self) -> None:
        """Does what there is to do, and comes back."""
        if not self.source.running or not self.node.alive or self._over():
            return
        pause = _LOOK_AGAIN
        if self.node.paused_until <= self.source.world.now and self._may_begin():
            self._step()
            pause = self.source.dice.expovariate(1 / self.source.pace)
        self.source.world.after(pause, self.look)

    def _over(self) -> bool:
        """Rule 2: a reign that is lost is over, also when this node leads again."""
        return not self.node.raft.is_leader or self.node.raft.term != self.term

    def _may_begin(self) -> bool:
        """A reign begins when all that was ever committed is known here."""
        leadership = self.node.raft.leadership
        return leadership is not None and leadership.ready

    def _step(self) -> None:
        source = self.source
        if self._next is None:
            known = source.world.ledger.transactions_at(self.node.raft.commit_index)
            if known.open and not self._cancel():
                return
            self._next = known.done + 1, 1
        number, at = self._next
        parts = source.parts(number)
        if at > 1 and source.dice.random() < 0.15:
            source.world.note(f"the source's connection is cut inside transaction {number}")
            if self._cancel():
                self._next = number, 1
        elif self._write(part(number, at, parts, source.written())):
            self._next = (number, at + 1) if at < parts else (number + 1, 1)

    def _cancel(self) -> bool:
        """Rule 1: what was left open is cancelled before anything else."""
        return self._write(cancel(self.source.written()))

    def _write(self, data: bytes) -> bool:
        return self.source.world.propose_bytes(self.node, data) is not None
