"""What is built: a configuration that nodes accept, pods that harm nobody, Services that find them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from unit.operator.world import desired

from kingbus_node.config import Config, parse
from kingbus_operator.api.types import Json
from kingbus_operator.build.common import Inputs
from kingbus_operator.build.configmap import FILE, config_digest
from kingbus_operator.build.objects import objects
from kingbus_operator.build.statefulset import pod_template, template_version
from kingbus_operator.kube.client import OPTIONAL
from kingbus_operator.planning.difference import differs, stamped
from kingbus_operator.planning.observed import dig

ROOT = Path(__file__).parents[3]


def inputs(**changes: object) -> Inputs:
    wanted = desired(replicas=3)
    spec = wanted.cluster.spec
    body = spec.model_dump(by_alias=True, exclude_none=True, mode="json")
    for path, value in changes.items():
        *sections, last = path.split("__")
        section = body
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    cluster = replace(wanted.cluster, spec=type(spec).model_validate(body))
    return Inputs(cluster, "kingbus:1", 3, cluster.spec.replicas, wanted.certificates, "token")


def made(given: Inputs, kind: str, name: str = "orders") -> Json:
    """One of the objects."""
    return next(m for m in objects(given) if m["kind"] == kind and dig(m, "metadata", "name") == name)


def node_config(given: Inputs, pod: str = "orders-1") -> Config:
    """What the node makes of its file and environment. Fails if it would not start."""
    text = str(dig(made(given, "ConfigMap", "orders-config"), "data", FILE))
    environment = {}
    for variable in dig(made(given, "StatefulSet"), "spec", "template", "spec", "containers", 0, "env"):  # type: ignore[attr-defined]
        environment[variable["name"]] = str(variable.get("value", pod)).replace("$(POD_NAME)", pod)
    return parse(yaml.safe_load(text), Path("/etc/kingbus/config"), environment)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"source__flavor": "MariaDB", "source__start": {"from": "GtidSet", "gtidSet": "0-1-5"}},
        {"source__tls": {"mode": "VerifyIdentity", "secretRef": {"name": "ca"}}},
        {"source__endpoints": [{"host": "fd00::1"}, {"host": "b", "port": 3307}]},
        {"source__compression": ["zstd", "zlib", "uncompressed"]},
        {"source__semiSync": False, "access__tls": {"require": True, "secretRef": {"name": "mine"}}},
        {"storage__size": "1Gi", "storage__retention": {"maxAge": "1d12h", "keepForReplicas": False}},
        {"storage__size": "1.5Ti", "storage__retention": {"maxBytes": "1000G"}},
    ],
)
def test_a_node_accepts_its_configuration(changes: dict[str, object]) -> None:
    config = node_config(inputs(**changes))

    assert config.node.name == "orders-1"
    assert str(config.raft.advertise) == "orders-1.orders-nodes.default.svc:7401"
    assert len(config.raft.peers) == 3
    assert config.raft.tls.ca is not None
    assert config.admin.token_file == Path("/etc/kingbus/admin/token")


def test_a_certificate_for_the_source_is_shown_if_there_is_one() -> None:
    given = inputs(source__tls={"mode": "Required", "secretRef": {"name": "mine"}})
    assert node_config(given).source.tls.cert is None
    assert node_config(replace(given, source_certificate=True)).source.tls.cert is not None


def test_compression_toward_the_source_is_none_unless_asked_for() -> None:
    assert node_config(inputs()).source.compression == ("uncompressed",)
    assert node_config(inputs(source__compression=["zstd", "zlib"])).source.compression == ("zstd", "zlib")


def test_a_pod_that_comes_later_accepts_it_too() -> None:
    assert node_config(inputs(), "orders-4").raft.join


def test_every_file_of_the_configuration_is_mounted() -> None:
    given = inputs(source__tls={"mode": "VerifyCA", "secretRef": {"name": "ca"}}, access__usersSecretRef={"name": "u"})
    config = node_config(given)
    container = dig(made(given, "StatefulSet"), "spec", "template", "spec", "containers", 0)
    mounts = [Path(mount["mountPath"]) for mount in dig(container, "volumeMounts")]  # type: ignore[attr-defined]
    for file in (config.serve.users_file, config.source.user_file, config.source.tls.ca, config.raft.tls.key):
        assert file is not None
        assert any(file.is_relative_to(mount) for mount in mounts), file


def test_the_retention_leaves_a_fifth_of_the_volume_by_default() -> None:
    config = node_config(inputs(storage__size="100Gi"))
    assert config.storage.retention.max_bytes == 80 * 1024**3
    assert config.storage.min_free_bytes == 5 * 1024**3


def test_no_secret_is_shown_as_it_is() -> None:
    for manifest in objects(replace(inputs(), admin_token="token-value")):
        assert "token-value" not in str(manifest)


def test_what_the_log_holds_restarts_nothing_and_other_settings_do() -> None:
    before = inputs()
    for name, value in (
        ("endpoints", [{"host": "other"}]),
        ("semiSync", False),
        ("compression", ["zlib"]),
        ("tls", {"mode": "Required"}),
    ):
        assert config_digest(inputs(**{f"source__{name}": value})) == config_digest(before), name
    verify = {"mode": "VerifyCA", "secretRef": {"name": "ca"}}
    for changes in ({"source__tls": verify}, {"storage__retention": {"maxAge": "1d"}}):
        assert config_digest(inputs(**changes)) != config_digest(before), changes


def test_the_template_says_which_version_it_is() -> None:
    one, two = pod_template(inputs()), pod_template(inputs(image="kingbus:2"))
    assert template_version(one) != template_version(two)
    assert template_version(one) == template_version(pod_template(inputs()))


def test_the_number_of_pods_does_not_change_the_template() -> None:
    assert template_version(pod_template(inputs())) == template_version(pod_template(replace(inputs(), replicas=5)))


def test_probes_never_ask_for_leadership_and_liveness_never_for_a_quorum() -> None:
    container = dig(pod_template(inputs()), "spec", "containers", 0)
    assert dig(container, "livenessProbe", "httpGet", "path") == "/livez"
    assert dig(container, "startupProbe", "httpGet", "path") == "/livez"
    assert dig(container, "readinessProbe", "httpGet", "path") == "/readyz"


def test_pods_are_restarted_by_the_operator_only_and_start_together() -> None:
    spec = made(inputs(), "StatefulSet")["spec"]
    assert dig(spec, "updateStrategy", "type") == "OnDelete"
    assert dig(spec, "podManagementPolicy") == "Parallel"


@pytest.mark.parametrize(("reclaim", "policy"), [("Retain", "Retain"), ("Delete", "Delete")])
def test_volumes_stay_or_go_as_asked(reclaim: str, policy: str) -> None:
    kept = dig(made(inputs(storage__reclaim=reclaim), "StatefulSet"), "spec", "persistentVolumeClaimRetentionPolicy")
    assert kept == {"whenDeleted": policy, "whenScaled": policy}


@pytest.mark.parametrize(("replicas", "away"), [(1, 1), (3, 1), (5, 2), (7, 3)])
def test_drains_leave_a_majority(replicas: int, away: int) -> None:
    budget = made(replace(inputs(), replicas=replicas), "PodDisruptionBudget")
    assert dig(budget, "spec", "maxUnavailable") == away


def test_the_leader_service_leaves_its_selector_to_the_leader() -> None:
    assert "selector" not in dict(made(inputs(), "Service")["spec"])  # type: ignore[call-overload]
    ready = made(inputs(), "Service", "orders-replicas")
    assert dig(ready, "spec", "selector", "app.kubernetes.io/instance") == "orders"
    assert dig(made(inputs(), "Service", "orders-nodes"), "spec", "publishNotReadyAddresses") is True


def test_services_are_published_as_asked() -> None:
    given = inputs(services={"leader": {"type": "LoadBalancer", "annotations": {"a": "b"}}})
    service = made(given, "Service")
    assert dig(service, "spec", "type") == "LoadBalancer"
    assert dig(service, "metadata", "annotations") == {"a": "b"}


def test_a_pod_may_touch_its_own_leader_service_only() -> None:
    rule: Json = {
        "apiGroups": [""],
        "resources": ["services"],
        "resourceNames": ["orders"],
        "verbs": ["get", "patch"],
    }
    assert made(inputs(), "Role")["rules"] == [rule]


def test_raft_is_for_the_clusters_own_pods() -> None:
    raft, others = made(inputs(), "NetworkPolicy")["spec"]["ingress"]  # type: ignore[index]
    assert raft["ports"] == [{"protocol": "TCP", "port": "raft"}]
    assert "from" in raft
    assert {port["port"] for port in others["ports"]} == {"mysql", "admin"}


def test_what_the_user_wants_of_pods_reaches_them() -> None:
    wanted: dict[str, object] = {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "priorityClassName": "high",
        "resources": {"limits": {"memory": "1Gi"}},
        "podLabels": {"team": "data"},
        "podAnnotations": {"note": "x"},
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "imagePullPolicy": "Never",
        "imagePullSecrets": [{"name": "pull"}],
    }
    template = pod_template(inputs(**wanted))
    spec = template["spec"]
    for key in ("nodeSelector", "tolerations", "priorityClassName", "affinity", "imagePullSecrets"):
        assert dig(spec, key) == wanted[key], key
    assert dig(spec, "containers", 0, "resources") == wanted["resources"]
    assert dig(spec, "containers", 0, "imagePullPolicy") == "Never"
    assert dig(template, "metadata", "labels", "team") == "data"
    assert dig(template, "metadata", "annotations", "note") == "x"
    spread = dig(spec, "topologySpreadConstraints", 0)
    assert dig(spread, "maxSkew") == 2
    assert dig(spread, "labelSelector", "matchLabels", "app.kubernetes.io/instance") == "orders"


def test_objects_of_optional_apis_are_made_only_where_they_are() -> None:
    plain = {m["kind"] for m in objects(inputs())}
    assert not plain & {"PodMonitor", "PrometheusRule", "Certificate"}
    kinds = frozenset(OPTIONAL)
    given = replace(inputs(access__tls={"issuerRef": {"name": "i"}}), optional_kinds=kinds)
    assert {m["kind"] for m in objects(given)} - plain == {"PodMonitor", "PrometheusRule", "Certificate"}
    silent = replace(inputs(monitoring={"podMonitor": False, "prometheusRule": False}), optional_kinds=kinds)
    assert {m["kind"] for m in objects(silent)} == plain
    for kind in ("PodMonitor", "PrometheusRule"):
        assert {m["kind"] for m in objects(replace(inputs(), optional_kinds=frozenset((kind,))))} - plain == {kind}


def test_alerts_are_those_of_the_deployment_for_this_cluster_alone() -> None:
    given = replace(inputs(), optional_kinds=frozenset(OPTIONAL))
    rules = str(made(given, "PrometheusRule")["spec"])
    assert 'namespace="default",job="orders"' in rules
    assert 'job=~".*"' not in rules
    ours = ROOT / "operator" / "kingbus_operator" / "build" / "rules.yaml"
    assert ours.read_text() == (ROOT / "deploy" / "monitoring" / "rules.yaml").read_text(), "run scripts/manifests"


def test_all_names_start_with_the_clusters_and_all_objects_go_with_it() -> None:
    for manifest in objects(inputs()):
        assert str(dig(manifest, "metadata", "name")).startswith("orders")
        assert dig(manifest, "metadata", "ownerReferences", 0, "uid") == "uid-of-cluster"
        assert dig(manifest, "metadata", "labels", "app.kubernetes.io/instance") == "orders"


def test_a_manifest_is_found_in_what_the_server_made_of_it() -> None:
    spec: Json = {"size": "1024Mi", "off": False, "none": {}, "list": [{"a": 1}]}
    wanted = stamped({"metadata": {"name": "a"}, "spec": spec})
    found: Json = {"size": "1Gi", "list": [{"a": 1, "defaulted": True}], "defaulted": 5}
    live = {**wanted, "spec": found}
    assert not differs(wanted, live)
    assert differs(wanted, None)
    others: list[Json] = [{"size": "2Gi"}, {"list": []}, {"off": True}, {"none": {"x": 1}}]
    for other in others:
        assert differs(wanted, {**live, "spec": {**found, **other}}), other


def test_a_field_that_is_not_wanted_any_more_makes_a_difference() -> None:
    before = stamped({"metadata": {"name": "a"}, "spec": {"x": 1, "y": 2}})
    assert differs(stamped({"metadata": {"name": "a"}, "spec": {"x": 1}}), before)
