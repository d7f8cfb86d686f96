"""The connection between the core process and a worker: JSON messages over a Unix socket that keeps the boundaries of
packets. A message may be of any size; it goes in as many packets as it takes, each with a byte in front that says
whether another one belongs to it.

Core to worker: ``accept`` (with a connected socket), ``evict`` (a replica has connected again elsewhere), ``kill``,
``serving`` (``reason``: why not, or null), ``answer`` (to an ``ask``), ``stop``.
Worker to core: ``ready``, ``login``, ``closed``, ``dump``, ``progress``, ``undump``, ``ask`` (what: replicas,
processes, kill, purge, source). Nothing here comes from a network, and nothing secret goes through here.
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

_MAX_PACKET: Final = 128 * 1024  # a socket's default buffer holds one at least
_LAST: Final = b"\0"
_MORE: Final = b"\1"
_FD_SIZE: Final = array.array("i").itemsize


class ControlClosedError(Exception):
    """The other process is gone."""


class ControlSocket:
    """One end. Sending is for one thread at a time; a non-blocking end queues what does not fit (see `flush`)."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._queue: deque[tuple[bytes, socket.socket | None]] = deque()
        self._parts: list[bytes] = []

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._socket.fileno()

    @property
    def queued(self) -> int:
        """Packets that wait for room."""
        return len(self._queue)

    def send(self, message: Message, passed: socket.socket | None = None) -> None:
        """Send a message; `passed` goes along and is closed here once it is sent. Raises `ControlClosedError`."""
        data = json.dumps(message, separators=(",", ":")).encode()
        *begin, end = range(0, len(data), _MAX_PACKET - 1)
        self._queue.extend((_MORE + data[at : at + _MAX_PACKET - 1], None) for at in begin)
        self._queue.append((_LAST + data[end:], passed))
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
        """The next message and the socket that came with it. Takes one packet at most: None when there is none
        (non-blocking ends only), or when it does not end a message.

        Raises `ControlClosedError` at the end.
        """
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                _MAX_PACKET, socket.CMSG_SPACE(_FD_SIZE), socket.MSG_CMSG_CLOEXEC
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
        self._parts.append(data[1:])
        if data[:1] == _MORE:
            return None
        whole = b"".join(self._parts)
        self._parts.clear()
        return json.loads(whole), passed

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


def owner_in(message: Message) -> str | None:
    """Whose connection is to be killed; None: whoever's."""
    return None if message["owner"] is None else text_of(message, "owner")
