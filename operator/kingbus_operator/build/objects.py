"""All objects of a cluster, in the order in which they are applied: what pods need comes before the StatefulSet."""

from __future__ import annotations

from kingbus_operator.api.types import Json
from kingbus_operator.build import certmanager, monitoring
from kingbus_operator.build.common import Inputs
from kingbus_operator.build.configmap import configmap
from kingbus_operator.build.networkpolicy import network_policy
from kingbus_operator.build.pdb import pod_disruption_budget
from kingbus_operator.build.rbac import role, role_binding, service_account
from kingbus_operator.build.secrets import admin_secret, ca_secret, tls_secret
from kingbus_operator.build.services import leader_service, nodes_service, replicas_service
from kingbus_operator.build.statefulset import statefulset


def objects(inputs: Inputs) -> list[Json]:
    """The manifests. Those of optional APIs only where the API server has them."""
    made = [
        service_account(inputs),
        role(inputs),
        role_binding(inputs),
        ca_secret(inputs),
        tls_secret(inputs),
        admin_secret(inputs),
        configmap(inputs),
        nodes_service(inputs),
        leader_service(inputs),
        replicas_service(inputs),
        network_policy(inputs),
        pod_disruption_budget(inputs),
    ]
    spec = inputs.cluster.spec
    if spec.access.tls.issuer_ref is not None and "Certificate" in inputs.optional_kinds:
        made.append(certmanager.certificate(inputs))
    made.append(statefulset(inputs))
    if spec.monitoring.pod_monitor and "PodMonitor" in inputs.optional_kinds:
        made.append(monitoring.pod_monitor(inputs))
    if spec.monitoring.prometheus_rule and "PrometheusRule" in inputs.optional_kinds:
        made.append(monitoring.prometheus_rule(inputs))
    return made
