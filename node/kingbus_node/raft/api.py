"""The interface between consensus and the rest of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from kingbus_node.store.entry import Entry

CommitListener = Callable[[int], None]


class ConsensusError(Exception):
    """The base of what a consensus raises."""


class NotLeaderError(ConsensusError):
    """This node may not propose. `leader` is the name of the node that may, None while there is none."""

    def __init__(self, leader: str | None) -> None:
        self.leader = leader
        super().__init__("this node is not the leader; " + ("there is none now" if leader is None else f"{leader} is"))


class ConsensusClosedError(ConsensusError):
    """The consensus was closed."""


class ConsensusFailedError(ConsensusError):
    """The log failed (`__cause__` says how): nothing more is committed here until the log is opened again."""


class DeadlineError(ConsensusError):
    """What was asked for did not happen by the deadline. It may still happen."""


@dataclass(frozen=True, slots=True)
class Leadership:
    """This node leads.

    :param term: Raft's term
    :param ready: the first entry of this term is committed and readable here, and so is everything before it: from now
        on the node knows all that was ever committed
    """

    term: int
    ready: bool


MemberKind = Literal["voter", "learner", "witness"]
LeadershipListener = Callable[[Leadership | None], None]
ContactListener = Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far a copy of the log is, in bytes.

    :param peer: the address that it comes from
    :param total_bytes: 0 as long as the peer has not said it
    """

    peer: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member of the cluster as this node sees it; what only the leader knows is None elsewhere.

    :param name: the node's name; its address as long as nobody has heard its name
    :param address: ``host:port`` that it advertises to its peers
    :param role: a voter; a learner, which has the log and no vote; a witness: a voter that is never preferred as leader
    :param joining: a learner that becomes a voter as soon as it has caught up
    :param priority: leadership drifts to the healthy voter with the highest
    :param leader: leads, as far as this node knows
    :param reachable: there is a connection to it (of the node itself: True)
    :param match: the last entry that is known to be on its disk
    :param term: the latest term, of the node itself only
    :param formed: its disk belongs to the cluster; False for a new or lost disk
    :param round_trip: seconds to it and back, measured on the connection
    :param contact: seconds since the leader sent what the member answered last
    :param in_flight_bytes: bytes of entries that were sent to it and not answered
    :param connections: how many connections to it there have been, for good or not
    :param sent_bytes, received_bytes: on all connections to it
    """

    name: str
    address: str
    role: MemberKind
    joining: bool
    priority: int
    leader: bool
    reachable: bool
    match: int | None = None
    term: int | None = None
    formed: bool | None = None
    round_trip: float | None = None
    contact: float | None = None
    in_flight_bytes: int | None = None
    connections: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


class Consensus(Protocol):
    """What commits entries. All methods may be called from any thread, except where it says otherwise."""

    def propose(self, entries: Sequence[Entry]) -> int:
        """Puts entries, in order, behind everything proposed before, and gives the index that the last of them will
        have.

        Returns before they are durable or committed. Blocks while too many bytes are in flight, so a slow disk or
        quorum slows the source down instead of filling the memory. Payloads must not change before they are committed.
        NotLeaderError, ConsensusClosedError, ConsensusFailedError; then none of the entries is taken. An entry that was
        taken can still be lost with the leadership: ask `wait_committed` or a listener before promising anything.
        """

    @property
    def commit_index(self) -> int:
        """The last committed entry."""

    @property
    def last_index(self) -> int:
        """The last proposed entry."""

    def wait_committed(self, index: int, deadline: float) -> bool:
        """Waits until entry `index` is committed; False when `deadline` (a `time.monotonic` value) comes first.

        NotLeaderError when this node has lost the leadership under which the entry was proposed, ConsensusClosedError,
        ConsensusFailedError.
        """

    def add_commit_listener(self, listener: CommitListener) -> None:
        """Calls ``listener(commit_index)`` after each advance, when readers can see it already.

        It is called in the consensus' own thread, must be quick, must not raise and must not wait for consensus.
        """

    @property
    def failure(self) -> Exception | None:
        """Why nothing is committed any more, None while all is well."""

    @property
    def is_leader(self) -> bool:
        """Whether `propose` works here."""

    @property
    def term(self) -> int:
        """Raft's current term."""

    @property
    def leader(self) -> str | None:
        """The name of the leader, None while there is none."""

    def close(self) -> None:
        """Commits what was proposed, if it can, and stops. The log stays open: it belongs to the caller."""


class ClusterConsensus(Consensus, Protocol):
    """Consensus among the nodes of a cluster, one included. All methods may be called from any thread, but not from
    listeners unless it says so; listeners are called in consensus' own thread, must be quick and must not raise.
    """

    @property
    def name(self) -> str:
        """This node's."""

    @property
    def address(self) -> str:
        """What this node advertises to its peers."""

    def propose(self, entries: Sequence[Entry], *, term: int | None = None) -> int:
        """See `Consensus.propose`. With a `term`: only as its leader, else NotLeaderError and nothing is taken. Who
        proposes entries that belong behind others must say so: those may have been lost with an earlier leadership.
        """

    def wait_readable(self, index: int, deadline: float) -> bool:
        """Waits until readers of this node can see entry `index`, which another node says to be committed; False when
        `deadline` comes first. Unlike `wait_committed` it is not about what this node has proposed itself: that may
        have been another entry at the same place, lost with its leadership. ConsensusClosedError, ConsensusFailedError.
        """

    @property
    def known_commit_index(self) -> int:
        """The last entry that may be committed as far as this node has heard: of a follower, what the leader has told;
        of a leader, the first entry of its term until that is committed. Not below ``commit_index``.
        """

    def add_leadership_listener(self, listener: LeadershipListener) -> None:
        """Calls ``listener(leadership)`` now and after each change; None: this node does not lead."""

    @property
    def in_touch(self) -> bool:
        """Whether this node was in touch with a majority within the last election timeout: as the leader, heard by it;
        as a follower, by hearing from the leader."""

    @property
    def contact(self) -> float:
        """When it was last (a `time.monotonic` value); minus infinity for never. Any thread, listeners too."""

    def add_contact_listener(self, listener: ContactListener) -> None:
        """Calls ``listener(in_touch)`` now and after each change."""

    @property
    def suspended(self) -> str | None:
        """Why this node would not lead (its disk is full or hangs, it is being stopped), None while all is well."""

    def suspend(self, reason: str | None) -> None:
        """With a `reason` this node hands over when it leads, and does not lead again until told None. What it finds
        out by itself (a full disk, a hanging one) it does and undoes by itself."""

    @property
    def copying(self) -> CopyProgress | None:
        """How far this node is with copying the log from another one; None when it does not do so."""

    def members(self) -> list[MemberStatus]:
        """The members, sorted by address, learners included."""

    def add_member(
        self, name: str, address: str, *, role: MemberKind = "voter", priority: int = 0, deadline: float
    ) -> None:
        """Takes in a node, and returns when that is committed. A voter is a learner first, and votes by itself when it
        has caught up (`MemberStatus.joining`). The node's own configured name and priority count once it has connected.

        NotLeaderError; ChangeRefusedError (`raft.errors`): it is a member already; DeadlineError, when that came first:
        the change may still be made.
        """

    def remove_member(self, name: str, deadline: float) -> None:
        """Removes the member of that name or address, and returns when that is committed. The leader may be removed: it
        hands over then. Errors as `add_member`; ChangeRefusedError for one that is no member, or the last voter."""

    def transfer(self, name: str | None, deadline: float) -> str:
        """Hands leadership to the member of that name or address (None: to the voter that is best placed), and returns
        the name of the leader that came of it. NotLeaderError, ChangeRefusedError, DeadlineError."""

    @property
    def leader_address(self) -> str | None:
        """The address of the leader, None while there is none."""

    def address_of(self, name: str) -> str | None:
        """The address of the member of that name, None for a name that is not known."""

    def info_of(self, name: str) -> Mapping[str, str]:
        """What the member of that name (or address) told of itself when it connected last, see `ClusterOptions.info`;
        empty as long as nothing was heard of it."""
