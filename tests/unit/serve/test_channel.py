"""A connection's socket: large sends, slow and vanishing peers, TLS, and what is left unread."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kingbus_node.serve.channel import Channel, DisconnectedError, PeerTimeoutError
from kingbus_node.serve.keys import SERVER_CERTIFICATE, SERVER_KEY, ensure_keys
from kingbus_node.serve.tls import TlsContext
from kingbus_node.wire.compression import Algorithm, Compression
from kingbus_node.wire.errors import ErrorCode, ProtocolError


@contextlib.contextmanager
def connected(timeout: float | None = 5.0) -> Iterator[tuple[Channel, socket.socket]]:
    """A channel and the socket of its peer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    channel = Channel(ours, timeout=timeout)
    peer.settimeout(10)
    try:
        yield channel, peer
    finally:
        channel.close()
        peer.close()


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (piece := sock.recv(size - len(data))):
        data += piece
    return bytes(data)


def test_packets_carry_on_the_sequence() -> None:
    with connected() as (channel, peer):
        channel.send_packets([b"a", b"", b"bc"])
        assert read_exactly(peer, 15) == b"\x01\0\0\0a\0\0\0\x01\x02\0\0\x02bc"
        peer.sendall(b"\x02\0\0\x03xy")
        assert channel.recv_packet(10) == b"xy"
        assert channel.sequence == 4
        peer.sendall(b"\x01\0\0\0q")
        assert channel.recv_packet(10, new_command=True) == b"q"
        assert channel.sequence == 1


def test_many_and_large_buffers_arrive_in_order() -> None:
    with connected() as (channel, peer):
        buffers: list[bytes | memoryview] = [bytes((number % 256,)) * (1 + number % 7) for number in range(5000)]
        buffers += [memoryview(bytearray(b"z" * 30_000_000)), b"", b"end"]
        expected = b"".join(bytes(buffer) for buffer in buffers)
        received: list[bytes] = []
        thread = threading.Thread(target=lambda: received.append(read_exactly(peer, len(expected))))
        thread.start()
        channel.send(buffers)
        thread.join(30)
        assert received == [expected]
        assert channel.sent_bytes == len(expected)


def test_a_peer_that_takes_nothing_is_given_up() -> None:
    with connected(timeout=0.2) as (channel, _), pytest.raises(PeerTimeoutError):
        channel.send([bytes(50_000_000)])


def test_a_peer_that_says_nothing_is_given_up() -> None:
    with connected(timeout=0.1) as (channel, _), pytest.raises(PeerTimeoutError):
        channel.recv_packet(100)


def test_a_deadline_holds_however_busy_the_peer_is() -> None:
    """One byte now and then keeps a timeout from firing, not a deadline."""
    with connected(timeout=5) as (channel, peer):
        stop = threading.Event()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                peer.sendall(b"\xff\xff\0\0")
                while not stop.wait(0.02):
                    peer.sendall(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        started = time.monotonic()
        channel.set_deadline(0.3)
        with pytest.raises(PeerTimeoutError):
            channel.recv_packet(100_000)
        assert time.monotonic() - started < 60  # at this pace the packet would take twenty minutes
        stop.set()
        thread.join(5)


def test_a_peer_that_goes_away_is_noticed() -> None:
    with connected() as (channel, peer):
        peer.sendall(b"\x05\0")
        peer.close()
        with pytest.raises(DisconnectedError):
            channel.recv_packet(100)


def test_abort_ends_a_blocked_send_from_another_thread() -> None:
    with connected(timeout=30) as (channel, _):
        timer = threading.Timer(0.1, channel.abort)
        timer.start()
        with pytest.raises(DisconnectedError):
            channel.send([bytes(100_000_000)])
        timer.join()
        channel.abort()


def test_many_packets_in_one_piece_cost_no_more_than_as_many_pieces() -> None:
    """A few KiB make millions of commands: what is left of them must not be copied with each."""
    packets = b"\x01\0\0\0\x0e" * 3_000_000
    body = zlib.compress(packets)
    piece = len(body).to_bytes(3, "little") + b"\0" + len(packets).to_bytes(3, "little") + body
    with connected() as (channel, peer):
        channel.start_compression(Compression(Algorithm.ZLIB))
        peer.sendall(piece)
        assert channel.recv_packet(100, new_command=True) == b"\x0e"
        tracemalloc.start()
        try:
            assert [channel.recv_packet(100, new_command=True) for _ in range(100)] == [b"\x0e"] * 100
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def test_a_packet_beyond_the_limit_is_refused() -> None:
    with connected() as (channel, peer):
        peer.sendall(b"\xff\xff\xff\0")
        with pytest.raises(ProtocolError) as caught:
            channel.recv_packet(1 << 20)
        assert caught.value.code == ErrorCode.NET_PACKET_TOO_LARGE


def received(channel: Channel) -> bytes:
    """All that the peer sends, taken as it comes, until it closes."""
    data = b""
    ends = time.monotonic() + 60
    with contextlib.suppress(DisconnectedError):
        while time.monotonic() < ends:
            for part in channel.received():
                data += part
    return data


def test_input_is_taken_without_waiting_until_the_peer_closes() -> None:
    with connected() as (channel, peer):
        assert list(channel.received()) == []
        peer.sendall(b"whatever")
        select.select([channel], [], [], 60)  # loopback may deliver a moment after it has taken the data
        assert list(channel.received()) == [b"whatever"]
        peer.sendall(b"more")
        peer.shutdown(socket.SHUT_WR)
        assert received(channel) == b"more"


def test_last_words_arrive_although_input_was_left_unread() -> None:
    with connected() as (channel, peer):
        peer.sendall(bytes(200_000))
        channel.send_packet(b"\xffgoodbye")
        thread = threading.Thread(target=channel.close_after_error)
        thread.start()
        assert read_exactly(peer, 12) == b"\x08\0\0\0\xffgoodbye"
        assert peer.recv(10) == b""
        peer.close()
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder: Path = tmp_path_factory.mktemp("keys")
    ensure_keys(folder, certificate=True)
    return TlsContext(folder / SERVER_CERTIFICATE, folder / SERVER_KEY, None).get()


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_everything_works_over_tls(context: ssl.SSLContext) -> None:
    with connected() as (channel, peer):
        big = bytes(range(256)) * 20_000
        seen: list[bytes] = []

        def client() -> None:
            with client_context().wrap_socket(peer) as secure:
                secure.sendall(b"\x02\0\0\0hi")
                seen.append(read_exactly(secure, len(big) + 6 + 300))
                secure.sendall(b"more")

        thread = threading.Thread(target=client)
        thread.start()
        channel.start_tls(context)
        assert channel.tls_version == "TLSv1.3"
        assert channel.tls_cipher
        assert channel.recv_packet(10) == b"hi"
        channel.send([b"abc", b"def", memoryview(big), b"x" * 300])
        assert received(channel) == b"more"
        thread.join(10)
        assert seen == [b"abcdef" + big + b"x" * 300]


def test_bytes_behind_a_request_for_tls_are_not_taken_for_plain_ones(context: ssl.SSLContext) -> None:
    """Reading takes no byte too many: the TLS handshake may already be behind the packet in the socket."""
    with connected() as (channel, peer):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secure = client_context().wrap_bio(incoming, outgoing)
        with pytest.raises(ssl.SSLWantReadError):
            secure.do_handshake()
        peer.sendall(b"\x03\0\0\0ssl" + outgoing.read())
        assert channel.recv_packet(100) == b"ssl"
        thread = threading.Thread(target=channel.start_tls, args=(context,))
        thread.start()
        incoming.write(peer.recv(65536))
        while True:
            try:
                secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                incoming.write(peer.recv(65536))
        peer.sendall(outgoing.read())
        thread.join(10)
        assert channel.tls_version


def test_a_peer_that_speaks_no_tls_is_told_from_one_that_does(context: ssl.SSLContext) -> None:
    with connected() as (channel, peer):
        peer.sendall(b"this is no ClientHello, by no means at all")
        with pytest.raises(DisconnectedError, match="TLS handshake failed"):
            channel.start_tls(context)


def test_a_peer_that_stalls_in_the_tls_handshake_is_given_up(context: ssl.SSLContext) -> None:
    with connected() as (channel, _):
        channel.set_deadline(0.2)
        with pytest.raises(PeerTimeoutError):
            channel.start_tls(context)


def test_abort_ends_a_tls_handshake_from_another_thread(context: ssl.SSLContext) -> None:
    with connected(timeout=60) as (channel, peer):
        ended: list[BaseException] = []

        def shake_hands() -> None:
            try:
                channel.start_tls(context)
            except (DisconnectedError, PeerTimeoutError) as error:
                ended.append(error)

        thread = threading.Thread(target=shake_hands)
        thread.start()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            client_context().wrap_bio(incoming, outgoing).do_handshake()
        peer.sendall(outgoing.read())
        assert peer.recv(1)  # it waits for our answer now
        channel.abort()
        thread.join(30)
        assert [type(error) for error in ended] == [DisconnectedError]


def test_a_peer_that_is_gone_without_a_word_is_noticed_in_time() -> None:
    with connected(timeout=None) as (channel, _):
        twin = socket.socket(fileno=os.dup(channel.fileno()))
        with twin:
            assert twin.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            idle, interval, probes = (
                twin.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
    assert idle + interval * probes <= 120
