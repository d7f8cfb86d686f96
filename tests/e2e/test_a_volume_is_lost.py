"""A node whose volume is gone takes the log from the others."""

from __future__ import annotations

from e2e.world import Stage, kubectl
from kingbus_operator.planning.observed import dig


def test_a_lost_volume_is_filled_from_the_others(running: Stage) -> None:
    running.workload.everything()
    leader = running.wait_settled(3)
    (lost, *_) = [pod for pod in running.pod_names() if pod != leader]
    claim = f"data-{lost}"
    before, pods = running.get("pvc", claim), set(running.restarts())

    with running.load():
        kubectl("delete", "pvc", claim, "-n", running.where, "--wait=false")
        kubectl("delete", "pod", lost, "-n", running.where)
        # Until the operator has looked, its status is still that of the pods that were there.
        running.wait(lambda: len(set(running.restarts()) - pods) == 1, "the pod to be made again")
        running.all_ready(3)
        running.wait_settled(3)

    after = running.get("pvc", claim)
    assert dig(after, "spec", "volumeName") != dig(before, "spec", "volumeName"), "it began with an empty volume"
    # A replica that begins from nothing at this very node gets everything.
    running.replicas.clear()
    running.replica(f"{lost}.{running.name}-nodes")
    running.converges()
