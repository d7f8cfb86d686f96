"""What nodes say to one another, as values and as bytes.

Names are those of Ongaro's dissertation ("Consensus: Bridging Theory and Practice", 2014), whose sections the
docstrings give. The encoding is explicit, little endian and versioned; nothing that comes from a network is ever
unpickled. A message's bytes are::

    type u8 | fixed fields | variable part

and for `Append` a table of entries ``term u64, size u32, kind u8`` and then the entries' bytes, which are sent from
where they lie, without a copy. Index numbers follow from `prev_index`. The frame around a message is made by
``frames``, and what is said before the first one is in ``hello``.

`Append` and `AppendReply`, of which there are several for each entry, are named tuples: those are made faster.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

from kingbus_node.raft.errors import ProtocolError
from kingbus_node.store.durable import FileSlice

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Part: TypeAlias = "Buffer | FileSlice"

MAX_ENTRIES = 65536
"""Entries in one Append."""
MAX_NUMBER = 1 << 62
"""The greatest term or index that is believed: none of them can be reached, and there is room above it."""


class Kind(enum.IntEnum):
    """What Raft itself sees of an entry."""

    NOOP = 1
    """A leader's first entry (section 6.4): commits what earlier terms left behind."""
    DATA = 2
    """Anything of the layers above."""
    CONFIGURATION = 3
    """A ``Configuration`` (section 4.1)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log as Raft carries it: where it belongs, and bytes that only the journal looks into.

    :param parts: buffers, or slices of a file, that are the entry's bytes when put one behind the other
    :param size: how many bytes they are together
    """

    index: int
    term: int
    kind: Kind
    parts: tuple[Part, ...]
    size: int


@dataclass(frozen=True, slots=True)
class PreVote:
    """Would you vote for me in `term`? (Section 9.6.) Changes nothing at either side.

    :param term: the term that the sender would start, one above its own
    """

    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class PreVoteReply:
    """:param term: the term asked about when granted, else the receiver's own."""

    term: int
    granted: bool


@dataclass(frozen=True, slots=True)
class Vote:
    """RequestVote (section 3.4).

    :param transfer: the leader itself asked for this election (section 3.10): a healthy leader is no reason to refuse
    """

    term: int
    last_index: int
    last_term: int
    transfer: bool


@dataclass(frozen=True, slots=True)
class VoteReply:
    """:param term: the receiver's term after looking at the request."""

    term: int
    granted: bool


class Append(NamedTuple):
    """AppendEntries (section 3.5); without entries a heartbeat, a probe, or the news of a commit.

    :param clock: the leader's clock in microseconds, echoed by the reply: tells the leader how old the contact is,
        and the round trip. 0 in the mere news of a commit, which needs no answer
    :param prev_index: the entry right before `entries`; 0 claims nothing
    :param commit: the leader's commit index
    """

    term: int
    clock: int
    prev_index: int
    prev_term: int
    commit: int
    entries: tuple[Entry, ...] = ()


class AppendReply(NamedTuple):
    """The answer to `Append` and `Install`, sent when the entries are durable, or at once when there is nothing to
    wait for.

    :param clock: that of the last message of this term's leader
    :param match: up to here the log equals the leader's *and is on this node's disk*
    :param received: up to here the log equals the leader's, on disk or not
    :param rejected: the `prev_index` that this node does not hold, 0 when nothing was rejected
    :param hint_index: where the leader should look next: the last entry here that can match
    :param hint_term: its term
    :param incarnation: the sender's disk
    :param formed: the sender may vote, see ``formation``
    :param full: the sender has no room for entries
    """

    term: int
    clock: int
    match: int
    received: int
    rejected: int
    hint_index: int
    hint_term: int
    incarnation: int
    formed: bool
    full: bool


@dataclass(frozen=True, slots=True)
class Install:
    """InstallSnapshot (section 5.1), of the small state only: the log itself is the store, and follows from `index` +
    1 on.

    :param index: everything up to here is replaced by `state`
    :param entry_term: the term of the entry at `index`
    :param configuration: the configuration in effect at `index`, encoded
    :param state: the store's own encoding of its state at `index`
    """

    term: int
    clock: int
    index: int
    entry_term: int
    configuration: bytes
    state: bytes


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """Start an election at once: the leader hands over (section 3.10)."""

    term: int


@dataclass(frozen=True, slots=True)
class Form:
    """A node without a past asks the other first members whether they have none either. See ``formation``.

    :param founders: the first configuration as the sender was told it, encoded
    """

    incarnation: int
    founders: bytes


@dataclass(frozen=True, slots=True)
class FormReply:
    """:param incarnation: the receiver's disk
    :param formed: it belongs to a cluster
    :param founders: the disks with which that cluster was formed, an encoded configuration
    """

    incarnation: int
    formed: bool
    founders: bytes


Message: TypeAlias = (
    PreVote | PreVoteReply | Vote | VoteReply | Append | AppendReply | Install | TimeoutNow | Form | FormReply
)


_PRE_VOTE = struct.Struct("<BQQQ")
_REPLY = struct.Struct("<BQ?")
_VOTE = struct.Struct("<BQQQ?")
_APPEND = struct.Struct("<BQQQQQI")
_ENTRY = struct.Struct("<QIB")
_APPEND_REPLY = struct.Struct("<BQQQQQQQQ??")
_INSTALL = struct.Struct("<BQQQQII")
_TERM = struct.Struct("<BQ")
_FORM = struct.Struct("<BQI")
_FORM_REPLY = struct.Struct("<BQ?I")


class _Type(enum.IntEnum):
    PRE_VOTE = 1
    PRE_VOTE_REPLY = 2
    VOTE = 3
    VOTE_REPLY = 4
    APPEND = 5
    APPEND_REPLY = 6
    INSTALL = 7
    TIMEOUT_NOW = 8
    FORM = 9
    FORM_REPLY = 10


_NUMBERS_OF: dict[type, Callable[[object], tuple[int, ...]]] = {
    PreVote: attrgetter("term", "last_index", "last_term"),
    PreVoteReply: attrgetter("term", "granted"),
    Vote: attrgetter("term", "last_index", "last_term"),
    VoteReply: attrgetter("term", "granted"),
    Append: attrgetter("term", "clock", "prev_index", "prev_term", "commit"),
    AppendReply: attrgetter("term", "clock", "match", "received", "rejected", "hint_index", "hint_term"),
    Install: attrgetter("term", "clock", "index", "entry_term"),
    TimeoutNow: attrgetter("term", "term"),
    Form: lambda _: (0,),
    FormReply: lambda _: (0,),
}


def encode(message: Message) -> list[Part]:
    """The message as buffers to be sent one behind the other; entries are the buffers of the message itself, not
    copies.
    """
    match message:
        case Append(term, clock, prev_index, prev_term, commit, entries):
            head = [_APPEND.pack(_Type.APPEND, term, clock, prev_index, prev_term, commit, len(entries))]
            head += [_ENTRY.pack(e.term, e.size, e.kind) for e in entries]
            return [b"".join(head), *(part for e in entries for part in e.parts)]
        case AppendReply(t, c, match_, received, rejected, hint_index, hint_term, incarnation, formed, full):
            fields = (t, c, match_, received, rejected, hint_index, hint_term, incarnation, formed, full)
            return [_APPEND_REPLY.pack(_Type.APPEND_REPLY, *fields)]
        case PreVote(term, last_index, last_term):
            return [_PRE_VOTE.pack(_Type.PRE_VOTE, term, last_index, last_term)]
        case PreVoteReply(term, granted):
            return [_REPLY.pack(_Type.PRE_VOTE_REPLY, term, granted)]
        case Vote(term, last_index, last_term, transfer):
            return [_VOTE.pack(_Type.VOTE, term, last_index, last_term, transfer)]
        case VoteReply(term, granted):
            return [_REPLY.pack(_Type.VOTE_REPLY, term, granted)]
        case Install(term, clock, index, entry_term, configuration, state):
            fixed = _INSTALL.pack(_Type.INSTALL, term, clock, index, entry_term, len(configuration), len(state))
            return [fixed + configuration, state]
        case TimeoutNow(term):
            return [_TERM.pack(_Type.TIMEOUT_NOW, term)]
        case Form(incarnation, founders):
            return [_FORM.pack(_Type.FORM, incarnation, len(founders)) + founders]
        case FormReply(incarnation, formed, founders):
            return [_FORM_REPLY.pack(_Type.FORM_REPLY, incarnation, formed, len(founders)) + founders]


def decode(data: Buffer) -> Message:
    """The message in `data`. The bytes of entries are views of `data`, not copies: they live as long as it does.

    :raises ProtocolError: `data` is not exactly one message
    """
    view = memoryview(data)
    try:
        message = _decode(view)
    except (struct.error, ValueError, IndexError) as error:
        raise ProtocolError(f"a message of {len(view)} bytes cannot be read: {error}") from error
    if max(_NUMBERS_OF[type(message)](message)) > MAX_NUMBER:
        raise ProtocolError(f"a {type(message).__name__} with a term or an index above {MAX_NUMBER}")
    return message


def _decode(view: memoryview) -> Message:
    match _Type(view[0]):
        case _Type.APPEND:
            return _decode_append(view)
        case _Type.APPEND_REPLY:
            return AppendReply(*_exactly(_APPEND_REPLY, view))
        case _Type.PRE_VOTE:
            return PreVote(*_exactly(_PRE_VOTE, view))
        case _Type.PRE_VOTE_REPLY:
            return PreVoteReply(*_exactly(_REPLY, view))
        case _Type.VOTE:
            return Vote(*_exactly(_VOTE, view))
        case _Type.VOTE_REPLY:
            return VoteReply(*_exactly(_REPLY, view))
        case _Type.INSTALL:
            _, term, clock, index, entry_term, first, second = _INSTALL.unpack_from(view)
            configuration, state = _tail(view, _INSTALL.size, first, second)
            return Install(term, clock, index, entry_term, configuration, state)
        case _Type.TIMEOUT_NOW:
            return TimeoutNow(*_exactly(_TERM, view))
        case _Type.FORM:
            _, incarnation, length = _FORM.unpack_from(view)
            (founders,) = _tail(view, _FORM.size, length)
            return Form(incarnation, founders)
        case _Type.FORM_REPLY:
            _, incarnation, formed, length = _FORM_REPLY.unpack_from(view)
            (founders,) = _tail(view, _FORM_REPLY.size, length)
            return FormReply(incarnation, formed, founders)


def _exactly(layout: struct.Struct, view: memoryview) -> tuple[Any, ...]:
    return layout.unpack(view)[1:]


def _tail(view: memoryview, at: int, *lengths: int) -> list[bytes]:
    if at + sum(lengths) != len(view):
        raise ProtocolError(f"a message has {len(view)} bytes where its lengths say {at + sum(lengths)}")
    parts = []
    for length in lengths:
        parts.append(bytes(view[at : at + length]))
        at += length
    return parts


def _decode_append(view: memoryview) -> Append:
    _, term, clock, prev_index, prev_term, commit, count = _APPEND.unpack_from(view)
    if count > MAX_ENTRIES:
        raise ProtocolError(f"an append with {count} entries, {MAX_ENTRIES} are the most")
    at = _APPEND.size + count * _ENTRY.size
    entries: list[Entry] = []
    before = prev_term
    for number in range(count):
        entry_term, size, kind = _ENTRY.unpack_from(view, _APPEND.size + number * _ENTRY.size)
        if at + size > len(view):
            raise ProtocolError(f"an append ends inside entry {prev_index + 1 + number}")
        if not before <= entry_term <= term:
            raise ProtocolError(
                f"an append of term {term} holds an entry of term {entry_term} after one of term {before}"
            )
        before = entry_term
        entries.append(Entry(prev_index + 1 + number, entry_term, Kind(kind), (view[at : at + size],), size))
        at += size
    if at != len(view):
        raise ProtocolError(f"{len(view) - at} bytes follow the entries of an append")
    return Append(term, clock, prev_index, prev_term, commit, tuple(entries))


def size_of(buffers: Sequence[Part]) -> int:
    """Bytes in all `buffers` together (which are bytes, or views of bytes)."""
    return sum(map(len, buffers))
