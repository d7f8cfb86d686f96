"""Raft's storage on the log of ``store``: Raft's entries are the store's entries, in one encoding.

An entry's bytes are written once on each node, and its body's checksum is computed once in the cluster, where the entry
is proposed (``Draft``, in the proposer's thread). A follower verifies it, gives the header its own idea of what was
durable when it wrote (``Header.unsynced``), and stores the very same body.

The leader sends what is in its log, which the page cache holds, rather than what it was given: the buffers of a
proposal are used again once it is committed, and a slow follower gets its copy later than that. Long entries go from
the page cache to the connection without passing through this process.

Nothing here grows with the log. Terms come from the ``.idx``; only the last run of entries of one term is remembered,
which answers nearly every question.

Syncing is ``syncer``'s. ``commit`` is called without the lock of the core, beside a proposer who sends: it drops what a
purge ended, and the core may be about to send that (``PurgedError``). Everything else is called under that lock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kingbus_node.raft.configuration import Configuration
from kingbus_node.raft.errors import ProtocolError
from kingbus_node.raft.identity import load_identity, save_identity
from kingbus_node.raft.messages import Entry, Kind
from kingbus_node.raft.storage import HardState, Identity, Snapshot
from kingbus_node.store import entry as stored_entry
from kingbus_node.store.durable import FileHandle, FileSlice
from kingbus_node.store.entry import Meta, Stored, parse, prepare
from kingbus_node.store.errors import InvalidEntryError, LogFullError, PurgedError
from kingbus_node.store.log import Log
from kingbus_node.store.places import Place
from kingbus_node.store.space import DiskSpace
from kingbus_node.store.state import LogState
from kingbus_node.store.transfer import Staged

DEFAULT_MIN_FREE = 1 << 30
_READ = 64 << 10  # bytes of entries that are read; more of them are sent from the file
_KINDS: dict[int, Kind] = {
    **dict.fromkeys(stored_entry.Kind, Kind.DATA),
    stored_entry.Kind.NOOP: Kind.NOOP,
    stored_entry.Kind.CONFIGURATION: Kind.CONFIGURATION,
}  # what Raft sees of an entry of the store


@dataclass(frozen=True, slots=True)
class Sealed(Entry):
    """An entry that was made here: `stored` is right by construction, so nothing has to be verified again."""

    stored: Stored


class Draft:
    """A `storage.Proposal`: an entry of the layers above, encoded and with its checksum, in the proposer's thread.

    InvalidEntryError when its packet table cannot belong to its payload.
    """

    def __init__(self, entry: stored_entry.Entry) -> None:
        self._stored = prepare(entry)
        self.size = self._stored.header.size

    def seal(self, index: int, term: int) -> Entry:
        """See `storage.Proposal.seal`."""
        return _sealed(self._stored.at(index, term))


class Journal:
    """A `storage.Storage`. The log belongs to the caller, who closes it."""

    def __init__(self, log: Log, *, min_free_bytes: int = DEFAULT_MIN_FREE) -> None:
        """Makes durable what is in the log: a core takes all that it finds for that.

        With less than `min_free_bytes` of free space on the disk the journal is not ``writable``. StoreError,
        CorruptLogError.
        """
        self._log = log
        self._space = DiskSpace(log.directory, min_free_bytes, refused=lambda: log.refused_at)
        self.held = False
        log.sync()
        self._commit_floor = log.commit_index
        self._identity = load_identity(log.directory)
        self._shared: tuple[int, int, Sequence[Entry]] | None = None  # the last read: index, max_bytes, what it gave
        self._run_start = 0
        self._find_run()

    # What there is

    @property
    def first_index(self) -> int:
        """Where the oldest retained source file starts; older entries in its segment count as gone."""
        return self._log.retained_index

    @property
    def last_index(self) -> int:
        """The newest entry, or that of the snapshot."""
        return self._log.last_index

    @property
    def commit_floor(self) -> int:
        """What was known to be committed when the log was opened: noted beside it, never beyond what was durable."""
        return self._commit_floor

    @property
    def writable(self) -> bool:
        """Whether entries are taken: there is room (see `DiskSpace.full`), and no other log is about to take this one's
        place.
        """
        return not self.held and not self._space.full

    @property
    def unwritable_reason(self) -> str | None:
        """For people, why it is not ``writable``; None if it is."""
        if self.held:
            return "it copies the log from another node"
        return self._space.describe() if self._space.full else None

    def check_room(self, size: int) -> None:
        """LogFullError unless the disk has room for so many bytes more, and then some."""
        free, least = self._space.free_bytes(), self._space.min_free_bytes
        if free - size < least:
            raise LogFullError(f"{size} bytes are to be copied, {free} are free, of which {least} are to stay so")

    def term_at(self, index: int) -> int | None:
        """See `storage.Storage.term_at`."""
        if not self.first_index - 1 <= index <= self.last_index:
            return None
        if index >= self._run_start:
            return self._log.last_term
        try:
            return self._log.term_of(index)
        except PurgedError:
            return None

    def last_at_most(self, index: int, term: int) -> int:
        """See `storage.Storage.last_at_most`. Terms never fall along the log: a binary search finds it."""
        low, high = self.first_index - 1, min(index, self.last_index)
        if high >= self._run_start:
            if self._log.last_term <= term:
                return max(low, high)
            high = self._run_start - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._log.term_of(middle) <= term:
                low = middle
            else:
                high = middle - 1
        return low

    def read(self, index: int, max_bytes: int) -> Sequence[Entry]:
        """See `storage.Storage.read`. Ends with a segment at the latest. Short ones are views of one buffer that nobody
        changes, long ones slices of the file, which are never read here.

        Followers that keep up are sent the same entries one after the other, so the last read is kept for the next one.
        One that is in the middle of it gets the rest only, and from then on the two go in step.
        """
        shared = self._shared
        if shared is not None and shared[1] == max_bytes and shared[0] <= index < shared[0] + len(shared[2]):
            return shared[2][index - shared[0] :]
        entries = _entries(*self._log.places(index, self.last_index, max_bytes))
        self._shared = (index, max_bytes, entries)
        return entries

    def configurations(self) -> Sequence[tuple[int, Configuration]]:
        """See `storage.Storage.configurations`."""
        known = max(self._commit_floor, self._log.first_index - 1)
        floor = self._log.state_at(known)
        found = [(floor.members_index, Configuration.decode(floor.members))] if floor.members else []
        index = known + 1
        while index <= self.last_index:
            records = self._log.records_from(index, self.last_index)
            changes = np.flatnonzero(records["kind"] == stored_entry.Kind.CONFIGURATION) + index
            found += [(at, Configuration.decode(self._log.read(at).meta.members)) for at in changes.tolist()]
            index += len(records)
        return found

    def forget_reads(self) -> None:
        """What was read and kept may have been damaged, and has been mended. Any thread."""
        self._shared = None

    # Writing

    def append(self, entries: Sequence[Entry]) -> None:
        """See `storage.Storage.append`. All or none.

        :raises ProtocolError: an entry that came from a peer is damaged, or may not follow what is here
        :raises InvalidEntryError: an entry that was proposed here may not follow
        :raises LogFullError: there is no room
        :raises LogFailedError: the disk failed; the node must stop
        """
        before, term = self.last_index, self._log.last_term
        try:
            self._log.append_stored([_stored(entry) for entry in entries])
        except InvalidEntryError as error:
            if all(isinstance(entry, Sealed) for entry in entries):
                raise
            raise ProtocolError(f"entries {entries[0].index} to {entries[-1].index} of a peer: {error}") from error
        for number, entry in enumerate(entries, before + 1):
            if entry.term != term:
                self._run_start, term = number, entry.term

    def truncate_from(self, index: int) -> None:
        """See `storage.Storage.truncate_from`.

        :raises StoreError: some of it is committed; nothing was removed
        :raises LogFailedError: the disk failed; the node must stop
        """
        self._shared = None
        self._log.truncate_from(index)
        if index <= self._run_start:
            self._find_run()

    def commit(self, index: int) -> int:
        """Lets readers see what is committed; gives the last visible entry.

        :param index: ``Raft.readable_index``
        :raises StoreError: there is no such entry, or the log failed
        """
        return self._log.commit(index)

    # Snapshots

    def snapshot(self) -> Snapshot:
        """See `storage.Storage.snapshot`: the state before the oldest retained source file, as a segment's header has
        it.

        What was purged is told as of now, for the node that begins with it has no more than that.
        """
        index = self.first_index - 1
        state = self._log.state_at(index)
        if index and state.open_index is None:
            state.oldest_file, state.first_index = state.file_id + 1, index + 1
            state.purged = None if state.executed is None else state.executed.copy()
        configuration = Configuration.decode(state.members) if state.members else None
        return Snapshot(index, state.term, configuration, json.dumps(state.to_json(), sort_keys=True).encode())

    def reset(self, snapshot: Snapshot) -> None:
        """See `storage.Storage.reset`.

        :raises ProtocolError: it is not a snapshot, or not one that a log can begin with; nothing was changed
        :raises LogFailedError: the disk failed; the node must stop
        """
        try:
            state = LogState.from_json(json.loads(snapshot.state))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ProtocolError(f"the state of entry {snapshot.index} cannot be read: {error!r}") from error
        if (state.index, state.term) != (snapshot.index, snapshot.term):
            raise ProtocolError(
                f"expected the state after entry {snapshot.index} of term {snapshot.term}, found that after entry "
                f"{state.index} of term {state.term}"
            )
        if snapshot.configuration is not None and not state.members:
            state.members, state.members_index = snapshot.configuration.encode(), snapshot.index
        if state.index <= self._log.commit_index or state.first_index != state.index + 1:
            raise ProtocolError(
                f"the log cannot begin behind entry {state.index}: entry {self._log.commit_index} is committed, and "
                f"the oldest source file begins with entry {state.first_index}"
            )
        self._shared = None
        self._log.reset(state)
        self._commit_floor = state.index
        self._find_run()

    def adopt(self, staged: Staged) -> tuple[int, Configuration | None]:
        """Puts a log that was copied in the place of this one, durably; gives the index of the entry that set its
        members, and those (0 and None: they are still the first ones).

        :raises StoreError: this one is as long; nothing was changed
        :raises LogFailedError: the disk failed; the node must stop
        """
        self._shared = None
        state = staged.state
        self._log.adopt(staged.firsts, state)
        self._commit_floor = state.index
        self._find_run()
        return state.members_index, Configuration.decode(state.members) if state.members else None

    # Raft's own entries

    def seal_control(self, kind: Kind, body: bytes, index: int, term: int) -> Entry:
        """See `storage.Storage.seal_control`: a NOOP, or a CONFIGURATION with its members as the body."""
        if kind is Kind.CONFIGURATION:
            made = stored_entry.Entry(stored_entry.Kind.CONFIGURATION, meta=Meta(members=body))
        elif kind is Kind.NOOP and not body:
            made = stored_entry.Entry(stored_entry.Kind.NOOP)
        else:
            raise ValueError(f"Raft has no {kind.name} entries of its own with {len(body)} bytes")
        return _sealed(prepare(made).at(index, term))

    def control_body(self, entry: Entry) -> bytes:
        """See `storage.Storage.control_body`."""
        try:
            return _stored(entry).meta.members
        except InvalidEntryError as error:
            raise ProtocolError(f"entry {entry.index} of a peer: {error}") from error

    # Beside the log

    def hard_state(self) -> HardState:
        """See `storage.Storage.hard_state`."""
        state = self._log.hard_state
        return HardState(state.term, state.vote)

    def save_hard_state(self, state: HardState) -> None:
        """See `storage.Storage.save_hard_state`. LogFullError; LogFailedError if the disk fails."""
        self._log.set_hard_state(state.term, state.vote)

    def identity(self) -> Identity:
        """See `storage.Storage.identity`."""
        return self._identity

    def save_identity(self, identity: Identity) -> None:
        """See `storage.Storage.save_identity`. OSError if the disk fails."""
        save_identity(self._log.directory, identity)
        self._identity = identity

    def _find_run(self) -> None:
        """Finds the first entry of those at the log's end that all have its last term."""
        self._run_start = self.last_index + 1  # nothing is known
        last, term = self.last_index, self._log.last_term
        self._run_start = self.last_at_most(last, term - 1) + 1 if last >= self.first_index else last


def _sealed(stored: Stored) -> Sealed:
    header = stored.header
    parts = (header.encode(), *stored.body)
    return Sealed(header.index, header.term, _KINDS[header.kind], parts, header.size, stored)


def _stored(entry: Entry) -> Stored:
    """The entry as the log takes it, verified unless it was made here. InvalidEntryError."""
    if isinstance(entry, Sealed):
        return entry.stored
    data = entry.parts[0] if len(entry.parts) == 1 else b"".join(map(bytes, entry.parts))
    stored = parse(bytes(data) if isinstance(data, FileSlice) else data)
    header = stored.header
    kind = _KINDS.get(header.kind)
    if kind is None:
        raise InvalidEntryError(f"entry {header.index} is of unknown kind {header.kind}: written by a newer release?")
    if (header.index, header.term, kind, header.size) != (entry.index, entry.term, entry.kind, entry.size):
        raise InvalidEntryError(
            f"announced as entry {entry.index} of term {entry.term}, {entry.kind.name}, {entry.size} bytes; it is "
            f"entry {header.index} of term {header.term}, {kind.name}, {header.size} bytes"
        )
    if kind is Kind.CONFIGURATION:
        try:
            Configuration.decode(stored.meta.members)  # before it is in the log, where the core will read it
        except ProtocolError as error:
            raise InvalidEntryError(str(error)) from error
    return stored


def _entries(file: FileHandle, places: Sequence[Place]) -> Sequence[Entry]:
    """Raft's view of stored entries, which lie one behind the other in `file`."""
    start, end = places[0].offset, places[-1].offset + places[-1].size
    if end - start > _READ:
        return [Entry(p.index, p.term, _KINDS[p.kind], (FileSlice(file, p.offset, p.size),), p.size) for p in places]
    view = memoryview(bytes(FileSlice(file, start, end - start)))
    return [
        Entry(p.index, p.term, _KINDS[p.kind], (view[p.offset - start : p.offset - start + p.size],), p.size)
        for p in places
    ]
