"""A serve process: connections, each in a thread of its own, handed over by the core process.

Started as ``python -m kingbus_node.serve.worker`` with `WorkerSettings` as JSON on standard input. The main thread
listens to the core: connections come as descriptors over the control socket, and an eventfd says that the log has
grown. When the core goes away, so does the worker, at once.

A node that has lost the quorum may be late without knowing it. So a worker serves on a lease, which the core prolongs
in the watermark file as long as the node is level with a quorum. When it has run out, streams end with
ER_SERVER_SHUTDOWN, for a replica a reason to connect again (to another node, if its address leads there), and logins
are refused likewise until there is contact again. As nothing has to be said for that, it also holds when the core hangs
or is stopped.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from kingbus_node import logs
from kingbus_node.serve.channel import Channel
from kingbus_node.serve.connections import process_from_json, replica_from_json
from kingbus_node.serve.control import ControlClosedError, ControlSocket, Json, Message, number_of, owner_in, text_of
from kingbus_node.serve.dump import DumpSettings, run_dump
from kingbus_node.serve.facts import SessionFacts
from kingbus_node.serve.keys import SERVER_CERTIFICATE, SERVER_KEY, RsaPair
from kingbus_node.serve.logview import LogView
from kingbus_node.serve.registry import Dump, Registry, StopReason
from kingbus_node.serve.session import Server, Session, Timeouts
from kingbus_node.serve.settings import ServeOptions, WorkerSettings
from kingbus_node.serve.tls import TlsContext
from kingbus_node.serve.users import Users
from kingbus_node.serve.view import ConnectedReplica, KillOutcome, Process, PurgeOutcome
from kingbus_node.store.reader import LogReader
from kingbus_node.util.limits import allow_all_descriptors
from kingbus_node.wire.commands import DumpRequest
from kingbus_node.wire.errors import ErrorCode, MySQLError, error, shutting_down

_log = logging.getLogger(__name__)

_REPORT_SECONDS: Final = 1.0
_ASK_SECONDS: Final = 10.0
_PURGE_SECONDS: Final = 40.0
_DRAIN_SECONDS: Final = 8.0
_DRAIN_STEP_MS: Final = 20
_LOOK_MS: Final = 1000  # how late a signal to this process alone is noticed
_MAX_GTID_REPORT: Final = 32 * 1024
_STACK_BYTES: Final = 1 << 20

_Places = dict[int, tuple[str, int, int, int]]  # by connection: file, position, index, acknowledgements


def tls_context(options: ServeOptions) -> TlsContext:
    """The configured certificate's context, or the made one's. Raises `TlsError`."""
    if options.tls_certificate is not None and options.tls_key is not None:
        return TlsContext(options.tls_certificate, options.tls_key, options.tls_ca)
    return TlsContext(options.keys_dir / SERVER_CERTIFICATE, options.keys_dir / SERVER_KEY, options.tls_ca)


def _dump_settings(options: ServeOptions) -> DumpSettings:
    """A node that is served from is never behind for longer than the lease: what has not come by then does not come."""
    settings = DumpSettings(server_id=options.server_id)
    return settings if options.isolation is None else replace(settings, patience=options.isolation + settings.patience)


class Worker:
    """The process: `run` is its main loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        options = settings.options
        self._control = ControlSocket(socket.socket(fileno=settings.control_fd))
        self._wake_fd = settings.wake_fd
        self._send_lock = threading.Lock()
        self._reader = LogReader(options.log_dir)
        self._view = LogView(
            self._reader,
            server_id=options.server_id,
            port=settings.port,
            version=options.version,
            tls_required=options.tls_require,
            compression_algorithms=options.compression_algorithms,
            max_connections=options.max_connections,
            started=settings.started,
        )
        self._dump_settings = _dump_settings(options)
        self._isolation = options.isolation
        self._look_ms = _LOOK_MS if options.isolation is None else max(10, min(_LOOK_MS, int(options.isolation * 200)))
        self._isolated = False
        self._tls = tls_context(options)
        self._made_certificate = options.tls_certificate is None
        self._registry = Registry(on_add=self._dump_begins)
        self._sessions: dict[int, Session] = {}
        self._sessions_lock = threading.Lock()
        self._unserved: deque[int] = deque()  # connections that ended before they began; told with the next report
        self._not_serving: str | None = "starting"
        self._stopping: float | None = None
        self._asked: dict[int, tuple[threading.Event, list[Message]]] = {}
        self._ask_numbers = itertools.count(1)
        self._server = Server(
            view=self._view,
            users=Users(options.users_file),
            rsa=RsaPair(options.keys_dir),
            tls=self._tls.get,
            require_tls=options.tls_require,
            neighbours=_Neighbours(self),
            unready=self._unready,
            dump=self._dump,
            timeouts=Timeouts(options.connect_timeout, options.idle_timeout, options.write_timeout),
            on_login=self._logged_in,
        )

    # -- the main loop

    def run(self) -> int:
        """Listen to the core until it says stop (returns 0) or goes away (1)."""
        for number in (signal.SIGINT, signal.SIGTERM):  # the core gets them too, and tells us in turn
            signal.signal(number, signal.SIG_IGN)
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(self._wake_fd, select.POLLIN)
        threading.Thread(target=self._report_always, name="reports", daemon=True).start()
        try:
            self._tell({"op": "ready"})
            while True:
                for fd, _ in poll.poll(self._look_ms if self._stopping is None else _DRAIN_STEP_MS):
                    if fd == self._wake_fd:
                        os.eventfd_read(fd)
                        self._registry.wake_all()
                    else:
                        self._listen()
                self._watch_contact()
                if self._stopping is not None and self._drained(self._stopping):
                    return 0
        except ControlClosedError as gone:
            _log.warning("the core process is gone, so this one ends too: %s", gone)
            return 1

    def _listen(self) -> None:
        received = self._control.receive()
        if received is None:
            return
        message, passed = received
        match text_of(message, "op"):
            case "accept":
                self._accept(number_of(message, "id"), text_of(message, "host"), number_of(message, "port"), passed)
            case "evict":
                besides = number_of(message, "besides")
                uuid, server_id = text_of(message, "uuid"), number_of(message, "server_id")
                for dump in self._registry.dumps():
                    if dump.id != besides and dump.is_same_replica(uuid or None, server_id):
                        dump.request_stop(StopReason.DUPLICATE)
            case "kill":
                self.kill_own(number_of(message, "id"), owner_in(message))
            case "serving":
                reason = message.get("reason")
                self._not_serving = reason if isinstance(reason, str) else None
                if self._not_serving is not None:
                    self._registry.stop_all(StopReason.NOT_SERVING)
            case "answer":
                waiting = self._asked.get(number_of(message, "n"))
                if waiting is not None:
                    waiting[1].append(message)
                    waiting[0].set()
            case "stop":
                self._stop()
            case other:
                raise AssertionError(f"the core says {other!r}, which a worker does not know")

    def _stop(self) -> None:
        """Let the streams end where they are, cut everything else."""
        if self._stopping is None:
            self._stopping = time.monotonic() + _DRAIN_SECONDS
            self._not_serving = "stopping"
            self._registry.stop_all(StopReason.SHUTDOWN, closing=True)

    def _drained(self, deadline: float) -> bool:
        with self._sessions_lock:
            sessions = list(self._sessions.values())
        late = time.monotonic() >= deadline
        for session in sessions:
            if late or not session.facts.dumping:
                session.abort()
        return not sessions or late

    # -- connections

    def _accept(self, number: int, host: str, port: int, sock: socket.socket | None) -> None:
        """Serve a connection in a thread of its own. What it takes may be lacking: then this one ends, no other.

        `sock`: None when there was no descriptor left for it.
        """
        try:
            if sock is None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            session = Session(sock, (host, port), number, self._server)
            with self._sessions_lock:
                self._sessions[number] = session
            threading.Thread(target=self._serve, args=(session,), name=f"connection-{number}", daemon=True).start()
        except (OSError, RuntimeError, MemoryError) as problem:  # RuntimeError: no thread can be started
            _log.warning("connection %d from %s:%d cannot be served: %s", number, host, port, problem)
            with self._sessions_lock:
                self._sessions.pop(number, None)
            if sock is not None:
                sock.close()
            self._unserved.append(number)  # telling may have to wait for the core, which this thread must not

    def _serve(self, session: Session) -> None:
        try:
            session.run()
        finally:
            with self._sessions_lock:
                self._sessions.pop(session.facts.connection_id, None)
            self._try_tell({"op": "closed", "id": session.facts.connection_id})

    def _unready(self) -> str | None:
        return self._not_serving or self._out_of_contact() or self._view.missing()

    def _out_of_contact(self) -> str | None:
        """Why nothing may be served although the core has not said so."""
        if self._isolation is None:
            return None
        contact = self._reader.contact
        if contact and time.monotonic_ns() - contact <= self._isolation * 1e9:
            return None
        return "this node is out of touch with its cluster"

    def _watch_contact(self) -> None:
        """End the streams that there are as soon as the lease has run out; again and again, for those that begin."""
        reason = self._out_of_contact()
        if (reason is not None) != self._isolated:
            self._isolated = reason is not None
            _log.debug("serving ends: %s", reason) if reason else _log.debug("serving again")
        if reason is not None:
            self._registry.stop_all(StopReason.NOT_SERVING)

    def _logged_in(self, facts: SessionFacts, database: str | None) -> None:
        self._try_tell({"op": "login", "id": facts.connection_id, "user": facts.user, "database": database})

    def kill_own(self, number: int, owner: str | None) -> KillOutcome:
        """End a connection of this process; see `view.Neighbours.kill`."""
        with self._sessions_lock:
            session = self._sessions.get(number)
        if session is None:
            return KillOutcome.UNKNOWN
        if owner not in (None, session.facts.user):
            return KillOutcome.DENIED
        for dump in self._registry.dumps():
            if dump.id == number:
                dump.request_stop(StopReason.KILLED)
        session.abort()
        return KillOutcome.ENDED

    def own_processes(self) -> dict[int, Process]:
        """The connections of this process."""
        with self._sessions_lock:
            sessions = list(self._sessions.values())
        return {session.facts.connection_id: session.process() for session in sessions}

    # -- dumps

    def _dump(self, request: DumpRequest, facts: SessionFacts, channel: Channel) -> None:
        code = 0
        try:
            if self._not_serving is not None or self._out_of_contact() is not None:
                raise shutting_down()
            run_dump(request, facts, channel, self._reader, self._dump_settings, self._registry)
        except MySQLError as refusal:
            code = refusal.code
            raise
        finally:
            self._try_tell({"op": "undump", "id": facts.connection_id, "code": code, "sent": channel.sent_bytes})

    def _dump_begins(self, dump: Dump) -> None:
        facts, registration = dump.facts, dump.facts.registration
        self._try_tell(
            {
                "op": "dump",
                "id": dump.id,
                "server_id": dump.request.server_id,
                "uuid": facts.replica_uuid or "",
                "version": facts.client_version,
                "registered": registration is not None,
                "report_host": registration.host if registration else "",
                "report_port": registration.port if registration else 0,
                "started": dump.started,
            }
        )

    def _report_always(self) -> None:
        """In a thread of its own: what a replica has got is read from the log, which takes time; wake-ups must not."""
        known: _Places = {}
        while True:
            time.sleep(_REPORT_SECONDS)
            known = self._report(known)

    def _report(self, known: _Places) -> _Places:
        """Tell the core how far the streams are that have moved since they were where `known` says; returns where they
        are.
        """
        while self._unserved:
            self._try_tell({"op": "closed", "id": self._unserved.popleft()})
        now: _Places = {}
        failure: Exception | None = None
        for dump in self._registry.dumps():
            where = now[dump.id] = (dump.file, dump.position, dump.index, dump.acknowledged.count)
            if known.get(dump.id) == where:
                continue
            gtid_sent = ""
            try:
                gtid_sent = dump.gtid_sent()[:_MAX_GTID_REPORT]
            except Exception as problem:  # noqa: BLE001 - where it is must be told all the same, and where others are
                failure = problem
                del now[dump.id]  # it is asked again
            self._try_tell(
                {
                    "op": "progress",
                    "id": dump.id,
                    "file": dump.file,
                    "position": dump.position,
                    "index": dump.index,
                    "timestamp": dump.timestamp,
                    "gtid_sent": gtid_sent,
                    "sent": dump.channel.sent_bytes,
                    "semi_sync": dump.semi_sync,
                    "acks": dump.acknowledged.count,
                }
            )
        if failure is not None:
            _log.warning("which GTIDs a replica has cannot be told now", exc_info=failure)
        return now

    # -- the core

    def _tell(self, message: Message) -> None:
        with self._send_lock:
            self._control.send(message)

    def _try_tell(self, message: Message) -> None:
        """From a connection's thread: that the core is gone is for the main thread to notice."""
        try:
            self._tell(message)
        except ControlClosedError:
            _log.debug("the core process is gone: %s not told", message.get("op"))

    def ask(self, what: str, seconds: float = _ASK_SECONDS, *, late: str = "try again", **more: Json) -> Message:
        """Ask the core something.

        :param late: for people: what there is to know when it does not answer in time
        :raises MySQLError: it does not; that is no answer, least of all that there is nothing
        """
        number = next(self._ask_numbers)
        event, answers = threading.Event(), list[Message]()
        self._asked[number] = (event, answers)
        try:
            self._try_tell({"op": "ask", "n": number, "what": what, **more})
            event.wait(seconds)
        finally:
            del self._asked[number]
        if not answers:
            raise error(ErrorCode.UNKNOWN_ERROR, f"The node's core process did not answer within {seconds:g} s: {late}")
        return answers[0]


class _Neighbours:
    """`view.Neighbours`: this worker's own connections, and what the core knows of the others."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def replicas(self) -> Sequence[ConnectedReplica]:
        rows = self._worker.ask("replicas").get("rows")
        found = [replica_from_json(row) for row in rows] if isinstance(rows, list) else []
        return [replica for replica in found if replica is not None]

    def processes(self) -> Sequence[Process]:
        own = self._worker.own_processes()
        rows = self._worker.ask("processes").get("rows")
        for row in rows if isinstance(rows, list) else []:
            process = process_from_json(row)
            if process is not None:
                own.setdefault(process.connection_id, process)
        return [own[number] for number in sorted(own)]

    def kill(self, connection_id: int, owner: str | None) -> KillOutcome:
        outcome = self._worker.kill_own(connection_id, owner)
        if outcome is KillOutcome.UNKNOWN:
            late = "the connection may still be ended"
            outcome = KillOutcome(text_of(self._worker.ask("kill", late=late, id=connection_id, owner=owner), "end"))
        return outcome

    def purge(self, to_file: str | None, before: float | None) -> PurgeOutcome | None:
        late = "the purge goes on, but has not been committed yet"
        answer = self._worker.ask("purge", _PURGE_SECONDS, late=late, to=to_file, before=before)
        if answer.get("unknown"):
            raise error(ErrorCode.UNKNOWN_TARGET_BINLOG, "Target log not found in binlog index")
        if problem := text_of(answer, "problem"):
            raise error(ErrorCode.UNKNOWN_ERROR, problem)
        match answer.get("done"):
            case [str(oldest), int(purged), int(held), int(readers)]:
                return PurgeOutcome(oldest, purged, held, readers)
            case _:
                return None

    def source_status(self) -> dict[str, str | int | None]:
        answer = self._worker.ask("source")
        if problem := text_of(answer, "problem"):
            raise error(ErrorCode.UNKNOWN_ERROR, problem)
        status = answer.get("status")
        if not isinstance(status, dict):
            return {}
        return {key: value for key, value in status.items() if value is None or isinstance(value, str | int)}


def main() -> None:
    """The entry point."""
    settings = WorkerSettings.decode(sys.stdin.buffer.read())
    logs.configure(settings.options.log_level, settings.options.log_format)
    allow_all_descriptors()
    threading.stack_size(_STACK_BYTES)
    code = Worker(settings).run()
    logging.shutdown()
    os._exit(code)  # threads that wait for a client that is gone for good must not hold the process up


if __name__ == "__main__":
    main()
