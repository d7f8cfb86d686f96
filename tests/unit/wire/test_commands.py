"""Commands as replicas and tools send them (captured), and damaged ones."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.wire.outcome import refusal

from kingbus_node.wire.commands import (
    DumpKind,
    DumpRequest,
    Registration,
    parse_binlog_dump,
    parse_binlog_dump_gtid,
    parse_process_kill,
    parse_query,
    parse_register_slave,
    parse_set_option,
)
from kingbus_node.wire.errors import ErrorCode, ProtocolError
from kingbus_node.wire.fields import lenenc_bytes


@pytest.mark.parametrize(
    ("raw", "request_"),
    [
        ("12c600000002000200000062696e6c6f672e303030303032", (2, 2, "binlog.000002", 198)),  # MySQL 9.7 replica
        ("120400000000000c000000", (0, 12, "", 4)),  # MariaDB replica
        ("1204000000010063000000000000", (1, 99, "", 4)),  # python-mysql-replication: a name of three NULs
        ("120400000001000000000062696e6c6f672e303030303031", (1, 0, "binlog.000001", 4)),  # mysqlbinlog
    ],
)
def test_a_dump_by_file_and_position_is_understood(raw: str, request_: tuple[int, int, str, int]) -> None:
    flags, server_id, file, position = request_
    parsed = parse_binlog_dump(bytes.fromhex(raw)[1:])
    assert parsed == DumpRequest(DumpKind.FILE, flags, server_id, file, position)


def test_a_dump_by_an_empty_gtid_set_is_understood() -> None:
    raw = bytes.fromhex("1e020002000000000000000400000000000000080000000000000000000000")
    assert parse_binlog_dump_gtid(raw[1:]) == DumpRequest(DumpKind.GTID, 2, 2, "", 4, bytes(8))


def test_a_dump_by_a_gtid_set_with_a_file_name_is_understood() -> None:
    raw = bytes.fromhex(
        "1e0100000000000d00000062696e6c6f672e30303030303104000000000000003000000001000000000000003091a0afe69611f1906202"
        "fc00000001010000000000000001000000000000000400000000000000"
    )
    parsed = parse_binlog_dump_gtid(raw[1:])
    assert (parsed.flags, parsed.server_id, parsed.file, parsed.position) == (1, 0, "binlog.000001", 4)
    assert len(parsed.gtid_set) == 48
    assert parsed.non_block


def test_a_name_of_nuls_is_no_name() -> None:
    """python-mysql-replication sends three of them."""
    raw = bytes.fromhex(
        "1e050063000000030000000000000400000000000000300000000100000000000000e2ca37d4e69711f1826802fc000000010100000000"
        "00000001000000000000000400000000000000"
    )
    parsed = parse_binlog_dump_gtid(raw[1:])
    assert (parsed.file, parsed.flags, parsed.server_id, parsed.non_block) == ("", 5, 99, True)


def test_a_dump_without_a_server_id_does_not_wait_at_the_end() -> None:
    assert DumpRequest(DumpKind.FILE, 0, 0, "", 4).non_block
    assert not DumpRequest(DumpKind.FILE, 2, 7, "", 4).non_block


@pytest.mark.parametrize(
    ("raw", "registration"),
    [
        ("1502000000093132372e302e302e310000b3840000000000000000", Registration(2, "127.0.0.1", "", 33971, 0, 0)),
        ("1563000000067079686f7374000000000000000000000000", Registration(99, "pyhost", "", 0, 0, 0)),
    ],
)
def test_a_registration_is_understood(raw: str, registration: Registration) -> None:
    assert parse_register_slave(bytes.fromhex(raw)[1:]) == registration


def test_a_gtid_set_longer_than_the_packet_is_malformed() -> None:
    raw = bytearray(bytes.fromhex("020002000000000000000400000000000000080000000000000000000000"))
    raw[18] = 9
    with pytest.raises(ProtocolError, match="GTID set of 9 bytes, 8 follow") as caught:
        parse_binlog_dump_gtid(bytes(raw))
    assert caught.value.code == ErrorCode.MALFORMED_PACKET


def test_a_statement_is_taken_as_it_is_without_query_attributes() -> None:
    assert parse_query(b"\0\x01SELECT 1", attributes=False) == b"\0\x01SELECT 1"


def test_a_statement_follows_the_count_of_query_attributes() -> None:
    assert parse_query(b"\0\x01SELECT UNIX_TIMESTAMP()", attributes=True) == b"SELECT UNIX_TIMESTAMP()"


def test_query_attributes_of_all_kinds_are_skipped() -> None:
    kinds = [(0x03, b"\1\0\0\0"), (0x08, bytes(8)), (0xFD, lenenc_bytes(b"text")), (0x06, b""), (0x0C, b"\x04abcd")]
    nulls = bytes((1 << len(kinds),))  # a further one is NULL
    types = b"".join(bytes((kind, 0)) + lenenc_bytes(b"name") for kind, _ in [*kinds, (0xFD, b"")])
    values = b"".join(value for _, value in kinds)
    packet = bytes((len(kinds) + 1, 1)) + nulls + b"\x01" + types + values + b"SELECT 2"
    assert parse_query(packet, attributes=True) == b"SELECT 2"


def test_short_commands_are_understood() -> None:
    assert parse_process_kill(b"\x10\x27\0\0") == 10000
    assert parse_set_option(b"\x01\0") == 1


@pytest.mark.fuzz
@given(st.binary(max_size=120))
def test_arbitrary_arguments_are_understood_or_malformed(data: bytes) -> None:
    for parse in (
        parse_binlog_dump,
        parse_binlog_dump_gtid,
        parse_register_slave,
        parse_process_kill,
        parse_set_option,
        lambda arguments: parse_query(arguments, attributes=True),
    ):
        assert refusal(functools.partial(parse, data)) in (None, ErrorCode.MALFORMED_PACKET)
