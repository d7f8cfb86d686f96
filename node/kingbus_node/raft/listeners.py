"""Who is told of commits, of leadership and of contact with a quorum: in order, one at a time, each change once."""

from __future__ import annotations

import threading
from collections import deque

from kingbus_node.raft.api import CommitListener, ContactListener, Leadership, LeadershipListener


class Listeners:
    """See the module. Listeners are called in the loop's thread, and in that of who adds them."""

    def __init__(self) -> None:
        self._notifying = threading.RLock()
        self._commit: list[CommitListener] = []
        self._leadership: list[LeadershipListener] = []
        self._contact: list[ContactListener] = []
        self._leaderships: deque[Leadership | None] = deque()  # not told yet
        self._last: Leadership | None = None
        self._told: Leadership | None = None
        self._in_touch = False

    def add_commit(self, listener: CommitListener) -> None:
        """See `raft.api.Consensus.add_commit_listener`."""
        with self._notifying:
            self._commit.append(listener)

    def add_leadership(self, listener: LeadershipListener) -> None:
        """See `raft.api.ClusterConsensus.add_leadership_listener`."""
        with self._notifying:
            self._leadership.append(listener)
            listener(self._told)

    def add_contact(self, listener: ContactListener) -> None:
        """See `raft.api.ClusterConsensus.add_contact_listener`."""
        with self._notifying:
            self._contact.append(listener)
            listener(self._in_touch)

    def committed(self, index: int) -> None:
        """Tells that readers can see entries up to `index`."""
        with self._notifying:
            for listener in self._commit:
                listener(index)

    def leads(self, leadership: Leadership | None) -> None:
        """This is to be told, if it is not what was to be told before. The owner keeps threads apart."""
        if leadership != self._last:
            self._last = leadership
            self._leaderships.append(leadership)

    def tell(self, in_touch: bool) -> None:
        """Tells what is to be told of leadership, and whether the node is in touch."""
        if not self._leaderships and in_touch == self._in_touch:
            return
        with self._notifying:
            while self._leaderships:
                self._told = self._leaderships.popleft()
                for tell in self._leadership:
                    tell(self._told)
            if in_touch != self._in_touch:
                self._in_touch = in_touch
                for tell_contact in self._contact:
                    tell_contact(in_touch)
