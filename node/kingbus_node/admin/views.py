"""What a node tells about itself, and what it can be told to do.

What it tells are plain, immutable values, made as a snapshot, shown as JSON under these field names.

The names and shapes of ``Status`` and its parts are a contract with users (``GET /v1/status``): fields may be added,
not renamed. Sizes and positions are in bytes, durations in seconds, times in seconds since 1970; ``None`` means "not
known" or "does not apply", never zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from kingbus_node.raft.api import MemberKind
from kingbus_node.store.entry import Json

Role = Literal["leader", "follower", "candidate", "learner", "witness"]
SourceState = Literal["connected", "connecting", "stopped", "refused"]


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the cluster, as the node that answers sees it.

    ``address`` is where other nodes reach it. ``match_index``: the last entry known to be durable there; only the
    leader knows of all. ``priority``: leadership drifts to the highest. ``admin``: the URL of its admin API if known.
    ``joining``: a learner that votes as soon as it has caught up. ``round_trip_seconds``: to it and back.
    ``in_flight_bytes``: sent to it and not answered, which the leader knows.
    """

    name: str
    address: str
    role: Role
    match_index: int | None
    connected: bool
    priority: int = 0
    admin: str | None = None
    joining: bool = False
    round_trip_seconds: float | None = None
    in_flight_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """The server that the cluster replicates from.

    ``file`` and ``position`` are how far its binlog is committed here, in the source's own names. ``lag_seconds`` is
    the age of the newest event that came in while there is more to come, 0 when everything is here. ``missing``: the
    GTIDs that a refusal is about, if they are known.
    """

    endpoint: str | None
    state: SourceState
    error: str | None
    semi_sync: bool
    lag_seconds: float | None
    file: str | None
    position: int | None
    version: str | None = None
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Gtid:
    """The cluster's GTID sets, printed as a server of the source's flavour prints them."""

    executed: str
    purged: str


@dataclass(frozen=True, slots=True)
class Replica:
    """A connection that receives the binlog.

    ``id`` names the replica, here, in metrics and for ``DELETE``: its server_uuid, else ``server-<id>``, else (a client
    that gave neither) ``connection-<number>@<node>``. It stays when the replica connects again or moves to another
    node, and tells no address and no user. ``connection`` is the number for SQL's KILL on that node. ``semi_sync``: it
    acknowledges what it has got; ``acks``: how often it has done so on this connection.
    """

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
    connection: int = 0
    semi_sync: bool = False
    acks: int = 0


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
class Copying:
    """A copy of the log that this node takes from another one, because it has none, or one that is too old.

    ``peer``: the node that it comes from. ``total_bytes`` is 0 as long as that is not known.
    """

    peer: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """All of ``GET /v1/status``.

    Seen by one node, but for ``source``, which the leader knows, and ``replicas``, which are those of all nodes.
    ``silent``: the nodes that were asked for theirs and gave no answer in time. ``reasons``: why not ``ready``.
    ``suspended``: why this node would not lead (its disk is full, say), null while all is well. ``copying``: null but
    while this node copies the log.
    """

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
    reasons: Sequence[str] = ()
    silent: Sequence[str] = ()
    suspended: str | None = None
    copying: Copying | None = None


@dataclass(frozen=True, slots=True)
class Binlog:
    """A binlog file that the node serves. ``size``: its committed length; ``closed``: the source is past it."""

    name: str
    size: int
    closed: bool


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """The source's settings as the cluster's log holds them (``source`` of docs/configuration.md).

    ``stopped``: somebody has stopped it. ``accept_missing``: GTIDs that a forced switch allows the source to lack.
    ``retry``: seconds.
    """

    endpoints: Sequence[str]
    flavor: str
    user: str
    server_id: int
    semi_sync: bool
    compression: Sequence[str]
    tls: Mapping[str, str]
    start: str
    retry: Mapping[str, float]
    stopped: bool = False
    accept_missing: str = ""


@dataclass(frozen=True, slots=True)
class SourceDetails:
    """``GET /v1/source``. ``missing``: GTIDs that a refusal is about; ``identity``: what tells one source from another.

    ``tls``: the protocol of the connection, null without TLS; ``compression``: the algorithm, null without.
    """

    settings: SourceSettings
    status: Source
    missing: str | None = None
    identity: str | None = None
    tls: str | None = None
    compression: str | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge has done: how many files went, the oldest that is left, and what is purged altogether now.

    ``held``: how many more would have gone if a connected replica did not need them.
    """

    files: int
    oldest: str | None
    purged: str
    held: int = 0


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
    sent_bytes: int = 0
    replica_errors: Mapping[int, int] = field(default_factory=dict)
    """Refusals sent to replicas, by MySQL error number."""


@dataclass(frozen=True, slots=True)
class Mended:
    """A damaged segment of the log was fetched again. ``source``: the node that the copy came from."""

    segment: str
    source: str


class Refused(Exception):
    """An order that is not carried out, for a reason that the caller should read.

    ``status`` as HTTP has it; ``facts``: further members of the problem details, for programs.
    """

    def __init__(self, status: int, detail: str, **facts: Json) -> None:
        super().__init__(detail)
        self.status = status
        self.facts = facts


class Node(Protocol):
    """What the admin side asks of a node. Every method may be called from any thread, and answers at once."""

    def status(self) -> Status:
        """As this node sees it, with its own replicas."""
        ...

    def readiness(self) -> Readiness: ...

    def counters(self) -> Counters: ...

    def binlogs(self) -> Sequence[Binlog]: ...

    def binlog(self, name: str, position: int) -> Iterator[bytes]:
        """A binlog file as its source wrote it, in pieces, from its head on; or the head and then from ``position`` on.

        Up to what is committed now. ``Refused`` at once when there is no such file, or no event begins there.
        """
        ...

    @property
    def log_directory(self) -> Path:
        """Where the log is, for other processes to read."""
        ...

    def kill_replica(self, replica_id: str) -> bool:
        """End the connections of a replica. False: there is none of that id."""
        ...

    def mend(self, segment: str) -> Mended:
        """Put a copy from another member in the place of a damaged segment, by the name of its file. ``Refused``."""
        ...


class Control(Protocol):
    """What a node can be told to do, and what only its leader knows.

    Every method may be called from any thread and takes the time that it takes. Elsewhere than on the leader they raise
    ``raft.api.NotLeaderError``; what is not possible is ``Refused``.
    """

    def source(self) -> SourceDetails: ...

    def set_source(self, changes: Mapping[str, Json]) -> None:
        """Change some of the settings; a source that is being read from is left and connected to again."""
        ...

    def stop_source(self) -> None: ...

    def start_source(self) -> None: ...

    def switch_source(self, changes: Mapping[str, Json], *, force: bool) -> None:
        """Read from another server, once it is known to hold all that the log holds."""
        ...

    def add_member(self, name: str, address: str, role: MemberKind, priority: int) -> None: ...

    def remove_member(self, name: str) -> None: ...

    def transfer(self, to: str | None) -> str:
        """Hand the leadership over; the new leader's name."""
        ...

    def purge(self, to: str | None, before: float | None) -> Purged:
        """Drop the files before the one named ``to``, or those with nothing newer than ``before`` (Unix time)."""
        ...
