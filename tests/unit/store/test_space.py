"""When there is too little room to go on writing, and when there is enough again."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from kingbus_node.store.space import DiskSpace


class Disk:
    """A disk with as much room as is said, at a time that is said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.free = 10_000
        monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=self.free, f_frsize=1))
        self.refused = 0.0
        self.space = DiskSpace(Path("/d"), 1000, grace=3.0, clock=lambda: self.now, refused=lambda: self.refused)

    def full(self, free: int, after: float = 1.0) -> bool:
        self.now += after
        self.free = free
        return self.space.full


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_it_is_full_once_retention_had_its_chance_and_until_there_is_a_quarter_more(disk: Disk) -> None:
    answers = [disk.full(free) for free in (1000, 999, 999, 999, 999, 1000, 1249, 1250, 999)]
    assert answers == [False, False, False, False, True, True, True, False, False]


def test_room_that_is_made_in_time_keeps_it_going(disk: Disk) -> None:
    answers = [disk.full(free) for free in (999, 999, 1000, 999, 999, 999, 1001)]
    assert answers == [False] * 7


def test_with_half_of_the_minimum_it_is_full_at_once(disk: Disk) -> None:
    assert [disk.full(free) for free in (500, 499, 999, 1250)] == [False, True, True, False]


def test_a_refusal_is_believed_for_a_while_whatever_the_disk_says(disk: Disk) -> None:
    """A quota does not show in what statvfs tells."""
    disk.refused = disk.now
    assert disk.full(10_000, after=0.5)
    assert not disk.full(10_000, after=1.0)


def test_it_says_why(disk: Disk) -> None:
    disk.free = 17
    assert disk.space.describe() == "the disk of /d is full: 17 bytes are free, storage.min_free_bytes is 1000"
