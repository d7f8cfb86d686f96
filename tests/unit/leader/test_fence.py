"""A node serves while it is level with a quorum, and for a known time longer (promise 7: late, never wrong)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from kingbus_node.demo.waiting import wait_until
from kingbus_node.fence import Fence

ISOLATION = 0.2


@dataclass
class Cluster:
    in_touch: bool = False
    commit_index: int = 5
    known_commit_index: int = 5


@dataclass
class Lease:
    notes: list[int] = field(default_factory=list)

    def note_contact(self, nanoseconds: int) -> None:
        self.notes.append(nanoseconds)


@dataclass
class Setup:
    cluster: Cluster
    lease: Lease
    fence: Fence

    def becomes(self, serving: bool) -> None:
        what = "the node to be served from" if serving else "the fence to close"
        wait_until(lambda: (self.fence.reason() is None) == serving, 30, what, interval=0.002)


@pytest.fixture
def setup() -> Iterator[Setup]:
    cluster, lease = Cluster(), Lease()
    fence = Fence(cluster, lease, ISOLATION)
    fence.start()
    yield Setup(cluster, lease, fence)
    fence.stop()


def test_nothing_is_served_before_there_was_contact(setup: Setup) -> None:
    assert "not in touch" in (setup.fence.reason() or "")
    assert setup.lease.notes == []


def test_contact_opens_and_its_loss_closes_after_a_while_and_it_opens_again(setup: Setup) -> None:
    setup.cluster.in_touch = True
    setup.becomes(serving=True)
    wait_until(lambda: setup.lease.notes, 30, "the lease, which is prolonged a moment later", interval=0.002)
    setup.cluster.in_touch = False
    setup.becomes(serving=False)
    # Not from the loss of contact on, but from when the node was last seen to have it.
    last = setup.lease.notes[-1]
    assert last <= time.monotonic_ns() - ISOLATION * 1e9
    setup.cluster.in_touch = True
    setup.becomes(serving=True)
    wait_until(lambda: setup.lease.notes[-1] > last, 30, "the lease to be prolonged", interval=0.002)


def test_a_node_that_is_far_behind_is_not_served_from_although_it_is_in_touch(setup: Setup) -> None:
    setup.cluster.known_commit_index = 100
    setup.cluster.in_touch = True
    wait_until(lambda: "95 entries" in (setup.fence.reason() or ""), 30, "the reason", interval=0.002)
    assert setup.lease.notes == []
    setup.cluster.commit_index = 100
    setup.becomes(serving=True)


def test_a_node_that_stays_behind_is_closed(setup: Setup) -> None:
    setup.cluster.in_touch = True
    setup.becomes(serving=True)
    setup.cluster.known_commit_index = 6
    setup.becomes(serving=False)
