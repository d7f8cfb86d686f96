"""The serve processes as the core sees them: starts them, hands them connections, restarts the ones that die, stops
them.

The core accepts, and gives each connection to the worker that has the fewest dumps: a worker is one interpreter, and
two replicas in one of two workers would share it. That also makes connection ids, the limit on connections and the end
of accepting a matter of one place. A worker that dies takes only its own connections with it; it is started again,
after a wait that grows.

One thread does all of this. `wake` may be called from any thread for every commit: it is one write to an eventfd for
each worker and never blocks.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from kingbus_node.raft.api import ConsensusError
from kingbus_node.serve.connections import (
    ConnectionTable,
    ReplicaReport,
    process_to_json,
    replica_to_json,
)
from kingbus_node.serve.control import (
    ControlClosedError,
    ControlSocket,
    Message,
    number_of,
    owner_in,
    text_of,
)
from kingbus_node.serve.keys import RsaPair, ensure_keys
from kingbus_node.serve.session import too_many_connections
from kingbus_node.serve.settings import ServeOptions, WorkerSettings
from kingbus_node.serve.users import load_users
from kingbus_node.serve.view import ConnectedReplica, KillOutcome, PurgeOutcome
from kingbus_node.serve.worker import tls_context
from kingbus_node.store.errors import StoreError
from kingbus_node.store.purging import UnknownLogError
from kingbus_node.util.backoff import Backoff
from kingbus_node.wire.packet import frame

_log = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_ACCEPTS_AT_ONCE: Final = 64
_ACCEPT_PAUSE: Final = 1.0
_LACKING: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_MAX_QUEUED: Final = 10_000
_FIRST_RESTART: Final = 0.1
_SLOWEST_RESTART: Final = 10.0
_HEALTHY_SECONDS: Final = 30.0


@dataclass(slots=True)
class _Worker:
    """One slot: its process lives and dies, the slot stays. `wake_fd` is the slot's, so that `wake` needs no lock."""

    slot: int
    wake_fd: int
    backoff: Backoff
    process: subprocess.Popen[bytes] | None = None
    control: ControlSocket | None = None
    ready: bool = False
    started: float = 0.0
    restart_at: float = 0.0


class Supervisor:
    """The source side of a node. `start` it after the log was opened, `stop` it before the log is closed."""

    def __init__(
        self,
        options: ServeOptions,
        source_status: Callable[[], Mapping[str, str | int | None]] | None = None,
        purge: Callable[[str | None, float | None], PurgeOutcome | None] | None = None,
    ) -> None:
        """source_status: what SHOW REPLICA STATUS tells, see `status.replica_status`. purge:
        carries out PURGE BINARY LOGS to a file or before a time (Unix seconds), and may take its time; UnknownLogError,
        other StoreErrors and ConsensusErrors are told to the client.
        """
        self._options = options
        self._purge = purge
        self._source_status = source_status
        self._listener: socket.socket | None = None
        self._port = options.port
        self._started = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._table = ConnectionTable()
        self._lock = threading.Lock()
        self._poke = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._orders: deque[Callable[[], object]] = deque()
        self._not_serving: str | None = None
        self._accepting = False
        self._accept_again = 0.0
        self._stopping: float | None = None
        self._killed = False
        self._thread = threading.Thread(target=self._run, name="serve-supervisor", daemon=True)
        self._wake_fds: tuple[int, ...] = ()
        self._wake_lock = threading.Lock()

    # -- for the node, from any thread

    def start(self) -> None:
        """Check the settings, listen, start the workers.

        Raises UsersError, TlsError or OSError when the settings cannot be used; nothing is left behind then.
        """
        options = self._options
        ensure_keys(options.keys_dir, certificate=options.tls_certificate is None)
        load_users(options.users_file)
        RsaPair(options.keys_dir)
        tls_context(options)
        self._listener = _listen(options.host, options.port)
        self._port = int(self._listener.getsockname()[1])
        for slot in range(options.workers):
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._workers.append(_Worker(slot, fd, Backoff(_FIRST_RESTART, _SLOWEST_RESTART)))
        self._wake_fds = tuple(worker.wake_fd for worker in self._workers)
        self._selector.register(self._poke, selectors.EVENT_READ, None)
        self._thread.start()
        _log.info("serving replicas on %s:%d", *self.address)

    @property
    def address(self) -> tuple[str, int]:
        """Where replicas connect: the host as configured, the real port."""
        return self._options.host, self._port

    def wake(self) -> None:
        """The log has grown: let the dumps look. Cheap, never blocks."""
        with self._wake_lock:  # against stop, after which the descriptors may be somebody else's
            for fd in self._wake_fds:
                with contextlib.suppress(BlockingIOError):  # the counter is full of wake-ups already
                    os.eventfd_write(fd, 1)

    def replicas(self) -> list[ReplicaReport]:
        """The dumps of all workers, about a second old."""
        with self._lock:
            return self._table.reports()

    def connections(self) -> int:
        """How many connections there are."""
        with self._lock:
            return len(self._table)

    def refusals(self) -> dict[int, int]:
        """How many dumps ended with an error, by error number."""
        with self._lock:
            return dict(self._table.refusals)

    def sent_bytes(self) -> int:
        """Bytes that all dumps have sent, those that are over included."""
        with self._lock:
            return self._table.sent_bytes()

    @property
    def alive(self) -> bool:
        """Between `start` and `stop`; False otherwise, and when the supervisor itself has failed (the log says why)."""
        return self._thread.is_alive()

    def workers_ready(self) -> int:
        """How many workers are up."""
        with self._lock:
            return sum(worker.ready for worker in self._workers)

    def kill(self, connection_id: int) -> bool:
        """End a connection; False when there is none of this id."""
        with self._lock:
            found = self._table.worker_of(connection_id) is not None
        if found:
            self._order(lambda: self._kill_connection(connection_id, None))
        return found

    def set_serving(self, reason: str | None) -> None:
        """None: serve. A reason: end all dumps, and refuse connections with ER_SERVER_SHUTDOWN, until called again."""

        def apply() -> None:
            self._not_serving = reason
            for worker in self._workers:
                if worker.ready:
                    self._send(worker, {"op": "serving", "reason": reason})

        self._order(apply)

    def stop(self, seconds: float = 10.0) -> None:
        """Accept no more, let dumps end (EOF, as a source that shuts down sends), end the workers. Blocks until all are
        gone.

        After `seconds` what still runs is killed. May be called twice, and without `start`.
        """
        if not self._thread.is_alive():
            return

        def begin() -> None:
            if self._stopping is None:
                self._stopping = time.monotonic() + seconds
                self._pause()
                for worker in self._workers:
                    worker.restart_at = float("inf")
                    if worker.control is not None:
                        self._send(worker, {"op": "stop"})

        self._order(begin)
        self._thread.join()
        self._selector.close()
        if self._listener is not None:
            self._listener.close()
        with self._wake_lock:
            fds, self._wake_fds = self._wake_fds, ()
        for fd in (*fds, self._poke):
            os.close(fd)

    def _order(self, order: Callable[[], object]) -> None:
        """Have the supervisor's thread do something."""
        self._orders.append(order)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._poke, 1)

    # -- the thread

    def _run(self) -> None:
        try:
            self._supervise()
        except Exception:
            _log.critical("the supervisor of the serve processes has failed", exc_info=True)
            for worker in self._workers:
                if worker.control is not None:
                    worker.control.close()  # which ends the process
            raise

    def _supervise(self) -> None:
        while True:
            self._start_due()
            self._resume()
            for key, events in self._selector.select(self._timeout()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.data is None:
                    self._obey()
                else:
                    self._attend(key.data, events)
            if self._stopping is not None and self._stopped(self._stopping):
                return

    def _timeout(self) -> float | None:
        now = time.monotonic()
        times = [worker.restart_at for worker in self._workers if worker.process is None]
        if self._stopping is not None:
            times.append(self._stopping if not self._killed else now + 0.05)
        elif self._accept_again > now:
            times.append(self._accept_again)
        first = min(times, default=float("inf"))
        return None if first == float("inf") else max(0.0, first - now)

    def _obey(self) -> None:
        os.eventfd_read(self._poke)
        while self._orders:
            self._orders.popleft()()

    def _stopped(self, deadline: float) -> bool:
        """Whether all workers have ended; when it is too late, they are killed."""
        running = [worker.process for worker in self._workers if worker.process is not None]
        if running and not self._killed and time.monotonic() >= deadline:
            self._killed = True
            for process in running:
                _log.warning("serve process %d does not end: killed", process.pid)
                process.kill()
        return not running

    # -- accepting

    def _resume(self) -> None:
        """Accept as long as there is somebody to serve, and what it takes; until then clients wait in the backlog."""
        wanted = self._stopping is None and any(worker.ready for worker in self._workers)
        wanted = wanted and time.monotonic() >= self._accept_again
        if wanted and not self._accepting and self._listener is not None:
            self._selector.register(self._listener, selectors.EVENT_READ, None)
            self._accepting = True
        elif not wanted:
            self._pause()

    def _pause(self) -> None:
        if self._accepting and self._listener is not None:
            self._selector.unregister(self._listener)
            self._accepting = False
        if self._stopping is not None and self._listener is not None:
            self._listener.close()

    def _accept(self) -> None:
        listener = self._listener
        for _ in range(_ACCEPTS_AT_ONCE):
            ready = [worker for worker in self._workers if worker.ready]
            if listener is None or not ready or not self._accepting:
                return
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as problem:
                # Out of descriptors, or the client is gone already; the next one is not affected.
                _log.warning("a connection could not be accepted: %s", problem)
                if problem.errno in _LACKING:  # it waits on, and to look again at once would be to do nothing else
                    self._accept_again = time.monotonic() + _ACCEPT_PAUSE
                    self._pause()
                return
            host, port = str(peer[0]), int(peer[1])
            if len(self._table) >= self._options.max_connections:
                self._refuse(sock)
                continue
            sock.setblocking(True)
            with self._lock:
                slot = self._table.least_loaded(worker.slot for worker in ready)
                number = self._table.open(slot, host, port)
            self._send(self._workers[slot], {"op": "accept", "id": number, "host": host, "port": port}, sock)

    def _refuse(self, sock: socket.socket) -> None:
        pieces, _ = frame(too_many_connections(), 0)
        with contextlib.suppress(OSError):  # the client may be gone: nothing is lost then
            sock.setblocking(False)
            sock.send(b"".join(pieces))
        sock.close()

    # -- workers

    def _start_due(self) -> None:
        for worker in self._workers:
            if worker.process is None and worker.restart_at <= time.monotonic() and self._stopping is None:
                self._spawn(worker)

    def _spawn(self, worker: _Worker) -> None:
        with contextlib.ExitStack() as undo:
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                undo.callback(ours.close)
                with theirs:
                    settings = WorkerSettings(
                        self._options, theirs.fileno(), worker.wake_fd, self.address[1], self._started
                    )
                    process = subprocess.Popen(
                        [sys.executable, "-m", "kingbus_node.serve.worker"],
                        stdin=subprocess.PIPE,
                        pass_fds=(theirs.fileno(), worker.wake_fd),
                    )
            except OSError as problem:
                _log.error("a serve process could not be started: %s", problem)
                worker.restart_at = time.monotonic() + worker.backoff.next()
                return
            undo.pop_all()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has died already, which its control socket tells
                process.stdin.write(settings.encode())
                process.stdin.close()
        ours.setblocking(False)
        worker.process, worker.control, worker.started = process, ControlSocket(ours), time.monotonic()
        self._selector.register(worker.control, selectors.EVENT_READ, worker)
        _log.debug("serve process %d started in slot %d", process.pid, worker.slot)

    def _attend(self, worker: _Worker, events: int) -> None:
        control = worker.control
        if control is None:
            return
        try:
            if events & selectors.EVENT_WRITE:
                control.flush()
                self._watch(worker)
            if events & selectors.EVENT_READ:
                while (received := control.receive()) is not None:
                    self._take(worker, received[0])
        except ControlClosedError:
            self._reap(worker)

    def _take(self, worker: _Worker, message: Message) -> None:
        match text_of(message, "op"):
            case "ready":
                worker.ready = True
                self._send(worker, {"op": "serving", "reason": self._not_serving})
                if self._stopping is not None:
                    self._send(worker, {"op": "stop"})
            case "ask":
                what = text_of(message, "what")
                if what in ("purge", "source"):  # which wait: for a commit, or for another node
                    arguments = (worker, what, message)
                    try:
                        threading.Thread(target=self._answer_later, args=arguments, name=what, daemon=True).start()
                    except RuntimeError as problem:  # the limit of threads; the question is not worth the node
                        _log.warning("a question of a client (%s) cannot be answered: %s", what, problem)
                        self._send(worker, {"op": "answer", "n": number_of(message, "n"), "problem": str(problem)})
                    return
                self._send(worker, {"op": "answer", "n": number_of(message, "n"), **self._answer(what, message)})
            case "dump":
                uuid, server_id = text_of(message, "uuid"), number_of(message, "server_id")
                number = number_of(message, "id")
                with self._lock:
                    self._table.note(worker.slot, message)
                    others = self._table.same_replica(uuid, server_id, number)
                for slot in others - {worker.slot}:  # its own the worker has ended itself
                    order: Message = {"op": "evict", "uuid": uuid, "server_id": server_id, "besides": number}
                    self._send(self._workers[slot], order)
            case _:
                with self._lock:
                    self._table.note(worker.slot, message)

    def _answer_later(self, worker: _Worker, what: str, message: Message) -> None:
        answer = self._answer(what, message)
        with self._wake_lock:  # against stop, as in `wake`
            if self._wake_fds:
                self._order(lambda: self._send(worker, {"op": "answer", "n": number_of(message, "n"), **answer}))

    def _purge_for(self, message: Message) -> Message:
        to, before = message.get("to"), message.get("before")
        if self._purge is None:
            return {"problem": "binary logs are not purged here"}
        try:
            done = self._purge(
                to if isinstance(to, str) else None, float(before) if isinstance(before, int | float) else None
            )
        except UnknownLogError:
            return {"unknown": True}
        except (StoreError, ConsensusError, OSError) as problem:
            _log.warning("binary logs could not be purged: %s", problem)
            return {"problem": str(problem)}
        return {} if done is None else {"done": [done.oldest, done.purged, done.held, done.readers]}

    def _source_for(self) -> Message:
        try:
            return {"status": dict(self._source_status()) if self._source_status is not None else {}}
        except (StoreError, ConsensusError, OSError) as problem:
            _log.warning("how it stands with the source could not be told: %s", problem)
            return {"problem": str(problem)}

    def _answer(self, what: str, message: Message) -> Message:
        match what:
            case "replicas":
                registered = [report for report in self.replicas() if report.registered]
                return {
                    "rows": [
                        replica_to_json(
                            ConnectedReplica(
                                one.connection_id, one.server_id, one.report_host, one.report_port, one.uuid
                            )
                        )
                        for one in registered
                    ]
                }
            case "processes":
                with self._lock:
                    return {"rows": [process_to_json(process) for process in self._table.processes()]}
            case "kill":
                return {"end": self._kill_connection(number_of(message, "id"), owner_in(message))}
            case "purge":
                return self._purge_for(message)
            case "source":
                return self._source_for()
            case _:
                return {}

    def _kill_connection(self, number: int, owner: str | None) -> KillOutcome:
        with self._lock:
            slot = self._table.worker_of(number)
            user = self._table.user_of(number)
        if slot is None:
            return KillOutcome.UNKNOWN
        if owner not in (None, user):
            return KillOutcome.DENIED
        self._send(self._workers[slot], {"op": "kill", "id": number, "owner": owner})
        return KillOutcome.ENDED

    def _send(self, worker: _Worker, message: Message, passed: socket.socket | None = None) -> None:
        control = worker.control
        if control is None:
            if passed is not None:
                passed.close()
            return
        try:
            control.send(message, passed)
        except ControlClosedError:
            self._reap(worker)
            return
        if control.queued > _MAX_QUEUED and worker.process is not None:
            _log.error("serve process %d does not listen: killed", worker.process.pid)
            worker.process.kill()
        self._watch(worker)

    def _watch(self, worker: _Worker) -> None:
        """Wait for room only while something is queued."""
        if worker.control is not None:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.control.queued else 0)
            self._selector.modify(worker.control, events, worker)

    def _reap(self, worker: _Worker) -> None:
        """A worker has ended, or is about to: its end of the control socket is closed."""
        control, process = worker.control, worker.process
        if control is None or process is None:
            return
        self._selector.unregister(control)
        control.close()
        try:
            code = process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        worker.process = worker.control = None
        worker.ready = False
        with self._lock:
            self._table.worker_gone(worker.slot)
        if self._stopping is not None:
            worker.restart_at = float("inf")
            return
        if time.monotonic() - worker.started >= _HEALTHY_SECONDS:
            worker.backoff.reset()
        wait = worker.backoff.next()
        worker.restart_at = time.monotonic() + wait
        _log.error("serve process %d ended (%s); it is started again in %.1f s", process.pid, _ending(code), wait)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
