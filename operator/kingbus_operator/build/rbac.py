"""What a pod may do in the API: read and change its own cluster's leader Service, by name, and nothing else."""

from __future__ import annotations

from kingbus_operator.api.types import Json
from kingbus_operator.build.common import Inputs, manifest

_GROUP = "rbac.authorization.k8s.io"


def service_account(inputs: Inputs) -> Json:
    """ServiceAccount ``<name>``."""
    return manifest(inputs, "v1", "ServiceAccount", inputs.cluster.name, automountServiceAccountToken=False)


def role(inputs: Inputs) -> Json:
    """Role ``<name>``."""
    rule: Json = {
        "apiGroups": [""],
        "resources": ["services"],
        "resourceNames": [inputs.cluster.name],
        "verbs": ["get", "patch"],
    }
    return manifest(inputs, f"{_GROUP}/v1", "Role", inputs.cluster.name, rules=[rule])


def role_binding(inputs: Inputs) -> Json:
    """RoleBinding ``<name>``."""
    name, namespace = inputs.cluster.name, inputs.cluster.namespace
    return manifest(
        inputs,
        f"{_GROUP}/v1",
        "RoleBinding",
        name,
        roleRef={"apiGroup": _GROUP, "kind": "Role", "name": name},
        subjects=[{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    )
