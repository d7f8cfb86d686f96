"""How far behind a replica is, counted over binlog files."""

from __future__ import annotations

import pytest

from kingbus_node.admin.snapshot import bytes_after, ends_of
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
