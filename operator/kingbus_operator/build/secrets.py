"""The Secrets that the operator makes: the CA, the pods' certificate, the token of the admin API."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from kingbus_operator.api.types import Json
from kingbus_operator.build.common import Inputs, manifest


def ca_secret(inputs: Inputs) -> Json:
    """``<name>-ca``: private keys of the CA. No pod mounts it."""
    return _secret(inputs, inputs.names.ca_secret, "Opaque", inputs.certificates.ca_secret)


def tls_secret(inputs: Inputs) -> Json:
    """``<name>-tls``: the pods' certificate, and ca.crt to verify it with, which is for replicas as well."""
    return _secret(inputs, inputs.names.tls_secret, "kubernetes.io/tls", inputs.certificates.tls_secret)


def admin_secret(inputs: Inputs) -> Json:
    """``<name>-admin``: the bearer token of the admin API."""
    return _secret(inputs, inputs.names.admin_secret, "Opaque", {"token": inputs.admin_token})


def _secret(inputs: Inputs, name: str, kind: str, values: Mapping[str, str]) -> Json:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return manifest(inputs, "v1", "Secret", name, type=kind, data=data)
