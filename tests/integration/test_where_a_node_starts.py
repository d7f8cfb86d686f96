"""`source.start`: from the oldest file that the source still has, from now on, or behind a GTID set."""

from __future__ import annotations

import pytest
from servers.chain import SOURCE, Chain
from servers.compatibility import Reads
from servers.files import assert_files_equal
from servers.fixtures import Pool
from servers.workload import Workload

from kingbus_node.demo.instance import text
from kingbus_node.demo.replication import Upstream, executed, replicate, wait_caught_up
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until


@pytest.mark.parametrize("start", ["earliest", "current", "a GTID set"])
def test_a_replica_that_has_what_came_before_converges(start: str, pool: Pool, flavor: Flavor, reads: Reads) -> None:
    """The source has purged its first files; the replica had followed the source itself until the node began."""
    source = pool.server(SOURCE[flavor])
    workload = Workload(source).create()
    replica = pool.server(SOURCE[flavor])
    replicate(replica, Upstream(source.port))
    workload.everything()
    workload.flush_logs()
    source.sql(f"PURGE BINARY LOGS TO '{source.binary_logs()[-1]}'")
    workload.everything()
    wait_caught_up(source, replica)
    replica.sql("STOP REPLICA" if flavor is Flavor.MYSQL else "STOP SLAVE")
    before = executed(source)
    node = pool.node(source, {"source": {"start": before if start == "a GTID set" else start}})
    chain = Chain(pool, workload, node)
    wait_until(lambda: chain.holds(before), 60, "the node to begin")
    workload.everything()
    replicate(replica, chain.upstream)
    chain.converge(replica)
    gtid = node.status()["gtid"]
    assert isinstance(gtid, dict)
    if start == "earliest":
        assert_files_equal(chain)
        first = source.binary_logs()[0]
        purged = text(
            source.value("SELECT @@GLOBAL.gtid_purged")
            if flavor is Flavor.MYSQL
            else source.value(f"SELECT BINLOG_GTID_POS('{first}', 4)")
        )
        assert sorted(gtid["purged"].replace("\n", "").split(",")) == sorted(purged.replace("\n", "").split(","))
    else:
        assert gtid["purged"].replace("\n", "") == before
    reads(source, f"start: {start}, the first files purged")


def test_a_node_that_starts_with_an_empty_source_has_purged_nothing(chain: Chain) -> None:
    chain.workload.small()
    chain.wait_node()
    gtid = chain.node.status()["gtid"]
    assert isinstance(gtid, dict)
    assert gtid["purged"] == ""
