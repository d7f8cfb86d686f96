"""The timing and the sizes of a node's Raft."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Settings:
    """Can be changed while running: the owner scales the timeouts with the measured round trip.

    :param election_timeout: seconds without a leader after which a node asks for an election: between one and two of
        it, at random
    :param heartbeats: heartbeats in an election timeout
    :param append_bytes: the most that one message carries, unless a single entry is larger
    :param window_bytes: the most that is on its way to one follower: at least the bandwidth-delay product plus what a
        sync takes in
    :param priority_patience: election timeouts that a better placed node must have kept up before leadership drifts
        to it
    """

    election_timeout: float = 1.0
    heartbeats: int = 8
    append_bytes: int = 1 << 20
    window_bytes: int = 32 << 20
    priority_patience: int = 5

    @property
    def heartbeat_interval(self) -> float:
        """Seconds between a leader's heartbeats."""
        return self.election_timeout / self.heartbeats
