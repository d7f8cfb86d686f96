"""Where to go on reading: from what the log holds and what the source says, to the dump to ask for, or why not.

The log is exact in bytes, so a resumed dump must not lose what is no transaction either: the ROTATE that ends a file,
say, or a BINLOG_CHECKPOINT. A replica's GTID set alone cannot ask for those (the source would begin with its newest
file that has anything new). Therefore, in order of preference:

1. *By position.* The source is the one that wrote the file in which the log ends, and still has that file. The dump
   begins a little before the end of the log, so that the source repeats some events (`Overlap`). Those are compared
   with the log, byte by byte, and dropped: if one differs, the source's history is not ours any more and nothing is
   taken. MySQL is asked by COM_BINLOG_DUMP_GTID with file, 64-bit position and GTID set together, MariaDB by
   COM_BINLOG_DUMP, and only when BINLOG_GTID_POS confirms that this place is our GTID position.
2. *By GTID.* Another source, or the file was purged there, or MariaDB's 32-bit positions do not reach. The source skips
   what we have. It must hold everything that the log holds; this is checked before, so that a refusal can name what is
   missing.
3. *From the start*, when the log is empty: the source's first file, or its present state, or a given GTID set.
   What is left out by that counts as executed and purged: `Plan.base`.

What of a transaction was received, but not to its end, is fetched again: the log's end is always the end of a
transaction (the reader cancels what is open before it asks for a plan).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from kingbus_node.binlog.constants import FIRST_POSITION, Flavor
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.executed import ExecutedSet, executed_set
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.binlog.scan import CONTINUATION, EVENT_AT, OFFSET_MASK, PACKET_HEADER
from kingbus_node.source import requests
from kingbus_node.source.checks import SourceFacts
from kingbus_node.source.errors import Diverged, Refused
from kingbus_node.source.names import following
from kingbus_node.source.settings import accepted_missing
from kingbus_node.store.entry import Entry, Flag, Kind
from kingbus_node.store.state import CurrentFile, LogState
from kingbus_node.wire.commands import DumpFlag

FACT_SOURCE: Final = "source"
"""The key of LogState.facts under which a reader notes whose binlog the log holds (an object, see `source_fact`)."""

_TAGS_SINCE: Final = (8, 3)
_PURGED_FILES: Final = 100
"""How many files a MariaDB source may have purged beyond the log's last one before they are not looked for."""
_MAX_FILE_POSITION: Final = (1 << 32) - 1


class ReadableLog(Protocol):
    """What is needed of `store.log.Log`. Everything must be committed, with no transaction open."""

    @property
    def state(self) -> LogState:
        """The sum of the committed entries."""

    @property
    def first_index(self) -> int:
        """The oldest entry that is still there."""

    def read(self, index: int) -> Entry:
        """One entry."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """The end of the log that a source is asked to repeat. `position`: where in the file it begins, at an event.

    `indexes`: the entries it lies in. `offset`: where it begins in the payload of the first of them (without the
    FORMAT_DESCRIPTION, if that is there). `gtids`: of the transactions that end in them, entry by entry.
    """

    position: int
    indexes: tuple[int, ...]
    offset: int
    gtids: tuple[bytes, ...]

    def chunks(self, log: ReadableLog) -> Iterator[memoryview]:
        """The repeated bytes as the log has them: packets, sequence bytes 0."""
        offset = self.offset
        for index in self.indexes:
            yield memoryview(log.read(index).payload)[offset:]
            offset = 0


@dataclass(frozen=True, slots=True)
class Held:
    """The file in which the log ends. `format`: its FORMAT_DESCRIPTION event as the log has it, without packet."""

    file: CurrentFile
    format: bytes
    overlap: Overlap


@dataclass(frozen=True, slots=True)
class Plan:
    """A dump to ask for, and what to expect of it.

    `command`: of the protocol, to be sent. `connect_state`: MariaDB's @slave_connect_state to be set before, None for a
    dump by position. `position`: where in `held.file` the stream goes on, None if it begins at a file's head.
    `skips`: the source leaves out transactions that we have (or do not want), so positions may jump forward between
    transactions. `base`: GTIDs that count as executed although the log does not hold them. `base_in_file`: those that
    the first file says were before it count as well. `same_source`: as the one that wrote the log's last file.
    """

    command: bytes
    connect_state: str | None
    held: Held | None
    position: int | None
    skips: bool
    same_source: bool
    base: ExecutedSet | None = None
    base_in_file: bool = False


def held_file(log: ReadableLog) -> Held | None:
    """What the log holds of its last file, None if it holds no file yet."""
    state = log.state
    if state.file is None:
        return None
    first = log.read(state.file.start_index)
    view = memoryview(first.payload)
    event = bytes(view[EVENT_AT : EVENT_AT - 1 + int.from_bytes(view[:3], "little")])
    return Held(state.file, event, _overlap(log, state))


def _overlap(log: ReadableLog, state: LogState) -> Overlap:
    """Find the last entry of events, and back to one in which an event begins."""
    gtids: list[bytes] = []
    indexes: list[int] = []
    cancelled = False
    for index in range(state.index, log.first_index - 1, -1):
        entry = log.read(index)
        if entry.kind == Kind.CANCEL:
            cancelled = True
        if entry.kind != Kind.DATA:
            continue
        if cancelled and not entry.flags & Flag.LAST:  # a fragment of what was cancelled, back to the first of them
            cancelled = not entry.flags & Flag.FIRST
            continue
        cancelled = False
        indexes.append(index)
        if entry.meta.gtids:
            gtids.append(entry.meta.gtids)
        position = entry.start_pos
        ends = [*(packet & OFFSET_MASK for packet in entry.packets.tolist()[1:]), len(entry.payload)]
        for packet, end in zip(entry.packets.tolist(), ends, strict=True):
            at = packet & OFFSET_MASK
            if packet < CONTINUATION:
                # The head of a file is sent in any case, and compared on its own (some of it is changed on the way).
                offset = end if entry.flags & Flag.FILE_START else at
                return Overlap(position, tuple(reversed(indexes)), offset, tuple(gtids))
            position += end - at - PACKET_HEADER
    raise AssertionError("a log with a file holds the event that the file begins with")


def source_fact(facts: SourceFacts, state: LogState) -> dict[str, str | int]:
    """What is noted in the log about a source: what a node needs to speak for it, and to know it again.

    ``since_file``: the first source file that is from it. The note comes before that file, and a crash can leave the
    one without the other.
    """
    known = state.facts.get(FACT_SOURCE)
    since = known.get("since_file") if isinstance(known, dict) and known.get("identity") == facts.identity else None
    return {
        "flavor": facts.flavor.value,
        "version": facts.version,
        "identity": facts.identity,
        "server_id": facts.server_id,
        "server_uuid": facts.server_uuid,
        "checksum": facts.checksum.name,
        "row_metadata": facts.row_metadata,
        "since_file": since if isinstance(since, int) else state.file_id + 1,
    }


def known_identity(state: LogState) -> str | None:
    """The identity of the source that wrote the log's last file, as far as is noted."""
    fact = state.facts.get(FACT_SOURCE)
    if not isinstance(fact, dict):
        return None
    identity, since = fact.get("identity"), fact.get("since_file")
    if not isinstance(since, int) or state.file_id < since:
        return None
    return identity if isinstance(identity, str) else None


def make_plan(
    log: ReadableLog,
    facts: SourceFacts,
    server_id: int,
    start: str,
    *,
    file_is_gone: bool,
    gtid_position: Callable[[str, int], MariadbState | None],
) -> Plan:
    """Decide. Refused if this source must not be read from.

    `start`: config's source.start. `file_is_gone`: this source has already said that it does not have the file in which
    the log ends. `gtid_position`: asks a MariaDB source for BINLOG_GTID_POS of a file and position.
    """
    held = held_file(log)
    if held is None:
        return _begin(facts, server_id, start)
    _refuse_lacking(log, facts)
    same = known_identity(log.state) == facts.identity
    by_position = same and not file_is_gone
    if facts.flavor is Flavor.MYSQL:
        return _continue_mysql(log, facts, server_id, held, same, by_position)
    ours, flags = log.state.executed, int(DumpFlag.MARIADB_ANNOTATE_ROWS)
    assert isinstance(ours, MariadbState)
    if by_position and _is_confirmed(ours, held.file, gtid_position):
        place = held.overlap.position
        command = requests.binlog_dump(held.file.source_name, place, flags, server_id)
        return Plan(command, None, held, place, skips=False, same_source=True)
    next_file = _next_file(ours, held.file, gtid_position) if same else None
    if next_file is not None:
        command = requests.binlog_dump(next_file, FIRST_POSITION, flags, server_id)
        return Plan(command, None, held, None, skips=False, same_source=True)
    command = requests.binlog_dump("", FIRST_POSITION, flags, server_id)
    return Plan(command, _known_to(facts, ours), held, None, skips=True, same_source=same)


def _begin(facts: SourceFacts, server_id: int, start: str) -> Plan:
    """The first dump of an empty log."""
    theirs, purged = facts.executed, facts.purged
    flags = _mysql_flags(facts) if facts.flavor is Flavor.MYSQL else int(DumpFlag.MARIADB_ANNOTATE_ROWS)
    first_file = requests.binlog_dump("", FIRST_POSITION, flags, server_id)
    base: ExecutedSet
    try:
        if start == "earliest":
            base = executed_set(facts.flavor)
        elif start == "current":
            base = theirs.copy()
        else:
            base = MariadbState.parse(start) if facts.flavor is Flavor.MARIADB else GtidSet.parse(start)
    except BinlogError:
        raise Refused(
            f"source.start is {start!r}, which is no GTID set of {facts.flavor}, but the source is one"
        ) from None
    if start == "earliest" or (isinstance(base, MariadbState) and not base):
        return Plan(first_file, None, None, None, skips=False, same_source=True, base=purged, base_in_file=True)
    if isinstance(base, MariadbState):
        return Plan(first_file, str(base), None, None, skips=True, same_source=True, base=base)
    assert isinstance(purged, GtidSet)
    _refuse_purged(purged - base, base)
    command = requests.binlog_dump_gtid("", FIRST_POSITION, flags, server_id, base.encode())
    return Plan(command, None, None, None, skips=True, same_source=True, base=base)


def _mysql_flags(facts: SourceFacts) -> int:
    old = facts.number < _TAGS_SINCE
    return DumpFlag.MYSQL_HEARTBEAT_V2 | (DumpFlag.MYSQL_SKIP_TAGGED_GTIDS if old else 0)


def _continue_mysql(
    log: ReadableLog, facts: SourceFacts, server_id: int, held: Held, same: bool, by_position: bool
) -> Plan:
    ours, purged, flags = log.state.executed, facts.purged, _mysql_flags(facts)
    assert isinstance(ours, GtidSet)
    assert isinstance(purged, GtidSet)
    if by_position:
        repeated = GtidSet()
        for delta in held.overlap.gtids:
            repeated.apply_delta(delta)
        file, position = held.file.source_name, held.overlap.position
        command = requests.binlog_dump_gtid(file, position, flags, server_id, (ours - repeated).encode())
        return Plan(command, None, held, position, skips=True, same_source=True)
    _refuse_purged(purged - ours, ours)
    command = requests.binlog_dump_gtid("", FIRST_POSITION, flags, server_id, ours.encode())
    return Plan(command, None, held, None, skips=True, same_source=same)


def _is_confirmed(
    ours: MariadbState, file: CurrentFile, gtid_position: Callable[[str, int], MariadbState | None]
) -> bool:
    """Whether a MariaDB source can be asked by position: its GTID position at the end of our file is that of our log.

    Diverged if the file is there, but is another one.
    """
    if file.end_pos > _MAX_FILE_POSITION:
        return False
    at_end = gtid_position(file.source_name, file.end_pos)
    if at_end is not None and at_end.position() == ours.position():
        return True
    if gtid_position(file.source_name, FIRST_POSITION) is None:
        return False  # purged there
    if at_end is not None and all(ours.has(gtid) for gtid in at_end.position().values()):
        return False  # we began in the middle of that file, and nothing has come since
    found = "no event ends" if at_end is None else f"it is at {at_end}"
    raise Diverged(
        f"{file.source_name} at the source is not the file that the log holds: at {file.end_pos}, where the log is at "
        f"{ours}, {found} there. Was the source reset (RESET MASTER) or restored from a copy?"
    )


def _next_file(
    ours: MariadbState, file: CurrentFile, gtid_position: Callable[[str, int], MariadbState | None]
) -> str | None:
    """A MariaDB source's oldest file, if it has purged the one that the log ends with and goes on exactly from there.

    Asked for by GTID, MariaDB since 11.4 may leave out the head of that file.
    """
    if gtid_position(file.source_name, FIRST_POSITION) is not None:
        return None
    for name in following(file.source_name, _PURGED_FILES):
        before = gtid_position(name, FIRST_POSITION)
        if before is not None:
            return name if before.position() == ours.position() else None
    return None


def _known_to(facts: SourceFacts, ours: MariadbState) -> str:
    """Our position in a MariaDB source's words: it refuses a GTID that it does not have.

    After a forced switch it may lack our newest of a domain. It is then asked to go on from its own last one of the
    server that wrote that, or else, if it knows nothing of that server there, from the beginning of the domain.
    """
    theirs = facts.executed
    assert isinstance(theirs, MariadbState)
    parts = []
    for newest in ours.position().values():
        last = theirs.last_sequence(newest.domain, newest.server)
        if last is not None:
            parts.append(str(newest._replace(sequence=min(newest.sequence, last))))
    return ",".join(parts)


def _refuse_lacking(log: ReadableLog, facts: SourceFacts) -> None:
    """The source must hold everything that the log holds, but for what a forced switch has allowed it to lack."""
    ours = log.state.executed
    missing = "" if ours is None else lacking(ours, facts, accepted_missing(log.state.facts))
    if missing:
        raise Diverged(
            f"the source does not have all that the log holds: it lacks {missing}. It was reset, has lost its newest "
            "transactions in a crash, or is the wrong server",
            missing=missing,
        )


def lacking(ours: ExecutedSet, facts: SourceFacts, accepted: str = "") -> str:
    """What of `ours` a source of the same flavour does not have, as text; '' if it has all but what is `accepted`."""
    theirs = facts.executed
    if isinstance(ours, GtidSet) and isinstance(theirs, GtidSet):
        return str(ours - theirs - facts.committing - GtidSet.parse(accepted))
    assert isinstance(ours, MariadbState)
    assert isinstance(theirs, MariadbState)
    allowed = MariadbState.parse(accepted)
    gtids = (gtid for gtid in ours.position().values() if not theirs.has(gtid) and not allowed.has(gtid))
    return ",".join(map(str, gtids))


def purged_behind(ours: MariadbState, purged: MariadbState) -> str:
    """What of `purged`, a MariaDB source's position where its oldest file begins, is not in `ours`; '' if all is.

    MariaDB has no notation for a range. The GTIDs at its ends are what is known for sure: "domain 0: after 0-1-10, up
    to 0-1-25; domain 7: up to 7-2-9".
    """
    parts = []
    for domain, last in purged.position().items():
        newest = ours.newest(domain)
        if ours.has(last) or (newest is not None and newest.sequence >= last.sequence):
            continue
        after = "" if newest is None else f"after {newest}, "
        parts.append(f"domain {domain}: {after}up to {last}")
    return "; ".join(parts)


def _refuse_purged(missing: GtidSet, ours: GtidSet) -> None:
    if missing:
        raise Refused(
            f"the source has purged binary logs that are needed here: missing are {missing}, the log holds "
            f"{ours or 'nothing'}. Use a source that still has them, or begin a new log (source.start)",
            missing=str(missing),
        )
