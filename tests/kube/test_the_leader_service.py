"""The node's own client against a real API server: the leader of the later term wins, whoever comes last."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kingbus_node.kube.api import ApiError, Json, ServiceApi
from kingbus_node.kube.leader_service import LeaderService, point
from kingbus_node.raft.api import Leadership
from kingbus_operator.kube.client import Api, path
from kingbus_operator.planning.observed import dig
from kube.test_reconciling import scene
from kube.world import Namespace, until_allowed

_DEADLINE = 60.0


@pytest.fixture
def pod_api(namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServiceApi:
    """What a pod of the cluster `orders` has: its account's token, mounted; the operator has made all objects."""

    async def story() -> str:
        async with scene(namespace, 1) as it:
            await it.settle(2)
            request: Json = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
            where = path("ServiceAccount", namespace.name, "orders", "token")
            token = str(dig(await it.admin._call("POST", where, {}, request), "status", "token"))
            async with Api(namespace.plane.as_token(token)) as pod:
                await until_allowed(pod, ("Service", namespace.name, "orders"))
            return token

    # A node that gets no answer tries again; most tests here ask just once, of an API server on a busy machine.
    monkeypatch.setattr("kingbus_node.kube.api._TIMEOUT", _DEADLINE)
    (tmp_path / "token").write_text(asyncio.run(story()))
    assert namespace.plane.admin.ca_data is not None
    (tmp_path / "ca.crt").write_text(namespace.plane.admin.ca_data)
    return ServiceApi(namespace.plane.admin.server, namespace.name, tmp_path / "token", tmp_path / "ca.crt")


def names(api: ServiceApi) -> tuple[object, object]:
    """Pod and term of the leader Service."""
    service = api.get("orders")
    return (
        dig(service, "spec", "selector", "statefulset.kubernetes.io/pod-name"),
        dig(service, "metadata", "annotations", "kingbus.io/term"),
    )


@dataclass(frozen=True, slots=True)
class Paused:
    """A client whose node is stopped between reading the Service and patching it."""

    api: ServiceApi
    has_read: threading.Event
    go_on: threading.Event

    def get(self, name: str) -> Json:
        return self.api.get(name)

    def patch(self, name: str, operations: Sequence[Json], manager: str) -> Json:
        self.has_read.set()
        assert self.go_on.wait(_DEADLINE)
        return self.api.patch(name, operations, manager)


def test_the_elected_node_names_itself_with_its_own_rights(pod_api: ServiceApi) -> None:
    assert point(pod_api, "orders", "orders-1", 1000)
    assert names(pod_api) == ("orders-1", "1000")
    assert point(pod_api, "orders", "orders-1", 1000), "nothing to write, and no error"


def test_a_stale_leader_that_wakes_up_late_cannot_overwrite_its_successor(pod_api: ServiceApi) -> None:
    paused = Paused(pod_api, threading.Event(), threading.Event())
    told: list[ApiError] = []

    def old_leader() -> None:
        try:
            point(paused, "orders", "orders-0", 1001)
        except ApiError as error:
            told.append(error)

    thread = threading.Thread(target=old_leader)
    thread.start()
    assert paused.has_read.wait(_DEADLINE)
    assert point(pod_api, "orders", "orders-2", 1002)
    paused.go_on.set()
    thread.join(_DEADLINE)

    assert [error.conflict for error in told] == [True]
    assert names(pod_api) == ("orders-2", "1002")
    assert not point(pod_api, "orders", "orders-0", 1001)
    assert names(pod_api) == ("orders-2", "1002")


def test_many_leaders_at_once_end_with_the_latest(pod_api: ServiceApi) -> None:
    leaders = [LeaderService(pod_api, "orders", f"orders-{number}") for number in range(6)]
    try:
        for number, leader in enumerate(leaders):
            leader.leadership_changed(Leadership(2000 + number, ready=True))
        done = threading.Event()
        for _ in range(600):
            if names(pod_api) == ("orders-5", "2005"):
                done.set()
                break
            done.wait(0.1)
        assert done.is_set(), names(pod_api)
    finally:
        for leader in leaders:
            leader.close()
    assert names(pod_api) == ("orders-5", "2005"), "nobody came after"


def test_the_operator_does_not_take_the_selector_back(namespace: Namespace, pod_api: ServiceApi) -> None:
    point(pod_api, "orders", "orders-0", 3000)

    async def story() -> None:
        async with Api(namespace.plane.admin) as api:
            service = await api.get("Service", namespace.name, "orders")
            assert service is not None
            fields = dig(service, "metadata", "managedFields")
            assert isinstance(fields, list)
            owners = {entry["manager"] for entry in fields if "f:selector" in json.dumps(entry)}
            assert owners == {"kingbus-leader"}

    asyncio.run(story())


def test_a_token_that_does_not_count_is_an_error_and_not_a_crash(pod_api: ServiceApi) -> None:
    pod_api.token_file.write_text("not-a-token")
    with pytest.raises(ApiError) as caught:
        point(pod_api, "orders", "orders-0", 4000)
    assert caught.value.status == 401
    assert "not-a-token" not in str(caught.value)
