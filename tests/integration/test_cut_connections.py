"""The connection to the source, or of a replica to the node, cut after a random byte, many times."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from random import Random

from servers.chain import SOURCE, Chain
from servers.files import assert_files_equal
from servers.fixtures import Pool
from servers.proxy import CuttingProxy
from servers.workload import Workload

from kingbus_node.demo.replication import Upstream, replicate
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

SOURCE_CUTS = 60
REPLICA_CUTS = 8
HANDSHAKE = 800
"""A server says at least this much before the first event, so that most cuts come after it."""


def random_cuts(seed: int, count: int, most: int) -> Iterator[int]:
    """Numbers of bytes, evenly spread over the orders of magnitude from a handshake to `most`."""
    random = Random(seed)
    return (HANDSHAKE + int(math.exp(random.uniform(math.log(100), math.log(most)))) for _ in range(count))


def test_a_source_connection_cut_anywhere_loses_and_repeats_nothing(pool: Pool, flavor: Flavor) -> None:
    source = pool.server(SOURCE[flavor])
    proxy = pool.proxy(source.port)
    workload = Workload(source).create()
    node = pool.node(
        source,
        {"source": {"endpoints": [f"127.0.0.1:{proxy.port}"], "retry": {"initial": "5ms", "max": "50ms"}}},
    )
    chain = Chain(pool, workload, node)
    replica = chain.replica()
    proxy.cut_after(random_cuts(seed=1, count=SOURCE_CUTS, most=3_000_000))
    proxy.cut_now()
    with workload.in_background():
        for seed in itertools.count():
            workload.random_transactions(seed, count=20)
            workload.many_rows()
            if seed % 5 == 0:
                workload.everything()
                workload.blobs((3_000_000,))
            if proxy.cut_count >= SOURCE_CUTS:
                break
    chain.converge(replica)
    assert_files_equal(chain)


def test_a_source_connection_cut_inside_one_huge_transaction_passes_in_the_end(pool: Pool, flavor: Flavor) -> None:
    """Fragments of the transaction are in the node's log already when the connection ends, again and again."""
    source = pool.server(SOURCE[flavor])
    proxy = pool.proxy(source.port)
    workload = Workload(source).create()
    node = pool.node(source, {"source": {"endpoints": [f"127.0.0.1:{proxy.port}"]}})
    chain = Chain(pool, workload, node)
    replica = chain.replica()
    chain.wait_node()
    proxy.cut_after(iter([2_000_000, 10_000_000, 16_779_000, 20_000_000, 39_999_999]))
    proxy.cut_now()
    workload.blobs((40_000_000, 10))
    chain.converge(replica)
    wait_until(lambda: proxy.cut_count == 5, 60, "all cuts", found=lambda: str(proxy.cut_count))
    assert_files_equal(chain)


def test_a_replica_connection_cut_anywhere_loses_and_repeats_nothing(chain: Chain) -> None:
    proxy = chain.pool.proxy(chain.node.port)
    replica = chain.pool.server(SOURCE[chain.source.flavor])
    proxy.cut_after(random_cuts(seed=2, count=REPLICA_CUTS, most=1_000_000))
    replicate(replica, Upstream(proxy.port))
    chain.workload.everything()
    with chain.workload.in_background():
        wait_until(lambda: _write_more(chain, proxy), 120, "all cuts")
    chain.converge(replica)


def _write_more(chain: Chain, proxy: CuttingProxy) -> bool:
    chain.workload.random_transactions(proxy.cut_count, count=5)
    chain.workload.blobs((200_000,))
    return proxy.cut_count >= REPLICA_CUTS
