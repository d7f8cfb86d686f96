"""What cannot be served is refused with the error of the flavour that is served: number, text, and the events before.

The texts are those that MySQL 9.7.4 and MariaDB 10.11.19 were seen to send for such a request.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from binlogs.captured import events
from unit.serve.dumps import CAPABLE, Served, at, beyond

from kingbus_node.binlog.constants import EventType, Flavor
from kingbus_node.store.entry import Entry, Kind, Meta
from kingbus_node.store.log import Log
from kingbus_node.wire.commands import DumpFlag, DumpKind, DumpRequest

_T = EventType
UUID = "3091a0af-e696-11f1-9062-02fc00000001"
MYSQL_FILE, MARIADB_FILE = "mysql-9.7.4-000001", "mariadb-10.11.19-000001"


@pytest.fixture
def mysql(tmp_path: Path) -> Iterator[Served]:
    """One file, after transactions 1 to 10 of a server that were purged before the log began."""
    with Served(tmp_path, Flavor.MYSQL, facts={"purged": f"{UUID}:1-10", "cluster_uuid": UUID}) as served:
        served.importer.events(MYSQL_FILE, events(MYSQL_FILE))
        yield served


@pytest.fixture
def mariadb(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path, Flavor.MARIADB) as served:
        served.importer.events(MARIADB_FILE, events(MARIADB_FILE))
        yield served


def size(name: str) -> int:
    return 4 + sum(map(len, events(name)))


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (0, "Client requested source to start replication from position < 4"),
        (3, "Client requested source to start replication from position < 4"),
        (size(MYSQL_FILE) + 1, "Client requested source to start replication from position > file size"),
        (1 << 31, "Client requested source to start replication from position > file size"),
    ],
)
def test_mysql_positions_outside_the_file(mysql: Served, position: int, text: str) -> None:
    for request in (at(position, MYSQL_FILE), beyond(f"{UUID}:1-10", position=position)):
        answer = mysql.ask(request)
        assert (answer.events, answer.message) == ([], text)
        assert answer.error is not None
        assert (answer.error.code, answer.error.sqlstate) == (1236, "HY000")


@pytest.mark.parametrize("position", [0, 3, size(MARIADB_FILE) + 1, 1 << 31])
def test_mariadb_positions_outside_the_file(mariadb: Served, position: int) -> None:
    answer = mariadb.ask(at(position, MARIADB_FILE))
    assert answer.message == (
        f"Client requested master to start replication from impossible position; the first event '{MARIADB_FILE}' at "
        f"{position}, the last event read from '{MARIADB_FILE}' at 4, the last byte read from '{MARIADB_FILE}' at 4."
    )


@pytest.mark.parametrize("name", ["binlog.000099", "other.000001", "x" * 300])
def test_files_that_are_not_there(mysql: Served, name: str) -> None:
    text = "Could not find first log file name in binary log index file"
    assert mysql.ask(at(file=name)).message == text
    assert mysql.ask(beyond("", file=name)).message == text


def coordinates(name: str, position: int, before: int, last: int, path: str = "./") -> str:
    return (
        f"; the first event '{name}' at {position}, the last event read from '{path}{name}' at {before}, the last byte "
        f"read from '{path}{name}' at {last}."
    )


def test_a_position_inside_an_event_is_refused_by_the_length_that_is_found_there(mysql: Served) -> None:
    data = b"\xfebin" + b"".join(events(MYSQL_FILE))
    starts, end = {4}, 4
    for event in events(MYSQL_FILE):
        end += len(event)
        starts.add(end)
    for position in range(5, len(data), 7):
        if position in starts:
            continue
        answer = mysql.ask(at(position, MYSQL_FILE))
        assert answer.types == [_T.ROTATE, _T.FORMAT_DESCRIPTION]
        length = int.from_bytes(data[position + 9 : position + 13], "little")
        if len(data) - position < 19 or (19 < length <= 1 << 30 and position + length > len(data)):
            what, last = "binlog truncated in the middle of event; consider out of disk space on source", len(data)
        elif length > 1 << 30:
            what, last = (
                "log event entry exceeded max_allowed_packet; Increase max_allowed_packet on source",
                position + 19,
            )
        else:
            what, last = "bogus data in log event", position + 19
        assert answer.message == what + coordinates(MYSQL_FILE, position, 127, last)


def test_mariadb_says_so_in_other_words(mariadb: Served) -> None:
    answer = mariadb.ask(at(size(MARIADB_FILE) - 5, MARIADB_FILE))
    place = size(MARIADB_FILE) - 5
    assert answer.message == (
        "binlog truncated in the middle of event; consider out of disk space on master"
        + coordinates(MARIADB_FILE, place, place, place, path="")
    )


def test_purged_transactions_are_named(mysql: Served) -> None:
    start = (
        "Cannot replicate because the source purged required binary logs. Replicate the missing transactions from "
        "elsewhere, or provision a new replica from backup. Consider increasing the source's binary log expiration "
        "period. "
    )
    other = "aaaaaaaa-e696-11f1-9062-02fc00000001"
    for held, missing in (("", "1-10"), (f"{UUID}:1-3", "4-10"), (f"{UUID}:1-2:7,{other}:1-9", "3-6:8-10")):
        printed = held.replace(",", ",\n")
        text = f"The GTID set sent by the replica is '{printed}', and the missing transactions are '{UUID}:{missing}'"
        assert mysql.ask(beyond(held)).message == start + text
    many = ",".join(f"{number:08x}-e696-11f1-9062-02fc00000001:1-9" for number in range(20))
    assert mysql.ask(beyond(many)).message == start + (
        "The GTID sets and the missing purged transactions are too long to print in this message. For more "
        "information, please see the source's error log or the manual for GTID_SUBTRACT"
    )


def test_purged_transactions_that_the_replica_names_a_file_for_are_its_own_business(mysql: Served) -> None:
    assert mysql.ask(beyond("", file=MYSQL_FILE)).error is None


def test_a_replica_that_is_ahead_under_the_servers_own_uuid_is_refused_first(mysql: Served) -> None:
    answer = mysql.ask(beyond(f"{UUID}:2-900"))
    assert len(answer.message) == 511
    assert answer.message.startswith("Replica has more GTIDs than the source has, using the source's SERVER_UUID. This")
    assert answer.message.endswith("committed on source but are not included in GTID_EXECU")


def test_gtids_of_servers_that_nobody_knows_are_accepted(mysql: Served) -> None:
    held = f"{UUID}:1-10,aaaaaaaa-e696-11f1-9062-02fc00000001:1-9:tag:7"
    assert mysql.ask(beyond(held)).events[1:] == events(MYSQL_FILE)


@pytest.mark.parametrize("data", [b"", b"\1" + bytes(7) + b"abc", bytes.fromhex("0101000000000001") + b"x" * 20])
def test_a_malformed_set_is_refused(mysql: Served, data: bytes) -> None:
    answer = mysql.ask(beyond(data))
    assert answer.message == "Malformed GTID set encoding."
    assert answer.error is not None
    assert answer.error.code == 1773


@pytest.mark.parametrize(
    ("state", "code", "text"),
    [
        ("garbage", 1941, "Could not parse GTID list"),
        ("0-1-3,0-2-3", 1943, "GTID 0-2-3 and 0-1-3 conflict (duplicate domain id 0)"),
    ],
)
def test_a_malformed_position_is_refused(mariadb: Served, state: str, code: int, text: str) -> None:
    answer = mariadb.ask(at(), {**CAPABLE, "slave_connect_state": state.encode()})
    assert answer.message == text
    assert answer.error is not None
    assert answer.error.code == code


def test_mariadb_does_not_know_mysqls_gtid_dump(mariadb: Served) -> None:
    answer = mariadb.ask(DumpRequest(DumpKind.GTID, DumpFlag.NON_BLOCK, 5, "", 4, bytes(8)))
    assert answer.error is not None
    assert answer.error.code == 1047


def test_a_log_without_files_is_not_ready(tmp_path: Path) -> None:
    with Served(tmp_path, Flavor.MYSQL) as served:
        served.log.commit(served.log.last_index)
        answer = served.ask(at())
    assert answer.error is not None
    assert answer.error.code == 1053


def test_a_file_that_is_purged_while_it_is_read_is_the_end(tmp_path: Path) -> None:
    name = "mysql-9.7.4-000013"
    with Served(tmp_path, Flavor.MYSQL, segment_bytes=4096) as served:
        for number in range(1, 40):
            served.importer.events(f"binlog.{number:06}", events(name))
        client = served.start(at(flags=0))
        client.sock.settimeout(30)
        taken = client.events(5)
        assert taken[1:] == events(name)[:4]
        purge(served.log, 39)
        answer = served.ask(at(file="binlog.000002"))
        assert answer.message == "Could not find first log file name in binary log index file"
        client.leave()


def purge(log: Log, file_id: int) -> None:
    entry: Entry = log.purge_entry(file_id)
    assert entry.kind == Kind.PURGE
    assert isinstance(entry.meta, Meta)
    log.commit(log.append([entry], 1))
