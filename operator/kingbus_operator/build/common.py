"""What all builders share: their inputs, names, labels, and the frame of an object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from kingbus_operator.api import API_VERSION, KIND
from kingbus_operator.api.types import Cluster, Json

MANAGER = "kingbus-operator"
"""The field manager of server-side apply, and the value of app.kubernetes.io/managed-by."""

POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
ROLE_LABEL = "kingbus.io/role"
TERM_ANNOTATION = "kingbus.io/term"
"""On the leader Service: the Raft term of the leader that its selector names."""
FOUNDERS_ANNOTATION = "kingbus.io/founders"
"""On StatefulSet and ConfigMap: how many pods the cluster began with (``raft.peers``), which never changes."""
TEMPLATE_ANNOTATION = "kingbus.io/template"
"""On pods: which version of the pod template they were made from."""
CONFIG_ANNOTATION = "kingbus.io/config"
"""On pods: a digest of the configuration that they were started with."""

MYSQL_PORT = 3306
RAFT_PORT = 7401
ADMIN_PORT = 8080

DATA_DIR = "/var/lib/kingbus"
CONFIG_DIR = "/etc/kingbus"
USER_ID = 10001
"""User and group of the image."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM texts of what the operator's own CA made for a cluster; see ``build/certificates.py``."""

    ca_secret: Mapping[str, str] = field(repr=False)
    tls_secret: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that manifests are made of."""

    cluster: Cluster
    image: str
    """The image when the spec names none."""
    founders: int
    """How many pods the cluster began with."""
    replicas: int
    """How many pods there should be now; on the way from one size to another not ``spec.replicas``."""
    certificates: Certificates
    admin_token: str = field(repr=False)
    claim_size: str | None = None
    """The size in the claim template of the StatefulSet that there is: it cannot be changed there."""
    optional_kinds: frozenset[str] = field(default_factory=frozenset)
    """Kinds that the server has and need not have: objects of these are made only where they are."""
    source_certificate: bool = False
    """Whether the Secret of ``source.tls`` has a certificate for us to show."""
    cluster_domain: str = "cluster.local"

    @property
    def names(self) -> Names:
        return Names(self.cluster.name, self.cluster.namespace)


@dataclass(frozen=True, slots=True)
class Names:
    """Names of the objects of a cluster; they all start with the cluster's."""

    cluster: str
    namespace: str

    @property
    def nodes(self) -> str:
        """The headless Service."""
        return f"{self.cluster}-nodes"

    @property
    def replicas(self) -> str:
        """The Service of all ready pods."""
        return f"{self.cluster}-replicas"

    @property
    def config(self) -> str:
        return f"{self.cluster}-config"

    @property
    def ca_secret(self) -> str:
        """The CA's private keys; no pod mounts it."""
        return f"{self.cluster}-ca"

    @property
    def tls_secret(self) -> str:
        """ca.crt, tls.crt and tls.key of the pods."""
        return f"{self.cluster}-tls"

    @property
    def access_tls_secret(self) -> str:
        """Where cert-manager puts the certificate that replicas see."""
        return f"{self.cluster}-access-tls"

    @property
    def admin_secret(self) -> str:
        """The token of the admin API."""
        return f"{self.cluster}-admin"

    def pod(self, ordinal: int) -> str:
        return f"{self.cluster}-{ordinal}"

    def claim(self, ordinal: int) -> str:
        """The PersistentVolumeClaim of a pod: claim template, then pod."""
        return f"data-{self.pod(ordinal)}"

    def host(self, pod: str) -> str:
        """The stable DNS name of a pod."""
        return f"{pod}.{self.nodes}.{self.namespace}.svc"

    def address(self, pod: str) -> str:
        """The Raft address of a pod."""
        return f"{self.host(pod)}:{RAFT_PORT}"


def selector(name: str) -> dict[str, str]:
    """Labels that the pods of a cluster have, and nothing else has."""
    return {
        "app.kubernetes.io/name": "kingbus",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": "node",
    }


def labels(name: str) -> dict[str, str]:
    """Kubernetes' recommended labels, on everything."""
    return {**selector(name), "app.kubernetes.io/part-of": "kingbus", "app.kubernetes.io/managed-by": MANAGER}


def manifest(
    inputs: Inputs,
    api_version: str,
    kind: str,
    name: str,
    *,
    annotations: Mapping[str, str] | None = None,
    **body: object,
) -> Json:
    """An object in the cluster's namespace that goes with the cluster (ownerReference)."""
    cluster = inputs.cluster
    metadata: Json = {
        "name": name,
        "namespace": cluster.namespace,
        "labels": labels(cluster.name),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": cluster.name,
                "uid": cluster.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


def digest(value: object) -> str:
    """A short name for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
