"""What the replicas that are connected to any node of the cluster still need, for the leader's retention.

The leader asks every member that it is connected to, when something is about to be purged; they answer with the oldest
entry that a replica of theirs still needs. A member that is not connected is out of touch with the cluster: it ends the
dumps of its replicas by itself. One that is connected and does not answer counts as needing everything.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from kingbus_node.raft.api import MemberStatus
from kingbus_node.raft.errors import RaftError
from kingbus_node.raft.hello import Hello

logger = logging.getLogger(__name__)

STREAM: Final = "replica-floors"
EVERYTHING: Final = 0
_SECONDS: Final = 5.0


class Peers(Protocol):
    """What is needed of a ``Cluster``."""

    @property
    def address(self) -> str:
        """This node's."""

    def members(self) -> Sequence[MemberStatus]:
        """See `raft.api.ClusterConsensus.members`."""

    def open_stream(self, address: str, kind: str, deadline: float, /) -> AbstractContextManager[socket.socket]:
        """See ``Transport.open_stream``."""

    def serve_streams(self, kind: str, handler: Callable[[socket.socket, Hello], None], /) -> None:
        """See ``Transport.serve_streams``."""


class ReplicaFloors:
    """Call it for the oldest entry that the replicas of each node need. `own`: those of this node."""

    def __init__(self, peers: Peers, own: Callable[[], Iterable[int]]) -> None:
        self._peers = peers
        self._own = own
        peers.serve_streams(STREAM, self._serve)

    def __call__(self) -> list[int]:
        """Waits some seconds at most for each other node."""
        found = list(self._own())
        for member in self._peers.members():
            if member.address != self._peers.address and member.reachable:
                found += self._ask(member)
        return found

    def _ask(self, member: MemberStatus) -> list[int]:
        try:
            with self._peers.open_stream(member.address, STREAM, time.monotonic() + _SECONDS) as connection:
                connection.settimeout(_SECONDS)
                with connection.makefile("rb") as lines:
                    answer = json.loads(lines.readline(1024))
        except (OSError, RaftError, ValueError) as error:
            logger.info("%s does not tell what its replicas need, so nothing is purged: %s", member.name, error)
            return [EVERYTHING]
        return [answer] if isinstance(answer, int) else []

    def _serve(self, connection: socket.socket, peer: Hello) -> None:
        try:
            connection.settimeout(_SECONDS)
            connection.sendall(json.dumps(min(self._own(), default=None)).encode() + b"\n")
        except OSError as error:
            logger.debug("%s was not told what the replicas here need: %s", peer.name, error)
