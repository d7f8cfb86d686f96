"""The connection between the core process and a worker: JSON messages over a Unix socket that keeps their boundaries.

Core to worker: ``accept`` (with a connected socket), ``evict`` (a replica has connected again elsewhere), ``kill``,
``serving`` (``reason``: why not, or null), ``answer`` (to an ``ask``), ``stop``.
Worker to core: ``ready``, ``login``, ``closed``, ``dump``, ``progress``, ``undump``, ``ask`` (what: replicas,
processes, kill, source). Nothing here comes from a network, and nothing secret goes through here.
"""

from __future__ import annotations

import array
import contextlib
import json
import socket
from collections import deque
from typing import Final, TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
Message: TypeAlias = "dict[str, Json]"

MAX_MESSAGE: Final = 128 * 1024
"""Bytes; what may be longer (GTID sets) is cut before it is sent. A socket's default buffer holds one at least."""
_FD_SIZE: Final = array.array("i").itemsize


class ControlClosedError(Exception):
    """The other process is gone."""


class ControlSocket:
    """One end. Sending is for one thread at a time; a non-blocking end queues what does not fit (see `flush`)."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._queue: deque[tuple[bytes, socket.socket | None]] = deque()

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._socket.fileno()

    @property
    def queued(self) -> int:
        """Messages that wait for room."""
        return len(self._queue)

    def send(self, message: Message, passed: socket.socket | None = None) -> None:
        """Send a message; `passed` goes along and is closed here once it is sent. Raises `ControlClosedError`."""
        self._queue.append((json.dumps(message, separators=(",", ":")).encode(), passed))
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as there is room."""
        while self._queue:
            data, passed = self._queue[0]
            ancillary = []
            if passed is not None:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed.fileno()]))]
            try:
                self._socket.sendmsg([data], ancillary)
            except BlockingIOError:
                return
            except OSError as problem:
                raise ControlClosedError(str(problem)) from problem
            self._queue.popleft()
            if passed is not None:
                passed.close()

    def receive(self) -> tuple[Message, socket.socket | None] | None:
        """The next message and the socket that came with it; None when there is none yet (non-blocking ends only).

        Raises `ControlClosedError` at the end.
        """
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                MAX_MESSAGE, socket.CMSG_SPACE(_FD_SIZE), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except OSError as problem:
            raise ControlClosedError(str(problem)) from problem
        if not data:
            raise ControlClosedError("the other process has closed the connection")
        passed: socket.socket | None = None
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                (fd,) = array.array("i", content[:_FD_SIZE])
                passed = socket.socket(fileno=fd)
        return json.loads(data), passed

    def close(self) -> None:
        """Close this end, and the sockets that were not sent."""
        for _, passed in self._queue:
            if passed is not None:
                passed.close()
        self._queue.clear()
        with contextlib.suppress(OSError):
            self._socket.close()


def text_of(message: Message, key: str) -> str:
    """A text in a message; '' when it is not there."""
    value = message.get(key)
    return value if isinstance(value, str) else ""


def number_of(message: Message, key: str) -> int:
    """An integer in a message; 0 when it is not there."""
    value = message.get(key)
    return value if isinstance(value, int) else 0
