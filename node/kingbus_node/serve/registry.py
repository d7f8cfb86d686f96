"""The dumps of one worker: who streams, how far each one is, and how to reach it.

A dump registers itself; the worker reports the registry to the supervisor, which sees all workers of the node. Streams
are stopped through here: by KILL, by a shutdown, and by the same replica's newer connection (a replica that lost its
network comes back before its old connection is known to be dead; MySQL calls the old one a zombie and ends it).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from kingbus_node.serve.channel import Channel
from kingbus_node.serve.facts import SessionFacts
from kingbus_node.serve.semisync import Acknowledgements
from kingbus_node.wire.commands import DumpRequest


class Wakeup:
    """A descriptor that one thread polls, and that any thread makes readable. Signals coalesce.

    The waiter must clear it first, then look for work, then poll: a signal that comes after the look makes the poll
    return.
    """

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._signalled = False
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """The descriptor to poll for reading; -1 once closed."""
        return self._fd

    def signal(self) -> None:
        """Make it readable. Cheap when it is so already; does nothing once closed."""
        if self._signalled:
            return
        with self._lock:  # against close: the descriptor's number may belong to somebody else afterwards
            if self._fd >= 0:
                self._signalled = True
                os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Make it unreadable until the next signal."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        # After the read: a signal that is skipped because of the flag comes before the waiter's look for work.
        self._signalled = False

    def close(self) -> None:
        """Give the descriptor back."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class StopReason(StrEnum):
    """Why a dump has to end before its client leaves."""

    DUPLICATE = "duplicate"
    """The same replica has connected again: ERR 1236 "A replica with the same server_uuid/server_id ..."."""
    KILLED = "killed"
    """KILL, or the admin interface: the connection is cut."""
    SHUTDOWN = "shutdown"
    """The node drains: EOF, as a source that shuts down sends."""
    NOT_SERVING = "not serving"
    """The node has lost the quorum: ERR 1053, so that the replica tries elsewhere."""


@dataclass(slots=True, eq=False)
class Dump:
    """One stream. The dump's thread writes the progress fields, others only read them, and `request_stop`.

    file, position: of the last event sent. index: log index of the entry that it was in. timestamp: the last event's,
    Unix seconds, 0 before the first. started: Unix seconds. gtid_sent: prints the GTID set that the replica has now,
    when asked. semi_sync: the replica acknowledges what it has; acknowledged: how far it has, then.
    """

    facts: SessionFacts
    channel: Channel
    request: DumpRequest
    started: float
    wakeup: Wakeup = field(default_factory=Wakeup)
    file: str = ""
    position: int = 0
    index: int = 0
    timestamp: int = 0
    gtid_sent: Callable[[], str] = str
    stop: StopReason | None = None
    semi_sync: bool = False
    acknowledged: Acknowledgements = field(default_factory=Acknowledgements)

    @property
    def id(self) -> int:
        """The connection's id."""
        return self.facts.connection_id

    def request_stop(self, reason: StopReason) -> None:
        """Ask the dump to end; from any thread. The first reason counts. KILLED also cuts a blocked send."""
        if self.stop is None:
            self.stop = reason
        self.wakeup.signal()
        if reason is StopReason.KILLED:
            self.channel.abort()

    def is_same_replica(self, uuid: str | None, server_id: int) -> bool:
        """MySQL's rule: the uuid when there is one; else the server id among those without a uuid; 0 is nobody's id."""
        if uuid:
            return self.facts.replica_uuid == uuid
        return server_id != 0 and not self.facts.replica_uuid and self.request.server_id == server_id


class Registry:
    """The dumps of this process. Thread-safe.

    `on_add`, `on_remove` are called outside the lock, in the thread of the dump; they must not block.
    """

    def __init__(
        self, on_add: Callable[[Dump], None] | None = None, on_remove: Callable[[Dump], None] | None = None
    ) -> None:
        self._dumps: dict[int, Dump] = {}
        self._lock = threading.Lock()
        self._on_add = on_add
        self._on_remove = on_remove
        self._closing: StopReason | None = None

    def add(self, dump: Dump) -> None:
        """Register a stream that begins; stops older streams of the same replica, here and (by `on_add`) in other
        workers.
        """
        with self._lock:  # one step: of two that come at the same time, one must see the other
            zombies = [
                other
                for other in self._dumps.values()
                if other.is_same_replica(dump.facts.replica_uuid, dump.request.server_id)
            ]
            self._dumps[dump.id] = dump
            closing = self._closing
        for zombie in zombies:
            zombie.request_stop(StopReason.DUPLICATE)
        if closing is not None:
            dump.request_stop(closing)
        if self._on_add is not None:
            self._on_add(dump)

    def remove(self, dump: Dump) -> None:
        """Forget a stream that has ended."""
        with self._lock:
            known = self._dumps.pop(dump.id, None) is not None
        dump.wakeup.close()
        if known and self._on_remove is not None:
            self._on_remove(dump)

    def dumps(self) -> list[Dump]:
        """All streams, in the order in which they began."""
        with self._lock:
            return list(self._dumps.values())

    def wake_all(self) -> None:
        """The log has grown: every stream looks."""
        for dump in self.dumps():
            dump.wakeup.signal()

    def stop_same_replica(self, uuid: str | None, server_id: int) -> None:
        """Stop the streams of this replica, because it has connected again."""
        for dump in self.dumps():
            if dump.is_same_replica(uuid, server_id):
                dump.request_stop(StopReason.DUPLICATE)

    def stop_all(self, reason: StopReason, *, closing: bool = False) -> None:
        """Stop every stream; with `closing` also those that register from now on."""
        if closing:
            with self._lock:
                self._closing = reason
        for dump in self.dumps():
            dump.request_stop(reason)
