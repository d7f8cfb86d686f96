"""Silence is told apart from trouble: heartbeats go to idle replicas, and a source that stops sending them is left."""

from __future__ import annotations

import os
import signal

from servers.chain import Chain

from kingbus_node.demo.instance import Server, text
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until


def received(replica: Server) -> int:
    """How many heartbeats a replica has received, by its own account."""
    if replica.flavor is Flavor.MARIADB:
        return int(text(replica.sql("SHOW STATUS LIKE 'Slave_received_heartbeats'")[0][1]))
    table = "performance_schema.replication_connection_status"
    return int(text(replica.value(f"SELECT COUNT_RECEIVED_HEARTBEATS FROM {table}")))


def test_an_idle_replica_gets_heartbeats_and_stays_connected(chain: Chain) -> None:
    options = {"performance-schema": "ON"} if chain.source.flavor is Flavor.MYSQL else {}
    replica = chain.replica(options=options)
    chain.converge(replica)
    before = received(replica)
    wait_until(lambda: received(replica) >= before + 2, 30, "two heartbeats")
    chain.workload.small()
    chain.converge(replica)


def test_a_source_that_hangs_is_left_and_found_again(chain: Chain) -> None:
    """Stopped as by a debugger: its connections stay open, and nothing comes."""
    chain.workload.small()
    chain.wait_node()
    os.kill(chain.source.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: state(chain) == "connecting", 60, "the node to notice", found=lambda: state(chain))
    finally:
        os.kill(chain.source.pid, signal.SIGCONT)
    chain.workload.small()
    chain.converge(chain.replica())


def state(chain: Chain) -> str:
    source = chain.node.status()["source"]
    assert isinstance(source, dict)
    return str(source["state"])
