"""What the operator makes of what the API server answers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from datetime import UTC, datetime

from unit.operator.world import NAME, desired

from kingbus_operator.api.types import Json
from kingbus_operator.build.certificates import host_names, renewed
from kingbus_operator.build.common import Names
from kingbus_operator.kube.client import Api
from kingbus_operator.kube.credentials import Credentials
from kingbus_operator.kube.nodes import HttpNodes
from kingbus_operator.shell.observe import Sight, observe

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Objects(Api):
    """An API server that has these objects."""

    def __init__(self, held: Mapping[tuple[str, str], Json]) -> None:
        super().__init__(Credentials("http://nowhere"))
        self.held = held

    async def get(self, kind: str, namespace: str | None, name: str) -> Json | None:  # noqa: ARG002
        return self.held.get((kind, name))

    async def list(
        self,
        kind: str,  # noqa: ARG002
        namespace: str | None,  # noqa: ARG002
        selector: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> list[Json]:
        return []


def look(held: Mapping[tuple[str, str], Json]) -> Sight:
    return asyncio.run(observe(Objects(held), HttpNodes(), desired().cluster, frozenset(), NOW))


def secret(texts: Mapping[str, str]) -> Json:
    return {"data": {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}}


def test_a_deleted_secret_of_the_pods_is_made_again_by_the_same_ca() -> None:
    """Who deletes it wants another certificate, not that no replica can verify the cluster any more."""
    hosts = host_names(Names(NAME, "default"), "cluster.local")
    first = renewed(None, "orders.default", hosts, NOW)
    seen = look({("Secret", f"{NAME}-ca"): secret(first.ca_secret)})

    again = renewed(seen.certificates, "orders.default", hosts, NOW)
    assert again.ca_secret == first.ca_secret
    assert again.tls_secret["ca.crt"] == first.tls_secret["ca.crt"]
    assert again.tls_secret["tls.key"] != first.tls_secret["tls.key"]
