"""How much room the log's disk has, and when there is too little to go on writing.

Below the minimum, retention has a moment to drop what it kept for replicas before writing stops; below half of it, or
when the disk itself has refused a write, writing stops at once. It goes on with a quarter more than the minimum, so
that it does not stop again with the next entry. A refusal of the disk is believed for a while: a quota says how much
is left only by refusing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

GRACE: Final = 3.0
_BELIEVED: Final = 1.0
_LOOK: Final = 0.05


class DiskSpace:
    """The room on the disk of one directory. For any thread: what it keeps is only ever replaced as a whole."""

    def __init__(
        self,
        directory: Path,
        min_free_bytes: int,
        *,
        grace: float = GRACE,
        clock: Callable[[], float] = time.monotonic,
        refused: Callable[[], float] = lambda: float("-inf"),
    ) -> None:
        """grace: seconds for retention to make room, with less than `min_free_bytes` and more than half of it. refused:
        tells when the disk refused a write for want of room, by the same clock.
        """
        self.directory = directory
        self.min_free_bytes = min_free_bytes
        self._grace = grace
        self._clock = clock
        self._looked: tuple[float, bool] = (float("-inf"), False)
        self._low_since: float | None = None
        self._refused = refused

    def free_bytes(self) -> int:
        """What an ordinary user may still write."""
        disk = os.statvfs(self.directory)
        return disk.f_bavail * disk.f_frsize

    @property
    def full(self) -> bool:
        """Whether nothing more should be written. Cheap: looks at the disk some times in a second at most."""
        now = self._clock()
        if now - self._refused() < _BELIEVED:
            self._looked = (now, True)
            return True
        looked, full = self._looked
        if now - looked >= _LOOK:
            full = self._judge(now, full)
            self._looked = (now, full)
        return full

    def _judge(self, now: float, was_full: bool) -> bool:
        free, least = self.free_bytes(), self.min_free_bytes
        if free >= least:
            self._low_since = None
            return was_full and free < least * 5 // 4
        since = self._low_since
        if since is None:
            since = self._low_since = now
        return was_full or free < least // 2 or now - since >= self._grace

    def describe(self) -> str:
        """For people: why the node does not write."""
        return (
            f"the disk of {self.directory} is full: {self.free_bytes()} bytes are free, "
            f"storage.min_free_bytes is {self.min_free_bytes}"
        )
