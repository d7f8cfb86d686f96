"""The StatefulSet. Pods start in parallel (a quorum needs several); who is restarted when is the operator's decision.

The pod fits the ``restricted`` Pod Security Standard. Probes ask for what they are named after: the process lives, or
committed data is served in touch with a quorum. A follower, or a node that catches up, is never killed for that.
"""

from __future__ import annotations

from kingbus_operator.api.types import Json, Reclaim
from kingbus_operator.build.common import (
    ADMIN_PORT,
    CONFIG_ANNOTATION,
    CONFIG_DIR,
    DATA_DIR,
    FOUNDERS_ANNOTATION,
    MYSQL_PORT,
    RAFT_PORT,
    TEMPLATE_ANNOTATION,
    USER_ID,
    Inputs,
    digest,
    labels,
    manifest,
    selector,
)
from kingbus_operator.build.configmap import config_digest, uses_access_certificate

CONTAINER = "kingbus"

_GRACE_SECONDS = 60
_SECRET_MODE = 0o440


def statefulset(inputs: Inputs) -> Json:
    """StatefulSet ``<name>``."""
    spec, names = inputs.cluster.spec, inputs.names
    keep = "Delete" if spec.storage.reclaim is Reclaim.DELETE else "Retain"
    claim: Json = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": inputs.claim_size or spec.storage.size}},
    }
    if spec.storage.storage_class_name is not None:
        claim["storageClassName"] = spec.storage.storage_class_name
    return manifest(
        inputs,
        "apps/v1",
        "StatefulSet",
        inputs.cluster.name,
        annotations={FOUNDERS_ANNOTATION: str(inputs.founders)},
        spec={
            "replicas": inputs.replicas,
            "serviceName": names.nodes,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": keep, "whenScaled": keep},
            "selector": {"matchLabels": selector(inputs.cluster.name)},
            "template": pod_template(inputs),
            "volumeClaimTemplates": [
                {"metadata": {"name": "data", "labels": selector(inputs.cluster.name)}, "spec": claim}
            ],
        },
    )


def pod_template(inputs: Inputs) -> Json:
    """The pod, with a digest of itself as an annotation: a pod that carries another one is to be restarted."""
    spec = inputs.cluster.spec
    annotations = {**(spec.pod_annotations or {}), CONFIG_ANNOTATION: config_digest(inputs)}
    metadata: Json = {"labels": {**(spec.pod_labels or {}), **labels(inputs.cluster.name)}}
    pod = _pod(inputs)
    version = digest([metadata, annotations, pod])
    metadata["annotations"] = {**annotations, TEMPLATE_ANNOTATION: version}
    return {"metadata": metadata, "spec": pod}


def template_version(template: Json) -> str:
    """The digest that ``pod_template`` put in."""
    metadata = template["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata["annotations"][TEMPLATE_ANNOTATION])


def image_of(inputs: Inputs) -> str:
    """The image that pods shall run."""
    return inputs.cluster.spec.image or inputs.image


def _pod(inputs: Inputs) -> Json:
    spec = inputs.cluster.spec
    pod: Json = {
        "serviceAccountName": inputs.cluster.name,
        "automountServiceAccountToken": True,  # the leader points the leader Service at itself
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": spec.affinity or _spread_over_nodes(inputs),
        "containers": [_container(inputs)],
        "volumes": _volumes(inputs),
    }
    optional: Json = {
        "imagePullSecrets": [{"name": secret.name} for secret in spec.image_pull_secrets],
        "nodeSelector": spec.node_selector,
        "tolerations": spec.tolerations,
        "topologySpreadConstraints": _topology_spread(inputs),
        "priorityClassName": spec.priority_class_name,
    }
    return pod | {key: value for key, value in optional.items() if value}


def _container(inputs: Inputs) -> Json:
    spec = inputs.cluster.spec
    container: Json = {
        "name": CONTAINER,
        "image": image_of(inputs),
        "command": ["kingbus"],
        "args": ["node", "--config", f"{CONFIG_DIR}/config/kingbus.yaml"],
        "env": _environment(inputs),
        "ports": [
            {"name": "mysql", "containerPort": MYSQL_PORT, "protocol": "TCP"},
            {"name": "raft", "containerPort": RAFT_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
        # Ten minutes for what a big log needs after a crash: the process answers when the log is open.
        "startupProbe": _probe("/livez", period=2, failures=300, timeout=5),
        "livenessProbe": _probe("/livez", period=10, failures=6, timeout=5),
        "readinessProbe": _probe("/readyz", period=2, failures=2, timeout=2),
        "lifecycle": {"preStop": {"exec": {"command": ["python", "-m", "kingbus_node.kube.prestop"]}}},
        "volumeMounts": _mounts(inputs),
    }
    if spec.image_pull_policy is not None:
        container["imagePullPolicy"] = spec.image_pull_policy
    if spec.resources:
        container["resources"] = spec.resources
    return container


def _probe(path: str, *, period: int, failures: int, timeout: int) -> Json:
    return {
        "httpGet": {"path": path, "port": "admin", "scheme": "HTTPS"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": timeout,
    }


def _environment(inputs: Inputs) -> list[Json]:
    names = inputs.names

    def field(path: str) -> Json:
        return {"valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}

    return [
        {"name": "POD_NAME", **field("metadata.name")},
        {"name": "POD_NAMESPACE", **field("metadata.namespace")},
        {"name": "KINGBUS_NODE__NAME", "value": "$(POD_NAME)"},
        {"name": "KINGBUS_RAFT__ADVERTISE", "value": names.address("$(POD_NAME)")},
        {"name": "KINGBUS_LEADER_SERVICE", "value": inputs.cluster.name},
        # For `kubectl exec ... kingbus status`.
        {"name": "KINGBUS_ADMIN", "value": f"https://localhost:{ADMIN_PORT}"},
        {"name": "KINGBUS_ADMIN_CA_FILE", "value": f"{CONFIG_DIR}/tls/ca.crt"},
        {"name": "KINGBUS_ADMIN_TOKEN_FILE", "value": f"{CONFIG_DIR}/admin/token"},
    ]


def _mounts(inputs: Inputs) -> list[Json]:
    mounts: list[Json] = [{"name": "data", "mountPath": DATA_DIR}, {"name": "tmp", "mountPath": "/tmp"}]
    names = [str(volume["name"]) for volume in _volumes(inputs)]
    mounts += [{"name": name, "mountPath": f"{CONFIG_DIR}/{name}", "readOnly": True} for name in names if name != "tmp"]
    return mounts


def _volumes(inputs: Inputs) -> list[Json]:
    """Folders below ``/etc/kingbus``, named like their volumes. Whole folders: files alone would not follow changes."""
    spec, names = inputs.cluster.spec, inputs.names
    volumes: list[Json] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        {"name": "config", "configMap": {"name": names.config, "defaultMode": _SECRET_MODE}},
        _secret("tls", names.tls_secret),
        _secret("admin", names.admin_secret),
        _secret("source", spec.source.credentials_secret_ref.name),
    ]
    if spec.source.tls.secret_ref is not None:
        volumes.append(_secret("source-tls", spec.source.tls.secret_ref.name))
    if spec.access.users_secret_ref is not None:
        # Without it nobody can log in, which is no reason for not starting: it is followed when it comes.
        volumes.append(_secret("users", spec.access.users_secret_ref.name, optional=True))
    else:
        volumes.append({"name": "users", "emptyDir": {"sizeLimit": "1Mi"}})
    if uses_access_certificate(inputs):
        given = spec.access.tls.secret_ref
        volumes.append(_secret("access-tls", given.name if given is not None else names.access_tls_secret))
    return volumes


def _secret(volume: str, name: str, *, optional: bool = False) -> Json:
    source: Json = {"secretName": name, "defaultMode": _SECRET_MODE}
    return {"name": volume, "secret": source | ({"optional": True} if optional else {})}


def _spread_over_nodes(inputs: Inputs) -> Json:
    term: Json = {
        "labelSelector": {"matchLabels": selector(inputs.cluster.name)},
        "topologyKey": "kubernetes.io/hostname",
    }
    weighted: Json = {"weight": 100, "podAffinityTerm": term}
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [weighted]}}


def _topology_spread(inputs: Inputs) -> list[Json] | None:
    """As given; by default over zones where there are some. The label selector is the cluster's own."""
    ours: Json = {"labelSelector": {"matchLabels": selector(inputs.cluster.name)}}
    given = inputs.cluster.spec.topology_spread_constraints
    if given is None:
        zone: Json = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
        return [zone | ours]
    return [ours | constraint for constraint in given]
