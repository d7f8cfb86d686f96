"""What deploy/ installs, in a real API server: accepted field by field, enough for the operator, and not more.

The manifests are those of deploy/kustomize, which are the chart's with its default values. The operator runs as a
process with the arguments and the environment of its Deployment, as its own ServiceAccount.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from manifests import containers, find, mapping, mappings, metadata, pod_spec

from kingbus_node.demo.ports import ReservedPort
from kingbus_node.demo.waiting import wait_until
from kingbus_operator.api.types import Json
from kingbus_operator.kube.client import Api, ApiError
from kingbus_operator.kube.credentials import Credentials
from kingbus_operator.planning.observed import dig
from kube.cluster import ControlPlane
from kube.installed import until_operator
from kube.world import Namespace, plain

KUSTOMIZE = Path(__file__).parents[2] / "deploy" / "kustomize"
MONITORING = KUSTOMIZE.parent / "monitoring"
SYSTEM = "kingbus-system"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Service": "/api/v1/namespaces/{}/services",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}


def objects() -> list[Json]:
    files = [KUSTOMIZE / "namespace.yaml", KUSTOMIZE / "operator.yaml"]
    return [item for file in files for item in yaml.safe_load_all(file.read_text()) if item]


def operator_container() -> Json:
    (container,) = containers(pod_spec(find(objects(), "Deployment", "kingbus-operator")))
    return container


@pytest.fixture(scope="module")
def installed(plane: ControlPlane) -> Namespace:
    """The operator's namespace with all that deploy/ puts there. Unknown fields are errors in server-side apply."""
    system = Namespace(plane, SYSTEM)

    async def install(api: Api) -> None:
        for item in objects():
            where = f"{PATHS[str(item['kind'])].format(SYSTEM)}/{metadata(item)['name']}"
            query = {"fieldManager": "kubectl", "fieldValidation": "Strict"}
            await api._call("PATCH", where, query, item, "application/apply-patch+yaml")

    system.run(install)
    return system


@pytest.fixture(scope="module")
def account(installed: Namespace) -> Credentials:
    """The ServiceAccount of the operator, by a token as the kubelet would give it."""

    async def token(api: Api) -> str:
        where = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/kingbus-operator/token"
        request: Json = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return str(dig(await api._call("POST", where, body=request), "status", "token"))

    credentials = installed.plane.as_token(installed.run(token))
    asyncio.run(until_operator(credentials))
    return credentials


@dataclass(frozen=True, slots=True)
class Running:
    """The operator's process."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def text(self, path: str) -> str:
        """What it answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def status(self, path: str) -> int:
        """What a probe gets; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return 0


@contextmanager
def started(account: Credentials, folder: Path) -> Iterator[Running]:
    """Started as the Deployment starts it, but for the port and the way to the API server."""
    port, log = ReservedPort(), folder / "operator.log"
    folder.mkdir(exist_ok=True)
    (folder / "ca.crt").write_text(account.ca_data or "")
    (folder / "kubeconfig").write_text(
        yaml.safe_dump(
            {
                "clusters": [
                    {"name": "c", "cluster": {"server": account.server, "certificate-authority": "ca.crt"}},
                ],
                "users": [{"name": "u", "user": {"token": account.bearer()}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    container = operator_container()
    given = {str(item["name"]): str(item["value"]) for item in mappings(container["env"]) if "value" in item}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KINGBUS_", "KUBE"))}
    environment |= given | {
        "POD_NAME": "operator-0",
        "POD_NAMESPACE": SYSTEM,
        "KUBECONFIG": str(folder / "kubeconfig"),
    }
    environment["KINGBUS_OPERATOR_PORT"] = str(port.number)
    arguments = container["args"]
    assert isinstance(arguments, list)
    assert container["command"] == ["kingbus-operator"]
    command = [sys.executable, "-m", "kingbus_operator.main", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield Running(process, port.number, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def operator(account: Credentials, tmp_path: Path) -> Iterator[Running]:
    """For one test."""
    with started(account, tmp_path / "operator") as running:
        yield running


def test_the_deployed_operator_makes_a_cluster_with_the_rights_that_it_has(
    operator: Running, namespace: Namespace
) -> None:
    container = operator_container()
    assert [dig(port, "containerPort") for port in mappings(container["ports"])] == [
        int(str(dig(find_env(container, "KINGBUS_OPERATOR_PORT"), "value")))
    ]
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    paths = [str(dig(container, probe, "httpGet", "path")) for probe in probes]
    what = f"{', '.join(paths)} to succeed"
    wait_until(lambda: all(operator.status(path) == 200 for path in paths), 90, what, found=operator.log.read_text)
    namespace.post(plain())

    def made() -> bool:
        assert operator.process.poll() is None, operator.log.read_text()
        return namespace.get("StatefulSet", "orders") is not None

    wait_until(made, 90, "the StatefulSet", interval=0.2, found=operator.log.read_text)
    for kind, name in (("Role", "orders"), ("RoleBinding", "orders"), ("Secret", "orders-ca"), ("Service", "orders")):
        assert namespace.get(kind, name) is not None, kind
    what = "the operator's status of the cluster"
    wait_until(lambda: dig(namespace.get("BinlogCluster", "orders"), "status", "phase"), 90, what, interval=0.2)
    image = dig(namespace.get("StatefulSet", "orders"), "spec", "template", "spec", "containers", 0, "image")
    assert image == operator_container()["image"]
    told = operator.log.read_text()
    assert "forbidden" not in told.lower()
    assert '"level": "error"' not in told
    metrics = operator.text("/metrics")
    read = set(re.findall(r"kingbus_operator_\w+", (MONITORING / "operator-rules.yaml").read_text()))
    assert {name for name in read if f"\n{name}" not in metrics} == set(), "metrics that alerts read"
    assert "\nkingbus_operator_is_leader 1.0" in metrics
    operator.process.terminate()
    assert operator.process.wait(60) == 0
    lease = Namespace(namespace.plane, SYSTEM).get("Lease", "kingbus-operator")
    assert dig(lease, "spec", "holderIdentity") == "", "the Lease is given back, so that the next one need not wait"


def find_env(container: Json, name: str) -> Json:
    return next(item for item in mappings(container["env"]) if item["name"] == name)


@pytest.mark.parametrize(
    ("method", "where"),
    [
        ("GET", "/api/v1/nodes"),
        ("GET", "/api/v1/namespaces"),
        ("GET", "/apis/apps/v1/deployments"),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
        ("DELETE", "/apis/kingbus.io/v1alpha1/namespaces/default/binlogclusters/orders"),
        ("DELETE", "/apis/apps/v1/namespaces/default/statefulsets/orders"),
        ("DELETE", "/api/v1/namespaces/default/secrets/orders"),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/default/leases/kingbus-operator"),
    ],
)
def test_what_the_operator_does_not_need_is_forbidden(
    installed: Namespace, account: Credentials, method: str, where: str
) -> None:
    async def ask(api: Api) -> Json:
        return await api._call(method, where)

    with pytest.raises(ApiError) as caught:
        installed.run(ask, account)
    assert caught.value.status == 403


def test_the_operator_cannot_give_what_it_does_not_have(namespace: Namespace, account: Credentials) -> None:
    """A Role that its maker does not hold itself is an escalation, which the API server refuses."""
    rule: Json = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}
    role: Json = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "more", "namespace": namespace.name},
        "rules": [rule],
    }
    with pytest.raises(ApiError) as caught:
        namespace.run(lambda api: api.apply(role), account)
    assert caught.value.status == 403
    service: Json = {
        "apiGroups": [""],
        "resources": ["services"],
        "resourceNames": ["orders"],
        "verbs": ["get", "patch"],
    }
    made = namespace.run(lambda api: api.apply({**role, "rules": [service]}), account)
    assert mapping(made["metadata"])["name"] == "more"
