"""A dump at the end of the log: what wakes it, what it says while nothing happens, and what ends it."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from binlogs.captured import MARIADB, events
from binlogs.make import UUID, Maker
from unit.serve.dumps import CAPABLE, CRC32, SECONDS, SERVER_ID, Client, Served, at, beyond, placed

from kingbus_node.binlog.constants import EventType, Flavor
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.demo.waiting import wait_until
from kingbus_node.serve.artificial import Artificial
from kingbus_node.serve.channel import DisconnectedError
from kingbus_node.serve.registry import StopReason, Wakeup
from kingbus_node.store import segments
from kingbus_node.wire.commands import DumpFlag
from kingbus_node.wire.errors import MySQLError

_T = EventType
MAKER = Maker()
EOF = b"\xfe\0\0\x02\0"


class Growing:
    """A log that grows by transactions and files."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.number = 0
        self.files = 0
        self.position = 4
        self.file()

    def file(self) -> list[bytes]:
        """Begin the next file."""
        if self.files:
            self.append([MAKER.event(_T.ROTATE, bytes(8) + b"next")])
        self.files += 1
        head = placed([MAKER.format_description(), MAKER.event(_T.PREVIOUS_GTIDS, bytes(8))])
        self.served.importer.events(self.name, head)
        self.position = 4 + sum(map(len, head))
        self.served.registry.wake_all()
        return head

    @property
    def name(self) -> str:
        return f"binlog.{self.files:06}"

    def transaction(self) -> list[bytes]:
        """Append one."""
        self.number += 1
        return self.append([MAKER.gtid(self.number), MAKER.query(b"DROP TABLE t")])

    def append(self, more: list[bytes]) -> list[bytes]:
        made = placed(more, self.position)
        self.position += sum(map(len, made))
        self.served.importer.more(made)
        self.served.registry.wake_all()
        return made

    def heartbeat(self, version: int = 1) -> bytes:
        return Artificial(SERVER_ID, version, True, self.name).heartbeat(self.position)

    def rotate(self) -> bytes:
        return Artificial(SERVER_ID, 1, True, self.name).rotate(4)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Growing]:
    with Served(tmp_path, Flavor.MYSQL) as served:
        yield Growing(served)


def caught_up(log: Growing, client: Client, count: int) -> list[bytes]:
    """The next events, after which the dump waits."""
    taken = client.events(count)
    wait_for_rest(log, client)
    return taken


def wait_for_rest(log: Growing, client: Client) -> None:
    wait_until(
        lambda: client.dump.index >= log.served.log.visible_index,
        SECONDS,
        "the dump to come to the end of the log",
        interval=0.001,
    )


def test_transactions_and_files_are_sent_as_they_are_committed(log: Growing) -> None:
    first = log.transaction()
    with log.served.start(at(flags=0)) as client:
        assert client.events(5)[3:] == first
        for _ in range(20):
            assert log.transaction() == client.events(2)
        end = log.number
        head = log.file()
        rotate, artificial, *after = client.events(4)
        assert (rotate[4], artificial, after) == (_T.ROTATE, log.rotate(), head)
        assert log.transaction() == client.events(2)
        wait_for_rest(log, client)
        assert client.dump.gtid_sent() == f"{GtidSet.parse(uuid(1, end + 1))}"


def uuid(first: int, last: int) -> str:
    return f"{UUID[:4].hex()}-{UUID[4:6].hex()}-{UUID[6:8].hex()}-{UUID[8:10].hex()}-{UUID[10:].hex()}:{first}-{last}"


def test_without_a_period_there_are_no_heartbeats(log: Growing) -> None:
    with log.served.start(at(flags=0)) as client:
        client.events(3)
        assert client.is_quiet(0.5)


def three_in_time(client: Client, heartbeat: bytes) -> bool:
    """Whether they take no longer than ten times their time; now and then the machine stands still."""
    start = time.monotonic()
    assert client.events(3) == [heartbeat] * 3
    return time.monotonic() - start < 3


@pytest.mark.parametrize("name", ["source_heartbeat_period", "master_heartbeat_period"])
@pytest.mark.parametrize("version", [1, 2])
def test_heartbeats_come_every_period_with_the_position(log: Growing, version: int, name: str) -> None:
    flags = DumpFlag.MYSQL_HEARTBEAT_V2 if version == 2 else 0
    start = time.monotonic()
    with log.served.start(at(flags=flags), {**CRC32, name: 100_000_000}) as client:
        client.events(3)
        assert client.events(3) == [log.heartbeat(version)] * 3
        assert time.monotonic() - start > 0.25
        wait_until(lambda: three_in_time(client, log.heartbeat(version)), SECONDS, "heartbeats to come in time")
        made = log.transaction()
        heartbeat = _T.HEARTBEAT_V2 if version == 2 else _T.HEARTBEAT
        taken: list[bytes] = []
        while len(taken) < len(made):
            if (event := client.event())[4] != heartbeat:  # some may have been on their way
                taken.append(event)
        assert taken == made
        assert client.event() == log.heartbeat(version)


def test_heartbeats_come_once_in_a_millisecond_at_most(log: Growing) -> None:
    """A replica cannot be told a shorter period; without that limit one client would take a whole serve process."""
    start = time.monotonic()
    with log.served.start(at(flags=0), {**CRC32, "source_heartbeat_period": 1}) as client:
        client.events(303)
        assert time.monotonic() - start > 0.29


@pytest.mark.parametrize("period", [4_294_967_000_000_000, 10**60])
def test_a_period_may_be_as_long_as_a_replica_can_be_told(log: Growing, period: int) -> None:
    """SOURCE_HEARTBEAT_PERIOD may be 4294967 s, which is more milliseconds than poll takes."""
    with log.served.start(at(flags=0), {**CRC32, "source_heartbeat_period": period}) as client:
        client.events(3)
        for _ in range(2):
            made = log.transaction()
            assert client.events(len(made)) == made
            wait_for_rest(log, client)


def test_the_newer_name_of_the_period_counts(log: Growing) -> None:
    both = {**CRC32, "source_heartbeat_period": 3_600_000_000_000, "master_heartbeat_period": 50_000_000}
    with log.served.start(at(flags=0), both) as client:
        client.events(3)
        assert client.is_quiet(0.4)


def test_what_is_held_moves_the_replicas_position(log: Growing) -> None:
    log.transaction()
    with log.served.start(beyond(uuid(1, 3), flags=0)) as client:
        assert caught_up(log, client, 4)[3] == log.heartbeat()
        log.transaction()
        assert client.event() == log.heartbeat()
        wait_for_rest(log, client)
        # What is in no group is sent, although the group before it was not.
        stop = log.append([MAKER.event(_T.IGNORABLE)])
        assert client.events(1) == stop


def test_a_long_skip_is_interrupted_by_heartbeats(tmp_path: Path) -> None:
    with Served(tmp_path, Flavor.MYSQL) as served:
        log = Growing(served)
        big = MAKER.event(_T.WRITE_ROWS, bytes(200_000))
        for number in range(1, 120):
            log.append([MAKER.gtid(number), MAKER.query(b"BEGIN"), big, MAKER.xid()])
        served.with_block(65536)
        variables = {**CRC32, "source_heartbeat_period": 1_000_000}
        answer = served.ask(beyond(uuid(1, 200)), variables)
    kinds = answer.types
    assert kinds[:3] == [_T.ROTATE, _T.FORMAT_DESCRIPTION, _T.PREVIOUS_GTIDS]
    assert set(kinds[3:]) == {_T.HEARTBEAT}
    assert len(kinds[3:]) > 3
    positions = [struct.unpack_from("<I", event, 13)[0] for event in answer.events[3:]]
    assert positions == sorted(positions)
    assert positions[-1] == log.position


def test_a_client_that_leaves_ends_its_dump_at_once(log: Growing) -> None:
    client = log.served.start(at(flags=0))
    client.events(3)
    client.leave()
    assert isinstance(client.ended(), DisconnectedError)
    assert log.served.registry.dumps() == []


@pytest.mark.parametrize(("reason", "code"), [(StopReason.DUPLICATE, 1236), (StopReason.NOT_SERVING, 1053)])
def test_a_dump_that_is_stopped_says_why(log: Growing, reason: StopReason, code: int) -> None:
    log.transaction()
    with log.served.start(at(file=log.name, flags=0)) as client:
        caught_up(log, client, 5)
        client.dump.request_stop(reason)
        error = client.ended()
    assert isinstance(error, MySQLError)
    assert error.code == code
    if reason is StopReason.DUPLICATE:
        assert error.message == (
            "A replica with the same server_uuid/server_id as this replica has connected to the source; the first "
            f"event '{log.name}' at 4, the last event read from './{log.name}' at {log.position}, the last byte read "
            f"from './{log.name}' at {log.position}."
        )


def test_mariadb_names_a_second_connection_by_another_number(tmp_path: Path) -> None:
    with Served(tmp_path, Flavor.MARIADB) as served:
        served.importer.events("binlog.000001", events(MARIADB[0]))
        wanted = DumpFlag.MARIADB_ANNOTATE_ROWS
        with served.start(at(flags=wanted), CAPABLE) as client:
            client.events(1 + len(events(MARIADB[0])))
            wait_until(lambda: client.dump.position, SECONDS, "the dump to know where it is", interval=0.001)
            client.dump.request_stop(StopReason.DUPLICATE)
            error = client.ended()
    end = 4 + sum(map(len, events(MARIADB[0])))
    last = end - len(events(MARIADB[0])[-1])
    assert isinstance(error, MySQLError)
    assert error.code == 4052
    assert error.message == (
        "A slave with the same server_uuid/server_id is already connected; the first event '.' at 4, the last event "
        f"read from 'binlog.000001' at {last}, the last byte read from 'binlog.000001' at {end}."
    )


def test_the_same_replicas_second_connection_ends_the_first(log: Growing) -> None:
    variables = {**CRC32, "replica_uuid": b"3091a0af-e696-11f1-9062-02fc00000001"}
    with log.served.start(at(flags=0), variables) as first:
        first.events(3)
        with log.served.start(at(flags=0), variables) as second:
            assert isinstance(first.ended(), MySQLError)
            second.events(3)
            assert log.transaction() == second.events(2)


def test_a_shutdown_is_an_eof(log: Growing) -> None:
    with log.served.start(at(flags=0)) as client:
        client.events(3)
        log.served.registry.stop_all(StopReason.SHUTDOWN, closing=True)
        assert client.packet() == EOF
        assert client.packet() is None
        assert client.ended() is None


def test_a_stop_that_comes_just_before_the_dump_rests_is_not_slept_through(
    log: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear = Wakeup.clear

    def clear_late(wakeup: Wakeup) -> None:
        monkeypatch.setattr(Wakeup, "clear", clear)
        log.served.registry.stop_all(StopReason.SHUTDOWN)
        clear(wakeup)

    with log.served.start(at(flags=0)) as client:
        caught_up(log, client, 3)
        monkeypatch.setattr(Wakeup, "clear", clear_late)
        made = log.transaction()
        assert client.events(2) == made
        assert client.packet() == EOF
        assert client.packet() is None


def test_a_kill_cuts_a_dump_whose_client_does_not_read(log: Growing) -> None:
    log.append([MAKER.gtid(1), MAKER.query(b"BEGIN"), MAKER.event(_T.WRITE_ROWS, bytes(9_000_000)), MAKER.xid()])
    client = log.served.start(at(flags=0))
    client.events(3)
    client.dump.request_stop(StopReason.KILLED)
    ended = client.ended()  # None: it was not in the middle of sending
    assert ended is None or isinstance(ended, DisconnectedError)
    client.leave()


def test_a_client_that_does_not_read_holds_up_nobody_else(log: Growing) -> None:
    log.append([MAKER.gtid(1), MAKER.query(b"BEGIN"), MAKER.event(_T.WRITE_ROWS, bytes(9_000_000)), MAKER.xid()])
    with log.served.start(at(flags=0)) as slow:
        slow.event()
        assert len(log.served.ask(at(server_id=6)).events) == 7
        assert slow.thread.is_alive()


def test_a_position_that_is_on_its_way_is_waited_for(log: Growing) -> None:
    log.served.settings = replace(log.served.settings, patience=SECONDS)
    group = placed([MAKER.gtid(1), MAKER.query(b"DROP TABLE t")], log.position)
    later = log.position + sum(map(len, group))
    for request in (at(later, log.name, flags=0), at(file="binlog.000002", flags=0)):
        client = log.served.start(request)
        assert client.is_quiet(0.2)
        if request.file == log.name:
            log.transaction()
        else:
            log.file()
        assert client.events(2)[1][4] == _T.FORMAT_DESCRIPTION
        client.leave()


def test_a_client_that_leaves_is_not_waited_for(log: Growing) -> None:
    log.served.settings = replace(log.served.settings, patience=SECONDS)
    client = log.served.start(at(1 << 20, log.name))
    start = time.monotonic()
    client.leave()
    assert time.monotonic() - start < SECONDS / 2


def test_many_dumps_follow_a_log_that_grows(log: Growing) -> None:
    clients = [log.served.start(at(flags=0, server_id=100 + number)) for number in range(20)]
    taken: list[list[bytes]] = [[] for _ in clients]

    def read(number: int) -> None:
        taken[number] = clients[number].events(3 + 200)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    made = [event for _ in range(100) for event in log.transaction()]
    for thread in threads:
        thread.join(SECONDS)
    for events_ in taken:
        assert events_[3:] == made
    for client in clients:
        client.leave()


def test_a_log_that_is_being_replaced_for_long_is_no_reason_to_give_up_for_good(
    log: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For 1236 a replica stops until somebody comes; for 1053 it connects again, to another node perhaps."""
    monkeypatch.setattr(segments, "_CHANGE_SECONDS", 0.1)
    with log.served.start(at(flags=0)) as client:
        client.events(3)
        log.served.log._watermark.publish_change()
        log.transaction()
        assert client.packet() == b"\xff\x1d\x04"
    assert log.served.ask(at()).end == b"\xff\x1d\x04"
