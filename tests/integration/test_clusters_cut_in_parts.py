"""A round of each disturbance that ``make test-kills`` plays twenty of: real nodes, in network namespaces, killed,
stopped and cut off from one another under load. What is compared after each round, `servers.kills` says.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers.fixtures import Pool
from servers.kills import KINDS, SITES, Kills
from sites.sites import Sites

pytestmark = pytest.mark.namespaces


@pytest.fixture(scope="module")
def kills(module_pool: Pool) -> Iterator[Kills]:
    """A source, three nodes, each in a namespace of its own, and a replica of each."""
    with Sites(SITES) as sites:
        yield Kills.start(module_pool, sites)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_and_nothing_comes_twice(kills: Kills, kind: str) -> None:
    assert kills.round(kind) > 20
