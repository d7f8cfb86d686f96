"""What ``kubectl get`` and ``kubectl describe`` show: the status, its conditions, and the Events of what has changed.

Conditions have Kubernetes' meanings (API conventions, "Typical status properties"): ``lastTransitionTime`` moves only
when ``status`` changes, ``observedGeneration`` says which spec was looked at.

- **Ready**: replicas can be served: all wanted pods are ready.
- **QuorumHealthy**: there is a leader in touch with a majority.
- **SourceConnected**: the leader reads from the source.
- **Progressing**: the operator or the cluster is on the way to what the spec says.
- **Degraded**: something needs a person: a Secret, a stuck pod, a refused source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kingbus_operator.api.types import Json
from kingbus_operator.build.common import selector
from kingbus_operator.planning.observed import Desired, Observed, dig
from kingbus_operator.planning.plan import Plan, Problem
from kingbus_operator.planning.quorum import Quorum, quorum

_LONGEST_SET = 4096
"""GTID sets can have thousands of intervals; objects in Kubernetes must stay small."""


@dataclass(frozen=True, slots=True)
class Note:
    """An Event."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class _Found:
    kind: str
    holds: bool | None
    reason: str
    message: str


def status(desired: Desired, observed: Observed, plan: Plan, present: Json, now: str) -> Json:
    """The status. `present`: the one that is there, for transition times; `now`: RFC 3339, UTC."""
    cluster = desired.cluster
    view = quorum(observed.pods)
    ready = sum(pod.ready for pod in observed.pods)
    result: Json = {
        "observedGeneration": cluster.generation,
        "replicas": len(observed.pods),
        "readyReplicas": ready,
        "ready": f"{ready}/{cluster.spec.replicas}",
        "selector": ",".join(f"{key}={value}" for key, value in selector(cluster.name).items()),
        "members": _members(observed, view),
    }
    wanted = desired.cluster.spec.image or desired.image
    former = sorted({pod.image for pod in observed.pods if pod.image is not None} - {wanted})
    result["currentImage"] = former[0] if former else wanted
    if view is not None:
        source = view.node.source
        result |= {"leader": view.leader, "term": view.term, "connectedReplicas": view.node.replicas}
        result["source"] = _drop_nones(
            {
                "endpoint": source.endpoint,
                "state": source.state.capitalize(),
                "semiSync": source.semi_sync,
                "lagSeconds": None if source.lag_seconds is None else round(source.lag_seconds, 1),
            }
        )
        result["gtid"] = {"executed": _short(view.node.executed), "purged": _short(view.node.purged)}
    found = _conditions(desired, observed, plan, view)
    result["phase"] = _phase(desired, found)
    result["conditions"] = [_dated(condition, cluster.generation, present, now) for condition in found]
    return _drop_nones(result)


def notes(before: Json, after: Json) -> list[Note]:
    """Events for what is different between two statuses: conditions that changed, another leader."""
    told = []
    old = _by_type(before)
    for kind, condition in _by_type(after).items():
        was = old.get(kind, {})
        if (was.get("status"), was.get("reason")) == (condition["status"], condition["reason"]):
            continue
        if not was and condition["reason"] in ("Pending", "NoLeader", "AsExpected", "Converged"):
            continue  # how every cluster begins
        good = (condition["status"] == "True") == (kind in _GOOD or kind == "Progressing") or kind == "Progressing"
        reason = f"{kind}{condition['status']}" if condition["status"] != "Unknown" else f"{kind}Unknown"
        told.append(Note("Normal" if good else "Warning", reason, f"{condition['reason']}: {condition['message']}"))
    leader, former = after.get("leader"), before.get("leader")
    if leader and leader != former:
        text = f"pod {leader} leads in term {after.get('term')}" + (f", after {former}" if former else "")
        told.append(Note("Normal", "LeaderElected", text))
    return told


_GOOD = ("Ready", "QuorumHealthy", "SourceConnected")


def _conditions(desired: Desired, observed: Observed, plan: Plan, view: Quorum | None) -> list[_Found]:
    wanted = desired.cluster.spec.replicas
    ready = sum(pod.ready for pod in observed.pods)
    problems = _problems(observed, plan, view)
    waiting = [pod.name for pod in observed.pods if not pod.ready]
    if ready >= wanted and view is not None:
        serving = _Found("Ready", True, "AllPodsReady", f"{ready} of {wanted} pods are ready")
    elif not observed.pods:
        serving = _Found("Ready", False, "Pending", "there are no pods yet")
    else:
        which = f"; not ready: {', '.join(waiting)}" if waiting else "; there is no leader" if view is None else ""
        serving = _Found("Ready", False, "PodsNotReady", f"{ready} of {wanted} pods are ready{which}")
    if view is not None:
        alive = f"{len(view.alive)} of {len(view.voters)} voters are connected, {view.leader} leads in term {view.term}"
        healthy = _Found("QuorumHealthy", True, "LeaderElected", alive)
    else:
        healthy = _Found("QuorumHealthy", False, "NoLeader", "no pod says that it leads in touch with a majority")
    if desired.cluster.spec.paused:
        progressing = _Found("Progressing", False, "Paused", "spec.paused is true: the operator only looks")
    elif plan.progress is not None:
        progressing = _Found("Progressing", True, "Reconciling", plan.progress)
    elif plan.actions:
        progressing = _Found("Progressing", True, "Reconciling", f"{len(plan.actions)} changes are being made")
    else:
        progressing = _Found("Progressing", False, "Converged", "all is as the spec says")
    if problems:
        message = "; ".join(problem.message for problem in problems)
        degraded = _Found("Degraded", True, problems[0].reason, message)
    else:
        degraded = _Found("Degraded", False, "AsExpected", "nothing needs attention")
    return [serving, healthy, _source(observed, view), progressing, degraded]


def _source(observed: Observed, view: Quorum | None) -> _Found:
    secret = next((p for p in observed.secret_problems if p.reason.startswith("SourceCredentials")), None)
    if view is None:
        if secret is not None:
            return _Found("SourceConnected", False, secret.reason, secret.message)
        return _Found("SourceConnected", None, "NoLeader", "only a leader connects to the source")
    source = view.node.source
    at = source.endpoint or "the source"
    if source.missing:
        text = f"{at} lacks transactions that the cluster holds, so the cluster stays away from it: {source.missing}"
        return _Found("SourceConnected", False, "SourceMissesTransactions", _short(text))
    if source.state == "connected":
        return _Found("SourceConnected", True, "Connected", f"reading from {at}")
    if secret is not None:
        return _Found("SourceConnected", False, secret.reason, secret.message)
    says = f"the leader does not read from {at} yet" if source.state == "stopped" else f"{at}: {source.state}"
    return _Found("SourceConnected", False, source.state.capitalize(), source.error or says)


def _problems(observed: Observed, plan: Plan, view: Quorum | None) -> Sequence[Problem]:
    found = [Problem(problem.reason, problem.message) for problem in observed.secret_problems]
    found += [Problem("PodStuck", f"pod {pod.name}: {pod.stuck}") for pod in observed.pods if pod.stuck is not None]
    found += [Problem("VolumeLost", f"volume {claim.name} is lost") for claim in observed.claims if claim.lost]
    if view is not None and view.node.source.state == "refused":
        found.append(Problem("SourceRefused", view.node.source.error or "the source was refused"))
    return [*found, *plan.problems]


def _members(observed: Observed, view: Quorum | None) -> list[Json]:
    members = {member.name: member for member in view.members} if view is not None else {}
    result: list[Json] = []
    for pod in sorted(observed.pods, key=lambda pod: pod.ordinal):
        member = members.get(pod.name)
        role = member.role if member is not None else pod.node.role if pod.node is not None else "unknown"
        index = member.index if member is not None else None
        result.append(_drop_nones({"pod": pod.name, "role": role, "ready": pod.ready, "index": index}))
    return result


def _phase(desired: Desired, found: Sequence[_Found]) -> str:
    held = {condition.kind: condition.holds for condition in found}
    if desired.cluster.spec.paused:
        return "Paused"
    if held["Degraded"]:
        return "Degraded"
    if held["Progressing"]:
        return "Progressing" if held["QuorumHealthy"] else "Pending"
    return "Running" if held["Ready"] else "Pending"


def _dated(found: _Found, generation: int, present: Json, now: str) -> Json:
    said = "Unknown" if found.holds is None else str(found.holds)
    before = _by_type(present).get(found.kind, {})
    changed = before.get("lastTransitionTime") if before.get("status") == said else None
    return {
        "type": found.kind,
        "status": said,
        "observedGeneration": generation,
        "lastTransitionTime": changed or now,
        "reason": found.reason,
        "message": found.message[:32768],
    }


def _by_type(present: Json) -> Mapping[str, Json]:
    conditions = present.get("conditions")
    return {str(dig(found, "type")): found for found in conditions} if isinstance(conditions, list) else {}


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SET else f"{text[:_LONGEST_SET]}..."


def _drop_nones(values: Json) -> Json:
    return {key: value for key, value in values.items() if value is not None}


def restless(value: Json) -> Json:
    """A status without what moves all the time while transactions flow."""
    calm = {key: part for key, part in value.items() if key not in ("gtid", "members")}
    members = value.get("members")
    if isinstance(members, list):
        calm["members"] = [{key: part for key, part in member.items() if key != "index"} for member in members]
    source = value.get("source")
    if isinstance(source, dict):
        calm["source"] = {key: part for key, part in source.items() if key != "lagSeconds"}
    return calm
