"""deploy/kustomize and what else is made by scripts/manifests: up to date, safe, with the rights that it takes."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from manifests import Object, containers, find, grants, mapping, mappings, pod_spec, strings, violations

from kingbus_operator.api.types import Cluster
from kingbus_operator.build import certmanager, monitoring
from kingbus_operator.build.common import Certificates, Inputs
from kingbus_operator.build.objects import objects
from kingbus_operator.kube.client import OPTIONAL, PLURALS

ROOT = Path(__file__).parents[3]
KUSTOMIZE = ROOT / "deploy" / "kustomize"
CHART = ROOT / "deploy" / "helm" / "kingbus"


def operator() -> list[Object]:
    return [item for item in yaml.safe_load_all((KUSTOMIZE / "operator.yaml").read_text()) if item]


def test_copies_are_up_to_date() -> None:
    """Those that helm makes are looked at by `make test-deploy`."""
    command = [sys.executable, str(ROOT / "scripts" / "manifests"), "--check", "--no-helm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_kustomization_names_what_is_there() -> None:
    document = yaml.safe_load((KUSTOMIZE / "kustomization.yaml").read_text())
    assert [name for name in document["resources"] if not (KUSTOMIZE / name).is_file()] == []
    files = {str(path.relative_to(KUSTOMIZE)) for path in KUSTOMIZE.rglob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(document["resources"])


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version
    assert yaml.safe_load((KUSTOMIZE / "kustomization.yaml").read_text())["images"][0]["newTag"] == version
    assert f"ARG VERSION={version}\n" in (ROOT / "Dockerfile").read_text()
    (container,) = containers(pod_spec(find(operator(), "Deployment", "kingbus-operator")))
    assert container["image"] == f"kingbus:{version}"


def test_the_operators_pod_fits_the_restricted_standard() -> None:
    assert list(violations(pod_spec(find(operator(), "Deployment", "kingbus-operator")))) == []
    namespace = yaml.safe_load((KUSTOMIZE / "namespace.yaml").read_text())
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_right_is_a_wildcard_or_a_way_to_more() -> None:
    for item in operator():
        for rule in mappings(item.get("rules")):
            words = strings(rule["apiGroups"]) + strings(rule["resources"]) + strings(rule["verbs"])
            assert not {"*", "escalate", "bind", "impersonate", "pods/exec", "nodes"} & set(words), rule


def test_the_operator_may_make_the_role_of_a_clusters_pods() -> None:
    """The API server refuses a Role with rights that its maker lacks."""
    held = grants(mappings(find(operator(), "ClusterRole", "kingbus-operator")["rules"]))
    assert {("", "services", "get"), ("", "services", "patch")} <= held


def test_the_operator_may_make_and_change_whatever_it_builds() -> None:
    """By server-side apply: `create` for what is new, `patch`; `get` to look. Optional objects are taken away too."""
    held = grants(mappings(find(operator(), "ClusterRole", "kingbus-operator")["rules"]))
    body: Object = {
        "metadata": {"namespace": "shop", "name": "orders", "uid": "u"},
        "spec": {
            "source": {"endpoints": [{"host": "db"}], "credentialsSecretRef": {"name": "s"}},
            "access": {"tls": {"issuerRef": {"name": "i"}}},
            "storage": {"size": "10Gi"},
        },
    }
    groups = frozenset({certmanager.GROUP, monitoring.GROUP})
    made = objects(
        Inputs(Cluster.parse(body), "kingbus", 3, 3, Certificates({}, {}), "token", optional_kinds=frozenset(OPTIONAL))
    )
    assert {str(item["kind"]) for item in made} >= {"StatefulSet", "Role", "Secret", "Certificate", "PrometheusRule"}
    for item in made:
        kind, group = str(item["kind"]), str(item["apiVersion"]).rpartition("/")[0]
        verbs = {"get", "create", "patch"} | ({"delete"} if group in groups else set())
        assert {verb for verb in verbs if (group, PLURALS[kind], verb) not in held} == set(), kind


def test_values_and_their_schema_know_the_same_keys() -> None:
    values = mapping(yaml.safe_load((CHART / "values.yaml").read_text()))
    schema = mapping(json.loads((CHART / "values.schema.json").read_text()))
    assert list(_unlike(values, schema, "")) == []


def _unlike(values: Object, schema: Object, path: str) -> list[str]:
    """Keys of one that the other lacks; free maps (labels, a pod's structures) are not compared."""
    known = mapping(schema.get("properties", {}))
    if not known or schema.get("additionalProperties") is not False:
        return []
    found = [f"{path}{key}: only in one" for key in set(values) ^ (set(known) - {"global"})]
    for key in set(values) & set(known):
        if isinstance(values[key], dict):
            found += _unlike(mapping(values[key]), mapping(known[key]), f"{path}{key}.")
    return found
