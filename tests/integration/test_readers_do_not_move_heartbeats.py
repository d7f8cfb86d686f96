"""Hundreds of readers, and one that has stopped reading, do not make the leader's heartbeats late: they are served by
other processes than the core. `make bench-heartbeats` measures it with five hundred.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.fixtures import Pool
from servers.heartbeats import ELECTION_TIMEOUT, Stage, readers, served_in_core

from kingbus_node.demo.waiting import wait_until

READERS = 80
SECONDS = 8.0


@pytest.fixture
def stage(pool: Pool, tmp_path: Path) -> Iterator[Stage]:
    """A node that leads, with a log of some length, and who hears its heartbeats."""
    stage = Stage(pool, tmp_path, 24)
    yield stage
    stage.close()


@pytest.mark.timeout(600)
def test_heartbeats_come_in_time_while_many_read_and_would_not_if_the_core_served(stage: Stage) -> None:
    """The same is served by threads of the core for comparison, in the same run: a bound in milliseconds would say
    more of how busy the machine is.
    """
    with readers(stage.node.port, READERS, greedy=True):
        apart = stage.observer.measure(SECONDS)
    with served_in_core(stage) as port:
        wait_until(lambda: stage.observer.cluster.leader == "node-1", ELECTION_TIMEOUT * 20, "the core to lead")
        with readers(port, READERS, greedy=True, plain=True):
            together = stage.observer.measure(SECONDS)
    assert apart.share(0.5) < together.share(0.5) / 2, f"served by other processes: {apart}; by the core: {together}"
