"""Which segments may go: the policy, as a pure function of what is there.

Rules:

1. Whole segments go, the oldest first, and with them the source files that begin in them. What remains begins with a
   source file: the first one that begins in the oldest segment that stays. A file that spans segments stays or goes
   whole; so do they.
2. By age: a segment may go when nothing was written to it for `max_age`, and neither to anything that a file in it
   reaches into. The time is that of the last write to its file on disk, as MySQL has it for
   ``binlog_expire_logs_seconds``: the events' own timestamps are what clients wish (``SET TIMESTAMP``), and an old
   binlog that arrives today is not to vanish at once.
3. By size: as many as are needed for the rest to have at most `max_bytes`, or all that can go.
4. Nothing goes that a connected replica still needs, unless the free space of the disk is below `min_free_bytes`.
5. Low space makes nothing go that neither age nor size condemn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """``storage.retention`` and ``storage.min_free_bytes`` of the configuration; seconds and bytes, None: no limit."""

    max_age: float | None = None
    max_bytes: int | None = None
    keep_for_replicas: bool = True
    min_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SegmentUse:
    """A segment as the policy sees it.

    bytes: on disk, index included. age: seconds since something was written to it. file_start: the first entry in it
    with which a source file begins; None if none does.
    """

    first_index: int
    bytes: int
    age: float
    file_start: int | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to go.

    cut: the entry, with which a source file begins, that is the first to stay; None: nothing goes. reason: for people.
    segments, bytes: how much goes. held: the position of the replica that keeps more from going, if one does.
    forced: the position of the replica that loses what it still needs, if one does.
    """

    cut: int | None
    reason: str = ""
    segments: int = 0
    bytes: int = 0
    held: int | None = None
    forced: int | None = None


NOTHING = Decision(None)


def decide(
    segments: Sequence[SegmentUse], policy: RetentionPolicy, free_bytes: int, replicas: Iterable[int]
) -> Decision:
    """What is to go now.

    :param segments: all of them, the oldest first; the last one is being written
    :param free_bytes: what the disk has left
    :param replicas: for each connected replica, the oldest entry that it still needs
    """
    aged, sized = _aged(segments, policy.max_age), _oversized(segments, policy.max_bytes)
    condemned = max(aged, sized)
    if not condemned:
        return NOTHING
    floor = min(replicas, default=None) if policy.keep_for_replicas else None
    allowed = condemned if floor is None else _last_cut(segments, condemned, floor)
    low = free_bytes < policy.min_free_bytes
    held = floor if allowed < condemned else None
    chosen = condemned if low else allowed
    if not chosen:
        return Decision(None, held=held)
    gone = segments[:chosen]
    return Decision(
        cut=segments[chosen].file_start,
        reason=_reason(policy, by_age=aged >= chosen, by_size=sized >= chosen),
        segments=len(gone),
        bytes=sum(segment.bytes for segment in gone),
        held=None if low else held,
        forced=held if low else None,
    )


def _aged(segments: Sequence[SegmentUse], max_age: float | None) -> int:
    """How many segments are too old, together with the files that begin in them."""
    if max_age is None:
        return 0
    best = 0
    for number in range(1, len(segments)):
        if segments[number - 1].age <= max_age:
            break
        segment = segments[number]
        # The file before the cut ends in this segment, unless the cut is where the segment begins.
        if segment.file_start is not None and (segment.file_start == segment.first_index or segment.age > max_age):
            best = number
    return best


def _oversized(segments: Sequence[SegmentUse], max_bytes: int | None) -> int:
    """How many segments must go for the rest to fit, or as many as can if none does."""
    if max_bytes is None:
        return 0
    left, best = sum(segment.bytes for segment in segments), 0
    for number, segment in enumerate(segments):
        if number and segment.file_start is not None:
            best = number
        if left <= max_bytes and best == number:
            break
        left -= segment.bytes
    return best


def _last_cut(segments: Sequence[SegmentUse], most: int, floor: int) -> int:
    """The greatest number of segments up to `most` without which everything from entry `floor` on is still there."""
    for number in range(most, 0, -1):
        start = segments[number].file_start
        if start is not None and start <= floor:
            return number
    return 0


def _reason(policy: RetentionPolicy, *, by_age: bool, by_size: bool) -> str:
    reasons = []
    if by_age:
        reasons.append(f"older than storage.retention.max_age ({policy.max_age:g} s)")
    if by_size:
        reasons.append(f"more than storage.retention.max_bytes ({policy.max_bytes} bytes)")
    return " and ".join(reasons)
