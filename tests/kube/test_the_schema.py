"""The API server checks what it is given, fills in defaults, and tells what to do about what it refuses."""

from __future__ import annotations

import pytest

from kingbus_operator.api.types import Cluster, Json, Reclaim
from kingbus_operator.planning.observed import dig
from kube.world import Namespace, changed, plain

UUID = "3E11FA47-71CA-11E1-9E33-C80AA9429562"
SOURCE: Json = {"endpoints": [{"host": "a"}], "credentialsSecretRef": {"name": "b"}}

CREATION: list[tuple[str, object, str]] = [
    ("spec.replicas", 2, "replicas must be 1, 3, 5 or 7"),
    ("spec.replicas", 9, "replicas must be 1, 3, 5 or 7"),
    ("spec.replicas", 0, "replicas must be 1, 3, 5 or 7"),
    ("spec.source.endpoints", [], "name at least one host"),
    ("spec.source.endpoints", [{"host": "a"}, {"host": "a", "port": 3306}], "the same host and port twice"),
    ("spec.source.tls", {"mode": "VerifyCA"}, "set secretRef to a Secret with the key ca.crt"),
    ("spec.source.tls", {"mode": "VerifyIdentity"}, "set secretRef to a Secret with the key ca.crt"),
    ("spec.source.tls", {"mode": "Disabled", "secretRef": {"name": "a"}}, "choose another mode, or remove secretRef"),
    ("spec.source.compression", [], "name what may be used"),
    ("spec.source.compression", ["zlib", "zlib"], "name each once, the preferred first"),
    ("spec.source.compression", ["lz4"], 'supported values: "zlib", "zstd", "uncompressed"'),
    ("spec.source.start", {"from": "GtidSet"}, "from GtidSet needs gtidSet"),
    ("spec.source.start", {"from": "Current", "gtidSet": "0-1-5"}, "gtidSet needs from GtidSet"),
    ("spec.source.start", {"from": "GtidSet", "gtidSet": "everything"}, "is no GTID set"),
    (
        "spec.source",
        {**SOURCE, "flavor": "MariaDB", "start": {"from": "GtidSet", "gtidSet": f"{UUID}:1-5"}},
        "is not of source.flavor",
    ),
    ("spec.storage.retention", {"maxBytes": "100Mi"}, "set at least 256Mi"),
    ("spec.storage.retention", {"maxAge": "0d"}, "set for example 7d"),
    ("spec.source.serverId", 101, "source.serverId and access.serverId must differ"),
    ("spec.access.tls", {"secretRef": {"name": "a"}, "issuerRef": {"name": "b"}}, "exclude each other"),
    ("spec.storage.retention", {"maxBytes": "50Gi"}, "storage.retention.maxBytes must be less than storage.size"),
    ("spec.storage.retention", {"maxBytes": "60G"}, "four fifths of the size is a good value"),
    ("spec.storage.size", "512Mi", "set at least 1Gi"),
    ("spec.podLabels", {"kingbus.io/role": "leader"}, "use names of your own"),
    ("spec.podLabels", {"app.kubernetes.io/name": "other"}, "use names of your own"),
    ("metadata.name", "a" * 41, "metadata.name must be at most 40"),
    ("metadata.name", "1st", "metadata.name must be at most 40"),
    ("spec.source.tls", {"mode": "Sometimes"}, 'supported values: "Disabled", "Preferred"'),
    ("spec.storage.retention", {"maxAge": "a week"}, "spec.storage.retention.maxAge"),
    ("spec.storage.size", "big", "spec.storage.size"),
    ("spec.source.endpoints", [{"host": "a:3306"}], "spec.source.endpoints[0].host"),
    ("spec.source.endpoints", [{"host": "a", "port": 0}], "spec.source.endpoints[0].port"),
    ("spec.source.credentialsSecretRef", None, "spec.source.credentialsSecretRef"),
    ("spec.storage", None, "spec.storage"),
]

CHANGES: list[tuple[str, object, str]] = [
    ("spec.storage.storageClassName", "slow", "storageClassName cannot change"),
    ("spec.storage.storageClassName", None, "storageClassName cannot change"),
    ("spec.storage.size", "40Gi", "storage.size cannot shrink"),
    ("spec.source.start", {"from": "Current"}, "make a new BinlogCluster to begin elsewhere"),
    ("spec.source.flavor", "MariaDB", "source.flavor cannot change between MySQL and MariaDB"),
    ("spec.replicas", 4, "replicas must be 1, 3, 5 or 7"),
]


def test_the_least_manifest_is_taken_and_filled_in(namespace: Namespace) -> None:
    made = namespace.post(plain())

    assert dig(made, "spec", "source", "start", "from") == "Earliest"
    assert dig(made, "spec", "source", "tls", "mode") == "Preferred"
    assert dig(made, "spec", "source", "endpoints", 0, "port") == 3306
    assert dig(made, "spec", "storage", "retention", "maxAge") == "7d"
    assert dig(made, "spec", "services", "leader", "type") == "ClusterIP"
    assert dig(made, "spec", "paused") is False
    cluster = Cluster.parse(made)
    assert cluster.spec.monitoring.pod_monitor
    assert cluster.spec.storage.reclaim is Reclaim.RETAIN


def test_every_field_of_the_interface_is_kept(namespace: Namespace) -> None:
    body = plain()
    fields: list[tuple[str, object]] = [
        ("spec.image", "registry.example/kingbus:1"),
        ("spec.source.tls", {"mode": "VerifyCA", "secretRef": {"name": "ca"}}),
        ("spec.source.start", {"from": "GtidSet", "gtidSet": "0-1-5"}),
        ("spec.access.tls", {"issuerRef": {"name": "issuer", "kind": "ClusterIssuer"}}),
        ("spec.storage.retention", {"maxAge": "7d", "maxBytes": "40Gi"}),
        ("spec.services", {"leader": {"type": "LoadBalancer", "annotations": {"a": "b"}}}),
        ("spec.resources", {"requests": {"cpu": "500m"}}),
        ("spec.affinity", {"nodeAffinity": {"x": [1]}}),
        ("spec.tolerations", [{"key": "a", "operator": "Exists"}]),
        ("spec.topologySpreadConstraints", [{"maxSkew": 1, "topologyKey": "zone"}]),
        ("spec.nodeSelector", {"disk": "ssd"}),
        ("spec.podAnnotations", {"a": "b"}),
        ("spec.podLabels", {"team": "data"}),
        ("spec.priorityClassName", "high"),
        ("spec.paused", True),
    ]
    for path, value in fields:
        body = changed(body, path, value)

    made = namespace.post(body)

    for path, value in fields:
        found = dig(made, *path.split("."))
        if isinstance(value, dict) and isinstance(found, dict):
            assert value.items() <= found.items() or path in ("spec.access.tls", "spec.services"), path
        else:
            assert found == value, path


@pytest.mark.parametrize(("path", "value", "message"), CREATION)
def test_a_manifest_that_makes_no_sense_is_refused_with_advice(
    namespace: Namespace, path: str, value: object, message: str
) -> None:
    assert message in namespace.refusal(changed(plain(), path, value))


@pytest.mark.parametrize(("path", "value", "message"), CHANGES)
def test_a_change_that_cannot_be_is_refused_with_advice(
    namespace: Namespace, path: str, value: object, message: str
) -> None:
    body = changed(changed(plain(), "spec.storage.storageClassName", "fast"), "spec.source.flavor", "MySQL")
    namespace.update(body)

    assert message in namespace.refusal(changed(body, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.replicas", 5),
        ("spec.storage.size", "100Gi"),
        ("spec.storage.retention", {"maxAge": "1d12h", "maxBytes": "49Gi"}),
        ("spec.source.endpoints", [{"host": "other"}, {"host": "fd00::1", "port": 3307}]),
        ("spec.source.tls", {"mode": "Required"}),
        ("spec.paused", True),
        ("spec.image", "kingbus:2"),
    ],
)
def test_what_may_change_can_be_changed(namespace: Namespace, path: str, value: object) -> None:
    namespace.update(plain())

    made = namespace.update(changed(plain(), path, value))

    assert dig(made, "metadata", "generation") == 2


@pytest.mark.parametrize(
    "gtids", [f"{UUID}:1-5", f"{UUID}:1-5:7,\n{UUID}:tag:1-3", UUID.replace("-", "") + ":1", "0-1-5", "0-1-5, 1-2-7"]
)
def test_every_form_of_a_gtid_set_is_taken(namespace: Namespace, gtids: str) -> None:
    namespace.post(changed(plain(), "spec.source.start", {"from": "GtidSet", "gtidSet": gtids}))


def test_kubectl_scale_works_and_obeys_the_rules(namespace: Namespace) -> None:
    namespace.update(plain())
    scale: Json = {"spec": {"replicas": 5}}

    namespace.run(lambda api: api.merge_patch("BinlogCluster", namespace.name, "orders/scale", scale))

    assert dig(namespace.get("BinlogCluster", "orders"), "spec", "replicas") == 5
