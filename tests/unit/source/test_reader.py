"""The reader's thread: its states, what it refuses, how it comes back, what it acknowledges and when."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from unit.source.fake_source import FakeSource
from unit.source.harness import FLAVORS, MemoryLog
from unit.source.origin import Origin
from unit.source.sockets import without_ipv6

from kingbus_node.binlog.constants import Flavor
from kingbus_node.config import Address, SourceSettings
from kingbus_node.demo.waiting import wait_until
from kingbus_node.raft.api import ConsensusFailedError, NotLeaderError
from kingbus_node.source import connection
from kingbus_node.source import reader as reader_module
from kingbus_node.source.checks import Replica
from kingbus_node.source.framing import Framer
from kingbus_node.source.link import Link
from kingbus_node.source.reader import BULK, LINGER, MISSED_HEARTBEATS, PATIENCE, SourceReader, SourceState
from kingbus_node.source.requests import semi_sync_ack

OUR_UUID = "77777777-e697-11f1-8268-02fc00000001"
HEARTBEAT = 5.0
"""Seconds. A source that is silent for some of these is given up: where none is to be, its thread may stand still."""
SHORT_HEARTBEAT = 0.1


class Setup:
    """A fake source, a log, and a reader that is stopped at the end."""

    def __init__(self, source: FakeSource, password_file: Path) -> None:
        self.source = source
        self.log = MemoryLog()
        self.password_file = password_file
        self.heartbeat = HEARTBEAT
        self.readers: list[SourceReader] = []

    def reader(self, *endpoints: Address, **settings: object) -> SourceReader:
        values: dict[str, object] = {
            "endpoints": endpoints or (self.source.endpoint,),
            "user": "repl",
            "password_file": self.password_file,
            "retry": {"initial": 0.01, "max": 0.05},
        }
        reader = SourceReader(
            SourceSettings.model_validate(values | settings),
            self.log,
            self.log,
            Replica(100, OUR_UUID, "kingbus", 3306),
            heartbeat=self.heartbeat,
        )
        self.log.add_commit_listener(reader.committed)
        self.readers.append(reader)
        return reader

    def started(self, *endpoints: Address, **settings: object) -> SourceReader:
        reader = self.reader(*endpoints, **settings)
        reader.start()
        return reader


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    yield from _setup(tmp_path, Flavor.MYSQL)


def _setup(tmp_path: Path, flavor: Flavor) -> Iterator[Setup]:
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    origin = Origin(flavor)
    origin.write(b"one")
    with FakeSource(origin) as source:
        setup = Setup(source, password)
        try:
            yield setup
        finally:
            for reader in setup.readers:
                assert reader.stop(60)


@pytest.fixture
def mariadb(tmp_path: Path) -> Iterator[Setup]:
    yield from _setup(tmp_path, Flavor.MARIADB)


def eventually(condition: Callable[[], object], what: str) -> None:
    wait_until(lambda: bool(condition()), 60, what, interval=0.002)


def is_connected(reader: SourceReader) -> Callable[[], bool]:
    return lambda: reader.status().state is SourceState.CONNECTED


def refusal(reader: SourceReader) -> str:
    """What a reader says once it is refused: the state is told a moment before the reason."""

    def told() -> str | None:
        status = reader.status()
        return status.error if status.state is SourceState.REFUSED else None

    return wait_until(told, 60, "a refusal", interval=0.002)


def holds_all(setup: Setup) -> Callable[[], bool]:
    return lambda: setup.log.files() == {file.name: file.bytes for file in setup.source.origin.files}


def test_a_reader_connects_and_the_log_holds_what_the_source_has(setup: Setup) -> None:
    reader = setup.reader()
    assert reader.status().state is SourceState.STOPPED
    reader.start()
    eventually(holds_all(setup), "the log to hold the files")
    eventually(lambda: reader.status().lag_seconds == 0, "all to be here")
    status = reader.status()
    assert (status.state, status.error, status.file, status.version) == ("connected", None, "binlog.000001", "9.7.4-2")
    assert status.position == setup.source.origin.files[0].end
    assert (status.transactions, status.reconnects, status.semi_sync) == (1, 0, False)
    assert setup.log.state.facts["source"] == {
        "flavor": "mysql",
        "version": "9.7.4-2",
        "identity": f"uuid:{setup.source.origin.server_uuid}",
        "server_id": 1,
        "server_uuid": str(setup.source.origin.server_uuid),
        "checksum": "CRC32",
        "row_metadata": "",
        "since_file": 1,
    }
    assert reader.stop()
    assert reader.status().state is SourceState.STOPPED


def test_a_mariadb_source_is_read_as_well(mariadb: Setup) -> None:
    mariadb.started()
    eventually(holds_all(mariadb), "the log to hold the files")


def test_a_mysql_source_is_asked_in_the_words_of_a_mysql_replica(setup: Setup) -> None:
    eventually(is_connected(setup.started()), "a connection")
    said = [text for text in setup.source.statements if "UTF8" not in text.upper()]
    assert said[:3] == [
        "SELECT UNIX_TIMESTAMP()",
        "SELECT @@GLOBAL.SERVER_ID",
        "SELECT @@GLOBAL.log_bin",
    ]
    period = int(HEARTBEAT * 1e9)
    assert f"SET @master_heartbeat_period = {period}, @source_heartbeat_period = {period}" in said
    assert f"SET @slave_uuid = '{OUR_UUID}', @replica_uuid = '{OUR_UUID}'" in said
    register = next(command for command in setup.source.commands if command[0] == 0x15)
    assert register == b"\x15\x64\0\0\0\x07kingbus\0\0\xea\x0c" + bytes(8)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"gtid_mode": "OFF"}, "gtid_mode = OFF: expected ON"),
        ({"gtid_mode": "ON_PERMISSIVE"}, "gtid_mode = ON_PERMISSIVE: expected ON"),
        ({"server_id": "100"}, "server_id 100, and so has this cluster"),
        ({"server_uuid": OUR_UUID.upper()}, "server_uuid"),
        ({"log_bin": "0"}, "writes no binlog"),
        ({"source_binlog_checksum": "ADLER"}, "binlog_checksum is 'ADLER'"),
        ({"gtid_executed": "nonsense"}, "GTIDs that cannot be read"),
    ],
)
def test_a_source_that_cannot_be_ours_is_refused_until_it_can(
    setup: Setup, variables: dict[str, str | None], words: str
) -> None:
    setup.source.variables = variables
    reader = setup.started()
    assert words in refusal(reader)
    assert not setup.log.entries
    setup.source.variables = {}
    eventually(is_connected(reader), "a connection")
    assert reader.status().error is None


def test_nobody_sees_half_of_a_change(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal without its reason, or a connection with one, would be told to people as it is."""
    seen: set[tuple[SourceState, str | None]] = set()

    def set_and_look(reader: SourceReader, name: str, value: object) -> None:
        object.__setattr__(reader, name, value)
        told = reader.status()
        seen.add((told.state, told.error))

    setup.source.variables = {"gtid_mode": "OFF"}
    reader = setup.started()
    monkeypatch.setattr(SourceReader, "__setattr__", set_and_look, raising=False)
    eventually(lambda: reader.status().state is SourceState.REFUSED, "a refusal")
    reason = reader.status().error
    setup.source.variables = {}
    eventually(is_connected(reader), "a connection")
    assert reason is not None
    assert seen <= {(SourceState.CONNECTING, None), (SourceState.REFUSED, reason), (SourceState.CONNECTED, None)}
    assert (SourceState.CONNECTED, None) in seen


def test_a_source_with_another_binlog_format_is_read_with_a_warning(setup: Setup) -> None:
    setup.source.variables = {"binlog_format": "MIXED"}
    reader = setup.started()
    eventually(is_connected(reader), "a connection")
    assert "binlog_format = MIXED" in reader.status().warnings[0]


def test_a_source_of_another_flavor_than_configured_is_refused(setup: Setup) -> None:
    reader = setup.started(flavor="mariadb")
    assert "source.flavor is mariadb" in refusal(reader)


def test_a_source_without_tls_is_refused_when_tls_is_required(setup: Setup) -> None:
    reader = setup.started(tls={"mode": "required"})
    assert "offers no TLS" in refusal(reader)


def test_a_wrong_password_is_refused_and_a_changed_file_is_read_again(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    setup.source.refusal = (1045, "Access denied for user 'repl'@'localhost' (using password: YES)")
    reader = setup.started()
    assert "Access denied" in refusal(reader)
    first = setup.source.logins[0]
    setup.password_file.write_text("better sesame\n")
    eventually(lambda: setup.source.logins[-1] != first, "another answer to the same challenge")
    setup.source.refusal = None
    eventually(is_connected(reader), "a connection")
    assert "sesame" not in caplog.text
    assert "sesame" not in repr(reader.status())


def test_a_password_file_that_is_missing_is_named(setup: Setup) -> None:
    setup.password_file.unlink()
    reader = setup.started()
    assert str(setup.password_file) in refusal(reader)


def test_a_password_is_never_sent_in_clear(setup: Setup) -> None:
    source = setup.source

    def ask_in_clear(sock: socket.socket) -> None:
        greeting = b"\x0a9.7.4\0" + bytes(4) + b"12345678\0\x05\xa2\x2d\x02\0\x0f\0\x15" + bytes(10) + b"123456789012\0"
        sock.sendall(len(greeting + b"mysql_clear_password\0").to_bytes(3, "little") + b"\0" + greeting)
        sock.sendall(b"mysql_clear_password\0")
        source.logins.append(sock.recv(1000))
        switch = b"\xfemysql_clear_password\0"
        sock.sendall(len(switch).to_bytes(3, "little") + b"\x02" + switch)
        source.logins.append(sock.recv(1000))

    source._login = ask_in_clear  # type: ignore[method-assign]
    reader = setup.started()
    assert "in clear" in refusal(reader)
    assert not any(b"sesame" in login for login in source.logins)


def test_a_source_that_goes_away_is_read_again_when_it_is_back(setup: Setup) -> None:
    reader = setup.started()
    eventually(is_connected(reader), "a connection")
    setup.source.origin.write(b"two")
    setup.source.cut()
    eventually(holds_all(setup), "the log to hold the files")
    eventually(lambda: reader.status().reconnects == 1, "one more connection")


def test_a_source_that_is_silent_counts_as_gone(setup: Setup) -> None:
    setup.heartbeat = SHORT_HEARTBEAT
    reader = setup.started()
    eventually(is_connected(reader), "a connection")
    setup.source.heartbeat = None
    errors: set[str | None] = set()

    def noticed() -> bool:
        errors.add(reader.status().error)
        return any(error is not None and "heartbeat" in error for error in errors)

    eventually(noticed, "silence to be noticed")
    setup.source.heartbeat = 0.05
    setup.source.origin.write(b"two")
    setup.source.cut()  # if it has connected again, it was sent what there was then
    eventually(holds_all(setup), "the log to hold the files")


def test_heartbeats_keep_an_idle_connection(setup: Setup) -> None:
    setup.heartbeat = 1.0  # so short that the silence would be noticed, and so long that no thread oversleeps it
    reader = setup.started()
    eventually(is_connected(reader), "a connection")
    began = time.monotonic()
    wait = (MISSED_HEARTBEATS + 1) * setup.heartbeat
    eventually(lambda: time.monotonic() > began + wait, "more periods to pass than may be missed")
    assert reader.status().state is SourceState.CONNECTED
    assert reader.status().reconnects == 0


def test_the_next_endpoint_is_tried_when_the_first_is_gone(setup: Setup) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen, nor does anybody else there as long as it is open
        gone = Address("127.0.0.1", nobody.getsockname()[1])
        reader = setup.started(gone, setup.source.endpoint)
        eventually(is_connected(reader), "a connection")
        assert reader.status().endpoint == setup.source.endpoint


def test_an_address_of_a_kind_that_the_kernel_lacks_is_passed_over(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with both kinds of addresses, IPv6 first, on a machine that was started without IPv6."""
    port = setup.source.endpoint.port
    without_ipv6(monkeypatch, port)
    reader = setup.started(Address("source.example", port))
    eventually(is_connected(reader), "a connection")
    assert reader.status().error is None


def test_an_endpoint_that_lacks_what_the_log_holds_is_refused_for_the_next(setup: Setup) -> None:
    reader = setup.started()
    eventually(holds_all(setup), "the log to hold the files")
    assert reader.stop()
    stale = Origin(Flavor.MYSQL, server_id=7)
    with FakeSource(stale) as other:
        reader = setup.started(other.endpoint, setup.source.endpoint)
        eventually(is_connected(reader), "a connection")
        assert reader.status().endpoint == setup.source.endpoint
        assert other.logins


@FLAVORS
def test_stop_and_start_go_on_where_the_log_ends(flavor: Flavor, tmp_path: Path) -> None:
    for setup in _setup(tmp_path, flavor):
        reader = setup.started()
        eventually(holds_all(setup), "the log to hold the files")
        assert reader.stop()
        entries = len(setup.log.entries)
        setup.source.origin.rotate()
        setup.source.origin.write(b"two")
        reader.start()
        eventually(holds_all(setup), "the log to hold the files")
        assert len(setup.log.entries) > entries


def test_stop_does_not_wait_for_a_source_that_says_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 300.0)
    setup.source.mute = True
    reader = setup.started()
    eventually(lambda: len(setup.source._connections) > 0, "a connection")
    assert reader.stop(60)


def test_a_lost_leadership_stops_the_reader_and_is_no_error(setup: Setup) -> None:
    setup.log.refusal = NotLeaderError("node-2")
    reader = setup.started()
    eventually(lambda: reader.status().state is SourceState.STOPPED, "the end of the thread")
    assert reader.status().error is None


def test_a_failed_log_stops_the_reader(setup: Setup) -> None:
    setup.log.refusal = ConsensusFailedError("the disk is broken")
    reader = setup.started()
    eventually(lambda: reader.status().state is SourceState.STOPPED, "the end of the thread")
    assert "the disk is broken" in (reader.status().error or "")


def test_a_purged_source_is_refused_with_what_is_missing(setup: Setup) -> None:
    setup.source.variables = {"gtid_purged": f"{setup.source.origin.server_uuid}:1"}
    reader = setup.started(start=f"{setup.source.origin.server_uuid}:2")
    assert refusal(reader)
    eventually(lambda: reader.status().missing, "what is missing")
    assert reader.status().missing == f"{setup.source.origin.server_uuid}:1"


# Semi-sync (promise 3: the acknowledgement goes out after the commit, never before)


def test_a_transaction_is_acknowledged_when_it_is_committed_and_not_before(setup: Setup) -> None:
    origin, source = setup.source.origin, setup.source
    source.semi_sync = True
    source.wanted = [origin.files[0].events[-1].data]
    setup.log.held_back = True
    reader = setup.started()
    eventually(holds_all(setup), "the log to hold the files")
    eventually(is_connected(reader), "a connection")
    assert reader.status().semi_sync
    began = time.monotonic()
    eventually(lambda: time.monotonic() > began + 0.3, "a while to pass")
    assert source.acks == []
    setup.log.release()
    eventually(lambda: source.acks, "an acknowledgement")
    eventually(lambda: reader.status().acks == 1, "it to be counted, which is done once it is sent")
    assert source.acks == [semi_sync_ack("binlog.000001", origin.files[0].end)[4:]]


def test_one_acknowledgement_covers_all_that_one_commit_made_durable(setup: Setup) -> None:
    origin, source = setup.source.origin, setup.source
    source.semi_sync = True
    for _ in range(20):
        origin.write(b"row")
    source.wanted = [event.data for event in origin.files[0].events if event.data[4] == 16]
    setup.started()
    eventually(lambda: source.acks, "an acknowledgement")
    assert source.acks == [semi_sync_ack("binlog.000001", origin.files[0].end)[4:]]


def test_what_is_repeated_after_a_cut_is_acknowledged_again(setup: Setup) -> None:
    origin, source = setup.source.origin, setup.source
    reader = setup.started(semi_sync=False)
    eventually(holds_all(setup), "the log to hold the files")
    assert reader.stop()
    source.statements.clear()
    source.semi_sync = True
    source.wanted = [origin.files[0].events[-1].data]
    setup.started()
    eventually(lambda: source.acks, "an acknowledgement")
    assert source.acks == [semi_sync_ack("binlog.000001", origin.files[0].end)[4:]]


def test_a_source_without_semi_sync_is_read_asynchronously(setup: Setup) -> None:
    reader = setup.started(semi_sync=True)
    eventually(is_connected(reader), "a connection")
    assert not reader.status().semi_sync
    assert not any("rpl_semi_sync" in text and text.startswith("SET") for text in setup.source.statements)


class Trickle:
    """A link that brings a burst, and then a little at a time for ever, each time just before it would be waited for
    in vain.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = 100.0
        self.arrived = BULK
        monkeypatch.setattr(reader_module, "time", SimpleNamespace(monotonic=lambda: self.clock))

    def receive_into(self, room: memoryview) -> int:
        count, self.arrived = min(self.arrived, len(room)), 0
        return count

    def more(self, timeout: float) -> bool:
        self.clock += 0.9 * timeout
        self.arrived = 1000
        return True


def test_a_trickle_behind_a_burst_does_not_hold_the_burst_up(monkeypatch: pytest.MonkeyPatch) -> None:
    link, framer = Trickle(monkeypatch), Framer(semi_sync=False)
    begun = link.clock
    taken = SourceReader._take(cast("Link", link), framer)
    assert BULK < taken < framer.portion
    assert link.clock - begun < PATIENCE + LINGER
