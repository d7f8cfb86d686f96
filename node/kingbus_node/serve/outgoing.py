"""The packets of one dump on their way to the client: numbered, collected, sent in few calls.

Stored packets have no sequence number of their own; each connection numbers them anew, from 1 and modulo 256. For a
block of thousands of packets that is one numpy assignment into the buffer that they were read into.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from kingbus_node.serve.channel import Buffer, Channel
from kingbus_node.wire.packet import frame

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]

_SEQUENCE_AT: Final = 3
_MANY: Final = 64
_SHORT: Final = 16384


@dataclass(frozen=True, slots=True)
class Stored:
    """Parts of a block of the log that are to be sent.

    view, data: the block's bytes, of which `data` may be written to. events: where the packets are that begin an event.
    packets: where the packets are that are sent. begins, ends: the ranges of bytes that are sent, in order; they do not
    overlap.
    """

    view: memoryview
    data: Bytes
    events: Offsets
    packets: Offsets
    begins: list[int]
    ends: list[int]


class Outgoing:
    """Collects what is to be sent, in order, until `flush`. Buffers that were added must not change before that."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._pending: list[Buffer] = []

    def packet(self, payload: Buffer) -> None:
        """Add a packet of our own making (split if it must be)."""
        pieces, self._channel.sequence = frame(payload, self._channel.sequence)
        self._pending += pieces

    def event(self, event: bytes) -> None:
        """Add an event of our own making."""
        self.packet(b"\0" + event)

    def number(self, data: Bytes, packets: Offsets) -> None:
        """Give the packets whose headers begin at `packets` in `data` the next sequence numbers. Does not add them."""
        first = self._channel.sequence
        # Assigning to bytes takes the numbers modulo 256.
        data[packets + _SEQUENCE_AT] = np.arange(first, first + len(packets))
        self._channel.sequence = (first + len(packets)) & 0xFF

    def stored(self, stored: Stored, *, acknowledge: bool = False) -> None:
        """Add parts of a block. Many short ones are copied together, so that sending them does not take one vector for
        each. `acknowledge`: have the replica acknowledge the last event, if it does such a thing.
        """
        del acknowledge  # for semi-synchronous replication
        self.number(stored.data, stored.packets)
        starts, ends = stored.begins, stored.ends
        ranges = map(stored.view.__getitem__, map(slice, starts, ends))
        if len(starts) >= _MANY and ends[-1] - starts[0] <= len(starts) * _SHORT:
            self._pending.append(b"".join(ranges))
        else:
            self._pending += ranges

    def flush(self) -> bool:
        """Send everything; blocks as long as the client does not take it. False: there was nothing."""
        if not self._pending:
            return False
        pending, self._pending = self._pending, []
        self._channel.send(pending)
        return True
