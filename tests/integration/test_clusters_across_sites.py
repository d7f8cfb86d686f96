"""Three sites, 60 and 150 ms from one another, on lines that lose a packet now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters.lab import Lab, Node, until

ROUND_TRIPS = {("A", "B"): 0.060, ("A", "C"): 0.150, ("B", "C"): 0.150}


class Sites:
    """A node in each; A is the one that should lead, C a witness."""

    def __init__(self, lab: Lab, election_timeout: float) -> None:
        addresses = {site: lab.network.door() for site in "ABC"}
        for (one, other), seconds in ROUND_TRIPS.items():
            for source, target in ((one, other), (other, one)):
                lab.network.delay(addresses[source], addresses[target], seconds / 2)
        lab.network.lose(0.001, 0.3, seed=11)
        priorities = {"A": 10, "B": 5, "C": -1}
        self.nodes: dict[str, Node] = {
            site: lab.add(
                address, list(addresses.values()), priority=priorities[site], election_timeout=election_timeout
            ).start()
            for site, address in addresses.items()
        }


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as lab:
        yield lab


def test_three_sites_far_apart_agree_at_the_pace_of_the_nearer_two(lab: Lab) -> None:
    sites = Sites(lab, 1.0).nodes
    first = sites["A"]
    until(lambda: first.cluster.is_leader and first.ready, "the preferred site leads")
    until(
        lambda: all((m.round_trip or 0) > 0.05 for m in first.cluster.members() if m.address != first.address),
        "round trips are measured",
    )
    far = sites["C"].cluster._raft.settings
    until(lambda: far.election_timeout >= 1.5, "ten round trips to the leader fit an election timeout")

    delays = []
    for number in range(20):
        start = time.monotonic()
        lab.write(f"one by one {number}")
        delays.append(time.monotonic() - start)
    assert min(delays) > 0.055, "a commit takes a round trip to the nearer site"
    start = time.monotonic()
    lab.write(*(f"all at once {number}" for number in range(400)), size=50_000)
    one_at_a_time = 400 * ROUND_TRIPS["A", "B"]
    assert time.monotonic() - start < one_at_a_time, "the window covers the way there and back"
    until(lambda: first.cluster.is_leader and first.ready, "the preferred site leads still, or again")
    lab.check_equal()


def test_the_next_best_site_takes_over_and_gives_back(lab: Lab) -> None:
    sites = Sites(lab, 0.5).nodes
    first, second = sites["A"], sites["B"]
    until(lambda: first.cluster.is_leader and first.ready, "the preferred site leads")
    lab.write("at first")
    first.stop()
    until(lambda: second.cluster.is_leader and second.ready, "the second site leads, the witness only meanwhile")
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            lab.write("meanwhile", size=1000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        first.start()
        until(lambda: first.cluster.is_leader and first.ready, "leadership comes back under load")
    finally:
        over.set()
        writer.join()
    lab.check_equal()
