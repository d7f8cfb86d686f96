"""Another image, another configuration: pods are replaced one by one under load, and replicas lose nothing."""

from __future__ import annotations

from e2e.world import Stage
from kingbus_operator.api.types import Json
from kingbus_operator.planning.observed import dig


def _images(pods: list[Json]) -> set[str]:
    return {str(dig(pod, "spec", "containers", 0, "image")) for pod in pods}


def _ids(pods: list[Json]) -> set[str]:
    return {str(dig(pod, "metadata", "uid")) for pod in pods}


def test_another_image(running: Stage, next_image: str) -> None:
    running.replica("orders-replicas")
    before = _ids(running.pods())

    with running.load(), running.counting() as pods:
        running.patch(image=next_image)
        running.wait(lambda: _images(running.pods()) == {next_image}, "every pod to run the other image")
        running.wait_settled(3)

    assert not before & _ids(running.pods()), "every pod is new"
    assert pods.fewest >= 2, "one pod at a time"
    assert running.status()["currentImage"] == next_image


def test_another_configuration(running: Stage) -> None:
    before = _ids(running.pods())

    with running.load(), running.counting() as pods:
        running.patch(storage={"retention": {"maxAge": "3d", "maxBytes": "20Gi"}})
        running.wait(lambda: len(_ids(running.pods()) - before) == 3, "every pod to be new")
        running.wait_settled(3)

    assert pods.fewest >= 2, "one pod at a time"
    text = str(dig(running.get("configmap", "orders-config"), "data", "kingbus.yaml"))
    assert "3d" in text
