"""The leader Service names the leader of the highest term, whatever order things happen in."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.kube.api import ApiError, Json
from kingbus_node.kube.leader_service import MANAGER, POD_NAME_LABEL, TERM_ANNOTATION, LeaderService, point
from kingbus_node.raft.api import Leadership

_DEADLINE = 60.0


class FakeServices:
    """One Service, with resourceVersions and JSON patches as the API server has them."""

    def __init__(self, annotations: dict[str, str] | None = None) -> None:
        self.service: Json = {"metadata": {"name": "orders", "resourceVersion": "1"}, "spec": {}}
        if annotations is not None:
            self.metadata["annotations"] = annotations
        self.failures: list[ApiError] = []
        self.patches = 0
        self.changed = threading.Condition()
        self.before_patch: Callable[[], None] = lambda: None

    @property
    def metadata(self) -> dict[str, object]:
        metadata = self.service["metadata"]
        assert isinstance(metadata, dict)
        return metadata

    @property
    def names(self) -> tuple[str | None, str | None]:
        """Pod and term."""
        spec, annotations = self.service["spec"], self.metadata.get("annotations", {})
        assert isinstance(spec, dict)
        assert isinstance(annotations, dict)
        return spec.get("selector", {}).get(POD_NAME_LABEL), annotations.get(TERM_ANNOTATION)

    def get(self, name: str) -> Json:
        assert name == "orders"
        if self.failures:
            raise self.failures.pop(0)
        return copy.deepcopy(self.service)

    def patch(self, name: str, operations: Sequence[Json], manager: str) -> Json:
        assert (name, manager) == ("orders", MANAGER)
        self.before_patch()
        changed = copy.deepcopy(self.service)
        for operation in operations:
            *parents, last = [part.replace("~1", "/") for part in str(operation["path"]).split("/")[1:]]
            inside: dict[str, object] = changed
            for parent in parents:
                inner = inside.get(parent)
                if not isinstance(inner, dict):
                    raise ApiError(422, f"no {parent}")
                inside = inner
            if operation["op"] == "test" and inside.get(last) != operation["value"]:
                raise ApiError(422, "the server rejected our request")
            if operation["op"] == "add":
                inside[last] = operation["value"]
        with self.changed:
            self.service = changed
            self.metadata["resourceVersion"] = str(int(str(self.metadata["resourceVersion"])) + 1)
            self.patches += 1
            self.changed.notify_all()
        return changed

    def wait_for(self, pod: str, term: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.names == (pod, str(term)), _DEADLINE), self.names


def test_the_elected_node_points_the_service_at_its_pod() -> None:
    services = FakeServices()

    assert point(services, "orders", "orders-1", 7)

    assert services.names == ("orders-1", "7")


def test_a_service_that_is_right_already_is_not_written() -> None:
    services = FakeServices()
    point(services, "orders", "orders-1", 7)

    assert point(services, "orders", "orders-1", 7)

    assert services.patches == 1


def test_a_leader_of_an_older_term_changes_nothing() -> None:
    services = FakeServices()
    point(services, "orders", "orders-1", 7)

    assert not point(services, "orders", "orders-0", 6)

    assert services.names == ("orders-1", "7")


def test_a_leader_that_was_paused_between_reading_and_patching_loses_to_its_successor() -> None:
    services = FakeServices()
    point(services, "orders", "orders-2", 5)

    def successor() -> None:
        services.before_patch = lambda: None
        assert point(services, "orders", "orders-1", 7)

    services.before_patch = successor
    with pytest.raises(ApiError) as caught:
        point(services, "orders", "orders-0", 6)

    assert caught.value.conflict
    assert services.names == ("orders-1", "7")


def test_a_term_that_is_no_number_is_replaced() -> None:
    services = FakeServices({TERM_ANNOTATION: "x", "other": "kept"})

    assert point(services, "orders", "orders-1", 1)

    assert services.metadata["annotations"] == {TERM_ANNOTATION: "1", "other": "kept"}


@given(st.permutations(range(1, 7)), st.lists(st.integers(0, 5), max_size=30))
def test_in_any_order_of_attempts_the_highest_term_wins(terms: list[int], retries: list[int]) -> None:
    services = FakeServices()
    for term in [*terms, *(terms[i] for i in retries)]:
        point(services, "orders", f"orders-{term}", term)
    assert services.names == ("orders-6", "6")


def test_it_follows_elections_and_is_quiet_while_not_ready() -> None:
    services = FakeServices()
    follower = LeaderService(services, "orders", "orders-0")
    try:
        follower.leadership_changed(None)
        follower.leadership_changed(Leadership(3, ready=False))
        follower.leadership_changed(Leadership(3, ready=True))
        services.wait_for("orders-0", 3)
        follower.leadership_changed(None)
        point(services, "orders", "orders-1", 4)
        follower.leadership_changed(Leadership(5, ready=True))
        services.wait_for("orders-0", 5)
    finally:
        follower.close()
    assert services.patches == 3


def test_it_tries_again_until_the_api_server_is_back() -> None:
    services = FakeServices()
    services.failures = [
        ApiError(0, "refused"),
        ApiError(503, "busy"),
        ApiError(429, "slow down"),
        ApiError(0, "reset"),
    ]
    follower = LeaderService(services, "orders", "orders-0")
    try:
        follower.leadership_changed(Leadership(3, ready=True))
        services.wait_for("orders-0", 3)
    finally:
        follower.close()


def test_it_gives_up_when_the_leadership_is_lost() -> None:
    services = FakeServices()
    asked = threading.Event()

    def get(name: str) -> Json:
        del name
        asked.set()
        raise ApiError(0, "refused")

    services.get = get  # type: ignore[method-assign]
    follower = LeaderService(services, "orders", "orders-0")
    follower.leadership_changed(Leadership(3, ready=True))
    assert asked.wait(_DEADLINE)
    follower.leadership_changed(None)
    follower.close()
    assert services.patches == 0


def test_outside_of_kubernetes_there_is_nothing_to_do() -> None:
    assert LeaderService.in_pod({}) is None
    assert LeaderService.in_pod({"KINGBUS_LEADER_SERVICE": "orders", "POD_NAME": "orders-0"}) is None
