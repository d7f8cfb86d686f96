"""Why a dump cannot be served: the errors of both flavours, with the texts of the servers themselves.

Replicas act on the number 1236 (they stop and show the text instead of reconnecting), people search for the text, and
monitoring matches on it; so each is what MySQL 9.7.4 or MariaDB 10.11.19 was seen to send. Errors found after the dump
has begun end in coordinates (`Coordinates`), also as the servers print them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kingbus_node.binlog.constants import Flavor
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbGtid
from kingbus_node.wire.errors import ErrorCode, MySQLError, error

_MESSAGE_LIMIT: Final = 511
"""MySQL's buffer for an error message holds this many bytes (MYSQL_ERRMSG_SIZE - 1); longer ones are cut."""

_PURGED: Final = (
    "Cannot replicate because the source purged required binary logs. Replicate the missing transactions from "
    "elsewhere, or provision a new replica from backup. Consider increasing the source's binary log expiration period. "
)
_AHEAD: Final = (
    "Replica has more GTIDs than the source has, using the source's SERVER_UUID. This may indicate that the the last "
    "binary log file was truncated or lost, e.g., after a power failure when sync_binlog != 1. The source may have "
    "rolled back transactions that were already replicated to the replica. Replicate any transactions that source has "
    "rolled back from replica to source, and/or commit empty transactions on source to account for transactions that "
    "have been committed on source but are not included in GTID_EXECUTED."
)
IRREPLACEABLE_GTID: Final = "Failed to replace GTID event with backwards-compatible event: corrupt event."
"""MariaDB's words for a transaction that a replica without GTIDs cannot be told of; coordinates go with it."""
_NOT_IN_BINLOG: Final = "Error: connecting slave requested to start from GTID {}, which is not in the master's binlog"


def fatal(message: str) -> MySQLError:
    """ER_MASTER_FATAL_ERROR_READING_BINLOG (1236): the replica stops and shows `message`."""
    return error(ErrorCode.MASTER_FATAL_ERROR_READING_BINLOG, message)


@dataclass(slots=True)
class Coordinates:
    """Where a dump is, for the end of an error text.

    requested, start: file name and position as the client gave them. file: the one being read. before: where the last
    event that was read ends (MySQL) or begins (MariaDB). last: where reading stopped.
    """

    flavor: Flavor
    requested: str
    start: int
    file: str = ""
    before: int = 0
    last: int = 0

    def described(self, message: str) -> str:
        """`message` with the coordinates behind it."""
        # MySQL prints the path in its index file, MariaDB the name alone (and its basename of '' is '.').
        mariadb = self.flavor is Flavor.MARIADB
        path = self.file if mariadb else f"./{self.file}"
        requested = self.requested or ("." if mariadb else "")
        return (
            f"{message}; the first event '{requested}' at {self.start}, the last event read from '{path}' at "
            f"{self.before}, the last byte read from '{path}' at {self.last}."
        )

    def fatal(self, message: str) -> MySQLError:
        """Error 1236 with `message` and the coordinates."""
        return fatal(self.described(message))


# -- both flavours -----------------------------------------------------------------------------------------------------


def _source(flavor: Flavor) -> str:
    return "master" if flavor is Flavor.MARIADB else "source"


def _replica(flavor: Flavor) -> str:
    return "slave" if flavor is Flavor.MARIADB else "replica"


def unknown_file() -> MySQLError:
    """No retained file has the name that was asked for."""
    return fatal("Could not find first log file name in binary log index file")


def checksum_unknown(at: Coordinates) -> MySQLError:
    """The client never SET a checksum algorithm, so it predates checksums, and the file has them."""
    who = _replica(at.flavor).capitalize()
    what = f"{who} can not handle replication events with the checksum that {_source(at.flavor)} is configured to log"
    return at.fatal(what)


def same_replica(at: Coordinates) -> MySQLError:
    """The same replica has connected again; this is its older connection."""
    if at.flavor is Flavor.MARIADB:
        text = at.described("A slave with the same server_uuid/server_id is already connected")
        return error(ErrorCode.SLAVE_SAME_ID, text)
    return at.fatal("A replica with the same server_uuid/server_id as this replica has connected to the source")


def bogus_event(at: Coordinates) -> MySQLError:
    """A position inside an event, where the length found is less than an event's header."""
    return at.fatal("bogus data in log event")


def oversized_event(at: Coordinates) -> MySQLError:
    """A position inside an event, where the length found is more than any event has."""
    where = _source(at.flavor)
    return at.fatal(f"log event entry exceeded max_allowed_packet; Increase max_allowed_packet on {where}")


def truncated_event(at: Coordinates) -> MySQLError:
    """A position inside an event, where the length found reaches beyond the file."""
    what = f"binlog truncated in the middle of event; consider out of disk space on {_source(at.flavor)}"
    return at.fatal(what)


# -- MySQL -------------------------------------------------------------------------------------------------------------


def position_before_first() -> MySQLError:
    """A position below 4."""
    return fatal("Client requested source to start replication from position < 4")


def position_past_end() -> MySQLError:
    """A position behind the end of the file."""
    return fatal("Client requested source to start replication from position > file size")


def malformed_gtid_set() -> MySQLError:
    """The encoded set of COM_BINLOG_DUMP_GTID cannot be read (ER_MALFORMED_GTID_SET_ENCODING)."""
    return error(ErrorCode.MALFORMED_GTID_SET_ENCODING, "Malformed GTID set encoding.")


def purged(replica: GtidSet, missing: GtidSet) -> MySQLError:
    """The replica lacks `missing`, which were in files that are gone."""
    sets = (
        f"The GTID set sent by the replica is '{replica.format(_LINES)}', and the missing transactions are "
        f"'{missing.format(_LINES)}'"
    )
    if len(_PURGED) + len(sets) > _MESSAGE_LIMIT:
        sets = (
            "The GTID sets and the missing purged transactions are too long to print in this message. For more "
            "information, please see the source's error log or the manual for GTID_SUBTRACT"
        )
    return fatal(_PURGED + sets)


_LINES: Final = ",\n"  # as MySQL separates uuids in messages


def replica_ahead() -> MySQLError:
    """The replica has transactions numbered by this source that the source does not have."""
    return fatal(_AHEAD[:_MESSAGE_LIMIT])


def anonymous_transaction(file: str, position: int) -> MySQLError:
    """A transaction without a GTID in a GTID dump."""
    return fatal(f"Cannot replicate anonymous transaction when AUTO_POSITION = 1, at file {file}, position {position}.")


# -- MariaDB -----------------------------------------------------------------------------------------------------------


def impossible_position(requested: str, position: int) -> MySQLError:
    """A position below 4 or behind the end of the file."""
    return fatal(
        f"Client requested master to start replication from impossible position; the first event '{requested}' at "
        f"{position}, the last event read from '{requested}' at 4, the last byte read from '{requested}' at 4."
    )


def malformed_gtid_position() -> MySQLError:
    """@slave_connect_state or @slave_until_gtid is no GTID position (ER_INCORRECT_GTID_STATE)."""
    return error(ErrorCode.INCORRECT_GTID_STATE, "Could not parse GTID list")


def duplicate_domain(one: MariadbGtid, other: MariadbGtid) -> MySQLError:
    """Two GTIDs of one domain in a position (ER_DUPLICATE_GTID_DOMAIN)."""
    text = f"GTID {one} and {other} conflict (duplicate domain id {one.domain})"
    return error(ErrorCode.DUPLICATE_GTID_DOMAIN, text)


def state_not_found() -> MySQLError:
    """The position is older than the oldest file."""
    return fatal(
        "Could not find GTID state requested by slave in any binlog files. Probably the slave state is too old and "
        "required binlog files have been purged."
    )


def not_in_binlog(gtid: MariadbGtid) -> MySQLError:
    """The replica is ahead."""
    return fatal(_NOT_IN_BINLOG.format(gtid))


def diverged(gtid: MariadbGtid) -> MySQLError:
    """The domain has gone past this number, without this GTID."""
    return fatal(
        _NOT_IN_BINLOG.format(gtid)
        + ". Since the master's binlog contains GTIDs with higher sequence numbers, it probably means that the slave "
        "has diverged due to executing extra erroneous transactions"
    )


def hole(gtid: MariadbGtid) -> MySQLError:
    """With gtid_strict_mode: the binlog goes from below this GTID to above it."""
    return fatal(
        f"The binlog on the master is missing the GTID {gtid} requested by the slave (even though both a prior and a "
        "subsequent sequence number does exist), and GTID strict mode is enabled"
    )
