"""MySQL's GTID sets: text, both binary forms, algebra.

A GTID is `source_uuid:number`, or since MySQL 8.3 `source_uuid:tag:number` (WL#15294). Numbers are 1 .. 2**63 - 2; tags
are a letter or underscore and up to 31 more letters, digits, underscores, in lower case.

Text ("GTID Format and Storage" in the manual; tried on MySQL 9.7.4): `uuid:1-3:5:tag:1-2,uuid:...`. A tag holds for the
intervals after it. Printed sorted by uuid, the untagged intervals first, then tags in ascending order. Read leniently:
any letter case, white space between tokens, empty items, overlapping or reversed intervals (the latter are empty),
uuids without dashes or in braces.

Binary, all little endian, the same in COM_BINLOG_DUMP_GTID and in PREVIOUS_GTIDS. Untagged: u64 number of entries,
each: 16 bytes uuid, u64 number of intervals, each: u64 start, u64 end (excluded). Tagged: a header u64 whose lowest and
highest bytes are 1 and whose six bytes between are the number of entries, each: uuid, tag (its length, as a
variable-length integer of MySQL's serialization library, which up to 63 is twice the length in one byte; then its
characters), number of intervals, intervals. A server that has once seen a tag always writes the tagged form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from kingbus_node.binlog.constants import Buffer, Flavor
from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.intervals import Intervals

Source: TypeAlias = tuple[bytes, str]
"""Who numbers: (16 bytes of uuid, tag or "")."""

MAX_NUMBER: Final = 2**63 - 2
"""The highest number of a GTID (GNO_END - 1)."""

_SPACE = " \t\n\v\f\r"
_HEX32 = re.compile(r"[0-9a-fA-F]{32}\Z")
_DASHED = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\Z")
_TAG = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}\Z")
_INTERVAL = re.compile(r"0*([0-9]{1,19})(?:[ \t\n\v\f\r]*-[ \t\n\v\f\r]*0*([0-9]{1,19}))?\Z")

_U64 = Struct("<Q")
_UUID_LENGTH = 16
_TAGGED = 1


def parse_uuid(text: str) -> bytes:
    """The 16 bytes of a uuid as MySQL accepts it: with dashes, with dashes in braces, or 32 hexadecimal digits."""
    inner = text[1:-1] if len(text) == 38 and text[0] == "{" and text[-1] == "}" else text
    if _DASHED.match(inner) or (inner is text and _HEX32.match(inner)):
        return bytes.fromhex(inner.replace("-", ""))
    raise BinlogError(f"expected a uuid like 3e11fa47-71ca-11e1-9e33-c80aa9429562, found {text[:64]!r}")


def format_uuid(uuid: bytes) -> str:
    """A uuid of 16 bytes as MySQL prints it."""
    digits = uuid.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def normalize_tag(text: str) -> str:
    """`text` as a tag, in lower case; BinlogError if it is none. "" is no tag."""
    if not text:
        return text
    if not _TAG.match(text):
        raise BinlogError(
            f"expected a GTID tag (a letter or _, then at most 31 letters, digits or _), found {text[:64]!r}"
        )
    return text.lower()


class GtidSet:
    """A set of MySQL GTIDs. Mutable; equal if it holds the same GTIDs.

    Methods that take a source take its uuid as 16 bytes and its tag ("" for none).
    """

    __slots__ = ("_sources",)

    flavor: Final = Flavor.MYSQL

    def __init__(self) -> None:
        self._sources: dict[Source, Intervals] = {}  # no empty Intervals

    # Text

    @classmethod
    def parse(cls, text: str) -> GtidSet:
        """Read a set as MySQL reads it. BinlogError with the offset of what it would refuse."""
        found: dict[Source, list[tuple[int, int]]] = {}
        at = 0
        for item in text.split(","):
            if item.strip(_SPACE):
                cls._parse_item(item, at, found)
            at += len(item) + 1
        out = cls()
        for source, pairs in found.items():
            intervals = Intervals(pairs)
            if intervals:
                out._sources[source] = intervals
        return out

    @staticmethod
    def _parse_item(item: str, at: int, found: dict[Source, list[tuple[int, int]]]) -> None:
        head, *pieces = item.split(":")
        try:
            uuid = parse_uuid(head.strip(_SPACE))
        except BinlogError as error:
            raise BinlogError(str(error), at) from None
        tag = ""
        at += len(head) + 1
        pairs = found.setdefault((uuid, tag), [])
        for piece in pieces:
            stripped = piece.strip(_SPACE)
            interval = _INTERVAL.match(stripped)
            if interval:
                start = int(interval[1])
                end = int(interval[2]) if interval[2] else start
                if not 1 <= start <= MAX_NUMBER or end > MAX_NUMBER:
                    raise BinlogError(f"expected GTID numbers in 1 .. 2**63 - 2, found {stripped!r}", at)
                pairs.append((start, end + 1))
            elif _TAG.match(stripped):
                tag = stripped.lower()
                pairs = found.setdefault((uuid, tag), [])
            else:
                raise BinlogError(f"expected a number, an interval or a tag, found {stripped[:64]!r}", at)
            at += len(piece) + 1

    def __str__(self) -> str:
        return self.format()

    def format(self, separator: str = ",") -> str:
        """The set as MySQL prints it, which itself separates uuids with a comma and a newline, e.g. in messages."""
        items: list[str] = []
        previous = b""
        for uuid, tag in sorted(self._sources):
            ranges = ":".join(
                str(start) if end == start + 1 else f"{start}-{end - 1}" for start, end in self._sources[uuid, tag]
            )
            if uuid == previous:
                items[-1] += f":{tag}:{ranges}"
            else:
                items.append(f"{format_uuid(uuid)}:{tag}:{ranges}" if tag else f"{format_uuid(uuid)}:{ranges}")
            previous = uuid
        return separator.join(items)

    def __repr__(self) -> str:
        return f"GtidSet.parse({str(self)!r})"

    def to_json(self) -> str:
        return str(self)

    @classmethod
    def from_json(cls, value: str) -> GtidSet:
        return cls.parse(value)

    # Binary

    def encode(self, tagged: bool | None = None) -> bytes:
        """The binary form. `tagged`: which one; None: tagged if and only if there are tags.

        ValueError for tagged=False if there are tags.
        """
        has_tags = self.has_tags
        if tagged is None:
            tagged = has_tags
        elif has_tags and not tagged:
            raise ValueError("a GTID set with tags has no untagged binary form")
        header = _TAGGED | len(self._sources) << 8 | _TAGGED << 56 if tagged else len(self._sources)
        out = bytearray(_U64.pack(header))
        for uuid, tag in sorted(self._sources):
            out += uuid
            if tagged:
                out.append(len(tag) << 1)
                out += tag.encode("ascii")
            bounds = self._sources[uuid, tag].bounds()
            out += _U64.pack(len(bounds) // 2)
            out += bounds.astype("<i8").tobytes()
        return bytes(out)

    @classmethod
    def decode(cls, data: Buffer) -> GtidSet:
        """Read either binary form, all of `data`. BinlogError with the offset if it is malformed."""
        view = memoryview(data)
        if len(view) < 8:
            raise BinlogError(f"expected a GTID set of at least 8 bytes, found {len(view)}", 0)
        header: int = _U64.unpack_from(view)[0]
        form = header >> 56
        if form not in (0, _TAGGED) or (form == _TAGGED and header & 0xFF != _TAGGED):
            raise BinlogError(f"expected a GTID set of format 0 or 1, found header {header:#018x}", 0)
        entries = header >> 8 & 0xFFFFFFFFFFFF if form else header
        out = cls()
        at = 8
        for _ in range(entries):
            at = out._decode_entry(view, at, form == _TAGGED)
        if at != len(view):
            raise BinlogError(f"expected the end of a GTID set, found {len(view) - at} more bytes", at)
        return out

    def _decode_entry(self, view: memoryview, at: int, tagged: bool) -> int:
        """Read the entry at `at`; returns where it ends."""
        if at + _UUID_LENGTH + tagged > len(view):
            raise BinlogError("expected a uuid, found the end of the GTID set", at)
        uuid = bytes(view[at : at + _UUID_LENGTH])
        at += _UUID_LENGTH
        tag = ""
        if tagged:
            length = view[at] >> 1
            if view[at] & 1 or length > 32:
                raise BinlogError(f"expected the length of a tag (at most 32), found byte {view[at]:#04x}", at)
            at += 1
            raw = bytes(view[at : at + length])
            try:
                tag = normalize_tag(raw.decode("latin-1"))
            except BinlogError as error:
                raise BinlogError(str(error), at) from None
            at += length
        if at + 8 > len(view):
            raise BinlogError("expected a number of intervals, found the end of the GTID set", at)
        intervals: int = _U64.unpack_from(view, at)[0]
        at += 8
        if intervals > (len(view) - at) // 16:
            raise BinlogError(f"expected {intervals} intervals, found the end of the GTID set", at)
        bounds = np.frombuffer(view, dtype="<i8", count=2 * intervals, offset=at)
        if intervals and (bounds[0] < 1 or (bounds[1:] <= bounds[:-1]).any()):
            raise BinlogError("expected GTID intervals in ascending order, with gaps between them", at)
        if intervals:
            self._update((uuid, tag), Intervals.from_sorted(bounds.tolist()))
        return at + 16 * intervals

    def apply_delta(self, data: Buffer) -> None:
        """Add the GTIDs of `data`, a set in either binary form."""
        self |= GtidSet.decode(data)

    # Changing

    def add(self, uuid: bytes, number: int, tag: str = "") -> None:
        """Add one GTID."""
        self.add_range(uuid, number, number + 1, tag)

    def add_range(self, uuid: bytes, start: int, end: int, tag: str = "") -> None:
        """Add the GTIDs numbered start .. end - 1 of a source."""
        if len(uuid) != _UUID_LENGTH:
            raise ValueError(f"expected a uuid of 16 bytes, found {len(uuid)}")
        if start >= end:
            return
        if start < 1 or end > MAX_NUMBER + 1:
            raise BinlogError(f"expected GTID numbers in 1 .. 2**63 - 2, found {start} .. {end - 1}")
        self._sources.setdefault((uuid, normalize_tag(tag)), Intervals()).add(start, end)

    def add_numbers(self, uuid: bytes, tag: str, numbers: npt.NDArray[np.int64]) -> None:
        """Add GTIDs of one source, numbers in any order, each in 1 .. 2**63 - 2."""
        self._update((uuid, normalize_tag(tag)), Intervals.from_numbers(numbers))

    def __ior__(self, other: GtidSet) -> GtidSet:
        for source, intervals in other._sources.items():
            self._update(source, intervals)
        return self

    def _update(self, source: Source, intervals: Intervals) -> None:
        mine = self._sources.get(source)
        if mine is None:
            self._sources[source] = intervals.copy()
        else:
            mine.update(intervals)

    # Algebra

    def copy(self) -> GtidSet:
        out = GtidSet()
        out._sources = {source: intervals.copy() for source, intervals in self._sources.items()}
        return out

    def __or__(self, other: GtidSet) -> GtidSet:
        out = self.copy()
        out |= other
        return out

    def __sub__(self, other: GtidSet) -> GtidSet:
        out = GtidSet()
        for source, intervals in self._sources.items():
            theirs = other._sources.get(source)
            left = intervals.copy() if theirs is None else intervals - theirs
            if left:
                out._sources[source] = left
        return out

    def __and__(self, other: GtidSet) -> GtidSet:
        out = GtidSet()
        for source, intervals in self._sources.items():
            theirs = other._sources.get(source)
            common = intervals & theirs if theirs is not None else None
            if common:
                out._sources[source] = common
        return out

    def __ge__(self, other: GtidSet) -> bool:
        """Whether this set holds every GTID of `other` (GTID_SUBSET(other, self))."""
        for source, intervals in other._sources.items():
            mine = self._sources.get(source)
            if mine is None or not mine >= intervals:
                return False
        return True

    def __le__(self, other: GtidSet) -> bool:
        return other >= self

    def contains(self, other: GtidSet) -> bool:
        """The same as `self >= other`."""
        return self >= other

    def overlaps(self, other: GtidSet) -> bool:
        """Whether there is a GTID in both."""
        return bool(self & other)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GtidSet) and self._sources == other._sources

    __hash__ = None  # type: ignore[assignment]  # mutable

    # Questions

    def __bool__(self) -> bool:
        return bool(self._sources)

    @property
    def count(self) -> int:
        """How many GTIDs are in the set."""
        return sum(intervals.count for intervals in self._sources.values())

    @property
    def has_tags(self) -> bool:
        return any(tag for _, tag in self._sources)

    def has(self, uuid: bytes, number: int, tag: str = "") -> bool:
        """Whether a GTID is in the set."""
        intervals = self._sources.get((uuid, tag))
        return intervals is not None and number in intervals

    def holds(self, uuid: bytes, tag: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """For each of the source's numbers whether that GTID is in the set."""
        intervals = self._sources.get((uuid, tag))
        return np.zeros(len(numbers), dtype=np.bool_) if intervals is None else intervals.holds(numbers)

    def sources(self) -> Iterator[tuple[Source, Intervals]]:
        """The sources in the order in which they are printed, each with its numbers (not to be changed)."""
        for source in sorted(self._sources):
            yield source, self._sources[source]

    def only(self, uuid: bytes) -> GtidSet:
        """The GTIDs of one uuid, with all its tags."""
        out = GtidSet()
        out._sources = {s: intervals.copy() for s, intervals in self._sources.items() if s[0] == uuid}
        return out
