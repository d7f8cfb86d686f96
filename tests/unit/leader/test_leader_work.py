"""What a leader does and, more so, what one that was deposed does not do any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
from unit.source.fake_source import FakeSource
from unit.source.harness import MemoryLog
from unit.source.origin import Origin

from kingbus_node.binlog.constants import Flavor
from kingbus_node.config import Config
from kingbus_node.demo.waiting import wait_until
from kingbus_node.leader import LeaderWork, Reign
from kingbus_node.raft.api import ConsensusError, Leadership, LeadershipListener, NotLeaderError
from kingbus_node.source.reader import SourceReader, SourceState
from kingbus_node.source.settings import FACT_SETTINGS, seed, stopped
from kingbus_node.store.entry import Entry, Flag, Json, Kind, Meta
from kingbus_node.store.state import FACT_CLUSTER_UUID


class MemoryCluster(MemoryLog):
    """A consensus whose leadership the test gives and takes."""

    def __init__(self) -> None:
        super().__init__()
        self.leading: int | None = None
        self.listeners: list[LeadershipListener] = []
        self.proposed_in: list[int | None] = []
        self.refused = 0
        self.in_time = True
        self.room = threading.Event()
        self.room.set()
        self.waiting = False

    def add_leadership_listener(self, listener: LeadershipListener) -> None:
        self.listeners.append(listener)
        listener(None)

    def propose(self, entries: Sequence[Entry], *, term: int | None = None) -> int:
        if self.leading is None or term not in (None, self.leading):
            raise NotLeaderError(None)
        self.waiting = not self.room.is_set()
        self.room.wait()
        self.refused += self.refusal is not None
        self.proposed_in.append(term)
        return super().propose(entries)

    def wait_committed(self, index: int, deadline: float) -> bool:
        return self.in_time and super().wait_committed(index, deadline)

    def lead(self, term: int) -> None:
        self.leading = term
        for ready in (False, True):
            self.tell(Leadership(term, ready))

    def lose(self) -> None:
        self.leading = None
        self.tell(None)

    def tell(self, leadership: Leadership | None) -> None:
        for listener in self.listeners:
            listener(leadership)

    def lose_uncommitted(self) -> None:
        """Another leader had none of it."""
        del self.entries[self.commit_index :]

    def kinds(self) -> list[Kind]:
        return [Kind(entry.kind) for entry in self.entries]


class Setup:
    def __init__(self, source: FakeSource, folder: Path) -> None:
        self.source = source
        self.cluster = MemoryCluster()
        self.config = Config.model_validate(
            {
                "source": {
                    "endpoints": [source.endpoint],
                    "user": "repl",
                    "password_file": folder / "password",
                    "retry": {"initial": 0.01, "max": 0.05},
                }
            }
        )
        self.work = LeaderWork(self.config, self.cluster, self.cluster)
        self.cluster.add_commit_listener(self.work.committed)
        self.work.start()

    def write(self, row: bytes) -> None:
        """One more transaction; the fake source sends it on the next connection, so the present one is cut."""
        self.source.origin.write(row)
        self.source.cut()

    def change_settings(self, value: dict[str, Json]) -> None:
        index = self.cluster.propose([Entry(Kind.STATE, meta=Meta(json={FACT_SETTINGS: value}))])
        self.work.reconsider(index)

    def holds_all(self) -> bool:
        return self.cluster.files() == {file.name: file.bytes for file in self.source.origin.files}


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    (tmp_path / "password").write_text("open sesame\n")
    origin = Origin(Flavor.MYSQL)
    origin.write(b"one")
    with FakeSource(origin) as source:
        setup = Setup(source, tmp_path)
        yield setup
        setup.cluster.lose()
        setup.work.stop()


def eventually(condition: Callable[[], object], what: str) -> None:
    wait_until(lambda: bool(condition()), 60, what, interval=0.002)


def is_reading(setup: Setup) -> bool:
    return setup.work.status().state is SourceState.CONNECTED


def test_nothing_is_read_before_the_first_entry_of_the_leadership_is_committed(setup: Setup) -> None:
    setup.cluster.leading = 3
    setup.cluster.tell(Leadership(3, ready=False))
    assert setup.work.status().state is SourceState.STOPPED
    setup.cluster.tell(Leadership(3, ready=True))
    eventually(setup.holds_all, "the log to hold the source's file")
    assert set(setup.cluster.proposed_in) == {3}


def test_the_first_leader_writes_down_once_what_all_must_agree_on(setup: Setup) -> None:
    setup.cluster.lead(1)
    eventually(setup.holds_all, "the log to hold the source's file")
    facts = setup.cluster.state.facts
    assert facts[FACT_SETTINGS] == seed(setup.config)
    assert "open sesame" not in str(facts)
    uuid, states = facts[FACT_CLUSTER_UUID], setup.cluster.kinds().count(Kind.STATE)
    setup.cluster.lose()
    setup.cluster.lead(2)
    setup.write(b"two")
    eventually(setup.holds_all, "the second transaction")
    assert setup.cluster.state.facts[FACT_CLUSTER_UUID] == uuid
    assert setup.cluster.kinds().count(Kind.STATE) == states


def test_what_the_leader_before_left_unfinished_is_cancelled_first(setup: Setup) -> None:
    setup.cluster.lead(1)
    eventually(setup.holds_all, "the log to hold the source's file")
    setup.cluster.lose()
    eventually(lambda: not is_reading(setup), "the reader to end")
    place = setup.cluster.state.end_pos
    half = setup.cluster.entries[-1]
    setup.cluster.leading = 2
    setup.cluster.propose([fragment(half, place)], term=2)
    setup.cluster.lead(2)
    setup.write(b"two")
    eventually(setup.holds_all, "the second transaction")
    assert Kind.CANCEL in setup.cluster.kinds()
    assert setup.cluster.state.open_index is None


def fragment(like: Entry, position: int) -> Entry:
    """The first part of a transaction of the same file."""
    return replace(like, flags=Flag.FIRST, start_pos=position, end_pos=position + 10, meta=Meta())


def test_a_deposed_leader_acknowledges_nothing_even_if_its_index_is_committed(setup: Setup) -> None:
    """Promise 3: the entry that is committed there is another leader's."""
    setup.source.semi_sync = True
    setup.source.wanted = [setup.source.origin.files[0].events[-1].data]
    setup.cluster.lead(1)
    eventually(lambda: setup.source.acks, "an acknowledgement")
    acks = len(setup.source.acks)
    setup.cluster.held_back = True
    committed = setup.cluster.commit_index
    setup.source.origin.write(b"two")
    setup.source.wanted = [setup.source.origin.files[0].events[-1].data]
    setup.source.cut()
    eventually(lambda: setup.cluster.last_index > committed, "the second transaction to be proposed")
    setup.cluster.lose()
    setup.cluster.release()
    eventually(lambda: not is_reading(setup), "the reader to end")
    assert len(setup.source.acks) == acks


def test_what_was_lost_with_a_leadership_is_read_again(setup: Setup) -> None:
    """Promise 5: the entries behind a lost one do not get in, the next leadership begins where the log ends."""
    setup.cluster.lead(1)
    eventually(setup.holds_all, "the log to hold the source's file")
    setup.cluster.held_back = True
    last = setup.cluster.last_index
    setup.write(b"two")
    eventually(lambda: setup.cluster.last_index > last, "the second transaction to be proposed")
    setup.cluster.lose()
    setup.cluster.lose_uncommitted()
    rebuild(setup.cluster)
    setup.cluster.held_back = False
    setup.cluster.lead(3)
    setup.write(b"three")
    eventually(setup.holds_all, "both transactions")


def rebuild(cluster: MemoryCluster) -> None:
    """The state of the entries that are left."""
    entries, cluster.entries = cluster.entries, []
    cluster.folded = type(cluster.folded)()
    cluster.leading = 0
    cluster.propose(entries, term=0)
    cluster.leading = None


def test_a_reign_that_was_revoked_takes_nothing_although_the_node_leads_again() -> None:
    cluster = MemoryCluster()
    cluster.leading = 4
    reign = Reign(cluster, 4)
    reign.revoke()
    with pytest.raises(NotLeaderError):
        reign.propose([Entry(Kind.NOOP)])
    with pytest.raises(NotLeaderError):
        reign.wait_committed(0, time.monotonic() + 1)
    cluster.leading = 5
    with pytest.raises(NotLeaderError):
        Reign(cluster, 4).propose([Entry(Kind.NOOP)])
    assert cluster.entries == []


def test_work_that_fails_is_tried_again_as_long_as_the_reign_lasts(setup: Setup) -> None:
    setup.cluster.refusal = ConsensusError("the leader is handing over")
    setup.cluster.lead(1)
    eventually(lambda: setup.cluster.refused >= 3, "some attempts")
    setup.cluster.refusal = None
    eventually(setup.holds_all, "the log to hold the source's file")


def test_a_source_that_was_stopped_by_command_is_not_read_until_it_is_started(setup: Setup) -> None:
    setup.cluster.lead(1)
    eventually(setup.holds_all, "the log to hold the source's file")
    facts = setup.cluster.state.facts
    setup.change_settings(stopped(setup.config, facts, True))
    eventually(lambda: not is_reading(setup), "the reader to end")
    setup.write(b"two")
    setup.cluster.lose()
    setup.cluster.lead(2)
    assert not setup.holds_all()
    facts = setup.cluster.state.facts
    eventually(lambda: setup.work.leads, "the second reign")
    setup.change_settings(stopped(setup.config, facts, False))
    eventually(setup.holds_all, "the second transaction")


def test_totals_go_on_over_reigns(setup: Setup) -> None:
    setup.cluster.lead(1)
    eventually(setup.holds_all, "the log to hold the source's file")
    before = setup.work.status()
    setup.cluster.lose()
    setup.write(b"two")  # before the next reader comes: its connection is not cut
    setup.cluster.lead(2)
    eventually(setup.holds_all, "the second transaction")
    now = setup.work.status()
    assert now.transactions == before.transactions + 1
    assert now.reconnects == 1


def test_a_pause_lasts_until_it_is_ended(setup: Setup) -> None:
    with pytest.raises(NotLeaderError):
        setup.work.pause(1)
    setup.cluster.lead(1)
    eventually(setup.holds_all, "the log to hold the source's file")
    assert setup.work.pause(60)
    assert not is_reading(setup)
    setup.write(b"two")
    setup.work.resume()
    eventually(setup.holds_all, "the second transaction")


def test_a_pause_that_takes_too_long_is_none(setup: Setup) -> None:
    setup.cluster.lead(1)
    eventually(setup.holds_all, "the log to hold the source's file")
    setup.cluster.in_time = False
    assert not setup.work.pause(60)
    setup.cluster.in_time = True
    setup.write(b"two")
    eventually(setup.holds_all, "the second transaction")


def test_settings_that_are_committed_late_are_gone_by_then(setup: Setup) -> None:
    setup.cluster.lead(1)
    eventually(lambda: setup.holds_all() and is_reading(setup), "the log to hold the source's file")
    setup.cluster.held_back = True
    setup.change_settings(stopped(setup.config, setup.cluster.state.facts, True))
    assert not setup.work._again
    assert is_reading(setup)
    setup.cluster.release()
    eventually(lambda: not is_reading(setup), "the reader to end")


def readers() -> int:
    return sum(thread.name == "source-reader" for thread in threading.enumerate())


def test_there_is_no_second_reader_before_the_first_has_ended(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log takes nothing, for its disk is full, say; when there is room again, it takes what waits for that."""
    stop = SourceReader.stop
    stops: list[SourceReader] = []

    def impatient(reader: SourceReader, timeout: float = 0.05) -> bool:
        stops.append(reader)
        return stop(reader, timeout)

    monkeypatch.setattr(SourceReader, "stop", impatient)
    setup.cluster.lead(1)
    eventually(setup.holds_all, "the log to hold the source's file")
    setup.cluster.room.clear()
    setup.write(b"two")
    eventually(lambda: setup.cluster.waiting, "the reader to propose")
    setup.work.reconsider(setup.cluster.commit_index)
    eventually(lambda: len(stops) > 1 or readers() > 1, "another attempt to end it")
    assert readers() == 1
    setup.cluster.room.set()
    eventually(lambda: stops[0] is not setup.work._reader, "the next reader")
    eventually(setup.holds_all, "the second transaction")


def test_nobody_else_reads_while_a_reader_does_not_end(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that takes nothing, as while a quorum of disks is full, holds the reader that proposes to it."""
    monkeypatch.setattr(SourceReader, "stop", partialmethod(SourceReader.stop, timeout=0.01))
    stuck, free = threading.Event(), threading.Event()
    propose = setup.cluster.propose

    def slow(entries: Sequence[Entry], *, term: int | None = None) -> int:
        if any(entry.kind == Kind.DATA for entry in entries) and not free.is_set():
            stuck.set()
            free.wait(60)
        return propose(entries, term=term)

    monkeypatch.setattr(setup.cluster, "propose", slow)
    setup.cluster.lead(1)
    assert stuck.wait(60)
    assert not setup.work.pause(0.3)  # True says that nothing is read any more
    setup.work.resume()
    assert len(setup.source.logins) == 1
    free.set()
    eventually(setup.holds_all, "the log to hold the source's file")
    assert setup.work.pause(60)
    setup.work.resume()
