"""The chart and the documented manifest, as a person installs them."""

from __future__ import annotations

from e2e.world import Release, Stage
from kingbus_operator.planning.observed import dig


def test_the_documented_manifest_makes_a_cluster_that_a_replica_reads_from(stage: Stage, release: Release) -> None:
    stage.apply(stage.manifest())

    leader = stage.wait_settled(3)

    assert stage.condition("Ready")["status"] == "True"
    # The phase "Running" speaks of pods: the leader may be on its way to the source yet.
    stage.wait(lambda: stage.condition("SourceConnected").get("status") == "True", "the source to be connected")
    assert leader in stage.pod_names()
    stage.replica()
    stage.replica("orders-replicas")
    stage.workload.everything()
    stage.converges()
    assert "Phase:          Succeeded" in release.test()
    policies = stage.get("networkpolicy", stage.name)
    assert dig(policies, "spec", "policyTypes") == ["Ingress"]
