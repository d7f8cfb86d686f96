"""Many readers, and one that has stopped reading, do not make the leader's heartbeats late: they are served by other
processes than the core. `make bench-heartbeats` measures it with five hundred.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.fixtures import Pool
from servers.heartbeats import Stage, readers

READERS = 80
SECONDS = 16.0
ELECTION_TIMEOUT = 8.0
"""Half of it is more than a busy machine stands still for. A heartbeat comes eight times as often."""


@pytest.fixture
def stage(pool: Pool, tmp_path: Path) -> Iterator[Stage]:
    """A node that leads, with a log of some length, and who hears its heartbeats."""
    stage = Stage(pool, tmp_path, 24, election_timeout=ELECTION_TIMEOUT)
    yield stage
    stage.close()


@pytest.mark.timeout(600)
def test_readers_cost_the_core_nothing_and_heartbeats_come(stage: Stage) -> None:
    """Of the processor time that serving takes next to nothing is the core's, who sends heartbeats. (A bound in
    milliseconds for these would be about how busy the machine is.)
    """
    with readers(stage.node.port, READERS, greedy=True):
        before = stage.processor_seconds()
        late = stage.observer.measure(SECONDS)
        core, serving = (now - then for now, then in zip(stage.processor_seconds(), before, strict=True))
    assert serving > 0.5, "hardly anything was served: this says nothing"
    assert core < serving / 4, f"the core took {core:.2f} s, the serve processes {serving:.2f} s"
    assert late.share(1.0) < ELECTION_TIMEOUT / 2, f"an election is near: {late}"
