"""The dumps of a worker: who counts as the same replica, and that stopping and waking reaches them."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.serve.channel import Channel, DisconnectedError
from kingbus_node.serve.facts import SessionFacts
from kingbus_node.serve.registry import Dump, Registry, StopReason, Wakeup
from kingbus_node.wire.commands import DumpKind, DumpRequest


class Dumps:
    """Makes dumps on sockets that nobody reads."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._last_id = 0

    def make(self, *, uuid: str | None = None, server_id: int = 0) -> Dump:
        ours, theirs = socket.socketpair()
        self._sockets += ours, theirs
        self._last_id += 1
        facts = SessionFacts(self._last_id)
        if uuid is not None:
            facts.user_variables["replica_uuid"] = uuid.encode()
        return Dump(facts, Channel(ours, timeout=5), DumpRequest(DumpKind.GTID, 0, server_id, "", 4), 0.0)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def dumps() -> Iterator[Dumps]:
    made = Dumps()
    yield made
    made.close()


def readable(wakeup: Wakeup) -> bool:
    return bool(select.select([wakeup], [], [], 0)[0])


def test_signals_coalesce_until_they_are_cleared() -> None:
    wakeup = Wakeup()
    assert not readable(wakeup)
    wakeup.signal()
    wakeup.signal()
    assert readable(wakeup)
    wakeup.clear()
    assert not readable(wakeup)
    wakeup.clear()
    wakeup.signal()
    assert readable(wakeup)
    wakeup.close()
    wakeup.signal()
    wakeup.close()


def test_no_signal_is_lost_between_two_threads() -> None:
    """The waiter clears, looks, waits: after the last signal it has always seen the last value."""
    wakeup, values, seen = Wakeup(), [0], [0]

    def wait() -> None:
        while seen[0] < 5000:
            wakeup.clear()
            seen[0] = values[0]
            if seen[0] < 5000:
                assert select.select([wakeup], [], [], 10)[0], "a signal was lost"

    thread = threading.Thread(target=wait)
    thread.start()
    for number in range(1, 5001):
        values[0] = number
        wakeup.signal()
    thread.join(20)
    assert seen == [5000]
    wakeup.close()


def test_a_replica_that_comes_back_ends_its_older_dump(dumps: Dumps) -> None:
    registry = Registry()
    old, other, new = dumps.make(uuid="A"), dumps.make(uuid="b"), dumps.make(uuid="a")
    for dump in (old, other, new):
        registry.add(dump)
    assert (old.stop, other.stop, new.stop) == (StopReason.DUPLICATE, None, None)
    assert readable(old.wakeup)
    registry.remove(old)
    assert registry.dumps() == [other, new]


def test_without_a_uuid_the_server_id_counts_and_0_is_nobodys(dumps: Dumps) -> None:
    registry = Registry()
    made = [dumps.make(server_id=server_id) for server_id in (5, 0, 0, 5)]
    with_uuid = dumps.make(uuid="x", server_id=5)
    for dump in (*made, with_uuid):
        registry.add(dump)
    assert [dump.stop for dump in made] == [StopReason.DUPLICATE, None, None, None]
    assert with_uuid.stop is None


def test_all_are_woken(dumps: Dumps) -> None:
    registry = Registry()
    made = [dumps.make(server_id=number) for number in range(1, 4)]
    for dump in made:
        registry.add(dump)
    registry.wake_all()
    assert all(readable(dump.wakeup) for dump in made)


def test_a_killed_dump_is_cut_even_while_it_sends(dumps: Dumps) -> None:
    dump = dumps.make()
    dump.request_stop(StopReason.SHUTDOWN)
    dump.request_stop(StopReason.KILLED)
    assert dump.stop is StopReason.SHUTDOWN  # the first reason counts, the connection is cut all the same
    with pytest.raises(DisconnectedError):
        list(dump.channel.received())


def test_a_closing_registry_stops_those_who_come_late(dumps: Dumps) -> None:
    registry = Registry()
    early, late = dumps.make(), dumps.make()
    registry.add(early)
    registry.stop_all(StopReason.SHUTDOWN, closing=True)
    registry.add(late)
    assert (early.stop, late.stop) == (StopReason.SHUTDOWN, StopReason.SHUTDOWN)


def test_others_are_told_of_what_begins_and_ends(dumps: Dumps) -> None:
    told: list[tuple[str, int]] = []
    registry = Registry(lambda dump: told.append(("add", dump.id)), lambda dump: told.append(("remove", dump.id)))
    dump = dumps.make()
    registry.add(dump)
    registry.remove(dump)
    registry.remove(dump)
    assert told == [("add", 1), ("remove", 1)]


VALUES = st.one_of(st.none(), st.binary(max_size=10), st.integers(), st.decimals(allow_nan=False, allow_infinity=False))


@given(VALUES)
def test_facts_are_numbers_or_texts_whatever_was_set(value: object) -> None:
    facts = SessionFacts(1)
    facts.user_variables["x"] = value  # type: ignore[assignment]
    number, text = facts.number("x"), facts.text("x")
    assert (number is None) == (text is None) == (value is None)


def test_the_newer_of_two_words_wins() -> None:
    facts = SessionFacts(1)
    facts.user_variables |= {"master_heartbeat_period": 1, "source_heartbeat_period": b"2000"}
    assert facts.number("source_heartbeat_period", "master_heartbeat_period") == 2000
    assert facts.number("nope", "master_heartbeat_period") == 1
    assert facts.number("nope") is None
