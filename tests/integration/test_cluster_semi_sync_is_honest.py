"""With semi-sync on, what a client saw committed is on a majority of disks (promise 3).

Each round leader and source are killed at the same moment, while clients write. A replica of what is left of the
cluster must come to hold every row whose commit had returned by then, although the source is gone.
"""

from __future__ import annotations

import pytest
from servers.fixtures import Pool
from servers.kills import HonestSemiSync

from kingbus_node.demo.servers import Flavor

ROUNDS = 3


@pytest.fixture
def honest(pool: Pool, flavor: Flavor) -> HonestSemiSync:
    """A source that waits for its cluster, of each flavour."""
    return HonestSemiSync.start(pool, flavor)


def test_what_a_client_saw_committed_survives_the_loss_of_source_and_leader(honest: HonestSemiSync) -> None:
    seen = [honest.round() for _ in range(ROUNDS)]
    assert min(seen) >= honest.AT_LEAST
    honest.converge()
