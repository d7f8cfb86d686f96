"""What tests do to the API server: install the CRD, make namespaces and clusters, act as somebody else."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

import pytest

from kingbus_operator.api import API_VERSION, KIND
from kingbus_operator.api.crd import definition
from kingbus_operator.api.types import Json
from kingbus_operator.kube import client
from kingbus_operator.kube.client import Api, ApiError
from kingbus_operator.kube.credentials import Credentials
from kingbus_operator.planning.observed import dig
from kube.cluster import ControlPlane

_T = TypeVar("_T")
_FURTHER = {"CustomResourceDefinition": "customresourcedefinitions", "Namespace": "namespaces", "Node": "nodes"}
_DEADLINE = 60.0


def plain(name: str = "orders", replicas: int = 3) -> Json:
    """A BinlogCluster with nothing but what must be said."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "source": {
                "endpoints": [{"host": "mysql-0.mysql", "port": 3306}],
                "credentialsSecretRef": {"name": "orders-source"},
            },
            "access": {"usersSecretRef": {"name": "orders-replicas"}},
            "storage": {"size": "50Gi"},
        },
    }


def changed(body: Json, path: str, value: object) -> Json:
    """A copy with one field set; None: taken out."""
    result = copy.deepcopy(body)
    *sections, last = path.split(".")
    section: dict[str, object] = result
    for name in sections:
        inner = section.setdefault(name, {})
        assert isinstance(inner, dict)
        section = inner
    if value is None:
        section.pop(last, None)
    else:
        section[last] = value
    return result


async def install_crd(admin: Credentials) -> None:
    """Installs it and waits until it serves."""
    _learn_kinds()
    async with Api(admin) as api:
        await api.apply(definition())

        async def established() -> bool:
            found = await api.get("CustomResourceDefinition", None, "binlogclusters.kingbus.io")
            conditions = dig(found, "status", "conditions")
            held = {dig(one, "type"): dig(one, "status") for one in conditions} if isinstance(conditions, list) else {}
            assert held.get("NonStructuralSchema") is None, conditions
            if held.get("Established") != "True":
                return False
            try:
                await api.list(KIND, None)
            except ApiError:
                return False
            return True

        await eventually(established)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until it holds; the test fails when it does not within a minute."""
    async with asyncio.timeout(_DEADLINE):
        while not await condition():
            await asyncio.sleep(0.05)


async def until_allowed(api: Api, *wanted: tuple[str, str | None, str]) -> None:
    """Waits until this account may read these: kind, namespace, name. Whether they are there does not matter.

    An API server that has been told of a role or a binding goes by it a moment later, when a watch of its own tells it.
    """

    async def allowed() -> bool:
        try:
            for kind, namespace, name in wanted:
                await api.get(kind, namespace, name)
        except ApiError as error:
            if error.status != HTTPStatus.FORBIDDEN:
                raise
            return False
        return True

    await eventually(allowed)


def _learn_kinds() -> None:
    for kind, plural in _FURTHER.items():
        client.PLURALS.setdefault(kind, plural)  # type: ignore[attr-defined]
    client.VERSIONS.setdefault("CustomResourceDefinition", "apiextensions.k8s.io/v1")  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace, and what tests do in it as the administrator."""

    plane: ControlPlane
    name: str

    def run(self, work: Callable[[Api], Awaitable[_T]], who: Credentials | None = None) -> _T:
        """Runs `work` with a client of its own."""

        async def main() -> _T:
            async with Api(who or self.plane.admin) as api:
                return await work(api)

        return asyncio.run(main())

    async def create(self) -> None:
        async with Api(self.plane.admin) as api:
            await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}})

    async def delete_clusters(self) -> None:
        async with Api(self.plane.admin) as api:
            for body in await api.list(KIND, self.name):
                await api.delete(KIND, self.name, str(dig(body, "metadata", "name")), str(dig(body, "metadata", "uid")))

    def here(self, body: Json) -> Json:
        """The object, in this namespace."""
        return changed(body, "metadata.namespace", self.name)

    def post(self, body: Json) -> Json:
        """Creates it. ApiError."""
        return self.run(lambda api: api.create(self.here(body)))

    def update(self, body: Json) -> Json:
        """Changes it as `kubectl apply` would. ApiError."""
        return self.run(lambda api: api.apply(self.here(body), manager="a-person"))

    def get(self, kind: str, name: str) -> Json | None:
        return self.run(lambda api: api.get(kind, self.name, name))

    def refusal(self, body: Json) -> str:
        """Why it is refused."""
        with pytest.raises(ApiError) as caught:
            self.update(body)
        assert caught.value.status == 422, caught.value
        return caught.value.message
