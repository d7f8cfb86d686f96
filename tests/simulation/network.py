"""Connections as TCP gives them: in order, slow for any time, lost as a whole, and noticed by each side at another
moment.

Each direction of a connection has two lanes, since short messages may overtake those with entries. A direction that
is *held* delivers nothing until it is let go, and then everything: what a partition does to a connection that
outlives it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from kingbus_node.raft.messages import Append, Buffer, Install, Message, decode, encode

Deliver: TypeAlias = Callable[[str, str, Message], None]
"""Called with receiver, sender and what arrived."""


@dataclass(slots=True)
class Profile:
    """How a network behaves, in seconds.

    :param delay: the shortest and longest usual delay of a message
    :param spike: how often a message takes ten times as long
    :param bytes_per_second: what a lane carries
    """

    delay: tuple[float, float] = (0.0002, 0.004)
    spike: float = 0.01
    bytes_per_second: float = 50e6


@dataclass(slots=True)
class _Lane:
    busy_until: float = 0.0
    waiting: deque[Buffer] = field(default_factory=deque)


@dataclass(slots=True)
class Network:
    """All connections of a simulated cluster.

    :param at: schedules a call at a time
    """

    dice: random.Random
    at: Callable[[float, Callable[[], None]], None]
    profile: Profile
    sent_entries: int = 0
    sent_messages: int = 0
    _epoch: int = 0
    _views: dict[tuple[str, str], int] = field(default_factory=dict)
    _held: dict[tuple[str, str], float] = field(default_factory=dict)
    _parked: dict[tuple[str, str], list[Callable[[], None]]] = field(default_factory=dict)
    _lanes: dict[tuple[str, str, int, bool], _Lane] = field(default_factory=dict)

    def epoch(self, here: str, there: str) -> int | None:
        """The connection that `here` believes to have to `there`."""
        return self._views.get((here, there))

    def open(self, a: str, b: str) -> None:
        """A new connection; what was under way on an older one will not arrive any more."""
        self._epoch += 1
        for pair in ((a, b), (b, a)):
            self._views[pair] = self._epoch
        self._lanes = {lane: state for lane, state in self._lanes.items() if {lane[0], lane[1]} != {a, b}}

    def close(self, here: str, there: str) -> None:
        """`here` gives up its connection to `there`, who does not know yet."""
        self._views.pop((here, there), None)

    def hold(self, source: str, target: str, until: float) -> None:
        """Nothing arrives from `source` at `target` until then, or until ``release``."""
        pair = (source, target)
        self._held[pair] = max(until, self._held.get(pair, 0.0))
        self.at(until, lambda: self._release(pair, until))

    def release(self, source: str, target: str) -> None:
        """Ends ``hold``: what was held arrives now."""
        self._release((source, target), float("inf"))

    def _release(self, pair: tuple[str, str], now: float) -> None:
        if self._held.get(pair, float("inf")) <= now:
            del self._held[pair]
            for arrive in self._parked.pop(pair, []):
                arrive()

    def is_held(self, source: str, target: str) -> bool:
        """Whether a new connection could not be made, or would be of no use, because of ``hold``."""
        return (source, target) in self._held

    def heal(self) -> None:
        """Nothing is held any more."""
        for pair in sorted(self._held):
            self.release(*pair)

    def send(self, source: str, target: str, message: Message, now: float, deliver: Deliver) -> None:
        """Carries a message, as bytes, if `source` believes to be connected; `deliver` is called with what arrives,
        if it does.
        """
        epoch = self._views.get((source, target))
        if epoch is None:
            return
        data = b"".join(bytes(part) for part in encode(message))
        self.sent_messages += 1
        bulk = isinstance(message, Install) or (isinstance(message, Append) and bool(message.entries))
        if isinstance(message, Append):
            self.sent_entries += len(message.entries)
        self._carry(source, target, data, epoch, bulk, now, deliver)

    def _carry(
        self,
        source: str,
        target: str,
        data: Buffer,
        epoch: int,
        bulk: bool,
        now: float,
        deliver: Deliver,
    ) -> None:
        low, high = self.profile.delay
        delay = self.dice.uniform(low, high) * (10 if self.dice.random() < self.profile.spike else 1)
        delay += len(data) / self.profile.bytes_per_second
        lane = self._lanes.setdefault((source, target, epoch, bulk), _Lane())
        lane.busy_until = max(now + delay, lane.busy_until + 1e-7)
        lane.waiting.append(data)

        def arrive() -> None:
            if self._views.get((target, source)) != epoch:
                return
            if (source, target) in self._held:
                self._parked.setdefault((source, target), []).append(arrive)
            else:
                deliver(target, source, decode(lane.waiting.popleft()))

        self.at(lane.busy_until, arrive)
