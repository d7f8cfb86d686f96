"""A transaction of 1 GiB passes through a cluster of three (promise 9): ``make test-big``. It takes 12 GB of disk for
some minutes, so it is no part of `make test`.
"""

from __future__ import annotations

import pytest
from servers.ensemble import Ensemble
from servers.fixtures import Pool
from servers.processes import peak_memory

from kingbus_node.demo.replication import wait_caught_up
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

ROW = 8 << 20
ROWS = 128
CORE_MEMORY = 300 << 20
PATIENCE = 1500.0


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("flavor", list(Flavor), ids=str)
def test_a_transaction_of_one_gibibyte_passes_in_bounded_memory(pool: Pool, flavor: Flavor) -> None:
    ensemble = Ensemble.start(pool, flavor)
    leader = ensemble.leader
    replica = ensemble.replica(ensemble.follower)
    ensemble.converge(replica)
    before = {node.name: node.executed() for node in ensemble.cluster.nodes}
    source = ensemble.source
    rows = [f"INSERT INTO w.blobs VALUES ({-key}, REPEAT(X'{key:02x}c3a9', {ROW // 3}))" for key in range(1, ROWS + 1)]
    source.sql("BEGIN", *rows, "COMMIT")
    size = sum(int(str(row[1])) for row in source.sql("SHOW BINARY LOGS"))
    assert size > ROW * ROWS
    for node in ensemble.cluster.nodes:
        wait_until(
            lambda node=node: node.executed() != before[node.name],  # type: ignore[misc]
            PATIENCE,
            f"{node!r} to hold the transaction",
            interval=0.5,
            found=node.log_tail,
        )
    wait_caught_up(source, replica, PATIENCE)
    ensemble.converge(replica)
    for node in ensemble.cluster.nodes:
        peak = peak_memory(node)
        print(f"{flavor}: {node.name}{' (leader)' if node is leader else ''}: core {peak[node.pid] >> 20} MiB, "
              f"serve {sorted(size >> 20 for pid, size in peak.items() if pid != node.pid)} MiB")  # fmt: skip
        assert peak[node.pid] < CORE_MEMORY, f"the core of {node!r} had {peak[node.pid] >> 20} MiB resident"
