"""What the entries of the log add up to: a pure fold, the same on every node.

Rules, entry by entry:

1. A GTID is executed when its transaction ends, so the executed set only ever holds complete transactions.
2. A DATA entry with FIRST and LAST leaves nothing open. One with FIRST alone opens a transaction, fragments follow, the
   one with LAST ends it. Only CANCEL may end it otherwise; what it covered then counts as never written, in positions
   too.
3. An entry is visible when no transaction is open after it: `LogState.visible_index` is where readers stop.
4. Source files are numbered 1, 2, 3 … by their FILE_START entries; positions in a file never fall.
5. STATE merges its JSON into `facts` (null removes a key). Two keys mean something here: ``flavor`` ("mysql" or
   "mariadb", once), and ``purged``, GTIDs that the source had purged before the log began: they count as executed and
   as purged.
6. PURGE ``{"first_index", "file_id", "purged"}`` drops the source files before `file_id`; `purged` is what was executed
   there.
7. CONFIGURATION replaces `members`: opaque here, they belong to consensus.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from kingbus_node.binlog.constants import Flavor
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.executed import ExecutedSet, executed_from_json, executed_set
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.store.entry import WHOLE, Flag, Header, Json, Kind, Meta
from kingbus_node.store.errors import InvalidEntryError

_DATA_FLAGS = Flag.FIRST | Flag.LAST | Flag.FILE_START | Flag.FILE_END
FACT_FLAVOR = "flavor"
FACT_PURGED = "purged"
FACT_CLUSTER_UUID = "cluster_uuid"  # the server_uuid under which the whole cluster is a server to replicas and source


class CurrentFile(NamedTuple):
    """The source file that the log is in. `closed`: the source ended it (ROTATE or STOP)."""

    id: int
    name: str
    source_name: str
    start_index: int
    end_pos: int
    closed: bool


@dataclass(slots=True)
class LogState:
    """The sum of entries 1 to `index`. Change it only with `fold`; `copy` before handing it to another thread."""

    index: int = 0
    term: int = 0
    flavor: Flavor | None = None
    executed: ExecutedSet | None = None
    purged: ExecutedSet | None = None
    facts: dict[str, Json] = field(default_factory=dict)
    file: CurrentFile | None = None
    open_index: int | None = None  # the first fragment of the transaction that is open, if one is
    open_pos: int = 0  # where it begins in the source file
    open_timestamp: int = 0  # `timestamp` before it
    timestamp: int = 0  # of the last event, as the source wrote it
    oldest_file: int = 1  # the oldest source file that was not purged (it may not exist yet)
    first_index: int = 1  # where that file starts; entries before may be dropped
    members: bytes = b""  # what the last CONFIGURATION said; nothing before the first
    members_index: int = 0  # which entry that was

    @property
    def visible_index(self) -> int:
        """The last entry after which no transaction is open."""
        return self.index if self.open_index is None else self.open_index - 1

    @property
    def file_id(self) -> int:
        """The current source file's number, 0 before the first."""
        return 0 if self.file is None else self.file.id

    @property
    def end_pos(self) -> int:
        """Where the log ends in the current source file, 0 before the first."""
        return 0 if self.file is None else self.file.end_pos

    def copy(self) -> LogState:
        """A state that does not change with this one."""
        return replace(
            self,
            executed=None if self.executed is None else self.executed.copy(),
            purged=None if self.purged is None else self.purged.copy(),
            facts=dict(self.facts),
        )

    def fold(self, header: Header, meta: Meta) -> None:
        """Adds the next entry. InvalidEntryError, with nothing changed, if it may not follow."""
        if header.index != self.index + 1:
            raise InvalidEntryError(f"expected entry {self.index + 1}, found entry {header.index}")
        if header.term < self.term:
            raise InvalidEntryError(f"entry {header.index} has term {header.term}, the one before it {self.term}")
        kind = header.kind
        if kind == Kind.DATA:
            self._fold_data(header, meta)
        elif kind == Kind.CANCEL:
            self._cancel()
        elif kind == Kind.STATE:
            self._fold_facts(header, meta)
        elif kind == Kind.PURGE:
            self._fold_purge(header, meta)
        elif kind == Kind.CONFIGURATION:
            if not meta.members:
                raise InvalidEntryError(f"entry {header.index} changes the membership without naming the members")
            self.members, self.members_index = meta.members, header.index
        elif kind != Kind.NOOP:
            raise InvalidEntryError(f"entry {header.index} is of unknown kind {kind}: written by a newer release?")
        self.index = header.index
        self.term = header.term

    def _fold_data(self, header: Header, meta: Meta) -> None:
        flags = header.flags
        if bool(flags & Flag.FIRST) != (self.open_index is None):
            what = "begins" if flags & Flag.FIRST else "continues"
            raise InvalidEntryError(
                f"entry {header.index} {what} a transaction, but "
                + ("none is open" if self.open_index is None else f"the one of entry {self.open_index} is still open")
            )
        if meta.gtids and not flags & Flag.LAST:
            raise InvalidEntryError(f"entry {header.index} counts GTIDs of a transaction that does not end in it")
        if flags & ~_DATA_FLAGS:
            raise InvalidEntryError(f"entry {header.index} has the unknown flags {flags:#04x}")
        if flags & (Flag.FILE_START | Flag.FILE_END) and flags & WHOLE != WHOLE:
            raise InvalidEntryError(f"entry {header.index} begins or ends a source file, so it cannot be a fragment")
        executed = self.executed
        if executed is None:
            raise InvalidEntryError(f"entry {header.index} holds events, but no STATE entry has set the flavor yet")
        file = self._next_file(header, meta)
        if meta.gtids:
            try:
                executed.apply_delta(meta.gtids)
            except BinlogError as error:
                raise InvalidEntryError(f"entry {header.index} holds no {self.flavor} GTIDs: {error}") from error
        if not flags & Flag.LAST:
            if self.open_index is None:
                self.open_index = header.index
                self.open_pos = header.start_pos
                self.open_timestamp = self.timestamp
        else:
            self.open_index = None
        self.file = file
        self.timestamp = header.timestamp

    def _next_file(self, header: Header, meta: Meta) -> CurrentFile:
        """The current file after this entry."""
        if header.end_pos < header.start_pos:
            raise InvalidEntryError(
                f"entry {header.index} ends at {header.end_pos}, before its start at {header.start_pos}"
            )
        closed = bool(header.flags & Flag.FILE_END)
        if header.flags & Flag.FILE_START:
            if header.file_id != self.file_id + 1 or meta.file is None:
                raise InvalidEntryError(
                    f"entry {header.index} starts file {header.file_id}: expected {self.file_id + 1}, named in the meta"
                )
            names = meta.file
            return CurrentFile(header.file_id, names.name, names.source_name, header.index, header.end_pos, closed)
        file = self.file
        if file is None or header.file_id != file.id or file.closed or header.start_pos < file.end_pos:
            at = (
                "no file" if file is None else f"file {file.id} at {file.end_pos}" + (", closed" if file.closed else "")
            )
            raise InvalidEntryError(
                f"entry {header.index} is of file {header.file_id} from {header.start_pos}, but the log is in {at}"
            )
        return CurrentFile(file.id, file.name, file.source_name, file.start_index, header.end_pos, closed)

    def _cancel(self) -> None:
        if self.open_index is not None and self.file is not None:
            self.file = self.file._replace(end_pos=self.open_pos)
            self.timestamp = self.open_timestamp
        self.open_index = None

    def _fold_facts(self, header: Header, meta: Meta) -> None:
        changes = _json_of(header, meta)
        flavor = self.flavor
        if FACT_FLAVOR in changes:
            try:
                flavor = Flavor(str(changes[FACT_FLAVOR]))
            except ValueError:
                raise InvalidEntryError(f"flavor {changes[FACT_FLAVOR]!r} is neither mysql nor mariadb") from None
            if self.flavor not in (None, flavor):
                raise InvalidEntryError(f"the log is of flavor {self.flavor}, it cannot become {flavor}")
        executed, purged = self.executed, self.purged
        if flavor is not None and (executed is None or purged is None):
            executed, purged = executed_set(flavor), executed_set(flavor)
        if FACT_PURGED in changes:
            if flavor is None or executed is None or purged is None:
                raise InvalidEntryError(f"entry {header.index} gives purged GTIDs before the flavor is known")
            base = _restore(header, flavor, changes[FACT_PURGED])
            executed, purged = _union(executed, base), _union(purged, base)
        self.flavor, self.executed, self.purged = flavor, executed, purged
        for key, value in changes.items():
            if key == FACT_PURGED:
                continue
            if value is None:
                self.facts.pop(key, None)
            else:
                self.facts[key] = value

    def _fold_purge(self, header: Header, meta: Meta) -> None:
        order = _json_of(header, meta)
        first, file_id = order.get("first_index"), order.get("file_id")
        if not isinstance(first, int) or not isinstance(file_id, int) or self.flavor is None:
            raise InvalidEntryError(
                f"entry {header.index}: a PURGE needs the numbers first_index and file_id, and a flavor"
            )
        if first >= header.index or file_id > self.file_id:
            raise InvalidEntryError(
                f"entry {header.index} purges up to entry {first} of file {file_id}, which is not in the past"
            )
        purged = _restore(header, self.flavor, order.get("purged"))
        if file_id > self.oldest_file:  # a purge that another one overtook changes nothing
            self.oldest_file, self.first_index, self.purged = file_id, first, purged

    def to_json(self) -> dict[str, Json]:
        """For a segment's header."""
        file: Json = None
        if self.file is not None:
            f = self.file
            file = [f.id, f.name, f.source_name, f.start_index, f.end_pos, f.closed]
        return {
            "index": self.index,
            "term": self.term,
            "flavor": self.flavor,
            "executed": None if self.executed is None else self.executed.to_json(),
            "purged": None if self.purged is None else self.purged.to_json(),
            "facts": self.facts,
            "file": file,
            "open": [self.open_index, self.open_pos, self.open_timestamp],
            "timestamp": self.timestamp,
            "oldest_file": self.oldest_file,
            "first_index": self.first_index,
            "members": [self.members_index, self.members.hex()],
        }

    @classmethod
    def from_json(cls, value: dict[str, Json]) -> LogState:
        """The inverse of `to_json`. ValueError, KeyError or TypeError if it is not one."""
        flavor = None if value["flavor"] is None else Flavor(str(value["flavor"]))
        facts, opened, file, members = value["facts"], value["open"], value["file"], value["members"]
        if not isinstance(facts, dict) or not isinstance(opened, list) or not isinstance(file, list | None):
            raise TypeError("a snapshot's facts are an object, its open transaction and its file lists")
        if not isinstance(members, list):
            raise TypeError("a snapshot's members are a list")
        return cls(
            index=_int(value["index"]),
            term=_int(value["term"]),
            flavor=flavor,
            executed=None if flavor is None else executed_from_json(flavor, str(value["executed"])),
            purged=None if flavor is None else executed_from_json(flavor, str(value["purged"])),
            facts=dict(facts),
            file=None
            if file is None
            else CurrentFile(_int(file[0]), str(file[1]), str(file[2]), _int(file[3]), _int(file[4]), bool(file[5])),
            open_index=None if opened[0] is None else _int(opened[0]),
            open_pos=_int(opened[1]),
            open_timestamp=_int(opened[2]),
            timestamp=_int(value["timestamp"]),
            oldest_file=_int(value["oldest_file"]),
            first_index=_int(value["first_index"]),
            members=bytes.fromhex(str(members[1])),
            members_index=_int(members[0]),
        )


def _int(value: Json) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected a number, found {value!r}")
    return value


def _json_of(header: Header, meta: Meta) -> dict[str, Json]:
    if meta.json is None:
        raise InvalidEntryError(f"entry {header.index} of kind {Kind(header.kind).name} has no JSON")
    return meta.json


def _restore(header: Header, flavor: Flavor, value: Json) -> ExecutedSet:
    try:
        return executed_from_json(flavor, str(value))
    except ValueError as error:
        raise InvalidEntryError(f"entry {header.index} holds no {flavor} GTID set: {error}") from error


def _union(one: ExecutedSet, base: ExecutedSet) -> ExecutedSet:
    """Both flavours' union; `base` is older, so it never moves a MariaDB server's last sequence number back."""
    if isinstance(one, GtidSet) and isinstance(base, GtidSet):
        return one | base
    merged = MariadbState(base if isinstance(base, MariadbState) else ())
    for gtid in one if isinstance(one, MariadbState) else ():
        last = merged.last_sequence(gtid.domain, gtid.server)
        if last is None or gtid.sequence >= last:
            merged.update(*gtid)
    return merged
