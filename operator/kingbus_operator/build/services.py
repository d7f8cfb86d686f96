"""The three Services: the leader's, that of all ready pods, and the headless one that gives pods their names."""

from __future__ import annotations

from kingbus_operator.api.types import Json, ServiceTemplate, ServiceType
from kingbus_operator.build.common import ADMIN_PORT, MYSQL_PORT, RAFT_PORT, Inputs, manifest, selector

_MYSQL: Json = {"name": "mysql", "port": MYSQL_PORT, "targetPort": "mysql", "protocol": "TCP"}


def leader_service(inputs: Inputs) -> Json:
    """``<name>``. Its selector and its term are not here: they belong to the elected node, which sets them itself.

    Until the first election it selects nothing (a Service without a selector has no endpoints).
    """
    template = inputs.cluster.spec.services.leader
    return _published(inputs, inputs.cluster.name, template, {})


def replicas_service(inputs: Inputs) -> Json:
    """``<name>-replicas``: every ready pod."""
    template = inputs.cluster.spec.services.replicas
    return _published(inputs, inputs.names.replicas, template, {"selector": selector(inputs.cluster.name)})


def nodes_service(inputs: Inputs) -> Json:
    """``<name>-nodes``: a name for each pod, ready or not, because nodes must find one another to become ready."""
    ports: list[Json] = [
        {"name": "raft", "port": RAFT_PORT, "targetPort": "raft", "protocol": "TCP"},
        _MYSQL,
        {"name": "admin", "port": ADMIN_PORT, "targetPort": "admin", "protocol": "TCP"},
    ]
    spec: Json = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": selector(inputs.cluster.name),
        "ports": ports,
    }
    return manifest(inputs, "v1", "Service", inputs.names.nodes, spec=spec)


def _published(inputs: Inputs, name: str, template: ServiceTemplate, extra: Json) -> Json:
    spec: Json = {"type": template.type.value, "ports": [_MYSQL], **extra}
    if template.type is not ServiceType.CLUSTER_IP:
        spec["externalTrafficPolicy"] = "Cluster"
    return manifest(inputs, "v1", "Service", name, annotations=template.annotations, spec=spec)
