"""The compressed protocol, from the greeting on: what is offered, what is taken, and what is refused as MySQL does."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from unit.serve.clients import PASSWORD, Keys, RawClient, TestServer

from kingbus_node.serve.channel import Channel
from kingbus_node.serve.facts import SessionFacts
from kingbus_node.wire.auth import native_response
from kingbus_node.wire.capabilities import Capability
from kingbus_node.wire.commands import DumpRequest
from kingbus_node.wire.compression import Algorithm, Compression

_BASE = Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION | Capability.PLUGIN_AUTH | Capability.CONNECT_ATTRS


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


def offered(client: RawClient) -> Capability:
    rest = client.greeting.split(b"\0", 1)[1]
    return Capability(int.from_bytes(rest[13:15], "little") | int.from_bytes(rest[18:20], "little") << 16)


def log_in(client: RawClient, flags: Capability, level: bytes = b"") -> bytes:
    """As the user `native`; the server's last answer. `level`: what follows the connect attributes."""
    rest = client.greeting.split(b"\0", 1)[1]
    scramble = rest[4:12] + rest[31:43]
    proof = native_response(PASSWORD.encode(), scramble)
    payload = struct.pack("<IIB23x", _BASE | flags, 1 << 24, 45) + b"native\0\x14" + proof + b"mysql_native_password\0"
    client.send(payload + b"\x03\x01a\x00" + level, 1)
    answer = client.packet()
    if answer[:1] == b"\xfe":  # a new scramble is not needed for the same plugin
        client.send(proof, 3)
        answer = client.packet()
    return answer


class Compressed:
    """The client's side of a compressed connection."""

    def __init__(self, client: RawClient, algorithm: Algorithm) -> None:
        self._client = client
        self._compression = Compression(algorithm)
        self._data = bytearray()

    def send(self, payload: bytes) -> None:
        self._compression.number = 0
        packet = len(payload).to_bytes(3, "little") + b"\0" + payload
        for piece in self._compression.deflate([packet]):
            self._client.sock.sendall(piece)

    def packet(self) -> bytes:
        while len(self._data) < 4 or len(self._data) < 4 + int.from_bytes(self._data[:3], "little"):
            piece = self._compression.inflate()
            if not piece:
                received = self._client.sock.recv(65536)
                if not received:
                    raise EOFError
                piece = self._compression.inflate(received)
            self._data += piece
        size = int.from_bytes(self._data[:3], "little")
        payload = bytes(self._data[4 : 4 + size])
        del self._data[: 4 + size]
        return payload


@contextmanager
def compressed(server: TestServer, flags: Capability, level: bytes, algorithm: Algorithm) -> Iterator[Compressed]:
    with server.raw() as client:
        assert log_in(client, flags, level)[:1] == b"\0"
        yield Compressed(client, algorithm)


ZSTD, ZLIB = Capability.ZSTD_COMPRESSION, Capability.COMPRESS


@pytest.mark.parametrize(
    ("flags", "level", "algorithm"),
    [
        (ZSTD, b"\x03", Algorithm.ZSTD),
        (ZSTD, b"\x16", Algorithm.ZSTD),
        (ZLIB, b"", Algorithm.ZLIB),
        (ZSTD | ZLIB, b"\x03", Algorithm.ZLIB),
        (ZSTD | ZLIB, b"\x00", Algorithm.ZLIB),
    ],
)
def test_a_client_gets_what_it_asks_for_and_zlib_before_zstd(
    keys: Keys, flags: Capability, level: bytes, algorithm: Algorithm
) -> None:
    with TestServer(keys) as server, compressed(server, flags, level, algorithm) as client:
        for _ in range(3):
            client.send(b"\x03SELECT '" + b"a" * 100_000 + b"'")
            assert client.packet() == b"\x01"
            client.packet()
            assert client.packet()[:1] == b"\xfe"
            assert b"a" * 100_000 in client.packet()
            assert client.packet()[:1] == b"\xfe"


def test_a_dump_is_compressed_as_well(keys: Keys) -> None:
    def many(_: DumpRequest, __: SessionFacts, channel: Channel) -> None:
        for number in range(300):
            channel.send_packet(b"\0" + b"%d" % number * 1000)

    with TestServer(keys, dump=many) as server, compressed(server, ZSTD, b"\x03", Algorithm.ZSTD) as client:
        client.send(b"\x12" + bytes.fromhex("0400000000000c000000"))
        for number in range(300):
            assert client.packet() == b"\0" + b"%d" % number * 1000


@pytest.mark.parametrize("level", [b"", b"\x00", b"\x17", b"\xff"])
def test_a_level_that_zstd_has_not_is_refused(keys: Keys, level: bytes) -> None:
    with TestServer(keys) as server, server.raw() as client:
        answer = log_in(client, ZSTD, level)
        assert answer == b"\xff\x53\x0f#HY000Invalid zstd compression level for algorithm 'zstd'."
        assert client.ended


@pytest.mark.parametrize(
    ("allowed", "zlib", "zstd"),
    [
        (("zlib", "zstd", "uncompressed"), True, True),
        (("zstd", "uncompressed"), False, True),
        (("zlib",), True, False),
        (("uncompressed",), False, False),
    ],
)
def test_only_what_is_allowed_is_offered(keys: Keys, allowed: tuple[str, ...], zlib: bool, zstd: bool) -> None:
    with TestServer(keys) as server:
        server.view.compression_algorithms = allowed
        with server.raw() as client:
            assert (bool(offered(client) & ZLIB), bool(offered(client) & ZSTD)) == (zlib, zstd)
            answer = log_in(client, Capability(0))
            refusal = b"\xff\x52\x0f#HY000Invalid compression algorithm 'uncompressed'."
            assert answer == refusal if "uncompressed" not in allowed else answer[:1] == b"\0"


def test_a_server_of_mariadb_offers_no_zstd(keys: Keys) -> None:
    with TestServer(keys, mariadb=True) as server, server.raw() as client:
        assert offered(client) & ZLIB
        assert not offered(client) & ZSTD


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_command_that_grows_beyond_all_bounds_is_refused(keys: Keys, algorithm: Algorithm) -> None:
    """Three pieces of 16 MiB in a few kilobytes: a command may have 32 MiB."""
    flags = ZSTD if algorithm is Algorithm.ZSTD else ZLIB
    with TestServer(keys) as server, server.raw() as client:
        assert log_in(client, flags, b"\x03")[:1] == b"\0"
        ours = Compression(algorithm)
        packets = b"".join(b"\xff\xff\xff" + bytes((number,)) + bytes(0xFFFFFF) for number in range(3))
        for piece in ours.deflate([packets]):
            try:
                client.sock.sendall(piece)
            except ConnectionError:
                break
        answer = bytearray()
        theirs = Compression(algorithm)
        while b"Got a packet bigger than" not in answer:
            data = client.sock.recv(65536)
            assert data, bytes(answer)
            answer += theirs.inflate(data)
        with server.connect() as after:
            after.ping(reconnect=False)
