"""Carries out one action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from kingbus_operator.api.types import Cluster, Json
from kingbus_operator.build.common import POD_NAME_LABEL, ROLE_LABEL, TERM_ANNOTATION, Names
from kingbus_operator.kube.client import Api, ApiError
from kingbus_operator.kube.nodes import NodeError, Nodes, Target
from kingbus_operator.planning.actions import (
    Action,
    AddMember,
    Apply,
    DeleteObject,
    ExpandVolume,
    LabelPod,
    PointLeaderService,
    RemoveMember,
    ReplaceVolume,
    RestartPod,
    SetSource,
    SwitchSource,
    TransferLeadership,
)
from kingbus_operator.planning.status import Note

LEADER_MANAGER = "kingbus-leader"
"""The field manager of the leader Service's selector and term, whoever sets them."""


class Actor:
    """Carries out actions on one cluster. `leader`: the pod that orders go to."""

    def __init__(
        self, api: Api, nodes: Nodes, cluster: Cluster, targets: Mapping[str, Target], leader: str | None
    ) -> None:
        self._api = api
        self._nodes = nodes
        self._cluster = cluster
        self._targets = targets
        self._leader = leader

    async def act(self, action: Action) -> Note | None:
        """Does it; the Event that tells of it, if people should know. ApiError, NodeError."""
        namespace = self._cluster.namespace
        match action:
            case Apply(manifest):
                await self._api.apply(manifest)
            case DeleteObject(_, kind, name, uid):
                await self._api.delete(kind, namespace, name, uid)
            case LabelPod(pod, uid, role):
                patch: Json = {"metadata": {"uid": uid, "labels": {ROLE_LABEL: role}}}
                await self._api.merge_patch("Pod", namespace, pod, patch)
            case PointLeaderService(pod, term, version):
                await self._point(pod, term, version)
                return Note("Normal", "LeaderServiceRepaired", f"Service {self._cluster.name} now selects {pod}")
            case AddMember(pod, address):
                await self._nodes.add_member(self._target(), pod, address)
                return Note("Normal", "MemberAdded", f"{pod} receives the log, and votes when it has caught up")
            case RemoveMember(pod):
                await self._nodes.remove_member(self._target(), self._address(pod))
                return Note("Normal", "MemberRemoved", f"{pod} is not a member any more")
            case TransferLeadership(leader, to, reason):
                await self._nodes.transfer(self._target(), self._address(to))
                return Note("Normal", "LeadershipTransferred", f"from {leader} to {to}: {reason}")
            case RestartPod(pod, uid, reason, useless):
                await self._restart(pod, uid, useless=useless)
                return Note("Normal", "PodRestarted", f"{pod}: {reason}")
            case ReplaceVolume(pod, pod_uid, claim, claim_uid):
                await self._api.delete("PersistentVolumeClaim", namespace, claim, claim_uid)
                if pod_uid is not None:
                    await self._api.delete("Pod", namespace, pod, pod_uid)
                return Note("Warning", "VolumeReplaced", f"{claim} was lost: {pod} begins anew and copies the log")
            case ExpandVolume(claim, size):
                bigger: Json = {"spec": {"resources": {"requests": {"storage": size}}}}
                await self._api.merge_patch("PersistentVolumeClaim", namespace, claim, bigger)
                return Note("Normal", "VolumeExpanded", f"{claim} grows to {size}")
            case SetSource(changes):
                await self._nodes.set_source(self._target(), changes)
                return Note("Normal", "SourceChanged", f"other settings: {', '.join(sorted(changes))}")
            case SwitchSource(endpoints):
                await self._nodes.switch_source(self._target(), endpoints)
                return Note("Normal", "SourceSwitched", f"reading from {', '.join(endpoints)}")
            case _:
                assert_never(action)
        return None

    def _address(self, pod: str) -> str:
        return Names(self._cluster.name, self._cluster.namespace).address(pod)

    def _target(self) -> Target:
        target = self._targets.get(self._leader or "")
        if target is None:
            raise NodeError("there is no leader to give the order to")
        return target

    async def _restart(self, pod: str, uid: str, *, useless: bool) -> None:
        namespace = self._cluster.namespace
        if useless:
            await self._api.delete("Pod", namespace, pod, uid)
            return
        eviction: Json = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        try:
            await self._api.create(eviction, "eviction", pod)
        except ApiError as error:
            if error.status != 404:  # it is gone: what was wanted
                raise

    async def _point(self, pod: str, term: int, version: str) -> None:
        name = self._cluster.name
        patch: list[Json] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": f"/metadata/annotations/{TERM_ANNOTATION.replace('/', '~1')}", "value": str(term)},
            {"op": "add", "path": "/spec/selector", "value": {POD_NAME_LABEL: pod}},
        ]
        await self._api.json_patch("Service", self._cluster.namespace, name, patch, manager=LEADER_MANAGER)
