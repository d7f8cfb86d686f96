"""A small model of Kubernetes and of a Raft cluster, against which plans are carried out.

It knows what the operator must not break (a quorum) and moves only when told to: a test, or a search for a
counterexample, decides what happens in which order.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field, replace

from kingbus_operator.api.types import Cluster, Json, Spec
from kingbus_operator.build.common import (
    POD_NAME_LABEL,
    TEMPLATE_ANNOTATION,
    TERM_ANNOTATION,
    Certificates,
)
from kingbus_operator.planning.actions import (
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
from kingbus_operator.planning.observed import (
    ClaimView,
    Desired,
    MemberView,
    NodeView,
    Observed,
    PodView,
    SourceView,
    dig,
    number,
)
from kingbus_operator.planning.plan import Plan, plan

NAME = "orders"


def spec(**changes: object) -> Spec:
    """The least spec, with changes at the top level."""
    return Spec.model_validate(
        {
            "source": {"endpoints": [{"host": "db"}], "credentialsSecretRef": {"name": "orders-source"}},
            "storage": {"size": "50Gi"},
            **changes,
        }
    )


def desired(image: str = "kingbus:1", **changes: object) -> Desired:
    """A cluster as wanted."""
    cluster = Cluster("default", NAME, "uid-of-cluster", 1, spec(**changes))
    certificates = Certificates({"tls.crt": "ca", "tls.key": "k"}, {"ca.crt": "ca", "tls.crt": "c", "tls.key": "k"})
    return Desired(cluster, image, certificates, "token")


@dataclass(slots=True)
class Pod:
    uid: str
    template: str
    alive: bool = False
    ready: bool = False
    label: str | None = None
    unready: float = 0.0


@dataclass(slots=True)
class Claim:
    uid: str
    size: str
    lost: bool = False


@dataclass(slots=True)
class World:
    """Pods, volumes, Raft and the objects."""

    wanted: Desired
    objects: dict[tuple[str, str], Json] = field(default_factory=dict)
    pods: dict[int, Pod] = field(default_factory=dict)
    claims: dict[int, Claim] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    """Members of the Raft configuration: voter or learner."""
    leader: str | None = None
    term: int = 0
    endpoints: tuple[str, ...] = ("db:3306",)
    settings: Json = field(
        default_factory=lambda: {
            "flavor": "auto",
            "server_id": 100,
            "semi_sync": True,
            "compression": ["uncompressed"],
            "tls": {"mode": "preferred"},
            "user": "",
        }
    )
    cut: set[str] = field(default_factory=set)
    """Pods that the others can't reach, although Kubernetes still calls them ready."""
    deaf: set[str] = field(default_factory=set)
    """Templates whose pods, when they lead, get nothing from the source: with a wrong password, say."""
    received: bool = False
    """Whether anything has ever come from the source; no pod is ready before."""
    history: list[Action] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    # -- what the operator sees

    def observed(self) -> Observed:
        return Observed(
            objects=copy.deepcopy(self.objects),
            pods=[self._pod_view(ordinal) for ordinal in sorted(self.pods)],
            claims=[
                ClaimView(f"data-{name(ordinal)}", ordinal, claim.uid, claim.size, claim.lost, expandable=True)
                for ordinal, claim in sorted(self.claims.items())
            ],
        )

    def _pod_view(self, ordinal: int) -> PodView:
        pod, own = self.pods[ordinal], name(ordinal)
        node = None
        if pod.alive:
            leads = own == self.leader
            role = "leader" if leads else "learner" if self.roles.get(own) == "learner" else "follower"
            node = NodeView(
                role=role,
                term=self.term,
                leader=self.leader,
                quorum=self.has_quorum if leads else self.leader is not None,
                ready=pod.ready,
                members=tuple(self._members()) if leads or own in self.roles else (),
                source=SourceView(
                    "db:3306",
                    "connected",
                    configured=self.endpoints if leads else None,
                    settings=dict(self.settings) if leads else None,
                ),
                executed="3e11fa47-71ca-11e1-9e33-c80aa9429562:1" if self.received else "",
            )
        return PodView(
            name=own,
            ordinal=ordinal,
            uid=pod.uid,
            ready=pod.ready,
            template=pod.template,
            image="kingbus:1",
            role_label=pod.label,
            unready_seconds=pod.unready,
            node=node,
        )

    def _members(self) -> list[MemberView]:
        return [
            MemberView(
                own,
                "leader" if own == self.leader else "learner" if role == "learner" else "follower",
                own in self.alive,
                index=100,
            )
            for own, role in sorted(self.roles.items())
        ]

    @property
    def alive(self) -> set[str]:
        """Pods that run and reach the others."""
        return {name(ordinal) for ordinal, pod in self.pods.items() if pod.alive and name(ordinal) not in self.cut}

    @property
    def voters(self) -> set[str]:
        return {own for own, role in self.roles.items() if role == "voter"}

    @property
    def has_quorum(self) -> bool:
        return len(self.voters & self.alive) >= len(self.voters) // 2 + 1

    @property
    def replicas(self) -> int:
        return number(dig(self.objects.get(("StatefulSet", NAME)), "spec", "replicas"))

    # -- what the operator does

    def operate(self) -> Plan:
        """One round. Fails when it breaks a rule."""
        made = plan(self.wanted, self.observed())
        disruptive = [
            a for a in made.actions if isinstance(a, RemoveMember | TransferLeadership | RestartPod | ReplaceVolume)
        ]
        assert len(disruptive) <= 1, disruptive
        for action in made.actions:
            self.history.append(action)
            self._carry_out(action)
        return made

    def _carry_out(self, action: Action) -> None:
        had = self.has_quorum
        match action:
            case Apply():
                self._apply(action)
            case LabelPod(pod, uid, role):
                assert self._pod(pod).uid == uid
                self._pod(pod).label = role
                assert sum(other.label == "leader" for other in self.pods.values()) <= 1
            case PointLeaderService(pod, term, _):
                self._point(pod, term)
            case AddMember(pod, address):
                assert had
                assert address == f"{pod}.{NAME}-nodes.default.svc:7401"
                assert "learner" not in self.roles.values(), "one at a time"
                self.roles[pod] = "learner"
            case RemoveMember(pod):
                assert had
                assert pod != self.leader
                assert int(pod.rpartition("-")[2]) >= self.wanted.cluster.spec.replicas
                del self.roles[pod]
                assert self.has_quorum, f"{pod} was removed, and no quorum is left"
            case TransferLeadership(leader, to, _):
                assert leader == self.leader
                assert to in self.voters & self.alive
                self.leader, self.term = to, self.term + 1
            case RestartPod(pod, uid, _, useless):
                assert self._pod(pod).uid == uid
                assert pod != self.leader or len(self.voters) == 1, "the leader hands over first"
                if not useless and not self._budget_allows(pod):
                    return  # 429, again and again
                alone = self.voters == {pod}
                assert (
                    useless
                    or not [p for o, p in self.pods.items() if not p.ready and name(o) != pod]
                    or alone
                    or (not self._pod(pod).ready)
                ), "one at a time"
                self.stop(int(pod.rpartition("-")[2]))
                assert self.has_quorum or not had or alone, f"{pod} was restarted, and no quorum is left"
            case ReplaceVolume(pod, _, claim, claim_uid):
                ordinal = int(pod.rpartition("-")[2])
                assert self.claims[ordinal].uid == claim_uid
                assert claim == f"data-{pod}"
                assert self.claims[ordinal].lost
                assert pod != self.leader
                del self.claims[ordinal]
                self.pods.pop(ordinal, None)
                assert self.has_quorum or not had, f"the volume of {pod} was replaced, and no quorum is left"
            case ExpandVolume(claim, size):
                self.claims[int(claim.rpartition("-")[2])].size = size
            case SwitchSource(endpoints):
                self.endpoints = endpoints
            case SetSource(changes):
                self.settings |= changes
            case DeleteObject(_, kind, own, _):
                del self.objects[kind, own]

    def _budget_allows(self, pod: str) -> bool:
        """Whether a running pod is evicted: Kubernetes documentation, "Unhealthy Pod Eviction Policy"."""
        budget = self.objects["PodDisruptionBudget", NAME]
        desired = self.replicas - number(dig(budget, "spec", "maxUnavailable"))
        healthy = sum(other.ready for other in self.pods.values())
        evicted = self._pod(pod)
        return not evicted.alive or healthy >= desired + evicted.ready

    def _apply(self, action: Apply) -> None:
        key = action.kind, action.name
        before = self.objects.get(key, {})
        made = copy.deepcopy(action.manifest)
        metadata, found = made["metadata"], before.get("metadata", {})
        assert isinstance(metadata, dict)
        assert isinstance(found, dict)
        metadata["annotations"] = {**found.get("annotations", {}), **metadata["annotations"]}
        metadata["generation"] = found.get("generation", 0) + 1
        metadata["resourceVersion"] = str(next(self._numbers))
        if key == ("Service", NAME) and dig(before, "spec", "selector"):
            section = made["spec"]
            assert isinstance(section, dict)
            section["selector"] = dig(before, "spec", "selector")
        if action.kind == "StatefulSet":
            made["status"] = before.get("status", {})
            less = number(dig(made, "spec", "replicas"))
            for ordinal in range(less, self.replicas):
                assert name(ordinal) not in self.roles, "members go before their pods"
        self.objects[key] = made

    def _point(self, pod: str, term: int) -> None:
        service = self.objects["Service", NAME]
        metadata, section = service["metadata"], service["spec"]
        assert isinstance(metadata, dict)
        assert isinstance(section, dict)
        assert term >= number(dig(metadata, "annotations", TERM_ANNOTATION), -1)
        metadata["annotations"][TERM_ANNOTATION] = str(term)
        section["selector"] = {POD_NAME_LABEL: pod}

    def _pod(self, own: str) -> Pod:
        return self.pods[int(own.rpartition("-")[2])]

    # -- what happens by itself

    def controller(self) -> None:
        """The StatefulSet controller: pods and claims as many as wanted, made from the present template."""
        live = self.objects.get(("StatefulSet", NAME))
        if live is None:
            return
        live["status"] = {"observedGeneration": dig(live, "metadata", "generation")}
        template = str(dig(live, "spec", "template", "metadata", "annotations", TEMPLATE_ANNOTATION))
        size = str(dig(live, "spec", "volumeClaimTemplates", 0, "spec", "resources", "requests", "storage"))
        for ordinal in range(self.replicas):
            self.claims.setdefault(ordinal, Claim(f"claim-{next(self._numbers)}", size))
            self.pods.setdefault(ordinal, Pod(f"pod-{next(self._numbers)}", template))
        for ordinal in [o for o in self.pods if o >= self.replicas]:
            self.stop(ordinal)

    def kubelet(self, ordinal: int) -> None:
        """The pod starts, if its volume is there; a started one becomes ready when it belongs to a quorum."""
        pod = self.pods.get(ordinal)
        if pod is None:
            return
        if not pod.alive:
            if not self.claims[ordinal].lost:
                pod.alive = True
        else:
            pod.ready = self.leader is not None and self.has_quorum and name(ordinal) in self.roles and self.received

    def raft(self) -> None:
        """Forms, elects, promotes learners that have caught up."""
        founders = number(
            dig(self.objects.get(("ConfigMap", f"{NAME}-config")), "metadata", "annotations", "kingbus.io/founders")
        )
        first = {name(ordinal) for ordinal in range(founders)}
        if not self.roles and first and first <= self.alive:
            self.roles = dict.fromkeys(sorted(first), "voter")
        if self.leader is not None and (self.leader not in self.alive or not self.has_quorum):
            self.leader = None
        candidates = sorted(self.voters & self.alive)
        if self.leader is None and self.roles and self.has_quorum:
            self.leader, self.term = candidates[self.term % len(candidates)], self.term + 1
        if self.leader is not None:
            self.received = self.received or self._pod(self.leader).template not in self.deaf
            for own, role in self.roles.items():
                if role == "learner" and own in self.alive:
                    self.roles[own] = "voter"
                    return

    def stop(self, ordinal: int) -> None:
        """A pod goes."""
        self.pods.pop(ordinal, None)
        if self.leader == name(ordinal):
            self.leader = None

    def lose_volume(self, ordinal: int) -> None:
        """A volume and what was on it are gone; the pod dies."""
        if ordinal in self.claims and ordinal in self.pods:
            self.claims[ordinal].lost = True
            self.pods[ordinal].alive = self.pods[ordinal].ready = False
            if self.leader == name(ordinal):
                self.leader = None

    def settle(self, rounds: int = 200) -> None:
        """Lets everything take its course until there is nothing more to do."""
        quiet = 0
        for _ in range(rounds):
            made = self.operate()
            self.controller()
            self.raft()
            for ordinal in list(self.pods):
                self.kubelet(ordinal)
            self.raft()
            quiet = quiet + 1 if not made.actions and made.progress is None else 0
            if quiet == 3:
                return
        raise AssertionError(f"not settled: {plan(self.wanted, self.observed())}")

    def change(self, image: str | None = None, **changes: object) -> None:
        """The spec changes."""
        cluster = self.wanted.cluster
        new = cluster.spec.model_copy(update=changes)
        self.wanted = replace(
            self.wanted,
            image=image or self.wanted.image,
            cluster=replace(cluster, spec=new, generation=cluster.generation + 1),
        )

    def taken(self, kind: type[Action]) -> list[Action]:
        """What was done of one kind."""
        return [action for action in self.history if isinstance(action, kind)]


def name(ordinal: int) -> str:
    """The pod's name."""
    return f"{NAME}-{ordinal}"
