"""GTID sets are printed, compared and subtracted as a real MySQL does it; one query answers for many random pairs."""

from __future__ import annotations

from random import Random

import pytest
from pymysql.err import OperationalError
from servers.fixtures import Pool

from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.demo.instance import Server, text

PAIRS = 5_000
PER_QUERY = 100
UUIDS = (
    "3e11fa47-71ca-11e1-9e33-c80aa9429562",
    "00000000-0000-0000-0000-000000000001",
    "ffffffff-71ca-11e1-9e33-c80aa9429562",
)
TAGS = ("", "", "blue", "a", "_32_characters_is_what_a_tag_may")


@pytest.fixture(scope="module")
def server(module_pool: Pool) -> Server:
    return module_pool.server("mysql-9.7")


def random_set(random: Random) -> str:
    """Text with overlapping, unordered and adjacent intervals, any letter case, spaces and line breaks."""
    parts = []
    for _ in range(random.choice((0, 1, 1, 2, 4))):
        uuid = random.choice(UUIDS)
        part = uuid.upper() if random.random() < 0.3 else uuid
        for _ in range(random.randrange(1, 4)):
            tag = random.choice(TAGS)
            part += f":{tag}" if tag else ""
            for _ in range(random.randrange(1, 5)):
                start = random.choice((1, 2, 3, 5, 8, 9, 10, 1_000, 2**62))
                end = start + random.choice((0, 0, 1, 2, 7))
                part += f":{start}" if start == end else f":{start}-{end}"
        parts.append(part)
    return random.choice((",", ", ", ",\n")).join(parts)


def test_random_pairs_of_sets(server: Server) -> None:
    random = Random(9_7)
    for _ in range(PAIRS // PER_QUERY):
        pairs = [(random_set(random), random_set(random)) for _ in range(PER_QUERY)]
        columns = ", ".join(
            f"GTID_SUBSET('{a}', '{b}'), GTID_SUBTRACT('{a}', '{b}'), GTID_SUBTRACT('{a},{b}', '')" for a, b in pairs
        )
        (row,) = server.sql(f"SELECT {columns}")
        for number, (a, b) in enumerate(pairs):
            subset, rest, union = row[3 * number : 3 * number + 3]
            left, right = GtidSet.parse(a), GtidSet.parse(b)
            context = f"A = {a!r}, B = {b!r}"
            assert (right >= left) == (subset == 1), context
            assert (left - right).format(",\n") == text(rest), context
            assert (left | right).format(",\n") == text(union), context
            assert GtidSet.decode((left | right).encode()) == left | right, context


WRONG = ("x", *(UUIDS[0] + end for end in (":0", ":1:a-b", ":1-", ":5-x", "1:1")), UUIDS[0][:-1] + ":1")


@pytest.mark.parametrize("wrong", WRONG)
def test_what_the_server_refuses_is_refused(wrong: str, server: Server) -> None:
    with pytest.raises(OperationalError, match="Malformed GTID set"):
        server.value(f"SELECT GTID_SUBSET('', '{wrong}')")
    with pytest.raises(ValueError):
        GtidSet.parse(wrong)
