"""The log as a server: what SQL tells of it, for binlogs that real servers wrote."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from binlogs.captured import events
from unit.serve.binlogs import Importer

from kingbus_node.binlog.constants import EventType, Flavor
from kingbus_node.serve.logview import LogView
from kingbus_node.serve.view import ServerView
from kingbus_node.store.entry import Json
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader
from kingbus_node.wire.errors import MySQLError

SOURCE: dict[str, Json] = {"version": "9.7.4-2", "server_id": 1}
UUID = "11111111-2222-3333-4444-555555555555"


class Logs:
    """Makes a log of captured files and shows it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logs: list[Log] = []
        self._readers: list[LogReader] = []

    def view(
        self, flavor: Flavor, *files: str | list[bytes], facts: dict[str, Json] | None = None, started: float = 0.0
    ) -> LogView:
        log = Log.open(self._folder / f"log-{len(self._logs)}", segment_bytes=1 << 20)
        self._logs.append(log)
        importer = Importer(log, flavor, facts={"source": SOURCE, "cluster_uuid": UUID} if facts is None else facts)
        log.commit(log.last_index)
        for number, file in enumerate(files, 1):
            importer.events(f"binlog.{number:06}", events(file) if isinstance(file, str) else file)
        reader = LogReader(log.directory)
        self._readers.append(reader)
        return LogView(reader, server_id=101, port=3306, version="auto", tls_required=False, started=started)

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        for log in self._logs:
            log.close()


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    made = Logs(tmp_path)
    yield made
    made.close()


def test_a_view_is_what_sql_wants(logs: Logs) -> None:
    view: ServerView = logs.view(Flavor.MYSQL)
    assert (view.mariadb, view.version, view.server_uuid, view.server_id) == (False, "9.7.4-2", UUID, 101)
    assert (view.checksum, view.executed(), view.purged()) == ("CRC32", "", "")
    assert view.current_file() is None
    assert list(view.log_files()) == []
    assert list(view.events(None, 4, 0, None)) == []


def test_what_is_missing_before_replicas_can_be_served_is_told(logs: Logs) -> None:
    assert logs.view(Flavor.MYSQL).missing() is None
    assert logs.view(Flavor.MYSQL, facts={}).missing() == "no source has been reached yet"
    assert logs.view(Flavor.MYSQL, facts={"source": SOURCE}).missing() == "the cluster has no server_uuid yet"
    assert logs.view(Flavor.MARIADB, facts={"source": SOURCE}).missing() is None
    assert logs.view(Flavor.MARIADB, facts={}).version.startswith("10.")


def test_what_the_source_is_set_to_is_what_clients_are_told(logs: Logs) -> None:
    view = logs.view(Flavor.MYSQL, facts={"source": SOURCE | {"checksum": "NONE", "row_metadata": "FULL"}})
    assert (view.checksum, view.row_metadata) == ("NONE", "FULL")
    assert (logs.view(Flavor.MYSQL).row_metadata, logs.view(Flavor.MARIADB).row_metadata) == ("MINIMAL", "NO_LOG")


def test_an_advertised_version_takes_the_place_of_the_sources(logs: Logs) -> None:
    view = logs.view(Flavor.MYSQL)
    view._version = "8.4.0"
    assert view.version == "8.4.0"


@pytest.mark.parametrize(
    ("flavor", "file"), [(Flavor.MYSQL, "mysql-9.7.4-000001"), (Flavor.MARIADB, "mariadb-10.11.19-000001")]
)
def test_the_events_of_a_file_are_listed_without_a_gap(logs: Logs, flavor: Flavor, file: str) -> None:
    view = logs.view(flavor, file)
    current = view.current_file()
    assert current is not None
    listed = list(view.events(None, 4, 0, None))
    assert [listed[0].type_name, listed[0].position, listed[-1].end_position] == ["Format_desc", 4, current.size]
    assert all(one.end_position == other.position for one, other in itertools.pairwise(listed))
    assert len(listed) == len(events(file))
    assert list(view.events("binlog.000001", listed[3].position, 1, 2)) == listed[4:6]


def test_events_that_do_not_say_where_they_end_are_listed_with_their_positions(logs: Logs) -> None:
    """MariaDB since 11.8 leaves log_pos at 0 within transactions."""
    stated = events("mariadb-10.11.19-000001")
    edges = {
        EventType.FORMAT_DESCRIPTION, EventType.GTID_LIST, EventType.BINLOG_CHECKPOINT, EventType.MARIADB_GTID,
        EventType.XID, EventType.ROTATE, EventType.STOP,
    }  # fmt: skip
    silent = [event if event[4] in edges else event[:13] + bytes(4) + event[17:] for event in stated]
    assert sum(one != other for one, other in zip(stated, silent, strict=True)) > 10
    expected, view = logs.view(Flavor.MARIADB, stated), logs.view(Flavor.MARIADB, silent)
    listed = list(expected.events(None, 4, 0, None))
    assert list(view.events(None, 4, 0, None)) == listed
    for at, event in enumerate(listed):
        assert list(view.events(None, event.position, 0, 3)) == listed[at : at + 3]
        place = "binlog.000001", event.end_position
        assert view.gtid_position_at(*place) == expected.gtid_position_at(*place)


def test_events_are_described_as_mysql_does(logs: Logs) -> None:
    listed = list(logs.view(Flavor.MYSQL, "mysql-9.7.4-000001").events(None, 4, 0, None))
    described = {event.type_name: event.info for event in reversed(listed)}
    assert described["Format_desc"] == "Server ver: 9.7.4-2, Binlog ver: 4"
    assert described["Gtid"].startswith("SET @@SESSION.GTID_NEXT= '")
    assert described["Table_map"].startswith("table_id: ")
    assert described["Write_rows"].startswith("table_id: ")
    assert described["Xid"].startswith("COMMIT /* xid=")
    assert any(event.info == "BEGIN" for event in listed)


def test_events_are_described_as_mariadb_does(logs: Logs) -> None:
    listed = list(logs.view(Flavor.MARIADB, "mariadb-10.11.19-000001").events(None, 4, 0, None))
    described = {event.type_name: event.info for event in listed}
    assert described["Gtid_list"].startswith("[")
    assert "GTID " in described["Gtid"]
    assert described["Binlog_checkpoint"].startswith("binlog.")


def test_events_of_no_file_and_of_no_position_are_refused_as_mysql_does(logs: Logs) -> None:
    view = logs.view(Flavor.MYSQL, "mysql-9.7.4-000001")
    with pytest.raises(MySQLError, match="SHOW BINLOG EVENTS: Could not find target log"):
        list(view.events("nowhere", 4, 0, None))
    whole = list(view.events(None, 4, 0, None))
    assert list(view.events(None, 0, 0, None)) == whole
    assert list(view.events(None, 5, 0, None)) == list(view.events(None, whole[1].position, 0, None)) == whole[1:]
    assert list(view.events(None, whole[7].position + 1, 0, 2)) == whole[8:10]
    assert list(view.events(None, 1 << 40, 0, None)) == []


def test_as_many_events_as_a_client_can_say_are_all_of_them(logs: Logs) -> None:
    """LIMIT 2, 18446744073709551615, as the manual has it."""
    view = logs.view(Flavor.MYSQL, "mysql-9.7.4-000001")
    whole = list(view.events(None, 4, 0, None))
    assert list(view.events(None, 4, 2, (1 << 64) - 1)) == whole[2:]
    assert list(view.events(None, 4, (1 << 64) - 1, 1)) == []


def test_a_place_without_an_event_is_refused_as_mariadb_does(logs: Logs) -> None:
    view = logs.view(Flavor.MARIADB, "mariadb-10.11.19-000001")
    assert list(view.events(None, 0, 0, 1)) == list(view.events(None, 4, 0, 1))
    with pytest.raises(MySQLError, match="SHOW BINLOG EVENTS: Wrong offset or I/O error"):
        list(view.events(None, 5, 0, None))
    with pytest.raises(MySQLError, match="Requested from pos:99999999 is greater than actual file size:"):
        list(view.events(None, 99999999, 0, None))


def test_a_place_in_a_mariadb_file_has_the_gtids_before_it(logs: Logs) -> None:
    view = logs.view(Flavor.MARIADB, "mariadb-10.11.19-000001", "mariadb-10.11.19-000005")
    listed = list(view.events("binlog.000001", 4, 0, None))
    assert view.gtid_position_at("binlog.000001", 4) == ""
    seen: dict[str, str] = {}
    for event in listed:
        if event.type_name == "Gtid":
            gtid = event.info.removeprefix("BEGIN ").removeprefix("GTID ")
            seen[gtid.split("-")[0]] = gtid
        expected = ",".join(seen[domain] for domain in sorted(seen, key=int))
        assert view.gtid_position_at("binlog.000001", event.end_position) == expected
    end = listed[-1].end_position
    assert view.gtid_position_at("binlog.000002", 4) == view.gtid_position_at("binlog.000001", end)
    last = list(view.log_files())[-1]
    assert view.gtid_position_at(last.name, last.size) == view.executed()
    assert view.binlog_state()


def test_no_place_has_no_gtid(logs: Logs) -> None:
    view = logs.view(Flavor.MARIADB, "mariadb-10.11.19-000001")
    assert view.gtid_position_at("nowhere", 4) is None
    assert view.gtid_position_at("binlog.000001", 1 << 40) is None
    assert view.gtid_position_at("binlog.000001", 5) is None


def test_uptime_counts_from_when_the_node_began_to_serve(logs: Logs) -> None:
    """Not from when a connection began, or a serve process was started again."""
    assert 3600 <= logs.view(Flavor.MYSQL, started=time.monotonic() - 3600.5).uptime() < 3660
