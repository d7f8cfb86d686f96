"""A client of the Kubernetes API: the few calls that the operator makes, over aiohttp.

Server-side apply (Kubernetes documentation, "Server-Side Apply") is one PATCH; nothing here reads, merges and writes
back. Every failure is an ``ApiError``; what to do about it is the caller's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp

from kingbus_operator.api import GROUP, PLURAL
from kingbus_operator.api.types import Json
from kingbus_operator.build.common import MANAGER
from kingbus_operator.kube.credentials import Credentials

PLURALS: Mapping[str, str] = {
    "BinlogCluster": PLURAL,
    "Certificate": "certificates",
    "ConfigMap": "configmaps",
    "Event": "events",
    "Lease": "leases",
    "NetworkPolicy": "networkpolicies",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Pod": "pods",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "PodMonitor": "podmonitors",
    "PrometheusRule": "prometheusrules",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Secret": "secrets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "StatefulSet": "statefulsets",
    "StorageClass": "storageclasses",
}
VERSIONS: Mapping[str, str] = {
    "BinlogCluster": f"{GROUP}/v1alpha1",
    "Certificate": "cert-manager.io/v1",
    "Lease": "coordination.k8s.io/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "StatefulSet": "apps/v1",
    "StorageClass": "storage.k8s.io/v1",
}
OPTIONAL = ("Certificate", "PodMonitor", "PrometheusRule")
"""Kinds that a server need not have."""
_TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)


class ApiError(Exception):
    """The API server refused, or did not answer (then ``status`` is 0)."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{reason or status}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def conflict(self) -> bool:
        """Somebody else was faster: look again."""
        return self.status == 409 or (self.status == 422 and "the server rejected our request" in self.message)

    @property
    def refusal(self) -> bool:
        """What was sent is not taken, and may never be: it is invalid or forbidden. 500 as well, which is the answer to
        what cannot be converted (a quantity that is none), and where a webhook should have been asked and is not there.
        """
        return self.status in (400, 403, 413, 422, 500) and not self.namespace_ends

    @property
    def namespace_ends(self) -> bool:
        """Nothing can be made there any more: the namespace is being deleted, and soon what we look after with it."""
        return self.status == 403 and "because it is being terminated" in self.message


class Api:
    """One connection pool. Use as an asynchronous context manager."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        secure = self._credentials.server.startswith("https")
        connector = aiohttp.TCPConnector(ssl=self._credentials.context() if secure else False, limit=64)
        self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, kind: str, namespace: str | None, name: str) -> Json | None:
        """The object, None when there is none."""
        try:
            return await self._call("GET", path(kind, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: str, namespace: str | None, selector: Mapping[str, str] | None = None) -> list[Json]:
        """All objects with these labels."""
        query = {"labelSelector": ",".join(f"{k}={v}" for k, v in selector.items())} if selector else {}
        answer = await self._call("GET", path(kind, namespace), query)
        items = answer.get("items")
        return list(items) if isinstance(items, list) else []

    async def apply(self, manifest: Json, *, manager: str = MANAGER, subresource: str | None = None) -> Json:
        """Server-side apply; fields that others own become ours."""
        metadata = manifest["metadata"]
        assert isinstance(metadata, dict)
        where = path(str(manifest["kind"]), metadata.get("namespace"), metadata["name"], subresource)
        query = {"fieldManager": manager, "force": "true"}
        return await self._call("PATCH", where, query, manifest, "application/apply-patch+yaml")

    async def json_patch(
        self, kind: str, namespace: str, name: str, patch: Sequence[Json], *, manager: str = MANAGER
    ) -> Json:
        """RFC 6902: all of it or, when a `test` fails, nothing (then an ApiError that is a conflict)."""
        query = {"fieldManager": manager}
        return await self._call("PATCH", path(kind, namespace, name), query, patch, "application/json-patch+json")

    async def merge_patch(self, kind: str, namespace: str, name: str, patch: Json) -> Json:
        """RFC 7386."""
        query = {"fieldManager": MANAGER}
        return await self._call("PATCH", path(kind, namespace, name), query, patch, "application/merge-patch+json")

    async def create(self, manifest: Json, subresource: str | None = None, name: str | None = None) -> Json:
        """POST, of an object or (with the object's name) to a subresource of it."""
        metadata = manifest["metadata"]
        assert isinstance(metadata, dict)
        kind = "Pod" if subresource == "eviction" else str(manifest["kind"])
        where = path(kind, metadata.get("namespace"), name, subresource)
        return await self._call("POST", where, {"fieldManager": MANAGER}, manifest)

    async def replace(self, manifest: Json) -> Json:
        """PUT; a conflict when ``metadata.resourceVersion`` is not the present one."""
        metadata = manifest["metadata"]
        assert isinstance(metadata, dict)
        where = path(str(manifest["kind"]), metadata.get("namespace"), metadata["name"])
        return await self._call("PUT", where, {"fieldManager": MANAGER}, manifest)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete this very object; none, or another of its name, is fine."""
        body: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        try:
            await self._call("DELETE", path(kind, namespace, name), {}, body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def optional_kinds(self) -> frozenset[str]:
        """Which of ``OPTIONAL`` the server has: each for itself, as their definitions may be installed one by one."""
        listed = (await self._call("GET", "/apis")).get("groups")
        groups = {str(group["name"]) for group in listed} if isinstance(listed, list) else set()
        found: set[str] = set()
        for version in sorted({VERSIONS[kind] for kind in OPTIONAL}):
            if version.partition("/")[0] in groups:
                served = await self._kinds(version)
                found |= {kind for kind in OPTIONAL if VERSIONS[kind] == version and kind in served}
        return frozenset(found)

    async def _kinds(self, version: str) -> frozenset[str]:
        """The kinds of one version of a group; none when the group has other versions only."""
        try:
            answer = await self._call("GET", f"/apis/{version}")
        except ApiError as error:
            if error.status == 404:
                return frozenset()
            raise
        found = answer.get("resources")
        return frozenset(str(resource["kind"]) for resource in found) if isinstance(found, list) else frozenset()

    async def _call(
        self,
        method: str,
        where: str,
        query: Mapping[str, str] | None = None,
        body: Json | Sequence[Json] | None = None,
        content: str = "application/json",
    ) -> Json:
        assert self._session is not None, "use the client as a context manager"
        headers = {"Accept": "application/json", "Content-Type": content}
        try:
            token = self._credentials.bearer()
            if token:
                headers["Authorization"] = f"Bearer {token}"
            data = json.dumps(body) if body is not None else None
            async with self._session.request(
                method, self._credentials.server + where, params=query, data=data, headers=headers
            ) as response:
                text = await response.text()
                if response.status < 300:
                    answer: Json = json.loads(text)
                    return answer
                raise _refused(response.status, text, response.headers.get("Retry-After"))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise ApiError(0, "Unreachable", f"{method} {where}: {str(error) or type(error).__name__}") from error


def path(kind: str, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    """The URL path of a kind, an object or a subresource."""
    version = VERSIONS.get(kind, "v1")
    parts = [f"/apis/{version}" if "/" in version else f"/api/{version}"]
    if namespace is not None:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(PLURALS[kind])
    if name is not None:
        parts.append(quote(str(name), safe=""))
    if subresource is not None:
        parts.append(subresource)
    return "/".join(parts)


def _refused(status: int, text: str, retry_after: str | None) -> ApiError:
    reason, message = "", text[:500]
    try:
        answer = json.loads(text)
        reason, message = str(answer.get("reason", "")), str(answer.get("message", message))
    except (ValueError, AttributeError):
        reason = "NotJson"
    wait = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    return ApiError(status, reason, message, wait)
