"""The signals by which a process is told to end, and a wait for them that they cannot spoil.

A handler runs between any two instructions of the main thread, so it must not take a lock that this thread may hold.
``threading.Event.set`` does: called in a handler while the main thread is within ``wait`` of the same event, it waits
for ever. ``queue.SimpleQueue.put`` is made to be called there (its documentation: "reentrant").
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
from collections.abc import Iterator
from types import FrameType


class Ending:
    """Whether the process was told to end. Main thread only."""

    def __init__(self) -> None:
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._told = False

    def wait(self, seconds: float) -> bool:
        """Waits that long at most. Whether the process has been told to end."""
        if not self._told:
            with contextlib.suppress(queue.Empty):
                self._signals.get(timeout=seconds)
        return self._told

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """A handler: the second signal ends the process at once, as the shell would tell it (128 + its number)."""
        if self._told:
            os._exit(128 + number)
        self._told = True
        self._signals.put(number)


@contextlib.contextmanager
def told_to_end() -> Iterator[Ending]:
    """While open, SIGTERM and SIGINT are received. Main thread only."""
    ending = Ending()
    before = {number: signal.signal(number, ending.receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
