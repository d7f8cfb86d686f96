"""Those who are missing here: the controllers and kubelets (played by hand), and the nodes (played by a table)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kingbus_operator.api.types import Json
from kingbus_operator.kube.client import Api, ApiError
from kingbus_operator.kube.nodes import NodeError, Target
from kingbus_operator.planning.observed import MemberView, NodeView, SourceView, dig, number


@dataclass(slots=True)
class FakeNodes:
    """Nodes whose cluster has formed as soon as they have pods. By pod name, of one cluster."""

    roles: dict[str, str] = field(default_factory=dict)
    leader: str | None = None
    term: int = 1
    endpoints: tuple[str, ...] = ("mysql-0.mysql:3306",)
    settings: Json = field(
        default_factory=lambda: {
            "flavor": "auto",
            "server_id": 100,
            "semi_sync": True,
            "compression": ["uncompressed"],
            "tls": {"mode": "preferred"},
            "start": "earliest",
        }
    )
    refuse_switch: str | None = None
    orders: list[str] = field(default_factory=list)

    def form(self, cluster: str, size: int) -> None:
        """A cluster of so many, led by the first."""
        self.roles = {f"{cluster}-{ordinal}": "follower" for ordinal in range(size)}
        self.leader = f"{cluster}-0"
        self.roles[self.leader] = "leader"

    async def look(self, target: Target) -> NodeView:
        pod = target.host.split(".")[0]
        assert target.token
        assert "BEGIN CERTIFICATE" in target.ca
        leads = pod == self.leader
        return NodeView(
            role=self.roles.get(pod, "learner"),
            term=self.term,
            leader=self.leader,
            quorum=self.leader is not None,
            ready=pod in self.roles,
            members=tuple(MemberView(name, role, connected=True, index=7) for name, role in self.roles.items()),
            source=SourceView(
                self.endpoints[0],
                "connected",
                semi_sync=True,
                lag_seconds=0.0,
                configured=self.endpoints if leads else None,
                settings=dict(self.settings) if leads else None,
            ),
            executed="0-1-5",
            replicas=2 if leads else 0,
        )

    async def add_member(self, target: Target, name: str, address: str) -> None:
        self._to_leader(target)
        assert address.startswith(f"{name}.")
        self.orders.append(f"add {name}")
        self.roles[name] = "follower"

    async def remove_member(self, target: Target, address: str) -> None:
        self._to_leader(target)
        name = address.partition(".")[0]
        self.orders.append(f"remove {name}")
        del self.roles[name]

    async def transfer(self, target: Target, address: str) -> None:
        self._to_leader(target)
        to = address.partition(".")[0]
        self.orders.append(f"transfer {to}")
        assert self.leader is not None
        self.roles[self.leader], self.roles[to] = "follower", "leader"
        self.leader, self.term = to, self.term + 1

    async def set_source(self, target: Target, changes: Json) -> None:
        self._to_leader(target)
        self.orders.append(f"set {sorted(changes)}")
        self.settings |= changes

    async def switch_source(self, target: Target, endpoints: tuple[str, ...]) -> None:
        self._to_leader(target)
        self.orders.append("switch")
        if self.refuse_switch is not None:
            raise NodeError("the new source lacks transactions", refused=True, missing=self.refuse_switch)
        self.endpoints = endpoints

    def _to_leader(self, target: Target) -> None:
        assert target.host.split(".")[0] == self.leader


async def statefulset_controller(api: Api, namespace: str, name: str) -> None:
    """Makes the pods that are missing, takes those away that are too many, and says that it has looked."""
    live = await api.get("StatefulSet", namespace, name)
    if live is None:
        return
    wanted = number(dig(live, "spec", "replicas"))
    for ordinal in range(wanted):
        if await api.get("Pod", namespace, f"{name}-{ordinal}") is None:
            await api.create(_pod(live, namespace, name, ordinal))
    for body in await api.list("Pod", namespace, {"app.kubernetes.io/instance": name}):
        own = str(dig(body, "metadata", "name"))
        if int(own.rpartition("-")[2]) >= wanted:
            await delete_now(api, namespace, own)
    generation = dig(live, "metadata", "generation")
    if dig(live, "status", "observedGeneration") != generation:
        status: Json = {"status": {"observedGeneration": generation, "replicas": wanted}}
        await api.merge_patch("StatefulSet", namespace, f"{name}/status", status)


async def kubelet(api: Api, namespace: str, name: str) -> None:
    """All pods of a cluster run and are ready; those that are to end have ended."""
    for body in await api.list("Pod", namespace, {"app.kubernetes.io/instance": name}):
        own = str(dig(body, "metadata", "name"))
        if dig(body, "metadata", "deletionTimestamp") is not None:
            await delete_now(api, namespace, own)
        elif dig(body, "status", "phase") != "Running":
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            ready: Json = {"type": "Ready", "status": "True", "lastTransitionTime": now}
            address = f"10.0.0.{int(own.rpartition('-')[2]) + 1}"
            status: Json = {
                "phase": "Running",
                "podIP": address,
                "podIPs": [{"ip": address}],
                "conditions": [ready],
            }
            await api.merge_patch("Pod", namespace, f"{own}/status", {"status": status})


async def delete_now(api: Api, namespace: str, pod: str) -> None:
    """The end of a pod, which a kubelet would report."""
    options: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
    try:
        await api._call("DELETE", f"/api/v1/namespaces/{namespace}/pods/{pod}", {}, options)
    except ApiError as error:
        if error.status != 404:
            raise


def _pod(live: Json, namespace: str, name: str, ordinal: int) -> Json:
    template = dig(live, "spec", "template")
    assert isinstance(template, dict)
    made: Json = copy.deepcopy(template)
    metadata, spec = made["metadata"], made["spec"]
    assert isinstance(metadata, dict)
    assert isinstance(spec, dict)
    own = f"{name}-{ordinal}"
    metadata |= {"name": own, "namespace": namespace}
    metadata["labels"]["statefulset.kubernetes.io/pod-name"] = own
    spec["volumes"] = [
        *spec["volumes"],
        {"name": "data", "persistentVolumeClaim": {"claimName": f"data-{own}"}},
    ]
    spec["nodeName"] = "node-1"  # the scheduler's work
    return {"apiVersion": "v1", "kind": "Pod", **made}
