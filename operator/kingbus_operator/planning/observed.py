"""What there is: a cluster's objects, pods, volumes, and what its nodes say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kingbus_operator.api.types import Cluster, Json
from kingbus_operator.build.common import Certificates

ObjectKey = tuple[str, str]
"""Kind and name, in the cluster's namespace."""


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member of the Raft cluster, as a node sees it."""

    name: str
    role: str
    connected: bool
    index: int | None = None


@dataclass(frozen=True, slots=True)
class SourceView:
    """The link to the source, as the leader sees it."""

    endpoint: str | None = None
    state: str = "connecting"
    error: str | None = None
    semi_sync: bool | None = None
    lag_seconds: float | None = None
    configured: tuple[str, ...] | None = None
    """The addresses that the cluster's log holds; None: not known."""
    settings: Mapping[str, object] | None = None
    """The other settings that the log holds, as ``GET /v1/source`` shows them; None: not known."""
    missing: str | None = None
    """GTIDs that the source lacks, when it was refused for that."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """What a node says of itself and of the cluster (``GET /v1/status``)."""

    role: str
    term: int
    leader: str | None
    quorum: bool
    ready: bool = False
    reasons: tuple[str, ...] = ()
    members: tuple[MemberView, ...] = ()
    source: SourceView = SourceView()
    executed: str = ""
    purged: str = ""
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod of the StatefulSet."""

    name: str
    ordinal: int
    uid: str
    ready: bool = False
    terminating: bool = False
    template: str | None = None
    """The version of the pod template that it was made from."""
    image: str | None = None
    role_label: str | None = None
    stuck: str | None = None
    """Why its container can't start or keeps crashing; None when it runs or is on its way."""
    unready_seconds: float = 0.0
    node: NodeView | None = None
    """What its node says; None: it does not answer."""


@dataclass(frozen=True, slots=True)
class ClaimView:
    """A PersistentVolumeClaim of the StatefulSet."""

    name: str
    ordinal: int
    uid: str
    requested: str
    lost: bool = False
    terminating: bool = False
    expandable: bool | None = None
    """Whether its class allows to expand it; None: not known."""


@dataclass(frozen=True, slots=True)
class SecretProblem:
    """A Secret that the user names is missing or lacks a key."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Observed:
    """All that was seen, at about one time."""

    objects: Mapping[ObjectKey, Json] = field(default_factory=dict)
    pods: Sequence[PodView] = ()
    claims: Sequence[ClaimView] = ()
    secret_problems: Sequence[SecretProblem] = ()
    optional_kinds: frozenset[str] = frozenset()
    source_certificate: bool = False
    """Whether the Secret of ``source.tls`` has tls.crt and tls.key."""

    @property
    def statefulset(self) -> Json | None:
        return next((found for (kind, _), found in self.objects.items() if kind == "StatefulSet"), None)

    def pod(self, name: str) -> PodView | None:
        return next((pod for pod in self.pods if pod.name == name), None)


@dataclass(frozen=True, slots=True)
class Desired:
    """What is wanted: the cluster's spec, and what the operator adds to it."""

    cluster: Cluster
    image: str
    certificates: Certificates
    admin_token: str = field(repr=False)
    cluster_domain: str = "cluster.local"


def dig(body: object, *path: str | int) -> object:
    """A value deep in JSON, None where the path ends."""
    for key in path:
        if isinstance(key, str) and isinstance(body, Mapping):
            body = body.get(key)
        elif isinstance(key, int) and isinstance(body, list) and key < len(body):
            body = body[key]
        else:
            return None
    return body


def number(value: object, default: int = 0) -> int:
    """A whole number that may come as text (in annotations)."""
    try:
        return int(str(value))
    except ValueError:
        return default
