"""How a node takes part in its cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kingbus_node.config import Address, RaftSettings
from kingbus_node.raft.journal import DEFAULT_MIN_FREE

DEFAULT_IN_FLIGHT = 64 << 20


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Mutual TLS between nodes, files in PEM. They are read again when they change."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What a node is told about its cluster.

    :param listen: where peers connect; port 0: any free one
    :param address: how peers reach this node, ``host:port``: its name in Raft. Empty: what `listen` came out as
    :param founders: addresses of the first members, this node's own among them; empty: this node alone. They count only
        until the cluster has formed: from then on the log knows the members
    :param priority: leadership drifts to the healthy voter with the highest; negative: a witness, never preferred
    :param election_timeout: seconds; it is the least, and grows with the measured round trip
    :param info: what peers should know of this node (the address of its admin API, say); short, and no secrets
    :param min_free_bytes: with less free space on its disk a node does not lead and takes no entries
    :param append_bytes: the most that one message carries, unless a single entry is larger
    :param window_bytes: the most that is on its way to one follower: bandwidth times round trip, plus what a sync takes
    :param max_in_flight: bytes that are proposed and not committed, beyond which `propose` blocks
    :param copy_rate: bytes in a second that a node sends of its segments to one that copies them, 0 for any number
    :param copy_behind: a node without a log copies segments when the leader has committed that many entries at least
    :param slow_sync: seconds after which a leader whose disk does not finish a sync hands over
    """

    listen: Address = field(default_factory=lambda: Address("127.0.0.1", 0))
    address: str = ""
    founders: tuple[str, ...] = ()
    priority: int = 0
    election_timeout: float = 1.0
    tls: TlsFiles | None = None
    info: Mapping[str, str] = field(default_factory=dict)
    min_free_bytes: int = DEFAULT_MIN_FREE
    append_bytes: int = 1 << 20
    window_bytes: int = 32 << 20
    max_in_flight: int = DEFAULT_IN_FLIGHT
    slow_sync: float = 5.0
    copy_rate: int = 200 << 20
    copy_behind: int = 1000

    @classmethod
    def of(
        cls, raft: RaftSettings, *, info: Mapping[str, str] | None = None, min_free_bytes: int = DEFAULT_MIN_FREE
    ) -> ClusterOptions:
        """Those of a node's configuration."""
        tls = raft.tls
        files = TlsFiles(tls.ca, tls.cert, tls.key) if tls.ca and tls.cert and tls.key else None
        advertise = raft.advertise or (raft.listen if raft.listen.port else None)
        return cls(
            listen=raft.listen,
            address="" if advertise is None else str(advertise),
            founders=tuple(str(peer) for peer in raft.peers),
            priority=raft.priority,
            election_timeout=raft.election_timeout,
            tls=files,
            info=info or {},
            min_free_bytes=min_free_bytes,
            copy_rate=raft.copy_rate,
        )
