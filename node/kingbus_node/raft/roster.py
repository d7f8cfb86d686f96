"""What this node knows of the members of its cluster: names, addresses, how they are."""

from __future__ import annotations

import time
from collections.abc import Mapping

from kingbus_node.raft.api import MemberStatus
from kingbus_node.raft.configuration import Member, MemberRole
from kingbus_node.raft.core import Raft
from kingbus_node.raft.loop import Loop


class Roster:
    """See the module.

    :param name: this node's, which it says of itself like `info`
    """

    def __init__(self, raft: Raft, loop: Loop, name: str, info: Mapping[str, str]) -> None:
        self._raft = raft
        self._loop = loop
        self._name = name
        self._info = info

    # The loop's lock is not held

    def members(self) -> list[MemberStatus]:
        """See `raft.api.ClusterConsensus.members`."""
        with self._loop.lock:
            return [self._status(member) for member in self._raft.configuration.members]

    def address_of(self, name: str) -> str | None:
        """See `raft.api.ClusterConsensus.address_of`."""
        with self._loop.lock:
            return self.find(name)

    def info_of(self, name: str) -> Mapping[str, str]:
        """See `raft.api.ClusterConsensus.info_of`."""
        with self._loop.lock:
            address = self.find(name)
            if address == self._raft.address:
                return self._info
            greeting = self._loop.greetings.get(address or "")
            return {} if greeting is None else greeting.info

    # The loop's lock is held, or it does not matter

    def find(self, name: str) -> str | None:
        """The address of the member of that name or address. The loop's lock is held."""
        members = self._raft.configuration.members
        found = [m.address for m in members if m.name == name or m.address == name]
        found += [m.address for m in members if self.name_of(m.address) == name]
        return found[0] if found else None

    def name_of(self, address: str) -> str:
        """What the node at an address is called: as it says itself, or as the members know it; else its address."""
        if address == self._raft.address:
            return self._name
        greeting = self._loop.greetings.get(address)
        if greeting is not None:
            return greeting.name
        member = self._raft.configuration.get(address)
        return member.name if member is not None and member.name else address

    def told(self) -> str:
        """The names of all members, for people. The loop's lock is held."""
        return ", ".join(self.name_of(member.address) for member in self._raft.configuration.members)

    def _status(self, member: Member) -> MemberStatus:
        raft, address = self._raft, member.address
        own = address == raft.address
        link = self._loop.links.get(address)
        progress = raft.leadership.progress.get(address) if raft.leadership is not None else None
        traffic = self._loop.traffic(address)
        voter = member.role is MemberRole.VOTER
        return MemberStatus(
            name=self.name_of(address),
            address=address,
            role="learner" if not voter else "witness" if member.priority < 0 else "voter",
            joining=member.role is MemberRole.JOINING,
            priority=member.priority,
            leader=raft.leader == address,
            reachable=own or link is not None,
            match=raft.durable_index if own else progress.match if progress else None,
            term=raft.term if own else None,
            formed=raft.formation.formed if own else progress.formed if progress and progress.incarnation else None,
            round_trip=link.round_trip if link else None,
            contact=max(0.0, time.monotonic() - progress.contact) if progress else None,
            in_flight_bytes=progress.in_flight_bytes if progress else None,
            connections=traffic.connections,
            sent_bytes=traffic.sent,
            received_bytes=traffic.received,
        )
