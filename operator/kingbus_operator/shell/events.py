"""Events for ``kubectl describe``."""

from __future__ import annotations

import secrets
from datetime import datetime

from kingbus_operator.api import API_VERSION, KIND
from kingbus_operator.api.types import Cluster, Json
from kingbus_operator.build.common import MANAGER
from kingbus_operator.planning.status import Note


def event(cluster: Cluster, note: Note, now: datetime, instance: str) -> Json:
    """A core/v1 Event. Messages are cut at 1024 bytes, the API server's limit."""
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{cluster.name}.{secrets.token_hex(8)}", "namespace": cluster.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": cluster.namespace,
            "name": cluster.name,
            "uid": cluster.uid,
        },
        "type": note.type,
        "reason": note.reason,
        "message": note.message.encode()[:1000].decode("utf-8", "ignore"),
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "reportingInstance": instance,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
