"""A connection's socket: packets in, buffers out, plain or TLS.

A channel is used by one thread, except for `abort`, which any thread may call to make that thread's next (or current)
call fail. Reading takes exactly the bytes that the next packet needs, never more: what follows an SSLRequest belongs to
TLS.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Final

from kingbus_node.wire.compression import Compression
from kingbus_node.wire.packet import PacketAssembler, frame

_IOV_MAX: Final = 1024
_CHUNK: Final = 64 * 1024
_SMALL: Final = 16 * 1024
_KEEPALIVE_IDLE: Final = 60  # seconds
_KEEPALIVE_INTERVAL: Final = 10
_KEEPALIVE_PROBES: Final = 6
_LINGER_SECONDS: Final = 1.0
_LINGER_BYTES: Final = 1 << 20

Buffer = bytes | bytearray | memoryview


class DisconnectedError(Exception):
    """The peer went away (or `abort` was called): there is nobody to send an error to."""


class PeerTimeoutError(Exception):
    """The peer neither sent nor took anything for as long as the channel's timeout allows."""


class Channel:
    """Packets over a connected socket.

    `sequence` is the number that the next packet from us must carry (0..255). `send_packet` and `recv_packet` keep it;
    who sends packets that are framed already (the dump) stamps them with it and sets it afterwards. Timeouts are
    seconds of no progress at all, not of a whole call; None waits for ever.
    """

    def __init__(self, sock: socket.socket, *, timeout: float | None) -> None:
        self._socket = sock
        self._tls: ssl.SSLSocket | None = None
        self._timeout = timeout
        self._deadline: float | None = None
        self._compression: Compression | None = None
        self._inflated = memoryview(b"")  # of a piece, what has not been read yet
        self._torn = False  # a send has failed: what is sent behind the part of it that went out would be taken for it
        self._aborted = False
        self.sequence = 0
        self.sent_bytes = 0
        sock.settimeout(timeout)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A dump to a client that asked for no heartbeats may be silent for days: who is gone without a word (power,
            # network) is noticed by this alone, and would keep its thread and its descriptors for ever otherwise.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)

    # -- state ---------------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor to poll. Readable means: call `received` (or `recv_packet`)."""
        return self._socket.fileno()

    def set_timeout(self, timeout: float | None) -> None:
        """Seconds without progress after which reading and sending raise `PeerTimeoutError`."""
        self._timeout = timeout
        self._socket.settimeout(timeout)

    def set_deadline(self, seconds: float | None) -> None:
        """From now on everything together may take this long (a login); None: no limit any more."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._socket.settimeout(self._timeout)

    def _apply_deadline(self) -> None:
        if self._deadline is None:
            return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise PeerTimeoutError("the peer takes too long")
        self._socket.settimeout(left if self._timeout is None else min(left, self._timeout))

    @property
    def tls_version(self) -> str:
        """The protocol, as in "TLSv1.3"; '' without TLS."""
        return (self._tls.version() or "TLS") if self._tls is not None else ""

    @property
    def tls_cipher(self) -> str:
        """The cipher's name; '' without TLS."""
        cipher = self._tls.cipher() if self._tls is not None else None
        return cipher[0] if cipher else ""

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all of `buffers` in order, blocking. Nothing is copied without TLS; with TLS small ones are joined.

        Raises `DisconnectedError` or `PeerTimeoutError`; then part of the data may have gone out, and nothing is sent
        any more: every other call raises `DisconnectedError`.
        """
        if self._torn:
            raise DisconnectedError("the peer has got only a part of what was sent before")
        self._apply_deadline()
        self._torn = True
        if self._compression is not None:
            buffers = self._compression.deflate(buffers)
        try:
            if self._tls is not None:
                self._send_tls(buffers)
            else:
                self._send_plain(buffers)
        except TimeoutError:
            raise PeerTimeoutError("the peer takes no data") from None
        except (OSError, ValueError) as problem:
            raise DisconnectedError(str(problem)) from problem
        self._torn = False

    def _send_plain(self, buffers: Sequence[Buffer]) -> None:
        pending = [view for view in (memoryview(buffer) for buffer in buffers) if view.nbytes]
        while pending:
            sent = self._socket.sendmsg(pending[:_IOV_MAX])
            self.sent_bytes += sent
            done = 0
            while done < len(pending) and sent >= pending[done].nbytes:
                sent -= pending[done].nbytes
                done += 1
            del pending[:done]
            if sent:
                pending[0] = pending[0].cast("B")[sent:]

    def _send_tls(self, buffers: Sequence[Buffer]) -> None:
        joined = bytearray()
        for buffer in buffers:
            view = memoryview(buffer)
            if view.nbytes > _SMALL:
                self._send_tls_view(joined)
                joined = bytearray()
                self._send_tls_view(view)
            else:
                joined += view
                if len(joined) >= _CHUNK:
                    self._send_tls_view(joined)
                    joined = bytearray()
        self._send_tls_view(joined)

    def _send_tls_view(self, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        at = 0
        while at < len(view):
            sent = self._socket.send(view[at : at + _CHUNK])
            self.sent_bytes += sent
            at += sent

    def send_packet(self, payload: Buffer) -> None:
        """Frame `payload` (split at 16 MiB - 1) with the next sequence numbers, and send it."""
        self.send_packets((payload,))

    def send_packets(self, payloads: Sequence[Buffer]) -> None:
        """Frame several payloads and send them in one go (a result set)."""
        out: list[Buffer] = []
        for payload in payloads:
            pieces, self.sequence = frame(payload, self.sequence)
            out += pieces
        self.send(out if len(out) <= 2 else [b"".join(out)])

    # -- receiving -----------------------------------------------------------------------------------------------------

    def recv_packet(self, limit: int, *, new_command: bool = False) -> bytes:
        """The payload of the next packet, joined when it was split; at most `limit` bytes.

        `new_command`: a command starts a new sequence at 0, other packets (handshake) go on from ours.
        Raises `DisconnectedError`, `PeerTimeoutError`, `ProtocolError` (too large, out of order).
        """
        assembler = PacketAssembler(limit, 0 if new_command else self.sequence)
        while True:
            payload = assembler.feed(self._recv(min(assembler.wanted, _CHUNK)))
            if payload is not None:
                self.sequence = assembler.sequence
                return payload

    def _recv(self, size: int) -> bytes:
        """At least one byte, at most `size`."""
        if self._compression is None:
            return self._recv_plain(size)
        while not self._inflated:
            piece = self._compression.inflate() or self._compression.inflate(self._recv_plain(_CHUNK))
            self._inflated = memoryview(piece)
        data, self._inflated = self._inflated[:size], self._inflated[size:]
        return bytes(data)

    def _recv_plain(self, size: int) -> bytes:
        self._apply_deadline()
        try:
            data = self._socket.recv(size)
        except TimeoutError:
            raise PeerTimeoutError("the peer sends no data") from None
        except (OSError, ValueError) as problem:
            raise DisconnectedError(str(problem)) from problem
        if not data:
            raise DisconnectedError("the peer closed the connection")
        return data

    def received(self) -> Iterator[bytes]:
        """What has arrived, without waiting, for a dump: there a client has little to say (acknowledgements), and its
        going away matters (COM_QUIT is followed by it). Raises `DisconnectedError` at its end.
        """
        try:
            self._socket.settimeout(0)
            while True:
                data = self._socket.recv(_CHUNK)
                if not data:
                    raise DisconnectedError("the client closed the connection")
                if self._compression is None:
                    yield data
                    continue
                piece = self._compression.inflate_aside(data)
                while piece:
                    yield piece
                    piece = self._compression.inflate_aside()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except (OSError, ValueError) as problem:
            raise DisconnectedError(str(problem)) from problem
        finally:
            if self._socket.fileno() >= 0:
                self._socket.settimeout(self._timeout)

    # -- life ----------------------------------------------------------------------------------------------------------

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Become a TLS server on this connection (after an SSLRequest)."""
        self._apply_deadline()
        self._torn = True  # until there is TLS, nothing can be said
        try:
            # First the socket, then the handshake, which may take long: `abort` needs the one that is in use.
            self._socket = self._tls = context.wrap_socket(
                self._socket, server_side=True, do_handshake_on_connect=False
            )
            if self._aborted:
                raise DisconnectedError("the connection was cut")
            self._tls.do_handshake()
        except TimeoutError:
            raise PeerTimeoutError("the peer does not finish the TLS handshake") from None
        except (OSError, ValueError) as problem:
            raise DisconnectedError(f"TLS handshake failed: {problem}") from problem
        self._torn = False

    def start_compression(self, compression: Compression) -> None:
        """From here on both sides speak the compressed protocol (after the OK that ends a login)."""
        self._compression = compression

    def restart_pieces(self) -> None:
        """The next piece of the compressed protocol has number 0."""
        if self._compression is not None:
            self._compression.number = 0

    def abort(self) -> None:
        """Cut the connection, from any thread: the thread that uses the channel gets `DisconnectedError`."""
        self._aborted = True
        with contextlib.suppress(OSError):  # it is closed already
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. May be called twice."""
        if self._tls is not None and self._tls.fileno() >= 0:
            try:
                self._tls.settimeout(0)
                self._tls.unwrap()  # tells the peer that nothing is missing; its answer is not waited for
            except (OSError, ValueError):
                pass  # it is gone, or has not answered: either way the connection ends now
        self._socket.close()

    def close_after_error(self) -> None:
        """Close so that the peer still reads what was sent last: a socket closed with unread input would reset it."""
        try:
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            socket.socket.settimeout(self._socket, _LINGER_SECONDS)
            ends = time.monotonic() + _LINGER_SECONDS
            taken = 0
            while taken < _LINGER_BYTES and time.monotonic() < ends:
                data = socket.socket.recv(self._socket, _CHUNK)
                if not data:
                    break
                taken += len(data)
        except (OSError, ValueError):
            pass  # whatever goes wrong while waiting for the peer to leave: it has left
        self._socket.close()
