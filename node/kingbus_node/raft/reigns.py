"""What this node has proposed while it led, and who waits for what becomes of it.

A *reign* is one leadership of this node. Bytes in flight and waiters belong to one; when it is lost, nobody can say of
what it had proposed and not committed whether it survives.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kingbus_node.raft.api import ConsensusClosedError, ConsensusFailedError, NotLeaderError

_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class Proposed:
    """A proposal that is not committed yet: its last index, its size, how many entries it has, when it was made."""

    index: int
    cost: int
    count: int
    time: float


class Reigns:
    """See the module. Where it says so, the caller holds ``changed``, which guards all of this, and is notified of
    everything that somebody may wait for.

    :param commit_index: of the log
    :param max_in_flight: bytes that are proposed and not committed, beyond which `reserve` waits
    :param refusal: makes the error for a node that does not lead
    """

    def __init__(self, commit_index: int, max_in_flight: int, refusal: Callable[[], NotLeaderError]) -> None:
        self.changed = threading.Condition()
        self.commit_index = commit_index
        self.term: int | None = None
        """The term that this node leads in."""
        self.version = 0
        """Changes with everything that a change of membership may wait for."""
        self.failure: Exception | None = None
        self.closing = self.closed = False
        self._max_in_flight = max_in_flight
        self._refusal = refusal
        self._in_flight = 0
        self._proposals: deque[Proposed] = deque()
        self._number = 0  # of reigns that were lost
        self._own_last = 0  # the last entry that this node put into the log in this reign
        self._lost: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)  # first and last: may not survive

    # What is proposed

    def reserve(self, cost: int) -> int:
        """Waits for room for so many bytes; returns the number of the reign that it belongs to. Errors as `check`."""
        with self.changed:
            # A single proposal may be bigger than the limit: it then goes alone.
            while self._in_flight and self._in_flight + cost > self._max_in_flight:
                self.check()
                self.changed.wait()
            self.check()
            self._in_flight += cost
            return self._number

    def release(self, cost: int, reign: int) -> None:
        """What was reserved is not proposed."""
        with self.changed:
            if reign == self._number:
                self._in_flight -= cost
                self.changed.notify_all()

    def proposed(self, proposal: Proposed, reign: int) -> None:
        """It is in the log. `reign`: in which its bytes were reserved; with that reign they were given back."""
        with self.changed:
            if reign != self._number:
                self._in_flight += proposal.cost
            self._own_last = proposal.index
            self._proposals.append(proposal)

    def changing(self, index: int) -> None:
        """A change of membership is in the log."""
        with self.changed:
            self._own_last = index

    @property
    def settled(self) -> bool:
        """Whether nothing waits to be committed, or nothing will be. ``changed`` is held."""
        return self.failure is not None or self.term is None or not self._proposals

    # What becomes of it

    def committed(self, index: int) -> list[Proposed]:
        """Readers can see entries up to `index`; gives what was proposed here of them."""
        done: list[Proposed] = []
        with self.changed:
            self.commit_index = index
            while self._proposals and self._proposals[0].index <= index:
                proposal = self._proposals.popleft()
                self._in_flight -= proposal.cost
                done.append(proposal)
            self.changed.notify_all()
        return done

    def wait_committed(self, index: int, deadline: float) -> bool:
        """See `raft.api.Consensus.wait_committed`."""
        return self._wait(index, deadline, own=True)

    def wait_readable(self, index: int, deadline: float) -> bool:
        """See `raft.api.ClusterConsensus.wait_readable`."""
        return self._wait(index, deadline, own=False)

    def _wait(self, index: int, deadline: float, *, own: bool) -> bool:
        """`own`: the entry was proposed here, so that it may be lost with the reign."""
        with self.changed:
            while True:
                if own and any(first <= index <= last for first, last in self._lost):
                    raise self._refusal()
                if self.commit_index >= index:
                    return True
                self._check_failure()
                if self.closed:
                    raise ConsensusClosedError("the consensus was closed")
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self.changed.wait(left)

    def check(self) -> None:
        """ConsensusFailedError, ConsensusClosedError, NotLeaderError when nothing can be proposed. ``changed`` is
        held."""
        self._check_failure()
        if self.closing:
            raise ConsensusClosedError("the consensus was closed")
        if self.term is None:
            raise self._refusal()

    def _check_failure(self) -> None:
        if self.failure is not None:
            raise ConsensusFailedError(f"nothing can be committed any more: {self.failure}") from self.failure

    def wait_for_change(self, version: int, seconds: float) -> bool:
        """Waits until something is different from what it was at `version`, or nothing can be proposed any more."""
        with self.changed:
            return self.changed.wait_for(
                lambda: self.version != version or self.failure is not None or self.closing or self.term is None,
                seconds,
            )

    # Reigns

    def lose(self, committed: int) -> None:
        """This node leads no more in ``term``; what it knows to be committed then. ``changed`` is held."""
        first = max(self.commit_index, committed) + 1
        if first <= self._own_last:
            self._lost.append((first, self._own_last))
        self._proposals.clear()
        self._in_flight = 0
        self._number += 1
        self.term, self._own_last = None, 0

    def begin(self, term: int, first: int) -> None:
        """This node leads in `term`, and what stands at `first` and behind it is its own. ``changed`` is held."""
        lost = [(begin, min(last, first - 1)) for begin, last in self._lost if begin < first]
        self._lost = deque(lost, maxlen=_REMEMBERED)
        self.term, self._own_last = term, first
