"""Answers, byte by byte as the real servers send them (captured from MySQL 9.7.4)."""

from __future__ import annotations

import pytest

from kingbus_node.wire.capabilities import Capability
from kingbus_node.wire.errors import ErrorCode, MySQLError, access_denied, error
from kingbus_node.wire.fields import lenenc_bytes
from kingbus_node.wire.resultset import (
    ResultSet,
    eof_packet,
    err_packet,
    integer_column,
    ok_packet,
    result_set_packets,
    row_packet,
    text_column,
)


def test_ok_is_the_servers() -> None:
    assert ok_packet() == bytes.fromhex("00000002000000")
    assert ok_packet(status=0) == bytes.fromhex("00000000000000")


def test_eof_is_the_servers() -> None:
    assert eof_packet(status=0) == bytes.fromhex("fe00000000")
    assert eof_packet() == bytes.fromhex("fe00000200")


def test_err_is_the_servers() -> None:
    assert err_packet(error(ErrorCode.EMPTY_QUERY, "Query was empty")) == b"\xff\x29\x04#42000Query was empty"


def test_err_before_the_handshake_has_no_sqlstate() -> None:
    packet = err_packet(MySQLError(1040, "08004", "Too many connections"), sqlstate=False)
    assert packet == b"\xff\x10\x04Too many connections"


def test_a_long_error_is_cut_between_characters() -> None:
    packet = err_packet(error(1105, "é" * 400))
    assert len(packet) <= 9 + 512
    packet[9:].decode("utf-8")


def test_a_refused_login_has_the_text_that_everybody_knows() -> None:
    refused = access_denied("repl", "127.0.0.1", using_password=True)
    assert (refused.code, refused.sqlstate) == (1045, "28000")
    assert refused.message == "Access denied for user 'repl'@'127.0.0.1' (using password: YES)"


def test_an_sqlstate_has_five_characters() -> None:
    with pytest.raises(ValueError, match="five"):
        MySQLError(1, "HY", "x")


RESULT = ResultSet((integer_column("UNIX_TIMESTAMP()", unsigned=False), text_column("t", 12)), [(b"1795367071", None)])
COLUMN_1 = b"\x03def\0\0\0\x10UNIX_TIMESTAMP()\0\x0c\x3f\0\x15\0\0\0\x08\x81\0\0\0\0"
COLUMN_2 = b"\x03def\0\0\0\x01t\0\x0c\xff\0\x0c\0\0\0\xfd\x01\0\x1f\0\0"


def test_a_result_set_has_eof_packets_for_clients_that_expect_them() -> None:
    packets = list(result_set_packets(RESULT, Capability(0), charset=255, status=0))
    eof = bytes.fromhex("fe00000000")
    assert packets == [b"\x02", COLUMN_1, COLUMN_2, eof, b"\x0a1795367071\xfb", eof]


def test_a_result_set_has_one_ok_at_its_end_for_clients_that_do_not() -> None:
    packets = list(result_set_packets(RESULT, Capability.DEPRECATE_EOF, charset=255))
    assert packets == [b"\x02", COLUMN_1, COLUMN_2, b"\x0a1795367071\xfb", bytes.fromhex("fe000002000000")]


def test_long_values_have_long_lengths() -> None:
    assert row_packet([b"x" * 300]) == lenenc_bytes(b"x" * 300)


def test_rows_are_made_while_they_are_sent() -> None:
    made = []

    def rows() -> object:
        for number in range(3):
            made.append(number)
            yield (b"%d" % number,)

    packets = result_set_packets(ResultSet((integer_column("n"),), rows()), Capability.DEPRECATE_EOF, charset=8)  # type: ignore[arg-type]
    next(packets), next(packets)
    assert made == []
    assert next(packets) == b"\x010"
    assert made == [0]
