"""From packets to log entries: whole transactions, cut where the source's files are cut.

A `Batcher` lives as long as one dump. It is fed the frames of a `Framer` and makes entries (`store.entry`), still
without index and term:

- *Entries hold whole transactions*, about `TARGET` bytes of them, or one fragment of a transaction that is bigger than
  that. What of a transaction has come, but not its end, waits in the framer's buffer.
- *Positions are checked*. Each event must begin where the one before it ended (64 bits, although events carry 32), or,
  between transactions, where the source has skipped to. Anything else is an error: better no bytes than wrong ones.
- *What is in no file is not stored*: artificial ROTATE, heartbeats, artificial GTID_LIST; nor is what the log holds
  already, which is compared with it instead.
- *No Python object per event*: blocks of thousands of events are handled in numpy columns; only events that change
  something (a file begins or ends, the source skips, ...) are looked at one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from kingbus_node.binlog.checksum import BlockVerifier, with_checksum
from kingbus_node.binlog.constants import (
    CHECKSUM_LENGTH,
    FIRST_POSITION,
    HEADER_LENGTH,
    EventFlag,
    EventType,
    Flavor,
    type_name,
)
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.event import GtidList, Heartbeat, PreviousGtids, Rotate
from kingbus_node.binlog.executed import ExecutedSet, executed_set
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.scan import COMPLETE, OFFSET_MASK, Bools, Events, Ints, packet_lengths
from kingbus_node.binlog.transactions import TransactionTracker
from kingbus_node.source.checks import SourceFacts
from kingbus_node.source.errors import Diverged, StreamError
from kingbus_node.source.framing import Frame, Framer
from kingbus_node.source.names import comes_after, served_name
from kingbus_node.source.piles import Block, Pile
from kingbus_node.source.resume import Plan
from kingbus_node.store.entry import WHOLE, Entry, Flag, Kind, SourceFile

logger = logging.getLogger(__name__)

TARGET: Final = 1 << 20
"""Bytes of packets after which an entry is closed at the next end of a transaction, or a transaction is fragmented."""

_FRAGMENTS: Final = 4
"""Times that size after which a fragment is closed at the latest, unless one packet is bigger."""
_BEGUN_BEFORE: Final = -1
_WRAP: Final = 1 << 32
_FORMAT_CREATED: Final = slice(HEADER_LENGTH + 52, HEADER_LENGTH + 56)
_LOG_POS: Final = 13

_GTIDS: Final = (EventType.GTID, EventType.GTID_TAGGED, EventType.ANONYMOUS_GTID, EventType.MARIADB_GTID)
_BEFORE_FILE: Final = (EventType.PREVIOUS_GTIDS, EventType.GTID_LIST)
_SPECIAL: Final = np.zeros(256, dtype=np.bool_)
_SPECIAL[
    [
        EventType.ROTATE,
        EventType.STOP,
        EventType.FORMAT_DESCRIPTION,
        EventType.HEARTBEAT,
        EventType.HEARTBEAT_V2,
        EventType.START_ENCRYPTION,
        *_BEFORE_FILE,
    ]
] = True


@dataclass(slots=True)
class Counters:
    """Totals for metrics, and the timestamp of the newest event (seconds since 1970 by the source's clock)."""

    events: int = 0
    bytes: int = 0
    transactions: int = 0
    timestamp: int = 0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An entry to propose, and the place (file at the source, position) that its commit allows to acknowledge."""

    entry: Entry
    ack: tuple[str, int] | None


@dataclass(slots=True)
class _Unfinished:
    """The event at the end of the last frame, of which packets are still to come, and what its end will mean."""

    repeated: bool
    at: int  # where in the source's file the part that is here ends
    ack: bool
    ends_transaction: bool = False
    transactions: int = 0
    delta: bytes = b""


class Batcher:
    """See above. Raises StreamError for what no source sends, Diverged for what contradicts the log."""

    def __init__(
        self,
        framer: Framer,
        facts: SourceFacts,
        plan: Plan,
        repeated: Iterator[memoryview] | None,
        *,
        file_id: int,
        served: str | None,
        counters: Counters | None = None,
        target: int = TARGET,
    ) -> None:
        """`repeated`: what the source will repeat first (`resume.Overlap.chunks`), if the plan goes by position.

        `file_id`, `served`: of the log's last file (0 and None in an empty log).
        """
        self._framer = framer
        self._flavor = facts.flavor
        self._plan = plan
        self._target = target
        self._tracker = TransactionTracker(facts.flavor, facts.checksum)
        self._verifier = BlockVerifier()
        self._algorithm = facts.checksum
        self._last_checked = False
        self._missing: int | None = COMPLETE
        self._unfinished: _Unfinished | None = None
        # Where in the source's files the stream is.
        self._announced: tuple[str, int] | None = None
        self._file = ""
        self._pos = 0
        self._skip_to: int | None = None
        self._closed = False
        # The log's last file.
        self._file_id = file_id
        self._served = served
        self._known_name = plan.held.file.source_name if plan.held is not None and plan.same_source else None
        self._held_end = 0
        self._repeated = repeated
        self._chunk = memoryview(b"")
        # What is not handed out yet.
        self._draft: Pile | None = None
        self._tail: Pile | None = None
        self._fragmented = False
        self._ready: list[Pile | Entry] = []
        self._settled: tuple[str, int] | None = None
        self._awaits_base = plan.base_in_file
        self._base: ExecutedSet | None = None
        self._found = False
        self._begun = False  # a transaction has come in this dump
        self._counters = counters or Counters()

    # What others may see

    @property
    def place(self) -> tuple[str, int]:
        """The source's file and the position up to which events were received."""
        return self._file, self._pos

    @property
    def steady(self) -> bool:
        """Whether the source has found its place: new events or a heartbeat have come."""
        return self._found

    @property
    def ready(self) -> bool:
        """Whether there are entries that gain nothing by waiting."""
        return bool(self._ready) and not self._awaits_base

    @property
    def waiting(self) -> bool:
        """Whether there are whole transactions that could be handed out."""
        return (self._draft is not None or bool(self._ready)) and not self._awaits_base

    def take_base(self) -> ExecutedSet | None:
        """Once: the GTIDs that were before the first file, as soon as that is known. To be logged before its events."""
        base, self._base = self._base, None
        return base

    def take_settled(self) -> tuple[str, int] | None:
        """Once: a place to acknowledge right now, because the log holds all up to it already."""
        settled, self._settled = self._settled, None
        return settled

    def collect(self, *, everything: bool) -> list[Outgoing]:
        """The entries made so far. `everything`: also whole transactions for which more could be waited."""
        if self._awaits_base:
            return []
        if everything:
            self._close_draft()
        ready, self._ready = self._ready, []
        piles = [pile for pile in ready if isinstance(pile, Pile)]
        rest = self._draft or self._tail
        keep = self._framer.done if rest is None else rest.start
        payloads = iter(self._framer.release([(pile.start, pile.end) for pile in piles], keep))
        for pile in (self._draft, self._tail):
            if pile is not None:
                pile.moved(keep)
        return [
            Outgoing(
                pile if isinstance(pile, Entry) else pile.entry(next(payloads), self._flavor),
                None if isinstance(pile, Entry) or pile.ack is None else (pile.source_name, pile.ack),
            )
            for pile in ready
        ]

    # Taking a frame apart

    def feed(self, frame: Frame) -> None:
        """Take the packets of a frame."""
        if not len(frame.packets):
            return
        try:
            self._feed(frame)
        except BinlogError as error:
            raise StreamError(
                f"the source sent what is not a binlog, behind {self._file} {self._pos}: {error}"
            ) from error

    def _feed(self, frame: Frame) -> None:
        buffer = self._framer.buffer
        events = Events.gather(buffer, frame.packets, self._missing)
        block = Block(buffer, frame, events)
        checked, wrong = self._verify(block)
        self._missing = events.missing
        leading = block.packet_of(0)
        if leading and wrong != _BEGUN_BEFORE:
            self._go_on(block, leading)
        # What comes before a damaged event is looked at first: it may tell that this is another file altogether.
        good = len(events) if wrong is None else max(wrong, 0)
        special = _SPECIAL[events.type] | ((events.flags & EventFlag.ARTIFICIAL) != 0)
        at = 0
        for i in np.flatnonzero(special[:good]).tolist():
            self._run(block, at, i)
            self._special(block, i, bool(checked[i]))
            at = i + 1
        self._run(block, at, good)
        if wrong is not None:
            raise StreamError(
                f"an event behind {self._file} {self._pos} does not match its checksum: it was damaged on the way, or "
                "in the source's file (mysqlbinlog --verify-binlog-checksum there tells which)"
            )
        self._counters.events += len(events)
        self._counters.bytes += frame.end - (int(frame.packets[0]) & OFFSET_MASK)

    def _verify(self, block: Block) -> tuple[Bools, int | None]:
        """Check the checksums of the whole block; returns which events have one, and which is the first wrong one:
        None if all are right, `_BEGUN_BEFORE` if it began in an earlier block.
        """
        events, packets = block.events, block.packets
        checked, self._algorithm = events.checksummed(block.buffer, self._algorithm)
        if not checked[events.type == EventType.FORMAT_DESCRIPTION].all():
            # Every source that is let in knows checksums: so says a damaged version, which would switch them off.
            raise StreamError(
                f"the FORMAT_DESCRIPTION event behind {self._file} {self._pos} is of a server that knows no checksums "
                "(before MySQL 5.6.1, MariaDB 5.3): damaged on the way, or a file copied from such a server"
            )
        if block.sound and checked.all():
            self._verifier.reset()
            self._last_checked = True
            return checked, None
        block.sound = False
        leading = block.packet_of(0)
        carries = np.empty(len(packets), dtype=np.bool_)
        carries[:leading] = self._last_checked
        carries[leading:] = np.repeat(checked, np.diff(np.append(events.packet, len(packets))))
        if len(checked):
            self._last_checked = bool(checked[-1])
        edges = [0, *(np.flatnonzero(np.diff(carries)) + 1).tolist(), len(packets)]
        for low, high in pairwise(edges):
            wrong = self._verifier.verify(block.buffer, packets[low:high]) if carries[low] else None
            if wrong is not None:
                return checked, int(np.searchsorted(events.start, wrong, side="right")) - 1
        return checked, None

    def _run(self, block: Block, low: int, high: int) -> None:
        """Events `low` to `high - 1`, of which none is special."""
        while low < high:
            if not self._file or self._announced is not None:
                name = type_name(int(block.events.type[low]))
                raise StreamError(f"expected the beginning of a file (ROTATE, FORMAT_DESCRIPTION), found {name}")
            low = self._steady(block, low, high)

    def _steady(self, block: Block, low: int, high: int) -> int:
        """Take the longest row of events, from `low` on, that is all new or all repeated; returns where it ends."""
        sizes = block.events.size[low:high].astype(np.int64)
        ends = np.cumsum(sizes) + self._pos
        # Since 11.4 MariaDB leaves log_pos at 0 within a transaction (MDEV-31273, binlog_legacy_event_pos).
        claimed = block.events.log_pos[low:high]
        wrong = ((ends & (_WRAP - 1)) != claimed) & (claimed != 0)
        count = int(np.argmax(wrong)) if wrong.any() else high - low
        if not count:
            self._jump(block.events, low)
            return low
        ends = ends[:count]
        if self._pos >= self._held_end:
            self._append(block, low, low + count, ends)
        else:
            repeated = int(np.searchsorted(ends, self._held_end, side="right"))
            if repeated < count and int(ends[repeated] - sizes[repeated]) < self._held_end:
                raise self._diverged(f"an event ends at {int(ends[repeated])}, in the log one ends at {self._held_end}")
            count = repeated
            self._repeat(block, low, low + count, int(ends[count - 1]))
        self._pos = int(ends[count - 1])
        return low + count

    def _jump(self, events: Events, i: int) -> None:
        """Event `i` does not begin where the one before it ended: move there, if that can be right."""
        begin = (int(events.log_pos[i]) - int(events.size[i])) % _WRAP
        where = f"{type_name(int(events.type[i]))} begins at {begin} of {self._file}, expected {self._pos}"
        if not self._plan.skips or self._tracker.open or self._fragmented:
            raise self._diverged(f"the source left out bytes: {where}")
        if self._flavor is Flavor.MYSQL:
            # A MySQL source says with a heartbeat how far it has skipped, before the next event that it sends.
            if self._skip_to is None or self._skip_to % _WRAP != begin:
                raise self._diverged(f"the source left out bytes without saying so: {where}")
            target = self._skip_to
        elif self._held_end >= _WRAP and events.type[i] != EventType.MARIADB_GTID:
            # Something outside of transactions, which it repeats: anywhere in what the log holds, or right behind.
            before = (self._held_end - begin) % _WRAP
            target = self._held_end - before - (_WRAP if 0 < before < int(events.size[i]) else 0)
        else:
            # MariaDB does not say it, nor ever a position beyond 32 bits. But what it leaves out is what the log holds.
            known = max(self._pos, self._held_end if events.type[i] == EventType.MARIADB_GTID else 0)
            ahead = (begin - known) % _WRAP
            if ahead >= _WRAP // 2 and (self._begun or self._held_end):
                raise self._diverged(f"the source went back: {where}")
            target = known + ahead
        self._skip_to = None
        self._close_draft()
        self._pos = target

    # What the log holds already

    def _repeat(self, block: Block, low: int, high: int, end_pos: int) -> None:
        """Events that the log holds: compare and drop."""
        events = block.events
        if self._repeated is None and np.isin(events.type[low:high], _GTIDS).any():
            raise self._diverged("the source sends transactions that the log does not know, where the log has others")
        self._compare(block.buffer[block.start_of(low) : block.start_of(high)])
        acked = block.acked(block.packet_of(low), block.packet_of(high)) is not None
        if block.is_cut(high):
            self._unfinished = _Unfinished(repeated=True, at=end_pos - block.missing, ack=acked)
        elif acked:
            self._settled = (self._file, end_pos)

    def _compare(self, data: memoryview) -> None:
        if self._repeated is None:
            return
        while data:
            if not self._chunk:
                chunk = next(self._repeated, None)
                if chunk is None:
                    raise AssertionError("more is repeated than the log holds")
                self._chunk = chunk
                continue
            count = min(len(data), len(self._chunk))
            if not np.array_equal(np.frombuffer(data[:count], np.uint8), np.frombuffer(self._chunk[:count], np.uint8)):
                raise self._diverged("the source's bytes differ from those in the log at the same place")
            data, self._chunk = data[count:], self._chunk[count:]

    def _diverged(self, what: str) -> Diverged:
        return Diverged(
            f"{self._file} at the source is not the continuation of what the log holds: {what} "
            f"(behind position {self._pos}). Was the source reset, restored from a copy, or did it lose its newest "
            "transactions in a crash?"
        )

    # New events

    def _append(self, block: Block, low: int, high: int, ends: Ints) -> None:
        """New events, `ends` are their ends in the source's file: into the piles, and cut what is big enough."""
        if self._closed:
            raise StreamError(f"expected nothing behind the end of {self._file}, found events")
        part = block.slice(low, high)
        found = self._tracker.feed(block.buffer, part)
        self._skip_to = None
        self._found = True
        self._begun = self._begun or self._tracker.open or len(found) > 0
        if self._awaits_base and (self._tracker.open or len(found)):
            self._learn_base(executed_set(self._flavor))  # a file that does not begin with what was before it
        cut = block.is_cut(high)
        safe = found.safe
        if cut:
            completes = len(found) > 0 and int(found.ends[-1]) == high - low - 1
            delta = found.delta(len(found) - 1, len(found)) if completes else b""
            acked = block.acked(block.packet_of(high - 1), block.packet_of(high)) is not None
            ended = bool(safe[-1])
            self._unfinished = _Unfinished(False, int(ends[-1]) - block.missing, acked, ended, int(completes), delta)
            safe = safe.copy()
            safe[-1] = False
        at = done = 0
        stops = np.flatnonzero(safe)
        if len(stops) and self._fragmented:
            at = int(stops[0]) + 1
            done = int(np.searchsorted(found.ends, at))
            self._onto_tail(block.pile(low, low + at, ends[:at], found.delta(0, done), done))
            self._close_tail(last=True)
        elif len(stops):
            self._tail_to_draft()
        limits = block.ends(low, high)[stops] if len(stops) else stops
        while len(stops) and at <= stops[-1]:
            start = self._draft.start if self._draft is not None else block.start_of(low + at)
            full = int(np.searchsorted(limits, start + self._target))
            stop = int(stops[min(full, len(stops) - 1)]) + 1
            known = int(np.searchsorted(found.ends, stop))
            delta = found.delta(done, known) if known > done else b""
            self._onto_draft(block.pile(low + at, low + stop, ends[at:stop], delta, known - done))
            if full < len(stops):
                self._close_draft()
            at, done = stop, known
        if at < high - low:
            self._open(block, low + at, high, ends[at:])

    def _open(self, block: Block, low: int, high: int, ends: Ints) -> None:
        """Events of a transaction that has not ended, to the last of the frame: a big one comes in fragments."""
        limits = block.ends(low, high)
        at = 0
        while at < len(ends):
            start = self._tail.start if self._tail is not None else block.start_of(low + at)
            stop = min(int(np.searchsorted(limits, start + _FRAGMENTS * self._target)) + 1, len(ends))
            stop = max(stop, at + 1)
            self._onto_tail(block.pile(low + at, low + stop, ends[at:stop]))
            self._fragment_if_big()
            at = stop

    def _go_on(self, block: Block, packets: int) -> None:
        """The first packets of a block, which continue the event that the block before left unfinished."""
        event = self._unfinished
        if event is None:
            raise AssertionError("an event goes on that never began")
        whole = bool(len(block.events)) or block.missing == COMPLETE
        stop = block.start_of(0) if len(block.events) else block.end
        start = int(block.packets[0]) & OFFSET_MASK
        lengths = int(packet_lengths(block.buffer, block.packets[:packets]).sum())
        event.at += lengths
        acked = event.at if whole and event.ack else None
        if event.repeated:
            self._compare(block.buffer[start:stop])
            if acked is not None:
                self._settled = (self._file, acked)
        else:
            more = Pile(start, stop, event.at - lengths, event.at, packets=[block.packets[:packets]], ack=acked)
            if whole:
                more.transactions = event.transactions
                more.deltas = [event.delta] if event.delta else []
            self._onto_tail(more)
            if whole and event.ends_transaction:
                if self._fragmented:
                    self._close_tail(last=True)
                else:
                    self._tail_to_draft()
            else:
                self._fragment_if_big()
        if whole:
            self._unfinished = None

    # Piles

    def _count(self, pile: Pile) -> None:
        self._counters.transactions += pile.transactions
        self._counters.timestamp = pile.timestamp or self._counters.timestamp

    def _onto_draft(self, pile: Pile) -> None:
        self._count(pile)
        if self._draft is None:
            self._draft = pile
        else:
            self._draft.absorb(pile)

    def _onto_tail(self, pile: Pile) -> None:
        self._count(pile)
        if self._tail is None:
            self._tail = pile
        else:
            self._tail.absorb(pile)

    def _tail_to_draft(self) -> None:
        """The transaction in the tail is complete."""
        if self._tail is None:
            return
        if self._draft is None:
            self._draft = self._tail
        else:
            self._draft.absorb(self._tail)
        self._tail = None

    def _close_draft(self, flags: int = 0) -> None:
        """Whole transactions become an entry."""
        if self._draft is not None:
            self._draft.flags |= WHOLE | flags
            self._hand_out(self._draft)
            self._draft = None

    def _close_tail(self, *, last: bool) -> None:
        """What there is of a big transaction becomes a fragment."""
        if self._tail is not None:
            self._tail.flags = (0 if self._fragmented else Flag.FIRST) | (Flag.LAST if last else 0)
            self._hand_out(self._tail)
            self._tail = None
            self._fragmented = not last

    def _hand_out(self, pile: Pile) -> None:
        pile.file_id, pile.source_name = self._file_id, self._file
        self._ready.append(pile)

    def _fragment_if_big(self) -> None:
        if self._tail is not None and self._tail.size >= self._target:
            self._close_draft()
            self._close_tail(last=False)

    def _drop(self, block: Block, i: int) -> None:
        """Event `i` is not stored. If it lies between stored events of one transaction, the gap is closed."""
        if self._tail is None:
            self._close_draft()
        else:
            self._framer.drop(block.start_of(i), block.start_of(i + 1))
            block.close_gap(i)

    def _cut_off(self, why: str) -> None:
        """The source's file ends within a transaction: the source crashed there and never committed it."""
        if self._tail is None and not self._fragmented:
            return
        logger.warning("%s: its last transaction, unfinished at position %d, is left out", why, self._pos)
        self._close_draft()
        self._tail = None
        if self._fragmented:
            self._ready.append(Entry(Kind.CANCEL))
            self._fragmented = False

    # Special events

    def _special(self, block: Block, i: int, checked: bool) -> None:
        """Event `i` changes where we are, or is not stored, or needs to be looked at."""
        events = block.events
        kind, log_pos = int(events.type[i]), int(events.log_pos[i])
        artificial = bool(events.flags[i] & EventFlag.ARTIFICIAL)
        if block.is_cut(i + 1):
            raise StreamError(f"expected {type_name(kind)} in one packet, found one of {int(events.size[i])} bytes")
        start = int(events.start[i])
        event = block.buffer[start : start + int(events.size[i])]
        if kind == EventType.ROTATE and (artificial or not log_pos):
            self._announce(Rotate.parse(event, checked))
            self._drop(block, i)
        elif kind == EventType.FORMAT_DESCRIPTION:
            self._format(block, i, bytes(event))
        elif kind in (EventType.HEARTBEAT, EventType.HEARTBEAT_V2):
            self._heartbeat(Heartbeat.parse(event, checked))
            self._drop(block, i)
        elif artificial or (kind == EventType.START_ENCRYPTION and not log_pos):
            self._drop(block, i)
        elif kind in (EventType.ROTATE, EventType.STOP):
            self._cut_off(f"{self._file} ends within a transaction")
            self._run(block, i, i + 1)
            self._close_draft(Flag.FILE_END)
            self._closed = True
        else:
            if kind in _BEFORE_FILE and self._awaits_base:
                self._learn_base(_executed_before(event, checked))
            self._run(block, i, i + 1)

    def _announce(self, rotate: Rotate) -> None:
        """An artificial ROTATE: the name of the file that follows, and where in it the stream goes on."""
        if not rotate.name.isprintable() or "/" in rotate.name:
            raise StreamError(f"expected the name of a binlog file in an artificial ROTATE, found {rotate.name!r}")
        if rotate.position < FIRST_POSITION:
            raise StreamError(f"{rotate.name}: expected a position of at least 4, found {rotate.position}")
        self._announced = (rotate.name, rotate.position)

    def _format(self, block: Block, i: int, event: bytes) -> None:
        """A FORMAT_DESCRIPTION: the head of a file, new or known."""
        if self._announced is None:
            raise StreamError(f"expected events of {self._file}, found another FORMAT_DESCRIPTION at {self._pos}")
        (name, position), self._announced = self._announced, None
        head = FIRST_POSITION + len(event)
        held, wanted = self._plan.held, self._plan.position
        if self._file == "" and held is not None and name == self._known_name:
            self._file = name
            if _without_changes(event) != _without_changes(held.format):
                raise self._diverged("its FORMAT_DESCRIPTION, which says when it was created, is another one")
            if wanted is not None and position != wanted:
                raise self._diverged(f"asked for position {wanted}, the source begins at {position}")
            self._held_end, self._closed = held.file.end_pos, False
            self._pos = max(head, position)
            self._tracker.feed(block.buffer, block.slice(i, i + 1))
            self._drop(block, i)
            return
        if self._file == "" and wanted is not None:
            raise Diverged(f"asked for {self._known_name} at {wanted}, the source sends {name}")
        if self._known_name is not None and not comes_after(name, self._known_name):
            raise Diverged(
                f"the source's file {name} follows {self._known_name}, but its number is not higher: expected a rising "
                "series. Was the source reset (RESET BINARY LOGS, RESET MASTER)?"
            )
        if position != FIRST_POSITION or int(block.events.log_pos[i]) != head:
            self._begin_in_the_middle(block, i, event, name, position)
        if wanted is not None and self._pos < self._held_end:
            raise self._diverged(f"it ends before position {self._held_end}, where the log ends")
        self._cut_off(f"{self._file} ends within a transaction")
        self._close_draft()
        self._file, self._known_name = name, name
        self._file_id += 1
        self._served = served_name(name, self._served)
        self._held_end, self._closed, self._repeated, self._skip_to = 0, False, None, None
        self._tracker.feed(block.buffer, block.slice(i, i + 1))
        pile = block.pile(i, i + 1, np.array([head]))
        pile.flags, pile.file = Flag.FILE_START, SourceFile(self._served, name)
        self._onto_draft(pile)
        self._pos = head

    def _begin_in_the_middle(self, block: Block, i: int, event: bytes, name: str, position: int) -> None:
        """A file of which the beginning is left out: MariaDB since 11.4 goes where its GTID index says (MDEV-4991).

        Its FORMAT_DESCRIPTION comes without its own position, which is put back in the buffer.
        """
        if self._plan.connect_state is None or self._file:
            raise StreamError(f"expected {name} from its beginning, found it from position {position}")
        head = with_checksum(_with_log_pos(event[:-CHECKSUM_LENGTH], FIRST_POSITION + len(event)))
        start = int(block.events.start[i])
        block.buffer[start : start + len(head)] = head

    def _heartbeat(self, heartbeat: Heartbeat) -> None:
        """Nothing happened for a while, or transactions were skipped up to a position."""
        self._found = True
        if heartbeat.name == self._file and heartbeat.position > self._pos:
            self._skip_to = heartbeat.position

    def _learn_base(self, before: ExecutedSet) -> None:
        """What had been executed before the first file begins: PREVIOUS_GTIDS or GTID_LIST."""
        base = self._plan.base
        if isinstance(base, GtidSet) and isinstance(before, GtidSet):
            before = base | before
        self._base, self._awaits_base = before, False


def _with_log_pos(event: bytes, log_pos: int) -> bytes:
    """`event` with another log_pos in its header (and its checksum, if it has one, left wrong)."""
    return event[:_LOG_POS] + log_pos.to_bytes(4, "little") + event[_LOG_POS + 4 :]


def _without_changes(event: bytes) -> bytes:
    """A FORMAT_DESCRIPTION without what a source changes on the way: position, flags, creation time, checksum."""
    changed = bytearray(event[:-CHECKSUM_LENGTH])
    changed[_LOG_POS:HEADER_LENGTH] = bytes(6)  # with the flags behind it
    changed[_FORMAT_CREATED] = bytes(4)
    return bytes(changed)


def _executed_before(event: memoryview, checked: bool) -> ExecutedSet:
    """What PREVIOUS_GTIDS or GTID_LIST says."""
    if event[4] == EventType.GTID_LIST:
        return GtidList.parse(event, checked).state
    return PreviousGtids.parse(event, checked).gtids
