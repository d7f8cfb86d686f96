"""A server that is not there: what SQL and sessions ask of a log and of other connections, with fixed answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kingbus_node.serve.view import ConnectedReplica, KillOutcome, LogEvent, LogFile, Process, PurgeOutcome
from kingbus_node.wire.errors import ErrorCode, error

CLUSTER_UUID = "11111111-2222-3333-4444-555555555555"
SOURCE_UUID = "3091a0af-e696-11f1-9062-02fc00000001"


@dataclass
class FakeView:
    """`view.ServerView`."""

    mariadb: bool = False
    version: str = "9.7.4-2"
    server_uuid: str = CLUSTER_UUID
    server_id: int = 101
    port: int = 3306
    hostname: str = "node-1"
    checksum: str = "CRC32"
    row_metadata: str = "FULL"
    tls_required: bool = False
    max_connections: int = 1000
    compression_algorithms: tuple[str, ...] = ("zlib", "zstd", "uncompressed")
    files: list[LogFile] = field(
        default_factory=lambda: [LogFile("binlog.000001", 400), LogFile("binlog.000002", 1592)]
    )

    @classmethod
    def of_mariadb(cls) -> FakeView:
        return cls(mariadb=True, version="10.11.19-MariaDB-0+deb12u1-log", server_uuid="")

    def uptime(self) -> int:
        return 3_723

    def executed(self) -> str:
        return "0-11-10" if self.mariadb else f"{SOURCE_UUID}:1-8"

    def binlog_state(self) -> str:
        return "0-12-4,0-11-10" if self.mariadb else self.executed()

    def purged(self) -> str:
        return f"{SOURCE_UUID}:1-2"

    def log_files(self) -> Iterator[LogFile]:
        return iter(self.files)

    def current_file(self) -> LogFile | None:
        return self.files[-1] if self.files else None

    def gtid_position_at(self, file: str, position: int) -> str | None:
        return f"0-11-{position}" if file == "binlog.000002" else None

    def events(self, file: str | None, position: int, offset: int, count: int | None) -> Iterator[LogEvent]:
        events = [
            LogEvent(file or "binlog.000001", position, "Format_desc", 1, 127, "Server ver: 9.7.4-2, Binlog ver: 4")
        ]
        return iter(events[offset:][:count])


@dataclass
class FakeNeighbours:
    """`view.Neighbours`. `owners`: of the connections that can be killed. `killed`: the ids that were."""

    owners: dict[int, str] = field(default_factory=lambda: {7: "repl"})
    killed: list[int] = field(default_factory=list)
    outcome: PurgeOutcome | None = None
    purges: list[tuple[str | None, float | None]] = field(default_factory=list)
    status: dict[str, str | int | None] = field(default_factory=dict)
    connections: list[Process] = field(
        default_factory=lambda: [
            Process(7, "repl", "127.0.0.1:5", None, "Binlog Dump", 3, "Source has sent all", "x" * 200)
        ]
    )

    def replicas(self) -> Sequence[ConnectedReplica]:
        return [ConnectedReplica(7, 2, "127.0.0.1", 33971, "3473f1eb-e696-11f1-83d2-02fc00000001")]

    def processes(self) -> Sequence[Process]:
        return self.connections

    def kill(self, connection_id: int, owner: str | None) -> KillOutcome:
        if connection_id not in self.owners:
            return KillOutcome.UNKNOWN
        if owner not in (None, self.owners[connection_id]):
            return KillOutcome.DENIED
        self.killed.append(connection_id)
        return KillOutcome.ENDED

    def purge(self, to_file: str | None, before: float | None) -> PurgeOutcome | None:
        if to_file == "binlog.000009":
            raise error(ErrorCode.UNKNOWN_TARGET_BINLOG, "Target log not found in binlog index")
        self.purges.append((to_file, before))
        return self.outcome

    def source_status(self) -> dict[str, str | int | None]:
        return self.status
