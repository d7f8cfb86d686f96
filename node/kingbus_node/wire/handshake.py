"""The connection phase: the server's greeting, the client's response to it, its request for TLS.

Layouts: "Protocol::HandshakeV10", "Protocol::SSLRequest" and "Protocol::HandshakeResponse41" of MySQL's documentation,
and MariaDB's "Connecting" page. MariaDB differs in three ways: its greeting's flags lack the first bit and the last
four reserved bytes are its own extended capabilities; its versions before 11 start with "5.5.5-", because old replicas
looked at the first digit only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from kingbus_node.wire.capabilities import Capability, ServerStatus
from kingbus_node.wire.errors import ProtocolError, bad_handshake
from kingbus_node.wire.fields import FieldReader

PROTOCOL_VERSION: Final = 10
SCRAMBLE_LENGTH: Final = 20
_AUTH_DATA_LENGTH: Final = SCRAMBLE_LENGTH + 1
_FIRST_PART: Final = 8
_MARIADB_VERSION_PREFIX: Final = "5.5.5-"
_SSL_REQUEST: Final = struct.Struct("<IIB23x")
_MAX_ATTRIBUTES: Final = 128


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the server says first.

    version: the server's version without any prefix. connection_id: 32 bits. scramble: 20 bytes without NUL.
    plugin: the authentication plugin whose data `scramble` is. charset: a collation's id, its low 8 bits.
    """

    version: str
    connection_id: int
    scramble: bytes
    capabilities: Capability
    plugin: str
    mariadb: bool
    charset: int
    status: ServerStatus = ServerStatus.AUTOCOMMIT

    def encode(self) -> bytes:
        """The payload of the greeting."""
        if len(self.scramble) != SCRAMBLE_LENGTH or 0 in self.scramble:
            raise ValueError(f"a scramble has {SCRAMBLE_LENGTH} bytes, none of them NUL")
        flags = int(self.capabilities)
        return b"".join(
            (
                bytes((PROTOCOL_VERSION,)),
                advertised_version(self.version, mariadb=self.mariadb).encode("ascii", "replace"),
                b"\0",
                struct.pack("<I", self.connection_id & 0xFFFFFFFF),
                self.scramble[:_FIRST_PART],
                b"\0",
                struct.pack("<HBHH", flags & 0xFFFF, self.charset & 0xFF, int(self.status), flags >> 16),
                bytes((_AUTH_DATA_LENGTH,)),
                bytes(10),  # with MariaDB the last four are extended capabilities: none are offered
                self.scramble[_FIRST_PART:],
                b"\0",
                self.plugin.encode("ascii"),
                b"\0",
            )
        )


def advertised_version(version: str, *, mariadb: bool) -> str:
    """The version as a greeting carries it: MariaDB before 11 puts "5.5.5-" before it (captured: 10.11 does, 11.8 does
    not).
    """
    major = version.split(".", 1)[0]
    if mariadb and major.isdecimal() and int(major) < 11:
        return _MARIADB_VERSION_PREFIX + version
    return version


@dataclass(frozen=True, slots=True)
class TlsRequest:
    """The client wants TLS before it says anything else: the handshake response follows inside."""

    capabilities: Capability
    max_packet: int
    charset: int


@dataclass(frozen=True, slots=True)
class HandshakeResponse:
    """Who the client is, and its first authentication data.

    capabilities: as the client sent them; `& offered` is what holds. max_packet: bytes. plugin: the plugin that made
    `auth_data`, None when the client does not know plugins. attributes: `_client_name` and such. zstd_level: as the
    client wants it, 0 when it does not say (or there is no zstd).
    """

    capabilities: Capability
    max_packet: int
    charset: int
    user: str
    auth_data: bytes
    database: str | None
    plugin: str | None
    attributes: dict[str, str] = field(default_factory=dict)
    zstd_level: int = 0


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def parse_handshake(payload: bytes, offered: Capability) -> TlsRequest | HandshakeResponse:
    """Read the client's first packet, or its second one after TLS has begun.

    Raises `ProtocolError` (ER_HANDSHAKE_ERROR "Bad handshake") for what cannot be read, and for the protocol of before
    4.1.
    """
    try:
        return _parse_handshake(payload, offered)
    except ProtocolError:
        raise bad_handshake() from None


def _parse_handshake(payload: bytes, offered: Capability) -> TlsRequest | HandshakeResponse:
    reader = FieldReader(payload, "the handshake response")
    head = reader.fixed(_SSL_REQUEST.size)
    flags, max_packet, charset = _SSL_REQUEST.unpack(head)
    client = Capability(flags & 0x1FFFFFFF)  # the bits above are the client library's own business
    if not client & Capability.PROTOCOL_41:
        raise bad_handshake()
    if reader.remaining == 0 and client & offered & Capability.SSL:
        return TlsRequest(client, max_packet, charset)
    agreed = client & offered
    user = _text(reader.nul_terminated())
    if agreed & Capability.PLUGIN_AUTH_LENENC_CLIENT_DATA:
        auth_data = reader.lenenc_bytes()
    elif agreed & Capability.SECURE_CONNECTION:
        auth_data = reader.fixed(reader.integer(1))
    else:
        auth_data = reader.nul_terminated()
    database = None
    if agreed & Capability.CONNECT_WITH_DB and reader.remaining:
        database = _text(reader.nul_terminated()) or None
    plugin = None
    if agreed & Capability.PLUGIN_AUTH and reader.remaining:
        plugin = _text(reader.nul_terminated())
    attributes: dict[str, str] = {}
    if agreed & Capability.CONNECT_ATTRS and reader.remaining:
        attributes = _attributes(reader.lenenc_bytes())
    level = reader.integer(1) if agreed & Capability.ZSTD_COMPRESSION and reader.remaining else 0
    return HandshakeResponse(client, max_packet, charset, user, auth_data, database, plugin, attributes, level)


def _attributes(block: bytes) -> dict[str, str]:
    reader = FieldReader(block, "the connect attributes")
    attributes: dict[str, str] = {}
    while reader.remaining:
        name = _text(reader.lenenc_bytes())
        value = _text(reader.lenenc_bytes())
        if len(attributes) < _MAX_ATTRIBUTES:
            attributes[name] = value
    return attributes


@dataclass(frozen=True, slots=True)
class ChangeUser:
    """COM_CHANGE_USER: log in anew on the same connection. Its fields are those of `HandshakeResponse`."""

    user: str
    auth_data: bytes
    database: str | None
    plugin: str | None
    charset: int | None
    attributes: dict[str, str] = field(default_factory=dict)


def parse_change_user(arguments: bytes, agreed: Capability) -> ChangeUser:
    """Read the arguments of COM_CHANGE_USER. Raises `ProtocolError` (ER_MALFORMED_PACKET)."""
    reader = FieldReader(arguments, "COM_CHANGE_USER")
    user = _text(reader.nul_terminated())
    auth_data = reader.fixed(reader.integer(1)) if agreed & Capability.SECURE_CONNECTION else reader.nul_terminated()
    database = (_text(reader.nul_terminated()) or None) if reader.remaining else None
    charset = reader.integer(2) & 0xFF if reader.remaining >= 2 else None
    plugin = _text(reader.nul_terminated()) if agreed & Capability.PLUGIN_AUTH and reader.remaining else None
    attributes: dict[str, str] = {}
    if agreed & Capability.CONNECT_ATTRS and reader.remaining:
        attributes = _attributes(reader.lenenc_bytes())
    return ChangeUser(user, auth_data, database, plugin, charset, attributes)
