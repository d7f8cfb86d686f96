"""Raft's storage on real files: every rule of `storage.Storage`, and what is left after a kill at any moment."""

from __future__ import annotations

import errno
import os
import queue
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
from unit.store.kills import ends_before_kill
from unit.store.samples import CANCEL, NOOP, Source, executed, write
from unit.store.test_recovery import abandon

from kingbus_node.raft import syncer as syncers
from kingbus_node.raft.configuration import Configuration
from kingbus_node.raft.configuration import Member as Membership
from kingbus_node.raft.core import Raft
from kingbus_node.raft.errors import ProtocolError
from kingbus_node.raft.journal import Draft, Journal, Sealed
from kingbus_node.raft.messages import Append, AppendReply, Entry, Kind, decode, encode
from kingbus_node.raft.settings import Settings
from kingbus_node.raft.storage import HardState, Identity, Snapshot, Storage
from kingbus_node.raft.syncer import Syncer
from kingbus_node.store import durable
from kingbus_node.store import entry as store
from kingbus_node.store import log as log_module
from kingbus_node.store.errors import CorruptLogError, InvalidEntryError, LogFailedError, PurgedError, StoreError
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader
from kingbus_node.store.segment import log_path
from kingbus_node.util.crc import crc32

THREE = Configuration.of(["a:1", "b:1", "c:1"])
FOUR = Configuration.of(["a:1", "b:1", "c:1", "d:1"])


class Disk:
    """A log, its journal, and a source of entries for it."""

    def __init__(self, directory: Path, *, segment_bytes: int = 1 << 20) -> None:
        self.directory = directory
        self.segment_bytes = segment_bytes
        self.source = Source()
        self.open()

    def open(self) -> None:
        self.log = Log.open(self.directory, segment_bytes=self.segment_bytes)
        self.journal = Journal(self.log, min_free_bytes=1)

    def restart(self, *, kill: bool = False) -> None:
        abandon(self.log) if kill else self.log.close()
        self.open()

    def propose(self, *entries: store.Entry, term: int | None = None) -> Sequence[Entry]:
        term = max(1, self.log.last_term) if term is None else term
        first = self.journal.last_index + 1
        sealed = [Draft(entry).seal(index, term) for index, entry in enumerate(entries, first)]
        self.journal.append(sealed)
        return sealed

    def begin(self, transactions: int = 0, term: int = 1) -> None:
        self.propose(self.source.flavor(), self.source.file(), term=term)
        self.propose(*(self.source.transaction() for _ in range(transactions)), term=term)

    def control(self, kind: Kind, body: bytes = b"", term: int = 1) -> Entry:
        entry = self.journal.seal_control(kind, body, self.journal.last_index + 1, term)
        self.journal.append([entry])
        return entry

    def commit(self) -> None:
        self.log.sync()
        self.journal.commit(self.journal.last_index)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "one", segment_bytes=4096)


def travel(entries: Sequence[Entry], term: int = 99) -> Sequence[Entry]:
    """The entries as another node receives them."""
    first = entries[0]
    message = decode(b"".join(bytes(part) for part in encode(Append(term, 0, first.index - 1, 0, 0, tuple(entries)))))
    assert isinstance(message, Append)
    return message.entries


def bytes_of(journal: Journal) -> list[tuple[int, int, Kind, bytes]]:
    """Every entry, but for the header's checksum and what its writer knew to be durable."""
    found, index = [], journal.first_index
    while index <= journal.last_index:
        for entry in journal.read(index, 5000):
            data = b"".join(bytes(part) for part in entry.parts)
            assert len(data) == entry.size
            found.append((entry.index, entry.term, entry.kind, data[8:76] + data[80:]))
            index += 1
    return found


def test_a_journal_is_a_storage(disk: Disk) -> None:
    storage: Storage = disk.journal
    assert (storage.first_index, storage.last_index, storage.commit_floor, storage.writable) == (1, 0, 0, True)
    assert (storage.term_at(0), storage.term_at(1), storage.term_at(-1)) == (0, None, None)
    assert (storage.last_at_most(9, 9), storage.last_at_most(0, 0)) == (0, 0)
    assert (list(storage.configurations()), storage.hard_state()) == ([], HardState())
    assert (storage.snapshot().index, storage.snapshot().term, storage.snapshot().configuration) == (0, 0, None)


def test_terms_are_those_of_the_entries_through_appends_and_truncations(disk: Disk) -> None:
    dice = Random(7)
    terms, term = [0], 0
    for _ in range(150):
        if dice.random() < 0.2 and len(terms) > 1:
            index = dice.randint(1, len(terms) - 1)
            disk.journal.truncate_from(index)
            del terms[index:]
        else:
            term = max(terms[-1], term) + dice.choice([0, 0, 0, 1, 3])
            count = dice.randint(1, 20)
            disk.propose(*[NOOP] * count, term=term)
            terms += [term] * count
        if dice.random() < 0.1:
            disk.restart(kill=dice.random() < 0.5)
        journal = disk.journal
        assert journal.last_index == len(terms) - 1
        assert journal.term_at(len(terms)) is None
        for index in {dice.randrange(len(terms)) for _ in range(10)} | {0, len(terms) - 1}:
            assert journal.term_at(index) == terms[index]
            wanted = dice.randint(0, terms[-1] + 1)
            best = max(n for n in range(index + 1) if n == 0 or terms[n] <= wanted)
            assert journal.last_at_most(index, wanted) == best
    disk.log.close()


def test_reads_give_what_fits_and_at_least_one_entry(disk: Disk) -> None:
    disk.begin()
    disk.propose(*(disk.source.transaction((79, 400, 31)) for _ in range(40)), disk.source.transaction((9000,)))
    for index in (1, 5, 30, 43):
        for limit in (1, 700, 3000, 1 << 20):
            entries = disk.journal.read(index, limit)
            assert [e.index for e in entries] == list(range(index, index + len(entries)))
            assert len(entries) == 1 or sum(e.size for e in entries) <= limit
    assert sum(e.size for e in disk.journal.read(43, 1)) > 9000
    assert len(bytes_of(disk.journal)) == 43


def test_entries_are_the_same_bytes_on_every_node(disk: Disk, tmp_path: Path) -> None:
    other = Disk(tmp_path / "two", segment_bytes=8192)
    disk.begin(20)
    disk.control(Kind.NOOP, term=2)
    disk.control(Kind.CONFIGURATION, THREE.encode(), term=2)
    disk.propose(disk.source.fragment(first=True), disk.source.fragment(), CANCEL, term=2)
    while other.journal.last_index < disk.journal.last_index:
        other.journal.append(travel(disk.journal.read(other.journal.last_index + 1, 1500)))
        other.log.sync()
    assert bytes_of(other.journal) == bytes_of(disk.journal)
    kinds = [kind for _, _, kind, _ in bytes_of(disk.journal)]
    assert kinds == [Kind.DATA] * 22 + [Kind.NOOP, Kind.CONFIGURATION] + [Kind.DATA] * 3
    disk.commit()
    other.commit()
    assert other.log.state == disk.log.state


def test_what_is_read_does_not_change_with_the_proposers_buffer(disk: Disk) -> None:
    disk.begin()
    made = disk.source.transaction()
    buffer = bytearray(made.payload)
    disk.propose(store.Entry(made.kind, made.flags, made.file_id, made.timestamp, made.start_pos, made.end_pos,
                             made.meta, made.packets, buffer, made.event_count, made.transaction_count))  # fmt: skip
    read = disk.journal.read(3, 1 << 20)
    buffer[:] = bytes(len(buffer))
    assert bytes(read[0].parts[0])[-len(buffer) :] == made.payload


def test_damaged_and_misplaced_entries_of_a_peer_are_refused_and_nothing_is_written(disk: Disk, tmp_path: Path) -> None:
    other = Disk(tmp_path / "two")
    disk.begin(3)
    good = travel(disk.journal.read(1, 1 << 20))

    def changed(entry: Entry, at: int = -3, **fields: int) -> Entry:
        data = bytearray(bytes(entry.parts[0]))
        data[at] ^= 1 if not fields else 0
        values = {"index": entry.index, "term": entry.term, "kind": entry.kind, "size": entry.size, **fields}
        return Entry(values["index"], values["term"], Kind(values["kind"]), (bytes(data),), values["size"])

    for bad in (
        changed(good[4]),
        changed(good[4], 20),
        changed(good[4], index=6),
        changed(good[4], term=2),
        changed(good[4], kind=Kind.NOOP),
        Entry(5, 1, Kind.DATA, (b"short",), 5),
    ):
        with pytest.raises(ProtocolError):
            other.journal.append([*good[:4], bad])
        assert other.journal.last_index == 0
    with pytest.raises(ProtocolError, match="expected entry 1, found entry 2"):
        other.journal.append(good[1:])
    bad_members = disk.journal.seal_control(Kind.CONFIGURATION, b"nonsense", 6, 1)
    with pytest.raises(ProtocolError, match="configuration"):
        other.journal.append([*good, *travel([bad_members])])
    assert other.journal.last_index == 0
    other.journal.append(good)
    assert bytes_of(other.journal) == bytes_of(disk.journal)


def test_a_proposal_that_may_not_follow_is_the_proposers_mistake(disk: Disk) -> None:
    disk.begin()
    with pytest.raises(InvalidEntryError, match="none is open"):
        disk.propose(disk.source.transaction(), disk.source.fragment(last=True))
    assert disk.journal.last_index == 2


def test_a_truncation_is_durable_and_spares_what_is_committed(disk: Disk) -> None:
    disk.begin(5)
    disk.commit()
    disk.propose(*(disk.source.transaction() for _ in range(60)), term=2)
    disk.log.sync()
    with pytest.raises(StoreError, match="committed"):
        disk.journal.truncate_from(7)
    disk.journal.truncate_from(9)
    disk.restart(kill=True)
    assert (disk.journal.last_index, disk.journal.term_at(8), disk.journal.commit_floor) == (8, 2, 7)
    disk.control(Kind.NOOP, term=3)
    assert [term for _, term, _, _ in bytes_of(disk.journal)] == [1] * 7 + [2, 3]


def test_configurations_survive_restarts_purges_and_truncations(disk: Disk) -> None:
    disk.begin(20)
    disk.control(Kind.CONFIGURATION, THREE.encode())
    disk.propose(*(disk.source.transaction() for _ in range(60)), disk.source.end_of_file(), disk.source.file())
    disk.propose(*(disk.source.transaction() for _ in range(20)))
    disk.commit()
    write(disk.log, disk.log.purge_entry(2))
    assert disk.journal.first_index == disk.log.state.first_index > 23
    disk.propose(*[NOOP] * 5)
    four = disk.control(Kind.CONFIGURATION, FOUR.encode())
    assert disk.journal.control_body(four) == FOUR.encode()
    disk.log.sync()
    disk.restart(kill=True)
    assert disk.journal.configurations() == [(23, THREE), (four.index, FOUR)]
    disk.journal.truncate_from(four.index)
    disk.restart(kill=True)
    assert disk.journal.configurations() == [(23, THREE)]
    assert disk.journal.snapshot().configuration == THREE
    disk.control(Kind.CONFIGURATION, FOUR.encode(), term=2)
    disk.commit()
    disk.restart()
    assert disk.journal.configurations() == [(four.index, FOUR)]


def test_term_vote_and_identity_are_durable_when_saved(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "one")
    identity = disk.journal.identity()
    assert (identity.formed, identity.founders) == (False, ())
    assert identity.incarnation != Disk(tmp_path / "two").journal.identity().incarnation
    disk.journal.save_hard_state(HardState(7, "b:1"))
    disk.restart(kill=True)
    assert (disk.journal.hard_state(), disk.journal.identity()) == (HardState(7, "b:1"), identity)
    disk.journal.save_hard_state(HardState(8, None))
    formed = Identity(identity.incarnation, True, (("a:1", identity.incarnation), ("b:1", 2**63)))
    disk.journal.save_identity(formed)
    disk.restart(kill=True)
    assert (disk.journal.hard_state(), disk.journal.identity()) == (HardState(8, None), formed)
    disk.log.close()
    path = tmp_path / "one" / "identity"
    good = path.read_bytes()
    for at in (0, 12, 20, 24, len(good) - 1):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        log = Log.open(tmp_path / "one")
        with pytest.raises(CorruptLogError, match="identity"):
            Journal(log)
        log.close()


def purged(disk: Disk) -> None:
    """Three source files, of which the first two are purged; a transaction of the second spans a segment's end."""
    disk.begin(10)
    disk.control(Kind.CONFIGURATION, THREE.encode())
    for number in range(2):
        disk.propose(disk.source.fragment(first=True), *(disk.source.fragment((900,)) for _ in range(9)))
        disk.propose(disk.source.fragment(last=True), *(disk.source.transaction() for _ in range(number)))
        disk.propose(disk.source.end_of_file(), disk.source.file(), disk.source.transaction(), term=2)
    disk.commit()
    write(disk.log, disk.log.purge_entry(3), term=2)
    disk.propose(*(disk.source.transaction() for _ in range(20)), term=3)
    disk.commit()


def test_a_follower_begins_anew_with_a_snapshot(disk: Disk, tmp_path: Path) -> None:
    purged(disk)
    other = Disk(tmp_path / "two", segment_bytes=4096)
    other.begin(40)
    other.log.sync()
    other.journal.commit(12)
    reader = LogReader(other.directory)
    cursor = reader.cursor(5)
    snapshot = disk.journal.snapshot()
    assert (snapshot.index, snapshot.configuration) == (disk.journal.first_index - 1, THREE)
    incarnation = other.journal.identity().incarnation
    other.journal.save_hard_state(HardState(3, "a:1"))
    other.journal.reset(snapshot)
    for _ in range(2):
        journal = other.journal
        assert (journal.first_index, journal.last_index) == (snapshot.index + 1, snapshot.index)
        assert journal.term_at(snapshot.index) == snapshot.term
        assert [c for _, c in journal.configurations()] == [THREE]
        assert journal.snapshot() == snapshot
        assert (journal.hard_state(), journal.identity().incarnation) == (HardState(3, "a:1"), incarnation)
        other.restart(kill=True)
    assert other.journal.commit_floor == snapshot.index
    with pytest.raises(PurgedError):
        cursor.read(1 << 20)
    while other.journal.last_index < disk.journal.last_index:
        other.journal.append(travel(disk.journal.read(other.journal.last_index + 1, 3000)))
    other.commit()
    assert bytes_of(other.journal) == bytes_of(disk.journal)
    assert other.log.state == disk.log.state
    for _ in range(2):
        reader = LogReader(other.directory)
        assert list(reader.files()) == list(LogReader(disk.directory).files())
        assert str(reader.purged()) == str(LogReader(disk.directory).purged()) == executed(14)
        other.restart()


def test_a_reader_goes_on_after_its_log_was_replaced(disk: Disk, tmp_path: Path) -> None:
    purged(disk)
    other = Disk(tmp_path / "two", segment_bytes=4096)
    reader = LogReader(other.directory)
    assert reader.state().index == 0
    other.journal.reset(disk.journal.snapshot())
    other.journal.append(travel(disk.journal.read(other.journal.last_index + 1, 3000)))
    other.commit()
    assert reader.state() == other.log.state
    assert [info.id for info in reader.files()] == [3]


def test_a_snapshot_that_a_log_cannot_begin_with_is_refused(disk: Disk, tmp_path: Path) -> None:
    purged(disk)
    good = disk.journal.snapshot()
    other = Disk(tmp_path / "two")
    inside = disk.log.state_at(good.index + 2)
    assert inside.to_json()
    for bad in (
        Snapshot(good.index, good.term, THREE, b"not JSON"),
        Snapshot(good.index, good.term, THREE, b"{}"),
        Snapshot(good.index + 1, good.term, THREE, good.state),
        Snapshot(good.index, good.term + 1, THREE, good.state),
    ):
        with pytest.raises(ProtocolError):
            other.journal.reset(bad)
    with pytest.raises(StoreError, match="cannot begin with entry"):
        other.log.reset(inside)
    assert (other.journal.first_index, other.journal.last_index) == (1, 0)
    with pytest.raises(ProtocolError, match="is committed"):
        disk.journal.reset(good)


@pytest.mark.parametrize("scenario", ["append", "truncate", "reset", "vote"])
def test_a_kill_at_any_system_call_loses_nothing_that_was_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str
) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_ENTRIES", 6)
    origin = Disk(tmp_path / "origin")
    purged(origin)
    snapshot = origin.journal.snapshot()
    base = Disk(tmp_path / "base")
    base.begin(5)
    base.commit()
    base.propose(*(base.source.transaction() for _ in range(8)), term=2)
    base.log.sync()
    base.journal.save_hard_state(HardState(2, "a:1"))
    before = bytes_of(base.journal)
    base.log.close()

    def run(journal: Journal) -> None:
        if scenario == "append":
            first = journal.last_index + 1
            journal.append([Draft(NOOP).seal(index, 3) for index in range(first, first + 15)])
        elif scenario == "truncate":
            journal.truncate_from(9)
        elif scenario == "reset":
            journal.reset(snapshot)
        else:
            journal.save_hard_state(HardState(3, "c:1"))
            journal.save_identity(Identity(5, True))

    killed_at, finished = 0, False
    while not finished:
        directory = tmp_path / str(killed_at)
        shutil.copytree(base.directory, directory)
        log = Log.open(directory)
        journal = Journal(log)
        identity = journal.identity()
        finished = ends_before_kill(partial(run, journal), killed_at, monkeypatch)
        abandon(log)
        log = Log.open(directory)
        journal = Journal(log)
        was_reset = journal.first_index > 1
        assert was_reset or bytes_of(journal)[:8] == before[:8]
        state = journal.hard_state()
        if scenario == "append":
            assert bytes_of(journal)[: len(before)] == before
        elif scenario == "truncate":
            assert journal.last_index == 8 if finished else 8 <= journal.last_index <= len(before)
        elif scenario == "reset":
            assert was_reset or bytes_of(journal) == before
            assert was_reset or not finished
            if was_reset:
                assert journal.snapshot() == snapshot
                assert journal.last_index == journal.commit_floor == snapshot.index
                journal.append(travel(origin.journal.read(snapshot.index + 1, 1 << 20)))
        else:
            assert state in (HardState(2, "a:1"), HardState(3, "c:1"))
            assert journal.identity() in (identity, Identity(5, True))
            assert not finished or (state.term, journal.identity()) == (3, Identity(5, True))
        journal.append([journal.seal_control(Kind.NOOP, b"", journal.last_index + 1, 9)])
        log.close()
        shutil.rmtree(directory)
        killed_at += 1
    assert killed_at > 3


def unexpected(failure: Exception) -> None:
    pytest.fail(f"no failure was expected: {failure}")


def test_a_sync_is_reported_once_it_is_done_and_covers_what_was_requested(disk: Disk) -> None:
    reached: queue.SimpleQueue[int] = queue.SimpleQueue()
    seconds: list[float] = []

    def done() -> bool:
        reached.put(disk.log.durable_index)
        return False

    syncer = Syncer(disk.log, done, unexpected, seconds.append)
    for count in range(1, 4):
        disk.propose(*[NOOP] * count)
        assert disk.log.durable_index < disk.journal.last_index
        syncer.request()
        assert reached.get(timeout=30) == disk.journal.last_index
    syncer.close()
    assert reached.empty()
    assert len(seconds) == 3


def test_another_sync_follows_at_once_when_there_is_more_to_make_durable(disk: Disk) -> None:
    reached: queue.SimpleQueue[int] = queue.SimpleQueue()

    def done() -> bool:
        reached.put(disk.log.durable_index)
        if disk.journal.last_index < 3:
            disk.propose(NOOP)
            return True
        return False

    syncer = Syncer(disk.log, done, unexpected)
    disk.propose(NOOP)
    syncer.request()
    assert [reached.get(timeout=30) for _ in range(3)] == [1, 2, 3]
    syncer.close()
    assert reached.empty()


def test_a_sync_that_fails_is_told_to_the_loop(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()
    syncer = Syncer(disk.log, lambda: pytest.fail("it was not done"), failures.put)
    disk.propose(NOOP)
    monkeypatch.setattr(durable, "fdatasync", failing)
    syncer.request()
    failure = failures.get(timeout=30)
    assert isinstance(failure, LogFailedError)
    assert "Input/output error" in str(failure)
    syncer.close()
    assert failures.empty()


def test_a_sync_that_found_no_room_is_tried_until_there_is(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Semaphore(0)
    reached: queue.SimpleQueue[int] = queue.SimpleQueue()
    monkeypatch.setattr(syncers, "_FULL_SECONDS", 0.01)

    def full(_: int) -> None:
        tried.release()
        raise OSError(errno.ENOSPC, "No space left on device")

    def done() -> bool:
        reached.put(disk.log.durable_index)
        return False

    syncer = Syncer(disk.log, done, unexpected)
    disk.propose(NOOP)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "fdatasync", full)
        syncer.request()
        assert tried.acquire(timeout=30)
    assert reached.get(timeout=30) == 1
    syncer.close()


def test_a_syncer_ends_while_there_is_no_room(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Semaphore(0)

    def full(_: int) -> None:
        tried.release()
        raise OSError(errno.ENOSPC, "No space left on device")

    syncer = Syncer(disk.log, lambda: pytest.fail("it was not done"), unexpected)
    disk.propose(NOOP)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "fdatasync", full)
        syncer.request()
        assert tried.acquire(timeout=30)
        syncer.close()


def test_the_checksum_of_a_body_is_computed_by_the_proposer_only(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.begin()
    draft = Draft(disk.source.transaction((100_000,)))
    computed: list[int] = []

    def counting(data: bytes, value: int = 0) -> int:
        computed.append(len(data))
        return crc32(data, value)

    monkeypatch.setattr(store, "crc32", counting)
    sealed = draft.seal(3, 1)
    assert isinstance(sealed, Sealed)
    disk.journal.append([sealed])
    assert max(computed) < 4096


class Member:
    """A node of a small cluster: a `Raft` over a real journal, synced only when the test says so."""

    def __init__(self, address: str, directory: Path, segment_bytes: int) -> None:
        self.address = address
        self.disk = Disk(directory, segment_bytes=segment_bytes)
        self.start(0.0)

    def start(self, now: float) -> None:
        self.syncing = True
        self.raft = Raft(self.address, self.disk.journal, THREE, Settings(append_bytes=2000), Random(self.address), now)

    def crash(self) -> None:
        """The machine loses its power: what was not synced is gone."""
        log = self.disk.log
        kept, newest = log.durable_index, log._segments.newest
        end = log._segments.open(newest).header().data_start
        for located, _ in log._segments.entries(newest, kept):
            end = located.end
        abandon(log)
        os.truncate(log_path(self.disk.directory, newest), end)


class Cluster:
    """Three members, virtual time, and a network that carries bytes in order."""

    def __init__(self, directory: Path, segment_bytes: int = 1 << 20) -> None:
        self.now = 0.0
        self.members = {a: Member(a, directory / a[0], segment_bytes) for a in THREE.voters}
        self.up = set(self.members)
        self.connect(*self.up)

    def connect(self, *addresses: str) -> None:
        for address in sorted(addresses):
            for other in sorted(self.up - {address}):
                for here, there in ((address, other), (other, address)):
                    if there not in self.members[here].raft.peers:
                        self.members[here].raft.connected(there, self.now)

    def run(self, until: Callable[[], bool]) -> None:
        for _ in range(3000):
            self.now += 0.01
            for address in sorted(self.up):
                member = self.members[address]
                raft = member.raft
                if self.now >= raft.deadline:
                    raft.tick(self.now)
                for peer, message in raft.messages(self.now):
                    if peer in self.up:
                        data = b"".join(bytes(part) for part in encode(message))
                        self.members[peer].raft.step(address, decode(data), self.now)
                if member.syncing and raft.unsynced:
                    raft.sync_started()
                    member.disk.log.sync()
                    raft.sync_finished(self.now)
                member.disk.journal.commit(raft.readable_index)
            if until():
                return
        raise AssertionError("the cluster did not get there in 30 s of its time")

    def leader(self) -> Member | None:
        leaders = [self.members[a] for a in self.up if self.members[a].raft.is_leader]
        return max(leaders, key=lambda m: m.raft.term, default=None)

    def led(self) -> Member:
        def ready() -> bool:
            leader = self.leader()
            return leader is not None and leader.raft.leadership is not None and leader.raft.leadership.ready

        self.run(ready)
        leader = self.leader()
        assert leader is not None
        return leader

    def crash(self, member: Member) -> None:
        self.up.discard(member.address)
        member.crash()
        for other in sorted(self.up):
            self.members[other].raft.disconnected(member.address, self.now)

    def restart(self, member: Member) -> None:
        member.disk.open()
        member.start(self.now)
        self.up.add(member.address)
        self.connect(member.address)

    def settled(self) -> bool:
        logs = [self.members[a].disk.log for a in self.up]
        return all(log.commit_index == log.last_index == logs[0].last_index for log in logs)


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_three_nodes_over_real_journals_agree_after_a_crash(tmp_path: Path, who: str) -> None:
    cluster = Cluster(tmp_path)
    source = Source()

    def propose(leader: Member, *entries: store.Entry) -> int:
        return leader.raft.propose([Draft(entry) for entry in entries], cluster.now)

    leader = cluster.led()
    assert all(member.disk.journal.identity().formed for member in cluster.members.values())
    propose(leader, source.flavor(), source.file(), *(source.transaction() for _ in range(60)))
    cluster.run(cluster.settled)
    victim = leader if who == "leader" else next(m for m in cluster.members.values() if m is not leader)
    victim.syncing = False
    last = propose(leader, *(source.transaction((79, 900, 31)) for _ in range(5)))
    if who == "leader":
        # The two others have it on disk: it is committed, although its leader has not.
        cluster.run(lambda: leader.raft.commit_index == last)
        assert leader.raft.readable_index == leader.disk.log.durable_index == last - 5
    else:
        cluster.run(lambda: leader.raft.commit_index == victim.disk.log.last_index == last)
    alone = 0
    if who == "leader":
        for member in cluster.members.values():
            if member is not leader:
                leader.raft.disconnected(member.address, cluster.now)
        alone = propose(leader, Source().flavor(), NOOP)  # reaches nobody
    cluster.crash(victim)
    leader = cluster.led()
    assert leader is not victim
    propose(leader, *(source.transaction() for _ in range(40)))
    cluster.run(cluster.settled)
    cluster.restart(victim)
    assert victim.disk.log.last_index == last - 5 < max(last, alone)
    cluster.run(cluster.settled)
    contents = [bytes_of(member.disk.journal) for member in cluster.members.values()]
    assert contents[0] == contents[1] == contents[2]
    for member in cluster.members.values():
        assert str(member.disk.log.state.executed) == executed(105)
        assert str(LogReader(member.disk.directory).state().executed) == executed(105)
        assert member.disk.log.hard_state.term == leader.raft.term
        member.disk.log.close()


def test_a_conflicting_tail_that_was_durable_is_replaced(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    source = Source()
    leader = cluster.led()
    leader.raft.propose([Draft(source.flavor()), Draft(source.file())], cluster.now)
    cluster.run(cluster.settled)
    for member in cluster.members.values():
        if member is not leader:
            leader.raft.disconnected(member.address, cluster.now)
    leader.raft.propose([Draft(NOOP) for _ in range(200)], cluster.now)
    leader.disk.log.sync()
    cluster.crash(leader)
    new = cluster.led()
    new.raft.propose([Draft(source.transaction())], cluster.now)
    cluster.run(cluster.settled)
    cluster.restart(leader)
    assert leader.disk.log.last_index > 200
    cluster.run(cluster.settled)
    assert bytes_of(leader.disk.journal) == bytes_of(new.disk.journal)
    assert str(leader.disk.log.state.executed) == executed(1)


def one_is_away(directory: Path) -> tuple[Cluster, Member, Member]:
    """A cluster, who leads it, and who is down."""
    cluster = Cluster(directory, segment_bytes=8192)
    leader = cluster.led()
    away = next(m for m in cluster.members.values() if m is not leader)
    cluster.run(cluster.settled)
    cluster.crash(away)
    return cluster, leader, away


def test_a_node_that_needs_purged_entries_begins_with_the_leaders_snapshot(tmp_path: Path) -> None:
    cluster, leader, away = one_is_away(tmp_path)
    source = Source()
    leader.raft.propose([Draft(source.flavor()), Draft(source.file())], cluster.now)
    leader.raft.propose([Draft(source.transaction()) for _ in range(60)], cluster.now)
    leader.raft.propose([Draft(source.end_of_file()), Draft(source.file())], cluster.now)
    leader.raft.propose([Draft(source.transaction()) for _ in range(60)], cluster.now)
    cluster.run(cluster.settled)
    leader.raft.propose([Draft(leader.disk.log.purge_entry(2))], cluster.now)
    cluster.run(cluster.settled)
    assert leader.disk.log.first_index > 1
    cluster.restart(away)
    cluster.run(cluster.settled)
    assert away.raft.configuration == THREE
    # The first configuration comes with the snapshot: a node that joined later would not know it.
    state, members = away.disk.log.state, away.disk.log.state.members
    assert Configuration.decode(members) == THREE
    assert replace(state, members=b"", members_index=0) == leader.disk.log.state
    assert bytes_of(away.disk.journal) == bytes_of(leader.disk.journal)
    assert str(LogReader(away.disk.directory).purged()) == executed(60)


@pytest.mark.parametrize("asked", ["entries", "state"])
def test_a_purge_that_comes_while_its_entries_are_being_sent_hurts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    cluster, leader, away = one_is_away(tmp_path)
    source = Source()
    leader.raft.propose([Draft(source.flavor())], cluster.now)
    for _ in range(3):
        leader.raft.propose([Draft(source.file())], cluster.now)
        leader.raft.propose([Draft(source.transaction()) for _ in range(60)], cluster.now)
        leader.raft.propose([Draft(source.end_of_file())], cluster.now)
    cluster.run(cluster.settled)
    journal, commit = leader.disk.journal, leader.disk.journal.commit
    if asked == "state":
        leader.raft.propose([Draft(leader.disk.log.purge_entry(2))], cluster.now)
        cluster.run(cluster.settled)
    last = leader.raft.propose([Draft(leader.disk.log.purge_entry(3))], cluster.now)
    monkeypatch.setattr(journal, "commit", lambda _: None)
    cluster.run(lambda: leader.raft.readable_index == last)
    owner, name = (journal, "read") if asked == "entries" else (leader.disk.log, "state_at")
    real = getattr(owner, name)

    def in_between(*arguments: int) -> object:
        """The loop's thread commits the purge, while a proposer's sends."""
        monkeypatch.setattr(owner, name, real)
        monkeypatch.setattr(journal, "commit", commit)
        commit(last)
        assert leader.disk.log.first_index > 100
        return real(*arguments)

    monkeypatch.setattr(owner, name, in_between)
    cluster.restart(away)
    cluster.run(cluster.settled)
    assert getattr(owner, name) == real
    assert bytes_of(away.disk.journal) == bytes_of(leader.disk.journal)


def prioritized(cluster: Cluster, priorities: Mapping[str, int]) -> Member:
    """The leader, once all know the priorities."""
    leader = cluster.led()
    wanted = leader.raft.configuration
    for address, priority in priorities.items():
        wanted = wanted.with_member(Membership(address, priority=priority))
    leader.raft.change(wanted, cluster.now)
    cluster.run(cluster.settled)
    return leader


def test_leadership_does_not_drift_to_who_has_no_room(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    preferred = next(m for m in cluster.members.values() if m is not cluster.led())
    leader = prioritized(cluster, {preferred.address: 5})
    preferred.disk.journal.held = True  # as if its disk were full
    preferred.raft.suspend("its disk is full", cluster.now)
    with pytest.raises(AssertionError, match="did not get there"):
        cluster.run(lambda: leader.raft.leadership is None or leader.raft.leadership.successor is not None)
    preferred.disk.journal.held = False
    preferred.raft.suspend(None, cluster.now)
    cluster.run(lambda: preferred.raft.is_leader)


def test_a_witness_is_not_preferred_because_its_disk_is_a_moment_faster(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    witness, voter = (m for m in cluster.members.values() if m is not cluster.led())
    leader = prioritized(cluster, {witness.address: -1})
    voter.syncing = False
    source = Source()
    last = leader.raft.propose([Draft(source.flavor()), Draft(source.file())], cluster.now)
    cluster.run(lambda: leader.raft.commit_index == voter.disk.log.last_index == last)
    assert leader.raft.transfer(None, cluster.now) == voter.address
    voter.syncing = True
    cluster.run(lambda: voter.raft.is_leader)
    # It is better than nobody.
    cluster.crash(leader)
    cluster.run(lambda: voter.raft.leadership is not None and voter.raft.leadership.ready)
    assert voter.raft.transfer(None, cluster.now) == witness.address


def test_the_news_of_a_commit_is_taken_without_an_answer_and_a_heartbeat_is_answered(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    leader = cluster.led().raft
    follower = next(m.raft for m in cluster.members.values() if not m.raft.is_leader)
    cluster.run(lambda: follower.durable_index == leader.storage.last_index)
    follower.messages(cluster.now)
    news = Append(leader.term, 0, 0, 0, leader.storage.last_index)
    follower.step(leader.address, news, cluster.now)
    assert follower.commit_index == leader.storage.last_index
    assert follower.messages(cluster.now) == []
    follower.step(leader.address, news._replace(clock=7), cluster.now)
    ((peer, answer),) = follower.messages(cluster.now)
    assert peer == leader.address
    assert isinstance(answer, AppendReply)
