"""`kubectl scale`: 1, 3, 5 and 3 nodes again, under load."""

from __future__ import annotations

from e2e.world import Stage, kubectl


def test_one_three_five_and_three_nodes(stage: Stage) -> None:
    stage.apply(stage.manifest(replicas=1))
    stage.wait_settled(1)
    stage.replica()
    stage.converges()

    with stage.load():
        for replicas in (3, 5, 3):
            kubectl("scale", "blc", stage.name, "-n", stage.where, f"--replicas={replicas}")
            stage.wait_settled(replicas)

    assert stage.pod_names() == ["orders-0", "orders-1", "orders-2"]
    assert stage.members("orders-0") == stage.pod_names(), "who went is no member any more"
