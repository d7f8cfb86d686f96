"""The Certificate of cert-manager, when the cluster names an issuer."""

from __future__ import annotations

from kingbus_operator.api.types import Json
from kingbus_operator.build.certificates import host_names
from kingbus_operator.build.common import Inputs, manifest

GROUP = "cert-manager.io"


def certificate(inputs: Inputs) -> Json:
    """``<name>-access``: what replicas see. Raft and the admin API keep the operator's own CA."""
    issuer = inputs.cluster.spec.access.tls.issuer_ref
    assert issuer is not None
    names = inputs.names
    spec: Json = {
        "secretName": names.access_tls_secret,
        "dnsNames": list(host_names(names, inputs.cluster_domain)),
        "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": issuer.group},
        "usages": ["server auth"],
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
    }
    return manifest(inputs, f"{GROUP}/v1", "Certificate", f"{names.cluster}-access", spec=spec)
