"""The CustomResourceDefinition, generated from the model.

``python -m kingbus_operator.api.crd`` prints it; ``make crds`` writes ``crds/binlogclusters.yaml``, and a test sees to
it that both are equal.

The schema is structural (Kubernetes documentation, "Specifying a structural schema"): pydantic's JSON Schema without
references, titles and nulls. Sections with defaults inside have a default themselves, so that the API server fills
them in. It is written out in full because rules are checked against defaults as they stand.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kingbus_operator.api import GROUP, KIND, PLURAL, VERSION
from kingbus_operator.api.types import NAME_RULES, Json, Model, Rule, Spec, Status

_COLUMNS = (
    ("Ready", "string", ".status.ready", "Ready pods of the wanted number", 0),
    ("Leader", "string", ".status.leader", "The leader's pod", 0),
    ("Source", "string", ".status.source.state", "The link to the source", 0),
    ("Lag", "number", ".status.source.lagSeconds", "Seconds behind the source", 0),
    ("Replicas", "integer", ".status.connectedReplicas", "Connected replicas", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Since creation", 0),
    ("Endpoint", "string", ".status.source.endpoint", "The source's address", 1),
    ("Image", "string", ".status.currentImage", "The image that the pods run", 1),
    ("Phase", "string", ".status.phase", "In a word", 1),
)
_KEPT = ("type", "format", "pattern", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")


def definition() -> Json:
    """The whole CustomResourceDefinition."""
    columns = []
    for name, kind, path, description, priority in _COLUMNS:
        column: Json = {"name": name, "type": kind, "jsonPath": path, "description": description}
        columns.append(column | ({"priority": priority} if priority else {}))
    schema: Json = {
        "type": "object",
        "description": "A Raft cluster of binlog servers: a replica to one source, a source to many replicas.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of this schema."},
            "kind": {"type": "string", "description": "The kind of the object."},
            "metadata": {"type": "object"},
            "spec": schema_of(Spec),
            "status": schema_of(Status),
        },
        "x-kubernetes-validations": [_rule(rule) for rule in NAME_RULES],
    }
    version: Json = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": columns,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "kingbus", "app.kubernetes.io/component": "operator"},
        },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["blc"],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def schema_of(model: type[BaseModel]) -> Json:
    """The structural schema of a model: fields with their descriptions, defaults and limits, and its rules."""
    document = model.model_json_schema(by_alias=True)
    return _object(model, document, document.get("$defs", {}))


def _object(model: type[BaseModel], schema: Json, definitions: Mapping[str, Json]) -> Json:
    properties: Json = {}
    given = schema["properties"]
    assert isinstance(given, dict)
    for name, field in model.model_fields.items():
        alias = field.alias or name
        properties[alias] = _field(field, given[alias], definitions)
    result: Json = {"type": "object", "properties": properties}
    if schema.get("required"):
        result["required"] = schema["required"]
    rules = model.RULES if issubclass(model, Model) else ()
    if rules:
        result["x-kubernetes-validations"] = [_rule(rule) for rule in rules]
    return result


def _field(field: FieldInfo, schema: Json, definitions: Mapping[str, Json]) -> Json:
    result: Json = {"description": field.description} if field.description else {}
    nested = _nested(field.annotation)
    body = _value(schema, definitions, nested)
    result |= body
    if nested is not None and body["type"] == "object":
        if isinstance(field.default, BaseModel):
            result["default"] = field.default.model_dump(mode="json", by_alias=True, exclude_none=True)
    elif schema.get("default") is not None:
        result["default"] = schema["default"]
    return result


def _value(schema: Json, definitions: Mapping[str, Json], nested: type[BaseModel] | None) -> Json:
    if "anyOf" in schema:  # something or null: null is the same as absent here
        options = schema["anyOf"]
        assert isinstance(options, list)
        (only,) = [option for option in options if option.get("type") != "null"]
        outer = {k: v for k, v in schema.items() if k not in ("anyOf", "default", "title", "description")}
        return _value({**only, **outer}, definitions, nested)
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = definitions[reference.removeprefix("#/$defs/")]
        if "properties" in target:
            assert nested is not None
            return _object(nested, target, definitions)
        return _value({**target, **{k: v for k, v in schema.items() if k != "$ref"}}, definitions, None)
    result = {key: schema[key] for key in _KEPT if key in schema}
    result |= {key: value for key, value in schema.items() if key.startswith("x-kubernetes-")}
    if schema["type"] == "string" and "const" in schema:
        result["enum"] = [schema["const"]]
    if schema["type"] == "array":
        items = schema["items"]
        assert isinstance(items, dict)
        result["items"] = _value(items, definitions, nested)
    if schema["type"] == "integer":
        result["format"] = "int64"
    if schema["type"] == "object" and not result.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = {"type": "string"}
        if "maxProperties" in schema:
            result["maxProperties"] = schema["maxProperties"]
    return result


def _nested(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _nested(part)) is not None), None)


def _rule(rule: Rule) -> Json:
    made: Json = {"rule": rule.rule, "message": rule.message}
    return made | ({"fieldPath": f".{rule.field}"} if rule.field else {})


def text() -> str:
    """The definition as YAML."""
    head = "# Made by `make crds` from operator/kingbus_operator/api/types.py; do not edit.\n"
    return head + yaml.dump(definition(), Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Without anchors: a list that stands in two places is written twice."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


if __name__ == "__main__":
    sys.stdout.write(text())
