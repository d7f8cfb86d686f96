"""What a leader knows of one follower, and how far it may run ahead of the follower's answers.

A follower is *probed* (one question at a time: do you hold this entry?) until the leader knows where the two logs
meet; from then on it is *replicated* to, with as many bytes in flight as the window allows; or it is sent a snapshot
(*installed*) when it needs entries that are not retained any more. A lost connection leads back to probing: what was
in flight is lost with it.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field


class Mode(enum.Enum):
    """How entries go to a follower."""

    PROBE = "probe"
    REPLICATE = "replicate"
    INSTALL = "install"


@dataclass(slots=True)
class Progress:
    """One follower, seen from the leader of one term.

    :param next: the next entry to send
    :param match: entries up to here are equal to the leader's and on the follower's disk
    :param received: entries up to here are equal to the leader's, on the follower's disk or not
    :param contact: the leader's time (seconds) when it sent the newest message that the follower has answered
    :param commit_sent: the commit index that the follower was told last
    """

    address: str
    next: int
    contact: float
    match: int = 0
    received: int = 0
    mode: Mode = Mode.PROBE
    connected: bool = False
    asked: bool = False
    commit_sent: int = 0
    incarnation: int = 0
    formed: bool = False
    full: bool = False
    round_trip: float | None = None
    in_flight_bytes: int = 0
    _in_flight: deque[tuple[int, int]] = field(default_factory=deque)
    _round_end: int = 0
    _round_start: float = 0.0

    def connect(self, last_index: int) -> None:
        """A connection came up, with nothing in flight. What the follower had received but not synced, it may have
        lost.

        Simulation: ``keep-what-was-received``, plot forgotten-memory.
        """
        self.received = self.match
        self._probe(self.match + 1 if self.match else last_index + 1)
        self.connected = True

    def disconnect(self) -> None:
        """The connection is gone, and with it what was in flight."""
        self._probe(self.match + 1 if self.match else self.next)
        self.connected = False

    def sent(self, last_index: int, size: int) -> None:
        """Entries up to `last_index`, `size` bytes, are on their way."""
        self.next = last_index + 1
        self._in_flight.append((last_index, size))
        self.in_flight_bytes += size

    def sent_snapshot(self) -> None:
        """A snapshot is on its way; nothing else goes there until it has arrived."""
        self.mode = Mode.INSTALL
        self._forget_in_flight()

    def acknowledge(self, match: int, received: int) -> None:
        """The follower holds what it says. The next index never goes back for it: later entries are in flight already.

        The fault (correction 1): pysyncobj 0.3.17 sets the next index to the acknowledged one plus one although
        everything behind it is on its way, so each acknowledgement sends it all again. The rule: section 3.5 moves
        nextIndex back only after a rejection; section 10.2.1 (pipelining) moves it ahead when sending.

        Simulation: ``next-goes-back``, seed 0.
        """
        self.match = max(self.match, match)
        self.received = max(self.received, received)
        while self._in_flight and self._in_flight[0][0] <= received:
            self.in_flight_bytes -= self._in_flight.popleft()[1]
        if (self.mode is Mode.PROBE and received >= self.next - 1) or (
            self.mode is Mode.INSTALL and received >= self.next - 1
        ):
            self.mode = Mode.REPLICATE
        self.next = max(self.next, self.received + 1)

    def reject(self, rejected: int, next_index: int) -> None:
        """The follower does not hold entry `rejected`; the logs cannot meet behind `next_index` - 1.

        The fault (correction 3): a follower that is asked about several positions at once answers each from another
        state, and the answers undo one another. The rule (section 3.5): nextIndex goes back by what a rejection says,
        and only one question is open while it does; an answer to an older question is not an answer to this one.

        Simulation: ``never-goes-back``, seed 0.
        """
        if self.mode is Mode.INSTALL or (self.mode is Mode.PROBE and rejected != self.next - 1):
            return
        if self.mode is Mode.REPLICATE and rejected <= self.received:
            return
        self._probe(max(self.match + 1, min(rejected, next_index)))

    def replaced(self, incarnation: int) -> None:
        """Behind the address is another disk now: nothing that the old one acknowledged is there.

        Simulation: ``trust-lost-disk``, seed 9.
        """
        self.incarnation = incarnation
        self.match = self.received = 0
        self._round_end = 0
        self._probe(self.next)

    def caught_up(self, last_index: int, now: float, patience: float) -> bool:
        """Whether the follower could be made a voter without holding up commits (section 4.2.1).

        Replication is cut into rounds: a round ends when everything is there that the leader held at its beginning. A
        round that took less than `patience` seconds leaves a follower that is at most that far behind.
        """
        if not self._round_end:
            self._round_end, self._round_start = max(last_index, 1), now
        if self.match < self._round_end:
            return False
        quick = now - self._round_start <= patience
        self._round_end, self._round_start = last_index, now
        return quick

    def _probe(self, next_index: int) -> None:
        self.mode = Mode.PROBE
        self.asked = False
        self.next = next_index
        self._forget_in_flight()

    def _forget_in_flight(self) -> None:
        self._in_flight.clear()
        self.in_flight_bytes = 0
