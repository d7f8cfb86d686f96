"""What the parts of a node know, put into the views that the admin API shows: reads only, decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from kingbus_node import __version__
from kingbus_node.admin.views import Binlog, Counters, Gtid, Member, Readiness, Replica, Role, Source, Status, Storage
from kingbus_node.binlog.executed import ExecutedSet
from kingbus_node.config import Config
from kingbus_node.raft.api import Consensus
from kingbus_node.source.reader import SourceReader
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
        storage=Storage(stats.segments, stats.bytes, stats.oldest_timestamp or None, stats.free_bytes),
        ready=readiness.ready,
        version=__version__,
    )


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
