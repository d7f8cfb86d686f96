"""What does not need the operator goes on without it; what does is finished by the next one."""

from __future__ import annotations

import json
import signal
import statistics

from e2e.world import SYSTEM, Machine, Release, Stage, connected, kubectl
from kingbus_operator.planning.observed import dig, number

ROUNDS = 3


def _renewed() -> str:
    """When somebody last said that he works."""
    lease = json.loads(kubectl("get", "lease", "kingbus-operator", "-n", SYSTEM, "-o", "json"))
    return str(dig(lease, "spec", "renewTime"))


def test_operators_killed_twice_during_a_scale_up(running: Stage, release: Release, machine: Machine) -> None:
    kills = 0
    with running.load():
        kubectl("scale", "blc", running.name, "-n", running.where, "--replicas=5")
        running.wait(
            lambda: number(dig(running.get("statefulset", "orders"), "spec", "replicas")) > 3, "the first step up"
        )
        for _ in range(2):
            pods = release.pods()
            assert len(pods) == 2
            # One of them works again; the other one's container may still be on its way.
            running.wait(lambda pods=pods: all(map(machine.runs, pods)), "both operators to run")  # type: ignore[misc]
            for pod in pods:
                machine.signal(pod, signal.SIGKILL)
                kills += 1
            last = _renewed()
            running.wait(lambda last=last: _renewed() > last, "an operator to work again")  # type: ignore[misc]
        running.wait_settled(5)

    assert kills == 4
    assert running.members("orders-0") == [f"orders-{ordinal}" for ordinal in range(5)]


def test_a_failover_without_an_operator(running: Stage, release: Release, machine: Machine) -> None:
    release.scale(0)
    names: list[float] = []
    waits: list[float] = []
    try:
        with running.load():
            for _ in range(ROUNDS):
                running.all_ready(3)
                pod, term = running.get("pod", str(running.served())), running.term()
                machine.signal(pod, signal.SIGKILL)
                running.wait(lambda term=term: running.term() > term, "the Service to name another leader")  # type: ignore[misc]
                running.catch_up()
                now = running.term()
                elected = running.elected(now)
                reached = next(time for time in connected(running.replicas[0]) if time > elected)
                names.append((running.named(now) - elected).total_seconds())
                waits.append((reached - elected).total_seconds())
    finally:
        release.scale(2)
    running.wait_settled(3)
    running.converges()
    print("from the election to the leader Service, in seconds:", names, "to the replica's connection:", waits)
    assert max(names) < 1, names
    # The rest is not ours: kube-proxy lets a second pass between two updates, MySQL one between two attempts.
    assert statistics.median(waits) < 2, waits
    assert max(waits) < 3, waits
