"""What the operator does next: never below a quorum, one thing at a time, followers first, nothing when all is well."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.operator.world import NAME, World, desired, name

from kingbus_operator.api.types import Compression, Json, SecretRef
from kingbus_operator.build.common import TEMPLATE_ANNOTATION, labels
from kingbus_operator.planning.actions import (
    AddMember,
    Apply,
    LabelPod,
    PointLeaderService,
    RemoveMember,
    ReplaceVolume,
    RestartPod,
    SetSource,
    SwitchSource,
    TransferLeadership,
)
from kingbus_operator.planning.observed import dig
from kingbus_operator.planning.plan import plan
from kingbus_operator.planning.quorum import quorum


def running(replicas: int = 3) -> World:
    """A cluster that has settled."""
    world = World(desired(replicas=replicas))
    world.settle()
    world.history.clear()
    return world


@pytest.mark.parametrize("replicas", [1, 3, 5, 7])
def test_a_new_cluster_is_made_and_then_left_alone(replicas: int) -> None:
    world = World(desired(replicas=replicas))
    world.settle()

    assert world.voters == {name(ordinal) for ordinal in range(replicas)}
    assert all(pod.ready for pod in world.pods.values())
    assert not world.taken(RestartPod)
    assert not world.taken(AddMember), "founders are members from the beginning"
    made = plan(world.wanted, world.observed())
    assert (made.actions, made.progress) == ((), None)


def test_what_pods_need_is_applied_before_the_statefulset() -> None:
    made = plan(desired(), World(desired()).observed())
    kinds = [action.kind for action in made.actions if isinstance(action, Apply)]
    assert kinds.index("StatefulSet") == len(kinds) - 1
    assert {"ServiceAccount", "Role", "RoleBinding", "Secret", "ConfigMap", "Service"} < set(kinds)


def test_a_new_image_restarts_followers_first_and_the_leader_after_it_has_handed_over() -> None:
    world = running()
    first = world.leader
    world.change(image="kingbus:2")
    world.settle()

    steps = [a for a in world.history if isinstance(a, RestartPod | TransferLeadership)]
    assert [type(step) for step in steps] == [RestartPod, RestartPod, TransferLeadership, RestartPod]
    assert isinstance(steps[3], RestartPod)
    assert steps[3].pod == first
    assert not any(isinstance(step, RestartPod) and step.useless for step in steps)


def test_endpoints_are_switched_without_a_restart() -> None:
    world = running()
    source = world.wanted.cluster.spec.source
    other = source.model_copy(update={"endpoints": [source.endpoints[0].model_copy(update={"host": "other"})]})
    world.change(source=other)
    world.settle()

    assert world.taken(SwitchSource) == [SwitchSource(("other:3306",))]
    assert not world.taken(RestartPod)


def test_other_settings_of_the_source_are_told_to_the_leader_without_a_restart() -> None:
    world = running()
    source = world.wanted.cluster.spec.source
    compression = [Compression.ZSTD, Compression.UNCOMPRESSED]
    world.change(source=source.model_copy(update={"semi_sync": False, "server_id": 7, "compression": compression}))
    world.settle()

    assert world.taken(SetSource) == [
        SetSource({"server_id": 7, "semi_sync": False, "compression": ["zstd", "uncompressed"]})
    ]
    assert not world.taken(RestartPod)


def test_one_three_five_three() -> None:
    world = running(1)
    for size in (3, 5, 3):
        world.change(replicas=size)
        world.settle()
        assert world.voters == {name(ordinal) for ordinal in range(size)}
        assert sorted(world.pods) == list(range(size))
    assert [a.pod for a in world.taken(AddMember) if isinstance(a, AddMember)] == [name(o) for o in (1, 2, 3, 4)]
    assert [a.pod for a in world.taken(RemoveMember) if isinstance(a, RemoveMember)] == [name(4), name(3)]
    assert not world.taken(RestartPod)
    peers = str(dig(world.objects["ConfigMap", f"{NAME}-config"], "data", "kingbus.yaml"))
    assert "orders-0.orders-nodes" in peers
    assert "orders-1.orders-nodes" not in peers, "the first members never change"


def test_a_leader_that_is_to_be_removed_hands_over_first() -> None:
    world = running(5)
    world.leader = name(4)
    world.change(replicas=3)
    world.settle()

    order = [type(a) for a in world.history if isinstance(a, TransferLeadership | RemoveMember)]
    assert order == [TransferLeadership, RemoveMember, RemoveMember]
    transfer = world.taken(TransferLeadership)[0]
    assert isinstance(transfer, TransferLeadership)
    assert transfer.to in {name(0), name(1), name(2)}


def test_nobody_is_removed_while_the_rest_would_have_no_majority() -> None:
    world = running(5)
    world.change(replicas=3)
    world.pods[0].alive = world.pods[0].ready = False
    world.pods[1].alive = world.pods[1].ready = False
    world.raft()

    for _ in range(5):
        world.operate()
    assert not world.taken(RemoveMember)


def test_what_the_leader_cannot_reach_does_not_count_however_ready_it_is() -> None:
    world = running()
    far, near = sorted(world.voters - {world.leader})
    world.cut = {far}
    world.change(image="kingbus:2")
    world.operate()
    world.controller()

    assert world.operate().disruptive == world.taken(RestartPod)[-1]
    assert [a.pod for a in world.taken(RestartPod) if isinstance(a, RestartPod)] == [far], f"{near} is needed"


def test_nobody_is_removed_while_those_that_remain_cannot_reach_one_another() -> None:
    world = running(5)
    world.leader = name(0)
    world.cut = {name(1), name(2)}
    world.change(replicas=3)

    for _ in range(5):
        world.operate()
    assert not world.taken(RemoveMember)


def test_a_pod_that_is_down_holds_a_rollout() -> None:
    world = running()
    world.change(image="kingbus:2")
    world.operate()  # the StatefulSet
    world.controller()
    down = next(o for o in world.pods if name(o) != world.leader)
    world.pods[down].alive = world.pods[down].ready = False

    for _ in range(5):
        made = world.operate()
        assert not [a for a in made.actions if isinstance(a, RestartPod) and a.pod != name(down)]


def test_a_broken_image_stops_at_the_first_pod_and_is_cured_by_the_next_one() -> None:
    world = running()
    world.change(image="broken")
    for _ in range(20):  # the kubelet never starts the new pod
        world.operate()
        world.controller()
        world.raft()
    assert len(world.taken(RestartPod)) == 1
    assert world.has_quorum

    world.change(image="kingbus:3")
    world.operate()
    world.controller()
    stuck = next(pod for pod in world.pods.values() if not pod.alive)
    stuck.unready = 120.0
    world.settle()
    assert len({pod.template for pod in world.pods.values()}) == 1


def test_with_no_leader_for_long_a_new_template_reaches_pods_that_are_not_ready() -> None:
    world = running()
    world.change(image="kingbus:2")
    for pod in world.pods.values():
        pod.alive = pod.ready = False
        pod.unready = 300.0
    world.raft()
    for _ in range(10):  # nothing comes up before it has the new template
        world.operate()
        world.controller()

    restarted = [step for step in world.taken(RestartPod) if isinstance(step, RestartPod) and step.useless]
    assert [step.pod for step in restarted[:1]] == [name(2)]
    for pod in world.pods.values():
        pod.unready = 300.0
    world.settle()
    assert world.has_quorum


@pytest.mark.parametrize("replicas", [1, 3, 5])
def test_a_cluster_that_never_received_anything_gets_the_spec_that_cures_it(replicas: int) -> None:
    """Its credentials were wrong, so no pod has ever been ready; the leader needs the right ones to make them so."""
    world = World(desired(replicas=replicas))
    world.operate()
    world.deaf = {template(world)}
    for _ in range(20):
        world.operate()
        world.controller()
        world.raft()
        for ordinal in list(world.pods):
            world.kubelet(ordinal)
    assert world.leader is not None
    assert not any(pod.ready for pod in world.pods.values())

    source = world.wanted.cluster.spec.source
    world.change(source=source.model_copy(update={"credentials_secret_ref": SecretRef(name="the-right-one")}))
    world.settle()
    assert {pod.template for pod in world.pods.values()} == {template(world)}
    assert all(pod.ready for pod in world.pods.values())


def template(world: World) -> str:
    """The present version of the pod template."""
    annotations = dig(world.objects["StatefulSet", NAME], "spec", "template", "metadata", "annotations")
    return str(dig(annotations, TEMPLATE_ANNOTATION))


def test_with_no_leader_for_a_moment_nothing_is_restarted() -> None:
    world = running()
    world.change(image="kingbus:2")
    world.leader = None
    for pod in world.pods.values():
        pod.ready = False
        pod.unready = 5.0

    for _ in range(5):
        assert plan(world.wanted, world.observed()).disruptive is None
        world.operate()
        world.controller()


def test_a_paused_cluster_is_left_alone() -> None:
    world = running()
    world.change(image="kingbus:2", paused=True)
    world.objects.pop(("Service", f"{NAME}-replicas"))

    assert plan(world.wanted, world.observed()).actions == ()


def test_a_lost_volume_is_replaced_when_a_majority_is_there_without_it() -> None:
    world = running()
    lost = next(o for o in world.pods if name(o) != world.leader)
    world.lose_volume(lost)
    world.settle()

    assert len(world.taken(ReplaceVolume)) == 1
    assert all(pod.ready for pod in world.pods.values())


def test_a_lost_volume_that_was_deleted_without_its_pod_takes_the_pod_along() -> None:
    """The operator ended between the two: the claim waits for its pod to go, which nobody would ever delete."""
    world = running()
    lost = next(o for o in world.pods if name(o) != world.leader)
    world.lose_volume(lost)
    seen = world.observed()
    half = replace(seen, claims=[replace(claim, terminating=claim.ordinal == lost) for claim in seen.claims])

    made = plan(world.wanted, half)
    assert isinstance(made.disruptive, RestartPod)
    assert (made.disruptive.pod, made.disruptive.uid) == (name(lost), world.pods[lost].uid)
    assert made.disruptive.useless, "no budget may keep it: it has lost its disk"

    going = replace(half, pods=[replace(pod, terminating=pod.ordinal == lost) for pod in half.pods])
    assert plan(world.wanted, going).disruptive is None


def test_a_lost_volume_waits_while_nobody_leads() -> None:
    world = running()
    for ordinal in (0, 1):
        world.lose_volume(ordinal)
    world.raft()

    for _ in range(5):
        world.operate()
        world.raft()
    assert not world.taken(ReplaceVolume)


def test_the_only_volume_of_a_cluster_of_one_is_never_replaced() -> None:
    world = running(1)
    world.lose_volume(0)
    for _ in range(5):
        world.operate()
    assert not world.taken(ReplaceVolume)


def test_volumes_grow_with_the_spec_and_the_statefulset_is_not_made_again() -> None:
    world = running()
    storage = world.wanted.cluster.spec.storage
    world.change(storage=storage.model_copy(update={"size": "80Gi"}))
    world.settle()

    assert {claim.size for claim in world.claims.values()} == {"80Gi"}
    size = dig(world.objects["StatefulSet", NAME], "spec", "volumeClaimTemplates", 0, "spec", "resources", "requests")
    assert size == {"storage": "50Gi"}


def test_a_leader_service_that_names_nobody_is_repaired_with_the_term() -> None:
    world = running()
    service = world.objects["Service", NAME]
    spec = service["spec"]
    assert isinstance(spec, dict)
    spec["selector"] = {"statefulset.kubernetes.io/pod-name": "orders-9"}
    made = world.operate()

    (repair,) = made.actions
    assert isinstance(repair, PointLeaderService)
    assert (repair.pod, repair.term) == (world.leader, world.term)


def test_a_leader_service_of_a_later_term_is_left_to_its_leader() -> None:
    world = running()
    metadata = world.objects["Service", NAME]["metadata"]
    assert isinstance(metadata, dict)
    metadata["annotations"]["kingbus.io/term"] = str(world.term + 1)

    assert not [a for a in world.operate().actions if isinstance(a, PointLeaderService)]


def test_labels_never_name_two_leaders() -> None:
    world = running()
    old = world.leader
    world.leader, world.term = next(p for p in world.voters if p != old), world.term + 1
    labels = [a for a in world.operate().actions if isinstance(a, LabelPod)]
    assert [label.role for label in labels] == ["follower", "leader"]


@pytest.mark.parametrize(
    ("kind", "thing"), [("Service", f"{NAME}-replicas"), ("ConfigMap", f"{NAME}-config"), ("Role", NAME)]
)
def test_what_somebody_deletes_or_changes_is_put_back(kind: str, thing: str) -> None:
    world = running()
    before = world.objects.pop((kind, thing))
    made = world.operate()
    assert [(a.kind, a.name) for a in made.actions if isinstance(a, Apply)] == [(kind, thing)]
    assert dig(world.objects[kind, thing], "data") == before.get("data")


STRANGERS: Json = {"app": "shop"}


@pytest.mark.parametrize(
    ("kind", "thing"),
    [
        ("Service", NAME),
        ("Secret", f"{NAME}-tls"),
        ("Role", NAME),
        ("StatefulSet", NAME),
        ("ConfigMap", f"{NAME}-config"),
    ],
)
def test_what_belongs_to_somebody_else_is_neither_taken_over_nor_deleted_with_the_cluster(
    kind: str, thing: str
) -> None:
    """A cluster may be named as the server that it reads from: its Service must go on leading there."""
    world = World(desired())
    theirs: Json = {"kind": kind, "metadata": {"name": thing, "uid": "theirs", "labels": STRANGERS}}
    world.objects[kind, thing] = theirs
    made = world.operate()

    assert made.actions == ()
    (problem,) = made.problems
    assert problem.reason == "NameTaken"
    assert problem.message.startswith(f"{kind} {thing} is there already and belongs to somebody else")
    assert world.objects == {(kind, thing): theirs}

    del world.objects[kind, thing]
    world.settle()
    assert all(pod.ready for pod in world.pods.values())


def test_an_object_that_another_controller_owns_is_left_to_it() -> None:
    """A second cluster, whose name makes the same names: `orders-replicas` beside `orders`."""
    world = World(desired())
    other = {"kind": "BinlogCluster", "name": "orders", "uid": "of-the-other", "controller": True}
    metadata: Json = {"name": f"{NAME}-nodes", "labels": labels(NAME), "ownerReferences": [{**other, "name": "others"}]}
    world.objects["Service", f"{NAME}-nodes"] = {"metadata": metadata}
    made = world.operate()
    assert made.actions == ()
    assert "belongs to BinlogCluster others" in made.problems[0].message

    metadata["ownerReferences"] = [other]  # what a cluster of this very name has left goes by itself
    made = world.operate()
    assert (made.actions, made.problems) == ((), ())
    assert made.progress == f"waiting for Service {NAME}-nodes of a former BinlogCluster of this name to be deleted"


def test_what_a_cluster_of_the_same_name_has_left_without_an_owner_is_taken_over() -> None:
    """As `kubectl delete --cascade=orphan` leaves it: pods and their disks go on."""
    world = running()
    for body in world.objects.values():
        metadata = body["metadata"]
        assert isinstance(metadata, dict)
        del metadata["ownerReferences"]
    made = world.operate()
    assert {(a.kind, a.name) for a in made.actions if isinstance(a, Apply)} == set(world.objects)
    world.settle()
    assert not world.taken(RestartPod)


def test_a_statefulset_that_was_deleted_is_made_again_for_all_that_may_be_members() -> None:
    world = running()
    world.change(replicas=1)
    del world.objects["StatefulSet", NAME]
    world.operate()
    assert world.replicas == 3, "the first members are known from the ConfigMap; shrinking comes later"
    world.settle()
    assert sorted(world.pods) == [0]


def test_a_statefulset_that_was_deleted_on_the_way_to_fewer_pods_is_made_again_for_all_members() -> None:
    world = running()
    world.change(replicas=7)
    world.settle()
    world.change(replicas=3)
    del world.objects["StatefulSet", NAME]
    for ordinal in list(world.pods):
        world.stop(ordinal)
    world.operate()
    assert world.replicas == 7, "three of the seven members would wait for a leader for ever"
    world.settle()
    assert sorted(world.pods) == [0, 1, 2]
    assert world.voters == {name(ordinal) for ordinal in range(3)}


def test_a_deposed_leader_is_not_believed() -> None:
    world = running()
    observed = world.observed()
    view = quorum(observed.pods)
    assert view is not None
    assert view.leader == world.leader
    assert view.majority == 2


MOVES = st.one_of(
    st.tuples(st.just("operate"), st.just(0)),
    st.tuples(st.just("controller"), st.just(0)),
    st.tuples(st.just("raft"), st.just(0)),
    st.tuples(st.just("kubelet"), st.integers(0, 6)),
    st.tuples(st.just("crash"), st.integers(0, 6)),
    st.tuples(st.just("delete"), st.integers(0, 6)),
    st.tuples(st.just("lose"), st.integers(0, 6)),
    st.tuples(st.just("cut"), st.integers(0, 6)),
    st.tuples(st.just("mend"), st.integers(0, 6)),
    st.tuples(st.just("scale"), st.sampled_from([1, 3, 5, 7])),
    st.tuples(st.just("image"), st.integers(1, 3)),
)


def _move(world: World, what: str, number: int) -> None:
    if what == "operate":
        world.operate()
    elif what == "controller":
        world.controller()
    elif what == "raft":
        world.raft()
    elif what == "kubelet":
        world.kubelet(number)
    elif what == "scale":
        world.change(replicas=number)
    elif what == "image":
        world.change(image=f"kingbus:{number}")
    elif what == "mend":
        world.cut.discard(name(number))
    elif number in world.pods:
        # Bad luck strikes only where a majority survives it: the operator can't be blamed for what comes after.
        rest = world.voters & (world.alive - {name(number)})
        if len(rest) < len(world.voters) // 2 + 1:
            return
        if what == "cut":
            world.cut.add(name(number))
        elif what == "crash":
            world.pods[number].alive = world.pods[number].ready = False
        elif what == "delete":
            world.stop(number)
        elif len(world.voters) > 1:
            world.lose_volume(number)
        world.raft()


@pytest.mark.fuzz
@given(st.sampled_from([1, 3, 5]), st.lists(MOVES, max_size=60))
def test_whatever_happens_in_between_no_quorum_is_given_up_and_it_settles(
    size: int, moves: list[tuple[str, int]]
) -> None:
    world = running(size)
    for what, number in moves:
        _move(world, what, number)
    world.cut.clear()
    for pod in world.pods.values():
        pod.unready = 120.0
    world.settle()

    wanted = {name(ordinal) for ordinal in range(world.wanted.cluster.spec.replicas)}
    assert world.voters == wanted
    assert {name(ordinal) for ordinal in world.pods} == wanted
    assert len({pod.template for pod in world.pods.values()}) == 1
    service = world.objects["Service", NAME]
    assert dig(service, "spec", "selector", "statefulset.kubernetes.io/pod-name") == world.leader
    assert [name(o) for o, pod in world.pods.items() if pod.label == "leader"] == [world.leader]
