"""What the operator can do to a cluster. A plan is a list of these, in order."""

from __future__ import annotations

from dataclasses import dataclass, field

from kingbus_operator.api.types import Json


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of a manifest. It may be a Secret, so it is not shown in logs."""

    manifest: Json = field(repr=False)

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def name(self) -> str:
        metadata = self.manifest["metadata"]
        assert isinstance(metadata, dict)
        return str(metadata["name"])


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """Delete an optional object that is not wanted any more."""

    api_version: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class LabelPod:
    """Set the role label of a pod; None takes it off."""

    pod: str
    uid: str
    role: str | None


@dataclass(frozen=True, slots=True)
class PointLeaderService:
    """What the elected node does itself, repaired: selector and term, unless somebody was faster."""

    pod: str
    term: int
    resource_version: str


@dataclass(frozen=True, slots=True)
class AddMember:
    """A pod that runs becomes a member: it receives the log first, and votes when it has caught up."""

    pod: str
    address: str


@dataclass(frozen=True, slots=True)
class RemoveMember:
    """A pod that is to go is taken out of the cluster first."""

    pod: str


@dataclass(frozen=True, slots=True)
class TransferLeadership:
    """Hand the leadership over, because the leader's pod is next."""

    leader: str
    to: str
    reason: str


@dataclass(frozen=True, slots=True)
class RestartPod:
    """Take a pod away so that the StatefulSet makes it again.

    An eviction, which respects the PodDisruptionBudget, so that it does not coincide with the drain of a node; for a
    pod that is `useless` as it is, and whose absence harms nothing, the budget does not count.
    """

    pod: str
    uid: str
    reason: str
    useless: bool = False


@dataclass(frozen=True, slots=True)
class ReplaceVolume:
    """Delete a claim whose volume is lost, and its pod, so that both are made again, empty."""

    pod: str
    pod_uid: str | None
    claim: str
    claim_uid: str


@dataclass(frozen=True, slots=True)
class ExpandVolume:
    """Ask for a bigger volume."""

    claim: str
    size: str


@dataclass(frozen=True, slots=True)
class SwitchSource:
    """Tell the leader to read from other addresses, if that loses nothing."""

    endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetSource:
    """Tell the leader other settings of the source; those that the cluster's log holds."""

    changes: Json


Action = (
    Apply
    | DeleteObject
    | LabelPod
    | PointLeaderService
    | AddMember
    | RemoveMember
    | TransferLeadership
    | RestartPod
    | ReplaceVolume
    | ExpandVolume
    | SwitchSource
    | SetSource
)

DISRUPTIVE = (RemoveMember, TransferLeadership, RestartPod, ReplaceVolume)
"""What takes something away for a while. A plan has at most one of them."""
