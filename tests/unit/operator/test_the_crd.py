"""The CustomResourceDefinition comes from the model, and is what the API server takes for a structural schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from kingbus_operator.api.crd import definition, text
from kingbus_operator.api.types import Cluster, Json, Spec, StartFrom

ROOT = Path(__file__).parents[3]


def _nodes(schema: object, path: str = "") -> Iterator[tuple[str, Json]]:
    if isinstance(schema, dict):
        if isinstance(schema.get("type"), str):
            yield path, schema
        for key in ("properties", "items", "additionalProperties"):
            inner = schema.get(key)
            if key == "properties" and isinstance(inner, dict):
                for name, value in inner.items():
                    yield from _nodes(value, f"{path}.{name}")
            else:
                yield from _nodes(inner, f"{path}[]")


def _schema() -> Json:
    spec = definition()["spec"]
    assert isinstance(spec, dict)
    schema: Json = spec["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def test_the_file_in_crds_is_what_the_model_says() -> None:
    assert (ROOT / "crds" / "binlogclusters.yaml").read_text() == text(), "run `make crds`"


def test_the_text_is_the_definition() -> None:
    assert yaml.safe_load(text()) == definition()


def test_every_field_is_described_and_has_only_structural_keywords() -> None:
    allowed = {
        "type",
        "format",
        "pattern",
        "enum",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
    }
    allowed |= {"maxProperties", "properties", "required", "items", "additionalProperties", "default", "description"}
    allowed |= {"x-kubernetes-validations", "x-kubernetes-preserve-unknown-fields"}
    allowed |= {"x-kubernetes-list-type", "x-kubernetes-list-map-keys"}
    for path, schema in _nodes(_schema()):
        assert set(schema) <= allowed, path
        if path.count(".") > 1 and not path.endswith("[]"):
            assert schema.get("description"), path


def test_every_rule_tells_what_to_do() -> None:
    rules = [rule for _, schema in _nodes(_schema()) for rule in schema.get("x-kubernetes-validations", [])]  # type: ignore[attr-defined]
    assert len(rules) >= 15
    for rule in rules:
        assert len(rule["message"]) > 40, rule
        assert "\n" not in rule["message"]


def test_sections_with_defaults_have_a_default_so_that_the_server_fills_them_in() -> None:
    nodes = dict(_nodes(_schema()))
    for path in ("access", "access.tls", "source.tls", "source.start", "storage.retention", "services.leader"):
        assert nodes[f".spec.{path}"]["default"], path
    assert nodes[".spec.replicas"]["default"] == 3
    assert nodes[".spec.source.start"]["default"] == {"from": "Earliest"}
    assert nodes[".spec.source.tls.mode"]["enum"] == ["Disabled", "Preferred", "Required", "VerifyCA", "VerifyIdentity"]


def test_the_manifest_of_the_interface_is_read() -> None:
    spec = Spec.model_validate(
        {
            "replicas": 3,
            "source": {
                "endpoints": [{"host": "mysql-0.mysql", "port": 3306}],
                "credentialsSecretRef": {"name": "orders-source"},
                "tls": {"mode": "Preferred"},
                "start": {"from": "Earliest"},
            },
            "access": {"usersSecretRef": {"name": "orders-replicas"}},
            "storage": {"size": "50Gi", "retention": {"maxAge": "7d", "maxBytes": "40Gi"}, "reclaim": "Retain"},
            "services": {"leader": {"type": "ClusterIP", "annotations": {}}},
            "topologySpreadConstraints": [{"maxSkew": 1}],
        }
    )
    assert spec.source.endpoints[0].host == "mysql-0.mysql"
    assert spec.source.start.from_ is StartFrom.EARLIEST
    assert spec.monitoring.pod_monitor


def test_a_body_that_no_crd_checked_is_refused() -> None:
    with pytest.raises(ValidationError):
        Cluster.parse({"metadata": {"namespace": "a", "name": "b"}, "spec": {"replicas": 3}})
