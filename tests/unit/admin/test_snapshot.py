"""How far behind a replica is, counted over binlog files."""

from __future__ import annotations

import pytest

from kingbus_node.admin.snapshot import bytes_after, ends_of, source_unknown, told_by_leader, told_to_followers
from kingbus_node.admin.views import Binlog

FILES = [Binlog("b.000001", 500, True), Binlog("b.000002", 800, True), Binlog("b.000003", 1000, False)]


@pytest.mark.parametrize(
    ("name", "position", "behind"),
    [("b.000003", 1000, 0), ("b.000003", 900, 100), ("b.000002", 800, 1000), ("b.000001", 4, 496 + 800 + 1000)],
)
def test_the_rest_of_its_file_and_all_later_files_count(name: str, position: int, behind: int) -> None:
    assert bytes_after(name, position, ends_of(FILES)) == behind


def test_a_file_that_is_gone_says_nothing() -> None:
    assert bytes_after("b.000000", 4, ends_of(FILES)) is None


def test_a_report_that_is_newer_than_the_list_of_files_is_not_less_than_nothing_behind() -> None:
    assert bytes_after("b.000003", 1200, ends_of(FILES)) == 0


HERE: dict[str, str | int | None] = {
    "io_running": "No", "error": "", "error_code": 0, "file": "b.000001", "position": 500, "executed": "u:1-5",
    "lag_seconds": None,
}  # fmt: skip


def test_a_follower_tells_of_the_source_what_the_leader_knows_and_of_the_log_what_it_has() -> None:
    told = {
        **HERE,
        "io_running": "Yes",
        "file": "b.000002",
        "executed": "u:1-9",
        "lag_seconds": 3,
        "of a later release": 1,
    }
    assert told_by_leader(HERE, told) == {**HERE, "io_running": "Yes", "lag_seconds": 3}


def test_a_leader_tells_nothing_that_each_node_knows_of_itself() -> None:
    told = told_to_followers(HERE)
    assert told.keys() == HERE.keys() - {"file", "position", "executed"}
    assert told_by_leader({**HERE, "error": "?"}, told) == HERE


@pytest.mark.parametrize("told", [None, "what?", [1], {"io_running": ["Yes"]}])
def test_an_answer_of_a_leader_that_is_none_changes_nothing(told: object) -> None:
    assert told_by_leader(HERE, told) == HERE


def test_without_a_leader_nobody_reads_from_the_source() -> None:
    status = source_unknown(HERE, "there is no leader now")
    assert (status["io_running"], status["error_code"], status["error"]) == ("No", 2003, "there is no leader now")
