"""What can go wrong with a source, told apart by what helps."""

from __future__ import annotations


class SourceError(Exception):
    """The base of all. ``str()`` is for people: what was expected, what was found, what to do. Never a secret."""


class Disconnected(SourceError):
    """The network or the server went away. Trying again soon is the cure."""


class StreamError(SourceError):
    """The source sent bytes that no source sends: a checksum that does not match, an event out of place, garbage.

    The connection is of no more use. Reading again from what the log holds is the cure, unless the source's own file is
    damaged: then the same error comes back at each attempt and stays visible.
    """


class Refused(SourceError):
    """The source will not serve us, or we must not take what it serves, until somebody does something.

    `code`: the server's error number when it was the server who refused. `missing`: the GTIDs that stand in the way
    when they are known: those that the source has purged, or those that we hold and it does not.
    """

    def __init__(self, message: str, *, code: int | None = None, missing: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.missing = missing


class Diverged(Refused):
    """What the source has is not the continuation of what the log holds, although it has the same name.

    Nothing of it may be appended: it would be wrong bytes, served to every replica.
    """


class PositionGone(SourceError):
    """The file in which the log ends is no longer at the source: go on by GTIDs instead of by file and position."""


class SourceEnd(SourceError):
    """The source ended a dump with an ERR packet: `code`, `sqlstate` and `text` as it sent them."""

    def __init__(self, code: int, sqlstate: str, text: str) -> None:
        super().__init__(f"{text} (error {code}, SQLSTATE {sqlstate})")
        self.code = code
        self.sqlstate = sqlstate
        self.text = text


class Stopped(SourceError):
    """The reader was asked to stop while it was waiting."""
