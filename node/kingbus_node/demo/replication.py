"""The SQL that makes one server a replica of another address, in the vocabulary of its flavour, and waiting for it.

MySQL: manual, "CHANGE REPLICATION SOURCE TO Statement" and "SHOW REPLICA STATUS Statement"; MariaDB: knowledge base,
"CHANGE MASTER TO" and "Global Transaction ID".
"""

from __future__ import annotations

from dataclasses import dataclass

from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Server, text
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

__all__ = ["FilePosition", "ReplicaStatus", "ReplicationBroken", "Upstream", "caught_up", "replicate", "wait_caught_up"]


@dataclass(frozen=True, slots=True)
class Upstream:
    """The address that a replica connects to, and who it is there."""

    port: int
    user: str = REPLICATION_USER
    password: str = REPLICATION_PASSWORD
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class FilePosition:
    """Where a replica starts when it does not use GTIDs; the empty name is the source's first file."""

    file: str = ""
    position: int = 4


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What SHOW REPLICA STATUS says, of either flavour."""

    io_running: str
    """`Yes`, `No`, `Connecting` (MySQL) or `Preparing` (MariaDB)."""
    sql_running: str
    io_error: str
    sql_error: str
    source_file: str
    read_position: int
    executed_file: str
    executed_position: int
    gtids: str
    """Executed: MySQL's Executed_Gtid_Set, MariaDB's gtid_slave_pos."""

    @property
    def broken(self) -> str:
        """Why it will not go on by itself; empty when it will."""
        if self.sql_error:
            return f"the applier stopped: {self.sql_error}"
        if self.io_error and self.io_running == "No":
            return f"the receiver stopped: {self.io_error}"
        return ""


class ReplicationBroken(Exception):
    """A replica stopped with an error; the text is the server's own."""


def replicate(replica: Server, upstream: Upstream, start: FilePosition | None = None, *, options: str = "") -> None:
    """Point `replica` at `upstream` and start it: by GTID, or from a file and position when `start` is given.

    `options` is appended to the CHANGE statement (`, NAME = value`). A replica that already runs is stopped first.
    """
    mysql = replica.flavor is Flavor.MYSQL
    prefix = "SOURCE" if mysql else "MASTER"
    settings = {
        f"{prefix}_HOST": f"'{upstream.host}'",
        f"{prefix}_PORT": str(upstream.port),
        f"{prefix}_USER": f"'{upstream.user}'",
        f"{prefix}_PASSWORD": f"'{upstream.password}'",
        f"{prefix}_CONNECT_RETRY": "1",
        f"{prefix}_HEARTBEAT_PERIOD": "2",
    }
    if mysql:
        settings |= {"SOURCE_RETRY_COUNT": "86400", "GET_SOURCE_PUBLIC_KEY": "1"}
    else:
        # MariaDB 11.4 and newer insist on TLS otherwise.
        settings |= {"MASTER_SSL_VERIFY_SERVER_CERT": "0"}
    if start is None:
        settings |= {"SOURCE_AUTO_POSITION": "1"} if mysql else {"MASTER_USE_GTID": "slave_pos"}
    else:
        settings |= {"SOURCE_AUTO_POSITION": "0"} if mysql else {"MASTER_USE_GTID": "no"}
        settings |= {f"{prefix}_LOG_FILE": f"'{start.file}'", f"{prefix}_LOG_POS": str(start.position)}
    change = "CHANGE REPLICATION SOURCE TO" if mysql else "CHANGE MASTER TO"
    word = "REPLICA" if mysql else "SLAVE"
    assignments = ", ".join(f"{name} = {value}" for name, value in settings.items())
    replica.sql(f"STOP {word}", f"{change} {assignments}{options}", f"START {word}")


def status(replica: Server) -> ReplicaStatus | None:
    """The state of its only channel; None when it is no replica."""
    mysql = replica.flavor is Flavor.MYSQL
    rows = replica.table("SHOW REPLICA STATUS" if mysql else "SHOW SLAVE STATUS")
    if not rows:
        return None
    row = rows[0]
    source, word = ("Source", "Replica") if mysql else ("Master", "Slave")
    return ReplicaStatus(
        io_running=text(row[f"{word}_IO_Running"]),
        sql_running=text(row[f"{word}_SQL_Running"]),
        io_error=text(row["Last_IO_Error"]),
        sql_error=text(row["Last_SQL_Error"]),
        source_file=text(row[f"{source}_Log_File"]),
        read_position=int(text(row[f"Read_{source}_Log_Pos"])),
        executed_file=text(row[f"Relay_{source}_Log_File"]),
        executed_position=int(text(row[f"Exec_{source}_Log_Pos"])),
        gtids=text(row["Executed_Gtid_Set"]) if mysql else text(replica.value("SELECT @@GLOBAL.gtid_slave_pos")),
    )


def executed(source: Server) -> str:
    """What a source has written: gtid_executed, or MariaDB's gtid_binlog_pos."""
    variable = "gtid_executed" if source.flavor is Flavor.MYSQL else "gtid_binlog_pos"
    return text(source.value(f"SELECT @@GLOBAL.{variable}")).replace("\n", "")


def caught_up(replica: Server, gtids: str) -> bool:
    """Whether the replica has executed all of `gtids` (as `executed` gives them for its source)."""
    if replica.flavor is Flavor.MYSQL:
        return replica.value(f"SELECT GTID_SUBSET('{gtids}', @@GLOBAL.gtid_executed)") == 1
    reached = _sequence_numbers(text(replica.value("SELECT @@GLOBAL.gtid_slave_pos")))
    return all(reached.get(domain, 0) >= number for domain, number in _sequence_numbers(gtids).items())


def _sequence_numbers(position: str) -> dict[str, int]:
    """The last sequence number of each domain in a MariaDB position such as `0-1-5,2-1-9`."""
    parts = [gtid.split("-") for gtid in position.split(",") if gtid]
    return {domain: int(number) for domain, _, number in parts}


def wait_caught_up(source: Server, replica: Server, timeout: float = 120.0) -> None:
    """Wait until the replica has executed what the source has written by now.

    ReplicationBroken as soon as the replica stops with an error, Timeout when it is too slow.
    """
    target = executed(source)

    def reached() -> bool:
        now = status(replica)
        if now is None:
            raise ReplicationBroken(f"{replica!r} is no replica")
        if now.broken:
            raise ReplicationBroken(f"{replica!r}: {now.broken}")
        return caught_up(replica, target)

    wait_until(reached, timeout, f"{replica!r} to execute {target}", interval=0.1, found=lambda: repr(status(replica)))
