"""What can go wrong in Raft, by whose fault it is."""

from __future__ import annotations

from kingbus_node.raft.api import ConsensusError


class RaftError(ConsensusError):
    """Base of the errors of this package."""


class ProtocolError(RaftError):
    """A peer sent what the protocol does not allow. The connection to it is closed."""


class ChangeRefusedError(RaftError):
    """A change of the membership or of the leadership cannot be made now; the text says why."""


class DivergedError(RaftError):
    """The leader's log contradicts entries that this node knows to be committed.

    No fault that Raft tolerates leads here: a disk changed what it held, or two clusters were joined. The node stops.
    """
