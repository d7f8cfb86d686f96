"""PodMonitor and PrometheusRule of the Prometheus operator, made only where its CRDs are."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import yaml

from kingbus_operator.api.types import Json
from kingbus_operator.build.common import Inputs, manifest, selector

GROUP = "monitoring.coreos.com"
_ANY_JOB = 'job=~".*"'


def pod_monitor(inputs: Inputs) -> Json:
    """``<name>``: scrapes every pod; the job is named after the cluster."""
    names = inputs.names
    endpoint: Json = {
        "port": "admin",
        "path": "/metrics",
        "scheme": "https",
        "tlsConfig": {
            "ca": {"secret": {"name": names.tls_secret, "key": "ca.crt"}},
            "serverName": f"{names.cluster}.{names.namespace}.svc",
        },
    }
    spec: Json = {
        "jobLabel": "app.kubernetes.io/instance",
        "selector": {"matchLabels": selector(names.cluster)},
        "podMetricsEndpoints": [endpoint],
    }
    return manifest(inputs, f"{GROUP}/v1", "PodMonitor", names.cluster, spec=spec)


def prometheus_rule(inputs: Inputs) -> Json:
    """``<name>``: the alerts, for this cluster alone."""
    names = inputs.names
    ours = f'namespace="{names.namespace}",job="{names.cluster}"'
    document = yaml.safe_load(_alerts().replace(_ANY_JOB, ours))
    groups: list[Json] = document["groups"]
    for group in groups:
        group["name"] = f"{names.namespace}-{names.cluster}-{group['name']}"
    return manifest(inputs, f"{GROUP}/v1", "PrometheusRule", names.cluster, spec={"groups": groups})


@cache
def _alerts() -> str:
    text = files(__package__).joinpath("rules.yaml").read_text(encoding="utf-8")
    return re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
