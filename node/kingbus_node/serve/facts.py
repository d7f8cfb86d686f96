"""What a connection has said about itself: filled by the session, read by the dump and by SHOW REPLICAS."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from kingbus_node.serve.privileges import ALL, Privileges
from kingbus_node.wire.commands import Registration

MAX_TEXT: Final = 255
"""Characters that are kept, for each connection, of what a client says of itself."""
_LEADING_INTEGER = re.compile(rb"\s*[+-]?\d{1,20}")

UserValue = bytes | int | Decimal | None
"""A user variable's value: a string (bytes, as sent), an integer, a decimal, or NULL."""


@dataclass(slots=True)
class SessionFacts:
    """Facts about one connection, in the order in which they become known.

    connection_id: as in the greeting, SHOW PROCESSLIST and KILL; unique over all workers of this node.
    host, port: the client's address. user: the account that logged in. tls: the protocol ("TLSv1.3"), '' without TLS;
    tls_cipher likewise. compression: the algorithm of the compressed protocol, '' without it. attributes: connect
    attributes (`_client_name`, `program_name`, ...).
    privileges: what the user may do, as of the login. require_tls: whether it must use TLS, likewise.
    user_variables: what ``SET @name = value`` left, under lower-case names without the @ (names are case-insensitive).
    registration: what COM_REGISTER_SLAVE said, if it came.
    dumping: the connection has become a dump.
    """

    connection_id: int
    host: str = ""
    port: int = 0
    user: str = ""
    tls: str = ""
    tls_cipher: str = ""
    compression: str = ""
    compression_level: int = 0
    attributes: dict[str, str] = field(default_factory=dict)
    privileges: Privileges = ALL
    require_tls: bool = False
    user_variables: dict[str, UserValue] = field(default_factory=dict)
    registration: Registration | None = None
    dumping: bool = False

    def text(self, *names: str) -> str | None:
        """The first of the user variables `names` that is set and not NULL, as text; None if none is.

        Pass both vocabularies, newest first: ``facts.text("source_binlog_checksum", "master_binlog_checksum")``.
        """
        for name in names:
            value = self.user_variables.get(name)
            if value is not None:
                return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        return None

    def number(self, *names: str) -> int | None:
        """The first of the user variables `names` that is set, as an integer as SQL would cast it (0 for a text that is
        no number).
        """
        for name in names:
            value = self.user_variables.get(name)
            if value is None:
                continue
            if isinstance(value, bytes):
                leading = _LEADING_INTEGER.match(value)
                return int(leading.group()) if leading else 0
            return int(value)
        return None

    @property
    def replica_uuid(self) -> str | None:
        """The replica's server_uuid in lower case (MySQL replicas SET it before they register); no more of it than
        `MAX_TEXT`.
        """
        uuid = self.text("replica_uuid", "slave_uuid")
        return uuid.lower()[:MAX_TEXT] if uuid else None

    @property
    def client_version(self) -> str:
        """The client library's version as its connect attributes say, '' when they do not."""
        return self.attributes.get("_client_version", "")[:MAX_TEXT]
