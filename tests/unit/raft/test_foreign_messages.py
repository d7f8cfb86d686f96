"""A node that is told anything at all, in the right form, loses its link or an election at most: never itself."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.store.samples import NOOP, Source, examples

from kingbus_node.raft.configuration import Configuration, Member, MemberRole
from kingbus_node.raft.core import Raft
from kingbus_node.raft.errors import DivergedError, ProtocolError
from kingbus_node.raft.frames import FrameReader, encode_frame
from kingbus_node.raft.journal import Draft, Journal
from kingbus_node.raft.messages import (
    Append,
    AppendReply,
    Entry,
    Form,
    FormReply,
    Install,
    Kind,
    Message,
    PreVote,
    PreVoteReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from kingbus_node.raft.settings import Settings
from kingbus_node.store.log import Log

PEER, OWN = "b:1", "a:1"
SMALL = st.integers(0, 12)
NUMBERS = st.one_of(SMALL, st.sampled_from([2**32, 2**62, 2**63, 2**64 - 1]))
TERMS = st.one_of(SMALL, st.sampled_from([2**62, 2**63, 2**64 - 1]))
CONFIGURATIONS = st.one_of(
    st.binary(max_size=20),
    st.lists(
        st.builds(Member, st.sampled_from([OWN, PEER, "c:1"]), st.sampled_from(MemberRole), st.just(0), SMALL),
        max_size=3,
    ).map(lambda members: Configuration(tuple(members)).encode()),
)


@st.composite
def appends(draw: st.DrawFn) -> Append:
    """Entries that are whole, and may be in any place."""
    term, prev_index, prev_term = draw(TERMS), draw(NUMBERS), draw(TERMS)
    entries: list[Entry] = []
    for number in range(draw(st.integers(0, 3))):
        index = min(prev_index + 1 + number, 2**63)
        draft = Draft(draw(st.sampled_from([NOOP, Source().flavor(), Source().transaction(), Source().file()])))
        sealed = draft.seal(index, min(prev_term, 2**63))
        body = b"".join(bytes(part) for part in sealed.parts)
        if draw(st.booleans()):
            body = body[: draw(st.integers(0, len(body)))] + draw(st.binary(max_size=3))
        entries.append(Entry(index, prev_term, draw(st.sampled_from(Kind)), (body,), len(body)))
    return Append(term, draw(NUMBERS), prev_index, prev_term, draw(NUMBERS), tuple(entries))


MESSAGES: st.SearchStrategy[Message] = st.one_of(
    appends(),
    appends(),
    st.builds(PreVote, TERMS, NUMBERS, TERMS),
    st.builds(PreVoteReply, TERMS, st.booleans()),
    st.builds(Vote, TERMS, NUMBERS, TERMS, st.booleans()),
    st.builds(VoteReply, TERMS, st.booleans()),
    st.builds(
        AppendReply, TERMS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, TERMS, NUMBERS, st.booleans(), st.booleans()
    ),
    st.builds(Install, TERMS, NUMBERS, NUMBERS, TERMS, CONFIGURATIONS, st.sampled_from([b"", b"{}", b"[1]", b"\xff"])),
    st.builds(TimeoutNow, TERMS),
    st.builds(Form, NUMBERS, CONFIGURATIONS),
    st.builds(FormReply, NUMBERS, st.booleans(), CONFIGURATIONS),
)


def carried(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages as they come out at the other end, those that do."""
    for message in messages:
        data = b"".join(bytes(part) for part in encode_frame(message))
        reader = FrameReader(4096)
        at = 0
        with contextlib.suppress(ProtocolError):
            while at < len(data):
                space = reader.space()
                count = min(len(space), len(data) - at)
                space[:count] = data[at : at + count]
                reader.received(count)
                at += count
                found = reader.next()
                if found is not None:
                    yield found  # type: ignore[misc]


@pytest.mark.fuzz
@examples(2)
@given(st.lists(MESSAGES, min_size=1, max_size=12), st.booleans(), st.integers(0, 100))
def test_no_message_ends_a_node(messages: list[Message], leads: bool, seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = Log.open(Path(directory))
        founders = Configuration.of([OWN] if leads else [OWN, PEER, "c:1"])
        raft = Raft(OWN, Journal(log, min_free_bytes=1), founders, Settings(), Random(seed), 0.0)
        now = 0.0
        if leads:
            raft.tick(10.0)
            now = 10.0
            raft.propose([Draft(Source().flavor())], now)
        for message in carried(messages):
            now += 0.3
            raft.connected(PEER, now)
            try:
                raft.step(PEER, message, now)
            except ProtocolError:
                raft.disconnected(PEER, now)
            except DivergedError:
                break  # told so loudly, and on purpose
            if now >= raft.deadline:
                raft.tick(now)
            for _, answer in raft.messages(now):
                encode_frame(answer)
            if raft.unsynced:
                raft.sync_started()
                log.sync()
                raft.sync_finished(now)
            log.commit(raft.readable_index)
        log.close()
