"""Three sites, 60 and 150 ms from one another, on lines of 100 Mbit/s that lose a packet in a thousand: real nodes in
network namespaces. The near site should lead, then the next one; the far one is a witness.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers.ensemble import Ensemble
from servers.fixtures import Pool
from sites.sites import Sites
from sites.speed import LINE, NAMES, ROUND_TRIPS, catch_up, commit_seconds, ensemble, far_apart, members

from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.waiting import wait_until

pytestmark = [pytest.mark.namespaces, pytest.mark.timeout(600)]

PATIENCE = 180.0
MEGABYTES = 24


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    with far_apart() as sites:
        yield sites


@pytest.fixture(scope="module")
def apart(module_pool: Pool, sites: Sites) -> Ensemble:
    """A source that waits for its cluster, and a node in each site."""
    return ensemble(module_pool, sites)


def term(node: NodeProcess) -> int:
    return int(str(node.status(local=True)["term"]))


def test_the_leader_knows_how_far_the_others_are(apart: Ensemble) -> None:
    near = apart.cluster.nodes[0]

    def measured() -> bool:
        known = {name: member["round_trip_seconds"] for name, member in members(near).items()}
        return all(
            isinstance(seconds := known.get(name), float) and seconds >= ROUND_TRIPS["near", name] for name in NAMES[1:]
        )

    wait_until(measured, PATIENCE, "round trips to be measured", found=lambda: str(members(near)))
    # That a member is a witness stands in the configuration, which the leader changes once the member has told it.
    wait_until(
        lambda: members(near)["far"]["role"] == "witness",
        PATIENCE,
        "the leader to write down that the far site is a witness",
        found=lambda: str(members(near)),
    )


def test_a_commit_takes_a_round_trip_to_the_nearer_site(apart: Ensemble) -> None:
    took: list[float] = []

    def quick() -> bool:
        """Others may use the processors and the disk as well, but not all the time."""
        took.extend(commit_seconds(apart))
        return min(took) < ROUND_TRIPS["near", "far"]

    wait_until(quick, PATIENCE, "a commit that needs no answer of the farther site", found=lambda: str(min(took)))
    assert ROUND_TRIPS["near", "next"] <= min(took)


def test_the_window_covers_what_the_line_holds_and_no_election_disturbs_it(apart: Ensemble, sites: Sites) -> None:
    near = apart.cluster.nodes[0]
    wait_until(lambda: apart.cluster.leader() is near, PATIENCE, "the preferred site to lead", found=near.log_tail)
    before = term(near)
    for speed in catch_up(apart, sites, MEGABYTES):
        assert speed.ratio > 0.3, f"{speed}: a plain connection carries much more"
        assert speed.in_flight > LINE.rate * ROUND_TRIPS["near", speed.site], f"{speed}: the line holds more"
    commit_seconds(apart)
    now = near.status(local=True)
    assert (now["role"], now["term"]) == ("leader", before), "lost packets are no reason to elect another leader"


def test_the_next_best_site_takes_over_and_gives_back_under_load(apart: Ensemble) -> None:
    near, following, _ = apart.cluster.nodes
    replicas = [apart.replica(node) for node in apart.cluster.nodes]
    with apart.workload.in_background():
        near.kill()
        wait_until(
            lambda: apart.cluster.leader([following]) is following,
            PATIENCE,
            "the next site to lead, the witness only meanwhile",
            found=following.log_tail,
        )
        apart.workload.random_transactions(seed=1, count=5)
        near.start(timeout=PATIENCE)
        wait_until(
            lambda: apart.cluster.leader() is near, PATIENCE, "the preferred site to lead again", found=near.log_tail
        )
        apart.workload.random_transactions(seed=2, count=5)
    apart.converge(*replicas)
