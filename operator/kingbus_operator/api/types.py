"""The model of a BinlogCluster: the one source of truth for its fields, defaults, descriptions and rules.

``crds/binlogclusters.yaml`` is generated from here (``api/crd.py``), so what the API server checks and what the
operator reads cannot differ. Names are camelCase in Kubernetes and snake_case here. Descriptions are what
``kubectl explain`` shows. Rules are CEL (Kubernetes documentation, "Common Expression Language"); each message tells
what to do. What a class's own fields can't express stands in its ``RULES``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Json = dict[str, object]
"""Kubernetes' own structures, passed on as they are; the API server checks them in the objects that they end up in."""

SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"
DURATION_PATTERN = r"^([0-9]+(s|m|h|d|w))+$"
HOST_PATTERN = r"^([a-zA-Z0-9_]([-a-zA-Z0-9_.]*[a-zA-Z0-9_])?\.?|[0-9a-fA-F]*:[0-9a-fA-F.]*:[0-9a-fA-F:.]*)$"

_UUID = "[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"
_GTIDS = rf"{_UUID}(\s*:\s*([a-zA-Z_][a-zA-Z0-9_]{{0,31}}|[0-9]+(\s*-\s*[0-9]+)?))+"
_POSITION = "[0-9]+-[0-9]+-[0-9]+"
START_PATTERN = rf"^\s*({_GTIDS}(\s*,\s*{_GTIDS})*|{_POSITION}(\s*,\s*{_POSITION})*)\s*$"
"""A GTID set as MySQL prints it, tags included, or a MariaDB position."""

Size = Annotated[str, Field(pattern=SIZE_PATTERN, max_length=24)]
Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=24)]
Strings = Annotated[dict[str, str], Field(max_length=64)]
Embedded = Annotated[Json, Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule: what must hold, what to tell people when it does not, and the field that it is about."""

    rule: str
    message: str
    field: str | None = None


class Model(BaseModel):
    """Camel-cased, unchangeable; unknown fields are the API server's business (it drops or refuses them)."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")
    RULES: ClassVar[tuple[Rule, ...]] = ()


class SecretRef(Model):
    """A Secret of the cluster's own namespace."""

    name: str = Field(min_length=1, max_length=253, description="Name of the Secret.")


class IssuerRef(Model):
    """An issuer of cert-manager."""

    name: str = Field(min_length=1, max_length=253, description="Name of the Issuer or ClusterIssuer.")
    kind: Literal["Issuer", "ClusterIssuer"] = Field(default="Issuer", description="Issuer or ClusterIssuer.")
    group: str = Field(default="cert-manager.io", max_length=253, description="API group of the issuer.")


class Endpoint(Model):
    """An address of the source."""

    host: str = Field(
        min_length=1, max_length=253, pattern=HOST_PATTERN, description="Host name or IP address, without a port."
    )
    port: int = Field(default=3306, ge=1, le=65535, description="TCP port.")


class TlsMode(StrEnum):
    """The modes of MySQL's ``--ssl-mode``."""

    DISABLED = "Disabled"
    PREFERRED = "Preferred"
    REQUIRED = "Required"
    VERIFY_CA = "VerifyCA"
    VERIFY_IDENTITY = "VerifyIdentity"


class SourceTls(Model):
    """TLS toward the source."""

    RULES = (
        Rule(
            "!(self.mode in ['VerifyCA', 'VerifyIdentity']) || has(self.secretRef)",
            "mode VerifyCA and VerifyIdentity need a CA to verify with: set secretRef to a Secret with the key ca.crt",
            "secretRef",
        ),
        Rule(
            "self.mode != 'Disabled' || !has(self.secretRef)",
            "secretRef is given but mode is Disabled: choose another mode, or remove secretRef",
            "mode",
        ),
    )

    mode: TlsMode = Field(
        default=TlsMode.PREFERRED,
        description="How much TLS is asked for: Disabled, Preferred, Required, VerifyCA or VerifyIdentity, as MySQL's "
        "--ssl-mode.",
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with ca.crt to verify the source, and tls.crt and tls.key to prove who we are; all "
        "optional but for ca.crt where mode verifies.",
    )


class StartFrom(StrEnum):
    """Where an empty log begins."""

    EARLIEST = "Earliest"
    CURRENT = "Current"
    GTID_SET = "GtidSet"


class Start(Model):
    """Where an empty log begins."""

    RULES = (
        Rule(
            "(self.from == 'GtidSet') == has(self.gtidSet)",
            "from GtidSet needs gtidSet, and gtidSet needs from GtidSet: set both, or only from Earliest or Current",
            "gtidSet",
        ),
        Rule(
            f"!has(self.gtidSet) || self.gtidSet.matches(r'{START_PATTERN}')",
            "start.gtidSet is no GTID set: write it as MySQL prints it (uuid:1-5,...), or a position such as 0-1-5",
            "gtidSet",
        ),
    )

    from_: StartFrom = Field(
        default=StartFrom.EARLIEST,
        alias="from",
        description="Earliest: the oldest binlog that the source still has; Current: what it writes from now on; "
        "GtidSet: what is not in gtidSet.",
    )
    gtid_set: str | None = Field(
        default=None,
        min_length=1,
        max_length=65536,
        description="A MySQL GTID set (uuid:1-5,...) or MariaDB GTID position (0-1-5,...); with from GtidSet.",
    )


class Flavor(StrEnum):
    """What kind of server the source is."""

    AUTO = "Auto"
    MYSQL = "MySQL"
    MARIADB = "MariaDB"


class Compression(StrEnum):
    """How the connection to the source may be compressed, by MySQL's names."""

    ZLIB = "zlib"
    ZSTD = "zstd"
    UNCOMPRESSED = "uncompressed"


class Source(Model):
    """The server whose binlog the cluster holds."""

    RULES = (
        Rule(
            "size(self.endpoints) > 0", "source.endpoints is empty: name at least one host of the source", "endpoints"
        ),
        Rule(
            "self.endpoints.all(e, self.endpoints.exists_one(o, o.host == e.host && o.port == e.port))",
            "source.endpoints names the same host and port twice: remove one of them",
            "endpoints",
        ),
        Rule(
            "size(self.compression) > 0",
            "source.compression is empty: name what may be used, or remove it for no compression",
            "compression",
        ),
        Rule(
            "self.compression.all(c, self.compression.exists_one(o, o == c))",
            "source.compression names one of them twice: name each once, the preferred first",
            "compression",
        ),
        Rule(
            "!has(self.start.gtidSet) || self.flavor == 'Auto' || "
            "(self.flavor == 'MySQL') == self.start.gtidSet.contains(':')",
            "source.start.gtidSet is not of source.flavor: write uuid:1-5 for MySQL, 0-1-5 for MariaDB",
            "start",
        ),
        Rule(
            "self.start == oldSelf.start",
            "source.start only says where an empty log begins and cannot change after creation: make a new "
            "BinlogCluster to begin elsewhere",
            "start",
        ),
        Rule(
            "self.flavor == oldSelf.flavor || oldSelf.flavor == 'Auto' || self.flavor == 'Auto'",
            "source.flavor cannot change between MySQL and MariaDB, whose binlogs do not mix: make a new BinlogCluster",
            "flavor",
        ),
    )

    endpoints: list[Endpoint] = Field(
        max_length=16,
        description="Addresses of the source, in order: the next one is tried when one is gone. A changed list moves "
        "the cluster only if the new source holds every transaction that the cluster holds.",
    )
    credentials_secret_ref: SecretRef = Field(
        description="Secret with the keys username and password of the account at the source, which needs REPLICATION "
        "SLAVE and REPLICATION CLIENT. A changed Secret takes effect at the next connection, without a restart."
    )
    tls: SourceTls = Field(default=SourceTls(), description="TLS toward the source.")
    flavor: Flavor = Field(default=Flavor.AUTO, description="Auto (what the server says of itself), MySQL or MariaDB.")
    semi_sync: bool = Field(
        default=True,
        description="Acknowledge transactions to the source, when it has semi-synchronous replication on, once a "
        "majority of disks holds them.",
    )
    server_id: int = Field(
        default=100,
        ge=1,
        le=4294967295,
        description="The cluster's server id as a replica; no other replica of the source may have it.",
    )
    compression: list[Compression] = Field(
        default=[Compression.UNCOMPRESSED],
        max_length=3,
        description="How the connection to the source may be compressed, the preferred first: zstd (MySQL), zlib, "
        "uncompressed. The first that the source offers is used; without uncompressed in the list, a source that "
        "offers none of them is refused.",
    )
    start: Start = Field(default=Start(), description="Where an empty log begins. It cannot change later.")


class AccessTls(Model):
    """The certificate that replicas see."""

    RULES = (
        Rule(
            "!(has(self.secretRef) && has(self.issuerRef))",
            "secretRef and issuerRef exclude each other: keep the Secret with your certificate, or the issuer that "
            "makes one",
            "issuerRef",
        ),
    )

    secret_ref: SecretRef | None = Field(
        default=None, description="Secret of type kubernetes.io/tls with tls.crt and tls.key."
    )
    issuer_ref: IssuerRef | None = Field(default=None, description="Issuer of cert-manager that makes the certificate.")
    require: bool = Field(default=False, description="Refuse replicas that do not use TLS.")


class Access(Model):
    """Who may connect as a replica, and how."""

    users_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with one key per user name, whose value is the password. Without it nobody can connect. A "
        "changed Secret takes effect without a restart and leaves connections alone.",
    )
    tls: AccessTls = Field(
        default=AccessTls(),
        description="The certificate that replicas see; by default one of the operator's own CA, whose ca.crt is in "
        "the Secret <name>-tls.",
    )
    server_id: int = Field(
        default=101, ge=1, le=4294967295, description="The server id that replicas see; different from theirs."
    )


class Retention(Model):
    """When old binlogs go."""

    RULES = (
        Rule(
            "!has(self.maxAge) || self.maxAge.matches('[1-9]')",
            "storage.retention.maxAge is no time at all: set for example 7d, or leave it out",
            "maxAge",
        ),
        Rule(
            "!has(self.maxBytes) || !quantity(self.maxBytes).isLessThan(quantity('256Mi'))",
            "storage.retention.maxBytes is less than two segments of the log: set at least 256Mi",
            "maxBytes",
        ),
    )

    max_age: Duration | None = Field(
        default="7d", description="Older binlogs go: a number with s, m, h, d or w, such as 7d."
    )
    max_bytes: Size | None = Field(
        default=None,
        description="Beyond this size the oldest binlogs go. Default: four fifths of storage.size.",
    )
    keep_for_replicas: bool = Field(
        default=True, description="Keep what a connected replica still needs, while there is room."
    )


class Reclaim(StrEnum):
    """What becomes of volumes that are no longer needed."""

    RETAIN = "Retain"
    DELETE = "Delete"


class Storage(Model):
    """The volume of each pod."""

    RULES = (
        Rule(
            "quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0",
            "storage.size cannot shrink, volumes only grow: keep it, or make a new BinlogCluster with smaller ones",
            "size",
        ),
        Rule(
            "has(self.storageClassName) == has(oldSelf.storageClassName) && "
            "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
            "storage.storageClassName cannot change, volumes stay in their class: put the old value back, or make a "
            "new BinlogCluster in the new class",
            "storageClassName",
        ),
        Rule(
            "!has(self.retention) || !has(self.retention.maxBytes) || "
            "quantity(self.retention.maxBytes).isLessThan(quantity(self.size))",
            "storage.retention.maxBytes must be less than storage.size: lower it (four fifths of the size is a good "
            "value), or make the volume bigger",
            "retention",
        ),
        Rule(
            "!quantity(self.size).isLessThan(quantity('1Gi'))",
            "storage.size is too small for a binlog: set at least 1Gi",
            "size",
        ),
    )

    size: Size = Field(
        description="Size of each pod's volume, such as 50Gi. It can grow where the storage class allows that."
    )
    storage_class_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        description="Class of the volumes. Immutable.",
    )
    retention: Retention = Field(default=Retention(), description="When old binlogs go.")
    reclaim: Reclaim = Field(
        default=Reclaim.RETAIN,
        description="Retain keeps the volumes of a deleted cluster and of removed members, Delete deletes them.",
    )


class ServiceType(StrEnum):
    """How a Service is published."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class ServiceTemplate(Model):
    """How a Service is published."""

    type: ServiceType = Field(default=ServiceType.CLUSTER_IP, description="ClusterIP, NodePort or LoadBalancer.")
    annotations: Strings = Field(default_factory=dict, description="Annotations of the Service.")


class Services(Model):
    """The Services for replicas."""

    leader: ServiceTemplate = Field(default=ServiceTemplate(), description="<name>: the leader.")
    replicas: ServiceTemplate = Field(default=ServiceTemplate(), description="<name>-replicas: every ready pod.")


class Monitoring(Model):
    """Objects of the Prometheus operator, made when its CRDs are there."""

    pod_monitor: bool = Field(default=True, description="Make a PodMonitor.")
    prometheus_rule: bool = Field(default=True, description="Make a PrometheusRule with the alerts.")


class Spec(Model):
    """What is wanted."""

    RULES = (
        Rule(
            "self.replicas in [1, 3, 5, 7]",
            "replicas must be 1, 3, 5 or 7: an even number of members bears no more failures than one less",
            "replicas",
        ),
        Rule(
            "self.source.serverId != self.access.serverId",
            "source.serverId and access.serverId must differ: the first names the cluster to the source, the second to "
            "the replicas",
            "access",
        ),
        Rule(
            "!has(self.podLabels) || self.podLabels.all(k, !k.startsWith('kingbus.io/') && "
            "!k.startsWith('app.kubernetes.io/') && !k.contains('statefulset.kubernetes.io/'))",
            "podLabels may not set labels of kingbus.io, app.kubernetes.io or statefulset.kubernetes.io, which select "
            "the cluster's pods: use names of your own",
            "podLabels",
        ),
    )

    replicas: int = Field(default=3, description="Members of the Raft cluster: 1, 3, 5 or 7.")
    image: str | None = Field(
        default=None, min_length=1, max_length=512, description="Container image; by default the operator's own."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="When the image is pulled; Kubernetes' default when left out."
    )
    image_pull_secrets: list[SecretRef] = Field(
        default_factory=list, max_length=16, description="Secrets to pull the image with."
    )
    source: Source = Field(description="The server whose binlog the cluster holds.")
    access: Access = Field(default=Access(), description="Who may connect as a replica, and how.")
    storage: Storage = Field(description="The volume of each pod.")
    services: Services = Field(default=Services(), description="The Services for replicas.")
    monitoring: Monitoring = Field(default=Monitoring(), description="Objects of the Prometheus operator.")
    resources: Embedded | None = Field(default=None, description="Resource requests and limits of the container.")
    node_selector: Strings | None = Field(default=None, description="Labels of the nodes that pods may run on.")
    affinity: Embedded | None = Field(
        default=None, description="Affinity of the pods; by default they prefer different nodes."
    )
    tolerations: list[Embedded] | None = Field(default=None, max_length=64, description="Tolerations of the pods.")
    topology_spread_constraints: list[Embedded] | None = Field(
        default=None,
        max_length=16,
        description="Spread of the pods. The cluster's label selector is filled in where labelSelector is left out.",
    )
    priority_class_name: str | None = Field(default=None, max_length=253, description="Priority class of the pods.")
    pod_annotations: Strings | None = Field(default=None, description="Further annotations of the pods.")
    pod_labels: Strings | None = Field(default=None, description="Further labels of the pods.")
    paused: bool = Field(
        default=False,
        description="The operator only looks and reports; it changes nothing. The nodes go on, elections included.",
    )


class Condition(Model):
    """Kubernetes' standard condition."""

    type: str = Field(max_length=316, description="Ready, QuorumHealthy, SourceConnected, Progressing or Degraded.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: int | None = Field(
        default=None, description="The generation of the spec that this was said about."
    )
    last_transition_time: str = Field(
        description="When the status last changed.", json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(max_length=1024, description="One word, for programs.")
    message: str = Field(max_length=32768, description="A sentence, for people.")


class SourceStatus(Model):
    """The link to the source, as the leader sees it."""

    endpoint: str | None = Field(default=None, description="The address that the leader is connected to, or tries.")
    state: str | None = Field(default=None, description="Connected, Connecting, Stopped or Refused.")
    semi_sync: bool | None = Field(default=None, description="Whether transactions are acknowledged to the source.")
    lag_seconds: float | None = Field(default=None, description="How far the cluster is behind the source.")


class GtidStatus(Model):
    """GTID sets, shortened when very long."""

    executed: str | None = Field(default=None, description="Transactions that the cluster holds or has held.")
    purged: str | None = Field(default=None, description="Those of them that it does not hold any more.")


class MemberStatus(Model):
    """One member."""

    pod: str = Field(description="Name of the pod.")
    role: str | None = Field(default=None, description="leader, follower, candidate, learner or unknown.")
    ready: bool = Field(default=False, description="Whether the pod is ready.")
    index: int | None = Field(default=None, description="The last entry that is known to be durable there.")


class Status(Model):
    """What is."""

    observed_generation: int | None = Field(
        default=None, description="The generation of the spec that this status is about."
    )
    phase: str | None = Field(default=None, description="Pending, Running, Progressing, Degraded or Paused, in a word.")
    replicas: int | None = Field(default=None, description="Pods that there are.")
    ready_replicas: int | None = Field(default=None, description="Pods that are ready.")
    ready: str | None = Field(default=None, description="Ready pods of the wanted number, such as 3/3.")
    selector: str | None = Field(default=None, description="Label selector of the pods, for the scale subresource.")
    leader: str | None = Field(default=None, description="Name of the leader's pod.")
    term: int | None = Field(default=None, description="Raft's term.")
    current_image: str | None = Field(
        default=None, description="The image that all pods run; during an upgrade the old one."
    )
    source: SourceStatus | None = Field(default=None, description="The link to the source.")
    gtid: GtidStatus | None = Field(default=None, description="GTID sets.")
    connected_replicas: int | None = Field(default=None, description="Replicas that are connected to the cluster.")
    members: list[MemberStatus] | None = Field(default=None, max_length=32, description="The members.")
    conditions: list[Condition] | None = Field(
        default=None,
        max_length=16,
        description="Ready, QuorumHealthy, SourceConnected, Progressing, Degraded.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


@dataclass(frozen=True, slots=True)
class Cluster:
    """A BinlogCluster as the operator works with it."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: Spec

    @classmethod
    def parse(cls, body: Json) -> Cluster:
        """From the object that the API server gave. pydantic.ValidationError when it was never checked by our CRD."""
        metadata = body["metadata"]
        assert isinstance(metadata, dict)
        return cls(
            namespace=str(metadata["namespace"]),
            name=str(metadata["name"]),
            uid=str(metadata.get("uid", "")),
            generation=int(metadata.get("generation", 1)),
            spec=Spec.model_validate(body.get("spec")),
        )


NAME_RULES = (
    Rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 40",
        "metadata.name must be at most 40 lower-case letters, digits and '-', begin with a letter and end with a "
        "letter or digit, because Services and pods are named after it: choose such a name",
    ),
)
