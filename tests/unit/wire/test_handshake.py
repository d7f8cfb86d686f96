"""Greetings as the real servers send them, and responses as the real clients answer them (captured)."""

from __future__ import annotations

import functools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.wire.outcome import refusal

from kingbus_node.wire.capabilities import Capability, offered
from kingbus_node.wire.errors import ErrorCode, ProtocolError
from kingbus_node.wire.fields import lenenc_bytes
from kingbus_node.wire.handshake import (
    Greeting,
    HandshakeResponse,
    TlsRequest,
    advertised_version,
    parse_change_user,
    parse_handshake,
)

SCRAMBLE = bytes(range(1, 21))
MYSQL = offered(mariadb=False, tls=True)
MARIADB = offered(mariadb=True, tls=False)
ATTRIBUTES = {"_client_name": "libmysql", "_client_version": "9.7.4", "program_name": "mysqld"}


def response(
    flags: int,
    *,
    user: str = "repl",
    auth: bytes = b"a" * 32,
    plugin: str | None = "caching_sha2_password",
    database: str | None = None,
    attributes: dict[str, str] | None = None,
    charset: int = 255,
    filler: bytes = bytes(23),
    max_packet: int = 1073746023,
) -> bytes:
    """A handshake response as a client with these flags builds it."""
    out = struct.pack("<IIB", flags, max_packet, charset) + filler + user.encode() + b"\0"
    out += lenenc_bytes(auth) if flags & Capability.PLUGIN_AUTH_LENENC_CLIENT_DATA else bytes((len(auth),)) + auth
    if database is not None:
        out += database.encode() + b"\0"
    if plugin is not None:
        out += plugin.encode() + b"\0"
    if attributes is not None:
        block = b"".join(lenenc_bytes(k.encode()) + lenenc_bytes(v.encode()) for k, v in attributes.items())
        out += lenenc_bytes(block)
    return out


def test_the_greeting_has_the_layout_of_mysql() -> None:
    greeting = Greeting("9.7.4-2", 11, SCRAMBLE, MYSQL, "caching_sha2_password", mariadb=False, charset=255).encode()
    assert greeting[:1] == b"\x0a"
    version, rest = greeting[1:].split(b"\0", 1)
    assert version == b"9.7.4-2"
    thread, first, zero, low, charset, status, high, length = struct.unpack_from("<I8sBHBHHB", rest)
    assert (thread, first, zero, charset, status, length) == (11, SCRAMBLE[:8], 0, 255, 2, 21)
    assert low | high << 16 == int(MYSQL)
    after = rest[struct.calcsize("<I8sBHBHHB") :]
    assert after == bytes(10) + SCRAMBLE[8:] + b"\0" + b"caching_sha2_password\0"


def test_a_mysql_greeting_sets_the_first_capability_and_a_mariadb_one_does_not() -> None:
    assert MYSQL & Capability.LONG_PASSWORD
    assert not MARIADB & Capability.LONG_PASSWORD


def test_nothing_is_offered_that_a_node_cannot_do() -> None:
    for flag in (Capability.ZSTD_COMPRESSION, Capability.LOCAL_FILES, Capability.SESSION_TRACK):
        assert not MYSQL & flag
        assert not MARIADB & flag


def test_mariadb_before_11_announces_itself_with_the_prefix_that_old_replicas_need() -> None:
    assert advertised_version("10.11.19-MariaDB-log", mariadb=True) == "5.5.5-10.11.19-MariaDB-log"
    assert advertised_version("11.8.6-MariaDB", mariadb=True) == "11.8.6-MariaDB"
    assert advertised_version("9.7.4-2", mariadb=False) == "9.7.4-2"


def test_a_scramble_with_a_nul_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="scramble"):
        Greeting("1", 1, bytes(20), MYSQL, "x", mariadb=False, charset=8).encode()


def test_the_response_of_a_mysql_replica_is_understood() -> None:
    parsed = parse_handshake(response(0x99B8A285, attributes=ATTRIBUTES), MYSQL)
    assert isinstance(parsed, HandshakeResponse)
    assert (parsed.user, parsed.plugin, parsed.database) == ("repl", "caching_sha2_password", None)
    assert parsed.auth_data == b"a" * 32
    assert parsed.attributes == ATTRIBUTES
    assert (parsed.charset, parsed.max_packet) == (255, 1073746023)


def test_the_response_of_a_mariadb_replica_is_understood() -> None:
    parsed = parse_handshake(
        response(0x8038A205, auth=b"", plugin="mysql_native_password", attributes=ATTRIBUTES, charset=0), MYSQL
    )
    assert isinstance(parsed, HandshakeResponse)
    assert (parsed.auth_data, parsed.plugin, parsed.charset) == (b"", "mysql_native_password", 0)


def test_the_response_of_a_mariadb_tool_with_extended_capabilities_is_understood() -> None:
    filler = bytes(19) + bytes.fromhex("1d000000")
    parsed = parse_handshake(
        response(0x00BEA284, auth=b"b" * 20, plugin="mysql_native_password", attributes={}, filler=filler), MARIADB
    )
    assert isinstance(parsed, HandshakeResponse)
    assert parsed.auth_data == b"b" * 20


def test_a_database_is_only_read_when_the_client_says_that_it_is_there() -> None:
    parsed = parse_handshake(response(0x003AA20D, database="information_schema", attributes={}), MYSQL)
    assert isinstance(parsed, HandshakeResponse)
    assert parsed.database == "information_schema"


def test_a_request_for_tls_is_told_from_a_response() -> None:
    request = struct.pack("<IIB23x", 0x99B8AA85, 1073746023, 255)
    assert isinstance(parse_handshake(request, MYSQL), TlsRequest)


def test_a_request_for_tls_that_was_not_offered_is_a_bad_handshake() -> None:
    with pytest.raises(ProtocolError):
        parse_handshake(struct.pack("<IIB23x", 0x99B8AA85, 1073746023, 255), offered(mariadb=False, tls=False))


def test_a_client_without_plugins_is_understood() -> None:
    flags = Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION
    parsed = parse_handshake(response(int(flags), auth=b"c" * 20, plugin=None), MYSQL)
    assert isinstance(parsed, HandshakeResponse)
    assert parsed.plugin is None
    assert parsed.auth_data == b"c" * 20


def test_the_protocol_of_before_4_1_is_refused() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_handshake(b"\x85\x24\0\0\0root\0hash", MYSQL)
    assert (caught.value.code, caught.value.message) == (ErrorCode.HANDSHAKE, "Bad handshake")


def test_more_attributes_than_anybody_needs_are_dropped() -> None:
    many = {f"name{number}": "x" for number in range(1000)}
    parsed = parse_handshake(response(0x99B8A285, attributes=many), MYSQL)
    assert isinstance(parsed, HandshakeResponse)
    assert len(parsed.attributes) < 200


def test_a_change_of_user_is_understood() -> None:
    arguments = b"other\0\x14" + b"d" * 20 + b"\0" + b"\x2d\0" + b"mysql_native_password\0"
    parsed = parse_change_user(arguments, MYSQL)
    assert (parsed.user, parsed.auth_data, parsed.plugin, parsed.charset) == (
        "other",
        b"d" * 20,
        "mysql_native_password",
        45,
    )


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_handshake_or_a_bad_one(data: bytes) -> None:
    for flags in (MYSQL, MARIADB, MYSQL & ~Capability.SSL):
        assert refusal(functools.partial(parse_handshake, data, flags)) in (None, ErrorCode.HANDSHAKE)


@pytest.mark.fuzz
@given(st.data())
def test_a_damaged_handshake_is_a_handshake_or_a_bad_one(data: st.DataObject) -> None:
    whole = bytearray(response(0x99B8A285, attributes=ATTRIBUTES))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    assert refusal(lambda: parse_handshake(cut, MYSQL)) in (None, ErrorCode.HANDSHAKE)


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_change_of_user_or_malformed(data: bytes) -> None:
    assert refusal(lambda: parse_change_user(data, MYSQL)) in (None, ErrorCode.MALFORMED_PACKET)
