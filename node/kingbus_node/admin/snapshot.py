"""What the parts of a node know, put into the views that the admin API shows: reads only, decides nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Final

from kingbus_node import __version__
from kingbus_node.admin.views import (
    Binlog,
    Copying,
    Counters,
    Gtid,
    Member,
    Readiness,
    Replica,
    Role,
    Source,
    Status,
    Storage,
)
from kingbus_node.binlog.executed import ExecutedSet
from kingbus_node.config import Address, Config
from kingbus_node.raft.api import ClusterConsensus, Consensus, MemberStatus
from kingbus_node.serve.connections import ReplicaReport
from kingbus_node.serve.supervisor import Supervisor
from kingbus_node.source.reader import SourceState, SourceStatus
from kingbus_node.source.resume import FACT_SOURCE
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader
from kingbus_node.store.state import LogState

CR_CONN_HOST_ERROR: Final = 2003
ER_REPLICA_FATAL_ERROR: Final = 1593
INFO_ADMIN: Final = "admin"
"""The key of `ClusterOptions.info` under which a node tells the others the URL of its admin API."""


def status(
    config: Config,
    log: Log,
    consensus: ClusterConsensus,
    members: Sequence[Member],
    source: SourceStatus,
    replicas: Sequence[Replica],
    readiness: Readiness,
    *,
    quorum: bool,
) -> Status:
    """All of ``GET /v1/status``, as one node sees it. `quorum`: it is in touch with one."""
    state, stats = log.state, log.stats()
    return Status(
        node=config.node.name,
        role=_own_role(consensus, members, config.node.name),
        term=consensus.term,
        leader=consensus.leader,
        quorum=quorum,
        commit_index=log.commit_index,
        last_index=log.last_index,
        members=members,
        source=source_view(source, state, leads=consensus.is_leader),
        gtid=Gtid(executed=_printed(state.executed), purged=_printed(state.purged)),
        replicas=replicas,
        storage=Storage(
            segments=stats.segments,
            bytes=stats.bytes,
            oldest=stats.oldest_timestamp or None,
            free_bytes=stats.free_bytes,
            capacity_bytes=shutil.disk_usage(log.directory).total,
        ),
        ready=readiness.ready,
        version=__version__,
        reasons=readiness.reasons,
        suspended=consensus.suspended,
        copying=_copying(consensus, members),
    )


def members(consensus: ClusterConsensus) -> list[Member]:
    """The members of a cluster, with the addresses of their admin APIs as far as they have told them."""
    return [_member(one, consensus.info_of(one.name).get(INFO_ADMIN)) for one in consensus.members()]


def _member(one: MemberStatus, admin: str | None) -> Member:
    role: Role = "leader" if one.leader else "follower" if one.role == "voter" else one.role
    return Member(
        name=one.name,
        address=one.address,
        role=role,
        match_index=one.match,
        connected=one.reachable,
        priority=one.priority,
        admin=admin,
        joining=one.joining,
        round_trip_seconds=one.round_trip,
        in_flight_bytes=one.in_flight_bytes,
    )


def _copying(consensus: ClusterConsensus, members: Sequence[Member]) -> Copying | None:
    now = consensus.copying
    if now is None:
        return None
    peer = next((member.name for member in members if member.address == now.peer), now.peer)
    return Copying(peer, now.done_bytes, now.total_bytes)


def _own_role(consensus: Consensus, members: Sequence[Member], name: str) -> Role:
    if consensus.is_leader:
        return "leader"
    role: Role = next((member.role for member in members if member.name == name), "learner")
    if role == "learner" or role == "witness":
        return role
    return "follower" if consensus.leader is not None else "candidate"


def admin_url(config: Config, listening: Address) -> str:
    """Where the other nodes reach this node's admin API, which listens at `listening`."""
    if config.admin.advertise is not None:
        return config.admin.advertise
    host = listening.host
    if host in ("0.0.0.0", "::"):
        host = (config.raft.advertise or config.raft.listen).host
    return f"{'http' if config.admin.tls.cert is None else 'https'}://{Address(host, listening.port)}"


def replicas(reports: Sequence[ReplicaReport], reader: LogReader, node: str) -> list[Replica]:
    """The dumps of this node. How far one is behind is counted from what was sent to what is visible."""
    current = reader.current_file()
    files: list[Binlog] = []
    if current is not None and any(report.file not in ("", current.name) for report in reports):
        files = binlogs(reader)
    elif current is not None:
        files = [Binlog(current.name, current.end_pos, current.closed)]
    ends = ends_of(files)
    return [_replica(report, ends, node) for report in reports]


def _replica(report: ReplicaReport, ends: Mapping[str, tuple[int, int]], node: str) -> Replica:
    behind = bytes_after(report.file, report.position, ends) if report.file else None
    age = max(0.0, time.time() - report.timestamp) if report.timestamp else None
    return Replica(
        id=report.identity or f"connection-{report.connection_id}@{node}",
        server_id=report.server_id,
        uuid=report.uuid or None,
        host=str(Address(report.host, report.port)),
        user=report.user,
        version=report.version or None,
        file=report.file or None,
        position=report.position if report.file else None,
        gtid_sent=report.gtid_sent or None,
        lag_bytes=behind,
        lag_seconds=0.0 if behind == 0 else age,
        node=node,
        sent_bytes=report.sent_before + report.sent_bytes,
        connection=report.connection_id,
        semi_sync=report.semi_sync,
        acks=report.acks,
    )


def ends_of(files: Sequence[Binlog]) -> dict[str, tuple[int, int]]:
    """By name: how long a file is, and how many bytes the files behind it have together."""
    ends: dict[str, tuple[int, int]] = {}
    later = 0
    for file in reversed(files):
        ends[file.name] = (file.size, later)
        later += file.size
    return ends


def bytes_after(name: str, position: int, ends: Mapping[str, tuple[int, int]]) -> int | None:
    """Bytes of binlog behind a place, by `ends_of`; None when its file is not there any more."""
    found = ends.get(name)
    return None if found is None else max(0, found[0] - position) + found[1]


def source_view(now: SourceStatus, state: LogState, *, leads: bool) -> Source:
    """How it stands with the source, and how far its binlog is committed here.

    A node that does not lead reads from none: what it knew when it did is not told.
    """
    return Source(
        endpoint=str(now.endpoint),
        state=now.state.value if leads else "stopped",
        error=now.error if leads else None,
        semi_sync=now.semi_sync and leads,
        lag_seconds=now.lag_seconds if leads else None,
        file=None if state.file is None else state.file.source_name,
        position=None if state.file is None else state.file.end_pos,
        version=now.version,
        missing=now.missing if leads else None,
    )


def replica_status(config: Config, log: Log, now: SourceStatus) -> dict[str, str | int | None]:
    """What SHOW REPLICA STATUS tells: the cluster as a replica of its source (keys as `serve.status` has them)."""
    state = log.state
    connected = now.state is SourceState.CONNECTED
    running = {SourceState.CONNECTED: "Yes", SourceState.CONNECTING: "Connecting"}.get(now.state, "No")
    source = state.facts.get(FACT_SOURCE)
    known = source if isinstance(source, dict) else {}
    server_id, server_uuid = known.get("server_id"), known.get("server_uuid")
    waiting = {SourceState.CONNECTED: "Waiting for source to send event", SourceState.STOPPED: ""}
    return {
        "io_state": waiting.get(now.state, "Connecting to source"),
        "host": now.endpoint.host,
        "user": config.source.user,
        "port": now.endpoint.port,
        "connect_retry": max(1, round(config.source.retry.max)),
        "file": "" if state.file is None else state.file.source_name,
        "position": state.end_pos,
        "io_running": running,
        "sql_running": "No" if now.state is SourceState.STOPPED else "Yes",
        "error_code": _error_code(now),
        "error": now.error or "",
        "until": "None",
        "tls": "Yes" if now.tls else "No",
        "tls_verify": "Yes" if config.source.tls.mode.startswith("verify") else "No",
        "lag_seconds": None if not connected or now.lag_seconds is None else int(now.lag_seconds),
        "server_id": server_id if isinstance(server_id, int) else 0,
        "uuid": server_uuid if isinstance(server_uuid, str) else "",
        "executed": _printed(state.executed),
        "auto_position": 1,
        "using_gtid": "Slave_Pos",
    }


_OF_THE_LOG: Final = ("file", "position", "executed")
"""What each node knows of itself; the rest of `replica_status` is right on the leader."""


def told_to_followers(here: Mapping[str, str | int | None]) -> dict[str, str | int | None]:
    """What of `replica_status` a leader tells: not what each node knows of itself, which may be long."""
    return {key: value for key, value in here.items() if key not in _OF_THE_LOG}


def told_by_leader(here: Mapping[str, str | int | None], told: object) -> dict[str, str | int | None]:
    """What a follower tells as `replica_status`, from its own and the leader's."""
    known = told if isinstance(told, dict) else {}
    asked = (here.keys() & known.keys()).difference(_OF_THE_LOG)
    return {**here, **{key: known[key] for key in asked if isinstance(known[key], str | int | None)}}


def source_unknown(here: Mapping[str, str | int | None], why: str) -> dict[str, str | int | None]:
    """The same when the leader cannot be asked: nobody reads from the source, as far as this node knows."""
    return {**here, "io_state": "", "io_running": "No", "error_code": CR_CONN_HOST_ERROR, "error": why}


def _error_code(now: SourceStatus) -> int:
    """As a replica numbers what stopped its receiver: CR_CONN_HOST_ERROR or ER_REPLICA_FATAL_ERROR."""
    if now.error is None:
        return 0
    return ER_REPLICA_FATAL_ERROR if now.state is SourceState.REFUSED else CR_CONN_HOST_ERROR


def counters(source: SourceStatus, supervisor: Supervisor, leader_changes: int = 0) -> Counters:
    """The totals behind the metrics."""
    return Counters(
        leader_changes=leader_changes,
        source_events=source.events,
        source_bytes=source.bytes,
        source_transactions=source.transactions,
        source_reconnects=source.reconnects,
        semisync_acks=source.acks,
        replica_errors=supervisor.refusals(),
        sent_bytes=supervisor.sent_bytes(),
    )


def binlogs(reader: LogReader) -> list[Binlog]:
    """The files that are served, oldest first."""
    return [Binlog(file.name, file.end_pos, file.closed) for file in reader.files()]


def _printed(gtids: ExecutedSet | None) -> str:
    return "" if gtids is None else str(gtids)
