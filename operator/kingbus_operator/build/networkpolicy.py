"""The NetworkPolicy: Raft is for the cluster's own pods; replicas, probes, scrapers, the operator come from anywhere.

The admin port stays open because whoever scrapes metrics can't be known here; all but health and metrics needs a token.
"""

from __future__ import annotations

from kingbus_operator.api.types import Json
from kingbus_operator.build.common import Inputs, manifest, selector


def network_policy(inputs: Inputs) -> Json:
    """``<name>``."""
    own: Json = {"podSelector": {"matchLabels": selector(inputs.cluster.name)}}
    anybody: list[Json] = [{"protocol": "TCP", "port": "mysql"}, {"protocol": "TCP", "port": "admin"}]
    spec: Json = {
        "podSelector": {"matchLabels": selector(inputs.cluster.name)},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [own], "ports": [{"protocol": "TCP", "port": "raft"}]}, {"ports": anybody}],
    }
    return manifest(inputs, "networking.k8s.io/v1", "NetworkPolicy", inputs.cluster.name, spec=spec)
