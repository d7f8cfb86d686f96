"""What a node tells about itself: plain, immutable values, made as a snapshot, shown as JSON under these field names.

The names and shapes of ``Status`` and its parts are a contract with users (``GET /v1/status``): fields may be added,
not renamed. Sizes and positions are in bytes, durations in seconds, times in seconds since 1970; ``None`` means "not
known" or "does not apply", never zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Role = Literal["leader", "follower", "candidate", "learner"]
SourceState = Literal["connected", "connecting", "stopped", "refused"]


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the cluster, as this node sees it. ``match_index``: the last entry known to be durable there."""

    name: str
    address: str
    role: Role
    match_index: int
    connected: bool


@dataclass(frozen=True, slots=True)
class Source:
    """The server that the cluster replicates from.

    ``file`` and ``position`` are how far its binlog is committed here, in the source's own names. ``lag_seconds`` is
    the age of the newest event that came in while there is more to come, 0 when everything is here.
    """

    endpoint: str | None
    state: SourceState
    error: str | None
    semi_sync: bool
    lag_seconds: float | None
    file: str | None
    position: int | None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Gtid:
    """The cluster's GTID sets, printed as a server of the source's flavour prints them."""

    executed: str
    purged: str


@dataclass(frozen=True, slots=True)
class Replica:
    """A connection that receives the binlog. ``id`` names it, also in metrics: it tells no address and no user."""

    id: str
    server_id: int
    uuid: str | None
    host: str
    user: str
    version: str | None
    file: str | None
    position: int | None
    gtid_sent: str | None
    lag_bytes: int | None
    lag_seconds: float | None
    node: str
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Storage:
    """The log on this node's disk. ``oldest``: when the oldest event that is still here was written.

    ``free_bytes`` and ``capacity_bytes`` are those of the file system: what is left of it, and its size."""

    segments: int
    bytes: int
    oldest: int | None
    free_bytes: int
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """All of ``GET /v1/status``."""

    node: str
    role: Role
    term: int
    leader: str | None
    quorum: bool
    commit_index: int
    last_index: int
    members: Sequence[Member]
    source: Source
    gtid: Gtid
    replicas: Sequence[Replica]
    storage: Storage
    ready: bool = False
    version: str = ""


@dataclass(frozen=True, slots=True)
class Binlog:
    """A binlog file that the node serves. ``size``: its committed length; ``closed``: the source is past it."""

    name: str
    size: int
    closed: bool


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether replicas should be sent here, and the reasons why not (each a sentence)."""

    ready: bool
    reasons: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Counters:
    """What only metrics show: totals since the node started."""

    leader_changes: int = 0
    source_events: int = 0
    source_bytes: int = 0
    source_transactions: int = 0
    source_reconnects: int = 0
    semisync_acks: int = 0
    corruptions: int = 0
    replica_errors: Mapping[int, int] = field(default_factory=dict)
    """Refusals sent to replicas, by MySQL error number."""


class Node(Protocol):
    """What the admin side asks of a node. Every method may be called from any thread, and answers at once."""

    def status(self) -> Status: ...

    def readiness(self) -> Readiness: ...

    def counters(self) -> Counters: ...

    def binlogs(self) -> Sequence[Binlog]: ...

    def kill_replica(self, replica_id: str) -> bool:
        """End the connection of a replica. False: there is none of that id."""
        ...
