"""``plan(desired, observed)``: what to do next so that what there is comes closer to what is wanted.

Rules, in the order of their weight; tests walk through all of them:

1. A quorum is never given up. A voter is only taken away when the leader's own view says that a majority of the voters
   stays connected without it; when nobody leads, only pods that can't be part of a quorum are touched.
2. One thing at a time. A plan has at most one disruptive action, and none while a pod is missing, on its way or
   catching up. What is not disruptive (applying objects, labels, a bigger volume) is done at any time.
3. Followers first, the leader last, after it has handed over.
4. Members before pods when shrinking, pods before members when growing. ``raft.peers`` are always the first members:
   everything later is in the log.
5. A converged cluster gets an empty plan.

The plan is made anew from what is seen each time; nothing is remembered in between, so the operator may be killed at
any point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kingbus_operator.api import KIND
from kingbus_operator.api.quantity import quantity
from kingbus_operator.api.types import Json
from kingbus_operator.build import certmanager, monitoring
from kingbus_operator.build.common import (
    FOUNDERS_ANNOTATION,
    POD_NAME_LABEL,
    TEMPLATE_ANNOTATION,
    TERM_ANNOTATION,
    Inputs,
    labels,
)
from kingbus_operator.build.configmap import source_settings
from kingbus_operator.build.objects import objects
from kingbus_operator.planning.actions import (
    DISRUPTIVE,
    Action,
    AddMember,
    Apply,
    DeleteObject,
    ExpandVolume,
    LabelPod,
    PointLeaderService,
    RemoveMember,
    ReplaceVolume,
    RestartPod,
    SetSource,
    SwitchSource,
    TransferLeadership,
)
from kingbus_operator.planning.difference import differs, stamped
from kingbus_operator.planning.observed import ClaimView, Desired, Observed, PodView, dig, number
from kingbus_operator.planning.quorum import Quorum, quorum

HOPELESS_SECONDS = 60.0
"""With no leader for so long, a pod that is not ready is restarted for a new template: nothing else would help."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that the operator can't do, for the condition Degraded."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in order; what is being waited for, in words, while the cluster is on its way; and problems."""

    actions: tuple[Action, ...] = ()
    progress: str | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def disruptive(self) -> Action | None:
        return next((action for action in self.actions if isinstance(action, DISRUPTIVE)), None)


@dataclass(frozen=True, slots=True)
class _Step:
    """The next step of a longer way; no action: it waits."""

    progress: str
    action: Action | None = None


def plan(desired: Desired, observed: Observed) -> Plan:
    """What to do next. Empty and without progress when all is as wanted, and while the cluster is paused."""
    if desired.cluster.spec.paused:
        return Plan()
    view = quorum(observed.pods)
    pods = _pods_wanted(desired, observed, view)
    manifests = [stamped(manifest) for manifest in objects(_inputs(desired, observed, pods))]
    strangers = [manifest for manifest in manifests if not _ours(desired, _live(observed, manifest))]
    if strangers:
        return _names_taken(desired, observed, strangers)
    applied = [Apply(manifest) for manifest in manifests if differs(manifest, _live(observed, manifest))]
    actions: list[Action] = [*applied, *_unwanted(desired, observed, manifests)]
    actions += _labels(observed, view)
    actions += _leader_service(desired, observed, view)
    problems: list[Problem] = []
    actions += _volumes(desired, observed, problems)
    actions += _source(desired, view, source_settings(_inputs(desired, observed, pods)))
    step = next(_steps(desired, observed, view, manifests, applied), None)
    if step is not None and step.action is not None:
        actions.append(step.action)
    return Plan(tuple(actions), step.progress if step is not None else None, tuple(problems))


def founders(desired: Desired, observed: Observed) -> int:
    """How many pods the cluster began with: recorded when it was made, and never changed."""
    for kind, name in (("StatefulSet", desired.cluster.name), ("ConfigMap", f"{desired.cluster.name}-config")):
        recorded = number(dig(observed.objects.get((kind, name)), "metadata", "annotations", FOUNDERS_ANNOTATION))
        if recorded > 0:
            return recorded
    return desired.cluster.spec.replicas


def _pods_wanted(desired: Desired, observed: Observed, view: Quorum | None) -> int:
    """How many pods the StatefulSet shall have now: on the way down one by one, behind the members."""
    wanted = desired.cluster.spec.replicas
    if observed.statefulset is None:
        return max(wanted, founders(desired, observed), _disks(desired, observed))  # members may be anywhere among them
    present = number(dig(observed.statefulset, "spec", "replicas"), wanted)
    if view is None or present == wanted:
        return present
    if present < wanted:
        return wanted
    last = f"{desired.cluster.name}-{present - 1}"
    return present - 1 if last not in view.names else present


def _disks(desired: Desired, observed: Observed) -> int:
    """How many pods have, or had, disks, of a cluster whose StatefulSet was deleted; 0 for a new one.

    More may be members than are wanted or were at first, when that happens on the way to a smaller size.
    """
    if ("ConfigMap", f"{desired.cluster.name}-config") not in observed.objects:
        return 0
    return max((claim.ordinal + 1 for claim in observed.claims if not claim.terminating), default=0)


def _inputs(desired: Desired, observed: Observed, pods: int) -> Inputs:
    size = dig(observed.statefulset, "spec", "volumeClaimTemplates", 0, "spec", "resources", "requests", "storage")
    return Inputs(
        cluster=desired.cluster,
        image=desired.image,
        founders=founders(desired, observed),
        replicas=pods,
        certificates=desired.certificates,
        admin_token=desired.admin_token,
        claim_size=str(size) if size is not None else None,
        optional_kinds=observed.optional_kinds,
        source_certificate=observed.source_certificate,
        cluster_domain=desired.cluster_domain,
    )


def _live(observed: Observed, manifest: Json) -> Json | None:
    return observed.objects.get((str(manifest["kind"]), str(dig(manifest, "metadata", "name"))))


def _ours(desired: Desired, live: Json | None) -> bool:
    """Whether an object may be made or changed: it is not there, this cluster's own, or left by one of its name.

    What was left (``kubectl delete --cascade=orphan``, a backup) has no owner any more, but our labels.
    """
    if live is None:
        return True
    owner = _owner(live)
    if owner is not None:
        return owner.get("uid") == desired.cluster.uid
    found = dig(live, "metadata", "labels")
    return isinstance(found, dict) and found.items() >= labels(desired.cluster.name).items()


def _owner(live: Json | None) -> Json | None:
    """The ownerReference of an object's controller."""
    owners = dig(live, "metadata", "ownerReferences")
    return next((owner for owner in owners if owner.get("controller")), None) if isinstance(owners, list) else None


def _names_taken(desired: Desired, observed: Observed, strangers: list[Json]) -> Plan:
    """Nothing is done: objects of others are neither changed nor, with the cluster, deleted. Nor would a part do: pods
    would point a Service that is not ours at themselves.
    """
    problems = []
    for manifest in strangers:
        kind, name = str(manifest["kind"]), str(dig(manifest, "metadata", "name"))
        owner = _owner(_live(observed, manifest))
        if owner is not None and (owner.get("kind"), owner.get("name")) == (KIND, desired.cluster.name):
            return Plan((), f"waiting for {kind} {name} of a former {KIND} of this name to be deleted")
        whose = f"{owner.get('kind')} {owner.get('name')}" if owner is not None else "somebody else"
        text = (
            f"{kind} {name} is there already and belongs to {whose}: choose another name for this {KIND}, or remove "
            f"that {kind} if nobody needs it"
        )
        problems.append(Problem("NameTaken", text))
    return Plan((), "waiting for names that are taken", tuple(problems))


def _unwanted(desired: Desired, observed: Observed, manifests: list[Json]) -> Iterator[Action]:
    """Optional objects that were made once and are switched off now."""
    wanted = {(manifest["kind"], dig(manifest, "metadata", "name")) for manifest in manifests}
    optional = {
        "PodMonitor": f"{monitoring.GROUP}/v1",
        "PrometheusRule": f"{monitoring.GROUP}/v1",
        "Certificate": f"{certmanager.GROUP}/v1",
    }
    for (kind, name), live in observed.objects.items():
        owner = dig(live, "metadata", "ownerReferences", 0, "uid")
        if kind in optional and (kind, name) not in wanted and owner == desired.cluster.uid:
            yield DeleteObject(optional[kind], kind, name, str(dig(live, "metadata", "uid")))


def _labels(observed: Observed, view: Quorum | None) -> Iterator[Action]:
    """The role of each pod, wrong ones off before right ones on: never two pods that are labelled leader."""
    roles = {member.name: member.role for member in view.members} if view is not None else {}
    changes = []
    for pod in observed.pods:
        if pod.terminating:
            continue
        role = roles.get(pod.name) or (pod.node.role if pod.node is not None else None)
        if view is not None and role == "leader" and pod.name != view.leader:
            role = None  # one that has not heard of its successor yet
        if role != pod.role_label and (view is not None or pod.role_label != "leader" or role is not None):
            changes.append(LabelPod(pod.name, pod.uid, role))
    yield from sorted(changes, key=lambda change: change.role == "leader")


def _leader_service(desired: Desired, observed: Observed, view: Quorum | None) -> Iterator[Action]:
    """The elected node does this itself; this is for when it could not."""
    live = observed.objects.get(("Service", desired.cluster.name))
    if live is None or view is None:
        return
    term = number(dig(live, "metadata", "annotations", TERM_ANNOTATION), -1)
    selected = dig(live, "spec", "selector", POD_NAME_LABEL)
    if term < view.term or (term == view.term and selected != view.leader):
        yield PointLeaderService(view.leader, view.term, str(dig(live, "metadata", "resourceVersion")))


def _volumes(desired: Desired, observed: Observed, problems: list[Problem]) -> Iterator[Action]:
    storage = desired.cluster.spec.storage
    small = [claim for claim in observed.claims if quantity(claim.requested) < quantity(storage.size)]
    for claim in small:
        if not claim.terminating and not claim.lost and claim.expandable:
            yield ExpandVolume(claim.name, storage.size)
    stuck = [claim.name for claim in small if claim.expandable is False]
    if stuck:
        problems.append(
            Problem(
                "VolumeExpansionUnsupported",
                f"storage.size is {storage.size}, but the storage class of {', '.join(stuck)} does not allow to expand "
                "volumes: set allowVolumeExpansion on the class, or make a new BinlogCluster",
            )
        )


def _source(desired: Desired, view: Quorum | None, settings: Json) -> Iterator[Action]:
    """The source's settings are in the cluster's log: the leader is told when the spec differs from that."""
    if view is None or view.node.source.configured is None:
        return
    held = view.node.source.settings
    changes = {key: value for key, value in settings.items() if held is not None and held.get(key) != value}
    if changes:
        yield SetSource(changes)
    wanted = endpoints(desired)
    if view.node.source.configured != wanted:
        yield SwitchSource(wanted)


def endpoints(desired: Desired) -> tuple[str, ...]:
    """``spec.source.endpoints`` as a node writes them."""
    return tuple(
        f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"
        for endpoint in desired.cluster.spec.source.endpoints
    )


def _steps(
    desired: Desired, observed: Observed, view: Quorum | None, manifests: list[Json], applied: list[Apply]
) -> Iterator[_Step]:
    """Steps that are due, the most urgent first. Only the first is taken."""
    changing = [change for change in applied if change.kind == "StatefulSet"]
    if changing:
        yield _Step("the StatefulSet is being updated")
        return
    live = observed.statefulset
    assert live is not None  # else it is being applied
    if number(dig(live, "status", "observedGeneration")) != number(dig(live, "metadata", "generation")):
        yield _Step("waiting for the StatefulSet controller")
        return
    yield from _lost_volumes(observed, view)
    template = next(
        str(dig(manifest, "spec", "template", "metadata", "annotations", TEMPLATE_ANNOTATION))
        for manifest in manifests
        if manifest["kind"] == "StatefulSet"
    )
    outdated = [pod for pod in observed.pods if pod.template != template and not pod.terminating]
    yield from _helpless(outdated, view)
    present = number(dig(live, "spec", "replicas"))
    yield from _on_their_way(desired, observed, view, present, {pod.name for pod in outdated})
    yield from _no_leader(view)
    assert view is not None
    yield from _growing(desired, observed, view, present)
    yield from _catching_up(view)
    yield from _shrinking(desired, view, present)
    yield from _rolling(observed, view, outdated)


def _lost_volumes(observed: Observed, view: Quorum | None) -> Iterator[_Step]:
    for claim in observed.claims:
        pod = _pod_of(claim, observed)
        if not claim.lost or (claim.terminating and (pod is None or pod.terminating)):
            continue
        if pod is not None and pod.terminating:
            yield _Step(f"volume {claim.name} is lost; waiting for pod {pod.name} to end")
        elif view is None:
            yield _Step(f"volume {claim.name} is lost; it is replaced when there is a leader to copy from")
        elif pod is not None and pod.name == view.leader:
            yield from _hand_over(view, observed, f"volume {claim.name} is lost")
        elif pod is None or view.can_lose(pod.name):
            name = pod.name if pod is not None else claim.name.removeprefix("data-")
            if len(view.voters) == 1:
                continue
            if pod is not None and claim.terminating:  # deleted, but its pod was not: that one keeps it for ever
                reason = f"volume {claim.name} is lost and was deleted, and goes with its pod"
                yield _Step(f"restarting pod {name}: {reason}", RestartPod(name, pod.uid, reason, useless=True))
            else:
                replaced = ReplaceVolume(name, pod.uid if pod is not None else None, claim.name, claim.uid)
                yield _Step(f"volume {claim.name} is lost: it is replaced by an empty one", replaced)
        else:
            yield _Step(f"volume {claim.name} is lost; waiting for a majority without pod {pod.name}")


def _pod_of(claim: ClaimView, observed: Observed) -> PodView | None:
    return next((pod for pod in observed.pods if pod.ordinal == claim.ordinal), None)


def _helpless(outdated: list[PodView], view: Quorum | None) -> Iterator[_Step]:
    """Outdated pods that do no good as they are: the new template may be what cures them."""
    for pod in sorted(outdated, key=lambda pod: -pod.ordinal):
        away = view.can_lose(pod.name) if view is not None else True
        if pod.ready or not away or (view is not None and pod.name == view.leader):
            continue
        hopeless = view is None and pod.unready_seconds >= HOPELESS_SECONDS
        outside = view is not None and pod.name not in view.alive and pod.node is None
        if pod.stuck is not None or hopeless or (outside and pod.unready_seconds >= HOPELESS_SECONDS):
            why = pod.stuck or "it is not ready"
            reason = f"it does not have the present template, and {why}"
            restart = RestartPod(pod.name, pod.uid, reason, useless=True)
            yield _Step(f"restarting pod {pod.name}: {reason}", restart)


def _on_their_way(
    desired: Desired, observed: Observed, view: Quorum | None, present: int, outdated: set[str]
) -> Iterator[_Step]:
    by_name = {pod.name: pod for pod in observed.pods}
    for ordinal in range(present):
        name = f"{desired.cluster.name}-{ordinal}"
        pod = by_name.get(name)
        if pod is None or pod.terminating:
            yield _Step(f"waiting for pod {name} to be made again" if pod is not None else f"waiting for pod {name}")
        elif pod.stuck is not None and ordinal < desired.cluster.spec.replicas:
            yield _Step(f"waiting for pod {name}: {pod.stuck}")
        elif not pod.ready and name not in outdated and ordinal < desired.cluster.spec.replicas:
            if pod.node is not None and view is not None and name not in view.names:
                continue  # it can't be ready before it is a member, and joins below
            if outdated and view is not None and name in view.alive and _idle(observed, view):
                continue  # it can't be ready before the leader reads from the source, which may need its new template
            why = "; ".join(pod.node.reasons) if pod.node is not None and pod.node.reasons else "it is not ready"
            yield _Step(f"waiting for pod {name}: {why}")


def _idle(observed: Observed, view: Quorum) -> bool:
    """Whether nothing has ever come from the source: no pod can be ready then, and none is of use to anybody."""
    return not view.node.executed and not any(pod.ready for pod in observed.pods)


def _no_leader(view: Quorum | None) -> Iterator[_Step]:
    if view is None:
        yield _Step("waiting for a leader")


def _growing(desired: Desired, observed: Observed, view: Quorum, present: int) -> Iterator[_Step]:
    learning = [member.name for member in view.members if member.role == "learner"]
    for ordinal in range(min(present, desired.cluster.spec.replicas)):
        name = f"{desired.cluster.name}-{ordinal}"
        pod = observed.pod(name)
        if name in view.names:
            continue
        if learning:
            yield _Step(f"pod {name} joins when {', '.join(learning)} has caught up")
        elif pod is not None and pod.node is not None:
            host = f"{name}.{desired.cluster.name}-nodes.{desired.cluster.namespace}.svc"
            yield _Step(f"pod {name} joins the cluster", AddMember(name, f"{host}:7401"))
        else:
            yield _Step(f"pod {name} joins when its node answers")


def _catching_up(view: Quorum) -> Iterator[_Step]:
    for member in view.members:
        if member.role == "learner":
            yield _Step(f"waiting for {member.name} to catch up")


def _shrinking(desired: Desired, view: Quorum, present: int) -> Iterator[_Step]:
    wanted = desired.cluster.spec.replicas
    if present <= wanted:
        return
    last = f"{desired.cluster.name}-{present - 1}"
    if last not in view.names:
        yield _Step(f"pod {last} goes")  # the StatefulSet has been told
    elif last == view.leader:
        keep = {f"{desired.cluster.name}-{ordinal}" for ordinal in range(wanted)}
        yield from _transfer(view, keep, f"pod {last} is to be removed")
    elif view.can_remove(last):
        yield _Step(f"pod {last} is taken out of the cluster", RemoveMember(last))
    else:
        yield _Step(f"pod {last} goes when a majority of the others is connected")


def _rolling(observed: Observed, view: Quorum, outdated: list[PodView]) -> Iterator[_Step]:
    names = [pod.name for pod in outdated]
    idle = _idle(observed, view)
    followers = sorted((pod for pod in outdated if pod.name != view.leader), key=lambda pod: (pod.ready, -pod.ordinal))
    for pod in followers:
        if view.can_lose(pod.name) and all(other.ready or idle for other in observed.pods if other.name not in names):
            # A budget that is not met keeps pods that are not ready as well, for ever: a majority is there without it.
            reason = f"it does not have the present template ({len(names)} to go)"
            restart = RestartPod(pod.name, pod.uid, reason, useless=not pod.ready)
            yield _Step(f"restarting pod {pod.name}: {reason}", restart)
    if followers:
        yield _Step(f"restarting {followers[0].name} when a majority of the others is ready")
    for pod in outdated:
        if len(view.voters) == 1:
            reason = "it does not have the present template, and is the only one"
            yield _Step(f"restarting pod {pod.name}: {reason}", RestartPod(pod.name, pod.uid, reason))
        else:
            yield from _hand_over(view, observed, f"pod {pod.name} is the last to be restarted")


def _hand_over(view: Quorum, observed: Observed, reason: str) -> Iterator[_Step]:
    idle = _idle(observed, view)
    ready = {pod.name for pod in observed.pods if (pod.ready or idle) and not pod.terminating}
    yield from _transfer(view, ready, reason)


def _transfer(view: Quorum, candidates: set[str], reason: str) -> Iterator[_Step]:
    """To the voter among the candidates that has the most of the log; among equals to the first by name."""
    fit = [member for member in view.members if member.name in candidates & view.alive - {view.leader}]
    if not fit:
        yield _Step(f"{view.leader} hands over when another voter is there: {reason}")
        return
    best = min(fit, key=lambda member: (-(member.index or 0), member.name))
    text = f"{view.leader} hands the leadership over to {best.name}: {reason}"
    yield _Step(text, TransferLeadership(view.leader, best.name, reason))
