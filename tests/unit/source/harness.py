"""The real reader without threads, sockets and disks: it reads from an `Origin` into a log in memory.

Everything that decides is the real thing (`resume`, `framing`, `batch`, `reader`); only the link and the consensus are
played. `MemoryLog` folds each entry into a real `LogState`, which refuses what may not follow.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

import pytest
from unit.source.origin import Origin, stream

from kingbus_node.binlog.constants import Flavor
from kingbus_node.config import SourceSettings
from kingbus_node.raft.api import CommitListener, ConsensusError
from kingbus_node.source.checks import Replica, SourceFacts
from kingbus_node.source.errors import Disconnected, PositionGone, SourceEnd, SourceError
from kingbus_node.source.reader import SourceReader
from kingbus_node.source.resume import Plan, make_plan
from kingbus_node.store.entry import HEADER_SIZE, OFFSET_MASK, Entry, Flag, Kind, encode
from kingbus_node.store.state import LogState

FLAVORS = pytest.mark.parametrize("flavor", list(Flavor), ids=str)
SEMI_SYNC = pytest.mark.parametrize("semi_sync", [False, True], ids=["plain", "semi-sync"])

CONTINUATION = 0x80000000


class MemoryLog:
    """A log, and a consensus that commits at once, unless `held_back` is set, until `release`."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.folded = LogState()
        self.listener: CommitListener = lambda _index: None
        self.held_back = False
        self.commit_index = 0
        self.refusal: ConsensusError | None = None

    # resume.ReadableLog
    @property
    def state(self) -> LogState:
        return self.folded.copy()

    @property
    def first_index(self) -> int:
        return 1

    def read(self, index: int) -> Entry:
        return self.entries[index - 1]

    # raft.api.Consensus
    def propose(self, entries: Sequence[Entry]) -> int:
        if self.refusal is not None:
            raise self.refusal
        for entry in entries:
            index = len(self.entries) + 1
            header, before = encode(entry, index, 1, 0)
            assert header.body_crc == zlib.crc32(entry.payload, zlib.crc32(before[HEADER_SIZE:]))
            self.folded.fold(header, entry.meta)
            self.entries.append(entry)
        if not self.held_back:
            self.release()
        return len(self.entries)

    def release(self) -> None:
        """Commit everything."""
        self.commit_index = len(self.entries)
        self.listener(self.commit_index)

    @property
    def last_index(self) -> int:
        return len(self.entries)

    def wait_committed(self, index: int, deadline: float) -> bool:
        del index, deadline
        return True

    def add_commit_listener(self, listener: CommitListener) -> None:
        self.listener = listener

    failure = None
    is_leader = True
    term = 1
    leader = "me"

    def close(self) -> None:
        pass

    # For assertions
    def live(self) -> Iterator[Entry]:
        """The DATA entries that count: not cancelled."""
        opened: list[Entry] = []
        for entry in self.entries:
            if entry.kind == Kind.CANCEL:
                opened = []
            if entry.kind != Kind.DATA:
                continue
            opened.append(entry)
            if entry.flags & Flag.LAST:
                yield from opened
                opened = []

    def files(self) -> dict[str, bytes]:
        """The bytes of each file, by the name that replicas see, without the magic number in front."""
        out: dict[str, bytearray] = {}
        name = ""
        for entry in self.live():
            if entry.meta.file is not None:
                name = entry.meta.file.name
                assert name not in out
                out[name] = bytearray()
            out[name] += events_of(entry)
        return {name: bytes(data) for name, data in out.items()}


def events_of(entry: Entry) -> bytes:
    """The payload without packet headers and status bytes."""
    out = bytearray()
    ends = [*(packet & OFFSET_MASK for packet in entry.packets.tolist()[1:]), len(entry.payload)]
    for packet, end in zip(entry.packets.tolist(), ends, strict=True):
        at = packet & OFFSET_MASK
        assert entry.payload[at + 3] == 0
        out += bytes(entry.payload[at + (4 if packet >= CONTINUATION else 5) : end])
    return bytes(out)


class Script:
    """A link that gives what it is told to, in portions, and is then disconnected."""

    def __init__(self, data: bytes, portions: Iterator[int], end: SourceError | None = None) -> None:
        self.data = memoryview(data)
        self.portions = portions
        self.end = end
        self.sent: list[bytes] = []
        self.pause = False

    def receive_into(self, room: memoryview) -> int:
        if self.pause:
            self.pause = False
            return 0
        if not self.data:
            raise self.end or Disconnected("the script is over")
        count = min(len(room), len(self.data), next(self.portions))
        room[:count] = self.data[:count]
        self.data = self.data[count:]
        self.pause = True
        return count

    def more(self, timeout: float) -> bool:
        del timeout
        return bool(self.data)

    def wait(self, timeout: float) -> bool:
        del timeout
        return True

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        pass


def everything() -> Iterator[int]:
    """Portions as big as they come."""
    while True:
        yield 1 << 30


class Harness:
    """A reader with its log. `entry_bytes`: as for `SourceReader`."""

    def __init__(self, *, start: str = "earliest", entry_bytes: int = 1 << 20) -> None:
        self.log = MemoryLog()
        settings = SourceSettings.model_validate({"endpoints": ["127.0.0.1:1"], "user": "repl", "start": start})
        replica = Replica(100, "77777777-e697-11f1-8268-02fc00000001")
        self.reader = SourceReader(settings, self.log, self.log, replica, entry_bytes=entry_bytes)
        self.log.add_commit_listener(self.reader.committed)
        self.start = start
        self.gone: tuple[str, int] | None = None
        self.acks: list[bytes] = []
        self.commands: list[bytes] = []

    def session(
        self,
        origin: Origin,
        *,
        cut: int | None = None,
        portions: Iterator[int] | None = None,
        semi_sync: bool = False,
        wanted: Sequence[bytes] = (),
        damage: Callable[[bytes], bytes] | None = None,
    ) -> SourceError:
        """One connection, cut after `cut` bytes of the dump if that is given; returns what ended it.

        `damage` changes the dump on its way. A source that says that the file is gone is asked again, as by the reader.
        """
        damage = damage or (lambda data: data if cut is None else data[:cut])
        error = self._session(origin, damage, portions or everything(), semi_sync, wanted)
        if isinstance(error, PositionGone):
            self.gone = (origin.facts().identity, self.log.state.file_id)
            error = self._session(origin, damage, portions or everything(), semi_sync, wanted)
        return error

    def _session(
        self,
        origin: Origin,
        damage: Callable[[bytes], bytes],
        portions: Iterator[int],
        semi_sync: bool,
        wanted: Sequence[bytes],
    ) -> SourceError:
        try:
            self.reader._settle()
            facts = origin.facts(semi_sync=semi_sync)
            plan = self._plan(origin, facts)
            self.commands.append(plan.command)
            events: list[bytes] = []
            end: SourceError | None = None
            try:
                events.extend(origin.dump(plan.command, plan.connect_state))
            except SourceEnd as error:
                end = error
            data = stream(events, semi_sync=semi_sync, wanted=wanted)
            damaged = damage(data)
            link = Script(damaged, portions, end if len(damaged) == len(data) else None)
            try:
                self.reader._facts = facts
                self.reader._dump(link, facts, plan)  # type: ignore[arg-type]
            finally:
                self.acks += link.sent
        except SourceError as error:
            return error
        raise AssertionError("a session ends with an error")

    def _plan(self, origin: Origin, facts: SourceFacts) -> Plan:
        gone = self.gone == (facts.identity, self.log.state.file_id)
        return make_plan(self.log, facts, 100, self.start, file_is_gone=gone, gtid_position=origin.gtid_position)

    def length(self, origin: Origin) -> int:
        """Bytes of the dump that the next session would get."""
        plan = self._plan(origin, origin.facts())
        return len(stream(list(origin.dump(plan.command, plan.connect_state))))


def assert_holds(harness: Harness, origin: Origin) -> None:
    """The log holds the origin's files, byte for byte, and its GTIDs."""
    assert harness.log.files() == {file.name: file.bytes for file in origin.files}
    assert str(harness.log.state.executed) == str(origin.executed)
