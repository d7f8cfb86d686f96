"""A short walk through whatever can happen to a cluster; `make chaos` takes longer ones, each of another seed."""

from __future__ import annotations

from servers.chaos import Chaos
from servers.ensemble import Ensemble
from servers.fixtures import Pool

from kingbus_node.demo.servers import Flavor

SECONDS = 30.0
SEED = 1


def test_whatever_happens_nothing_is_lost_and_nothing_comes_twice(pool: Pool) -> None:
    done: list[str] = []
    chaos = Chaos(Ensemble.start(pool, Flavor.MYSQL), SEED, done.append)
    try:
        chaos.run(SECONDS)
    except Exception as error:
        error.add_note(f"seed {SEED}, after: {', '.join(done)}")
        raise
    assert chaos.actions > 0
