"""Capability flags: what server and client can do. What holds is what both have ("Capabilities Flags" of the
documentation).

MySQL 9.7's library leaves QUERY_ATTRIBUTES and DEPRECATE_EOF set in its response although the server did not offer
them, and then behaves as if they were not (captured): so always look at `client & offered`, never at the client's flags
alone.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntFlag
from typing import Final


class Capability(IntFlag):
    """Flags of the greeting and the handshake response. LONG_PASSWORD is clear in a MariaDB server's greeting."""

    LONG_PASSWORD = 1 << 0
    FOUND_ROWS = 1 << 1
    LONG_FLAG = 1 << 2
    CONNECT_WITH_DB = 1 << 3
    NO_SCHEMA = 1 << 4
    COMPRESS = 1 << 5
    ODBC = 1 << 6
    LOCAL_FILES = 1 << 7
    IGNORE_SPACE = 1 << 8
    PROTOCOL_41 = 1 << 9
    INTERACTIVE = 1 << 10
    SSL = 1 << 11
    IGNORE_SIGPIPE = 1 << 12
    TRANSACTIONS = 1 << 13
    RESERVED = 1 << 14
    SECURE_CONNECTION = 1 << 15
    MULTI_STATEMENTS = 1 << 16
    MULTI_RESULTS = 1 << 17
    PS_MULTI_RESULTS = 1 << 18
    PLUGIN_AUTH = 1 << 19
    CONNECT_ATTRS = 1 << 20
    PLUGIN_AUTH_LENENC_CLIENT_DATA = 1 << 21
    CAN_HANDLE_EXPIRED_PASSWORDS = 1 << 22
    SESSION_TRACK = 1 << 23
    DEPRECATE_EOF = 1 << 24
    OPTIONAL_RESULTSET_METADATA = 1 << 25
    ZSTD_COMPRESSION = 1 << 26
    QUERY_ATTRIBUTES = 1 << 27
    MULTI_FACTOR_AUTHENTICATION = 1 << 28


OFFERED: Final = (
    Capability.LONG_PASSWORD
    | Capability.FOUND_ROWS
    | Capability.LONG_FLAG
    | Capability.CONNECT_WITH_DB
    | Capability.NO_SCHEMA
    | Capability.ODBC
    | Capability.IGNORE_SPACE
    | Capability.PROTOCOL_41
    | Capability.INTERACTIVE
    | Capability.IGNORE_SIGPIPE
    | Capability.TRANSACTIONS
    | Capability.RESERVED
    | Capability.SECURE_CONNECTION
    | Capability.MULTI_RESULTS
    | Capability.PS_MULTI_RESULTS
    | Capability.PLUGIN_AUTH
    | Capability.CONNECT_ATTRS
    | Capability.PLUGIN_AUTH_LENENC_CLIENT_DATA
    | Capability.CAN_HANDLE_EXPIRED_PASSWORDS
    | Capability.DEPRECATE_EOF
)
"""What a node can always do. Not offered because it cannot: several statements in one, local files, session tracking,
multi-factor login."""


def offered(*, mariadb: bool, tls: bool, compression: Collection[str] = ()) -> Capability:
    """The flags for the greeting of a server of this flavour, with or without TLS.

    compression: the names of the algorithms that may be used; MariaDB knows no zstd.
    """
    flags = OFFERED
    if tls:
        flags |= Capability.SSL
    if "zlib" in compression:
        flags |= Capability.COMPRESS
    if "zstd" in compression and not mariadb:
        flags |= Capability.ZSTD_COMPRESSION
    if mariadb:
        flags &= ~Capability.LONG_PASSWORD  # how MariaDB says that the reserved bytes hold its extended capabilities
    else:
        flags |= Capability.QUERY_ATTRIBUTES
    return flags


class ServerStatus(IntFlag):
    """Status flags of greeting, OK and EOF packets."""

    IN_TRANSACTION = 0x0001
    AUTOCOMMIT = 0x0002
    MORE_RESULTS = 0x0008
