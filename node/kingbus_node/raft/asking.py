"""One question and one answer between two nodes, each a line of JSON, over a stream beside Raft.

For what a node wants to know of another one now and then, and can do without when there is no answer.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from kingbus_node.raft.api import ConsensusError, MemberStatus
from kingbus_node.raft.errors import RaftError
from kingbus_node.raft.hello import Hello

logger = logging.getLogger(__name__)

_GREETING_SECONDS: Final = 5.0
_MAX_QUESTION: Final = 16 << 10
_MAX_ANSWER: Final = 4 << 20
"""Bytes. A list of servers' transactions, or an error that names some, takes more than some kilobytes."""


class Streams(Protocol):
    """What is needed of a ``Cluster``."""

    def open_stream(self, address: str, kind: str, deadline: float, /) -> AbstractContextManager[socket.socket]:
        """See ``Transport.open_stream``."""

    def serve_streams(self, kind: str, handler: Callable[[socket.socket, Hello], None], /) -> None:
        """See ``Transport.serve_streams``."""


class Peers(Streams, Protocol):
    """What is needed of a ``Cluster`` to find its leader."""

    @property
    def leader(self) -> str | None:
        """The leader's name."""

    def members(self) -> Sequence[MemberStatus]:
        """See `raft.api.ClusterConsensus.members`."""


class UnansweredError(ConsensusError):
    """There is no answer, and none will come. ``str()`` says why."""


class UnfinishedError(UnansweredError):
    """The question arrived, perhaps; an answer did not come in time, or not to its end."""


def ask(peers: Streams, member: MemberStatus, kind: str, question: object, seconds: float) -> object:
    """The answer of `member`, waited for `seconds`. UnansweredError, UnfinishedError."""
    try:
        with peers.open_stream(member.address, kind, time.monotonic() + min(seconds, _GREETING_SECONDS)) as connection:
            connection.settimeout(seconds)
            connection.sendall(_line(question))
            try:
                with connection.makefile("rb") as lines:
                    line = lines.readline(_MAX_ANSWER)
            except TimeoutError as error:
                raise UnfinishedError(f"{member.name} does not answer") from error
            except OSError as error:
                raise UnfinishedError(f"{member.name} does not answer any more: {error}") from error
    except (OSError, RaftError) as error:
        raise UnansweredError(f"{member.name} cannot be asked: {error}") from error
    if not line.endswith(b"\n"):
        raise UnfinishedError(f"{member.name} has ended its answer after {len(line)} bytes")
    try:
        answer: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnansweredError(f"the answer of {member.name} cannot be read: {error}") from error
    return answer


def ask_leader(peers: Peers, kind: str, question: object, seconds: float) -> object:
    """The answer of the leader, which must be another node. As `ask`; UnansweredError as well when there is none."""
    name = peers.leader
    leader = next((member for member in peers.members() if member.name == name), None)
    if leader is None:
        raise UnansweredError("there is no leader now")
    return ask(peers, leader, kind, question, seconds)


def answer(peers: Streams, kind: str, answerer: Callable[[object], object]) -> None:
    """From now on `answerer` makes the answers to questions of this kind, in a thread of each question."""

    def serve(connection: socket.socket, peer: Hello) -> None:
        try:
            connection.settimeout(_GREETING_SECONDS)
            with connection.makefile("rb") as lines:
                question: object = json.loads(lines.readline(_MAX_QUESTION))
            connection.sendall(_line(answerer(question)))
        except (OSError, ValueError, RecursionError) as error:  # RecursionError: brackets within brackets
            logger.debug("%s has no answer about %s: %s", peer.name, kind, error)

    peers.serve_streams(kind, serve)


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"
