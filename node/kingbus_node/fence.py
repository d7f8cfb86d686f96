"""Whether this node may serve: only while it is level with a quorum of its cluster, give or take a known time.

A node that is cut off does not know what it misses. Rather than look healthy while it stalls, it ends its streams with
an error that replicas take for a network error, and refuses new ones, until it is in touch again.

Being in touch is not enough: a node that comes back after an hour hears the leader long before it has what the leader
has committed meanwhile, and a replica that was served elsewhere would be told that its position does not exist. So the
node is *level* when it has committed what the leader had committed a moment ago.

Each time it is, a lease is prolonged in the watermark file, which the serve processes look at by themselves
(`serve.worker`). The same lease decides here whether the node is ready.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final, Protocol

logger = logging.getLogger(__name__)

_STEPS: Final = 12
_LONGEST_STEP: Final = 0.25


class Contact(Protocol):
    """What is needed of `raft.api.ClusterConsensus`."""

    @property
    def in_touch(self) -> bool:
        """Whether there was contact with a quorum within the last election timeout."""

    @property
    def commit_index(self) -> int:
        """The last committed entry here."""

    @property
    def known_commit_index(self) -> int:
        """The last committed entry that this node has heard of."""


class Lease(Protocol):
    """What is needed of `store.log.Log`."""

    def note_contact(self, nanoseconds: int) -> None:
        """Tells the readers' processes."""


class Fence:
    """A thread that looks some times within the allowed time. `start` once, `stop` once."""

    def __init__(self, consensus: Contact, lease: Lease, isolation: float) -> None:
        """`isolation`: seconds without contact after which nothing is served."""
        self._consensus = consensus
        self._lease = lease
        self._isolation = isolation
        self._step = min(_LONGEST_STEP, isolation / _STEPS)
        self._target: int | None = None  # what the leader had committed when we last looked, if it was in touch then
        self._level_at: float | None = None
        self._open = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fence", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._look(time.monotonic())
        self._thread.start()

    def stop(self) -> None:
        """Prolong no lease any more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def reason(self) -> str | None:
        """Why nothing is served, a sentence for people; None while all is well."""
        level_at = self._level_at
        if level_at is None:
            return "this node has not been level with a quorum of its cluster yet" + self._behind()
        age = time.monotonic() - level_at
        if age <= self._isolation:
            return None
        return f"this node has not been level with a quorum of its cluster for {age:.1f} s" + self._behind()

    def _behind(self) -> str:
        if not self._consensus.in_touch:
            return ": it is not in touch with one"
        missing = self._consensus.known_commit_index - self._consensus.commit_index
        return f": {missing} entries are still to come" if missing > 0 else ""

    def _run(self) -> None:
        while not self._stopping.wait(self._step):
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        consensus = self._consensus
        if not consensus.in_touch:
            self._target = None
        else:
            if self._target is not None and consensus.commit_index >= self._target:
                self._level_at = now
                self._lease.note_contact(int(now * 1e9))
            self._target = consensus.known_commit_index
        reason = self.reason()
        if (reason is None) != self._open:
            self._open = reason is None
            if reason is None:
                logger.info("level with a quorum: replicas are served")
            else:
                logger.warning("replicas are not served: %s", reason)
