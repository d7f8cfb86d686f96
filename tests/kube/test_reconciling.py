"""The operator against a real API server, with just the rights that it is installed with."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from kingbus_operator.api.types import Json
from kingbus_operator.kube.client import PLURALS, Api, ApiError, path
from kingbus_operator.planning.observed import dig
from kingbus_operator.shell.metrics import Metrics
from kingbus_operator.shell.observe import values
from kingbus_operator.shell.reconcile import Fenced, Reconciler, Settings
from kube.installed import operator_account
from kube.players import FakeNodes, kubelet, statefulset_controller
from kube.world import Namespace, changed, eventually, plain, until_allowed

PARTS = [
    ("ServiceAccount", "orders"),
    ("Role", "orders"),
    ("RoleBinding", "orders"),
    ("NetworkPolicy", "orders"),
    ("PodDisruptionBudget", "orders"),
    ("StatefulSet", "orders"),
    ("Service", "orders"),
    ("Service", "orders-nodes"),
    ("Service", "orders-replicas"),
    ("Secret", "orders-ca"),
    ("Secret", "orders-tls"),
    ("Secret", "orders-admin"),
    ("ConfigMap", "orders-config"),
]

HEALTHY: Json = {"currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3, "observedGeneration": 1}


@dataclass(slots=True)
class Scene:
    """A cluster, those who act on it, and a clock that tests move."""

    namespace: Namespace
    admin: Api
    reconciler: Reconciler
    nodes: FakeNodes
    name: str = "orders"
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    acting: bool = True

    async def round(self) -> None:
        """One round of the operator."""
        await self.reconciler.reconcile(self.namespace.name, self.name)

    async def settle(self, rounds: int = 12) -> None:
        """Rounds of everybody."""
        for _ in range(rounds):
            await self.round()
            await statefulset_controller(self.admin, self.namespace.name, self.name)
            await kubelet(self.admin, self.namespace.name, self.name)
        await self.round()

    async def get(self, kind: str, name: str) -> Json:
        found = await self.admin.get(kind, self.namespace.name, name)
        assert found is not None, (kind, name)
        return found

    async def status(self) -> Json:
        status = (await self.get("BinlogCluster", self.name))["status"]
        assert isinstance(status, dict)
        return status

    async def condition(self, kind: str) -> Json:
        conditions = (await self.status())["conditions"]
        assert isinstance(conditions, list)
        found: Json = next(one for one in conditions if one["type"] == kind)
        return found

    async def versions(self) -> dict[tuple[str, str], object]:
        """What changes whenever somebody writes."""
        found = {}
        for kind in ("BinlogCluster", "Pod", *dict.fromkeys(kind for kind, _ in PARTS)):
            for body in await self.admin.list(kind, self.namespace.name):
                found[kind, str(dig(body, "metadata", "name"))] = dig(body, "metadata", "resourceVersion")
        return found

    async def events(self) -> list[str]:
        found = await self.admin.list("Event", self.namespace.name)
        return [f"{dig(event, 'reason')}: {dig(event, 'message')}" for event in found]


@asynccontextmanager
async def scene(namespace: Namespace, replicas: int = 3, *, secrets: bool = True) -> AsyncIterator[Scene]:
    """A BinlogCluster of which nothing is there yet."""
    async with Api(namespace.plane.admin) as admin, Api(await operator_account(namespace.plane)) as api:
        nodes = FakeNodes()
        nodes.form("orders", replicas)
        made: Scene
        reconciler = Reconciler(
            api, nodes, Settings("kingbus:1", "operator-1"), Metrics(), lambda: made.acting, lambda: made.now
        )
        made = Scene(namespace, admin, reconciler, nodes)
        if secrets:
            await secret(admin, namespace.name, "orders-source", username="repl", password="pw")
            await secret(admin, namespace.name, "orders-replicas", replica="pw")
        await admin.create(namespace.here(plain(replicas=replicas)))
        yield made


async def secret(admin: Api, namespace: str, name: str, **content: str) -> None:
    """Makes a Secret."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in content.items()}
    metadata: Json = {"name": name, "namespace": namespace}
    await admin.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}, manager="a-person")


def test_everything_is_made_and_then_nothing_is_written_any_more(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle()
            for kind, name in PARTS:
                body = await it.get(kind, name)
                assert dig(body, "metadata", "ownerReferences", 0, "name") == "orders"
            before = await it.versions()
            told = await it.events()
            for _ in range(5):
                it.now += timedelta(seconds=1000)
                await it.round()
            assert await it.versions() == before
            assert await it.events() == told

    asyncio.run(story())


def test_the_status_tells_how_it_is(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            await it.round()
            assert (await it.condition("Ready"))["status"] == "False"
            assert (await it.condition("Progressing"))["status"] == "True"
            await it.settle()
            status = await it.status()
            assert status["ready"] == "3/3"
            assert status["leader"] == "orders-0"
            assert status["source"] == {
                "endpoint": "mysql-0.mysql:3306",
                "state": "Connected",
                "semiSync": True,
                "lagSeconds": 0.0,
            }
            assert status["connectedReplicas"] == 2
            assert status["observedGeneration"] == 1
            assert status["phase"] == "Running"
            assert [dig(member, "role") for member in status["members"]] == ["leader", "follower", "follower"]  # type: ignore[attr-defined]
            for kind in ("Ready", "QuorumHealthy", "SourceConnected"):
                assert (await it.condition(kind))["status"] == "True", kind
            for kind in ("Progressing", "Degraded"):
                assert (await it.condition(kind))["status"] == "False", kind
            scale = await it.admin.get("BinlogCluster", namespace.name, "orders/scale")
            assert dig(scale, "status", "replicas") == 3
            assert "app.kubernetes.io/instance=orders" in str(dig(scale, "status", "selector"))

    asyncio.run(story())


def test_a_transition_is_dated_once_and_told_once(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle()
            since = (await it.condition("Ready"))["lastTransitionTime"]
            it.now += timedelta(minutes=5)
            it.nodes.leader = None
            it.nodes.roles["orders-0"] = "follower"
            for _ in range(3):
                await it.round()
            quorum = await it.condition("QuorumHealthy")
            assert quorum["status"] == "False"
            assert quorum["lastTransitionTime"] == it.now.strftime("%Y-%m-%dT%H:%M:%SZ")
            assert len([event for event in await it.events() if event.startswith("QuorumHealthyFalse")]) == 1
            assert (await it.condition("Ready"))["lastTransitionTime"] != since
            it.nodes.form("orders", 3)
            await it.round()
            assert (await it.condition("Ready"))["status"] == "True"

    asyncio.run(story())


def test_one_three_five_three(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace, 1) as it:
            await it.settle(4)
            for size in (3, 5, 3):
                body = changed(plain(), "spec.replicas", size)
                await it.admin.apply(namespace.here(body), manager="a-person")
                await it.settle()
                assert sorted(it.nodes.roles) == [f"orders-{ordinal}" for ordinal in range(size)]
                assert dig(await it.get("StatefulSet", "orders"), "spec", "replicas") == size
            assert it.nodes.orders == [
                *(f"add orders-{ordinal}" for ordinal in range(1, 5)),
                "remove orders-4",
                "remove orders-3",
            ]
            assert any("MemberAdded" in event for event in await it.events())

    asyncio.run(story())


def test_an_image_is_rolled_out_by_evictions_the_leader_last(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle()
            before = await it.admin.list("Pod", namespace.name)
            budget: Json = {"status": {"disruptionsAllowed": 1, **HEALTHY}}
            body = changed(plain(), "spec.image", "kingbus:2")
            await it.admin.apply(namespace.here(body), manager="a-person")
            for _ in range(8):
                await it.admin.merge_patch("PodDisruptionBudget", namespace.name, "orders/status", budget)
                await it.settle(1)
            pods = await it.admin.list("Pod", namespace.name)
            assert {dig(pod, "spec", "containers", 0, "image") for pod in pods} == {"kingbus:2"}
            assert {dig(p, "metadata", "uid") for p in before}.isdisjoint(dig(p, "metadata", "uid") for p in pods)
            assert it.nodes.orders == ["transfer orders-1"]
            assert (await it.status())["currentImage"] == "kingbus:2"

    asyncio.run(story())


def test_an_eviction_that_the_budget_forbids_waits(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle()
            before = await it.admin.list("Pod", namespace.name)
            body = changed(plain(), "spec.image", "kingbus:2")
            await it.admin.apply(namespace.here(body), manager="a-person")
            await it.settle(4)  # nobody has updated the budget's status here: it allows nothing
            after = await it.admin.list("Pod", namespace.name)
            assert {dig(p, "metadata", "uid") for p in before} == {dig(p, "metadata", "uid") for p in after}
            assert (await it.condition("Progressing"))["status"] == "True"

    asyncio.run(story())


def test_pods_that_are_not_ready_get_a_new_template_although_their_budget_is_not_met(namespace: Namespace) -> None:
    """The API server evicts no running pod while fewer than wanted are healthy; the new template may be the cure."""

    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle()
            unready: Json = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
            for ordinal in range(3):
                await it.admin.merge_patch("Pod", namespace.name, f"orders-{ordinal}/status", unready)
            budget: Json = {"status": {**HEALTHY, "currentHealthy": 0, "disruptionsAllowed": 0}}
            await it.admin.merge_patch("PodDisruptionBudget", namespace.name, "orders/status", budget)
            await it.admin.apply(namespace.here(changed(plain(), "spec.image", "kingbus:2")), manager="a-person")
            await it.settle(8)
            pods = await it.admin.list("Pod", namespace.name)
            assert {dig(pod, "spec", "containers", 0, "image") for pod in pods} == {"kingbus:2"}
            assert it.nodes.orders == ["transfer orders-1"], "one at a time, the leader last"

    asyncio.run(story())


def test_what_is_somebody_elses_is_left_alone_and_told(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            ports = [{"name": "mysql", "port": 3306, "protocol": "TCP", "targetPort": 3306}]
            theirs: Json = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders"}}
            theirs["spec"] = {"selector": {"app": "shop"}, "ports": ports}
            before = await it.admin.create(namespace.here(theirs))
            await it.settle(2)
            assert await it.get("Service", "orders") == before
            assert await it.admin.get("StatefulSet", namespace.name, "orders") is None
            degraded = await it.condition("Degraded")
            assert (degraded["status"], degraded["reason"]) == ("True", "NameTaken")
            assert "Service orders is there already and belongs to somebody else" in str(degraded["message"])

    asyncio.run(story())


def test_where_only_some_of_the_optional_kinds_are_there_the_others_are_not_made(namespace: Namespace) -> None:
    """PodMonitor without PrometheusRule is what collectors other than Prometheus ask people to install."""

    async def story() -> None:
        async with scene(namespace) as it:
            await it.admin.apply(MONITORS)
            try:
                await eventually(lambda: served(it.admin, namespace.name))
                await it.settle()
                assert (await it.condition("Ready"))["status"] == "True"
                assert (await it.condition("Progressing"))["reason"] == "Converged"
                assert dig(await it.get("PodMonitor", "orders"), "metadata", "ownerReferences", 0, "name") == "orders"
            finally:
                name = str(dig(MONITORS, "metadata", "name"))
                found = await it.admin.get("CustomResourceDefinition", None, name)
                uid: Json = {"preconditions": {"uid": dig(found, "metadata", "uid")}}
                await it.admin._call("DELETE", path("CustomResourceDefinition", None, name), {}, uid)

    asyncio.run(story())


MONITORS: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "podmonitors.monitoring.coreos.com",
        "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
    },
    "spec": {
        "group": "monitoring.coreos.com",
        "names": {
            "kind": "PodMonitor",
            "listKind": "PodMonitorList",
            "plural": "podmonitors",
            "singular": "podmonitor",
        },
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


async def served(api: Api, namespace: str) -> bool:
    try:
        await api.list("PodMonitor", namespace)
    except ApiError:
        return False
    return True


@pytest.mark.parametrize(
    ("wrong_resources", "told"),
    [
        ({"limits": {"memory": "much"}}, "quantities must match"),
        ({"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}}, "must be less than or equal to memory limit"),
    ],
)
def test_what_the_api_server_refuses_is_told_and_the_leader_is_followed_all_the_same(
    wrong_resources: Json, told: str, namespace: Namespace
) -> None:
    """What the schema passes on as it is may be wrong: only the StatefulSet's own check says so."""

    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle()
            wrong = changed(plain(), "spec.resources", wrong_resources)
            await it.admin.apply(namespace.here(wrong), manager="a-person")
            it.nodes.roles |= {"orders-0": "follower", "orders-1": "leader"}
            it.nodes.leader, it.nodes.term = "orders-1", 2
            with pytest.raises(ApiError):  # the queue counts it, and tries again with growing waits
                await it.round()

            degraded = await it.condition("Degraded")
            assert (degraded["status"], degraded["reason"]) == ("True", "ApiServerRefused")
            assert "StatefulSet orders" in str(degraded["message"])
            assert told in str(degraded["message"])
            status = await it.status()
            assert (status["leader"], status["observedGeneration"]) == ("orders-1", 2)
            service = await it.get("Service", "orders")
            assert dig(service, "spec", "selector") == {"statefulset.kubernetes.io/pod-name": "orders-1"}
            pod = await it.get("Pod", "orders-1")
            assert dig(pod, "metadata", "labels", "kingbus.io/role") == "leader"
            assert any("ApiServerRefused" in event for event in await it.events())

            await it.admin.apply(namespace.here(plain()), manager="a-person")
            await it.settle(2)
            assert (await it.condition("Degraded"))["status"] == "False"

    asyncio.run(story())


def test_others_keep_what_they_set_and_the_operator_puts_its_own_back(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle()
            theirs: Json = {"metadata": {"annotations": {"team": "data"}}, "spec": {"sessionAffinity": "ClientIP"}}
            await it.admin.merge_patch("Service", namespace.name, "orders", theirs)
            wrong: Json = {"spec": {"selector": {"app": "other"}}}
            await it.admin.merge_patch("Service", namespace.name, "orders-replicas", wrong)
            await it.settle(1)
            service = await it.get("Service", "orders")
            assert dig(service, "metadata", "annotations", "team") == "data"
            assert dig(service, "spec", "sessionAffinity") == "ClientIP"
            selector = dig(await it.get("Service", "orders-replicas"), "spec", "selector")
            assert isinstance(selector, dict)
            assert selector["app.kubernetes.io/instance"] == "orders"
            fields = dig(service, "metadata", "managedFields")
            assert isinstance(fields, list)
            owned = {(dig(entry, "manager"), dig(entry, "operation")): str(dig(entry, "fieldsV1")) for entry in fields}
            assert "f:selector" in owned["kingbus-leader", "Update"]
            assert "f:selector" not in owned["kingbus-operator", "Apply"]
            assert "f:ports" in owned["kingbus-operator", "Apply"]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (None, "SourceCredentialsSecretMissing", "Secret orders-source does not exist"),
        ({"username": "repl"}, "SourceCredentialsKeyMissing", "Secret orders-source has no key password"),
        ({"username": "", "password": "x"}, "SourceCredentialsKeyMissing", "Secret orders-source has no key username"),
    ],
)
def test_a_wrong_secret_is_a_condition_that_names_secret_and_key(
    namespace: Namespace, content: dict[str, str] | None, reason: str, words: str
) -> None:
    async def story() -> None:
        async with scene(namespace, secrets=False) as it:
            await secret(it.admin, namespace.name, "orders-replicas", replica="pw")
            if content is not None:
                await secret(it.admin, namespace.name, "orders-source", **content)
            await it.round()
            degraded = await it.condition("Degraded")
            assert (degraded["status"], degraded["reason"]) == ("True", reason)
            assert words in str(degraded["message"])
            await secret(it.admin, namespace.name, "orders-source", username="repl", password="pw")
            await it.settle()
            assert (await it.condition("Degraded"))["status"] == "False"

    asyncio.run(story())


def test_a_source_that_lacks_transactions_is_not_moved_to(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle()
            it.nodes.refuse_switch = "0-1-4"
            body = changed(plain(), "spec.source.endpoints", [{"host": "other"}])
            await it.admin.apply(namespace.here(body), manager="a-person")
            for _ in range(3):
                await it.round()
            degraded = await it.condition("Degraded")
            assert degraded["reason"] == "SourceSwitchRefused"
            assert "0-1-4" in str(degraded["message"])
            assert it.nodes.orders == ["switch"], "not asked again at once"
            it.nodes.refuse_switch = None
            it.now += timedelta(minutes=2)
            await it.settle(2)
            assert it.nodes.endpoints == ("other:3306",)
            assert (await it.condition("Degraded"))["status"] == "False"

    asyncio.run(story())


def test_a_paused_cluster_is_only_looked_at(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle()
            body = changed(changed(plain(), "spec.paused", value=True), "spec.image", "kingbus:2")
            await it.admin.apply(namespace.here(body), manager="a-person")
            before = await it.versions()
            await it.settle(2)
            after = await it.versions()
            written = {key for key in after if after[key] != before[key]}
            assert written == {("BinlogCluster", "orders")}
            assert (await it.status())["phase"] == "Paused"

    asyncio.run(story())


def test_an_operator_that_does_not_lead_writes_nothing(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            it.acting = False
            with pytest.raises(Fenced):
                await it.round()
            assert await it.admin.list("StatefulSet", namespace.name) == []

    asyncio.run(story())


def test_a_deleted_cluster_needs_nothing_from_the_operator(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle()
            body = await it.get("BinlogCluster", "orders")
            assert "finalizers" not in str(body["metadata"])
            await it.admin.delete("BinlogCluster", namespace.name, "orders", str(dig(body, "metadata", "uid")))
            assert await it.admin.get("BinlogCluster", namespace.name, "orders") is None
            assert await it.reconciler.reconcile(namespace.name, "orders") is None

    asyncio.run(story())


def test_pods_fit_the_restricted_standard(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            label: Json = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
            where = path("Namespace", None, namespace.name)
            await it.admin._call("PATCH", where, {}, label, "application/merge-patch+json")
            await it.settle(2)  # pods that do not fit are refused
            assert len(await it.admin.list("Pod", namespace.name)) == 3

    asyncio.run(story())


def test_a_pods_account_may_change_its_own_leader_service_and_nothing_else(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle(2)
            request: Json = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
            where = path("ServiceAccount", namespace.name, "orders", "token")
            token = str(dig(await it.admin._call("POST", where, {}, request), "status", "token"))
            touch: Json = {"metadata": {"annotations": {"x": "y"}}}
            async with Api(namespace.plane.as_token(token)) as pod:
                await until_allowed(pod, ("Service", namespace.name, "orders"))
                assert await pod.get("Service", namespace.name, "orders") is not None
                await pod.merge_patch("Service", namespace.name, "orders", touch)
                for kind in PLURALS:
                    if kind not in ("StorageClass", "PodMonitor", "PrometheusRule", "Certificate"):
                        with pytest.raises(ApiError, match="orbidden"):
                            await pod.list(kind, namespace.name)
                for kind, name in [part for part in PARTS if part != ("Service", "orders")]:
                    with pytest.raises(ApiError, match="orbidden"):
                        await pod.get(kind, namespace.name, name)
                    with pytest.raises(ApiError, match="orbidden"):
                        await pod.merge_patch(kind, namespace.name, name, touch)
                uid = str(dig(await it.get("Service", "orders"), "metadata", "uid"))
                with pytest.raises(ApiError, match="orbidden"):
                    await pod.delete("Service", namespace.name, "orders", uid)
                with pytest.raises(ApiError, match="orbidden"):
                    await pod.merge_patch("BinlogCluster", namespace.name, "orders", {"spec": {"replicas": 5}})

    asyncio.run(story())


def test_the_operators_account_may_not_do_more_than_it_needs(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle(1)
            async with Api(await operator_account(namespace.plane)) as api:
                with pytest.raises(ApiError, match="orbidden"):
                    await api.merge_patch("BinlogCluster", namespace.name, "orders", {"spec": {"replicas": 5}})
                with pytest.raises(ApiError, match="orbidden"):
                    await api.list("Secret", namespace.name)
                secrets: Json = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["*"]}
                role: Json = {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "Role",
                    "metadata": {"name": "more", "namespace": namespace.name},
                    "rules": [secrets],
                }
                with pytest.raises(ApiError, match="attempting to grant RBAC permissions not currently held"):
                    await api.apply(role)

    asyncio.run(story())


def test_the_certificate_belongs_to_the_pods(namespace: Namespace) -> None:
    async def story() -> None:
        async with scene(namespace) as it:
            await it.settle(1)
            tls = values(await it.get("Secret", "orders-tls"))
            assert set(tls) == {"ca.crt", "tls.crt", "tls.key"}
            mounted = str(dig(await it.get("StatefulSet", "orders"), "spec", "template"))
            assert "orders-tls" in mounted
            assert "orders-ca'" not in mounted, "the CA's key is for the operator alone"

    asyncio.run(story())
