"""The leader's pod is deleted, its process killed, its process paused: replicas get everything from the next one."""

from __future__ import annotations

import signal

from e2e.world import Machine, Stage, kubectl
from kingbus_operator.planning.observed import dig, number


def test_the_leaders_pod_is_deleted(running: Stage) -> None:
    leader = running.wait_settled(3)

    with running.load():
        kubectl("delete", "pod", leader, "-n", running.where, "--wait=false")
        running.wait(lambda: running.served() not in (None, leader), "another leader to be served")
        running.wait_settled(3)

    assert leader in running.pod_names(), "the pod is made again"


def test_the_leaders_process_is_killed(running: Stage, machine: Machine) -> None:
    leader = running.wait_settled(3)
    pod = running.get("pod", leader)

    with running.load():
        machine.signal(pod, signal.SIGKILL)
        running.wait(lambda: running.served() not in (None, leader), "another leader to be served")
        # The kubelet may notice later than the nodes do, and until then says of the pod that it is ready.
        running.wait(lambda: running.restarts().get(str(dig(pod, "metadata", "uid"))) == 1, "another process")
        running.wait_settled(3)

    now = running.get("pod", leader)
    assert dig(now, "metadata", "uid") == dig(pod, "metadata", "uid"), "the pod is the same"
    assert number(dig(now, "status", "containerStatuses", 0, "restartCount")) == 1, "its process is another"


def test_a_paused_leader_comes_back(running: Stage, machine: Machine) -> None:
    former = running.wait_settled(3)
    pod = running.get("pod", former)
    term = running.term()

    with running.load():
        machine.signal(pod, signal.SIGSTOP)
        try:
            running.wait(lambda: running.served() not in (None, former), "another leader to be served")
            chosen = running.served()
            running.catch_up()
        finally:
            machine.signal(pod, signal.SIGCONT)
        running.wait_settled(3)

    assert running.served() == chosen, "who comes back takes nothing over"
    assert running.term() > term
    now = running.get("pod", former)
    assert number(dig(now, "status", "containerStatuses", 0, "restartCount")) == 0, "it goes on, as a follower"
