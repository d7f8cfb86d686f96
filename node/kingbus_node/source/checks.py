"""What is said to a source before a dump, what it must answer, and what the answers mean.

The statements and their order are those of a real replica of the same flavour (captured from MySQL 9.7.4 and MariaDB
10.11.19), so that a source, or a proxy before it, sees nothing unusual; a few more ask for what a replica would learn
later, so that a refusal can say exactly what is missing.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Final

from kingbus_node.binlog.constants import FIRST_POSITION, ChecksumAlgorithm, Flavor
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.executed import ExecutedSet
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.config import SourceSettings
from kingbus_node.source.connection import NO_PRIVILEGE, UNKNOWN_VARIABLE, QueryError, SourceConnection
from kingbus_node.source.errors import Disconnected, Refused
from kingbus_node.source.requests import register_slave

MARIADB_CAPABILITY: Final = 4
"""MARIA_SLAVE_CAPABILITY_GTID: "send events as they are, checkpoints, GTIDs and GTID lists included"."""

_OWNER = re.compile(r"#\d+")
_VERSION = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True, slots=True)
class Replica:
    """How the cluster presents itself. `uuid`: its own server_uuid; `host`, `port`: for SHOW REPLICAS at the source."""

    server_id: int
    uuid: str
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What a source said about itself.

    `version` as SELECT VERSION() would give it. `identity` tells one source from another, whatever its address:
    "uuid:…" or, as MariaDB has no server_uuid, "server_id:…". `checksum`: binlog_checksum now; files may differ.
    `semi_sync`: both sides want it and it was agreed. `clock_offset`: seconds that the source's clock is ahead of ours.
    `executed`: what it has committed (MariaDB: its binlog state). `committing`: what it is about to commit and may have
    sent already (with semi-sync it waits for us with that). `purged`: what its binlogs no longer hold (MariaDB: its
    position where its oldest file begins; empty if it does not tell). `row_metadata`: binlog_row_metadata, '' if it has
    none; clients of ours ask for it.
    `tls`: the protocol used, `compression`: the algorithm; None without. `warnings`: for people.
    """

    flavor: Flavor
    version: str
    server_id: int
    server_uuid: str
    checksum: ChecksumAlgorithm
    semi_sync: bool
    clock_offset: float
    executed: ExecutedSet
    purged: ExecutedSet
    committing: GtidSet = field(default_factory=GtidSet)
    row_metadata: str = ""
    tls: str | None = None
    compression: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """See above."""
        return f"uuid:{self.server_uuid}" if self.flavor is Flavor.MYSQL else f"server_id:{self.server_id}"

    @property
    def number(self) -> tuple[int, ...]:
        """The version as numbers: (9, 7, 4)."""
        match = _VERSION.match(self.version)
        return tuple(int(part) for part in match[0].split(".")) if match else ()


def flavor_of(greeting: str) -> tuple[Flavor, str]:
    """Flavour and version from a greeting. MariaDB before 11 puts "5.5.5-" in front, for old replicas."""
    if "mariadb" in greeting.lower():
        return Flavor.MARIADB, greeting.removeprefix("5.5.5-")
    return Flavor.MYSQL, greeting


def introduce(
    connection: SourceConnection, settings: SourceSettings, replica: Replica, heartbeat: float, known: Flavor | None
) -> SourceFacts:
    """Say who we are and ask who the source is; register as its replica; agree on checksums, heartbeat and semi-sync.

    `heartbeat`: seconds of silence after which the source shall send one. `known`: the flavour of what the log holds.
    Refused when it cannot be our source as it is, Disconnected when it is gone.
    """
    try:
        return _introduce(connection, settings, replica, heartbeat, known)
    except QueryError as error:
        raise Refused(f"the source at {connection.endpoint} does not answer as a source: {error}") from error
    except BinlogError as error:
        raise Refused(f"the source at {connection.endpoint} has GTIDs that cannot be read: {error}") from error


def _introduce(
    connection: SourceConnection, settings: SourceSettings, replica: Replica, heartbeat: float, known: Flavor | None
) -> SourceFacts:
    flavor, version = flavor_of(connection.greeting)
    for wanted, why in ((settings.flavor, "source.flavor is"), (known, "the log holds the binlog of")):
        if wanted not in (None, "auto", flavor):
            raise Refused(f"{connection.endpoint} is {flavor} ({version}), but {why} {wanted}")
    before = time.time()
    clock_offset = float(_value(connection, "SELECT UNIX_TIMESTAMP()")) - (before + time.time()) / 2
    if flavor is Flavor.MYSQL:
        server_id = int(_value(connection, "SELECT @@GLOBAL.SERVER_ID"))
    else:
        server_id = int(_shown(connection, "SERVER_ID") or 0)
    if server_id == replica.server_id:
        raise Refused(
            f"the source at {connection.endpoint} has server_id {server_id}, and so has this cluster "
            "(source.server_id): expected two different ids"
        )
    if _variable(connection, "log_bin") == "0":
        raise Refused(f"the source at {connection.endpoint} writes no binlog: expected log_bin to be ON")
    ask = _ask_mysql if flavor is Flavor.MYSQL else _ask_mariadb
    return ask(connection, settings, replica, int(heartbeat * 1e9), version, server_id, clock_offset)


def _ask_mysql(
    connection: SourceConnection,
    settings: SourceSettings,
    replica: Replica,
    heartbeat: int,
    version: str,
    server_id: int,
    clock_offset: float,
) -> SourceFacts:
    connection.query(f"SET @master_heartbeat_period = {heartbeat}, @source_heartbeat_period = {heartbeat}")
    connection.query(
        "SET @master_binlog_checksum = @@global.binlog_checksum, @source_binlog_checksum = @@global.binlog_checksum"
    )
    checksum = _checksum(_value(connection, "SELECT @source_binlog_checksum"))
    mode = _variable(connection, "GTID_MODE") or "OFF"
    if mode != "ON":
        raise Refused(
            f"the source at {connection.endpoint} has gtid_mode = {mode}: expected ON. Turn it on there, step by step "
            "(MySQL manual, 'Enabling GTID Transactions Online')"
        )
    server_uuid = _value(connection, "SELECT @@GLOBAL.SERVER_UUID").lower()
    if server_uuid == replica.uuid.lower():
        raise Refused(
            f"the source at {connection.endpoint} has server_uuid {server_uuid}, and so has this cluster: "
            "is it a node of this cluster, or was a data directory copied?"
        )
    connection.query(f"SET @slave_uuid = '{replica.uuid}', @replica_uuid = '{replica.uuid}'")
    connection.execute(register_slave(replica.server_id, replica.host, replica.port))
    warnings = _warn_of_format(_variable(connection, "binlog_format"))
    # First those on their way to a commit, then the committed ones: none can slip through between the two answers.
    owned = GtidSet.parse(_OWNER.sub("", _value(connection, "SELECT @@GLOBAL.GTID_OWNED")))
    executed = GtidSet.parse(_value(connection, "SELECT @@GLOBAL.GTID_EXECUTED"))
    purged = GtidSet.parse(_value(connection, "SELECT @@GLOBAL.GTID_PURGED"))
    semi_sync = settings.semi_sync and "1" in (
        _variable(connection, "rpl_semi_sync_source_enabled"),
        _variable(connection, "rpl_semi_sync_master_enabled"),
    )
    if semi_sync:
        connection.query("SET @rpl_semi_sync_replica = 1, @rpl_semi_sync_slave = 1")
    return SourceFacts(
        flavor=Flavor.MYSQL,
        version=version,
        server_id=server_id,
        server_uuid=server_uuid,
        checksum=checksum,
        semi_sync=semi_sync,
        clock_offset=clock_offset,
        executed=executed,
        purged=purged,
        committing=owned,
        row_metadata=_variable(connection, "binlog_row_metadata") or "",
        tls=connection.tls,
        compression=connection.compression,
        warnings=warnings,
    )


def _ask_mariadb(
    connection: SourceConnection,
    settings: SourceSettings,
    replica: Replica,
    heartbeat: int,
    version: str,
    server_id: int,
    clock_offset: float,
) -> SourceFacts:
    connection.query(f"SET @master_heartbeat_period= {heartbeat}")
    connection.query("SET @master_binlog_checksum= @@global.binlog_checksum")
    checksum = _checksum(_value(connection, "SELECT @master_binlog_checksum"))
    connection.query(f"SET @mariadb_slave_capability={MARIADB_CAPABILITY}")
    state = MariadbState.parse(_value(connection, "SELECT @@GLOBAL.gtid_binlog_state"))
    warnings = _warn_of_format(_variable(connection, "binlog_format"))
    connection.execute(register_slave(replica.server_id, replica.host, replica.port))
    semi_sync = settings.semi_sync and _shown(connection, "rpl_semi_sync_master_enabled") == "ON"
    if semi_sync:
        connection.query("SET @rpl_semi_sync_slave= 1")
    return SourceFacts(
        flavor=Flavor.MARIADB,
        version=version,
        server_id=server_id,
        server_uuid="",
        checksum=checksum,
        semi_sync=semi_sync,
        clock_offset=clock_offset,
        executed=state,
        purged=_mariadb_purged(connection),
        row_metadata=_variable(connection, "binlog_row_metadata") or "",
        tls=connection.tls,
        compression=connection.compression,
        warnings=warnings,
    )


def set_connect_state(connection: SourceConnection, position: str) -> None:
    """Before a MariaDB dump by GTID: where to begin (a replica's gtid_slave_pos)."""
    connection.query(f"SET @slave_connect_state='{position}'")
    connection.query("SET @slave_gtid_strict_mode=0")
    connection.query("SET @slave_gtid_ignore_duplicates=0")


def gtid_position(connection: SourceConnection, file: str, position: int) -> MariadbState | None:
    """MariaDB's GTID position at a place in a binlog file; None if the file or the event boundary does not exist."""
    escaped = file.replace("\\", "\\\\").replace("'", "\\'")
    answer = connection.query(f"SELECT binlog_gtid_pos('{escaped}',{position})")[0][0]
    return None if answer is None else MariadbState.parse(answer)


def _mariadb_purged(connection: SourceConnection) -> MariadbState:
    """The GTID position at which the oldest file begins; empty if we may not know, or it was purged just now."""
    try:
        rows = connection.query("SHOW BINARY LOGS")
    except Refused as error:
        if error.code == NO_PRIVILEGE:
            return MariadbState()
        raise
    oldest = rows[0][0] if rows and rows[0] else None
    before = None if oldest is None else gtid_position(connection, oldest, FIRST_POSITION)
    return MariadbState() if before is None else before


def _value(connection: SourceConnection, sql: str) -> str:
    """The first column of the first row, '' for NULL. Disconnected if there is no row: no server answers so."""
    rows = connection.query(sql)
    if not rows or not rows[0]:
        raise Disconnected(f"expected a row in the answer to {sql!r}, found none")
    return rows[0][0] or ""


def _variable(connection: SourceConnection, name: str) -> str | None:
    """A global variable, None if this server has none of that name."""
    try:
        return _value(connection, f"SELECT @@GLOBAL.{name}")
    except QueryError as error:
        if error.code == UNKNOWN_VARIABLE:
            return None
        raise


def _shown(connection: SourceConnection, name: str) -> str | None:
    """A variable as SHOW VARIABLES has it, None if it has none."""
    rows = connection.query(f"SHOW VARIABLES LIKE '{name}'")
    return rows[0][1] if rows and len(rows[0]) > 1 else None


def _checksum(name: str) -> ChecksumAlgorithm:
    try:
        return ChecksumAlgorithm[name.upper()]
    except KeyError:
        raise Refused(f"the source's binlog_checksum is {name!r}: expected CRC32 or NONE") from None


def _warn_of_format(binlog_format: str | None) -> tuple[str, ...]:
    if binlog_format in (None, "ROW"):
        return ()
    warning = (
        f"the source has binlog_format = {binlog_format}, expected ROW: statements are passed on as they are, but "
        "replicas may compute different results, and readers of row events see none"
    )
    return (warning,)
