"""Single events decode to what the servers' own tools print for them, and damaged ones are refused."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from binlogs import captured, make

from kingbus_node.binlog.constants import ChecksumAlgorithm, EventType, Flavor, MariadbGtidFlag, type_name
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.event import (
    AnnotateRows,
    BinlogCheckpoint,
    EventHeader,
    FormatDescription,
    Gtid,
    GtidList,
    Heartbeat,
    Incident,
    MariadbGtidEvent,
    PreviousGtids,
    Query,
    Rotate,
    TransactionPayload,
    XaPrepare,
    Xid,
)
from kingbus_node.binlog.gtid import format_uuid
from kingbus_node.binlog.mariadb import MariadbGtid

UUID = "23a6aca3-e6a8-11f1-9b45-02fc00000001"
Decoded = (
    Query | Rotate | Xid | Gtid | PreviousGtids | XaPrepare | TransactionPayload | AnnotateRows | BinlogCheckpoint
    | MariadbGtidEvent | GtidList
)  # fmt: skip
PARSERS: dict[int, Callable[[bytes, bool], Decoded]] = {
    2: Query.parse, 4: Rotate.parse, 16: Xid.parse, 33: Gtid.parse, 34: Gtid.parse, 35: PreviousGtids.parse,
    38: XaPrepare.parse, 40: TransactionPayload.parse, 42: Gtid.parse, 160: AnnotateRows.parse,
    161: BinlogCheckpoint.parse, 162: MariadbGtidEvent.parse, 163: GtidList.parse, 165: Query.parse,
}  # fmt: skip


def of_type(name: str, kind: int) -> list[bytes]:
    return [event for event in captured.events(name) if event[4] == kind]


@pytest.mark.parametrize("name", [*captured.MYSQL, *captured.MARIADB])
def test_every_event_of_the_real_files_decodes(name: str) -> None:
    first, *others = captured.events(name)
    checksum = FormatDescription.parse(first).checksum is ChecksumAlgorithm.CRC32
    for event in others:
        if event[4] in PARSERS:
            header = PARSERS[event[4]](event, checksum).header
            assert header == EventHeader.parse(event)
            assert header.size == len(event)


def test_format_description_of_mysql() -> None:
    event = FormatDescription.parse(captured.events("mysql-9.7.4-000001")[0])
    assert (event.server_version, event.flavor, event.binlog_version) == ("9.7.4-2", Flavor.MYSQL, 4)
    assert (event.checksum, event.create_timestamp, event.header_length) == (ChecksumAlgorithm.CRC32, 1795375388, 19)
    assert event.post_header_lengths[EventType.QUERY - 1] == 13
    assert event.post_header_lengths[EventType.GTID - 1] == 42
    assert len(event.post_header_lengths) == EventType.GTID_TAGGED - 1 + 1


def test_format_description_of_mariadb() -> None:
    event = FormatDescription.parse(captured.events("mariadb-10.11.19-000003")[0])
    assert (event.server_version, event.flavor) == ("10.11.19-MariaDB-0+deb12u1-log", Flavor.MARIADB)
    assert (event.checksum, event.create_timestamp) == (ChecksumAlgorithm.NONE, 0)
    assert event.post_header_lengths[EventType.MARIADB_GTID - 1] == 19
    assert len(event.post_header_lengths) == EventType.DELETE_ROWS_COMPRESSED


def test_format_description_of_a_server_without_checksums() -> None:
    body = struct.pack("<H50sIB", 4, b"5.5.62-log", 7, 19) + bytes(27)
    event = FormatDescription.parse(make.Maker(checksum=False).event(EventType.FORMAT_DESCRIPTION, body))
    assert (event.checksum, event.post_header_lengths) == (ChecksumAlgorithm.UNDEFINED, bytes(27))


def test_binlogs_of_mysql_4_are_refused() -> None:
    body = struct.pack("<H50sIB", 3, b"8.0.1", 7, 19) + bytes(27) + b"\1"
    with pytest.raises(BinlogError, match="expected binlog version 4"):
        FormatDescription.parse(make.Maker().event(EventType.FORMAT_DESCRIPTION, body))


def test_rotate() -> None:
    event = Rotate.parse(captured.events("mysql-9.7.4-000001")[-1], True)
    assert (event.name, event.position, event.header.artificial) == ("binlog.000002", 4, False)
    fake = bytes.fromhex("000000000401000000 2c000000000000002000 040000000000000062696e6c6f672e303030303031e9d2ca6e")
    event = Rotate.parse(fake, True)
    assert (event.name, event.position, event.header.artificial) == ("binlog.000001", 4, True)


def test_gtid() -> None:
    first, second = (Gtid.parse(event, True) for event in of_type("mysql-9.7.4-000001", EventType.GTID)[:2])
    assert (format_uuid(first.uuid), first.number, first.tag) == (UUID, 1, "")
    assert (first.last_committed, first.sequence_number, first.flags) == (0, 1, 1)
    assert (second.last_committed, second.sequence_number, second.flags) == (1, 2, 0)
    assert second.immediate_commit_timestamp == second.original_commit_timestamp
    assert second.immediate_commit_timestamp // 10**6 == 1795375388
    assert second.transaction_length == 684 - 395  # its end less its beginning in the file


def test_a_replicated_transaction_has_two_commit_timestamps() -> None:
    times = (2**55 | 2_000_000).to_bytes(7, "little") + (1_000_000).to_bytes(7, "little")
    body = struct.pack("<B16sqBQQ", 0, make.UUID, 5, 2, 3, 4) + times + b"\xfc\x00\x01"
    event = Gtid.parse(make.Maker().event(EventType.GTID, body), True)
    assert (event.immediate_commit_timestamp, event.original_commit_timestamp) == (2_000_000, 1_000_000)
    assert event.transaction_length == 256


def test_gtid_of_mysql_5_6_ends_after_the_number() -> None:
    event = Gtid.parse(make.Maker().event(EventType.GTID, struct.pack("<B16sq", 1, make.UUID, 5)), True)
    assert (event.number, event.sequence_number, event.transaction_length) == (5, 0, 0)


def test_tagged_gtid() -> None:
    events = [Gtid.parse(event, True) for event in of_type("mysql-9.7.4-000001", EventType.GTID_TAGGED)]
    assert [(format_uuid(e.uuid), e.tag, e.number) for e in events] == [
        (UUID, "red", 1),
        (UUID, "red", 2),
        (UUID, "a_long_tag_name_of_32_characters", 1),
        ("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", "tag1", 9223372036854775806),
    ]
    assert [(e.last_committed, e.sequence_number) for e in events] == [(19, 22), (19, 23), (23, 24), (24, 25)]
    assert [e.transaction_length for e in events] == [292, 293, 213, 242]
    assert all(e.immediate_commit_timestamp // 10**6 == 1795375388 for e in events)


def test_anonymous_gtid() -> None:
    event = Gtid.parse(of_type("mysql-9.7.4-000009", EventType.ANONYMOUS_GTID)[0], True)
    assert (event.uuid, event.number, event.sequence_number) == (bytes(16), 0, 1)


def test_previous_gtids_plain_and_tagged() -> None:
    empty, tagged = (of_type(name, 35)[0] for name in ("mysql-9.7.4-000001", "mysql-9.7.4-000009"))
    assert str(PreviousGtids.parse(empty, True).gtids) == ""
    assert str(PreviousGtids.parse(tagged, True).gtids) == (
        f"{UUID}:1-31:a_long_tag_name_of_32_characters:1:red:1-2,"
        "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:77:tag1:9223372036854775806"
    )


def test_gtid_of_mariadb() -> None:
    events = [
        MariadbGtidEvent.parse(event, True) for event in of_type("mariadb-10.11.19-000001", EventType.MARIADB_GTID)
    ]
    assert [event.gtid for event in events[:2]] == [MariadbGtid(0, 11, 1), MariadbGtid(0, 11, 2)]
    assert [event.standalone for event in events[:4]] == [True, False, True, False]
    flag = MariadbGtidFlag
    assert events[0].flags == flag.STANDALONE | flag.ALLOW_PARALLEL | flag.DDL
    assert events[7].flags == flag.TRANSACTIONAL | flag.ALLOW_PARALLEL | flag.PREPARED_XA
    assert events[8].flags == flag.STANDALONE | flag.TRANSACTIONAL | flag.ALLOW_PARALLEL | flag.COMPLETED_XA
    assert {event.commit_id for event in events} == {None}
    assert [str(event.gtid) for event in events if event.gtid.domain == 7] == ["7-11-1", "7-99-2"]


def test_group_commits_of_mariadb_have_an_id() -> None:
    body = struct.pack("<QIBQ", 9, 1, 2, 4711)
    assert MariadbGtidEvent.parse(make.Maker().event(EventType.MARIADB_GTID, body), True).commit_id == 4711


def test_gtid_list_and_checkpoint() -> None:
    empty = GtidList.parse(of_type("mariadb-10.11.19-000001", 163)[0], True)
    assert (empty.state.to_json(), empty.header.size) == ("", 29)
    full = GtidList.parse(of_type("mariadb-10.11.19-000003", 163)[0], False)
    assert full.state.to_json() == "0-11-45,7-11-1,7-99-2"
    names = [BinlogCheckpoint.parse(event, True).name for event in of_type("mariadb-10.11.19-000005", 161)]
    assert names == ["binlog.000004", "binlog.000005"]


def test_query() -> None:
    events = [Query.parse(event, True) for event in of_type("mysql-9.7.4-000001", EventType.QUERY)]
    assert events[0].statement == b"create table t(id int primary key auto_increment, v varchar(50)) engine=innodb"
    assert (events[0].schema, events[0].error) == ("d", 0)
    assert events[1].statement == b"BEGIN"
    assert b"XA START X'7831',X'',1" in [event.statement for event in events]


def test_compressed_query() -> None:
    events = [Query.parse(event, True) for event in of_type("mariadb-10.11.19-000001", EventType.QUERY_COMPRESSED)]
    assert [event.statement for event in events] == [
        b"create table tlonglonglonglonglong(a int, b int, c varchar(100) default '%s') engine=innodb" % (b"a" * 46),
        b"update t set v='COMMIT                                             ' where id=1",
        b"insert into m values(5,repeat('x',50))",
    ]


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (b"", "another form"),
        (b"\x90\x01", "another form"),
        (b"\x81", "another form"),
        (b"\x84\xff\xff\xff\xff", "expected at most 67108864 bytes"),
        (b"\x81\x05abc", "expected a zlib stream"),
        (b"\x81\x05x\x9cKLJ\x06\x00\x02M\x01'", "expected 5 bytes of statement, found 3"),
    ],
)
def test_damaged_compressed_queries_are_refused(packed: bytes, message: str) -> None:
    event = make.Maker().event(EventType.QUERY_COMPRESSED, struct.pack("<IIBHH", 1, 0, 0, 0, 0) + b"\0" + packed)
    with pytest.raises(BinlogError, match=message):
        Query.parse(event, True)


def test_annotated_statement() -> None:
    assert (
        AnnotateRows.parse(of_type("mariadb-10.11.19-000001", 160)[0], True).statement
        == b"insert into t(v) values('a')"
    )


def test_xid_and_xa_prepare() -> None:
    assert Xid.parse(of_type("mysql-9.7.4-000001", EventType.XID)[0], True).xid == 168
    events = [XaPrepare.parse(event, True) for event in of_type("mysql-9.7.4-000001", EventType.XA_PREPARE)]
    assert [(e.one_phase, e.format_id, e.gtrid, e.bqual) for e in events] == [
        (False, 1, b"x1", b""),
        (False, 1, b"x2", b""),
        (True, 1, b"x3", b""),
    ]


def test_compressed_transaction() -> None:
    events = [TransactionPayload.parse(e, True) for e in of_type("mysql-9.7.4-000001", EventType.TRANSACTION_PAYLOAD)]
    assert [(e.compression, e.size, e.uncompressed_size) for e in events] == [(0, 145, 243), (0, 150, 293)]


def test_heartbeats_of_both_versions() -> None:
    first = bytes.fromhex("000000001b0b0000002400000061020000000062696e6c6f672e303030303032244ce075")
    second = bytes.fromhex("0000000029010000002c000000ed0100000000010d62696e6c6f672e3030303030320203fced01009fddfdb6")
    assert (Heartbeat.parse(first, True).name, Heartbeat.parse(first, True).position) == ("binlog.000002", 609)
    assert (Heartbeat.parse(second, True).name, Heartbeat.parse(second, True).position) == ("binlog.000002", 493)


def test_incident() -> None:
    event = make.Maker().event(EventType.INCIDENT, b"\1\0\x05hello")
    assert (Incident.parse(event, True).code, Incident.parse(event, True).message) == (1, "hello")


def test_an_event_of_another_type_is_refused_by_name() -> None:
    with pytest.raises(BinlogError, match=r"expected an event of type XID, found QUERY \(2\)"):
        Xid.parse(make.Maker().query(b"x"), True)
    assert type_name(99) == "type 99"


@pytest.mark.parametrize("kind", sorted(PARSERS))
def test_an_event_cut_short_anywhere_is_refused_or_shorter(kind: int) -> None:
    names = ["mysql-9.7.4-000001", "mysql-9.7.4-000009", "mariadb-10.11.19-000001"]
    event = next(event for name in names for event in of_type(name, kind))
    for length in range(len(event)):
        cut = bytearray(event[:length])
        if length >= 13:
            cut[9:13] = length.to_bytes(4, "little")
        try:
            PARSERS[kind](bytes(cut), True)
        except BinlogError:
            continue
        assert length >= 23


def test_a_size_field_that_lies_is_refused() -> None:
    with pytest.raises(BinlogError, match="expected an event of 30 bytes, found size field 31"):
        Xid.parse(make.Maker().xid()[:-1], True)
