"""The API server is away for half a minute, and the leader dies meanwhile."""

from __future__ import annotations

import signal
import time

from e2e.world import Machine, Stage, seconds
from kingbus_node.demo.replication import wait_caught_up
from kingbus_node.demo.waiting import wait_until

AWAY = 30.0


def test_an_election_without_the_api_server(running: Stage, machine: Machine) -> None:
    anywhere = running.replica("orders-replicas")
    running.converges()
    pod, term = running.get("pod", running.wait_settled(3)), running.term()

    with running.load():
        with machine.without_api_server():
            back = time.monotonic() + AWAY
            machine.signal(pod, signal.SIGKILL)
            # The nodes elect a leader and go on; only the Service's name for it has to wait.
            wait_caught_up(running.source, anywhere, AWAY)
            wait_until(lambda: time.monotonic() >= back, 2 * AWAY, "the end of the outage", interval=0.5)
        late = seconds(lambda: running.wait(lambda: running.term() > term, "the Service to name the new leader"))
        running.wait_settled(3)

    assert late < 10, "nodes try again every second"
