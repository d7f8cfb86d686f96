"""The raw socket of a dump, plain, TLS or compressed: reads that do not block, and waits that others can end."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import time
from typing import Final

from kingbus_node.source.compression import CompressedStream
from kingbus_node.source.errors import Disconnected

SEND_TIMEOUT: Final = 30.0
"""Seconds until a source that takes nothing any more counts as gone."""


class Wakeup:
    """A flag that `poll` can wait for. Any thread sets it; the thread that waits clears it."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def set(self) -> None:
        """End the wait that is going on, or else the next one."""
        os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """From now on only a new `set` ends a wait."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def wait(self, timeout: float) -> None:
        """Block until it is set, at most `timeout` seconds; then clear it."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.poll(timeout * 1000)
        self.clear()

    def __del__(self) -> None:
        os.close(self._fd)


class Link:
    """A connected socket that is ours alone. All errors of the network come as `Disconnected`."""

    def __init__(self, sock: socket.socket, wakeup: Wakeup, stream: CompressedStream | None = None) -> None:
        """Takes over `sock`, which `close` closes. `wakeup` ends `wait`. `stream`: both directions are compressed."""
        sock.setblocking(False)
        self._stream = stream
        self._sock = sock
        self._wakeup = wakeup
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(wakeup, select.POLLIN)
        self._arrivals = select.poll()
        self._arrivals.register(sock, select.POLLIN)

    def receive_into(self, room: memoryview) -> int:
        """Bytes received into the beginning of `room`; 0 when there is nothing right now."""
        return self._receive(room) if self._stream is None else self._stream.receive_into(room, self._receive)

    def _receive(self, room: memoryview) -> int:
        try:
            count = self._sock.recv_into(room)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError, InterruptedError):
            return 0
        except OSError as error:
            raise Disconnected(f"lost the connection to the source: {error}") from error
        if not count:
            raise Disconnected("the source closed the connection")
        return count

    def wait(self, timeout: float) -> bool:
        """Wait until there is something to receive, or the wake-up was set (it is cleared); False after `timeout` s."""
        ready = self._poll.poll(max(0.0, timeout) * 1000)
        if any(fd == self._wakeup.fileno() for fd, _ in ready):
            self._wakeup.clear()
        return bool(ready)

    def more(self, timeout: float) -> bool:
        """Whether there is something to receive within `timeout` seconds, whatever the wake-up says."""
        return bool(self._arrivals.poll(timeout * 1000))

    def send(self, data: bytes) -> None:
        """Send all of `data`: something small, that fits the socket's buffer unless the source is gone."""
        left = memoryview(data if self._stream is None else self._stream.command(data))
        deadline = time.monotonic() + SEND_TIMEOUT
        while left:
            try:
                left = left[self._sock.send(left) :]
                continue
            except ssl.SSLWantReadError:
                events = select.POLLIN
            except (BlockingIOError, ssl.SSLWantWriteError, InterruptedError):
                events = select.POLLOUT
            except OSError as error:
                raise Disconnected(f"lost the connection to the source: {error}") from error
            poll = select.poll()
            poll.register(self._sock, events)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise Disconnected(f"the source took nothing that was sent to it for {SEND_TIMEOUT:g} s")

    def close(self) -> None:
        """Close the socket, as a replica ends a dump: without COM_QUIT."""
        with contextlib.suppress(OSError):
            self._sock.close()
