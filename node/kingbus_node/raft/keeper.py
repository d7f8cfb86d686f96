"""Retention on the leader: looks, decides by the policy, proposes the entry that all nodes purge by.

One object on each node, which does something only while its node leads. What is to go is decided there alone and told
by an entry of the log, so every node drops the same source files at the same place of the log, and GTID_PURGED is the
same everywhere.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from kingbus_node.config import StorageSettings
from kingbus_node.raft.api import ConsensusError
from kingbus_node.store.entry import Entry
from kingbus_node.store.errors import StoreError
from kingbus_node.store.log import Log
from kingbus_node.store.purging import Held, Order, Purger
from kingbus_node.store.retention import NOTHING, Decision, RetentionPolicy, decide
from kingbus_node.store.space import DiskSpace

logger = logging.getLogger(__name__)

INTERVAL: Final = 1.0
_PATIENCE: Final = 30.0


def policy_of(settings: StorageSettings) -> RetentionPolicy:
    """The policy that a node's configuration sets."""
    keep = settings.retention
    return RetentionPolicy(keep.max_age, keep.max_bytes, keep.keep_for_replicas, settings.min_free_bytes)


class Proposer(Protocol):
    """What a keeper needs of a consensus (`raft.api.Consensus`)."""

    @property
    def is_leader(self) -> bool:
        """Whether `propose` works here."""

    def propose(self, entries: list[Entry], /) -> int:
        """See `raft.api.Consensus.propose`."""

    def wait_committed(self, index: int, deadline: float, /) -> bool:
        """See `raft.api.Consensus.wait_committed`."""


class PurgeUnfinishedError(ConsensusError):
    """A purge was proposed, but not committed in time. It may still come to pass."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge did. oldest_file: the first that is left. files: how many went. held: how many a replica kept.

    readers: how many replicas need the first of those, as far as that is known. index: the entry of the log that did
    it, 0 when nothing went.
    """

    oldest_file: str
    files: int
    held: int
    index: int = field(default=0, compare=False)
    readers: int = field(default=0, compare=False)


@dataclass(slots=True)
class KeeperStats:
    """Since the start of the node. segments, bytes: that this node, leading, had dropped by the policy.

    forced: purges that took something from a connected replica, because the disk was low on space. held: the last look
    found something that only a connected replica keeps from going.
    """

    purges: int = 0
    segments: int = 0
    bytes: int = 0
    forced: int = 0
    held: bool = False


def _nobody() -> Iterable[int]:
    return ()


def _nothing(_: Decision) -> None:
    return


class RetentionKeeper:
    """See the module. `start` it with the node and `stop` it before consensus is closed; the rest from any thread."""

    def __init__(
        self,
        log: Log,
        consensus: Proposer,
        policy: RetentionPolicy,
        *,
        replica_floors: Callable[[], Iterable[int]] = _nobody,
        on_forced: Callable[[Decision], None] = _nothing,
        interval: float = INTERVAL,
    ) -> None:
        """
        :param replica_floors: for each replica that is connected to any node, the oldest entry that it still needs:
            the one that it was sent last
        :param on_forced: told when a replica loses what it needs
        :param interval: seconds between looks
        """
        self.stats = KeeperStats()
        self._log = log
        self._consensus = consensus
        self._policy = policy
        self._floors = replica_floors
        self._on_forced = on_forced
        self._interval = interval
        self._space = DiskSpace(log.directory, policy.min_free_bytes)
        self._purger = Purger(log)
        self._one_at_a_time = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def run_once(self) -> Decision:
        """Looks, and purges what the policy says if this node leads. ConsensusError, StoreError, OSError."""
        if not self._consensus.is_leader:
            self.stats.held = False
            return NOTHING
        with self._one_at_a_time:
            segments, free_bytes = self._purger.survey(), self._space.free_bytes()
            decision = decide(segments, self._policy, free_bytes, ())
            if decision.cut is not None:  # only now, for other nodes are asked as well
                decision = decide(segments, self._policy, free_bytes, self._floors())
            self.stats.held = decision.held is not None
            if decision.cut is None:
                return decision
            order = self._purger.order(decision.cut)
            if decision.forced is not None:
                logger.warning(
                    "the disk is low on space: purging what a connected replica still needs, from entry %d on",
                    decision.forced,
                )
            self._carry_out(order, decision.reason)
            stats = self.stats
            stats.purges += 1
            stats.segments += decision.segments
            stats.bytes += decision.bytes
            stats.forced += decision.forced is not None
        if decision.forced is not None:
            self._on_forced(decision)
        return decision

    def purge_to(self, name: str) -> Purged | None:
        """PURGE BINARY LOGS TO: purges the files before the one of that name, but for those that a connected replica
        reads.

        None: nothing went. UnknownLogError, NotLeaderError and other ConsensusErrors, StoreError.
        """
        with self._one_at_a_time:
            return self._asked_for(self._purger.to_file(name, self._floors()))

    def purge_before(self, timestamp: float) -> Purged | None:
        """PURGE BINARY LOGS BEFORE: the oldest files, as long as their last event is older than `timestamp` (Unix
        seconds).

        Like `purge_to`.
        """
        with self._one_at_a_time:
            return self._asked_for(self._purger.before(timestamp, self._floors()))

    def _asked_for(self, order: Order | Held | None) -> Purged | None:
        if order is None:
            return None
        if isinstance(order, Held):
            return Purged(order.oldest.name, 0, order.held, readers=order.readers)
        index = self._carry_out(order, "as it was asked for")
        return Purged(order.oldest.name, order.files, order.held, index, order.readers)

    def _carry_out(self, order: Order, why: str) -> int:
        """The index of its entry, once that is committed."""
        logger.info("purging %d binlogs up to %s: %s", order.files, order.oldest.name, why)
        index = self._consensus.propose([order.entry])
        deadline = time.monotonic() + _PATIENCE
        while not self._consensus.wait_committed(index, min(deadline, time.monotonic() + 1)):
            if time.monotonic() < deadline and not self._stopping.is_set():
                continue
            raise PurgeUnfinishedError(f"the purge up to {order.oldest.name} was not committed within {_PATIENCE:g} s")
        return index

    def _run(self) -> None:
        trouble = ""
        while not self._stopping.wait(self._interval):
            try:
                self.run_once()
                trouble = ""
            except (ConsensusError, StoreError, OSError) as error:
                if str(error) != trouble:
                    logger.warning("retention could not be looked after: %s", error)
                trouble = str(error)
