"""`make test-pods` (root): the deployed operator and real nodes on a real API server, with a real source and replica.

One story, because its parts build on one another. What stands in for the kubelet is described in `kube.pods`.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.fixtures import Pool

from kingbus_node.demo.compare import differences
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER
from kingbus_node.demo.replication import Upstream, executed, replicate, wait_caught_up
from kingbus_node.demo.waiting import wait_until
from kingbus_operator.api.types import Json
from kingbus_operator.kube.credentials import Credentials
from kingbus_operator.planning.observed import dig
from kube.pods import NAME, Pods
from kube.test_the_deployed_operator import Running, account, installed, started
from kube.world import Namespace, changed, plain

__all__ = ["account", "installed"]

PATIENCE = 240.0


def secret(name: str, **values: str) -> Json:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


@pytest.fixture
def pods(namespace: Namespace, tmp_path: Path) -> Iterator[Pods]:
    with Pods(namespace, tmp_path, f"127.{random.randint(16, 250)}.{random.randint(1, 250)}") as made:
        yield made


class Story:
    """What is looked at between the steps."""

    def __init__(self, namespace: Namespace, pods: Pods, operator: Running) -> None:
        self.namespace, self.pods, self.operator = namespace, pods, operator

    def status(self) -> Json:
        found = dig(self.namespace.get("BinlogCluster", NAME), "status")
        return found if isinstance(found, dict) else {}

    def told(self) -> str:
        """For when something does not come."""
        return f"{self.status()}\n{self.operator.log.read_text()[-4000:]}\n{self.pods.logs()}\n{self.pods.failure!r}"

    def running(self, size: int) -> bool:
        assert self.pods.failure is None, self.told()
        status = self.status()
        members = status.get("members")
        roles = [dig(member, "role") for member in members] if isinstance(members, list) else []
        return status.get("phase") == "Running" and sorted(map(str, roles)) == ["follower"] * (size - 1) + ["leader"]

    def wait_running(self, size: int) -> str:
        """The leader's pod."""
        wait_until(lambda: self.running(size), PATIENCE, f"{size} pods to run", interval=0.3, found=self.told)
        return str(self.status()["leader"])

    def conditions(self) -> list[Json]:
        found = self.status().get("conditions")
        return list(found) if isinstance(found, list) else []

    def restarted(self, size: int) -> bool:
        """Whether all pods carry the annotation that was asked for."""
        assert self.pods.failure is None, self.told()
        bodies = self.namespace.run(lambda api: api.list("Pod", self.namespace.name))
        return len(bodies) == size and all(dig(body, "metadata", "annotations", "restart") == "yes" for body in bodies)

    def served(self) -> str | None:
        """The pod that the leader Service selects."""
        found = dig(self.namespace.get("Service", NAME), "spec", "selector", "statefulset.kubernetes.io/pod-name")
        return None if found is None else str(found)


def test_the_life_of_a_cluster(
    account: Credentials, namespace: Namespace, pods: Pods, module_pool: Pool, tmp_path: Path
) -> None:
    source = module_pool.server("mysql-9.7")
    replica = module_pool.server("mysql-9.7")
    source.sql("CREATE DATABASE shop", "CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT)")
    body = changed(plain(), "spec.source.endpoints", [{"host": "127.0.0.1", "port": source.port}])
    body = changed(body, "spec.storage.size", "1Gi")

    def follow(pod: str) -> None:
        """The replica reads from this pod from now on, as it would by a Service that names it."""
        host = f", SOURCE_HOST = '{pods.ip(pod)}'"
        replicate(replica, Upstream(3306, "reader", "reading"), options=host)

    def converges() -> None:
        source.sql("INSERT INTO shop.t VALUES ()")
        wait_caught_up(source, replica, PATIENCE)
        assert differences(source, replica) == []
        assert executed(replica) == executed(source), "each transaction once"

    with started(account, tmp_path / "first") as operator:
        story = Story(namespace, pods, operator)
        namespace.post(body)
        wait_until(
            lambda: story.status().get("phase") == "Degraded", 60, "the missing Secret to be told", found=story.told
        )
        (degraded,) = [one for one in story.conditions() if one["type"] == "Degraded"]
        assert "orders-source" in str(degraded["message"])
        namespace.post(secret("orders-source", username=REPLICATION_USER, password=REPLICATION_PASSWORD))
        namespace.post(secret("orders-replicas", reader="reading"))
        leader = story.wait_running(3)
        wait_until(lambda: story.served() == leader, 60, "the leader Service", found=story.told)
        # The phase "Running" speaks of pods: the leader may be on its way to the source yet.
        wait_until(lambda: dig(story.status(), "source", "state") == "Connected", 60, "the source", found=story.told)
        follow(leader)
        converges()
        operator.process.terminate()
        assert operator.process.wait(60) == 0

    # The leader dies while no operator is there: the elected node repoints the Service itself.
    pods.kill(leader)
    wait_until(lambda: story.served() not in (None, leader), PATIENCE, "the Service to follow", found=story.told)
    follow(str(story.served()))
    converges()

    with started(account, tmp_path / "second") as operator:
        story = Story(namespace, pods, operator)
        story.wait_running(3)
        namespace.update(changed(body, "spec.replicas", 5))
        story.wait_running(5)
        converges()
        pods.fewest_ready = 5
        namespace.update(changed(changed(body, "spec.replicas", 5), "spec.podAnnotations", {"restart": "yes"}))
        wait_until(lambda: story.restarted(5), PATIENCE, "all pods to be new", interval=0.3, found=story.told)
        leader = story.wait_running(5)
        assert pods.fewest_ready >= 3, "a rolling change leaves a quorum"
        follow(leader)
        converges()
        namespace.update(changed(changed(body, "spec.replicas", 3), "spec.podAnnotations", {"restart": "yes"}))
        leader = story.wait_running(3)
        wait_until(lambda: story.served() == leader, 60, "the leader Service", found=story.told)
        follow(leader)
        converges()
        assert '"level": "error"' not in operator.log.read_text()
