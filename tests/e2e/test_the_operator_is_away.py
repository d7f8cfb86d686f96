"""What does not need the operator goes on without it; what does is finished by the next one."""

from __future__ import annotations

import json
import signal

from e2e.world import SYSTEM, Machine, Release, Stage, kubectl
from kingbus_operator.planning.observed import dig, number


def _holding() -> object:
    """Who works, and since when."""
    lease = json.loads(kubectl("get", "lease", "kingbus-operator", "-n", SYSTEM, "-o", "json"))
    return dig(lease, "spec", "holderIdentity"), dig(lease, "spec", "acquireTime")


def test_operators_killed_twice_during_a_scale_up(running: Stage, release: Release, machine: Machine) -> None:
    with running.load():
        kubectl("scale", "blc", running.name, "-n", running.where, "--replicas=5")
        running.wait(
            lambda: number(dig(running.get("statefulset", "orders"), "spec", "replicas")) > 3, "the first step up"
        )
        for _ in range(2):
            before = _holding()
            for pod in release.pods():
                machine.signal(pod, signal.SIGKILL)
            running.wait(lambda before=before: _holding() != before, "another operator to work")  # type: ignore[misc]
        running.wait_settled(5)

    assert running.members("orders-0") == [f"orders-{ordinal}" for ordinal in range(5)]


def test_a_failover_without_an_operator(running: Stage, release: Release, machine: Machine) -> None:
    leader = running.wait_settled(3)
    pod, term = running.get("pod", leader), running.term()
    release.scale(0)
    try:
        with running.load():
            machine.signal(pod, signal.SIGKILL)
            running.wait(lambda: running.term() > term, "the Service to name another leader")
            running.converges()
    finally:
        release.scale(2)
    running.wait_settled(3)
    running.converges()
