"""What the parts of a node know, put into the views that the admin API shows: reads only, decides nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

from kingbus_node import __version__
from kingbus_node.admin.views import Binlog, Counters, Gtid, Member, Readiness, Replica, Role, Source, Status, Storage
from kingbus_node.binlog.executed import ExecutedSet
from kingbus_node.config import Address, Config
from kingbus_node.raft.api import Consensus
from kingbus_node.serve.connections import ReplicaReport
from kingbus_node.source.reader import SourceReader, SourceState, SourceStatus
from kingbus_node.source.resume import FACT_SOURCE
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader


def status(
    config: Config,
    log: Log,
    consensus: Consensus,
    reader: SourceReader,
    replicas: Sequence[Replica],
    readiness: Readiness,
) -> Status:
    """All of ``GET /v1/status``."""
    state, stats = log.state, log.stats()
    leads = consensus.is_leader
    role: Role = "leader" if leads else "follower"
    name, last_index = config.node.name, log.last_index
    address = config.raft.advertise or config.raft.listen
    return Status(
        node=name,
        role=role,
        term=consensus.term,
        leader=consensus.leader,
        quorum=consensus.failure is None,
        commit_index=log.commit_index,
        last_index=last_index,
        members=[Member(name, str(address), role, log.durable_index, connected=True)],
        source=_source(reader, log),
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
    )


def replicas(reports: Sequence[ReplicaReport], reader: LogReader, node: str) -> list[Replica]:
    """The dumps of this node. How far one is behind is counted from what was sent to what is visible."""
    files: list[Binlog] = []
    current = reader.current_file()
    if current is not None and any(report.file != current.name for report in reports):
        files = binlogs(reader)
    elif current is not None:
        files = [Binlog(current.name, current.end_pos, current.closed)]
    return [_replica(report, files, node) for report in reports]


def _replica(report: ReplicaReport, files: Sequence[Binlog], node: str) -> Replica:
    behind = bytes_after(report.file, report.position, files) if report.file else None
    age = max(0.0, time.time() - report.timestamp) if report.timestamp else None
    return Replica(
        id=str(report.connection_id),
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
        sent_bytes=report.sent_bytes,
    )


def bytes_after(name: str, position: int, files: Sequence[Binlog]) -> int | None:
    """Bytes of binlog behind a place; None when its file is not there any more."""
    for number, file in enumerate(files):
        if file.name == name:
            return max(0, file.size - position) + sum(later.size for later in files[number + 1 :])
    return None


def replica_status(config: Config, log: Log, reader: SourceReader) -> dict[str, str | int | None]:
    """What SHOW REPLICA STATUS tells: the cluster as a replica of its source (keys as `serve.status` has them)."""
    now, state = reader.status(), log.state
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


def _error_code(now: SourceStatus) -> int:
    """As a replica numbers what stopped its receiver: CR_CONN_HOST_ERROR or ER_REPLICA_FATAL_ERROR."""
    if now.error is None:
        return 0
    return 1593 if now.state is SourceState.REFUSED else 2003


def counters(reader: SourceReader, replica_errors: dict[int, int]) -> Counters:
    """The totals behind the metrics."""
    source = reader.status()
    return Counters(
        source_events=source.events,
        source_bytes=source.bytes,
        source_transactions=source.transactions,
        source_reconnects=source.reconnects,
        semisync_acks=source.acks,
        replica_errors=replica_errors,
    )


def binlogs(reader: LogReader) -> list[Binlog]:
    """The files that are served, oldest first."""
    return [Binlog(file.name, file.end_pos, file.closed) for file in reader.files()]


def _source(reader: SourceReader, log: Log) -> Source:
    now, file = reader.status(), log.state.file
    return Source(
        endpoint=str(now.endpoint),
        state=now.state.value,
        error=now.error,
        semi_sync=now.semi_sync,
        lag_seconds=now.lag_seconds,
        file=None if file is None else file.source_name,
        position=None if file is None else file.end_pos,
        version=now.version,
    )


def _printed(gtids: ExecutedSet | None) -> str:
    return "" if gtids is None else str(gtids)
