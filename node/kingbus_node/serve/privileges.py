"""What a user may do, in the words of the servers' GRANT, and the errors for what it may not (captured).

Both flavours' names are understood. MariaDB's BINLOG MONITOR is what MySQL calls REPLICATION CLIENT, and MariaDB wants
privileges of its own for the list of replicas and for the replica status, which MySQL does not know.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from kingbus_node.wire.errors import ErrorCode, MySQLError, error


class Privilege(StrEnum):
    """The privileges that mean something on a node."""

    REPLICATION_SLAVE = "REPLICATION SLAVE"
    REPLICATION_CLIENT = "REPLICATION CLIENT"
    REPLICATION_MASTER_ADMIN = "REPLICATION MASTER ADMIN"
    SLAVE_MONITOR = "SLAVE MONITOR"
    PROCESS = "PROCESS"
    CONNECTION_ADMIN = "CONNECTION ADMIN"
    BINLOG_ADMIN = "BINLOG ADMIN"


Privileges = frozenset[Privilege]

ALL: Final[Privileges] = frozenset(Privilege)
_OTHER_NAMES: Final[dict[str, Privileges]] = {
    "ALL": ALL,
    "ALL PRIVILEGES": ALL,
    "SUPER": ALL,
    "BINLOG MONITOR": frozenset((Privilege.REPLICATION_CLIENT,)),
    "REPLICA MONITOR": frozenset((Privilege.SLAVE_MONITOR,)),
    "REPLICATION REPLICA": frozenset((Privilege.REPLICATION_SLAVE,)),
}


def privileges_of(names: Iterable[str]) -> Privileges:
    """Read names as GRANT has them, in any letter case, with spaces or underscores. Raises ValueError: the name."""
    found: set[Privilege] = set()
    for name in names:
        plain = " ".join(name.upper().replace("_", " ").split())
        if plain in _OTHER_NAMES:
            found |= _OTHER_NAMES[plain]
        else:
            try:
                found.add(Privilege(plain))
            except ValueError:
                raise ValueError(name) from None
    return frozenset(found)


_PRINTED_BY_MYSQL: Final = {
    Privilege.PROCESS: "PROCESS",
    Privilege.REPLICATION_SLAVE: "REPLICATION SLAVE",
    Privilege.REPLICATION_CLIENT: "REPLICATION CLIENT",
}
_PRINTED_BY_MYSQL_APART: Final = {
    Privilege.BINLOG_ADMIN: "BINLOG_ADMIN",
    Privilege.CONNECTION_ADMIN: "CONNECTION_ADMIN",
}
_PRINTED_BY_MARIADB: Final = {
    Privilege.PROCESS: "PROCESS",
    Privilege.REPLICATION_SLAVE: "REPLICATION SLAVE",
    Privilege.REPLICATION_CLIENT: "BINLOG MONITOR",
    Privilege.CONNECTION_ADMIN: "CONNECTION ADMIN",
    Privilege.BINLOG_ADMIN: "BINLOG ADMIN",
    Privilege.REPLICATION_MASTER_ADMIN: "REPLICATION MASTER ADMIN",
    Privilege.SLAVE_MONITOR: "SLAVE MONITOR",
}


def grants(user: str, held: Privileges, *, require_tls: bool, mariadb: bool) -> list[str]:
    """What SHOW GRANTS prints for this user: the flavour's names of its privileges, in the server's order (captured).

    MySQL prints those that it calls dynamic in a line of their own, and does not know MariaDB's own. MariaDB also
    prints the password's hash, which a node keeps to itself.
    """
    account = f"`{user.replace('`', '``')}`@`%`"

    def line(names: dict[Privilege, str], separator: str, none: str = "") -> str:
        return separator.join(name for privilege, name in names.items() if privilege in held) or none

    if mariadb:
        more = " REQUIRE SSL" if require_tls else ""
        return [f"GRANT {line(_PRINTED_BY_MARIADB, ', ', 'USAGE')} ON *.* TO {account}{more}"]
    apart = line(_PRINTED_BY_MYSQL_APART, ",")
    first = f"GRANT {line(_PRINTED_BY_MYSQL, ', ', 'USAGE')} ON *.* TO {account}"
    return [first, f"GRANT {apart} ON *.* TO {account}"] if apart else [first]


def missing(mysql: str, in_mariadb: str, *, mariadb: bool) -> MySQLError:
    """ER_SPECIFIC_ACCESS_DENIED_ERROR with the names that the flavour's server says."""
    what = in_mariadb if mariadb else mysql
    return error(
        ErrorCode.SPECIFIC_ACCESS_DENIED,
        f"Access denied; you need (at least one of) the {what} privilege(s) for this operation",
    )


_STATUS: Final = ("SUPER, REPLICATION CLIENT", "SUPER, BINLOG MONITOR")

# What a statement, or SHOW, needs: with MySQL and with MariaDB, each as privilege and as words of the error.
_NEEDED: Final[dict[str, tuple[Privilege, str, Privilege, str]]] = {
    "BINARY LOGS": (Privilege.REPLICATION_CLIENT, _STATUS[0], Privilege.REPLICATION_CLIENT, _STATUS[1]),
    "BINARY LOG STATUS": (Privilege.REPLICATION_CLIENT, _STATUS[0], Privilege.REPLICATION_CLIENT, _STATUS[1]),
    "BINLOG EVENTS": (
        Privilege.REPLICATION_SLAVE,
        "REPLICATION SLAVE",
        Privilege.REPLICATION_CLIENT,
        "BINLOG MONITOR",
    ),
    "REPLICAS": (
        Privilege.REPLICATION_SLAVE,
        "REPLICATION SLAVE",
        Privilege.REPLICATION_MASTER_ADMIN,
        "REPLICATION MASTER ADMIN",
    ),
    "REPLICA STATUS": (Privilege.REPLICATION_CLIENT, _STATUS[0], Privilege.SLAVE_MONITOR, "SUPER, SLAVE MONITOR"),
    "PURGE": (Privilege.BINLOG_ADMIN, "SUPER or BINLOG_ADMIN", Privilege.BINLOG_ADMIN, "SUPER, BINLOG ADMIN"),
    "DUMP": (
        Privilege.REPLICATION_SLAVE,
        "REPLICATION SLAVE",
        Privilege.REPLICATION_SLAVE,
        "REPLICATION SLAVE",
    ),
}


def check(held: Privileges, what: str, *, mariadb: bool) -> None:
    """Whether who holds these privileges may do `what` (a Show.what, or another key above); raises the error if not.
    What is not listed needs none.
    """
    needed = _NEEDED.get(what)
    if needed is None:
        return
    if needed[2 if mariadb else 0] not in held:
        raise missing(needed[1], needed[3], mariadb=mariadb)
