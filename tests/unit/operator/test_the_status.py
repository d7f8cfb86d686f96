"""What people see: conditions with the usual meanings, and Events of what has changed, each once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from unit.operator.world import World, desired, name

from kingbus_operator.api.types import Json, Status
from kingbus_operator.kube.nodes import node_view
from kingbus_operator.planning.observed import NodeView, Observed, PodView, SecretProblem, SourceView
from kingbus_operator.planning.plan import Plan, plan
from kingbus_operator.planning.status import notes, restless, status
from kingbus_operator.shell.observe import pod_view

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"


def settled() -> World:
    world = World(desired())
    world.settle()
    return world


def told(world: World, observed: Observed | None = None, present: Json | None = None, now: str = NOW) -> Json:
    seen = observed or world.observed()
    return status(world.wanted, seen, plan(world.wanted, seen), present or {}, now)


def condition(found: Json, kind: str) -> Json:
    conditions = found["conditions"]
    assert isinstance(conditions, list)
    result: Json = next(one for one in conditions if one["type"] == kind)
    return result


def with_source(world: World, source: SourceView) -> Observed:
    """The leader sees its source like this."""

    def change(pod: PodView) -> PodView:
        node = pod.node
        return replace(pod, node=replace(node, source=source)) if isinstance(node, NodeView) else pod

    seen = world.observed()
    return replace(seen, pods=[change(pod) for pod in seen.pods])


def test_a_settled_cluster_is_ready_and_nothing_else() -> None:
    world = settled()
    found = told(world)
    states = {one["type"]: one["status"] for one in found["conditions"]}  # type: ignore[attr-defined]
    assert states == {
        "Ready": "True",
        "QuorumHealthy": "True",
        "SourceConnected": "True",
        "Progressing": "False",
        "Degraded": "False",
    }
    assert (found["ready"], found["phase"], found["leader"]) == ("3/3", "Running", world.leader)
    Status.model_validate(found)


def test_a_new_cluster_is_pending() -> None:
    found = told(World(desired()))
    assert (found["ready"], found["phase"]) == ("0/3", "Pending")
    assert condition(found, "SourceConnected")["status"] == "Unknown"


def test_progress_is_told_in_words() -> None:
    world = settled()
    world.change(image="kingbus:2")
    world.operate()
    world.controller()
    found = told(world)
    assert "restarting pod" in str(condition(found, "Progressing")["message"])
    assert found["currentImage"] == "kingbus:1"
    assert found["phase"] == "Progressing"


def test_transition_times_move_with_the_status_only() -> None:
    world = settled()
    first = told(world)
    again = told(world, present=first, now=LATER)
    assert again == first
    world.leader = None
    lost = told(world, present=first, now=LATER)
    assert condition(lost, "QuorumHealthy")["lastTransitionTime"] == LATER
    assert condition(lost, "Degraded")["lastTransitionTime"] == NOW
    assert notes(first, first) == []


def test_a_lost_quorum_is_a_warning_and_its_return_is_none() -> None:
    world = settled()
    first = told(world)
    leader, world.leader = world.leader, None
    lost = told(world, present=first)
    assert [(n.type, n.reason) for n in notes(first, lost) if "Quorum" in n.reason] == [
        ("Warning", "QuorumHealthyFalse")
    ]
    world.leader = leader
    back = told(world, present=lost)
    found = notes(lost, back)
    assert ("Normal", "QuorumHealthyTrue") in [(n.type, n.reason) for n in found]
    assert "LeaderElected" in [n.reason for n in found]


def test_a_source_that_lacks_transactions_is_told_with_them() -> None:
    world = settled()
    source = SourceView("db:3306", "refused", "it lacks transactions", configured=("db:3306",), missing="uuid:7-9")
    found = told(world, with_source(world, source))
    connected = condition(found, "SourceConnected")
    assert (connected["status"], connected["reason"]) == ("False", "SourceMissesTransactions")
    assert "uuid:7-9" in str(connected["message"])
    assert condition(found, "Degraded")["reason"] == "SourceRefused"


def test_ready_pods_without_a_leader_are_said_to_lack_one() -> None:
    world = settled()

    def leaderless(pod: PodView) -> PodView:
        return replace(pod, node=replace(pod.node, role="follower")) if isinstance(pod.node, NodeView) else pod

    seen = world.observed()
    found = told(world, replace(seen, pods=[leaderless(pod) for pod in seen.pods]))

    assert condition(found, "Ready")["message"] == "3 of 3 pods are ready; there is no leader"


def test_a_new_leader_is_said_to_begin_with_its_source() -> None:
    world = settled()
    found = told(world, with_source(world, SourceView(state="stopped", endpoint="mysql-0.mysql:3306")))
    assert condition(found, "SourceConnected")["message"] == "the leader does not read from mysql-0.mysql:3306 yet"


def test_a_secret_that_is_missing_explains_why_there_is_no_source() -> None:
    world = settled()
    problem = SecretProblem("SourceCredentialsKeyMissing", "Secret orders-source has no key password")
    seen = with_source(world, SourceView("db:3306", "connecting", "access denied", configured=("db:3306",)))
    found = told(world, replace(seen, secret_problems=[problem]))
    assert condition(found, "SourceConnected")["message"] == problem.message
    assert condition(found, "Degraded")["reason"] == problem.reason
    assert found["phase"] == "Degraded"


def test_a_stuck_pod_is_named() -> None:
    world = settled()
    seen = world.observed()
    stuck = replace(
        seen,
        pods=[
            replace(pod, ready=False, stuck="ImagePullBackOff: no") if pod.ordinal == 2 else pod for pod in seen.pods
        ],
    )
    found = told(world, stuck)
    assert condition(found, "Degraded")["message"] == f"pod {name(2)}: ImagePullBackOff: no"


def test_a_paused_cluster_says_so() -> None:
    world = settled()
    world.change(paused=True)
    found = status(world.wanted, world.observed(), Plan(), {}, NOW)
    assert found["phase"] == "Paused"
    assert condition(found, "Progressing")["reason"] == "Paused"


def test_numbers_that_always_move_are_not_worth_a_write() -> None:
    world = settled()
    one = told(world)
    source, members = one["source"], one["members"]
    assert isinstance(source, dict)
    assert isinstance(members, list)
    other = {
        **one,
        "gtid": {"executed": "0-1-9"},
        "source": {**source, "lagSeconds": 3.5},
        "members": [{**member, "index": 12345} for member in members],
    }
    assert restless(one) == restless(other)
    assert restless(one) != restless({**one, "leader": "another"})


def test_very_long_gtid_sets_are_cut() -> None:
    world = settled()
    seen = world.observed()
    pods = [replace(pod, node=replace(pod.node, executed="x" * 100_000)) for pod in seen.pods if pod.node is not None]
    gtid = told(world, replace(seen, pods=pods))["gtid"]
    assert isinstance(gtid, dict)
    assert len(gtid["executed"]) < 5000


def test_what_a_node_says_is_read() -> None:
    view = node_view(
        {
            "role": "leader",
            "term": 5,
            "leader": "orders-1",
            "quorum": True,
            "ready": False,
            "reasons": ["no quorum"],
            "members": [{"name": "orders-1", "role": "leader", "connected": True, "match_index": 9}],
            "source": {"endpoint": "db:1", "state": "connected", "semi_sync": True, "lag_seconds": 0, "error": None},
            "gtid": {"executed": "a", "purged": ""},
            "replicas": [{}, {}],
        },
        {"settings": {"endpoints": ["db:1", "db:2"]}, "missing": None},
    )
    assert (view.role, view.term, view.quorum, view.reasons, view.replicas) == ("leader", 5, True, ("no quorum",), 2)
    assert view.source.configured == ("db:1", "db:2")
    assert view.members[0].index == 9
    assert node_view({"role": "follower"}, {}).source.configured is None


def _body(**state: object) -> Json:
    return {"metadata": {"name": "orders-0", "uid": "u", "creationTimestamp": NOW}, "status": state}


def test_pods_that_cannot_start_are_known_as_stuck() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=90)
    waiting: Json = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    crash = pod_view(_body(containerStatuses=[{"name": "kingbus", "state": waiting}]), 0, now)
    assert crash.stuck == "CrashLoopBackOff: back-off"
    assert crash.unready_seconds == 90
    starting: Json = {"waiting": {"reason": "ContainerCreating"}}
    assert pod_view(_body(containerStatuses=[{"name": "kingbus", "state": starting}]), 0, now).stuck is None
    nowhere: Json = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    assert "0/1 nodes" in str(pod_view(_body(conditions=[nowhere]), 0, now).stuck)
    ready: Json = {"type": "Ready", "status": "True", "lastTransitionTime": NOW}
    assert pod_view(_body(conditions=[ready]), 0, now).ready
