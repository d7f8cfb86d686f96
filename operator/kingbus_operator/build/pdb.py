"""The PodDisruptionBudget: node drains and evictions leave a quorum."""

from __future__ import annotations

from kingbus_operator.api.types import Json
from kingbus_operator.build.common import Inputs, manifest, selector


def pod_disruption_budget(inputs: Inputs) -> Json:
    """``<name>``: a minority may be away at once. A cluster of one may be moved: forbidding that would block drains."""
    spec: Json = {
        "maxUnavailable": max(1, (inputs.replicas - 1) // 2),
        "selector": {"matchLabels": selector(inputs.cluster.name)},
    }
    return manifest(inputs, "policy/v1", "PodDisruptionBudget", inputs.cluster.name, spec=spec)
