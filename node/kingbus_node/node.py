"""One node: its parts put together in order, and taken apart in the opposite one.

Start: configuration, log (recovery is here), consensus, serve processes, admin API, fence, leader work. What fails on
the way is a ``FatalError`` with one sentence for people, and what was started before it is stopped again.

Stop: the node says that it is not ready, the reader ends at a whole transaction, leadership is handed over, the
replicas are let go, consensus ends, the admin API too, the log is synced. A second signal ends the process at once: for
the log that is a crash like any other, and recovery is made for those.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path

from kingbus_node import __version__, logs
from kingbus_node.admin import download, snapshot
from kingbus_node.admin.http import AdminError, AdminServer
from kingbus_node.admin.metrics import Metrics
from kingbus_node.admin.operations import Operations
from kingbus_node.admin.views import Binlog, Counters, Mended, Readiness, Refused, Replica, Status
from kingbus_node.config import Config, ConfigError, load
from kingbus_node.fence import Fence
from kingbus_node.kube.leader_service import LeaderService
from kingbus_node.leader import LeaderWork
from kingbus_node.raft import asking
from kingbus_node.raft.api import ConsensusError
from kingbus_node.raft.cluster import Cluster
from kingbus_node.raft.floors import ReplicaFloors
from kingbus_node.raft.keeper import RetentionKeeper, policy_of
from kingbus_node.raft.options import ClusterOptions
from kingbus_node.raft.purges import ClusterPurges
from kingbus_node.raft.tls import PeerTlsError
from kingbus_node.serve.settings import ServeOptions
from kingbus_node.serve.supervisor import Supervisor
from kingbus_node.serve.tls import TlsError
from kingbus_node.serve.users import UsersError
from kingbus_node.serve.view import PurgeOutcome
from kingbus_node.store.errors import StoreError
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader
from kingbus_node.store.transfer import CopyError
from kingbus_node.util.ending import Ending, told_to_end
from kingbus_node.util.limits import allow_all_descriptors

logger = logging.getLogger(__name__)

_WATCH_SECONDS = 0.5
_READER_SECONDS = 5.0
_HAND_OVER_SECONDS = 5.0
_SOURCE_STATUS = "source-status"
_SOURCE_STATUS_SECONDS = 3.0
_SWITCH_SECONDS = 0.0005
"""After which a busy thread gives way to another: see docs/decisions/0011-links-and-loop.md."""


class FatalError(Exception):
    """The node cannot run, or cannot go on; the text is for people."""


def run(path: Path) -> int:
    """Run the node that the configuration file describes until it is told to stop. The process's exit code."""
    try:
        config = load(path)
    except ConfigError as error:
        sys.stderr.write(f"kingbus: {error}\n")
        return 1
    logs.configure(config.log.level, config.log.format)
    sys.setswitchinterval(_SWITCH_SECONDS)
    allow_all_descriptors()
    logger.info("starting", extra={"node": config.node.name, "version": __version__, "pid": os.getpid()})
    with told_to_end() as ending, _crashes() as crashes:
        node = Node(config)
        try:
            node.start()
            node.wait(ending, crashes)
        except FatalError as error:
            logger.critical("%s", error)
            return 1
        finally:
            node.stop()
    logger.info("stopped")
    return 0


class Node:
    """The parts of one node. ``start`` once, ``stop`` once; everything else from any thread."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._undo = contextlib.ExitStack()
        self._stopping = False
        self._metrics = Metrics(__version__)
        self._supervisor = Supervisor(self._serve_options(), self._source_status, self._purge)
        self._log: Log
        self._log_reader: LogReader
        self._admin: AdminServer
        self._keeper: RetentionKeeper
        self._purges: ClusterPurges
        self._cluster: Cluster
        self._fence: Fence
        self._leader: LeaderWork

    def start(self) -> None:
        """Start everything, or nothing: ``FatalError``."""
        try:
            self._start()
        except (OSError, StoreError, ConsensusError, AdminError) as error:
            raise FatalError(str(error)) from error

    def _start(self) -> None:
        config = self._config
        directory = config.node.data_dir / "log"
        try:
            self._log = Log.open(directory, segment_bytes=config.storage.segment_bytes)
        except OSError as error:
            raise FatalError(f"node.data_dir {config.node.data_dir} cannot be used: {error}") from error
        # Registered in the opposite order of the stop, which is not quite that of the start.
        self._undo.callback(self._log.close)
        self._log_reader = LogReader(directory)
        self._undo.callback(self._log_reader.close)
        self._cluster = cluster = self._join()
        self._undo.callback(cluster.close)
        self._fence = Fence(cluster, self._log, config.raft.isolation)
        self._undo.callback(self._fence.stop)
        self._leader = LeaderWork(config, self._log, cluster)
        floors = ReplicaFloors(cluster, self._replica_floors)
        self._keeper = RetentionKeeper(self._log, cluster, policy_of(config.storage), replica_floors=floors)
        self._purges = ClusterPurges(cluster, self._keeper)
        asking.answer(cluster, _SOURCE_STATUS, lambda _: snapshot.told_to_followers(self._source_status_here()))
        operations = Operations(config, self._log, cluster, self._leader, self._keeper)
        self._admin = AdminServer(config.admin, config.node.name, self, operations, self._metrics)
        self._undo.callback(self._admin.stop)
        self._undo.callback(self._supervisor.stop)
        self._undo.callback(self._hand_over)
        self._undo.callback(self._keeper.stop)
        self._undo.callback(self._leader.stop, _READER_SECONDS)
        cluster.add_commit_listener(self._committed)
        self._follow_leadership()
        self._serve()
        self._metrics.attach(self)
        self._admin.start()
        self._fence.start()
        self._leader.start()
        self._keeper.start()

    def _join(self) -> Cluster:
        """Take part in the cluster, from here on."""
        config = self._config
        options = ClusterOptions.of(
            config.raft,
            info={snapshot.INFO_ADMIN: snapshot.admin_url(config, config.admin.listen)},
            min_free_bytes=config.storage.min_free_bytes,
        )
        try:
            return Cluster(
                self._log,
                config.node.name,
                options,
                on_sync=self._metrics.observe_fsync,
                on_commit=self._metrics.observe_commit,
            )
        except PeerTlsError as error:
            raise FatalError(f"raft.tls: {error}") from error

    def _hand_over(self) -> None:
        """Somebody else shall lead before the replicas are let go: to wait for an election would take longer."""
        cluster = self._cluster
        if cluster.failure is not None or len([one for one in cluster.members() if one.role != "learner"]) < 2:
            return
        if cluster.is_leader:
            try:
                name = cluster.transfer(None, time.monotonic() + _HAND_OVER_SECONDS)
                logger.info("handed the leadership over to %s", name)
            except ConsensusError as error:
                logger.warning("the leadership could not be handed over: %s", error)
        cluster.suspend("the node is being stopped")

    def _follow_leadership(self) -> None:
        """In a Kubernetes pod: the leader Service is to name this pod while it leads."""
        service = LeaderService.in_pod()
        if service is not None:
            self._undo.callback(service.close)
            self._cluster.add_leadership_listener(service.leadership_changed)

    def _serve(self) -> None:
        listen = self._config.serve.listen
        try:
            self._supervisor.start()
        except UsersError as error:
            raise FatalError(f"serve.users_file: {error}") from error
        except TlsError as error:
            raise FatalError(f"serve.tls: {error}") from error
        except OSError as error:
            raise FatalError(f"serve.listen {listen}: {error}") from error

    def _committed(self, index: int) -> None:
        """In Raft's thread: those who wait for a commit look. First the replicas, they are many."""
        self._supervisor.wake()
        self._leader.committed(index)

    def _serve_options(self) -> ServeOptions:
        config = self._config
        serve = config.serve
        return ServeOptions(
            log_dir=config.node.data_dir / "log",
            keys_dir=config.node.data_dir / "keys",
            users_file=serve.users_file,
            host=serve.listen.host,
            port=serve.listen.port,
            workers=serve.worker_count(os.cpu_count() or 1),
            server_id=serve.server_id,
            version=serve.advertised_version,
            tls_certificate=serve.tls.cert,
            tls_key=serve.tls.key,
            tls_ca=serve.tls.ca,
            tls_require=serve.tls.require,
            compression_algorithms=serve.compression_algorithms,
            max_connections=serve.max_connections,
            isolation=config.raft.isolation,
            log_level=config.log.level,
            log_format=config.log.format,
        )

    def wait(self, ending: Ending, crashes: Sequence[str] = ()) -> None:
        """Wait until the process is told to end. ``FatalError`` when the node cannot go on, or a thread has crashed."""
        while not ending.wait(_WATCH_SECONDS):
            if crashes:
                raise FatalError(f"the thread {crashes[0]} ended by an error that should not be possible (see above)")
            if self._cluster.failure is not None:
                raise FatalError(f"nothing can be stored any more: {self._cluster.failure}")

    def stop(self) -> None:
        """Stop what was started, the last first."""
        self._stopping = True
        self._undo.close()

    # What the admin API asks: see admin.views.Node

    def readiness(self) -> Readiness:
        """Whether replicas should be sent here."""
        reasons = list(self._not_ready())
        return Readiness(not reasons, reasons)

    def _not_ready(self) -> Iterator[str]:
        if self._stopping:
            yield "the node is stopping"
        if not self._supervisor.workers_ready():
            yield "no serve process is up"
        if self._cluster.failure is not None:
            yield f"nothing can be stored any more: {self._cluster.failure}"
        fenced = self._fence.reason()
        if fenced is not None:
            yield fenced
        if self._log.state.file is None:
            now = self._leader.status()
            yield f"nothing has come from the source {now.endpoint} yet" + (f": {now.error}" if now.error else "")

    def status(self) -> Status:
        """All of ``GET /v1/status``."""
        return snapshot.status(
            self._config,
            self._log,
            self._cluster,
            snapshot.members(self._cluster),
            self._leader.status(),
            self.replicas(),
            self.readiness(),
            quorum=self._cluster.in_touch,
        )

    def replicas(self) -> list[Replica]:
        """Those that are connected to this node."""
        return snapshot.replicas(self._supervisor.replicas(), self._log_reader, self._config.node.name)

    def counters(self) -> Counters:
        """The totals behind the metrics."""
        return snapshot.counters(self._leader.status(), self._supervisor, self._cluster.leader_changes)

    def binlogs(self) -> Sequence[Binlog]:
        """The files that are served."""
        return snapshot.binlogs(self._log_reader)

    def binlog(self, name: str, position: int) -> Iterator[bytes]:
        """A binlog file as its source wrote it."""
        return download.binlog(self._log_reader, name, position)

    @property
    def log_directory(self) -> Path:
        """Where the log is."""
        return self._config.node.data_dir / "log"

    def kill_replica(self, replica_id: str) -> bool:
        """End the connection of a replica."""
        found = [replica.connection for replica in self.replicas() if replica.id == replica_id]
        return sum(self._supervisor.kill(connection) for connection in found) > 0

    def mend(self, segment: str) -> Mended:
        """Put a copy from another member in the place of a damaged segment of the log."""
        try:
            return Mended(segment, self._cluster.mend(int(Path(segment).stem)))
        except CopyError as error:
            raise Refused(HTTPStatus.CONFLICT, str(error)) from error
        except StoreError as error:
            raise Refused(HTTPStatus.NOT_FOUND, str(error)) from error

    # What replicas ask

    def _replica_floors(self) -> list[int]:
        """The oldest entries that the replicas of this node still need."""
        return [report.index for report in self._supervisor.replicas()]

    def _purge(self, to_file: str | None, before: float | None) -> PurgeOutcome | None:
        """PURGE BINARY LOGS, wherever the leader is."""
        done = self._purges.purge(to_file, before)
        return None if done is None else PurgeOutcome(done.oldest_file, done.files, done.held, done.readers)

    def _source_status(self) -> dict[str, str | int | None]:
        """SHOW REPLICA STATUS. How it stands with the source only the leader knows."""
        here = self._source_status_here()
        if self._cluster.is_leader:
            return here
        try:
            told = asking.ask_leader(self._cluster, _SOURCE_STATUS, None, _SOURCE_STATUS_SECONDS)
        except asking.UnansweredError as error:
            return snapshot.source_unknown(here, str(error))
        return snapshot.told_by_leader(here, told)

    def _source_status_here(self) -> dict[str, str | int | None]:
        return snapshot.replica_status(self._config, self._log, self._leader.status())


@contextlib.contextmanager
def _crashes() -> Iterator[Sequence[str]]:
    """While open, a thread that ends by an exception is logged, and its name is in the list that this gives."""
    names: list[str] = []

    def crashed(what: threading.ExceptHookArgs) -> None:
        name = what.thread.name if what.thread is not None else "?"
        error = what.exc_value or what.exc_type()
        logger.critical("the thread %s crashed", name, exc_info=(what.exc_type, error, what.exc_traceback))
        names.append(name)

    before, threading.excepthook = threading.excepthook, crashed
    try:
        yield names
    finally:
        threading.excepthook = before
