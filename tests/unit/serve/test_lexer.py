"""Tokens of SQL, as MySQL's manual has them, and that hostile statements cost little."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.serve.lexer import MAX_TOKENS, Dialect, Kind, tokenize
from kingbus_node.wire.errors import ErrorCode, MySQLError

MYSQL = Dialect.of("9.7.4-2", mariadb=False)
MARIADB = Dialect.of("10.11.19-MariaDB-log", mariadb=True)


def values(text: str, dialect: Dialect = MYSQL) -> list[str]:
    return [token.value for token in tokenize(text, dialect)[:-1]]


def test_a_version_gives_the_number_of_executable_comments() -> None:
    assert (MYSQL.version, MARIADB.version) == (90704, 101119)
    assert Dialect.of("weird", mariadb=False).version == 0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("SELECT @@GLOBAL.SERVER_ID", ["SELECT", "@@", "GLOBAL", ".", "SERVER_ID"]),
        ("set @a:=1,@`b c` = 2", ["set", "a", ":=", "1", ",", "b c", "=", "2"]),
        ("select 'it''s', \"a\\n\\\"b\"", ["select", "it's", ",", 'a\n"b']),
        ("x'4142' 0x43", ["AB", "C"]),
        ("1.5 .5 5.", ["1.5", ".5", "5."]),
        ("a -- comment\nb # another\nc /* third */ d", ["a", "b", "c", "d"]),
        ("5--1", ["5", "-", "-", "1"]),
    ],
)
def test_statements_are_cut_into_tokens(text: str, tokens: list[str]) -> None:
    assert values(text) == tokens


def test_kinds_are_told_apart() -> None:
    kinds = [token.kind for token in tokenize("w `q` 's' 1 @u =", MYSQL)]
    assert kinds == [
        Kind.WORD,
        Kind.QUOTED,
        Kind.STRING,
        Kind.NUMBER,
        Kind.USER_VARIABLE,
        Kind.OPERATOR,
        Kind.END,
    ]


@pytest.mark.parametrize(
    ("text", "mysql", "mariadb"),
    [
        ("/*!40101 SET x*/", ["SET", "x"], ["SET", "x"]),
        ("/*! SET x*/", ["SET", "x"], ["SET", "x"]),
        ("/*!80000 SET x*/", ["SET", "x"], []),
        ("/*!99999 SET x*/", [], []),
        ("/*M!100100 SET x*/", [], ["SET", "x"]),
        ("/*M! SET x*/", [], ["SET", "x"]),
        ("/*!100100 SET x*/", [], ["SET", "x"]),
    ],
)
def test_executable_comments_are_for_those_whom_they_name(text: str, mysql: list[str], mariadb: list[str]) -> None:
    assert values(text) == mysql
    assert values(text, MARIADB) == mariadb


def test_bytes_that_are_no_utf_8_survive() -> None:
    raw = b"select '\xff\xfe'"
    token = tokenize(raw.decode("utf-8", "surrogateescape"), MYSQL)[1]
    assert token.value.encode("utf-8", "surrogateescape") == b"\xff\xfe"


@pytest.mark.parametrize("text", ["'open", '"open', "`open", "/* open", "/*!40101 open", "*/", "\0"])
def test_what_is_no_token_is_a_syntax_error_at_its_place(text: str) -> None:
    with pytest.raises(MySQLError, match="You have an error in your SQL syntax") as caught:
        tokenize(f"select 1,\n{text}", MYSQL)
    assert caught.value.code == ErrorCode.PARSE
    assert caught.value.message.endswith("at line 2")


@pytest.mark.parametrize(
    "text",
    [
        "select '" + "a" * 1_000_000,
        "select '" + "\\'" * 500_000,
        "`" * 999_999,
        "@'" * 500_000,
        "/*" * 500_000,
        "/*!" * 300_000,
        "1" * 1_000_000,
        "a," * 500_000,
    ],
)
def test_a_hostile_statement_costs_no_more_than_its_length(text: str) -> None:
    started = time.process_time()
    try:
        found = len(tokenize(text, MYSQL))
    except MySQLError as refused:
        found = refused.code
    assert found <= MAX_TOKENS + 1
    assert time.process_time() - started < 3


@given(st.text(max_size=200))
def test_arbitrary_text_gives_tokens_or_a_syntax_error(text: str) -> None:
    try:
        tokens = tokenize(text, MYSQL)
    except MySQLError as refused:
        code: int | None = refused.code
    else:
        code = None
        assert tokens[-1].kind is Kind.END
        assert all(one.end <= other.start for one, other in itertools.pairwise(tokens))
    assert code in (None, ErrorCode.PARSE)
