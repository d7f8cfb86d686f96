"""Who belongs to the cluster: the members, their roles, and what a majority of them is.

A ``Configuration`` is a value. Changing the cluster makes a new one, which travels in the log as an entry of its own
and is in effect at every node from the moment that it is in that node's log, committed or not (Ongaro, section 4.1).
Only changes that move one voter at a time are made here, so that any majority of the old configuration and any
majority of the new one share a node.

A member is known by its address, the one that it advertises: on Kubernetes the pod's DNS name, which outlives the
pod's IP. Its *incarnation* tells whether the disk behind that address is still the one that the cluster knows: see
``formation``.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from kingbus_node.raft.errors import ChangeRefusedError, ProtocolError

_VERSION = 1
_HEAD = struct.Struct("<BH")
_MEMBER = struct.Struct("<BhQHH")
_MAX_MEMBERS = 1000


class MemberRole(enum.IntEnum):
    """What a member may do."""

    VOTER = 1
    """Votes, and counts towards a commit."""
    LEARNER = 2
    """Receives the log, and neither votes nor counts (section 4.2.1)."""
    JOINING = 3
    """A learner that the leader makes a voter as soon as it has caught up."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the cluster.

    :param address: ``host:port``, unique
    :param role: what it may do
    :param priority: leadership drifts to the reachable voter with the highest; negative: a witness, never preferred
    :param incarnation: the disk that was made a voter, 0 when that was never recorded (the first members)
    :param name: the node's name for people, empty as long as it was never heard
    """

    address: str
    role: MemberRole = MemberRole.VOTER
    priority: int = 0
    incarnation: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The members, sorted by address."""

    members: tuple[Member, ...] = ()
    voters: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Addresses of the members that vote."""

    def __post_init__(self) -> None:
        voters = tuple(m.address for m in self.members if m.role is MemberRole.VOTER)
        object.__setattr__(self, "voters", voters)  # asked for with every message

    @staticmethod
    def of(addresses: Iterable[str]) -> Configuration:
        """A first configuration: every address a voter."""
        return Configuration(tuple(Member(address) for address in sorted(set(addresses))))

    @property
    def quorum(self) -> int:
        """How many voters are a majority."""
        return len(self.voters) // 2 + 1

    def get(self, address: str) -> Member | None:
        """The member at `address`, or None."""
        return next((m for m in self.members if m.address == address), None)

    def is_voter(self, address: str) -> bool:
        """Whether `address` votes."""
        member = self.get(address)
        return member is not None and member.role is MemberRole.VOTER

    def majority(self, values: Sequence[float]) -> float:
        """The greatest value that a majority has reached; `values` holds one for each voter."""
        return sorted(values, reverse=True)[self.quorum - 1]

    def with_member(self, member: Member) -> Configuration:
        """This configuration with `member` added, or put in the place of the one at its address."""
        others = [m for m in self.members if m.address != member.address]
        return Configuration(tuple(sorted([*others, member], key=lambda m: m.address)))

    def with_role(self, address: str, role: MemberRole, incarnation: int) -> Configuration:
        """This configuration with the member at `address` given another role and incarnation."""
        member = self.get(address)
        if member is None:
            raise ChangeRefusedError(f"{address} is not a member of the cluster")
        return self.with_member(replace(member, role=role, incarnation=incarnation))

    def without(self, address: str) -> Configuration:
        """This configuration without the member at `address`."""
        if self.get(address) is None:
            raise ChangeRefusedError(f"{address} is not a member of the cluster")
        rest = Configuration(tuple(m for m in self.members if m.address != address))
        if not rest.voters:
            raise ChangeRefusedError(f"{address} is the last voter of the cluster, which cannot be without one")
        return rest

    def encode(self) -> bytes:
        """Little endian: version u8, count u16, then for each member role u8, priority i16, incarnation u64, two
        lengths u16, address, name.
        """
        out = [_HEAD.pack(_VERSION, len(self.members))]
        for m in self.members:
            address, name = m.address.encode(), m.name.encode()
            out += (_MEMBER.pack(m.role, m.priority, m.incarnation, len(address), len(name)), address, name)
        return b"".join(out)

    @staticmethod
    def decode(data: bytes | memoryview) -> Configuration:
        """The inverse of ``encode``.

        :raises ProtocolError: the bytes are not a configuration
        """
        data = bytes(data)
        try:
            version, count = _HEAD.unpack_from(data)
            if version != _VERSION or count > _MAX_MEMBERS:
                raise ProtocolError(
                    f"a configuration of version {version} with {count} members; this release reads version {_VERSION}"
                )
            at, members = _HEAD.size, []
            for _ in range(count):
                role, priority, incarnation, first, second = _MEMBER.unpack_from(data, at)
                at += _MEMBER.size
                address, name = data[at : at + first], data[at + first : at + first + second]
                at += first + second
                if at > len(data):
                    raise ProtocolError("a configuration ends inside a name")
                members.append(Member(address.decode(), MemberRole(role), priority, incarnation, name.decode()))
        except (struct.error, UnicodeDecodeError, ValueError) as error:
            raise ProtocolError(f"not a configuration: {error}") from error
        if at != len(data):
            raise ProtocolError(f"{len(data) - at} bytes follow a configuration")
        return Configuration(tuple(members))
