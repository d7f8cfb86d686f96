"""Source -> node -> replica, both flavours: whatever is written, and whenever a replica comes, it ends up the same."""

from __future__ import annotations

import pytest
from servers.chain import Chain
from servers.compatibility import Reads
from servers.fixtures import Pool
from servers.processes import peak_memory
from servers.workload import PACKET_LIMIT

from kingbus_node.demo.compare import differences
from kingbus_node.demo.instance import Server
from kingbus_node.demo.replication import FilePosition, Upstream, replicate, status, wait_caught_up
from kingbus_node.demo.servers import Flavor

BY_GTID = None
BY_FILE = FilePosition()

either_start = pytest.mark.parametrize("start", [BY_GTID, BY_FILE], ids=["gtid", "file"])


@either_start
def test_live_replicas_get_every_kind_of_data(start: FilePosition | None, shared: Chain) -> None:
    replicas = [shared.replica(start, release) for release in shared.releases]
    for name, write in shared.workload.kinds().items():
        write()
        try:
            shared.converge(*replicas)
        except Exception as error:
            error.add_note(f"kind of data: {name}")
            raise
    for replica in replicas:
        replica.stop()


@either_start
def test_replicas_started_after_load_converge(start: FilePosition | None, shared: Chain) -> None:
    shared.workload.everything()
    shared.wait_node()
    replicas = [shared.replica(start, release) for release in shared.releases]
    shared.converge(*replicas)
    for replica in replicas:
        replica.stop()


@either_start
def test_replicas_started_during_load_converge(start: FilePosition | None, shared: Chain) -> None:
    with shared.workload.in_background():
        shared.workload.random_transactions(seed=1, count=100)
        replicas = [shared.replica(start, release) for release in shared.releases]
        shared.workload.everything()
    shared.converge(*replicas)
    for replica in replicas:
        replica.stop()


def test_a_replica_stopped_and_started_goes_on_where_it_was(shared: Chain) -> None:
    replica = shared.replica()
    word = _word(replica)
    with shared.workload.in_background():
        for round_ in range(5):
            shared.workload.random_transactions(seed=round_, count=20)
            replica.sql(f"STOP {word}", f"START {word}")
    shared.converge(replica)
    replica.stop()


def test_a_replica_moves_between_source_and_node_by_gtid_and_by_file(shared: Chain) -> None:
    """File names and positions are the source's own, so either address may be asked for what the other sent last."""
    source, node = shared.source, shared.node
    replica = shared.replica()
    for port in (source.port, node.port):
        shared.workload.everything()
        shared.converge(replica)
        replicate(replica, Upstream(port))
    shared.converge(replica)
    for port in (source.port, node.port):
        replica.sql(f"STOP {_word(replica)}")
        reached = status(replica)
        assert reached is not None
        shared.workload.everything()
        shared.wait_node()
        replicate(replica, Upstream(port), FilePosition(reached.executed_file, reached.executed_position))
        wait_caught_up(source, replica)
        assert differences(source, replica) == []
    replica.stop()


def test_events_around_the_packet_limit_arrive(chain: Chain) -> None:
    """Events whose packet is just below, exactly at and just above one full packet, and two."""
    replica = chain.replica()
    one, two = PACKET_LIMIT - 1, 2 * PACKET_LIMIT - 1  # the packet has one byte more than the event
    chain.workload.event_sizes((one - 1, one, one + 1, two - 1, two, two + 1))
    chain.converge(replica)


def test_huge_blobs_arrive_and_memory_stays_bounded(chain: Chain) -> None:
    """15.9 MiB, exactly 16,777,215 bytes, 17 and 64 MiB, to a live replica and to one that comes later."""
    live = chain.replica()
    chain.workload.blobs((int(15.9 * 2**20), 16_777_215, 17 * 2**20, 64 * 2**20))
    chain.converge(live)
    chain.converge(chain.replica(BY_FILE))
    # Measured: 205 MiB for the core, 55 for a worker, the same with 64 and with 500 MiB.
    peaks = peak_memory(chain.node)
    core = peaks.pop(chain.node.pid)  # a worker may have a smaller number: they begin anew some time
    assert core < 300 * 2**20
    assert peaks
    assert all(peak < 120 * 2**20 for peak in peaks.values())


def test_a_source_that_compresses_all_transactions_is_followed(pool: Pool, reads: Reads) -> None:
    chain = Chain.start(pool, Flavor.MYSQL, options={"binlog-transaction-compression": "ON"})
    replica = chain.replica(options={"replica-parallel-workers": 4})
    chain.workload.everything()
    chain.workload.random_transactions(seed=3, count=100)
    chain.converge(replica)
    reads(chain.source, "compressed transactions (binlog_transaction_compression)")


def test_a_replica_applies_in_parallel_what_the_source_wrote_in_groups(chain: Chain) -> None:
    parallel = {"replica-parallel-workers": 4} if chain.source.flavor is Flavor.MYSQL else {"slave-parallel-threads": 4}
    replica = chain.replica(options=parallel)
    with chain.workload.in_background(), chain.workload.in_background(), chain.workload.in_background():
        chain.workload.random_transactions(seed=4, count=200)
        chain.workload.flush_logs()
        chain.workload.random_transactions(seed=5, count=200)
    chain.converge(replica)


def _word(replica: Server) -> str:
    return "REPLICA" if replica.flavor is Flavor.MYSQL else "SLAVE"
