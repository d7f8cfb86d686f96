"""Binlog file names: in which order, and which names replicas see."""

from __future__ import annotations

import pytest

from kingbus_node.source.names import comes_after, following, served_name, split


def test_a_name_is_a_base_and_a_number() -> None:
    assert split("binlog.000007") == ("binlog", 7)
    assert split("mysql-bin.v2.1000000") == ("mysql-bin.v2", 1_000_000)
    assert split("nothing") == ("nothing", None)


@pytest.mark.parametrize(
    ("name", "other", "after"),
    [
        ("binlog.000002", "binlog.000001", True),
        ("binlog.1000000", "binlog.999999", True),
        ("binlog.000001", "binlog.000001", False),
        ("binlog.000001", "binlog.000009", False),
        ("mysql-bin.000001", "binlog.000009", True),
        ("binlog", "binlog", False),
    ],
)
def test_a_later_file_has_a_higher_number_or_another_base(name: str, other: str, after: bool) -> None:
    assert comes_after(name, other) is after


def test_the_next_names_keep_the_width_until_it_does_not_suffice() -> None:
    assert list(following("b.098", 3)) == ["b.099", "b.100", "b.101"]
    assert list(following("b.999999", 1)) == ["b.1000000"]
    assert list(following("b", 3)) == []


@pytest.mark.parametrize(
    ("source", "previous", "served"),
    [
        ("binlog.000003", None, "binlog.000003"),
        ("binlog.000004", "binlog.000003", "binlog.000004"),
        ("binlog.000009", "binlog.000003", "binlog.000009"),
        ("binlog.000002", "binlog.000007", "binlog.000008"),
        ("mysql-bin.000002", "binlog.000007", "binlog.000008"),
        ("binlog.999999", "binlog.1000000", "binlog.1000001"),
        ("other", "single", "other"),
        ("single", "single", "single.000001"),
    ],
)
def test_replicas_see_the_source_names_as_long_as_they_rise(source: str, previous: str | None, served: str) -> None:
    assert served_name(source, previous) == served
