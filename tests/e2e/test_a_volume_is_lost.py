"""A node whose volume is gone takes the log from the others."""

from __future__ import annotations

from e2e.world import Stage, kubectl
from kingbus_operator.planning.observed import dig


def test_a_lost_volume_is_filled_from_the_others(running: Stage) -> None:
    running.workload.everything()
    leader = running.wait_settled(3)
    (lost, *_) = [pod for pod in running.pod_names() if pod != leader]
    claim = f"data-{lost}"
    before = running.get("pvc", claim)

    with running.load():
        kubectl("delete", "pvc", claim, "-n", running.where, "--wait=false")
        kubectl("delete", "pod", lost, "-n", running.where)
        running.wait_settled(3)

    after = running.get("pvc", claim)
    assert dig(after, "spec", "volumeName") != dig(before, "spec", "volumeName"), "it began with an empty volume"
    # A replica that begins from nothing at this very node gets everything.
    running.replicas.clear()
    running.replica(f"{lost}.{running.name}-nodes")
    running.converges()
