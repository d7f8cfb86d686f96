"""Random kills, stops and hangs of a real cluster and its source, under load, and the check that nothing came of it.

``make chaos ARGS="--minutes 30 --seed 7"``. The seed decides what is done in which order; how long things take is the
machine's.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kingbus_node.demo.instance import Server
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.replication import Upstream, replicate
from kingbus_node.demo.servers import Flavor
from servers.ensemble import Ensemble
from servers.fixtures import Pool
from servers.processes import children

_SHORT = 0.3
_LONG = 4.0  # longer than any election timeout here
_CHECK_EVERY = 12  # actions

Say = Callable[[str], None]


class Chaos:
    """One run. `say` is told of every action before it is done."""

    def __init__(self, ensemble: Ensemble, seed: int, say: Say) -> None:
        self._ensemble = ensemble
        self._dice = random.Random(seed)
        self._say = say
        self._replicas = [ensemble.replica(node) for node in ensemble.cluster.nodes]
        self.actions = 0

    def run(self, seconds: float) -> None:
        """Act for so long, check now and then, and at the end; AssertionError or Timeout for what is not right."""
        until = time.monotonic() + seconds
        ensemble = self._ensemble
        while time.monotonic() < until:
            with ensemble.workload.in_background():
                for _ in range(_CHECK_EVERY):
                    self._act()
                    ensemble.workload.random_transactions(seed=self._dice.randrange(1 << 30), count=5)
                    if time.monotonic() >= until:
                        break
            self._say("check")
            ensemble.converge(*self._replicas)
        ensemble.workload.everything()
        ensemble.converge(*self._replicas)
        ensemble.assert_files_equal()

    def _act(self) -> None:
        actions: tuple[tuple[int, Callable[[], None]], ...] = (
            (5, self._kill_leader),
            (3, self._kill_follower),
            (1, self._kill_all),
            (3, self._hang),
            (2, self._hang_core),
            (2, self._end_node),
            (2, self._kill_worker),
            (2, self._kill_source),
            (3, self._move_replica),
        )
        weights = [weight for weight, _ in actions]
        ((_, action),) = self._dice.choices(actions, weights)
        self.actions += 1
        action()

    def _pause(self) -> None:
        time.sleep(self._dice.choice((0.0, _SHORT, _LONG)))  # not a wait for anything: the disturbance lasts so long

    def _node(self) -> NodeProcess:
        return self._dice.choice(self._ensemble.cluster.nodes)

    def _kill_leader(self) -> None:
        self._kill(self._ensemble.leader)

    def _kill_follower(self) -> None:
        self._kill(self._dice.choice(self._ensemble.cluster.followers(self._ensemble.leader)))

    def _kill(self, node: NodeProcess) -> None:
        self._say(f"kill {node.name}")
        node.kill()
        self._pause()
        node.start(timeout=120, ready=False)

    def _kill_all(self) -> None:
        self._say("kill all nodes")
        self._ensemble.cluster.kill()
        self._ensemble.cluster.start(timeout=120)

    def _hang(self) -> None:
        node = self._node()
        self._say(f"hang {node.name}")
        node.pause()
        try:
            self._pause()
        finally:
            node.resume()

    def _hang_core(self) -> None:
        node = self._node()
        self._say(f"hang the core of {node.name}")
        node.pause_core()
        try:
            self._pause()
        finally:
            node.resume()

    def _end_node(self) -> None:
        node = self._node()
        self._say(f"end {node.name}")
        node.stop(timeout=60)
        self._pause()
        node.start(timeout=120, ready=False)

    def _kill_worker(self) -> None:
        node = self._node()
        workers = children(node.pid)
        if workers:
            self._say(f"kill a serve process of {node.name}")
            with suppress(ProcessLookupError):  # one that was killed a moment ago may be gone by now
                os.kill(self._dice.choice(workers), signal.SIGKILL)

    def _kill_source(self) -> None:
        self._say("kill the source")
        self._ensemble.source.kill()
        self._pause()
        self._ensemble.source.start()

    def _move_replica(self) -> None:
        replica: Server = self._dice.choice(self._replicas)
        node = self._node()
        self._say(f"move a replica to {node.name}")
        replicate(replica, Upstream(node.port))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 20))
    parser.add_argument("--flavor", type=Flavor, choices=list(Flavor), default=Flavor.MYSQL)
    chosen = parser.parse_args()
    begun = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - begun:7.1f} s  {text}\n")
        sys.stdout.flush()

    say(f"seed {chosen.seed}, {chosen.flavor}, {chosen.minutes:g} minutes")
    with tempfile.TemporaryDirectory(prefix="kingbus-chaos-") as folder:
        pool = Pool(Path(folder))
        try:
            chaos = Chaos(Ensemble.start(pool, chosen.flavor), chosen.seed, say)
            chaos.run(chosen.minutes * 60)
        except BaseException:
            for title, text in pool.logs():
                sys.stdout.write(f"--- {title}\n{text}\n")
            raise
        finally:
            pool.close()
    say(f"{chaos.actions} actions, and all is equal")


if __name__ == "__main__":
    main()
