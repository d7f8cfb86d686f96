"""What can go wrong with the log, told apart by what the caller can do about it."""

from __future__ import annotations

from pathlib import Path


class StoreError(Exception):
    """The base of every error of this package."""


class InvalidEntryError(StoreError):
    """An entry that may not follow what the log holds. Nothing was written; the caller's bookkeeping is wrong."""


class CorruptLogError(StoreError):
    """Bytes that were durable are damaged or gone. The log refuses to open, or to read them, rather than to lose them
    silently.

    `path` and `offset` (bytes from the start of the file) say where.
    """

    def __init__(self, path: Path, offset: int, problem: str) -> None:
        self.path = path
        self.offset = offset
        super().__init__(
            f"{path} is damaged at byte {offset}: {problem}. It was durable before, so it is not cut off; "
            "restore the file from another node or a backup, or remove the whole log directory to fetch all again"
        )


class FormatVersionError(StoreError):
    """A file that is intact but of a format that this release does not know."""


class LogLockedError(StoreError):
    """Another process has this log open for writing."""


class LogFailedError(StoreError):
    """The disk refused a write or an fsync: the log takes nothing more until it is opened again.

    An fsync that failed is never tried again: the kernel may have dropped the pages and the next fsync would succeed
    without them (fsync(2), "EIO"). Opening the log again finds out what the disk really holds. `__cause__` is the
    OSError.
    """


class LogFullError(StoreError):
    """The disk had no room for a write. What was to be written was not; the log is as before, and can be used."""


class LogClosedError(StoreError):
    """The log or the reader was closed."""


class PurgedError(StoreError):
    """What was asked for is older than the oldest retained entry or file."""


class BeingReplacedError(StoreError):
    """Another log takes the place of this one, and has not done so in time. It will, or the node ends."""


class UnknownFileError(StoreError):
    """No source file of this id."""


class PositionPastEndError(StoreError):
    """A position behind the last committed byte of its file; `end` is that byte's position."""

    def __init__(self, name: str, position: int, end: int) -> None:
        self.end = end
        super().__init__(f"position {position} is past the end of {name}, which holds {end} bytes")


class PositionInsideEventError(StoreError):
    """A position that is not the start of an event; `event_start` is where the event around it begins."""

    def __init__(self, name: str, position: int, event_start: int) -> None:
        self.event_start = event_start
        super().__init__(f"position {position} of {name} is inside the event that starts at {event_start}")
