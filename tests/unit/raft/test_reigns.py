"""What is in flight, and who waits for it, through reigns that come and go."""

from __future__ import annotations

import pytest

from kingbus_node.raft.api import NotLeaderError
from kingbus_node.raft.reigns import Proposed, Reigns


def refusal() -> NotLeaderError:
    return NotLeaderError(None)


def lead(reigns: Reigns, term: int, first: int) -> None:
    with reigns.changed:
        reigns.begin(term, first)


def lose(reigns: Reigns, committed: int) -> None:
    with reigns.changed:
        reigns.lose(committed)


def test_what_was_reserved_before_a_reign_was_lost_counts_once_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    reigns = Reigns(0, 100, refusal)
    lead(reigns, 1, 1)
    reign = reigns.reserve(30)
    lose(reigns, 1)
    lead(reigns, 2, 2)
    reigns.proposed(Proposed(3, 30, 1, 0.0), reign)
    assert [done.index for done in reigns.committed(3)] == [3]

    def wait(*_: object) -> bool:
        raise AssertionError("nothing is in flight: a proposal that is bigger than the limit goes alone")

    monkeypatch.setattr(reigns.changed, "wait", wait)
    reigns.reserve(1000)


def test_what_was_reserved_before_a_reign_was_lost_and_is_refused_gives_nothing_back() -> None:
    reigns = Reigns(0, 100, refusal)
    lead(reigns, 1, 1)
    earlier = reigns.reserve(30)
    lose(reigns, 1)
    lead(reigns, 2, 2)
    reigns.proposed(Proposed(3, 100, 1, 0.0), reigns.reserve(100))
    reigns.release(30, earlier)
    assert len(reigns.committed(3)) == 1
    reigns.proposed(Proposed(4, 100, 1, 0.0), reigns.reserve(100))
