"""The chart, by helm itself: `make test-deploy` builds helm first where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from manifests import containers, find, grants, mapping, mappings, metadata, pod_spec, strings, violations
from tools import helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "kingbus"
EVERYTHING = (
    "watchNamespaces={shop,test}", "metrics.podMonitor=true", "metrics.prometheusRule=true", "metrics.labels.release=x",
    "replicas=1", "exampleCluster.create=true", "podLabels.team=data", "podAnnotations.note=x",
    "image.pullSecrets={pull}",
    "nodeSelector.disk=ssd", "priorityClassName=high", "serviceAccount.annotations.a=b", "extraArgs={--verbose}",
)  # fmt: skip


def settings(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]


def test_lint_finds_nothing_with_any_values() -> None:
    for values in ((), EVERYTHING):
        done = helm.run("lint", "--strict", CHART, *settings(*values))
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_rendered_from_the_chart_is_up_to_date() -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "manifests", "--check"], check=True)


def test_pods_fit_the_restricted_standard_whatever_is_chosen() -> None:
    for values in ((), EVERYTHING):
        objects = helm.template(CHART, *settings(*values))
        specs = [pod_spec(item) for item in objects if item["kind"] in ("Deployment", "Pod")]
        assert len(specs) == 2
        assert [problem for spec in specs for problem in violations(spec)] == []


def test_watched_namespaces_get_roles_and_no_right_reaches_further() -> None:
    objects = helm.template(CHART, *settings("watchNamespaces={shop,test}"))
    roles = [item for item in objects if item["kind"] == "Role"]
    places = sorted(str(metadata(item)["namespace"]) for item in roles)
    assert places == ["kingbus-system", "shop", "test"]
    (bound,) = [item for item in objects if item["kind"] == "ClusterRoleBinding"]
    assert mapping(bound["roleRef"])["name"] == "kingbus-operator-storage"
    everywhere = grants(mappings(find(objects, "ClusterRole", "kingbus-operator-storage")["rules"]))
    assert {resource for _, resource, _ in everywhere} == {"storageclasses"}
    assert {verb for _, _, verb in everywhere} == {"get"}


def test_the_roles_of_namespaces_are_the_cluster_role() -> None:
    narrow = find(helm.template(CHART, *settings("watchNamespaces={shop}")), "Role", "kingbus-operator")
    wide = find(helm.template(CHART), "ClusterRole", "kingbus-operator")
    assert narrow["rules"] == wide["rules"]


def test_nothing_is_bound_when_rbac_is_the_users_own() -> None:
    objects = helm.template(CHART, *settings("rbac.create=false", "rbac.aggregate=false"))
    assert not [item for item in objects if "Role" in str(item["kind"])]


def test_the_image_of_the_operator_is_that_of_its_clusters() -> None:
    digest = "sha256:" + "0" * 64
    for values, wanted in (
        (("image.repository=r.example/k",), "r.example/k:0.1.0"),
        (("image.tag=v7",), "kingbus:v7"),
        ((f"image.digest={digest}",), f"kingbus@{digest}"),
    ):
        objects = helm.template(CHART, *settings(*values))
        (container,) = containers(pod_spec(find(objects, "Deployment", "kingbus-operator")))
        assert container["image"] == wanted
        assert {"name": "KINGBUS_OPERATOR_IMAGE", "value": wanted} in mappings(container["env"])


def test_the_alerts_of_the_operator_are_those_that_are_tested() -> None:
    made = find(helm.template(CHART, *settings("metrics.prometheusRule=true")), "PrometheusRule", "kingbus-operator")
    assert made["spec"] == yaml.safe_load((ROOT / "deploy/monitoring/operator-rules.yaml").read_text())


class _Operator(BaseHTTPRequestHandler):
    """Answers as the operator does."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path in ("/healthz", "/readyz", "/metrics") else 404)
        self.end_headers()
        self.wfile.write(b"kingbus_operator_is_leader 1.0\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        pass


def test_helm_test_asks_the_operator_what_it_answers() -> None:
    pod = find(helm.template(CHART), "Pod", "kingbus-operator-test")
    (container,) = containers(pod_spec(pod))
    program, option, code = strings(container["command"])
    assert (program, option) == ("python", "-c")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Operator) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = code.replace("kingbus-operator.kingbus-system.svc:8081", f"127.0.0.1:{server.server_address[1]}")
        assert here != code
        done = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, timeout=60, check=False)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["/healthz", "ok", "/readyz", "ok", "/metrics", "ok"]


def test_names_follow_the_release() -> None:
    done = helm.run("template", "binlogs", CHART)
    names = {item["metadata"]["name"] for item in yaml.safe_load_all(done.stdout) if item}
    assert all(name.startswith("binlogs-kingbus-operator") for name in names)


@pytest.mark.parametrize(
    ("values", "about"),
    [
        ("replicas=0", "replicas"),
        ("replica=1", "replica"),
        ("log.level=loud", "level"),
        ("watchNamespaces={Shop}", "watchNamespaces"),
        ("image.digest=latest", "digest"),
        ("exampleCluster.name=Orders", "name"),
        ("serviceAccount.create=false", "serviceAccount.name is needed"),
    ],
)
def test_values_that_cannot_be_right_are_refused(values: str, about: str) -> None:
    done = helm.run("template", "kingbus", CHART, *settings(values))
    assert done.returncode != 0
    assert about in done.stderr


def test_the_defaults_satisfy_their_own_schema_and_it_is_a_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    assert helm.run("lint", CHART).returncode == 0
