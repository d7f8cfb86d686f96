"""Three sites, 60 and 150 ms from one another, on lines that lose a packet now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters.lab import Lab, Node, note, soon, until

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


def test_three_sites_far_apart_have_one_leader_that_stays(lab: Lab) -> None:
    sites = Sites(lab, 1.0).nodes
    first = sites["A"]
    until(lambda: first.cluster.is_leader and first.ready, "the preferred site leads")
    until(
        lambda: all((m.round_trip or 0) > 0.05 for m in first.cluster.members() if m.address != first.address),
        "round trips are measured",
    )
    timeouts = {site: node.cluster._raft.settings.election_timeout for site, node in sites.items()}
    assert timeouts["A"] == 1.0, "ten round trips to a majority fit the configured one"
    assert timeouts["C"] >= 1.5, "ten round trips to the leader"
    term = first.cluster.term
    changes: list[bool] = []
    for node in sites.values():
        node.cluster.add_contact_listener(changes.append)
    changes.clear()

    begun = time.monotonic()
    delays = []
    for number in range(20):
        start = time.monotonic()
        assert first.cluster.wait_committed(first.cluster.propose([note(f"one by one {number}")]), soon())
        delays.append(time.monotonic() - start)
    assert min(delays) > 0.055, "a commit takes a round trip to the nearer site"
    last = 0
    start = time.monotonic()
    for number in range(400):
        last = first.cluster.propose([note(f"all at once {number}", 50_000)])
    assert first.cluster.wait_committed(last, soon())
    one_at_a_time = 400 * ROUND_TRIPS["A", "B"]
    assert time.monotonic() - start < one_at_a_time, "the window covers the way there and back"
    lab.settle()
    assert time.monotonic() - begun < 60
    assert first.cluster.is_leader
    assert [node.cluster.term for node in sites.values()] == [term] * 3
    assert changes == [], "nobody lost touch under load"
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
