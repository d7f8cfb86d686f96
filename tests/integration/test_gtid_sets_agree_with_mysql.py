"""GTID sets: what we compute is what a real MySQL answers."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from pymysql.connections import Connection
from pymysql.cursors import Cursor
from pymysql.err import MySQLError
from servers.fixtures import Pool

from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.gtid import GtidSet, parse_uuid

ER_MALFORMED_GTID_SET_SPECIFICATION = 1772
UUIDS = (
    "3e11fa47-71ca-11e1-9e33-c80aa9429562",
    "00000000-0000-0000-0000-000000000001",
    "FFFFFFFF-0000-0000-0000-0000000000AB",
)
TAGS = ("", "red", "Blue_2", "_")
TOKENS = (
    *UUIDS,
    ":",
    ":",
    ":",
    ",",
    " ",
    "\n",
    "1",
    "5",
    "7-9",
    "9-7",
    "-",
    "red",
    "0",
    "01",
    "tag",
    "{",
    "}",
    "12345678901234567890",
)


@pytest.fixture(scope="module")
def mysql(module_pool: Pool) -> Iterator[Cursor]:
    connection: Connection[Cursor] = module_pool.server("mysql-9.7").connect()
    with connection, connection.cursor() as cursor:
        yield cursor


def answer(mysql: Cursor, query: str, *arguments: str) -> str | int:
    mysql.execute(query, arguments)
    row = mysql.fetchone()
    assert row is not None
    value = row[0]
    assert isinstance(value, str | int)
    return value


def random_set(rng: random.Random, size: int) -> GtidSet:
    out = GtidSet()
    for _ in range(rng.randrange(size)):
        start = rng.randrange(1, 4 * size)
        out.add_range(parse_uuid(rng.choice(UUIDS)), start, start + rng.randrange(1, 5), rng.choice(TAGS))
    return out


@pytest.mark.parametrize("seed", range(60))
def test_subsets_and_differences(mysql: Cursor, seed: int) -> None:
    rng = random.Random(seed)
    size = rng.choice((2, 10, 300))
    first, second = random_set(rng, size), random_set(rng, size)
    if rng.random() < 0.3:
        first = first & second
    arguments = str(first), str(second)
    assert answer(mysql, "select gtid_subset(%s, %s)", *arguments) == (first <= second)
    assert answer(mysql, "select gtid_subtract(%s, %s)", *arguments) == (first - second).format(",\n")
    # MySQL has no function for these; both can be had from subtraction.
    assert answer(mysql, "select gtid_subtract(%s, gtid_subtract(%s, %s))", str(first), *arguments) == (
        (first & second).format(",\n")
    )
    assert answer(mysql, "select gtid_subtract(concat(%s, ',', %s), '')", *arguments) == (first | second).format(",\n")


def read_by(mysql: Cursor, text: str) -> str | int | None:
    """The set as MySQL prints it; None if it refuses the text."""
    try:
        return answer(mysql, "select gtid_subtract(%s, '')", text)
    except MySQLError as error:
        if error.args[0] != ER_MALFORMED_GTID_SET_SPECIFICATION:
            raise
        return None


def read_by_us(text: str) -> str | None:
    try:
        return GtidSet.parse(text).format(",\n")
    except BinlogError:
        return None


@pytest.mark.parametrize("seed", range(10))
def test_text_is_read_or_refused_alike(mysql: Cursor, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        text = rng.choice(UUIDS) + ":" if rng.randrange(4) else ""
        text += "".join(rng.choice(TOKENS) for _ in range(rng.randrange(1, 9)))
        assert read_by_us(text) == read_by(mysql, text), text
