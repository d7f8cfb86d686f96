"""The supervisor's table of all connections of a node: which worker has which, who streams, and how far.

Pure bookkeeping, fed with the workers' messages; not thread-safe (the supervisor guards it).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kingbus_node.serve.control import Json, Message, number_of, text_of
from kingbus_node.serve.view import ConnectedReplica, Process


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """A dump, for status and metrics.

    connection_id: for KILL. server_id, uuid: the replica's ('' when it did not say). host: the client's address.
    report_host, report_port: what it registered ('' and 0 when it did not). version: of its client library. file,
    position: of the last event sent. index: log index that it is at. timestamp: of the last event sent, Unix seconds, 0
    when unknown. gtid_sent: what the replica has, as far as it was worth telling (long sets are cut). sent_bytes: on
    this connection. sent_before: on earlier ones of the same replica (`identity`), as far as it is remembered.
    semi_sync: the replica acknowledges what it has got; acks: how often it has done so on this connection.
    """

    connection_id: int
    server_id: int
    uuid: str
    host: str
    port: int
    user: str
    version: str
    registered: bool
    report_host: str
    report_port: int
    file: str
    position: int
    index: int
    timestamp: int
    gtid_sent: str
    sent_bytes: int
    started: float
    sent_before: int = 0
    semi_sync: bool = False
    acks: int = 0

    @property
    def identity(self) -> str:
        """What stays when a replica connects again: its uuid, or its server id; '' if it gave neither."""
        return identity_of(self.uuid, self.server_id)


def identity_of(uuid: str, server_id: int) -> str:
    """See `ReplicaReport.identity`."""
    return uuid or (f"server-{server_id}" if server_id else "")


_REMEMBERED: Final = 1000  # replicas that have left, and how much they were sent


@dataclass(slots=True)
class _Connection:
    id: int
    worker: int
    host: str
    port: int
    since: float
    user: str = ""
    database: str | None = None
    dump: Message | None = None
    progress: Message = field(default_factory=dict)


class ConnectionTable:
    """See the module. Workers are numbered by the supervisor."""

    def __init__(self) -> None:
        self._connections: dict[int, _Connection] = {}
        self._last_id = 0
        self.refusals: Counter[int] = Counter()
        """Errors that ended dumps, by number."""
        self.sent_bytes_ended = 0
        """Bytes that dumps which are over have sent."""
        self._sent_before: dict[str, int] = {}  # the same by replica; who left last comes last

    def __len__(self) -> int:
        return len(self._connections)

    def open(self, worker: int, host: str, port: int) -> int:
        """A connection was accepted and goes to `worker`; its new id, of 32 bits."""
        while True:
            self._last_id = self._last_id % 0xFFFFFFFF + 1
            if self._last_id not in self._connections:
                break
        self._connections[self._last_id] = _Connection(self._last_id, worker, host, port, time.time())
        return self._last_id

    def least_loaded(self, workers: Iterable[int]) -> int:
        """The worker for the next connection: the one with the fewest dumps, then with the fewest connections."""
        dumps: Counter[int] = Counter()
        connections: Counter[int] = Counter()
        for connection in self._connections.values():
            connections[connection.worker] += 1
            dumps[connection.worker] += connection.dump is not None
        return min(workers, key=lambda worker: (dumps[worker], connections[worker], worker))

    def worker_of(self, connection_id: int) -> int | None:
        """Which worker has the connection; None when there is no such connection."""
        connection = self._connections.get(connection_id)
        return None if connection is None else connection.worker

    def user_of(self, connection_id: int) -> str:
        """Who has logged in there; '' when nobody has yet, or there is no such connection."""
        connection = self._connections.get(connection_id)
        return "" if connection is None else connection.user

    def worker_gone(self, worker: int) -> None:
        """A worker has ended, and its connections with it."""
        for connection in [one for one in self._connections.values() if one.worker == worker]:
            self._close(connection.id)

    def note(self, worker: int, message: Message) -> None:
        """Take in what a worker reports about its connections."""
        number = number_of(message, "id")
        connection = self._connections.get(number)
        if connection is None or connection.worker != worker:
            return
        match text_of(message, "op"):
            case "login":
                connection.user = text_of(message, "user")
                connection.database = text_of(message, "database") or None
            case "dump":
                connection.dump = message
                connection.progress = {}
            case "progress":
                connection.progress = message
            case "undump":
                code = number_of(message, "code")
                if code:
                    self.refusals[code] += 1
                if connection.dump is None:
                    self.sent_bytes_ended += number_of(message, "sent")
                else:
                    self._ended(connection.dump, number_of(message, "sent"))
                connection.dump = None
            case "closed":
                self._close(number)
            case _:
                pass

    def _close(self, number: int) -> None:
        connection = self._connections.pop(number)
        if connection.dump is not None:
            self._ended(connection.dump, number_of(connection.progress, "sent"))

    def _ended(self, dump: Message, sent: int) -> None:
        """A dump is over: what it sent is not forgotten, so that counters do not fall when a replica comes back."""
        self.sent_bytes_ended += sent
        identity = identity_of(text_of(dump, "uuid"), number_of(dump, "server_id"))
        if identity:
            self._sent_before[identity] = self._sent_before.pop(identity, 0) + sent
            while len(self._sent_before) > _REMEMBERED:
                del self._sent_before[next(iter(self._sent_before))]

    def sent_bytes(self) -> int:
        """Bytes that all dumps have sent, those that are over included."""
        streaming = (one.progress for one in self._connections.values() if one.dump is not None)
        return self.sent_bytes_ended + sum(number_of(progress, "sent") for progress in streaming)

    def same_replica(self, uuid: str, server_id: int, besides: int) -> set[int]:
        """The workers that have another dump of this replica (the rule of `registry.Dump.is_same_replica`)."""
        found: set[int] = set()
        for connection in self._connections.values():
            dump = connection.dump
            if dump is None or connection.id == besides:
                continue
            other = text_of(dump, "uuid")
            if (uuid and other == uuid) or (
                not uuid and server_id and not other and number_of(dump, "server_id") == server_id
            ):
                found.add(connection.worker)
        return found

    def reports(self) -> list[ReplicaReport]:
        """All dumps, the oldest connection first."""
        return [
            _report(connection, connection.dump, self._sent_before)
            for connection in self._connections.values()
            if connection.dump is not None
        ]

    def processes(self) -> list[Process]:
        """All connections, roughly: a worker knows better about its own."""
        now = time.time()
        return [
            Process(
                connection.id,
                connection.user or "unauthenticated user",
                f"{connection.host}:{connection.port}",
                connection.database,
                "Binlog Dump" if connection.dump is not None else "Sleep" if connection.user else "Connect",
                int(now - connection.since),
                "",
                None,
            )
            for connection in self._connections.values()
        ]


def _report(connection: _Connection, dump: Message, sent_before: Mapping[str, int]) -> ReplicaReport:
    progress = connection.progress
    identity = identity_of(text_of(dump, "uuid"), number_of(dump, "server_id"))
    started = dump.get("started")
    return ReplicaReport(
        connection_id=connection.id,
        server_id=number_of(dump, "server_id"),
        uuid=text_of(dump, "uuid"),
        host=connection.host,
        port=connection.port,
        user=connection.user,
        version=text_of(dump, "version"),
        registered=bool(dump.get("registered")),
        report_host=text_of(dump, "report_host"),
        report_port=number_of(dump, "report_port"),
        file=text_of(progress, "file"),
        position=number_of(progress, "position"),
        index=number_of(progress, "index"),
        timestamp=number_of(progress, "timestamp"),
        gtid_sent=text_of(progress, "gtid_sent"),
        sent_bytes=number_of(progress, "sent"),
        semi_sync=bool(progress.get("semi_sync")),
        acks=number_of(progress, "acks"),
        started=float(started) if isinstance(started, int | float) else connection.since,
        sent_before=sent_before.get(identity, 0),
    )


def replica_to_json(replica: ConnectedReplica) -> Json:
    """For an answer to a worker."""
    return [replica.connection_id, replica.server_id, replica.host, replica.port, replica.uuid]


def replica_from_json(value: Json) -> ConnectedReplica | None:
    """What `replica_to_json` made; None for something else."""
    match value:
        case [int(number), int(server_id), str(host), int(port), str(uuid)]:
            return ConnectedReplica(number, server_id, host, port, uuid)
        case _:
            return None


def process_to_json(process: Process) -> Json:
    """For an answer to a worker."""
    return [
        process.connection_id,
        process.user,
        process.host,
        process.database,
        process.command,
        process.seconds,
        process.state,
        process.info,
    ]


def process_from_json(value: Json) -> Process | None:
    """What `process_to_json` made; None for something else."""
    match value:
        case [int(number), str(user), str(host), str() | None as database, str(command), int(seconds), str(state), _]:
            return Process(number, user, host, database, command, seconds, state, None)
        case _:
            return None
