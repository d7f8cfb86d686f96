"""What a replica is not sent: groups that it has, and events that it did not ask for.

A filter looks at one block after the other and says which of its events to leave out, and which invented events to put
between the others. A dump that needs none has no filter: its blocks go out as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from kingbus_node.serve.blockview import BlockView, Bools
from kingbus_node.wire.errors import MySQLError


@dataclass(slots=True)
class Plan:
    """What to do with a block.

    keep: for each event whether to send it. carried: whether to send what the block holds of an earlier event.
    inserts: (row, event) in order: put this invented event before event `row`; a row that is the number of events: at
    the end of the block. refusal: (row, error): stop before event `row`; a text is to be given with that event's
    coordinates. stop: the stream ends before this event, as the client asked.
    """

    keep: Bools
    carried: bool
    inserts: list[tuple[int, bytes]] = field(default_factory=list)
    refusal: tuple[int, MySQLError | str] | None = None
    stop: int | None = None

    @property
    def sends_all(self) -> bool:
        """The block goes out as it is: the plan says nothing."""
        return (
            self.carried and not self.inserts and self.refusal is None and self.stop is None and bool(self.keep.all())
        )


class Filter(Protocol):
    """Decides for one dump. Blocks are shown in order, each once."""

    @property
    def done(self) -> bool:
        """Everything that comes is to be sent as it is: the filter may be dropped."""
        ...

    @property
    def clears_created(self) -> bool:
        """Whether FORMAT_DESCRIPTION events go out with a creation time of 0 now.

        With a creation time, a replica takes the source for restarted and drops its temporary tables; it must not when
        it has transactions from behind that event already.
        """
        ...

    def start_file(self) -> None:
        """The next block begins a source file."""
        ...

    def plan(self, view: BlockView) -> Plan | None:
        """What to do with a block; None: send all of it."""
        ...

    def at_end(self) -> bytes | None:
        """There is nothing more to send for now: an event that tells the replica how far it is, if it cannot know."""
        ...

    def overdue(self) -> bytes | None:
        """The client has got nothing for a heartbeat period: the same while there is more to skip."""
        ...
