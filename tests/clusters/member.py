"""One node as a process of its own, which writes whenever it leads: ``python -m clusters.member DIRECTORY NAME ADDRESS
PORT FOUNDER...``.

On its standard output it says ``committed TEXT`` for every note that it saw committed, and nothing else. It ends with
its standard input.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from pathlib import Path

from kingbus_node.config import Address
from kingbus_node.raft.api import ConsensusClosedError, ConsensusError, Leadership
from kingbus_node.raft.cluster import Cluster
from kingbus_node.raft.options import ClusterOptions
from kingbus_node.store.log import Log

from .lab import PATIENCE, note


def main() -> None:
    """See the module."""
    directory, name, address, port, *founders = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {name} %(message)s")
    log = Log.open(Path(directory), segment_bytes=1 << 20)
    options = ClusterOptions(
        listen=Address("127.0.0.1", int(port)),
        address=address,
        founders=tuple(founders),
        election_timeout=0.5,
        min_free_bytes=1 << 20,
    )
    cluster = Cluster(log, name, options)
    over = threading.Event()
    writer = threading.Thread(target=_write, args=(cluster, name, over))
    writer.start()
    sys.stdin.read()
    over.set()
    cluster.close()
    writer.join()
    log.close()


def _write(cluster: Cluster, name: str, over: threading.Event) -> None:
    reigns: list[Leadership | None] = [None]
    leads = threading.Event()

    def told(leadership: Leadership | None) -> None:
        reigns.append(leadership)
        leads.set() if leadership and leadership.ready else leads.clear()

    cluster.add_leadership_listener(told)
    run = f"{name} {time.monotonic_ns()}"
    number = 0
    while not over.is_set():
        if not leads.wait(0.05) or (reign := reigns[-1]) is None:
            continue
        with contextlib.suppress(ConsensusError):
            texts = []
            index = 0
            for _ in range(20):
                number += 1
                texts.append(f"{run} {number}")
                # In one term: who is deposed and elected again meanwhile would wait for the last of them only.
                index = cluster.propose([note(texts[-1], number * 37 % 3000)], term=reign.term)
            try:
                committed = cluster.wait_committed(index, time.monotonic() + PATIENCE)
            except ConsensusClosedError:
                return
            if committed:
                print("".join(f"committed {text}\n" for text in texts), end="", flush=True)


if __name__ == "__main__":
    main()
