"""A machine loses its power, and with it the leader and the operator that works."""

from __future__ import annotations

import os

import pytest

from e2e.world import SYSTEM, Release, Stage, kubectl, local


def _move_operator(stage: Stage, release: Release, node: str) -> None:
    """Until the one that works is there."""
    for _ in range(4):
        pod = release.leader()
        if release.node_of(pod) == node:
            return
        kubectl("delete", "pod", pod, "-n", SYSTEM)
        # Who ends gives the Lease back: for a moment it is nobody's.
        stage.wait(lambda pod=pod: release.leader() not in ("", pod), "another operator to work")  # type: ignore[misc]
    raise AssertionError(f"no operator works on {node}")


def _lead_from(stage: Stage, node: str) -> str:
    """A leader on that node, and no other pod of the cluster there; its name."""
    kubectl("cordon", node)
    try:
        for pod in [pod for pod in stage.pod_names() if stage.node_of(pod) == node][1:]:
            kubectl("delete", "pod", pod, "-n", stage.where)
    finally:
        kubectl("uncordon", node)
    leader = stage.wait_settled(3)
    (there,) = [pod for pod in stage.pod_names() if stage.node_of(pod) == node]
    if leader != there:
        stage.kingbus(leader, "leader", "transfer", there)
        stage.wait(lambda: stage.leader(3) == there, f"{there} to lead")
    return there


@pytest.mark.skipif(os.environ.get("KINGBUS_E2E") != "local", reason="only a node made here can be switched off")
def test_leader_and_operator_die_with_their_node(running: Stage, release: Release) -> None:
    cluster = local()
    dying = cluster.nodes[1]
    release.scale(2)
    leader = _lead_from(running, dying.name)
    _move_operator(running, release, dying.name)
    term = running.term()

    with running.load():
        dying.kill()
        try:
            running.wait(lambda: running.term() > term, "the Service to name a leader on the other node")
            assert running.served() != leader
            running.catch_up()
            now = running.term()
            assert (running.named(now) - running.elected(now)).total_seconds() < 1
        finally:
            cluster.restart_node(dying)
        running.wait_settled(3)
