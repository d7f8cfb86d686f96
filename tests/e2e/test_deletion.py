"""`kubectl delete blc`: everything goes with it, volumes only when that was asked for."""

from __future__ import annotations

import pytest
from kube.world import changed

from e2e.world import Release, Stage, items, kubectl
from kingbus_node.demo.compare import differences


def _gone(stage: Stage) -> bool:
    kinds = "pods,services,statefulsets,configmaps,poddisruptionbudgets,networkpolicies,rolebindings"
    mine = f"app.kubernetes.io/instance={stage.name}"
    return not items(kinds, stage.where, mine)


def test_volumes_are_kept_and_a_new_cluster_goes_on_with_them(running: Stage) -> None:
    running.workload.everything()
    running.converges()

    kubectl("delete", "blc", running.name, "-n", running.where)

    running.wait(lambda: _gone(running), "everything to be gone")
    assert len(items("pvc", running.where)) == 3
    running.apply(running.manifest())
    running.wait_settled(3)
    running.converges()
    assert differences(running.source, running.replicas[0]) == []


@pytest.mark.parametrize("operator", ["with", "without"])
def test_volumes_are_removed_as_asked(stage: Stage, release: Release, operator: str) -> None:
    stage.apply(changed(stage.manifest(), "spec.storage.reclaim", "Delete"))
    stage.wait_settled(3)
    assert len(items("pvc", stage.where)) == 3
    if operator == "without":
        release.scale(0)
    try:
        kubectl("delete", "blc", stage.name, "-n", stage.where)

        stage.wait(lambda: _gone(stage), "everything to be gone")
        stage.wait(lambda: not items("pvc", stage.where), "the volumes to be gone")
    finally:
        release.scale(2)
