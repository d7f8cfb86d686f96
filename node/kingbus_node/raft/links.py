"""A link to a peer, as the loop sees it: two connections that never block, each with what waits to be sent on it.

Memory is bounded: entries on their way to a peer by Raft's window, short messages by a limit of their own. A peer that
does not take what is sent to it loses the link, and gets what it missed once it is back.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

from kingbus_node.raft.errors import RaftError
from kingbus_node.raft.frames import Framed, FrameReader, encode_frame
from kingbus_node.raft.messages import Append, Install, Part
from kingbus_node.raft.transport import Connected
from kingbus_node.store.durable import FileSlice

CONTROL_BUFFER: Final = 64 << 10
BULK_BUFFER: Final = 2 << 20
MAX_CONTROL_QUEUE: Final = 4 << 20
_BUFFERS_AT_ONCE: Final = 256  # of the 1024 that sendmsg(2) takes
_BYTES_AT_ONCE: Final = 4 << 20
_READ_AT_ONCE: Final = 1 << 20


class LinkError(RaftError):
    """The link is of no use any more; the text says why."""


class Lane:
    """One connection of a link.

    :param buffer: bytes to receive at once
    :param limit: bytes that may wait to be sent
    """

    def __init__(self, connection: socket.socket, *, buffer: int, limit: int) -> None:
        self.connection = connection
        self.number = connection.fileno()
        self._tls = isinstance(connection, ssl.SSLSocket)
        # One thread may send while another receives; what TLS keeps of a connection is for one at a time.
        self._exclusive = threading.Lock() if self._tls else contextlib.nullcontext()
        self._reader = FrameReader(buffer)
        self._limit = limit
        self._queue: deque[memoryview | FileSlice] = deque()
        self.queued = 0
        self.blocked = False
        """Whether the connection takes no more for now."""
        self.awaited = False
        """Whether the system was asked to say when it does again. For the owner."""
        self.unread = False
        """Whether there may be more to receive, although the system does not say so."""
        self.sent_bytes = 0
        self.received_bytes = 0

    def queue(self, parts: list[Part]) -> None:
        """Puts bytes behind those that wait. :raises LinkError: too many wait"""
        queue = self._queue
        for part in parts:
            if not len(part):
                continue
            self.queued += len(part)
            if not isinstance(part, FileSlice):
                queue.append(memoryview(part))
            elif queue and isinstance(last := queue[-1], FileSlice) and (both := last.joined(part)) is not None:
                queue[-1] = both
            else:
                queue.append(part)
        if self.queued > self._limit:
            raise LinkError(f"it takes nothing: {self.queued} bytes wait to be sent")

    def flush(self) -> None:
        """Sends what the connection takes. :raises OSError: it broke"""
        self.blocked = False
        while self._queue and not self.blocked:
            try:
                with self._exclusive:
                    count = self._send()
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self.blocked = True
            else:
                self._sent(count)

    def _send(self) -> int:
        """What lies in a file is sent by the kernel from there, unless it has to be encrypted."""
        first = self._queue[0]
        if isinstance(first, FileSlice):
            if not self._tls:
                return first.send(self.connection.fileno())
            if len(first) > _READ_AT_ONCE:
                first, rest = first.split(_READ_AT_ONCE)
                self._queue.insert(1, rest)
            first = self._queue[0] = memoryview(bytes(first))
        if self._tls or len(self._queue) == 1:
            return self.connection.send(first)
        buffers: list[memoryview] = []
        for part in islice(self._queue, _BUFFERS_AT_ONCE):
            if isinstance(part, FileSlice):
                return self.connection.sendmsg(buffers, (), socket.MSG_MORE)
            buffers.append(part)
        return self.connection.sendmsg(buffers)

    def _sent(self, count: int) -> None:
        self.sent_bytes += count
        self.queued -= count
        queue = self._queue
        while count:
            first = queue[0]
            if count < len(first):
                queue[0] = first.split(count)[1] if isinstance(first, FileSlice) else first[count:]
                return
            count -= len(first)
            queue.popleft()

    def receive(self) -> Iterator[Framed]:
        """The messages that have arrived, some of them: see ``unread``. Each is valid until the next one is asked for.

        :raises OSError: the connection broke
        :raises LinkError: the peer closed it
        :raises ProtocolError: the peer does not keep to the protocol
        """
        self.unread = False
        got = 0
        while got < _BYTES_AT_ONCE:
            try:
                with self._exclusive:
                    count = self.connection.recv_into(self._reader.space())
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            if count == 0:
                raise LinkError("the peer closed the connection")
            got += count
            self.received_bytes += count
            self._reader.received(count)
            while (message := self._reader.next()) is not None:
                yield message
            if not self._tls:
                return  # the system says it when there is more
        self.unread = True

    def close(self) -> None:
        """Closes the connection."""
        self.connection.close()
        self._queue.clear()


class Link:
    """Both connections to one peer.

    :param connected: what the transport made
    :param window: bytes of entries that Raft has on their way at most
    :param now: the time, seconds
    """

    def __init__(self, connected: Connected, window: int, now: float) -> None:
        self.peer = connected.peer
        self.address = connected.peer.sender
        self.number = connected.number
        self.control = Lane(connected.control, buffer=CONTROL_BUFFER, limit=MAX_CONTROL_QUEUE)
        self.bulk = Lane(connected.bulk, buffer=BULK_BUFFER, limit=window)
        self.lanes = (self.control, self.bulk)
        """Short messages first."""
        self.since = now
        self.heard = now
        """When something arrived last."""
        self.round_trip: float | None = None
        """Seconds, smoothed."""

    def send(self, message: Framed) -> Lane:
        """Queues a message on the connection that it belongs to, and says on which. :raises LinkError: too much waits
        there
        """
        bulk = isinstance(message, Install) or (isinstance(message, Append) and bool(message.entries))
        lane = self.bulk if bulk else self.control
        lane.queue(encode_frame(message))
        return lane

    def measured(self, round_trip: float) -> None:
        """A round trip took so many seconds (smoothed as in RFC 6298)."""
        before = self.round_trip
        self.round_trip = round_trip if before is None else before + (round_trip - before) / 8

    def close(self) -> None:
        """Closes both connections."""
        self.control.close()
        self.bulk.close()
