"""Looks at a cluster: its objects, pods, volumes, the Secrets that it names, and what its nodes say."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from kingbus_operator.api.quantity import quantity
from kingbus_operator.api.types import Cluster, Json, TlsMode
from kingbus_operator.build.common import ROLE_LABEL, TEMPLATE_ANNOTATION, Certificates, Names, selector
from kingbus_operator.build.statefulset import CONTAINER
from kingbus_operator.kube.client import Api
from kingbus_operator.kube.nodes import NodeError, Nodes, Target
from kingbus_operator.planning.observed import (
    ClaimView,
    ObjectKey,
    Observed,
    PodView,
    SecretProblem,
    dig,
    number,
)

_STUCK = frozenset(
    (
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    )
)


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen, and what the Secrets that the operator made hold."""

    observed: Observed
    certificates: Certificates | None
    token: str | None = field(repr=False)
    targets: Mapping[str, Target]
    """Admin APIs by pod."""


async def observe(api: Api, nodes: Nodes, cluster: Cluster, kinds: frozenset[str], now: datetime) -> Sight:
    """Looks at everything at once. ApiError."""
    names, labels = Names(cluster.name, cluster.namespace), selector(cluster.name)
    bodies, claim_bodies, problems, certificate, parts = await asyncio.gather(
        api.list("Pod", cluster.namespace, labels),
        api.list("PersistentVolumeClaim", cluster.namespace, labels),
        _secret_problems(api, cluster, kinds),
        _source_certificate(api, cluster),
        asyncio.gather(*(_get(api, cluster.namespace, kind, name) for kind, name in _keys(cluster, kinds))),
    )
    objects = {key: body for key, body in parts if body is not None}
    ca, tls = values(objects.get(("Secret", names.ca_secret))), values(objects.get(("Secret", names.tls_secret)))
    # Without the pods' Secret, too: the CA that everybody trusts signs what is made in its place.
    certificates = Certificates(ca, tls) if ca else None
    token = values(objects.get(("Secret", names.admin_secret))).get("token")
    targets = {}
    if certificates is not None and token and "ca.crt" in tls:
        for body in bodies:
            pod, ip = str(dig(body, "metadata", "name")), dig(body, "status", "podIP")
            if ip:
                targets[pod] = Target(str(ip), names.host(pod), tls["ca.crt"], token)
    pods = await asyncio.gather(*(_pod(nodes, cluster, body, targets, now) for body in bodies))
    observed = Observed(
        objects=objects,
        pods=sorted((pod for pod in pods if pod is not None), key=lambda pod: pod.ordinal),
        claims=await _claims(api, cluster, claim_bodies),
        secret_problems=problems,
        optional_kinds=kinds,
        source_certificate=certificate,
    )
    return Sight(observed, certificates, token, targets)


def _keys(cluster: Cluster, kinds: frozenset[str]) -> Iterable[ObjectKey]:
    names = Names(cluster.name, cluster.namespace)
    for kind in ("ServiceAccount", "Role", "RoleBinding", "NetworkPolicy", "PodDisruptionBudget", "StatefulSet"):
        yield kind, names.cluster
    for name in (names.cluster, names.nodes, names.replicas):
        yield "Service", name
    for name in (names.ca_secret, names.tls_secret, names.admin_secret):
        yield "Secret", name
    yield "ConfigMap", names.config
    optional = {"PodMonitor": names.cluster, "PrometheusRule": names.cluster, "Certificate": f"{names.cluster}-access"}
    yield from ((kind, name) for kind, name in optional.items() if kind in kinds)


async def _get(api: Api, namespace: str, kind: str, name: str) -> tuple[ObjectKey, Json | None]:
    return (kind, name), await api.get(kind, namespace, name)


def values(secret: Json | None) -> dict[str, str]:
    """The texts in a Secret."""
    data = secret.get("data") if secret is not None else None
    if not isinstance(data, dict):
        return {}
    return {key: base64.b64decode(value).decode("utf-8", "replace") for key, value in data.items()}


async def _pod(
    nodes: Nodes, cluster: Cluster, body: Json, targets: Mapping[str, Target], now: datetime
) -> PodView | None:
    name = str(dig(body, "metadata", "name"))
    ordinal = name.removeprefix(f"{cluster.name}-")
    if not ordinal.isdecimal():
        return None
    pod = pod_view(body, int(ordinal), now)
    target = targets.get(name)
    if target is None:
        return pod
    try:
        return replace(pod, node=await nodes.look(target))
    except NodeError:
        return pod


def pod_view(body: Json, ordinal: int, now: datetime) -> PodView:
    """What a Pod object tells."""
    conditions = dig(body, "status", "conditions")
    by_type = {dig(found, "type"): found for found in conditions} if isinstance(conditions, list) else {}
    ready = by_type.get("Ready")
    since = dig(ready, "lastTransitionTime") or dig(body, "metadata", "creationTimestamp")
    is_ready = dig(ready, "status") == "True"
    return PodView(
        name=str(dig(body, "metadata", "name")),
        ordinal=ordinal,
        uid=str(dig(body, "metadata", "uid")),
        ready=is_ready,
        terminating=dig(body, "metadata", "deletionTimestamp") is not None,
        template=_text(dig(body, "metadata", "annotations", TEMPLATE_ANNOTATION)),
        image=_text(_container(dig(body, "spec", "containers"), "image")),
        role_label=_text(dig(body, "metadata", "labels", ROLE_LABEL)),
        stuck=_stuck(body, by_type),
        unready_seconds=0.0 if is_ready or since is None else (now - _time(str(since))).total_seconds(),
    )


def _stuck(body: Json, conditions: Mapping[object, object]) -> str | None:
    if dig(body, "status", "phase") == "Failed":
        return f"it failed: {dig(body, 'status', 'reason') or dig(body, 'status', 'message') or 'no reason given'}"
    if dig(conditions.get("PodScheduled"), "reason") == "Unschedulable":
        return f"it can't be scheduled: {dig(conditions.get('PodScheduled'), 'message')}"
    state = _container(dig(body, "status", "containerStatuses"), "state")
    reason = dig(state, "waiting", "reason")
    if reason in _STUCK:
        return f"{reason}: {dig(state, 'waiting', 'message') or 'no message'}"
    return None


def _container(containers: object, key: str) -> object:
    if not isinstance(containers, list):
        return None
    return next((dig(found, key) for found in containers if dig(found, "name") == CONTAINER), None)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


async def _claims(api: Api, cluster: Cluster, bodies: list[Json]) -> list[ClaimView]:
    claims = []
    prefix = f"data-{cluster.name}-"
    for body in bodies:
        name = str(dig(body, "metadata", "name"))
        if not name.removeprefix(prefix).isdecimal() or not name.startswith(prefix):
            continue
        requested = str(dig(body, "spec", "resources", "requests", "storage") or "0")
        expandable = None
        if quantity(requested) < quantity(cluster.spec.storage.size):
            expandable = await _expandable(api, dig(body, "spec", "storageClassName"))
        claims.append(
            ClaimView(
                name=name,
                ordinal=number(name.removeprefix(prefix)),
                uid=str(dig(body, "metadata", "uid")),
                requested=requested,
                lost=dig(body, "status", "phase") == "Lost",
                terminating=dig(body, "metadata", "deletionTimestamp") is not None,
                expandable=expandable,
            )
        )
    return claims


async def _expandable(api: Api, storage_class: object) -> bool | None:
    if not storage_class:
        return False
    found = await api.get("StorageClass", None, str(storage_class))
    return None if found is None else dig(found, "allowVolumeExpansion") is True


async def _secret_problems(api: Api, cluster: Cluster, kinds: frozenset[str]) -> list[SecretProblem]:
    """Missing Secrets and keys, each named; values are looked at for being empty only."""
    spec = cluster.spec
    problems = await _check(
        api, cluster, "SourceCredentials", spec.source.credentials_secret_ref.name, ("username", "password")
    )
    if spec.source.tls.secret_ref is not None:
        verifies = spec.source.tls.mode in (TlsMode.VERIFY_CA, TlsMode.VERIFY_IDENTITY)
        keys = ("ca.crt",) if verifies else ()
        problems += await _check(api, cluster, "SourceTls", spec.source.tls.secret_ref.name, keys)
    if spec.access.users_secret_ref is not None:
        problems += await _check(api, cluster, "Users", spec.access.users_secret_ref.name, ())
    if spec.access.tls.secret_ref is not None:
        problems += await _check(api, cluster, "AccessTls", spec.access.tls.secret_ref.name, ("tls.crt", "tls.key"))
    if spec.access.tls.issuer_ref is not None and "Certificate" not in kinds:
        text = "access.tls.issuerRef is set, but cert-manager is not installed: install it, or remove issuerRef"
        problems.append(SecretProblem("CertManagerMissing", text))
    return problems


async def _source_certificate(api: Api, cluster: Cluster) -> bool:
    ref = cluster.spec.source.tls.secret_ref
    found = values(await api.get("Secret", cluster.namespace, ref.name)) if ref is not None else {}
    return bool(found.get("tls.crt") and found.get("tls.key"))


async def _check(api: Api, cluster: Cluster, what: str, name: str, keys: tuple[str, ...]) -> list[SecretProblem]:
    secret = await api.get("Secret", cluster.namespace, name)
    if secret is None:
        needs = f" with the keys {' and '.join(keys)}" if keys else ""
        text = f"Secret {name} does not exist in namespace {cluster.namespace}: create it{needs}"
        return [SecretProblem(f"{what}SecretMissing", text)]
    found = values(secret)
    missing = [key for key in keys if not found.get(key)]
    if missing:
        text = f"Secret {name} has no key {' and no key '.join(missing)}, or it is empty: add it"
        return [SecretProblem(f"{what}KeyMissing", text)]
    return []
