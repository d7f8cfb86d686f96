"""A node and its controls that answer what a test put in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kingbus_node.admin.views import (
    Binlog,
    Counters,
    Gtid,
    Member,
    Mended,
    Purged,
    Readiness,
    Refused,
    Replica,
    Source,
    SourceDetails,
    SourceSettings,
    Status,
    Storage,
)
from kingbus_node.raft.api import MemberKind, NotLeaderError
from kingbus_node.store.entry import Json

REPLICA = Replica(
    id="w0-7",
    server_id=2,
    uuid="3e11fa47-71ca-11e1-9e33-c80aa9429562",
    host="10.1.2.3:40112",
    user="repl",
    version="9.7.4",
    file="binlog.000002",
    position=1000,
    gtid_sent="u:1-5",
    lag_bytes=17,
    lag_seconds=0.5,
    node="node-1",
    sent_bytes=4096,
    connection=7,
)
STATUS = Status(
    node="node-1",
    role="leader",
    term=3,
    leader="node-1",
    quorum=True,
    commit_index=41,
    last_index=42,
    members=[Member("node-1", "127.0.0.1:7401", "leader", 42, True)],
    source=Source("10.9.9.9:3306", "connected", None, True, 0.0, "binlog.000002", 1017),
    gtid=Gtid("u:1-6", ""),
    replicas=[REPLICA],
    storage=Storage(2, 123456, 1700000000, 10**9, 4 * 10**9),
    ready=True,
)


@dataclass
class FakeNode:
    """Answers what a test put in."""

    now: Status = STATUS
    ready: Readiness = field(default_factory=lambda: Readiness(True))
    killed: list[str] = field(default_factory=list)
    broken: bool = False
    log_directory: Path = Path("/nowhere")
    mendable: set[str] = field(default_factory=set)
    mended: list[str] = field(default_factory=list)
    killing_fails: bool = False
    killable: set[str] = field(default_factory=lambda: {REPLICA.id})

    def status(self) -> Status:
        if self.broken:
            raise RuntimeError("hunter2")
        return self.now

    def readiness(self) -> Readiness:
        return self.ready

    def counters(self) -> Counters:
        return Counters(source_events=7, sent_bytes=8192, replica_errors={1236: 2})

    def binlogs(self) -> Sequence[Binlog]:
        return [Binlog("binlog.000001", 500, True), Binlog("binlog.000002", 1017, False)]

    def binlog(self, name: str, position: int) -> Iterator[bytes]:
        if name != "binlog.000001":
            raise Refused(404, f"there is no binlog file {name!r}")
        return iter([b"\xfebin", str(position).encode()])

    def mend(self, segment: str) -> Mended:
        if segment not in self.mendable:
            raise Refused(409, "nobody has an intact copy: no other member is connected")
        self.mended.append(segment)
        return Mended(segment, "node-2")

    def kill_replica(self, replica_id: str) -> bool:
        if self.killing_fails:
            raise RuntimeError("hunter2")
        self.killed.append(replica_id)
        return replica_id in self.killable


SOURCE = SourceDetails(
    SourceSettings(
        ["10.9.9.9:3306"],
        "auto",
        "repl",
        100,
        True,
        ["uncompressed"],
        {"mode": "preferred"},
        "earliest",
        {"initial": 0.1},
    ),
    STATUS.source,
)


@dataclass
class FakeControl:
    """Notes what it was told. With a `leader` it is not the leader itself."""

    told: list[tuple[object, ...]] = field(default_factory=list)
    leader: str | None = None
    leads: bool = True
    refusal: Refused | None = None

    def _note(self, *order: object) -> None:
        if not self.leads:
            raise NotLeaderError(self.leader)
        if self.refusal is not None:
            raise self.refusal
        self.told.append(order)

    def source(self) -> SourceDetails:
        self._note("source")
        return SOURCE

    def set_source(self, changes: Mapping[str, Json]) -> None:
        self._note("set", dict(changes))

    def stop_source(self) -> None:
        self._note("stop")

    def start_source(self) -> None:
        self._note("start")

    def switch_source(self, changes: Mapping[str, Json], *, force: bool) -> None:
        self._note("switch", dict(changes), force)

    def add_member(self, name: str, address: str, role: MemberKind, priority: int) -> None:
        self._note("add", name, address, role, priority)

    def remove_member(self, name: str) -> None:
        self._note("remove", name)

    def transfer(self, to: str | None) -> str:
        self._note("transfer", to)
        return to or "node-2"

    def purge(self, to: str | None, before: float | None) -> Purged:
        self._note("purge", to, before)
        return Purged(2, to, "u:1-3")
