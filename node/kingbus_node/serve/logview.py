"""The log as a server: `ServerView` on a `LogReader`."""

from __future__ import annotations

import itertools
import socket
import sys
import time
from collections.abc import Iterator, Sequence

from kingbus_node.binlog.constants import Flavor
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.serve.logevents import events_of, position_at
from kingbus_node.serve.view import LogEvent, LogFile
from kingbus_node.store.catalogue import FileInfo
from kingbus_node.store.errors import PositionInsideEventError, PositionPastEndError, StoreError
from kingbus_node.store.reader import LogReader
from kingbus_node.store.state import FACT_CLUSTER_UUID
from kingbus_node.wire.compression import ALLOWED
from kingbus_node.wire.errors import ErrorCode, MySQLError, error

FACT_SOURCE = "source"
_UNKNOWN_VERSION = {False: "8.0.0-kingbus", True: "10.11.0-MariaDB-kingbus"}


class LogView:
    """See `view.ServerView`. version: what to advertise, "auto" for the version of the source. started: see
    `WorkerSettings`.
    """

    def __init__(
        self,
        reader: LogReader,
        *,
        server_id: int,
        port: int,
        version: str,
        tls_required: bool,
        compression_algorithms: Sequence[str] = ALLOWED,
        max_connections: int = 1000,
        started: float,
    ) -> None:
        self._reader = reader
        self._version = version
        self.server_id = server_id
        self.port = port
        self.hostname = socket.gethostname()
        self.tls_required = tls_required
        self.compression_algorithms = compression_algorithms
        self.max_connections = max_connections
        self._started = started

    def missing(self) -> str | None:
        """What must be known before replicas can be served, and is not yet; None when all is there."""
        state = self._reader.state()
        if state.flavor is None or not self._source("version"):
            return "no source has been reached yet"
        if state.flavor is Flavor.MYSQL and not self.server_uuid:
            return "the cluster has no server_uuid yet"
        return None

    def _source(self, key: str) -> str:
        fact = self._reader.facts().get(FACT_SOURCE)
        value = fact.get(key) if isinstance(fact, dict) else None
        return value if isinstance(value, str) else ""

    @property
    def mariadb(self) -> bool:
        return self._reader.state().flavor is Flavor.MARIADB

    @property
    def version(self) -> str:
        if self._version != "auto":
            return self._version
        return self._source("version") or _UNKNOWN_VERSION[self.mariadb]

    @property
    def server_uuid(self) -> str:
        value = self._reader.facts().get(FACT_CLUSTER_UUID)
        return value if isinstance(value, str) else ""

    @property
    def checksum(self) -> str:
        return self._source("checksum").upper() or "CRC32"

    @property
    def row_metadata(self) -> str:
        return self._source("row_metadata") or ("NO_LOG" if self.mariadb else "MINIMAL")

    def uptime(self) -> int:
        return int(time.monotonic() - self._started)

    def executed(self) -> str:
        executed = self._reader.state().executed
        return executed.format(",\n") if isinstance(executed, GtidSet) else str(executed or "")

    def binlog_state(self) -> str:
        executed = self._reader.state().executed
        return executed.to_json() if isinstance(executed, MariadbState) else self.executed()

    def purged(self) -> str:
        purged = self._reader.purged()
        return purged.format(",\n") if isinstance(purged, GtidSet) else str(purged or "")

    def log_files(self) -> Iterator[LogFile]:
        return (LogFile(file.name, file.end_pos) for file in self._reader.files())

    def current_file(self) -> LogFile | None:
        file = self._reader.current_file()
        return None if file is None else LogFile(file.name, file.end_pos)

    def gtid_position_at(self, file: str, position: int) -> str | None:
        info = self._reader.file_by_name(file)
        if info is None:
            return None
        try:
            return str(position_at(self._reader, info, position))
        except (PositionPastEndError, PositionInsideEventError):
            return None

    def events(self, file: str | None, position: int, offset: int, count: int | None) -> Iterator[LogEvent]:
        position = max(position, 4)
        info = self._reader.oldest_file() if file is None else self._reader.file_by_name(file)
        if info is None:
            if file is None:
                return iter(())
            raise _events_error("Could not find target log")
        events = self._events(info, position)
        end = sys.maxsize if count is None else offset + count  # clients say 18446744073709551615 for all
        return itertools.islice(events, min(offset, sys.maxsize), min(end, sys.maxsize))

    def _events(self, info: FileInfo, position: int) -> Iterator[LogEvent]:
        """MySQL looks for the next event from any place on; MariaDB wants a place where an event begins (captured)."""
        try:
            yield from events_of(self._reader, info, position, lenient=not self.mariadb)
        except PositionPastEndError:
            if self.mariadb:
                raise _events_error(
                    f"Invalid pos specified. Requested from pos:{position} is greater than actual file "
                    f"size:{info.end_pos}"
                ) from None
        except PositionInsideEventError:
            raise _events_error("Wrong offset or I/O error") from None
        except StoreError as problem:
            raise _events_error(str(problem)) from problem


def _events_error(why: str) -> MySQLError:
    """ER_ERROR_WHEN_EXECUTING_COMMAND, as MySQL gives it."""
    return error(ErrorCode.ERROR_WHEN_EXECUTING_COMMAND, f"Error when executing command SHOW BINLOG EVENTS: {why}")
