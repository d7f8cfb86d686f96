"""With semi-sync on, what a client saw committed is on a majority of disks (promise 3).

Each round leader and source are killed at the same moment, while clients write. A replica of what is left of the
cluster must come to hold every row whose commit had returned by then, although the source is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pymysql
import pytest
from servers.ensemble import Ensemble
from servers.fixtures import Pool
from servers.semi_sync import OPTIONS, clients, wait_without_replicas

from kingbus_node.demo.instance import Server
from kingbus_node.demo.replication import Upstream, caught_up, replicate
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

ROUNDS = 3
WRITERS = 3
AT_LEAST = 30


class Clients:
    """They write, and note each row whose commit has returned."""

    def __init__(self, source: Server) -> None:
        self.source = source
        self.seen: set[int] = set()
        self._lock = threading.Lock()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Until the source is gone."""
        threads = [threading.Thread(target=self._write, name="client") for _ in range(WRITERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for thread in threads:
                thread.join()

    def _write(self) -> None:
        try:
            with self.source.connect(database="w") as connection, connection.cursor() as cursor:
                while True:
                    cursor.execute("INSERT INTO seen VALUES ()")
                    with self._lock:
                        self.seen.add(cursor.lastrowid)
        except (pymysql.err.OperationalError, pymysql.err.InterfaceError):
            return  # the source was killed


@pytest.fixture
def ensemble(pool: Pool, flavor: Flavor) -> Ensemble:
    """A source that waits for its cluster."""
    ensemble = Ensemble.start(pool, flavor, options=OPTIONS[flavor], settings={"source": {"semi_sync": True}})
    ensemble.source.sql("CREATE TABLE w.seen (id BIGINT PRIMARY KEY AUTO_INCREMENT)")
    return ensemble


def test_what_a_client_saw_committed_survives_the_loss_of_source_and_leader(ensemble: Ensemble) -> None:
    source, cluster = ensemble.source, ensemble.cluster
    clients_ = Clients(source)
    replica = ensemble.replica(ensemble.follower)
    for round_ in range(ROUNDS):
        wait_until(lambda: clients(source) == 1, 60, "the leader as semi-sync replica")
        wait_without_replicas(source)
        leader, before = ensemble.leader, len(clients_.seen)
        with clients_.writing():
            wait_until(lambda before=before: len(clients_.seen) >= before + AT_LEAST, 60, "some commits")  # type: ignore[misc]
            for victim in (leader, source) if round_ % 2 else (source, leader):
                victim.kill()
        left = cluster.wait_leader(other_than=leader)
        replicate(replica, Upstream(left.port))
        wait_until(
            lambda left=left: caught_up(replica, left.executed()) and clients_.seen <= rows(replica),  # type: ignore[misc]
            60,
            "a replica of the survivors to hold every row that a client saw committed",
            interval=0.1,
            found=lambda: f"missing rows {sorted(clients_.seen - rows(replica))[:20]}",
        )
        source.start()
        leader.start()
    ensemble.converge(replica)


def rows(replica: Server) -> set[int]:
    return {int(str(row[0])) for row in replica.sql("SELECT id FROM w.seen")}
