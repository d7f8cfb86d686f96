"""The operator's own account, with exactly the rights of the manifests that people install."""

from __future__ import annotations

from pathlib import Path

import yaml

from kingbus_operator.api import KIND
from kingbus_operator.api.types import Json
from kingbus_operator.kube import client
from kingbus_operator.kube.client import Api, ApiError, path
from kingbus_operator.kube.credentials import Credentials
from kingbus_operator.planning.observed import dig
from kube.cluster import ControlPlane
from kube.world import until_allowed

MANIFESTS = Path(__file__).parents[2] / "deploy" / "kustomize"
NAMESPACE = "kingbus-system"
_KINDS = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
_RBAC = "rbac.authorization.k8s.io/v1"


async def operator_account(plane: ControlPlane) -> Credentials:
    """Installs the account and its rights (again), and gives a token of it."""
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        client.PLURALS.setdefault(kind, f"{kind.lower()}s")  # type: ignore[attr-defined]
        client.VERSIONS.setdefault(kind, _RBAC)  # type: ignore[attr-defined]
    async with Api(plane.admin) as api:
        account = ""
        for kind in _KINDS:
            for body in _documents():
                if body["kind"] == kind:
                    await api.apply(body, manager="a-person")
                    account = str(dig(body, "metadata", "name")) if kind == "ServiceAccount" else account
        request: Json = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        where = path("ServiceAccount", NAMESPACE, account, "token")
        made = await api._call("POST", where, {}, request)
    credentials = plane.as_token(str(dig(made, "status", "token")))
    await until_operator(credentials)
    return credentials


async def until_operator(account: Credentials) -> None:
    """Waits until the account has its rights: one question for each role that it is bound to."""
    async with Api(account) as api:
        await until_allowed(
            api,
            (KIND, "default", "any"),
            ("StorageClass", None, "any"),
            ("Lease", NAMESPACE, "kingbus-operator"),
        )


def _documents() -> list[Json]:
    found: list[Json] = []
    for file in ("namespace.yaml", "operator.yaml"):
        found += [body for body in yaml.safe_load_all((MANIFESTS / file).read_text()) if body]
    return found


__all__ = ["NAMESPACE", "ApiError", "operator_account", "until_operator"]
