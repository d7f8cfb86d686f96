"""Sources that wait for an acknowledgement, for ever."""

from __future__ import annotations

from kingbus_node.demo.instance import Options, Server
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

NEVER = 3_600_000  # milliseconds until the source would give up waiting

OPTIONS: dict[Flavor, Options] = {
    Flavor.MYSQL: {
        "plugin-load-add": "semisync_source.so",
        "loose-rpl-semi-sync-source-enabled": "ON",
        "loose-rpl-semi-sync-source-timeout": NEVER,
        "loose-rpl-semi-sync-source-wait-no-replica": "OFF",
    },
    Flavor.MARIADB: {
        "rpl-semi-sync-master-enabled": "ON",
        "rpl-semi-sync-master-timeout": NEVER,
        "rpl-semi-sync-master-wait-no-slave": "OFF",
        "rpl-semi-sync-master-wait-point": "AFTER_SYNC",
    },
}
"""Once a replica is there, but not before the first one; see `wait_without_replicas`."""


def variable(source: Server, name: str) -> str:
    """A status variable of semi-sync by the end of its name."""
    word = "source" if source.flavor is Flavor.MYSQL else "master"
    return str(source.sql(f"SHOW STATUS LIKE 'rpl_semi_sync_{word}_{name}'")[0][1])


def clients(source: Server) -> int:
    """How many semi-sync replicas it has."""
    return int(variable(source, "clients"))


def wait_for_node(source: Server) -> None:
    """Until commits wait: a replica is there, and has acknowledged what there was; before that MySQL lets them by."""
    wait_until(
        lambda: clients(source) == 1 and variable(source, "status") == "ON",
        120,
        "the node as semi-sync replica that has caught up",
        found=lambda: f"{clients(source)} replicas, semi-sync {variable(source, 'status')}",
    )


def wait_without_replicas(source: Server) -> None:
    """From now on, until it restarts, it waits even while no replica is connected."""
    word = "source_wait_no_replica" if source.flavor is Flavor.MYSQL else "master_wait_no_slave"
    source.sql(f"SET GLOBAL rpl_semi_sync_{word} = ON")
