"""What SQL answers are made of: the log's state as a server would tell it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LogFile:
    """A binlog file as SHOW BINARY LOGS lists it. size: committed bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class LogEvent:
    """An event as SHOW BINLOG EVENTS lists it."""

    file: str
    position: int
    type_name: str
    server_id: int
    end_position: int
    info: str


@dataclass(frozen=True, slots=True)
class ConnectedReplica:
    """A dump as SHOW REPLICAS and SHOW PROCESSLIST list it; from any worker of this node."""

    connection_id: int
    server_id: int
    host: str
    port: int
    uuid: str


@dataclass(frozen=True, slots=True)
class Process:
    """A connection as SHOW PROCESSLIST lists it. seconds: in its present state."""

    connection_id: int
    user: str
    host: str
    database: str | None
    command: str
    seconds: int
    state: str
    info: str | None


@dataclass(frozen=True, slots=True)
class PurgeOutcome:
    """What PURGE BINARY LOGS did. oldest: the first file that is left. purged: how many went. held: how many more would
    have gone if nobody read them; readers: who does, as far as that is known.
    """

    oldest: str
    purged: int
    held: int
    readers: int


class ServerView(Protocol):
    """The server that a node is for its clients. Every property is that of now; any thread may ask.

    mariadb: the flavour. version: the source's, without prefixes. server_uuid: the cluster's own (MySQL).
    server_id: the node's, from its configuration. checksum: CRC32 or NONE, as @@binlog_checksum.
    row_metadata: the source's @@binlog_row_metadata: whether events name columns.
    max_connections: as @@max_connections. compression_algorithms: what clients may use, as
    @@protocol_compression_algorithms names it.
    """

    @property
    def mariadb(self) -> bool: ...
    @property
    def version(self) -> str: ...
    @property
    def server_uuid(self) -> str: ...
    @property
    def server_id(self) -> int: ...
    @property
    def port(self) -> int: ...
    @property
    def hostname(self) -> str: ...
    @property
    def checksum(self) -> str: ...
    @property
    def row_metadata(self) -> str: ...
    @property
    def tls_required(self) -> bool: ...
    @property
    def max_connections(self) -> int: ...
    @property
    def compression_algorithms(self) -> Sequence[str]: ...

    def uptime(self) -> int:
        """For how many seconds the node has been serving."""
        ...

    def executed(self) -> str:
        """The executed GTIDs as the flavour prints them: a set, or MariaDB's position."""
        ...

    def binlog_state(self) -> str:
        """MariaDB's @@gtid_binlog_state: all of its GTIDs; the same as `executed` for MySQL."""
        ...

    def purged(self) -> str:
        """MySQL's @@gtid_purged."""
        ...

    def log_files(self) -> Iterable[LogFile]:
        """The retained files, the oldest first."""
        ...

    def current_file(self) -> LogFile | None:
        """The newest file, up to its committed end."""
        ...

    def gtid_position_at(self, file: str, position: int) -> str | None:
        """MariaDB's BINLOG_GTID_POS: the GTID position at a place in a file; None (NULL) if there is no such place."""
        ...

    def events(self, file: str | None, position: int, offset: int, count: int | None) -> Iterable[LogEvent]:
        """SHOW BINLOG EVENTS from `position` of `file` (None: the oldest): `count` (None: all) behind `offset` ones."""
        ...


class KillOutcome(StrEnum):
    """What became of a KILL."""

    ENDED = "ended"
    UNKNOWN = "unknown"  # there is no such connection
    DENIED = "denied"  # it is somebody else's, or nobody's yet


class Neighbours(Protocol):
    """What the rest of the node is asked for: the connections of all workers, and what only the core can do."""

    def replicas(self) -> Sequence[ConnectedReplica]:
        """The dumps."""
        ...

    def processes(self) -> Sequence[Process]:
        """All connections."""
        ...

    def kill(self, connection_id: int, owner: str | None) -> KillOutcome:
        """End a connection if it is the `owner`'s, or in any case (None). MySQLError when it is not known in time."""
        ...

    def purge(self, to_file: str | None, before: float | None) -> PurgeOutcome | None:
        """PURGE BINARY LOGS to a file, or before a time (Unix seconds); None: there is nothing to purge. MySQLError."""
        ...

    def source_status(self) -> dict[str, str | int | None]:
        """What SHOW REPLICA STATUS says of the cluster as a replica of its source; {} when there is nothing to say.
        MySQLError when that is not known.
        """
        ...
