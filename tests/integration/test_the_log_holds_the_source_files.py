"""What a node stores is what the source has in its binlog files, byte for byte: promise 1, at the side of the source.

Here a reader and a log run in the test's own process, and the log is compared with the files on the source's disk (but
for the flag that says that a file is in use). Whatever happens to source, connection and reader meanwhile.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from servers.compatibility import Reads
from servers.fixtures import Pool
from servers.ingest import SEMI_SYNC, Ingest, Running
from servers.workload import PACKET_LIMIT, Workload

from kingbus_node.binlog.constants import FIRST_POSITION, HEADER_LENGTH
from kingbus_node.binlog.scan import EVENT_AT
from kingbus_node.demo.instance import REPLICATION_PASSWORD, Server
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until
from kingbus_node.source.reader import SourceState
from kingbus_node.store.entry import Flag
from kingbus_node.store.reader import LogReader

RELEASES = ("mysql-9.7", "mariadb-10.11", "mariadb-11.8")


def purge_to_last(source: Server) -> None:
    """Purge all files but the last. MariaDB keeps files for a while that its recovery would need."""
    last = source.binary_logs()[-1]

    def purged() -> bool:
        source.sql(f"PURGE BINARY LOGS TO '{last}'")
        return source.binary_logs() == [last]

    wait_until(purged, 60, f"all files before {last} to be purged")


@pytest.fixture(params=RELEASES)
def source(request: pytest.FixtureRequest, pool: Pool) -> Server:
    return pool.server(str(request.param), SEMI_SYNC[Flavor.MYSQL if "mysql" in request.param else Flavor.MARIADB])


@pytest.fixture
def ingest(tmp_path: Path, source: Server) -> Ingest:
    return Ingest(tmp_path / "ingest", source)


def executed(source: Server) -> str:
    name = "gtid_executed" if source.flavor is Flavor.MYSQL else "gtid_binlog_pos"
    return str(source.value(f"SELECT @@GLOBAL.{name}")).replace("\n", "")


@pytest.mark.parametrize("semi_sync", [False, True], ids=["asynchronous", "semi-sync"])
def test_all_kinds_of_events_are_stored_as_they_are(
    source: Server, ingest: Ingest, semi_sync: bool, reads: Reads
) -> None:
    work = Workload(source).create()
    work.everything()
    with ingest.running(semi_sync=semi_sync) as running:
        work.everything()
        source.sql("FLUSH BINARY LOGS")
        work.everything()
        running.wait_all()
        running.assert_holds_the_source_files()
        assert running.status().semi_sync is semi_sync
        assert (running.status().acks > 0) is semi_sync
        assert str(running.log.state.executed) == executed(source)
        assert running.status().reconnects == 0
    reads(source, "events of all kinds, semi-sync" if semi_sync else "events of all kinds")
    if source.flavor is Flavor.MYSQL:
        reads(source, "GTIDs with tags")  # Workload.tagged is one of the kinds


def test_every_event_is_found_at_its_position(source: Server, ingest: Ingest) -> None:
    """Also those of a newer MariaDB, which leaves log_pos at 0 within transactions; an entry holds many of these."""
    work = Workload(source).create()
    work.everything()
    with ingest.running() as running:
        running.wait_all()
        reader, stored = LogReader(running.log.directory), running.files()
        for file in reader.files():
            at, data = FIRST_POSITION, stored[file.source_name]
            while at < len(data):
                header = data[at : at + HEADER_LENGTH]
                index, offset = reader.locate(file.id, at)
                assert bytes(running.log.read(index).payload[offset + EVENT_AT :])[:HEADER_LENGTH] == header
                at += int.from_bytes(header[9:13], "little")


@pytest.mark.parametrize("semi_sync", [False, True], ids=["asynchronous", "semi-sync"])
def test_events_around_the_packet_limit_are_stored_as_they_are(source: Server, ingest: Ingest, semi_sync: bool) -> None:
    work = Workload(source).create()
    with ingest.running(semi_sync=semi_sync, tls={"mode": "disabled"}) as running:
        running.wait_for(SourceState.CONNECTED)
        work.event_sizes(tuple(PACKET_LIMIT + extra for extra in (-4, -3, -2, -1, 0, 1)))
        work.blobs((2 * PACKET_LIMIT, 50_000_000))
        work.small(3)
        running.wait_all()
        running.assert_holds_the_source_files()


def test_restarts_and_crashes_of_the_source_leave_no_gap(source: Server, ingest: Ingest, reads: Reads) -> None:
    work = Workload(source).create()
    with ingest.running() as running:
        for ending in (source.stop, source.kill, source.stop, source.kill):
            work.small(20)
            running.wait_all()
            ending()
            source.start()
            work.small(20)
        running.wait_all()
        running.assert_holds_the_source_files()
        assert str(running.log.state.executed) == executed(source)
        assert running.status().reconnects >= 4
    reads(source, "stopped, and crashed: its file ends without a ROTATE")


def test_a_source_killed_under_load_leaves_no_gap(source: Server, ingest: Ingest) -> None:
    work = Workload(source).create()
    with ingest.running() as running:
        for _ in range(3):
            running.wait_for(SourceState.CONNECTED)
            work.random_transactions(7, 60)
            source.kill()
            source.start()
        work.small(5)
        running.wait_all()
        running.assert_holds_the_source_files()


def test_cuts_anywhere_leave_no_gap(source: Server, pool: Pool, tmp_path: Path) -> None:
    work = Workload(source).create()
    work.everything()
    proxy = pool.proxy(source.port)
    ingest = Ingest(tmp_path / "ingest", source, port=proxy.port, entry_bytes=5_000)
    size = sum(int(str(row["File_size"])) for row in source.table("SHOW BINARY LOGS"))
    chance = random.Random(2)
    proxy.cut_after(iter([chance.randrange(2_000, size // 3) for _ in range(40)]))
    # MariaDB 11.8.6 can hang by itself when a semi-sync dump is cut: its thread stays "Killed, Waiting to finalize
    # termination" and no further dump begins. It has been seen with semi-sync only.
    semi_sync = source.flavor is Flavor.MYSQL
    with ingest.running(tls={"mode": "disabled"}, semi_sync=semi_sync) as running:
        running.wait_all()
        work.everything()
        running.wait_all()
        running.assert_holds_the_source_files()
        assert str(running.log.state.executed) == executed(source)
        assert running.status().reconnects >= 5


def test_a_reader_that_comes_back_later_leaves_no_gap(source: Server, ingest: Ingest) -> None:
    work = Workload(source).create()
    for round_ in range(3):
        with ingest.running() as running:
            work.everything()
            if round_ < 2:
                wait_until(lambda: running.status().transactions > 10, 60, "some transactions")
            else:
                running.wait_all()
                running.assert_holds_the_source_files()
        source.sql("FLUSH BINARY LOGS", "FLUSH BINARY LOGS")


def test_a_source_without_checksums_is_stored_as_it_is(source: Server, ingest: Ingest, reads: Reads) -> None:
    work = Workload(source).create()
    with ingest.running() as running:
        work.small(5)
        source.sql("SET GLOBAL binlog_checksum = NONE")
        work.everything()
        running.wait_all()
        source.sql("SET GLOBAL binlog_checksum = CRC32")
        work.small(5)
        running.wait_all()
        running.assert_holds_the_source_files()
    source.sql("SET GLOBAL binlog_checksum = NONE")
    with ingest.running() as running:
        work.small(5)
        running.wait_all()
        running.assert_holds_the_source_files()
    reads(source, "binlog_checksum=NONE, and changed while it is read")


def test_purged_files_are_left_out_and_count_as_purged(source: Server, ingest: Ingest) -> None:
    work = Workload(source).create()
    work.small(10)
    source.sql("FLUSH BINARY LOGS")
    before = executed(source)
    work.small(10)
    purge_to_last(source)
    with ingest.running() as running:
        running.wait_all()
        running.assert_holds_the_source_files()
        assert str(running.log.state.purged) == before
        assert str(running.log.state.executed) == executed(source)


def test_a_file_purged_at_the_source_while_nobody_read_is_no_loss_if_it_was_here(
    source: Server, ingest: Ingest
) -> None:
    work = Workload(source).create()
    with ingest.running() as running:
        work.small(10)
        running.wait_all()
    source.sql("FLUSH BINARY LOGS")
    work.small(10)
    purge_to_last(source)
    with ingest.running() as running:
        running.wait_all()
        running.assert_holds_the_source_files()
        assert str(running.log.state.executed) == executed(source)


def test_transactions_purged_at_the_source_are_a_refusal_that_names_them(source: Server, ingest: Ingest) -> None:
    work = Workload(source).create()
    with ingest.running() as running:
        running.wait_all()
    work.small(1)
    lost = executed(source)
    source.sql("FLUSH BINARY LOGS")
    work.small(1)
    purge_to_last(source)
    with ingest.running() as running:
        status = running.wait_for(SourceState.REFUSED)
        assert "purged" in (status.error or "")
        if source.flavor is Flavor.MYSQL:
            assert status.missing is not None
            assert status.missing.split(":")[-1] == lost.split("-")[-1]


def test_a_reset_source_is_refused(source: Server, ingest: Ingest) -> None:
    work = Workload(source).create()
    reset = "RESET BINARY LOGS AND GTIDS" if source.flavor is Flavor.MYSQL else "RESET MASTER"
    with ingest.running() as running:
        work.small(10)
        running.wait_all()
        held = running.files()
    source.sql(reset)
    with ingest.running() as running:
        assert "it lacks" in (running.wait_for(SourceState.REFUSED).error or "")
        work.small(40)  # as many transactions as before, and more, with the same numbers
        wait_until(lambda: "it lacks" not in (running.status().error or ""), 60, "another reason to refuse")
        assert running.status().state is SourceState.REFUSED
        assert running.files() == held


def test_current_and_a_gtid_set_as_start_begin_in_the_middle(source: Server, tmp_path: Path, reads: Reads) -> None:
    work = Workload(source).create()
    work.small(10)
    start = executed(source)
    work.small(10)
    with Ingest(tmp_path / "set", source).running(start=start) as running:
        running.wait_all()
        assert str(running.log.state.purged) == start
        assert str(running.log.state.executed) == executed(source)
        assert running.status().transactions == 10
    current = Ingest(tmp_path / "current", source)
    before = executed(source)
    with current.running(start="current") as running:
        running.wait_for(SourceState.CONNECTED)
    with current.running(start="current") as running:
        work.small(3)
        running.wait_all()
        assert str(running.log.state.purged) == before
        assert str(running.log.state.executed) == executed(source)
        assert running.status().transactions == 3
    reads(source, "start: current, and a GTID set, in the middle of a file")


def test_a_mysql_source_with_tls_is_verified_as_asked(pool: Pool, tmp_path: Path) -> None:
    source = pool.server("mysql-9.7")
    Workload(source).create().small(5)
    ingest = Ingest(tmp_path / "ingest", source)
    authority = source.data / "ca.pem"
    for mode in ("preferred", "required", "verify-ca"):
        with ingest.running(tls={"mode": mode, "ca": authority}) as running:
            running.wait_for(SourceState.CONNECTED)
            assert (running.status().tls or "").startswith("TLSv1")
            running.wait_all()
    with ingest.running(tls={"mode": "disabled"}) as running:
        running.wait_for(SourceState.CONNECTED)
        assert running.status().tls is None
    # The certificate that MySQL makes for itself names no host.
    with ingest.running(tls={"mode": "verify-identity", "ca": authority}) as running:
        assert "certificate" in (running.wait_for(SourceState.REFUSED).error or "")
    another = source.data / "server-cert.pem"
    with ingest.running(tls={"mode": "verify-ca", "ca": another}) as running:
        assert "certificate" in (running.wait_for(SourceState.REFUSED).error or "")


def test_an_account_without_the_privilege_is_refused_by_name(source: Server, ingest: Ingest) -> None:
    source.sql(f"CREATE USER nobody@'%' IDENTIFIED BY '{REPLICATION_PASSWORD}'")
    with ingest.running(user="nobody") as running:
        assert "REPLICATION SLAVE" in (running.wait_for(SourceState.REFUSED).error or "").upper()


def test_a_mysql_source_with_gtid_mode_off_is_refused(pool: Pool, tmp_path: Path) -> None:
    source = pool.server("mysql-9.7", {"gtid-mode": "OFF", "enforce-gtid-consistency": "OFF"})
    with Ingest(tmp_path / "ingest", source).running() as running:
        assert "gtid_mode = OFF" in (running.wait_for(SourceState.REFUSED).error or "")


@pytest.mark.parametrize("release", RELEASES[1:])
def test_an_encrypted_mariadb_binlog_is_stored_in_clear_at_the_same_positions(
    pool: Pool, tmp_path: Path, release: str
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("1;0123456789abcdef0123456789abcdef\n")
    source = pool.server(
        release,
        {
            "plugin-load-add": "file_key_management",
            "file-key-management-filename": str(keys),
            "encrypt-binlog": "ON",
        },
    )
    work = Workload(source).create()
    ingest = Ingest(tmp_path / "ingest", source)
    for _ in range(2):
        with ingest.running() as running:
            work.everything()
            running.wait_all()
            # The server adds a BINLOG_CHECKPOINT whenever it likes, maybe between the two looks.
            what = "the files to be as long as the source's"
            wait_until(lambda: sizes_in(running) == sizes_at(source), 60, what)


def sizes_in(running: Running) -> dict[str, int]:
    return {name: len(data) for name, data in running.files().items()}


def sizes_at(source: Server) -> dict[str, int]:
    return {str(row["Log_name"]): int(str(row["File_size"])) for row in source.table("SHOW BINARY LOGS")}


def test_a_transaction_of_a_gigabyte_passes_in_bounded_memory(pool: Pool, tmp_path: Path) -> None:
    source = pool.server("mysql-9.7", {"innodb-redo-log-capacity": "2G", "binlog-cache-size": "16M"})
    source.sql("CREATE DATABASE w", "CREATE TABLE w.t (id INT PRIMARY KEY, b LONGBLOB) ROW_FORMAT = DYNAMIC")
    ingest = Ingest(tmp_path / "ingest", source)
    with ingest.running(tls={"mode": "disabled"}) as running:
        running.wait_for(SourceState.CONNECTED)
        before = _resident()
        source.sql(
            "BEGIN",
            *(f"INSERT INTO w.t VALUES ({i}, REPEAT('b', 100000000))" for i in range(10)),
            "COMMIT",
        )
        most = before
        while not running.has_all():
            most = max(most, _resident())
        assert most - before < 250 << 20
        entries = [running.log.read(i) for i in range(running.log.last_index - 5, running.log.last_index + 1)]
        assert entries[-1].flags == Flag.LAST
        assert str(running.log.state.executed) == executed(source)


def _resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
