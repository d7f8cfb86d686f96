"""The order of a dump's packets: what comes first, what between files, which bytes are changed and which never."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from binlogs.captured import MARIADB, MYSQL, events
from binlogs.make import UUID, Maker
from unit.serve.dumps import CAPABLE, CRC32, NONE, SERVER_ID, Served, at, beyond, names, placed

from kingbus_node.binlog.checksum import with_checksum
from kingbus_node.binlog.constants import EventType, Flavor
from kingbus_node.serve.artificial import Artificial
from kingbus_node.wire.commands import DumpFlag

_T = EventType
EOF = b"\xfe\0\0\x02\0"


def rotate(file: str, position: int = 4, *, checksum: bool = True) -> bytes:
    """The artificial event that names a file."""
    return Artificial(SERVER_ID, 1, checksum, file).rotate(position)


@pytest.fixture
def mysql(tmp_path: Path) -> Iterator[Served]:
    """All captured MySQL files but that of anonymous transactions."""
    with Served(tmp_path, Flavor.MYSQL) as served:
        for name in ("mysql-9.7.4-000001", "mysql-9.7.4-000013"):
            served.importer.events(name, events(name))
        yield served


def test_invented_events_are_those_that_were_captured() -> None:
    mysql = Artificial(1, 2, True, "binlog.000001")
    assert mysql.rotate(4).hex() == (
        "0000000004010000002c000000000000002000040000000000000062696e6c6f672e303030303031e9d2ca6e"
    )
    mysql.file = "binlog.000002"
    assert mysql.heartbeat(493).hex() == (
        "0000000029010000002c000000ed0100000000010d62696e6c6f672e3030303030320203fced01009fddfdb6"
    )
    mysql.checksum, mysql.file = False, "binlog.000001"
    assert mysql.rotate(4).hex() == "00000000040100000028000000000000002000040000000000000062696e6c6f672e303030303031"
    mariadb = Artificial(11, 1, True, "binlog.000002")
    assert mariadb.heartbeat(609).hex() == "000000001b0b0000002400000061020000000062696e6c6f672e303030303032244ce075"


def test_every_file_begins_with_an_artificial_rotate_and_is_otherwise_as_the_source_wrote_it(mysql: Served) -> None:
    answer = mysql.ask(at())
    one, two = "mysql-9.7.4-000001", "mysql-9.7.4-000013"
    assert answer.events == [rotate(one), *events(one), rotate(two), *events(two)]
    assert answer.end == EOF


@pytest.mark.parametrize("block", [65536, 1 << 20])
@pytest.mark.parametrize("target", [1, 300, 1 << 20])
@pytest.mark.parametrize("name", MYSQL + MARIADB)
def test_what_a_file_holds_does_not_depend_on_entries_and_blocks(
    name: str, target: int, block: int, tmp_path: Path
) -> None:
    flavor = Flavor.MYSQL if name in MYSQL else Flavor.MARIADB
    with Served(tmp_path, flavor, target=target) as served:
        served.importer.events(name, events(name))
        answer = served.with_block(block).ask(at(flags=DumpFlag.NON_BLOCK | DumpFlag.MARIADB_ANNOTATE_ROWS))
    assert answer.events[1:] == events(name)


def test_sequence_numbers_start_at_one_and_wrap(tmp_path: Path) -> None:
    maker = Maker()
    file = placed([maker.format_description(), *(maker.query(b"DROP TABLE t") for _ in range(700))])
    with Served(tmp_path, Flavor.MYSQL, target=5000) as served:
        served.importer.events("binlog.000001", file)
        sequences = served.ask(at()).sequences
    assert sequences == [(1 + number) % 256 for number in range(1 + 701 + 1)]


def test_a_dump_from_the_middle_sends_the_format_description_without_position_and_creation_time(mysql: Served) -> None:
    name = "mysql-9.7.4-000001"
    file = events(name)
    position = sum(map(len, file[:3])) + 4
    answer = mysql.ask(at(position, name))
    sent = answer.events[1]
    assert answer.events[0] == rotate(name, position)
    assert struct.unpack_from("<I", sent, 13) == (0,)
    assert struct.unpack_from("<I", sent, 19 + 52) == (0,)
    changed = bytearray(file[0])
    changed[13:17] = changed[71:75] = bytes(4)
    assert sent == with_checksum(changed[:-4])
    assert answer.events[2 : len(file) - 1] == file[3:]
    assert _T.PREVIOUS_GTIDS not in answer.types[: len(file) - 2]


def test_a_gtid_dump_from_the_middle_leaves_the_format_description_as_it_is(mysql: Served) -> None:
    name = "mysql-9.7.4-000001"
    file = events(name)
    position = sum(map(len, file[:3])) + 4
    answer = mysql.ask(beyond("", file=name, position=position))
    assert answer.events[:2] == [rotate(name, position), file[0]]
    assert answer.events[2] == file[3]


def test_at_the_end_of_a_file_the_next_one_follows_at_once(mysql: Served) -> None:
    name = "mysql-9.7.4-000001"
    answer = mysql.ask(at(sum(map(len, events(name))) + 4, name))
    assert answer.types[:4] == [_T.ROTATE, _T.FORMAT_DESCRIPTION, _T.ROTATE, _T.FORMAT_DESCRIPTION]
    assert answer.events[2] == rotate("mysql-9.7.4-000013")


def test_the_format_description_is_never_sent_as_in_use(tmp_path: Path) -> None:
    maker = Maker()
    first = bytearray(placed([maker.format_description()])[0])
    first[17] |= 1
    with Served(tmp_path, Flavor.MYSQL) as served:
        served.importer.events("binlog.000001", [with_checksum(first[:-4])])
        assert served.ask(at()).events[1][17] == 0


def test_only_the_first_event_goes_without_checksum_to_a_client_that_wants_none(mysql: Served) -> None:
    answer = mysql.ask(at(), NONE)
    one, two = "mysql-9.7.4-000001", "mysql-9.7.4-000013"
    assert answer.events == [rotate(one, checksum=False), *events(one), rotate(two), *events(two)]


def test_files_without_checksums_get_invented_events_without_checksums(tmp_path: Path) -> None:
    with Served(tmp_path, Flavor.MYSQL) as served:
        for name in ("mysql-9.7.4-000003", "mysql-9.7.4-000001"):
            served.importer.events(name, events(name))
        served.importer.events("mysql-9.7.4-000004", events("mysql-9.7.4-000003"))
        answer = served.ask(at())
        for variables in ({}, NONE):
            assert served.ask(at(file="mysql-9.7.4-000004"), dict(variables)).error is None
    rotates = [event for event in answer.events if event[4] == _T.ROTATE and event[17] == 0x20]
    assert rotates == [
        rotate("mysql-9.7.4-000003"),  # as the client asked, before anything is known of the file
        rotate("mysql-9.7.4-000001", checksum=False),  # as the file before
        rotate("mysql-9.7.4-000004"),
    ]


@pytest.mark.parametrize("variables", [{}, {"source_binlog_checksum": None}])
def test_a_client_that_knows_no_checksums_is_refused_a_file_that_has_them(
    mysql: Served, variables: dict[str, None]
) -> None:
    answer = mysql.ask(at(file="mysql-9.7.4-000001"), dict(variables))
    assert answer.events == [rotate("mysql-9.7.4-000001", checksum=False)]
    assert answer.message == (
        "Replica can not handle replication events with the checksum that source is configured to log; the first event "
        "'mysql-9.7.4-000001' at 4, the last event read from './mysql-9.7.4-000001' at 127, the last byte read from "
        "'./mysql-9.7.4-000001' at 127."
    )


def test_mariadb_refuses_it_in_its_own_words(tmp_path: Path) -> None:
    with Served(tmp_path, Flavor.MARIADB) as served:
        served.importer.events("binlog.000001", events(MARIADB[0]))
        answer = served.ask(at(), {"mariadb_slave_capability": 4})
    assert answer.message == (
        "Slave can not handle replication events with the checksum that master is configured to log; the first event "
        "'.' at 4, the last event read from 'binlog.000001' at 4, the last byte read from 'binlog.000001' at 256."
    )


def test_annotations_go_to_who_asks_for_them(tmp_path: Path) -> None:
    file = events(MARIADB[0])
    with Served(tmp_path, Flavor.MARIADB) as served:
        served.importer.events("binlog.000001", file)
        for request in (at(), at(flags=DumpFlag.NON_BLOCK | DumpFlag.MARIADB_ANNOTATE_ROWS)):
            wanted = bool(request.flags & DumpFlag.MARIADB_ANNOTATE_ROWS)
            answer = served.ask(request)
            assert answer.events[1:] == [event for event in file if wanted or event[4] != _T.ANNOTATE_ROWS]
            assert answer.sequences == list(range(1, len(answer.events) + 2))
    assert any(event[4] == _T.ANNOTATE_ROWS for event in file)


@pytest.mark.parametrize("size", [0xFFFFFE, 0xFFFFFF, 0x1000000, 2 * 0xFFFFFF - 1, 40_000_000])
def test_events_of_many_packets_are_split_as_they_were_in_bounded_memory(size: int, tmp_path: Path) -> None:
    maker = Maker()
    row = maker.event(_T.WRITE_ROWS, bytes(size - 23))
    group = [maker.gtid(1), maker.query(b"BEGIN"), maker.event(_T.TABLE_MAP), row, maker.xid()]
    file = placed([maker.format_description(), *group, maker.gtid(2), maker.query(b"DROP TABLE t")])
    with Served(tmp_path, Flavor.MYSQL) as served:
        served.importer.events("binlog.000001", file)
        served.with_block(65536)
        answer = served.ask(at())
        assert answer.events[1:] == file
        packets = (size + 1) // 0xFFFFFF + 1
        assert answer.sequences == list(range(1, len(file) + packets + 2))
        held = served.ask(beyond(f"{uuid()}:1"))
        assert held.types == [_T.ROTATE, _T.FORMAT_DESCRIPTION, _T.HEARTBEAT, _T.GTID, _T.QUERY]
        del answer, file, row, group
        tracemalloc.start()
        client = served.start(at(flags=DumpFlag.NON_BLOCK))
        while client.sock.recv(65536):
            pass
        client.leave()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2 << 20


def test_a_file_that_is_all_held_says_only_its_head(tmp_path: Path) -> None:
    maker = Maker()
    files = [
        placed([maker.format_description(), maker.gtid(1), maker.query(b"DROP TABLE t"), maker.event(_T.STOP)]),
        placed([maker.format_description(), maker.gtid(2), maker.query(b"DROP TABLE t")]),
    ]
    with Served(tmp_path, Flavor.MYSQL) as served:
        for name, file in zip(names(2), files, strict=True):
            served.importer.events(name, file)
        answer = served.ask(beyond(f"{uuid()}:1", file="binlog.000001"))
    # The STOP is left out with the group before it, and no heartbeat comes where the file ends.
    assert answer.events == [rotate(names(2)[0]), files[0][0], rotate(names(2)[1]), *files[1]]


def uuid() -> str:
    return f"{UUID[:4].hex()}-{UUID[4:6].hex()}-{UUID[6:8].hex()}-{UUID[8:10].hex()}-{UUID[10:].hex()}"


def test_a_dump_of_server_id_zero_ends_at_the_end_of_the_log(mysql: Served) -> None:
    assert mysql.ask(at(flags=0, server_id=0), CRC32).end == EOF


def test_a_replica_older_than_gtids_gets_events_of_the_same_sizes(tmp_path: Path) -> None:
    file = events(MARIADB[0])
    xa = next(row for row, event in enumerate(file) if event[4] == _T.MARIADB_GTID and len(event) > 44)
    with Served(tmp_path, Flavor.MARIADB) as served:
        served.importer.events("binlog.000001", file)
        answer = served.ask(at(), {**CAPABLE, "mariadb_slave_capability": 0})
    assert [len(event) for event in answer.events[1:]] == [len(event) for event in file[:xa]]
    assert [event[13:17] for event in answer.events[1:]] == [event[13:17] for event in file[:xa]]
    assert not {_T.MARIADB_GTID, _T.GTID_LIST, _T.ANNOTATE_ROWS, _T.BINLOG_CHECKPOINT} & set(answer.types)
    assert all(event == with_checksum(event[:-4]) for event in answer.events)
    # There is no other form of a GTID with the id of an XA transaction.
    begin, end = (4 + sum(map(len, file[:row])) for row in (xa, xa + 1))
    assert answer.message == (
        "Failed to replace GTID event with backwards-compatible event: corrupt event.; the first event '.' at 4, the "
        f"last event read from 'binlog.000001' at {begin}, the last byte read from 'binlog.000001' at {end}."
    )
