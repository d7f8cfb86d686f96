"""Rounds of one disturbance each, under load, and after every single one the proof that nothing came of it.

``make test-kills ARGS="--rounds 20"``, root only: the nodes live in network namespaces, so that they can be cut off
from one another while source and replicas still reach them. Servers keep running, only nodes die, so a round takes
seconds.

After each round: the tables of the source and of a replica of every node are equal, every node and every replica has
executed exactly what the source has, and a dump from every node holds the round's GTIDs in order, each once, none
missing. With semi-sync (`HonestSemiSync`), leader and source are killed at the same moment: every row whose commit a
client saw is found in a replica of the nodes that are left.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pymysql
from sites.sites import Sites

from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.demo.instance import Server
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.replication import caught_up, executed, replicate
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until
from servers.ensemble import Ensemble, upstream
from servers.fixtures import Pool
from servers.raw import Dump, dump, gtid_command
from servers.semi_sync import OPTIONS, wait_for_node, wait_without_replicas

SITES = ("a", "b", "c")
# No election but those that a round is about, on a busy machine; and not long until a node that is cut off says so.
SETTINGS = {"raft": {"election_timeout": "3s", "isolation_timeout": "4s"}}
_GTID_EVENT = 33
_EOF = 0xFE
_ER_SERVER_SHUTDOWN = 1053
_SHUTDOWN = b"\xff" + _ER_SERVER_SHUTDOWN.to_bytes(2, "little")
_CR_SERVER_LOST = 2013
_CHECKSUMS = "SET @source_binlog_checksum = @@global.binlog_checksum"
_PATIENCE = 120.0


class Kills:
    """The rounds. The source is MySQL; no other GTIDs than its own are in play."""

    def __init__(self, ensemble: Ensemble, sites: Sites, seed: int = 0) -> None:
        """The ensemble's nodes run in `sites`."""
        self._ensemble = ensemble
        self._cluster = ensemble.cluster
        self._sites = sites
        self._site = dict(zip((node.name for node in self._cluster.nodes), sites.places, strict=True))
        self._dice = random.Random(seed)
        self._replicas = [ensemble.replica(node) for node in self._cluster.nodes]

    @classmethod
    def start(cls, pool: Pool, sites: Sites, seed: int = 0) -> Kills:
        """With an ensemble of its own."""
        options = {"bind-address": f"127.0.0.1,{sites.source_address}"}
        places = list(sites.places.values())
        return cls(Ensemble.start(pool, Flavor.MYSQL, options=options, settings=SETTINGS, places=places), sites, seed)

    def round(self, kind: str) -> int:
        """One round; how many transactions there were in it. AssertionError or Timeout when something is not right."""
        ensemble, workload = self._ensemble, self._ensemble.workload
        before = executed(ensemble.source)
        ensemble.source.sql("USE w", "TRUNCATE TABLE rows_", "TRUNCATE TABLE blobs")
        with workload.in_background():
            self._write(10)
            KINDS[kind](self)
            self._write(10)
        ensemble.converge(*self._replicas)
        return self._check_gtids(before)

    def _write(self, count: int) -> None:
        self._ensemble.workload.random_transactions(seed=self._dice.randrange(1 << 30), count=count)

    def _check_gtids(self, before: str) -> int:
        """A dump of what came since `before` holds each transaction once, in order, on every node."""
        source = self._ensemble.source
        now = executed(source)
        known = GtidSet.parse(before)
        first, last = _last(before) + 1, _last(now)
        for node in self._cluster.nodes:
            got = self._dump(node, gtid_command(known.encode()))
            numbers = [
                int.from_bytes(event.payload[36:44], "little")
                for event in got.events
                if event.payload[4] == _GTID_EVENT
            ]
            assert numbers == list(range(first, last + 1)), (
                f"promise 5: {node!r} sends {len(numbers)} transactions from {numbers[:1]} to {numbers[-1:]},"
                f" expected {first} to {last}, each once and in order"
            )
        return last - first + 1

    @staticmethod
    def _dump(node: NodeProcess, command: bytes) -> Dump:
        """All that there is. A node that is late for a moment ends dumps and refuses logins, which replicas take as a
        lost connection.
        """

        def whole() -> Dump | None:
            try:
                got = dump(node.port, command, [_CHECKSUMS], host=node.place.host)
            except pymysql.err.OperationalError as error:
                if error.args[0] not in (_ER_SERVER_SHUTDOWN, _CR_SERVER_LOST):
                    raise
                return None
            except ConnectionError:
                return None
            if got.end is None or got.end.payload.startswith(_SHUTDOWN):
                return None
            assert got.end.payload[0] == _EOF, f"{node!r} ended its dump by an error: {got.end.payload!r}"
            return got

        return wait_until(whole, _PATIENCE, f"a whole dump from {node!r}", interval=0.2, found=node.log_tail)

    # Kinds

    def _others(self, node: NodeProcess) -> list[NodeProcess]:
        return [one for one in self._cluster.nodes if one is not node]

    def _someone_leads(self, among: Sequence[NodeProcess]) -> None:
        """And commits: the load goes on."""
        leader = self._cluster.wait_leader(_PATIENCE, among=among)
        held = leader.executed()
        wait_until(lambda: leader.executed() != held, _PATIENCE, f"{leader!r} to commit", found=leader.log_tail)

    def _kill_leader(self) -> None:
        leader = self._ensemble.leader
        leader.kill()
        self._someone_leads(self._others(leader))
        leader.launch()

    def _kill_follower(self) -> None:
        victim = self._dice.choice(self._cluster.followers(self._ensemble.leader))
        victim.kill()
        self._someone_leads(self._others(victim))
        victim.launch()

    def _kill_all(self) -> None:
        self._cluster.kill()
        self._write(5)
        for node in self._cluster.nodes:
            node.launch()

    def _freeze_leader(self) -> None:
        leader = self._ensemble.leader
        leader.pause()
        try:
            self._someone_leads(self._others(leader))
        finally:
            leader.resume()

    def _cut_off_leader(self) -> None:
        """It still reaches the source, and its replica reaches it."""
        leader = self._ensemble.leader
        with self._cut(leader, hears=False, is_heard=False):
            self._someone_leads(self._others(leader))
            self._is_late_and_says_so(leader)

    def _mute_leader(self) -> None:
        leader = self._ensemble.leader
        with self._cut(leader, hears=True, is_heard=False):
            self._someone_leads(self._others(leader))

    def _deafen_leader(self) -> None:
        leader = self._ensemble.leader
        with self._cut(leader, hears=False, is_heard=True):
            self._someone_leads(self._others(leader))
            self._is_late_and_says_so(leader)

    def _cut_off_follower(self) -> None:
        leader = self._ensemble.leader
        term = leader.status(local=True)["term"]
        victim = self._dice.choice(self._cluster.followers(leader))
        with self._cut(victim, hears=False, is_heard=False):
            self._is_late_and_says_so(victim)
            self._someone_leads(self._others(victim))
        wait_until(victim.is_ready, _PATIENCE, f"{victim!r} to be ready again", found=victim.log_tail)
        now = leader.status(local=True)
        assert (now["role"], now["term"]) == ("leader", term), "a node that returns deposes nobody"

    def _part_all(self) -> None:
        self._sites.part(*([site] for site in SITES))
        try:
            for node in self._cluster.nodes:
                self._is_late_and_says_so(node)
            assert self._cluster.leader() is None
        finally:
            self._sites.heal()

    @contextmanager
    def _cut(self, node: NodeProcess, *, hears: bool, is_heard: bool) -> Iterator[None]:
        site = self._site[node.name]
        try:
            for other in SITES:
                if other != site and not hears:
                    self._sites.cut(other, site)
                if other != site and not is_heard:
                    self._sites.cut(site, other)
            yield
        finally:
            self._sites.heal()

    def _is_late_and_says_so(self, node: NodeProcess) -> None:
        """Promise 7: it is not ready, it does not lead, and its dumps are over."""
        wait_until(lambda: "quorum" in node.reasons(), _PATIENCE, f"{node!r} to be unready", found=node.log_tail)
        wait_until(
            lambda: node.status(local=True)["replicas"] == [],
            _PATIENCE,
            f"{node!r} to end its dumps",
            found=lambda: str(node.status(local=True)["replicas"]),
        )
        # Who has lost touch serves nothing at once, but steps down in another thread.
        wait_until(
            lambda: node.status(local=True)["role"] != "leader",
            _PATIENCE,
            f"{node!r} to step down",
            found=node.log_tail,
        )


KINDS: Mapping[str, Callable[[Kills], None]] = {
    "kill -9 of the leader": Kills._kill_leader,
    "kill -9 of a follower": Kills._kill_follower,
    "kill -9 of all nodes": Kills._kill_all,
    "the leader stopped, and continued": Kills._freeze_leader,
    "the leader cut off from its followers": Kills._cut_off_leader,
    "nobody hears the leader": Kills._mute_leader,
    "the leader hears nobody": Kills._deafen_leader,
    "a follower cut off": Kills._cut_off_follower,
    "everybody cut off from everybody": Kills._part_all,
}
"""What a round may be about."""


def _last(gtids: str) -> int:
    """The last number of a set of one source's transactions, all from 1 on."""
    numbers = gtids.partition(":")[2]
    assert set(numbers) <= set("0123456789-"), f"a hole, or transactions of somebody else: {gtids}"
    return int(numbers.rpartition("-")[2])


class HonestSemiSync:
    """With semi-sync on, what a client saw committed is on a majority of disks (promise 3)."""

    WRITERS = 3
    AT_LEAST = 30

    def __init__(self, ensemble: Ensemble) -> None:
        """An ensemble of `start`."""
        self._ensemble = ensemble
        self._replica = ensemble.replica(ensemble.follower)
        self._rounds = 0
        self._lock = threading.Lock()
        self.seen: set[int] = set()

    @classmethod
    def start(cls, pool: Pool, flavor: Flavor) -> HonestSemiSync:
        """With a source that waits for its cluster, for ever."""
        settings = {"source": {"semi_sync": True}}
        ensemble = Ensemble.start(pool, flavor, options=OPTIONS[flavor], settings=settings)
        ensemble.source.sql("CREATE TABLE w.seen (id BIGINT PRIMARY KEY AUTO_INCREMENT)")
        return cls(ensemble)

    def round(self) -> int:
        """Leader and source are killed at the same moment; how many commits the clients had seen in this round."""
        source, cluster, replica = self._ensemble.source, self._ensemble.cluster, self._replica
        wait_for_node(source)
        wait_without_replicas(source)
        leader, before = self._ensemble.leader, len(self.seen)
        with self._writing():
            wait_until(lambda: len(self.seen) >= before + self.AT_LEAST, _PATIENCE, "some commits")
            for victim in (leader, source) if self._rounds % 2 else (source, leader):
                victim.kill()
        self._rounds += 1
        left = cluster.wait_leader(_PATIENCE, other_than=leader)
        replicate(replica, upstream(left))
        wait_until(
            lambda: caught_up(replica, left.executed()) and self.seen <= self._rows(),
            _PATIENCE,
            "a replica of the survivors to hold every row that a client saw committed",
            interval=0.1,
            found=lambda: f"missing rows {sorted(self.seen - self._rows())[:20]}",
        )
        source.start()
        leader.start(ready=False)
        return len(self.seen) - before

    def converge(self) -> None:
        """At the end all is equal."""
        self._ensemble.converge(self._replica)

    def _rows(self) -> set[int]:
        return {int(str(row[0])) for row in self._replica.sql("SELECT id FROM w.seen")}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Clients write, and note each row whose commit has returned, until the source is gone."""
        threads = [
            threading.Thread(target=self._write, args=(self._ensemble.source,), name="client")
            for _ in range(self.WRITERS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for thread in threads:
                thread.join()

    def _write(self, source: Server) -> None:
        try:
            with source.connect(database="w") as connection, connection.cursor() as cursor:
                while True:
                    cursor.execute("INSERT INTO seen VALUES ()")
                    with self._lock:
                        self.seen.add(int(cursor.lastrowid))
        except (pymysql.err.OperationalError, pymysql.err.InterfaceError):
            return  # the source was killed


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of each kind")
    parser.add_argument("--only", default="", help="kinds whose names hold this text")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kingbus-kills-") as folder:
        for name, stage in (("in namespaces", _kills), ("with semi-sync", _semi_sync)):
            pool = Pool(Path(folder) / name.replace(" ", "-"))
            try:
                stage(pool, chosen)
            except BaseException:
                for title, text in pool.logs():
                    print(f"--- {title}\n{text}")
                raise
            finally:
                pool.close()


def _kills(pool: Pool, chosen: argparse.Namespace) -> None:
    with Sites(SITES) as sites:
        kinds = [kind for kind in KINDS if chosen.only in kind]
        if kinds:
            kills = Kills.start(pool, sites, chosen.seed)
            for kind in kinds:
                _play(kind, chosen.rounds, lambda kind=kind: kills.round(kind))  # type: ignore[misc]


def _semi_sync(pool: Pool, chosen: argparse.Namespace) -> None:
    kind = "kill -9 of leader and source at once, semi-sync"
    if chosen.only in kind:
        honest = HonestSemiSync.start(pool, Flavor.MYSQL)
        _play(kind, chosen.rounds, honest.round)
        honest.converge()


def _play(kind: str, rounds: int, play: Callable[[], int]) -> None:
    seconds, transactions = [], 0
    for _ in range(rounds):
        begun = time.monotonic()
        transactions += play()
        seconds.append(time.monotonic() - begun)
    median, longest = statistics.median(seconds), max(seconds)
    print(
        f"{kind:<50}{rounds:>3} rounds{transactions:>8} transactions, {median:.1f} s a round, at most {longest:.1f} s"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
