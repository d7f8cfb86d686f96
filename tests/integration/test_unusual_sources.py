"""Sources that are set up in ways that binlog servers stumble over, and chains longer than one node."""

from __future__ import annotations

import pytest
from servers.chain import SOURCE, Chain
from servers.files import assert_files_equal
from servers.fixtures import Pool
from servers.workload import Workload

from kingbus_node.demo.instance import Options
from kingbus_node.demo.node_process import Settings
from kingbus_node.demo.replication import Upstream, replicate, wait_caught_up
from kingbus_node.demo.servers import Flavor


def check(chain: Chain) -> None:
    """Write everything; a replica converges and all files are equal."""
    replica = chain.replica()
    chain.workload.everything()
    chain.converge(replica)
    assert_files_equal(chain)


def test_a_source_whose_files_are_elsewhere_and_have_another_name(pool: Pool, flavor: Flavor) -> None:
    check(Chain.start(pool, flavor, options={"log-bin": "../db-1_binary-log-with-quite-a-long-name"}))


def test_a_source_that_is_itself_a_replica(pool: Pool, flavor: Flavor) -> None:
    """Its binlog holds transactions of several servers, with their server ids and UUIDs."""
    origin = pool.server(SOURCE[flavor])
    workload = Workload(origin).create()
    source = pool.server(SOURCE[flavor])
    replicate(source, Upstream(origin.port))
    wait_caught_up(origin, source)
    chain = Chain(pool, Workload(source), pool.node(source))
    replica = chain.replica()
    workload.everything()
    wait_caught_up(origin, source)
    source.sql("CREATE DATABASE own", "CREATE TABLE own.t (id INT PRIMARY KEY)", "INSERT INTO own.t VALUES (1), (2)")
    chain.converge(replica)
    assert_files_equal(chain)


def test_a_node_is_the_source_of_another_node(chain: Chain) -> None:
    """The files of the second are those of the first, and so of the source."""
    endpoint = f"127.0.0.1:{chain.node.port}"
    ids: Settings = {"source": {"endpoints": [endpoint], "server_id": 900_200}, "serve": {"server_id": 900_201}}
    second = Chain(chain.pool, chain.workload, chain.pool.node(chain.source, ids))
    with chain.workload.in_background():
        replica = second.replica()
        chain.workload.everything()
        chain.node.kill()
        chain.workload.everything()
        chain.node.start()
    second.converge(replica)
    assert_files_equal(second)


def test_a_replica_that_wants_semi_sync_gets_it(pool: Pool, flavor: Flavor) -> None:
    """It may acknowledge what it has; nothing waits for it, for what it gets is committed already."""
    options: dict[Flavor, Options] = {
        Flavor.MYSQL: {"plugin-load-add": "semisync_replica.so", "loose-rpl-semi-sync-replica-enabled": "ON"},
        Flavor.MARIADB: {"rpl-semi-sync-slave-enabled": "ON"},
    }
    chain = Chain.start(pool, flavor)
    replica = chain.replica(options=options[flavor])
    chain.workload.everything()
    chain.converge(replica)


def test_an_xa_transaction_that_was_prepared_before_a_crash_is_committed_after_it(chain: Chain) -> None:
    replica = chain.replica()
    chain.source.sql("CREATE TABLE w.branches (name VARCHAR(20) PRIMARY KEY)")
    for name in ("'committed'", "'rolled back'"):
        chain.source.sql(
            "USE w", f"XA START {name}", f"INSERT INTO branches VALUES ({name})", f"XA END {name}", f"XA PREPARE {name}"
        )
    chain.source.kill()
    chain.node.kill()
    chain.source.start()
    chain.node.start(ready=False)
    chain.source.sql("XA COMMIT 'committed'", "XA ROLLBACK 'rolled back'")
    chain.workload.small()
    chain.converge(replica)
    assert chain.source.sql("SELECT * FROM w.branches") == [("committed",)]
    assert_files_equal(chain)


@pytest.mark.parametrize("size", [4096, 1 << 20])
def test_a_source_whose_files_are_small(size: int, pool: Pool, flavor: Flavor) -> None:
    """Most transactions then end a file; a large one ends its file long after the limit."""
    check(Chain.start(pool, flavor, options={"max-binlog-size": size}))
