"""PURGE BINARY LOGS on any node: the leader carries it out, and its answer comes back as it is.

A node that does not lead asks the leader over a stream beside Raft, and then waits until it has the purge itself, so
that whoever asked finds it done where it asked. What was passed on once is not passed on again.
"""

from __future__ import annotations

import logging
import time
from typing import Final, Protocol

from kingbus_node.raft import asking
from kingbus_node.raft.api import ConsensusError, NotLeaderError
from kingbus_node.raft.keeper import Purged, PurgeUnfinishedError
from kingbus_node.store.errors import StoreError
from kingbus_node.store.purging import UnknownLogError

logger = logging.getLogger(__name__)

STREAM: Final = "purge"
_ANSWER_SECONDS: Final = 38.0
"""The leader waits for the commit, and for what the replicas of other nodes need."""
_FOLLOW_SECONDS: Final = 5.0
_MAX_NAME: Final = 512


class Keeper(Protocol):
    """What is needed of a `RetentionKeeper`."""

    def purge_to(self, name: str, /) -> Purged | None: ...

    def purge_before(self, timestamp: float, /) -> Purged | None: ...


class Peers(asking.Peers, Protocol):
    """What is needed of a ``Cluster``."""

    @property
    def is_leader(self) -> bool: ...

    def wait_readable(self, index: int, deadline: float, /) -> bool: ...


class ClusterPurges:
    """`purge` from any thread. UnknownLogError and other StoreErrors, ConsensusErrors: the leader's own."""

    def __init__(self, peers: Peers, keeper: Keeper) -> None:
        self._peers = peers
        self._keeper = keeper
        asking.answer(peers, STREAM, self._answer)

    def purge(self, to: str | None, before: float | None) -> Purged | None:
        """Purges the files before the one named `to`, or those that ended before a time (Unix seconds); None: nothing
        went.
        """
        if to is not None and len(to) > _MAX_NAME:
            raise UnknownLogError(f"there is no binlog of a name of {len(to)} characters")
        if self._peers.is_leader:
            try:
                return self._here(to, before)
            except NotLeaderError:
                logger.debug("the leadership was lost before the purge was proposed")
        return self._at_the_leader(to, before)

    def _here(self, to: str | None, before: float | None) -> Purged | None:
        if to is not None:
            return self._keeper.purge_to(to)
        return None if before is None else self._keeper.purge_before(before)

    def _at_the_leader(self, to: str | None, before: float | None) -> Purged | None:
        try:
            answer = asking.ask_leader(self._peers, STREAM, {"to": to, "before": before}, _ANSWER_SECONDS)
        except asking.UnfinishedError as error:
            raise PurgeUnfinishedError(f"only the leader can purge binary logs, and may do it yet: {error}") from error
        except asking.UnansweredError as error:
            raise ConsensusError(f"only the leader can purge binary logs: {error}") from error
        done = _read(answer)
        if done is not None and not self._peers.wait_readable(done.index, time.monotonic() + _FOLLOW_SECONDS):
            raise PurgeUnfinishedError("the leader has purged, but this node has not heard of it yet")
        return done

    def _answer(self, question: object) -> dict[str, object]:
        order = question if isinstance(question, dict) else {}
        to, before = order.get("to"), order.get("before")
        try:
            done = self._here(to if isinstance(to, str) else None, before if isinstance(before, int | float) else None)
        except UnknownLogError as error:
            return {"error": "unknown", "text": str(error)}
        except PurgeUnfinishedError as error:
            return {"error": "unfinished", "text": str(error)}
        except (ConsensusError, StoreError, OSError) as error:
            return {"error": "other", "text": str(error)}
        return {"done": None if done is None else [done.oldest_file, done.files, done.held, done.index, done.readers]}


def _read(answer: object) -> Purged | None:
    match answer:
        case {"done": None}:
            return None
        case {"done": [str(oldest), int(files), int(held), int(index), *more]}:
            readers = more[0] if more and isinstance(more[0], int) else 0  # other versions may say less, or more
            return Purged(oldest, files, held, index, readers)
        case {"error": "unknown", "text": str(text)}:
            raise UnknownLogError(text)
        case {"error": "unfinished", "text": str(text)}:
            raise PurgeUnfinishedError(text)
        case {"error": str(), "text": str(text)}:
            raise ConsensusError(text)
        case _:
            raise ConsensusError("the leader's answer to a purge cannot be read: is it of another version?")
